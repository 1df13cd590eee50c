"""Mazes: MiniGrid's rules, level families, mutators and named held-out levels."""

from rlgen.envs.maze.env import Maze, MazeLevel, MazeState
from rlgen.envs.maze.levels import FAMILIES, MazeLevels, parse_maze
from rlgen.envs.maze.mutators import Mutator

__all__ = [
    "FAMILIES",
    "Maze",
    "MazeLevel",
    "MazeLevels",
    "MazeState",
    "Mutator",
    "parse_maze",
]
