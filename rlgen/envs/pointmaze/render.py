"""Pictures of point mazes, as a pure function that jits and vmaps."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlgen.envs.grid.render import default_cell
from rlgen.envs.grid.tiles import TILE_COLOURS, Tile
from rlgen.envs.pointmaze.env import REACH
from rlgen.envs.pointmaze.physics import RADIUS

# Smaller discs than this, in pixels, would be lost.
_MIN_RADIUS = 2.5
_REACH_STRENGTH = 0.3


def render(
    walls: jax.Array, position: jax.Array, goal: jax.Array, cell: int | None = None
) -> jax.Array:
    """Draws walls, the goal with what is near enough to it, and the ball.

    Args:
      walls: bool[H, W].
      position, goal: float32[2], (x, y) in m.
      cell: pixels per cell, static; None chooses by the maze's size.

    Returns:
      uint8[(H + 2) cell, (W + 2) cell, 3].
    """
    height, width = walls.shape
    cell = default_cell(height, width) if cell is None else int(cell)
    is_wall = jnp.pad(walls, 1, constant_values=True)
    is_wall = jnp.repeat(jnp.repeat(is_wall, cell, axis=0), cell, axis=1)[..., None]
    colours = TILE_COLOURS.astype("float32")
    floor, wall = colours[Tile.EMPTY], colours[Tile.WALL]
    y = ((jnp.arange((height + 2) * cell) + 0.5) / cell - 1)[:, None]
    x = ((jnp.arange((width + 2) * cell) + 0.5) / cell - 1)[None, :]

    def disc(picture, at, radius, colour, strength=1.0):
        distance = jnp.hypot(x - at[0], y - at[1])
        # A pixel's width of transition makes smooth edges.
        inside = jnp.clip((radius - distance) * cell + 0.5, 0.0, 1.0)
        return picture + strength * inside[..., None] * (colour - picture)

    small = max(RADIUS, _MIN_RADIUS / cell)
    picture = jnp.broadcast_to(floor, (*is_wall.shape[:2], 3))
    picture = disc(picture, goal, REACH, colours[Tile.GOAL], _REACH_STRENGTH)
    picture = jnp.where(is_wall, wall, picture)
    picture = disc(picture, goal, small, colours[Tile.GOAL])
    picture = disc(picture, position, small, colours[Tile.AGENT])
    return jnp.round(picture).astype(jnp.uint8)
