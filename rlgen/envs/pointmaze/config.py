"""Settings of point mazes: environment, levels to train on, levels to hold out."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

from rlgen.envs.maze.config import MazeLevelsConfig
from rlgen.envs.pointmaze import named, stitching
from rlgen.envs.pointmaze.controllers import Waypoints
from rlgen.envs.pointmaze.env import PointMaze
from rlgen.envs.pointmaze.levels import PointMazeLevels
from rlgen.ranges import Count, CountOrZero


@dataclasses.dataclass(frozen=True)
class PointMazeConfig(MazeLevelsConfig):
    """Everything that an experiment with point mazes can be told.

    Attributes:
      max_walls: of "uniform" levels; 0 scales 60 walls for 13x13 with the area.
      view: what is seen of the maze: none, near (5x5 cells) or all.
      reward: sparse (1 at the goal, which ends the episode) or dense.
      max_steps: time limit; 0 is 10 steps for each cell.
    """

    height: Count = 7
    width: Count = 7
    max_walls: CountOrZero = 0
    view: Literal["none", "near", "all"] = "none"
    reward: Literal["sparse", "dense"] = "sparse"
    max_steps: CountOrZero = 0

    NAMED = named

    @property
    def fixes_size(self):
        return self.view == "all"

    def make_env(self) -> PointMaze:
        return PointMaze(
            self.height, self.width, self.view, self.reward, self.max_steps or None
        )

    def family(self, name: str, **changes: Any) -> PointMazeLevels:
        if name == "uniform" and not self.max_walls:
            scaled = round(60 * self.height * self.width / 169)
            changes = {"max_walls": max(scaled, self.min_walls)} | changes
        mazes: Any = super().family(name, **changes)
        return PointMazeLevels.of(mazes)

    def _in_these(self, mazes):
        return PointMazeLevels.of(mazes)

    def controllers(self):
        return {"waypoints": Waypoints(), "waypoints-exact": Waypoints(noise=0.0)}

    def recordings(self):
        """Mazes in pieces (see `stitching`): of a named maze, or of new ones."""
        return {
            f"stitch-{name}": functools.partial(stitching.record, self, name)
            for name in ("umaze", "medium", "large", "levels")
        }
