"""Validation levels on grids that are unlike those of training: see `EnvConfig.shifts`.

Mazes, caves and point mazes share them. All are of the validation split.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import numpy as np

from rlgen.env import take
from rlgen.envs.config import ShiftedLevels
from rlgen.errors import UserError
from rlgen.levels import LevelSet, LevelSpace

if TYPE_CHECKING:
    from rlgen.envs.grid.config import GridLevelsConfig

# With more blocks than this share of cells hardly any level can be solved: uniform
# walls leave no way through a large grid from about 0.41 on (site percolation).
_FULL = 0.45
# Sides relative to those of training, and the shortest side that is still a maze.
_SIZES = {"smaller": 0.7, "larger": 1.4}
_SHORTEST = 5


def grid_shifts(
    config: GridLevelsConfig, n_levels: int, seed: int
) -> dict[str, ShiftedLevels]:
    """Fewer and more blocks, near and far goals, smaller and larger grids.

    Args:
      config: settings of the environment.
      n_levels: of each, at most.
      seed: of what is drawn.

    Returns:
      what there is of these: observations may fix the size, and levels that are full
      of walls already cannot be denser.
    """
    return (
        _density(config, n_levels, seed)
        | _distance(config, n_levels)
        | _size(config, n_levels, seed)
    )


def _draw(space: LevelSpace, n: int, seed: int, name: str) -> LevelSet:
    return LevelSet.generate(space, n, seed=seed, split="validation", name=name)


def _features(config: GridLevelsConfig, level_set: LevelSet) -> dict[str, np.ndarray]:
    features = jax.jit(jax.vmap(config.make_space().features))(level_set.levels)
    return {name: np.asarray(value) for name, value in features.items()}


def blocks_of_training(config: GridLevelsConfig) -> tuple[int, int]:
    """Fewest and most cells that are not free in levels like those of training.

    By the family's own settings; where it has none (rooms, perfect mazes) or levels are
    given, as counted on 256 validation levels.
    """
    known = config.heldout_space().block_range
    if known is not None and not config.dataset:
        return known
    features = _features(config, config.validation_set(256))
    counts = sum(x for name, x in features.items() if name.startswith("n_"))
    return int(np.min(counts)), int(np.max(counts))


def _density(config, n_levels, seed) -> dict[str, ShiftedLevels]:
    family, fewest, most = config.COUNTED
    least, dense = blocks_of_training(config)
    full = int(_FULL * config.height * config.width)
    # Where training has levels without any, the sparsest tenth stands for fewer.
    ranges = {"sparser": (0, max(least - 1, dense // 10))}
    if dense < full:
        ranges["denser"] = (dense + 1, full)
    sets = {}
    for name, (low, high) in ranges.items():
        space = config.family(family, solvable=False, **{fewest: low, most: high})
        level_set = _draw(space, n_levels, seed, name)
        sets[name] = ("wall density", None, level_set)
    return sets


def _distance(config, n_levels) -> dict[str, ShiftedLevels]:
    """Thirds of levels like those of training: the nearest and the farthest goals."""
    pool = config.validation_set(3 * n_levels)
    order = np.argsort(_features(config, pool)["path_length"], kind="stable")
    third = len(pool) // 3
    if not third:
        return {}
    sets = {}
    for name, rows in (("nearer", order[:third]), ("farther", order[-third:])):
        level_set = dataclasses.replace(
            pool,
            name=name,
            levels=take(pool.levels, rows),
            hashes=pool.hashes[rows],
            labels=tuple(pool.labels[row] for row in rows),
        )
        sets[name] = ("start-goal distance", None, level_set)
    return sets


def _size(config, n_levels, seed) -> dict[str, ShiftedLevels]:
    sets = {}
    for name, factor in {} if config.fixes_size else _SIZES.items():
        sides = [_resized(side, factor) for side in (config.height, config.width)]
        if min(sides) < _SHORTEST:
            continue
        try:
            other = config.resized(*sides)
        except UserError:  # many rooms, say, do not fit a smaller grid
            continue
        level_set = _draw(other.heldout_space(), n_levels, seed, name)
        sets[name] = ("size", other.make_env(), level_set)
    return sets


def _resized(side: int, factor: float) -> int:
    """A side about so many times as long; odd ones stay odd, as mazes need it."""
    new = round(side * factor)
    if (new - side) % 2:
        new += 1 if factor > 1 else -1  # away from the side that trains
    return new
