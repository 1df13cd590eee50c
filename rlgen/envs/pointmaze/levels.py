"""Levels of point mazes: those of a family of mazes, without a direction."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import jax
import numpy as np

from rlgen.envs.grid.levels import GridLevels, read_cells
from rlgen.envs.grid.tiles import Tile
from rlgen.envs.maze.levels import Empty, MazeLevels
from rlgen.envs.pointmaze.env import PointMazeLevel
from rlgen.errors import UserError


@dataclasses.dataclass(frozen=True)
class PointMazeLevels(GridLevels[PointMazeLevel]):
    """Point mazes with the walls, starts and goals of a family of mazes.

    Attributes:
      mazes: the family.
    """

    mazes: MazeLevels = Empty()

    LEVEL = PointMazeLevel
    START_CHARS = "S"

    def __post_init__(self):
        if (self.mazes.height, self.mazes.width) != (self.height, self.width):
            raise UserError(
                f"Mazes of {self.mazes.height}x{self.mazes.width} are no point mazes "
                f"of {self.height}x{self.width}: make them with PointMazeLevels.of."
            )

    @classmethod
    def of(cls, mazes: MazeLevels) -> Self:
        """Point mazes of the same size and with the same settings as `mazes`."""
        return cls(mazes.height, mazes.width, mazes.solvable, mazes.mutator, mazes)

    @property
    def block_range(self):
        return self.mazes.block_range

    def draw(self, key: jax.Array) -> PointMazeLevel:
        maze = self.mazes.draw(key)
        return PointMazeLevel(walls=maze.walls, goal=maze.goal, start=maze.start)

    @classmethod
    def parse(cls, text: str) -> PointMazeLevel:
        return parse_point_maze(text)

    def example(self) -> PointMazeLevel:
        maze = self.mazes.example()
        return PointMazeLevel(walls=maze.walls, goal=maze.goal, start=maze.start)


def empty(height: int, width: int) -> PointMazeLevels:
    """The family of a size that says nothing of walls: to wrap levels of that size."""
    return PointMazeLevels.of(Empty(height, width))


def point_maze(walls: Any, start: Any, goal: Any) -> PointMazeLevel:
    """A level from walls [H, W] and two cells (row, column), as host arrays."""
    leaves: dict[str, Any] = {
        "walls": np.asarray(walls, bool),
        "start": np.asarray(start, np.int32),
        "goal": np.asarray(goal, np.int32),
    }
    return PointMazeLevel(**leaves)


def parse_point_maze(text: str) -> PointMazeLevel:
    """Reads a point maze of any size from its text form.

    Raises:
      LevelFileError: ragged rows, unknown characters, or not exactly one goal and
        one start.
    """
    tiles, goal, start, _ = read_cells(
        text, PointMazeLevel.KINDS, PointMazeLevels.START_CHARS
    )
    return point_maze(tiles == Tile.WALL, start, goal)
