"""Mazes: MiniGrid's rules, level families and named held-out levels."""

from rlgen.envs.maze.env import Maze, MazeLevel
from rlgen.envs.maze.levels import FAMILIES, MazeLevels, parse_maze

__all__ = ["FAMILIES", "Maze", "MazeLevel", "MazeLevels", "parse_maze"]
