"""Pictures of tasks, as pure functions that jit and vmap."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.envs.grid.render import default_cell
from rlgen.envs.grid.tiles import TILE_COLOURS, Tile

# What pays, what costs; the paler, the smaller the reward.
_PAYS = np.array([0, 114, 178], np.float32)
_COSTS = np.array([213, 94, 0], np.float32)


def render(
    level: Any, position: jax.Array, places: jax.Array, present: jax.Array
) -> jax.Array:
    """Draws walls, present objects (blue pays, orange costs, full colour from 1 on) and
    the agent as a disc.

    Args:
      level: a `GridTask` on H x W cells with O objects.
      position, places, present: int32[2], int32[O, 2] and bool[O] of a state.

    Returns:
      uint8[H' , W', 3], one border of wall around the cells.
    """
    height, width = level.blocked.shape
    cell = default_cell(height, width)
    kinds = jnp.where(level.blocked, int(Tile.WALL), int(Tile.EMPTY))
    colours = jnp.asarray(TILE_COLOURS, jnp.float32)
    picture = colours[jnp.pad(kinds, 1, constant_values=int(Tile.WALL))]
    floor = colours[int(Tile.EMPTY)]
    for o in range(places.shape[0]):
        strength = 0.35 + 0.65 * jnp.clip(jnp.abs(level.reward[o]), 0.0, 1.0)
        full = jnp.where(level.reward[o] >= 0, _PAYS, _COSTS)
        row, col = places[o, 0] + 1, places[o, 1] + 1
        colour = floor + strength * (full - floor)
        picture = picture.at[row, col].set(
            jnp.where(present[o], colour, picture[row, col])
        )
    pixels = jnp.repeat(jnp.repeat(picture, cell, axis=0), cell, axis=1)
    at = (jnp.arange(cell) + 0.5) / cell - 0.5
    disc = at[:, None] ** 2 + at[None, :] ** 2 < 0.32**2
    corner = ((position[0] + 1) * cell, (position[1] + 1) * cell, 0)
    patch = jax.lax.dynamic_slice(pixels, corner, (cell, cell, 3))
    patch = jnp.where(disc[..., None], colours[int(Tile.AGENT)], patch)
    pixels = jax.lax.dynamic_update_slice(pixels, patch, corner)
    return jnp.round(pixels).astype(jnp.uint8)
