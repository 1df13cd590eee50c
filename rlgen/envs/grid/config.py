"""Settings that every family of grid worlds shares."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from rlgen.envs.grid.editor import GridEditor
from rlgen.envs.grid.env import GridEnv
from rlgen.envs.grid.levels import GridLevels
from rlgen.envs.grid.mutators import Mutator
from rlgen.errors import UserError
from rlgen.levels import LevelSet, assert_disjoint, check_dataset

# Held-out sets are the same for every run, whatever its seed.
HELDOUT_SEED = 20_240_613


@dataclasses.dataclass(frozen=True)
class GridConfig(abc.ABC):
    """What a grid world can be told about itself and its levels.

    Attributes:
      height, width: cells, without the border of walls.
      view_size: odd side of the egocentric view, or "full".
      see_through_walls: whether walls hide what is behind them.
      max_steps: time limit; 0 scales 250 steps for 13x13 with the area.
      actions: "minimal" (left, right, forward) or "minigrid" (seven).
      levels: family that new levels come from.
      solvable: new levels are solvable ones only.
      dataset: given levels to train on: the name of a set that ships, or a file.
      reference: given levels that diagnostics compare with where none are trained on.
      n_edits, change_cell, move_goal, move_start, no_op: see `Mutator`.
      n_heldout: number of held-out levels of a set, at most.
      eval_split: "test" reports; "validation" is for choosing settings.
    """

    height: int = 13
    width: int = 13
    view_size: int | Literal["full"] = 5
    see_through_walls: bool = True
    max_steps: int = 0
    actions: str = "minimal"
    levels: str = ""
    solvable: bool = False
    dataset: str = ""
    reference: str = ""
    n_edits: int = 5
    change_cell: float = 1.0
    move_goal: float = 1.0
    move_start: float = 0.0
    no_op: float = 0.0
    n_heldout: int = 256
    eval_split: str = "test"

    ENV: ClassVar[type[GridEnv]]
    FAMILIES: ClassVar[Mapping[str, type[GridLevels]]]
    #: Settings that mean something for one family only.
    FAMILY_FIELDS: ClassVar[Mapping[str, tuple[str, ...]]]

    def __post_init__(self):
        self._check_family("levels", self.levels)
        if self.eval_split not in ("test", "validation"):
            raise UserError(
                f"Unknown eval_split {self.eval_split!r}: choose test or validation."
            )
        if self.n_heldout < 1:
            raise UserError(f"n_heldout is {self.n_heldout}: choose at least 1.")
        for family, fields in self.FAMILY_FIELDS.items():
            for name in fields:
                default = type(self).__dataclass_fields__[name].default
                if family not in self._used and getattr(self, name) != default:
                    raise UserError(
                        f"{name} has no effect on {self.levels} levels: leave it out "
                        f"or choose levels={family}."
                    )
        if self.dataset and self.reference:
            raise UserError(
                "With a dataset, diagnostics compare with that: leave reference out."
            )
        self.make_env()
        for family in self._used:
            self.family(family)

    def _check_family(self, name: str, value: str) -> None:
        if value not in self.FAMILIES:
            raise UserError(
                f"Unknown {name} {value!r}: choose {', '.join(self.FAMILIES)}."
            )

    @property
    def _used(self) -> set[str]:
        """Families that these settings draw from."""
        return {self.levels}

    def make_env(self) -> Any:
        """The environment."""
        return self.ENV(
            height=self.height,
            width=self.width,
            view_size=self.view_size,
            see_through_walls=self.see_through_walls,
            max_steps=self.max_steps or None,
            actions=self.actions,
        )

    def make_space(self) -> GridLevels:
        """The family that new levels come from."""
        return self.family(self.levels)

    def make_editor(self, n_blocks: int, noise_size: int) -> GridEditor:
        """The environment in which a teacher builds levels like these."""
        return GridEditor(self.make_space(), n_blocks, noise_size)

    def family(self, name: str, **changes: Any) -> GridLevels:
        """A family of levels of this size, with the settings that belong to it."""
        mutator = Mutator(
            n_edits=self.n_edits,
            change_cell=self.change_cell,
            move_goal=self.move_goal,
            move_start=self.move_start,
            no_op=self.no_op,
        )
        fields = {f: getattr(self, f) for f in self.FAMILY_FIELDS.get(name, ())}
        shared: dict[str, Any] = {"height": self.height, "width": self.width}
        shared |= {"solvable": self.solvable, "mutator": mutator}
        return self.FAMILIES[name](**shared | fields | changes)

    def heldout_space(self) -> GridLevels:
        """The family that held-out levels are drawn from.

        It may draw unsolvable ones: `LevelSet.generate` keeps what can be solved.
        """
        return self.family(self.levels, solvable=False)

    def training_set(self) -> LevelSet | None:
        """The given levels to train on, checked; None without a dataset.

        Raises:
          UserError: no such file or set, levels of another size, twice the same level,
            an unsolvable level, or one that is held out.
        """
        return _given_set(self, self.dataset) if self.dataset else None

    def reference_set(self) -> LevelSet | None:
        """What diagnostics compare with: the dataset, else `reference`, else None.

        Raises:
          UserError: as `training_set`.
        """
        name = self.dataset or self.reference
        return _given_set(self, name) if name else None

    def load_set(self, name: str) -> LevelSet:
        """A level set by name or path."""
        return LevelSet.load(name, self.make_space())

    def recipes(self) -> tuple[str, ...]:
        """Names of the level sets that `make_sets` can make."""
        return ()

    def make_sets(
        self,
        names: tuple[str, ...],
        folder: Path,
        jobs: int,
        on_progress: Callable[[str, int, int], None],
    ) -> dict[str, Path]:
        """Makes level sets, each one of `recipes`, in a folder; returns their paths.

        Args:
          jobs: processes.
          on_progress: called with what is being made, how much is done, of how much.
        """
        raise NotImplementedError(f"{type(self).__name__} has no recipes.")

    def sized_for(self, name: str) -> Self:
        """These settings with the size of a set that `make_sets` makes."""
        del name
        return self

    def named_set(self) -> LevelSet:
        """The named levels of this size.

        Raises:
          UserError: there are none.
        """
        raise UserError(
            f"{self.ENV.__name__} has no named levels: leave named out or load a set "
            "with --load."
        )

    def eval_sets(self) -> dict[str, LevelSet]:
        """Levels by name that training evaluates on: held-out ones, and with a dataset
        its own levels, to measure the generalization gap.
        """
        return dict(_eval_sets(self))

    @abc.abstractmethod
    def heldout_sets(self) -> dict[str, LevelSet]:
        """Makes the held-out levels, by name; `eval_sets` remembers them."""

    def other_named(self) -> dict[str, tuple[Any, LevelSet]]:
        """Held-out levels of other sizes, each with the environment to play them in."""
        return {}


@functools.cache
def _given_set(config: GridConfig, name: str) -> LevelSet:
    level_set = config.load_set(name)
    check_dataset(level_set, config.make_space())
    assert_disjoint(level_set, *_heldout_sets(config).values())
    return level_set


@functools.cache
def _heldout_sets(config: GridConfig) -> dict[str, LevelSet]:
    """Made once in a process: they can be several seconds' work."""
    return config.heldout_sets()


@functools.cache
def _eval_sets(config: GridConfig) -> dict[str, LevelSet]:
    sets = {}
    training_set = config.training_set()
    if training_set is not None:
        sets["train"] = dataclasses.replace(
            training_set.thin(config.n_heldout), name="train", split="train"
        )
    return sets | _heldout_sets(config)
