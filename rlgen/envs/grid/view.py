"""What a grid agent sees: egocentric crops and MiniGrid's line of sight.

Everything here works on one level (scalars and small grids) and is vmapped by the
caller. Rows of a view are packed into the bits of one integer where that turns a
chain of per-cell updates into a few shifts.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.envs.grid.tiles import Tile

# (row, column) of one step in each direction: right, down, left, up (MiniGrid's).
DIRECTIONS = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]], np.int32)

IndexOf = Callable[[jax.Array], jax.Array]


def forward(direction: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Unit step in `direction` as (rows, columns), without a table lookup."""
    d_row = jnp.where(direction == 1, 1, 0) - jnp.where(direction == 3, 1, 0)
    d_col = jnp.where(direction == 0, 1, 0) - jnp.where(direction == 2, 1, 0)
    return d_row, d_col


def egocentric_crop(
    tiles: jax.Array, position: jax.Array, direction: jax.Array, view_size: int
) -> tuple[jax.Array, IndexOf]:
    """Tiles inside the egocentric view; whatever lies off the grid is wall.

    The agent stands in the middle of the view's last row and looks towards its
    first row, as in MiniGrid. The grid is padded so that no cell of the view needs
    a bounds check: the pad does not depend on the state, so XLA keeps it out of the
    step loop, and one index per cell is left of the rotation.

    Args:
      tiles: uint8[H, W].
      position: int32[2], row and column.
      direction: int32[].
      view_size: V.

    Returns:
      tiles uint8[V, V], and a function that tells which cell of the view shows a
      given position: position -> bool[V, V].
    """
    margin = view_size - 1
    padded = jnp.pad(tiles, margin, constant_values=np.uint8(Tile.WALL))
    stride = padded.shape[1]

    def flat(row, col):
        return (row + margin) * stride + col + margin

    ahead = jnp.arange(view_size - 1, -1, -1, dtype=jnp.int32)[:, None]
    right = (jnp.arange(view_size, dtype=jnp.int32) - view_size // 2)[None, :]
    f_row, f_col = forward(direction)
    # Turning right takes (row, col) to (col, -row): the vector to one's right hand.
    index = (
        flat(position[0], position[1])
        + ahead * (f_row * stride + f_col)
        + right * (f_col * stride - f_row)
    )
    cells = padded.reshape(-1).at[index].get(mode="promise_in_bounds")
    return cells, lambda target: index == flat(target[0], target[1])


def line_of_sight(opaque: jax.Array) -> jax.Array:
    """MiniGrid's `process_vis`: which cells of an egocentric view are lit.

    Light starts at the agent (middle of the last row), spreads along a row through
    transparent cells, first rightwards and then leftwards, and each lit transparent
    cell lights its three neighbours in the row ahead (the sweep's outermost cell
    excepted, as MiniGrid does). Rows are integers here, one bit a cell.

    Args:
      opaque: bool[V, V], V at most 31.

    Returns:
      bool[V, V].
    """
    size = opaque.shape[-1]
    weights = jnp.asarray(1 << np.arange(size), jnp.int32)
    clear_rows = jnp.sum(jnp.where(opaque, 0, weights), axis=-1)
    first, last = 1, 1 << (size - 1)
    full = (1 << size) - 1
    lit_rows = [jnp.int32(0)] * size
    lit = jnp.int32(1 << (size // 2))
    for row in range(size - 1, -1, -1):
        clear = clear_rows[row]
        for _ in range(size - 1):
            lit = lit | ((lit & clear) << 1)
        lit = lit & full
        pass_right = lit & clear & ~last
        for _ in range(size - 1):
            lit = lit | ((lit & clear) >> 1)
        pass_left = lit & clear & ~first
        lit_rows[row] = lit
        lit = pass_right | (pass_right << 1) | pass_left | (pass_left >> 1)
    shifts = jnp.arange(size, dtype=jnp.int32)
    return ((jnp.stack(lit_rows)[:, None] >> shifts[None, :]) & 1).astype(bool)
