"""Pictures of mazes, as pure functions that jit and vmap.

Every cell is one of a few sprites (free, wall, goal, and the agent in each direction
on a free cell or on the goal), drawn once in NumPy; a picture is then one look-up.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.envs.grid.env import GridLevel
from rlgen.envs.grid.tiles import N_TILES, TILE_COLOURS, Tile

# Below this many pixels per cell, lines would cover more of a cell than they mark.
_MIN_CELL_WITH_LINES = 8
_LINE_STRENGTH = 0.13
# In cells that small, a tint around goal and agent makes them easy to find.
_TINT_STRENGTH = 0.6
_N_SPRITES = 5 * N_TILES  # tiles, then the agent in 4 directions on each of them
_SUPERSAMPLING = 8  # per axis, for the smooth edges of the agent


def default_cell(height: int, width: int) -> int:
    """Pixels per cell: 16 for 13x13 (a picture of 240), 5 for 101x101 (of 515)."""
    return int(np.clip(240 // (max(height, width) + 2), 5, 48))


def render(
    level: GridLevel,
    position: jax.Array,
    direction: jax.Array,
    cell: int | None = None,
) -> jax.Array:
    """Draws a level, the walls around it, its goal and the agent.

    Args:
      level: one level of H x W cells.
      position: int32[2], row and column of the agent.
      direction: int32[], where the agent looks: 0 right, 1 down, 2 left, 3 up.
      cell: pixels per cell, static; None chooses by the level's size.

    Returns:
      uint8[(H + 2) cell, (W + 2) cell, 3].
    """
    height, width = level.tiles.shape
    cell = default_cell(height, width) if cell is None else int(cell)
    rows = jnp.arange(-1, height + 1, dtype=jnp.int32)[:, None]
    cols = jnp.arange(-1, width + 1, dtype=jnp.int32)[None, :]

    def distance(to):
        return jnp.maximum(jnp.abs(rows - to[0]), jnp.abs(cols - to[1]))

    from_goal, from_agent = distance(level.goal), distance(position)
    is_goal = from_goal == 0
    tiles = jnp.pad(level.tiles, 1, constant_values=np.uint8(Tile.WALL))
    sprite = jnp.where(is_goal, int(Tile.GOAL), tiles.astype(jnp.int32))
    on_agent = N_TILES + 4 * sprite + (direction & 3)
    sprite = jnp.where(from_agent == 0, on_agent, sprite)
    if cell < _MIN_CELL_WITH_LINES:
        tint = jnp.where(from_agent == 1, 2, jnp.where(from_goal == 1, 1, 0))
        sprite = jnp.where(is_goal | (from_agent == 0), 0, tint) * _N_SPRITES + sprite
    pixels = jnp.asarray(_sprites(cell))[sprite]  # (H + 2, W + 2, cell, cell, 3)
    return pixels.swapaxes(1, 2).reshape((height + 2) * cell, (width + 2) * cell, 3)


@functools.cache
def _sprites(cell: int) -> np.ndarray:
    """All sprites as they are, tinted with the goal's and with the agent's colour.

    uint8[3 * _N_SPRITES, cell, cell, 3].
    """
    tiles = np.broadcast_to(
        TILE_COLOURS[:, None, None].astype(np.float64), (N_TILES, cell, cell, 3)
    ).copy()
    if cell >= _MIN_CELL_WITH_LINES:
        # Lines darken what is light and lighten what is dark, so they show on both.
        is_dark = tiles.mean(axis=(1, 2, 3), keepdims=True) < 128
        lined = tiles + _LINE_STRENGTH * (np.where(is_dark, 255, 0) - tiles)
        tiles[:, 0], tiles[:, :, 0] = lined[:, 0], lined[:, :, 0]
    triangles = _triangles(cell)[..., None]  # (4, cell, cell, 1)
    agents = [
        tiles[under] + triangles * (TILE_COLOURS[Tile.AGENT] - tiles[under])
        for under in Tile
    ]
    plain = np.concatenate([tiles, *agents])
    tinted = [
        plain + _TINT_STRENGTH * (TILE_COLOURS[tile] - plain)
        for tile in (Tile.GOAL, Tile.AGENT)
    ]
    return np.round(np.concatenate([plain, *tinted])).astype(np.uint8)


def _triangles(cell: int) -> np.ndarray:
    """Share of each pixel under a triangle that points right, down, left, up.

    float64[4, cell, cell] in 0..1.
    """
    n_lines = int(cell >= _MIN_CELL_WITH_LINES)  # the line is not part of the inside
    side = cell - n_lines
    fine = (np.arange(side * _SUPERSAMPLING) + 0.5) / (side * _SUPERSAMPLING)
    y, x = np.meshgrid(fine, fine, indexing="ij")
    # Small cells have no pixels to spare for a margin.
    margin = 0.09 if n_lines else 0.0
    left, tip = margin, 1 - margin
    half = (0.5 - margin) * (tip - x) / (tip - left)
    inside = (x >= left) & (np.abs(y - 0.5) <= half)
    blocks = inside.reshape(side, _SUPERSAMPLING, side, _SUPERSAMPLING)
    right = blocks.mean(axis=(1, 3))
    # A quarter turn clockwise goes from right to down, left and up.
    turned = np.stack([np.rot90(right, -k) for k in range(4)])
    return np.pad(turned, [(0, 0), (n_lines, 0), (n_lines, 0)])
