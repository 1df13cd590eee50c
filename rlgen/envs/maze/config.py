"""Settings of the maze family: environment, levels to train on, levels to hold out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

from rlgen.envs.config import HELDOUT_SEED
from rlgen.envs.grid.config import GridConfig, GridLevelsConfig
from rlgen.envs.grid.levels import GridLevels
from rlgen.envs.maze import named
from rlgen.envs.maze.env import Maze
from rlgen.envs.maze.levels import FAMILIES, MazeLevels
from rlgen.levels import LevelSet
from rlgen.ranges import Count, CountOrZero, Share


@dataclasses.dataclass(frozen=True)
class MazeLevelsConfig(GridLevelsConfig):
    """What an environment in mazes can be told about them.

    Attributes:
      levels: family to train on: uniform, perfect, rooms, caves or empty.
      min_walls, max_walls: number of walls of "uniform" levels.
      distinct_walls: no cell of them is drawn twice.
      rooms_per_side, door_probability: of "rooms".
      fill, smoothing_steps: of "caves".
      heldout: family of the held-out levels; "same" as the training levels, or
        uniform walls if those are empty.
    """

    levels: str = "uniform"
    min_walls: CountOrZero = 0
    max_walls: CountOrZero = 60
    distinct_walls: bool = True
    rooms_per_side: Count = 3
    door_probability: Share = 0.8
    fill: Share = 0.45
    smoothing_steps: CountOrZero = 1
    heldout: str = "same"

    FAMILIES: ClassVar[Mapping[str, type[MazeLevels]]] = FAMILIES
    FAMILY_FIELDS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "uniform": ("min_walls", "max_walls", "distinct_walls"),
        "rooms": ("rooms_per_side", "door_probability"),
        "caves": ("fill", "smoothing_steps"),
    }
    COUNTED: ClassVar[tuple[str, str, str]] = ("uniform", "min_walls", "max_walls")
    #: Where the named levels are: a module with `sizes` and `named_levels`.
    NAMED: ClassVar[ModuleType]

    def __post_init__(self):
        if self.heldout != "same":
            self._check_family("heldout", self.heldout)
        super().__post_init__()

    @property
    def _heldout_family(self) -> str:
        if self.heldout != "same":
            return self.heldout
        return "uniform" if self.levels == "empty" else self.levels

    @property
    def _used(self):
        return {self.levels, self._heldout_family}

    def _in_these(self, mazes: MazeLevels) -> GridLevels:
        """The environment's own levels in a family of mazes."""
        return mazes

    def heldout_space(self):
        return self.family(self._heldout_family, solvable=False)

    def heldout_sets(self):
        sets = super().heldout_sets()
        if self.eval_split == "validation":
            odd = self.height % 2 and self.width % 2
            for name in ("perfect", "rooms") if odd else ("rooms",):
                sets[name] = LevelSet.generate(
                    self._in_these(FAMILIES[name](self.height, self.width)),
                    min(self.n_heldout, 64),
                    seed=HELDOUT_SEED,
                    split="validation",
                    name=name,
                )
        elif (self.height, self.width) in self.NAMED.sizes():
            sets["named"] = self.named_set()
        return sets

    def named_set(self) -> LevelSet:
        """The named levels of this size; raises `LevelFileError` if there are none."""
        return self.NAMED.named_levels(self.height, self.width)

    def other_named(self):
        if self.fixes_size:
            return {}
        others: dict[str, tuple[Any, LevelSet]] = {}
        for height, width in self.NAMED.sizes():
            if (height, width) != (self.height, self.width):
                env: Any = self.make_env()
                env = dataclasses.replace(
                    env, height=height, width=width, max_steps=None
                )
                level_set = self.NAMED.named_levels(height, width)
                others[f"named {height}x{width}"] = (env, level_set)
        return others


@dataclasses.dataclass(frozen=True)
class MazeConfig(MazeLevelsConfig, GridConfig):
    """Everything that a maze experiment can be told about its levels."""

    ENV = Maze
    NAMED = named
