"""Goal, moss, lava and start on a layout, so that the floor hints at the goal.

After Garcin et al. 2024 (Cave Escape): moss is likelier near the goal, lava far from
it, and the start lies at the median distance. NumPy: levels are made once, on the host.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
from scipy import ndimage, stats

from rlgen.envs.grid.tiles import Tile

_NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0))
# Lava lies in walls at most this deep behind what can be walked on.
_LAVA_DEPTH = 3


@dataclasses.dataclass(frozen=True)
class Objects:
    """How many objects, as ranges of a uniform share, and how strongly they hint.

    Attributes:
      moss: share of empty cells with moss.
      lava: share of wall cells near the walkable area that are lava.
      temperature: ranks are weighted by rank^(-1/T); large hints weakly.
    """

    moss: tuple[float, float] = (0.1, 0.25)
    lava: tuple[float, float] = (0.1, 0.25)
    temperature: float = 1.0


def largest_area(layout: np.ndarray) -> np.ndarray:
    """The largest connected part of a layout, the rest becomes wall. bool[H, W]."""
    areas = np.zeros(layout.shape, np.int32)
    if ndimage.label(layout, output=areas) == 0:
        return np.zeros_like(layout)
    sizes = np.bincount(areas.reshape(-1))
    return areas == 1 + np.argmax(sizes[1:])


def distances(free: np.ndarray, source: tuple[int, int]) -> np.ndarray:
    """Moves from every free cell to `source`, -1 where there is no way. int64[H, W]."""
    dist = np.full(free.shape, -1)
    dist[source] = 0
    queue = collections.deque([source])
    while queue:
        row, col = queue.popleft()
        for d_row, d_col in _NEIGHBOURS:
            at = (row + d_row, col + d_col)
            inside = 0 <= at[0] < free.shape[0] and 0 <= at[1] < free.shape[1]
            if inside and free[at] and dist[at] < 0:
                dist[at] = dist[row, col] + 1
                queue.append(at)
    return dist


def wall_distances(dist: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth of each wall cell behind the nearest walkable one, and its distance.

    The distance of a wall cell to the goal is that of the nearest walkable cell (the
    smallest, if several are as near) plus the depth.

    Args:
      dist: int[H, W], distances of walkable cells, -1 on walls.

    Returns:
      depth and distance, int[H, W]; depth is 0 on walkable cells.
    """
    depth = np.where(dist >= 0, 0, -1)
    total = dist.copy()
    for k in range(1, max(dist.shape) * 2):
        if np.all(depth >= 0):
            break
        known = np.where(depth == k - 1, total, np.iinfo(np.int32).max)
        near = np.full_like(known, np.iinfo(np.int32).max)
        near[1:] = np.minimum(near[1:], known[:-1])
        near[:-1] = np.minimum(near[:-1], known[1:])
        near[:, 1:] = np.minimum(near[:, 1:], known[:, :-1])
        near[:, :-1] = np.minimum(near[:, :-1], known[:, 1:])
        reached = (depth < 0) & (near < np.iinfo(np.int32).max)
        depth[reached] = k
        total[reached] = near[reached] + 1
    return depth, total


def choose(
    rng: np.random.Generator,
    candidates: np.ndarray,
    rank_by: np.ndarray,
    share: float,
    temperature: float,
) -> np.ndarray:
    """Draws cells without replacement, likelier the smaller `rank_by` is there.

    Args:
      candidates: int[N, 2].
      rank_by: float[N]; equal ones share their mean rank.
      share: of the candidates that are drawn.

    Returns:
      int[M, 2].
    """
    n_chosen = round(share * len(candidates))
    if n_chosen == 0:
        return candidates[:0]
    weights = stats.rankdata(rank_by) ** (-1.0 / temperature)
    chosen = rng.choice(
        len(candidates), n_chosen, replace=False, p=weights / weights.sum()
    )
    return candidates[chosen]


def place(
    area: np.ndarray, rng: np.random.Generator, objects: Objects
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Furnishes a connected area bool[H, W] of at least two cells.

    Returns:
      tiles uint8[H, W], goal and start int32[2].
    """
    cells = np.argwhere(area)
    goal = cells[rng.integers(len(cells))]
    dist = distances(area, (int(goal[0]), int(goal[1])))
    tiles = np.where(area, Tile.EMPTY, Tile.WALL).astype(np.uint8)

    on_floor = np.argwhere(area & (dist > 0))
    moss = choose(
        rng,
        on_floor,
        dist[tuple(on_floor.T)],
        rng.uniform(*objects.moss),
        objects.temperature,
    )
    depth, reach = wall_distances(np.where(area, dist, -1))
    in_wall = np.argwhere(~area & (depth <= _LAVA_DEPTH))
    lava = choose(
        rng,
        in_wall,
        -reach[tuple(in_wall.T)],
        rng.uniform(*objects.lava),
        objects.temperature,
    )
    tiles[tuple(moss.T)] = Tile.MOSS
    tiles[tuple(lava.T)] = Tile.LAVA

    # The median over all walkable cells but the goal is never the goal itself.
    middle = max(1, int(np.median(dist[dist > 0])))
    starts = np.argwhere(dist == middle)
    start = starts[rng.integers(len(starts))]
    tiles[tuple(start)] = Tile.EMPTY
    return tiles, goal.astype(np.int32), start.astype(np.int32)
