"""Random families of caves: what curricula without data start from."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.envs.cave.env import CaveLevel
from rlgen.envs.grid.levels import GridLevels, read_cells
from rlgen.envs.grid.mutators import pick_cell
from rlgen.envs.grid.tiles import Tile
from rlgen.errors import UserError


@dataclasses.dataclass(frozen=True)
class CaveLevels(GridLevels[CaveLevel]):
    """What every family of caves shares: goal and start on empty cells, uniform."""

    LEVEL = CaveLevel
    START_CHARS = "S"

    @abc.abstractmethod
    def layout(self, key: jax.Array) -> jax.Array:
        """Tiles uint8[H, W] with at least two empty cells."""

    def draw(self, key: jax.Array) -> CaveLevel:
        key_cells, key_goal, key_start = jax.random.split(key, 3)
        cells = self.layout(key_cells)
        is_empty = cells == Tile.EMPTY
        goal = pick_cell(key_goal, is_empty)
        start = pick_cell(key_start, is_empty.at[goal[0], goal[1]].set(False))
        return CaveLevel(cells=cells, goal=goal, start=start)

    @classmethod
    def parse(cls, text: str) -> CaveLevel:
        return parse_cave(text)

    def example(self) -> CaveLevel:
        leaves: dict[str, Any] = {
            "cells": np.full((self.height, self.width), Tile.EMPTY, np.uint8),
            "goal": np.array([self.height - 1, self.width - 1], np.int32),
            "start": np.zeros(2, np.int32),
        }
        return CaveLevel(**leaves)


@dataclasses.dataclass(frozen=True)
class Blocks(CaveLevels):
    """Blocks of wall, lava or moss (equally likely) on distinct uniform cells, their
    number uniform in a range: the domain randomisation of Garcin et al. 2024.
    """

    min_blocks: int = 0
    max_blocks: int = 60

    def __post_init__(self):
        room = self.height * self.width - 2
        if not 0 <= self.min_blocks <= self.max_blocks <= room:
            raise UserError(
                f"{self.min_blocks} to {self.max_blocks} blocks do not fit a "
                f"{self.height}x{self.width} cave: choose 0 <= min_blocks <= "
                f"max_blocks <= {room}."
            )

    @property
    def block_range(self):
        return self.min_blocks, self.max_blocks

    def layout(self, key: jax.Array) -> jax.Array:
        key_count, key_cells, key_kind = jax.random.split(key, 3)
        shape = (self.height, self.width)
        count = jax.random.randint(
            key_count, (), self.min_blocks, self.max_blocks + 1, jnp.int32
        )
        order = jax.random.permutation(key_cells, self.height * self.width)
        kinds = jnp.array(CaveLevel.KINDS[1:], jnp.uint8)
        blocks = kinds[jax.random.randint(key_kind, shape, 0, len(kinds), jnp.int32)]
        return jnp.where(order.reshape(shape) < count, blocks, np.uint8(Tile.EMPTY))


@dataclasses.dataclass(frozen=True)
class Empty(CaveLevels):
    """Empty caves: where ACCEL starts (Parker-Holder et al. 2022)."""

    def layout(self, key: jax.Array) -> jax.Array:
        del key
        return jnp.full((self.height, self.width), Tile.EMPTY, jnp.uint8)


FAMILIES: dict[str, type[CaveLevels]] = {"blocks": Blocks, "empty": Empty}


def parse_cave(text: str) -> CaveLevel:
    """Reads a cave of any size from its text form.

    Raises:
      LevelFileError: ragged rows, unknown characters, or not exactly one goal and
        one start.
    """
    cells, goal, start, _ = read_cells(text, CaveLevel.KINDS, CaveLevels.START_CHARS)
    leaves: dict[str, Any] = {"cells": cells, "goal": goal, "start": start}
    return CaveLevel(**leaves)
