"""Shortest paths in mazes by jitted breadth-first search.

The frontier of every level advances by whole-grid dilation, so a vmapped batch of
levels costs as many rounds as its longest path.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlgen.levels import mark

UNREACHED = -1


def _shift(grid: jax.Array, d_row: int, d_col: int) -> jax.Array:
    """The grid moved by one cell; what enters from outside is False."""
    height, width = grid.shape[-2:]
    moved = jnp.roll(grid, (d_row, d_col), axis=(-2, -1))
    rows = jnp.arange(height)[:, None]
    cols = jnp.arange(width)[None, :]
    keep = jnp.ones((height, width), bool)
    if d_row:
        keep &= rows != (0 if d_row > 0 else height - 1)
    if d_col:
        keep &= cols != (0 if d_col > 0 else width - 1)
    return moved & keep


def distances(walls: jax.Array, source: jax.Array) -> jax.Array:
    """Moves from every free cell to `source`; `UNREACHED` where there is no way.

    Args:
      walls: bool[H, W].
      source: int32[2], row and column.

    Returns:
      int32[H, W].
    """
    frontier = mark(walls.shape, source)
    dist = jnp.where(frontier, 0, UNREACHED).astype(jnp.int32)

    def advance(carry):
        dist, frontier, moves = carry
        spread = (
            _shift(frontier, 1, 0)
            | _shift(frontier, -1, 0)
            | _shift(frontier, 0, 1)
            | _shift(frontier, 0, -1)
        )
        frontier = spread & ~walls & (dist == UNREACHED)
        return jnp.where(frontier, moves + 1, dist), frontier, moves + 1

    dist, _, _ = jax.lax.while_loop(
        lambda carry: jnp.any(carry[1]), advance, (dist, frontier, jnp.int32(0))
    )
    return dist


def path_length(walls: jax.Array, start: jax.Array, goal: jax.Array) -> jax.Array:
    """Moves on the shortest path from start to goal, `UNREACHED` if there is none."""
    return distances(walls, goal)[start[0], start[1]]


def fewest_actions(
    walls: jax.Array, start: jax.Array, direction: jax.Array, goal: jax.Array
) -> jax.Array:
    """Fewest actions (turns count) from a start and direction to the goal.

    Breadth-first search over the 4 x H x W states of position and direction.

    Returns:
      () int32, `UNREACHED` if the goal cannot be reached, 0 if the start is the goal.
    """
    seen = mark(walls.shape, start)[None] & (jnp.arange(4) == direction)[:, None, None]
    at_goal = mark(walls.shape, goal)

    def advance(carry):
        seen, frontier, actions = carry
        turned = jnp.roll(frontier, 1, axis=0) | jnp.roll(frontier, -1, axis=0)
        moved = jnp.stack(
            [
                _shift(frontier[0], 0, 1),
                _shift(frontier[1], 1, 0),
                _shift(frontier[2], 0, -1),
                _shift(frontier[3], -1, 0),
            ]
        )
        frontier = (turned | (moved & ~walls)) & ~seen
        return seen | frontier, frontier, actions + 1

    def searching(carry):
        seen, frontier, _ = carry
        return jnp.any(frontier) & ~jnp.any(seen & at_goal)

    seen, _, actions = jax.lax.while_loop(
        searching, advance, (seen, seen, jnp.int32(0))
    )
    return jnp.where(jnp.any(seen & at_goal), actions, UNREACHED)
