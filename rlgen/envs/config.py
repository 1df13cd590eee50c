"""Settings that every family of environments shares."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

from rlgen import draws
from rlgen.datasets import Recording
from rlgen.env import Controller, Editor, Env
from rlgen.errors import UserError
from rlgen.levels import LevelSet, LevelSpace, assert_disjoint, check_dataset
from rlgen.ranges import Count, Settings

# Held-out sets are the same for every run, whatever its seed.
HELDOUT_SEED = 20_240_613

#: Levels of a crafted shift: its family, the environment to play them in (None for the
#: one of training), and the levels.
ShiftedLevels = tuple[str, Env | None, LevelSet]


@dataclasses.dataclass(frozen=True)
class EnvConfig(Settings, abc.ABC):
    """What any environment can be told about the levels of an experiment.

    Attributes:
      levels: family that new levels come from.
      solvable: new levels are solvable ones only.
      dataset: given levels to train on: the name of a set that ships, or a file.
      reference: given levels that diagnostics compare with where none are trained on.
      n_heldout: number of held-out levels of a set, at most.
      eval_split: "test" reports; "validation" is for choosing settings.
    """

    levels: str = ""
    solvable: bool = False
    dataset: str = ""
    reference: str = ""
    n_heldout: Count = 256
    eval_split: str = "test"

    FAMILIES: ClassVar[Mapping[str, type[LevelSpace]]]
    #: Settings that mean something for one family only.
    FAMILY_FIELDS: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    #: Settings that students need here, where an algorithm has them: above a preset,
    #: beneath whatever is asked for.
    ADVICE: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __post_init__(self):
        super().__post_init__()
        draws.settle()
        self._check_family("levels", self.levels)
        if self.eval_split not in ("test", "validation"):
            raise UserError(
                f"Unknown eval_split {self.eval_split!r}: choose test or validation."
            )
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

    @abc.abstractmethod
    def make_env(self) -> Env:
        """The environment."""

    def make_space(self) -> LevelSpace:
        """The family that new levels come from."""
        return self.family(self.levels)

    def make_editor(self, n_blocks: int, noise_size: int) -> Editor:
        """The environment in which a teacher builds levels like these.

        Raises:
          UserError: there is none.
        """
        del n_blocks, noise_size
        raise UserError(
            f"{type(self.make_env()).__name__} has no editor for a teacher: choose "
            "another environment."
        )

    def family(self, name: str, **changes: Any) -> LevelSpace:
        """A family of levels of this size, with the settings that belong to it.

        By default those that its fields share a name with.
        """
        kind: Any = self.FAMILIES[name]
        ours = {field.name for field in dataclasses.fields(self)}
        shared = [f.name for f in dataclasses.fields(kind) if f.name in ours]
        return kind(**{f: getattr(self, f) for f in shared} | changes)

    def heldout_space(self) -> LevelSpace:
        """The family that held-out levels are drawn from.

        It may draw unsolvable ones: `LevelSet.generate` keeps what can be solved.
        """
        return self.family(self.levels)

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

    def read_levels(self, name: str) -> tuple[Env, LevelSpace, LevelSet]:
        """A level set by name or path, and what to play it in and read it with.

        Raises:
          UserError: no such set, or levels that the environment cannot be of.
        """
        return self.make_env(), self.make_space(), self.load_set(name)

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
            f"{type(self.make_env()).__name__} has no named levels: leave named out or "
            "load a set with --load."
        )

    def eval_sets(self) -> dict[str, LevelSet]:
        """Levels by name that training evaluates on: held-out ones, and with a dataset
        its own levels, to measure the generalization gap.
        """
        return dict(_eval_sets(self))

    def heldout_sets(self) -> dict[str, LevelSet]:
        """Makes the held-out levels, by name; `eval_sets` remembers them."""
        return {"heldout": self.held_out("heldout", self.heldout_space())}

    def held_out(self, name: str, space: LevelSpace) -> LevelSet:
        """Solvable levels of a family that are of the split to evaluate on.

        Raises:
          UserError: the family holds fewer than `n_heldout` of them.
        """
        return LevelSet.generate(
            space, self.n_heldout, seed=HELDOUT_SEED, split=self.eval_split, name=name
        )

    def validation_set(self, n_levels: int) -> LevelSet:
        """At most `n_levels` levels like those of training, of the validation split.

        Fewer are the first of more where they are drawn.

        Raises:
          UserError: the family holds fewer.
        """
        return LevelSet.generate(
            self.heldout_space(),
            n_levels,
            seed=HELDOUT_SEED,
            split="validation",
            name="validation",
        )

    def shifts(self, n_levels: int, seed: int) -> dict[str, ShiftedLevels]:
        """Levels unlike those of training by name, to choose settings by; or none.

        All are of the validation split, whatever `eval_split` is.

        Args:
          n_levels: of each, at most.
          seed: of what is drawn.
        """
        del n_levels, seed
        return {}

    def controllers(self) -> Mapping[str, Controller]:
        """Scripted agents by name, for `rlgen collect` to record; none by default."""
        return {}

    def recordings(self) -> Mapping[str, Callable[[int, int], Recording]]:
        """Ways of recording of its own, by name: from steps and a seed to episodes."""
        return {}

    def other_named(self) -> dict[str, tuple[Any, LevelSet]]:
        """Held-out levels of other sizes, each with the environment to play them in."""
        return {}


@functools.cache
def _given_set(config: EnvConfig, name: str) -> LevelSet:
    level_set = config.load_set(name)
    check_dataset(level_set, config.make_space())
    assert_disjoint(level_set, *_heldout_sets(config).values())
    return level_set


@functools.cache
def _heldout_sets(config: EnvConfig) -> dict[str, LevelSet]:
    """Made once in a process: they can be several seconds' work."""
    return config.heldout_sets()


@functools.cache
def _eval_sets(config: EnvConfig) -> dict[str, LevelSet]:
    sets = {}
    training_set = config.training_set()
    if training_set is not None:
        sets["train"] = dataclasses.replace(
            training_set.thin(config.n_heldout), name="train", split="train"
        )
    return sets | _heldout_sets(config)
