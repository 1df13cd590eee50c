"""Point mazes: a ball is pushed to a goal through mazes of any family."""

from rlgen.envs.pointmaze.controllers import Waypoints
from rlgen.envs.pointmaze.env import PointMaze, PointMazeLevel, PointMazeState
from rlgen.envs.pointmaze.levels import PointMazeLevels, parse_point_maze

__all__ = [
    "PointMaze",
    "PointMazeLevel",
    "PointMazeLevels",
    "PointMazeState",
    "Waypoints",
    "parse_point_maze",
]
