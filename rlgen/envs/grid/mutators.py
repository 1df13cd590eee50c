"""Edits of grid levels: change a cell, move the goal, move the start."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rlgen.envs.grid.env import LevelT
from rlgen.envs.grid.tiles import Tile
from rlgen.errors import UserError
from rlgen.levels import mark

CHANGE_CELL, MOVE_GOAL, MOVE_START, NO_OP = range(4)


def pick_cell(key: jax.Array, allowed: jax.Array) -> jax.Array:
    """A uniform choice among the allowed cells bool[H, W]: int32[2], row and column.

    With none allowed the first cell is returned.
    """
    luck = jax.random.uniform(key, (allowed.size,))
    index = jnp.argmax(jnp.where(allowed.reshape(-1), luck, -1.0))
    return jnp.stack(jnp.divmod(index, allowed.shape[1])).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Mutator:
    """Applies a fixed number of random edits (after Parker-Holder et al. 2022).

    Edits never undo each other: a cell is changed at most once, and goal and start
    never return to the cell they came from. So, while a cell to edit is left, the
    result differs from the parent. Published mutators spend a third of their edits
    on nothing; here that happens only if `no_op` is given a weight.

    Attributes:
      n_edits: edits per call (static).
      change_cell, move_goal, move_start, no_op: relative weights of the kinds of edit.
    """

    n_edits: int = 5
    change_cell: float = 1.0
    move_goal: float = 1.0
    move_start: float = 0.0
    no_op: float = 0.0

    def __post_init__(self):
        weights = (self.change_cell, self.move_goal, self.move_start, self.no_op)
        if self.n_edits < 1 or min(weights) < 0 or sum(weights[:3]) <= 0:
            raise UserError(
                "A mutator needs at least one edit and weights >= 0 of which one is "
                "positive: raise n_edits or one of change_cell, move_goal, move_start."
            )

    def __call__(self, key: jax.Array, level: LevelT) -> LevelT:
        """Edits one level; start and goal stay on free, distinct cells."""
        shape, kinds = level.tiles.shape, level.KINDS
        first_goal = mark(shape, level.goal)
        first_start = mark(shape, level.start)
        weights = jnp.log(
            jnp.array(
                [self.change_cell, self.move_goal, self.move_start, self.no_op],
                jnp.float32,
            )
        )

        def edit(carry, key):
            level, untouched = carry
            key_kind, key_cell, key_tile = jax.random.split(key, 3)
            tiles = level.tiles
            kind = jax.random.categorical(key_kind, weights)
            occupied = mark(shape, level.goal) | mark(shape, level.start)
            free = (tiles == kinds[0]) & ~occupied
            allowed = jnp.select(
                [kind == MOVE_GOAL, kind == MOVE_START],
                [free & ~first_goal, free & ~first_start],
                untouched & ~occupied,
            )
            cell = pick_cell(key_cell, allowed)
            acts = jnp.any(allowed) & (kind != NO_OP)
            changed = mark(shape, cell) & acts & (kind == CHANGE_CELL)
            other = _another_kind(key_tile, tiles[cell[0], cell[1]], kinds)
            level = level.with_tiles(jnp.where(changed, other, tiles)).replace(
                goal=jnp.where(acts & (kind == MOVE_GOAL), cell, level.goal),
                start=jnp.where(acts & (kind == MOVE_START), cell, level.start),
            )
            return (level, untouched & ~changed), None

        keys = jax.random.split(key, self.n_edits)
        (level, _), _ = jax.lax.scan(edit, (level, jnp.ones(shape, bool)), keys)
        return level


def _another_kind(key: jax.Array, tile: jax.Array, kinds: tuple[Tile, ...]):
    """A uniform choice among the kinds of tile that differ from `tile`. uint8[]."""
    table = jnp.array(kinds, jnp.uint8)
    place = jnp.argmax(table == tile)
    hop = 1 + jax.random.randint(key, (), 0, len(kinds) - 1, jnp.int32)
    return table[(place + hop) % len(kinds)]
