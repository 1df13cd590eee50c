"""Settings of the maze family: environment, levels to train on, levels to hold out."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

from rlgen.envs.grid.mutators import Mutator
from rlgen.envs.maze.env import Maze
from rlgen.envs.maze.levels import FAMILIES, MazeLevels
from rlgen.envs.maze.named import named_levels, sizes
from rlgen.errors import UserError
from rlgen.levels import LevelSet

# Settings that mean something for one family only.
_FAMILY_FIELDS = {
    "uniform": ("min_walls", "max_walls"),
    "rooms": ("rooms_per_side", "door_probability"),
    "caves": ("fill", "smoothing_steps"),
}

# Held-out sets are the same for every run, whatever its seed.
_HELDOUT_SEED = 20_240_613


@dataclasses.dataclass(frozen=True)
class MazeConfig:
    """Everything that a maze experiment can be told about its levels.

    Attributes:
      height, width: cells, without the border of walls.
      view_size: odd side of the egocentric view, or "full".
      see_through_walls: whether walls hide what is behind them.
      max_steps: time limit; 0 scales 250 steps for 13x13 with the area.
      actions: "minimal" (left, right, forward) or "minigrid" (seven).
      levels: family to train on: uniform, perfect, rooms, caves or empty.
      solvable: train on solvable levels only.
      min_walls, max_walls: number of walls of "uniform" levels.
      rooms_per_side, door_probability: of "rooms".
      fill, smoothing_steps: of "caves".
      n_edits, change_cell, move_goal, move_start, no_op: see `Mutator`.
      heldout: family of the held-out levels; "same" as the training levels.
      n_heldout: number of held-out levels.
      eval_split: "test" reports; "validation" (with perfect mazes and rooms beside)
        is for choosing settings.
    """

    height: int = 13
    width: int = 13
    view_size: int | Literal["full"] = 5
    see_through_walls: bool = True
    max_steps: int = 0
    actions: str = "minimal"
    levels: str = "uniform"
    solvable: bool = False
    min_walls: int = 0
    max_walls: int = 60
    rooms_per_side: int = 3
    door_probability: float = 0.8
    fill: float = 0.45
    smoothing_steps: int = 1
    n_edits: int = 5
    change_cell: float = 1.0
    move_goal: float = 1.0
    move_start: float = 0.0
    no_op: float = 0.0
    heldout: str = "same"
    n_heldout: int = 256
    eval_split: str = "test"

    def __post_init__(self):
        for name, value in (("levels", self.levels), ("heldout", self.heldout)):
            if value not in FAMILIES and (name, value) != ("heldout", "same"):
                raise UserError(
                    f"Unknown {name} {value!r}: choose {', '.join(FAMILIES)}."
                )
        if self.eval_split not in ("test", "validation"):
            raise UserError(
                f"Unknown eval_split {self.eval_split!r}: choose test or validation."
            )
        if self.n_heldout < 1:
            raise UserError(f"n_heldout is {self.n_heldout}: choose at least 1.")
        used = {self.levels, self.heldout}
        for family, fields in _FAMILY_FIELDS.items():
            for name in fields:
                default = type(self).__dataclass_fields__[name].default
                if family not in used and getattr(self, name) != default:
                    raise UserError(
                        f"{name} has no effect on {self.levels} levels: leave it out "
                        f"or choose levels={family}."
                    )
        self.make_env()
        self.make_space()
        self._family(self.heldout if self.heldout != "same" else self.levels)

    def make_env(self) -> Maze:
        """The environment."""
        return Maze(
            height=self.height,
            width=self.width,
            view_size=self.view_size,
            see_through_walls=self.see_through_walls,
            max_steps=self.max_steps or None,
            actions=self.actions,
        )

    def make_space(self) -> MazeLevels:
        """The family of levels to train on."""
        return self._family(self.levels)

    def _family(self, name: str, **changes: Any) -> MazeLevels:
        fields = {f: getattr(self, f) for f in _FAMILY_FIELDS.get(name, ())}
        mutator = Mutator(
            n_edits=self.n_edits,
            change_cell=self.change_cell,
            move_goal=self.move_goal,
            move_start=self.move_start,
            no_op=self.no_op,
        )
        return FAMILIES[name](
            **{
                "height": self.height,
                "width": self.width,
                "solvable": self.solvable,
                "mutator": mutator,
            }
            | fields
            | changes
        )

    def heldout_space(self) -> MazeLevels:
        """The family that held-out levels come from.

        It may draw unsolvable ones: `LevelSet.generate` keeps what can be solved.
        """
        name = self.levels if self.heldout == "same" else self.heldout
        return self._family(name, solvable=False)

    def eval_sets(self) -> dict[str, LevelSet]:
        """Held-out levels by name: what training evaluates on and never trains on."""
        return dict(_eval_sets(self))

    def _make_eval_sets(self) -> dict[str, LevelSet]:
        sets = {
            "heldout": LevelSet.generate(
                self.heldout_space(),
                self.n_heldout,
                seed=_HELDOUT_SEED,
                split=self.eval_split,
                name="heldout",
            )
        }
        if self.eval_split == "validation":
            odd = self.height % 2 and self.width % 2
            for name in ("perfect", "rooms") if odd else ("rooms",):
                sets[name] = LevelSet.generate(
                    FAMILIES[name](self.height, self.width),
                    min(self.n_heldout, 64),
                    seed=_HELDOUT_SEED,
                    split="validation",
                    name=name,
                )
        elif (self.height, self.width) in sizes():
            sets["named"] = self.named_set()
        return sets

    def named_set(self) -> LevelSet:
        """The named levels of this size; raises `LevelFileError` if there are none."""
        return named_levels(self.height, self.width)

    def other_named(self) -> dict[str, tuple[Maze, LevelSet]]:
        """Named levels of other sizes, each with the environment to play them in.

        The full view fixes the size of the network's input, so it has none.
        """
        if self.view_size == "full":
            return {}
        others = {}
        for height, width in sizes():
            if (height, width) != (self.height, self.width):
                env = dataclasses.replace(
                    self.make_env(), height=height, width=width, max_steps=None
                )
                others[f"named {height}x{width}"] = (env, named_levels(height, width))
        return others


@functools.cache
def _eval_sets(config: MazeConfig) -> dict[str, LevelSet]:
    """The sets of a configuration: made once in a process, several seconds' work."""
    return config._make_eval_sets()
