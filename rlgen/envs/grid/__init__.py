"""What grid worlds share: tiles, views, paths, dynamics, levels, edits, pictures."""

from rlgen.envs.grid.env import GridEnv, GridLevel, GridState
from rlgen.envs.grid.levels import GridLevels
from rlgen.envs.grid.mutators import Mutator
from rlgen.envs.grid.tiles import Tile

__all__ = ["GridEnv", "GridLevel", "GridLevels", "GridState", "Mutator", "Tile"]
