"""Settings of the maze family: environment, levels to train on, levels to hold out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from rlgen.envs.config import HELDOUT_SEED
from rlgen.envs.grid.config import GridConfig
from rlgen.envs.maze.env import Maze
from rlgen.envs.maze.levels import FAMILIES
from rlgen.envs.maze.named import named_levels, sizes
from rlgen.levels import LevelSet


@dataclasses.dataclass(frozen=True)
class MazeConfig(GridConfig):
    """Everything that a maze experiment can be told about its levels.

    Attributes:
      levels: family to train on: uniform, perfect, rooms, caves or empty.
      min_walls, max_walls: number of walls of "uniform" levels.
      rooms_per_side, door_probability: of "rooms".
      fill, smoothing_steps: of "caves".
      heldout: family of the held-out levels; "same" as the training levels, or
        uniform walls if those are empty.
    """

    levels: str = "uniform"
    min_walls: int = 0
    max_walls: int = 60
    rooms_per_side: int = 3
    door_probability: float = 0.8
    fill: float = 0.45
    smoothing_steps: int = 1
    heldout: str = "same"

    ENV = Maze
    FAMILIES = FAMILIES
    FAMILY_FIELDS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "uniform": ("min_walls", "max_walls"),
        "rooms": ("rooms_per_side", "door_probability"),
        "caves": ("fill", "smoothing_steps"),
    }

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

    def heldout_space(self):
        return self.family(self._heldout_family, solvable=False)

    def heldout_sets(self):
        sets = {
            "heldout": LevelSet.generate(
                self.heldout_space(),
                self.n_heldout,
                seed=HELDOUT_SEED,
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
                    seed=HELDOUT_SEED,
                    split="validation",
                    name=name,
                )
        elif (self.height, self.width) in sizes():
            sets["named"] = self.named_set()
        return sets

    def named_set(self) -> LevelSet:
        """The named levels of this size; raises `LevelFileError` if there are none."""
        return named_levels(self.height, self.width)

    def other_named(self):
        # The full view fixes the size of the network's input.
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
