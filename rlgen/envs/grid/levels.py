"""What families of grid levels share: sampling, checks, edits, hashes and text."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import textwrap
from collections.abc import Sequence
from typing import ClassVar, Generic

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.envs.grid import paths
from rlgen.envs.grid.env import LevelT
from rlgen.envs.grid.mutators import Mutator
from rlgen.envs.grid.tiles import Tile
from rlgen.levels import (
    Grid,
    LevelFileError,
    LevelSpace,
    leaf_name,
    read_text,
    resample_until,
)

# Text form: one character a cell; goal and start have characters of their own.
TILE_CHARS = {Tile.EMPTY: ".", Tile.WALL: "#", Tile.LAVA: "~", Tile.MOSS: '"'}
GOAL_CHAR = "G"

# After this many unsolvable draws a way is carved from start to goal instead.
_SOLVABLE_TRIES = 64


@dataclasses.dataclass(frozen=True)
class GridLevels(LevelSpace[LevelT], Generic[LevelT]):
    """What every family of grid levels shares.

    Attributes:
      height, width: cells without the border.
      solvable: sample solvable levels only, by rejection; a draw that fails 64
        times gets an L-shaped way carved from start to goal.
      mutator: how `mutate` edits a level.
    """

    height: int = 13
    width: int = 13
    solvable: bool = False
    mutator: Mutator = Mutator()

    #: The type of level, the characters of its start, and words of the hash beyond
    #: those of tiles, goal and start.
    LEVEL: ClassVar[type]
    START_CHARS: ClassVar[str]
    N_EXTRA_WORDS: ClassVar[int] = 0

    @property
    def block_range(self) -> tuple[int, int] | None:
        """Fewest and most cells that are not free, where settings of the family say."""
        return None

    @abc.abstractmethod
    def draw(self, key: jax.Array) -> LevelT:
        """Draws one level, solvable or not."""

    def sample(self, key: jax.Array) -> LevelT:
        if not self.solvable:
            return self.draw(key)
        level, is_valid = resample_until(self.draw, self.valid, key, _SOLVABLE_TRIES)
        tiles = level.tiles
        way = level.blocked & _l_path(tiles.shape, level.start, level.goal)
        way &= ~is_valid
        return level.with_tiles(jnp.where(way, np.uint8(Tile.EMPTY), tiles))

    def valid(self, level: LevelT) -> jax.Array:
        return paths.path_length(level.blocked, level.start, level.goal) > 0

    def features(self, level: LevelT) -> dict[str, jax.Array]:
        """Cells of each kind, shortest path (NaN without one), solvable (0 or 1)."""
        length = paths.path_length(level.blocked, level.start, level.goal)
        tiles = level.tiles
        counts = {
            _COUNT_NAMES[kind]: jnp.sum(tiles == kind, dtype=jnp.float32)
            for kind in level.KINDS[1:]
        }
        return counts | {
            "path_length": jnp.where(length > 0, length, jnp.nan).astype(jnp.float32),
            "solvable": (length > 0).astype(jnp.float32),
        }

    def mutate(self, key: jax.Array, level: LevelT) -> LevelT:
        return self.mutator(key, level)

    def extra_word(self, level: LevelT) -> jax.Array | None:
        """Index of the level among the extra words of the hash, if it has some."""
        del level

    def hash(self, level: LevelT) -> jax.Array:
        """Sum of a fixed random word per tile, goal, start and extra (Zobrist).

        Sums instead of exclusive ors vectorise as a reduction; words are 2 x 32
        bits because 64-bit integers are off in JAX by default.
        """
        n_cells = self.height * self.width
        n_kinds = len(level.KINDS)
        table = jnp.asarray(
            _hash_table(self.height, self.width, n_kinds + 1, self.N_EXTRA_WORDS)
        )
        tiles = level.tiles.reshape(-1)
        total = jnp.zeros(2, jnp.uint32)
        for i, kind in enumerate(level.KINDS[1:]):
            words = table[i * n_cells : (i + 1) * n_cells]
            total += jnp.sum(
                jnp.where((tiles == kind)[:, None], words, 0), axis=0, dtype=jnp.uint32
            )
        goals = (n_kinds - 1) * n_cells
        total += table[goals + level.goal[0] * self.width + level.goal[1]]
        starts = goals + n_cells
        total += table[starts + level.start[0] * self.width + level.start[1]]
        extra = self.extra_word(level)
        return total if extra is None else total + table[starts + n_cells + extra]

    def tile_histogram(self, level: LevelT) -> jax.Array:
        """Number of cells of each kind at each distance to the goal: float32[D, K].

        A blocked cell is one move behind the nearest walkable cell beside it. The last
        row counts cells that are not beside any cell from which the goal is reached.
        """
        n_cells = self.height * self.width
        dist = paths.distances(level.blocked, level.goal)
        far = jnp.where(dist < 0, n_cells, dist)
        padded = jnp.pad(far, 1, constant_values=n_cells)
        beside = jnp.minimum(
            jnp.minimum(padded[:-2, 1:-1], padded[2:, 1:-1]),
            jnp.minimum(padded[1:-1, :-2], padded[1:-1, 2:]),
        )
        reach = jnp.where(level.blocked, jnp.minimum(beside + 1, n_cells), far)
        grid = self.to_grid(level)
        n_kinds = len(self.free_kinds)
        index = reach * n_kinds + grid.kinds.astype(jnp.int32)
        counts = jnp.zeros((n_cells + 1) * n_kinds, jnp.float32)
        counts = counts.at[index.reshape(-1)].add(1.0)
        return counts.reshape(n_cells + 1, n_kinds)

    def to_grid(self, level: LevelT) -> Grid:
        """The level as kinds of cells, goal and start: what generative models read."""
        table = jnp.array(level.KINDS, jnp.uint8)
        kinds = jnp.argmax(level.tiles[..., None] == table, axis=-1)
        return Grid(kinds=kinds.astype(jnp.uint8), goal=level.goal, start=level.start)

    def from_grid(self, key: jax.Array, grid: Grid) -> LevelT:
        """The level of a grid; what a grid does not tell is drawn at random."""
        tiles = jnp.array(self.LEVEL.KINDS, jnp.uint8)[grid.kinds]
        level = jax.tree.map(jnp.asarray, self.example())
        return level.with_tiles(tiles).replace(goal=grid.goal, start=grid.start)

    @property
    def free_kinds(self) -> tuple[bool, ...]:
        """Which kinds of cells can be walked on, in the order of `Grid.kinds`."""
        return tuple(t in (Tile.EMPTY, Tile.MOSS) for t in self.LEVEL.KINDS)

    def start_char(self, level: LevelT) -> str:
        """The character that marks the start of this level in text."""
        del level
        return self.START_CHARS[0]

    def to_str(self, level: LevelT) -> str:
        chars = np.array([TILE_CHARS.get(tile, "?") for tile in Tile])
        cells = chars[np.asarray(level.tiles)]
        cells[tuple(np.asarray(level.goal))] = GOAL_CHAR
        cells[tuple(np.asarray(level.start))] = self.start_char(level)
        return "\n".join("".join(row) for row in cells) + "\n"

    def from_str(self, text: str) -> LevelT:
        level = self.parse(text)
        height, width = np.shape(level.tiles)
        if (height, width) != (self.height, self.width):
            raise LevelFileError(
                f"The level is {height}x{width}, but this environment needs "
                f"{self.height}x{self.width}: set height and width to match it."
            )
        return level

    def size_in(self, path: str) -> tuple[int, int] | None:
        """Height and width of the levels in a file; None where it does not say."""
        if path.endswith(".txt"):
            height, width = np.shape(self.parse(read_text(path)).tiles)
            return height, width
        # What is wrong with a file is said when it is loaded.
        with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as file:
            for at, leaf in jax.tree_util.tree_leaves_with_path(self.example()):
                if np.shape(leaf) == (self.height, self.width):
                    return file[f"level/{leaf_name(at)}"].shape[1:]

    @classmethod
    @abc.abstractmethod
    def parse(cls, text: str) -> LevelT:
        """Reads a level of any size from its text form; raises `LevelFileError`."""


_COUNT_NAMES = {Tile.WALL: "n_walls", Tile.LAVA: "n_lava", Tile.MOSS: "n_moss"}


def read_cells(
    text: str, kinds: Sequence[Tile], start_chars: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Tiles uint8[H, W], goal and start int32[2], and which start character it is.

    Raises:
      LevelFileError: ragged rows, unknown characters, or not exactly one goal and
        one agent.
    """
    chars = {TILE_CHARS[kind]: kind for kind in kinds}
    alphabet = "".join(sorted(chars)) + GOAL_CHAR + start_chars
    lines = textwrap.dedent(text).rstrip().splitlines()
    rows = [line.rstrip() for line in lines]
    while rows and not rows[0]:
        del rows[0]
    if not rows:
        raise LevelFileError(
            f"The level is empty: draw it with the characters {alphabet}."
        )
    if "" in rows:
        raise LevelFileError(
            f"Row {rows.index('') + 1} of the level is blank: draw floor with "
            f"{TILE_CHARS[Tile.EMPTY]!r}."
        )
    if len({len(row) for row in rows}) > 1:
        raise LevelFileError(
            "The rows of the level differ in length: draw floor with "
            f"{TILE_CHARS[Tile.EMPTY]!r}, not with blanks, and pad short ones with #."
        )
    cells = np.array([list(row) for row in rows])
    unknown = sorted(set("".join(rows)) - set(alphabet))
    if unknown:
        raise LevelFileError(
            f"The level has the unknown character {unknown[0]!r}: use only {alphabet}."
        )
    goals = np.argwhere(cells == GOAL_CHAR)
    agents = np.argwhere(np.isin(cells, list(start_chars)))
    if len(goals) != 1:
        raise LevelFileError(
            f"The level has {len(goals)} goals: mark exactly one cell with G."
        )
    if len(agents) != 1:
        raise LevelFileError(
            f"The level has {len(agents)} agents: mark exactly one cell with one of "
            f"{' '.join(start_chars)}."
        )
    tiles = np.full(cells.shape, Tile.EMPTY, np.uint8)
    for char, kind in chars.items():
        tiles[cells == char] = kind
    which = start_chars.index(str(cells[tuple(agents[0])]))
    return tiles, goals[0].astype(np.int32), agents[0].astype(np.int32), which


def _l_path(shape: tuple[int, ...], start: jax.Array, goal: jax.Array) -> jax.Array:
    """Cells along the start's row and then the goal's column. bool[H, W]."""
    rows = jnp.arange(shape[0])[:, None]
    cols = jnp.arange(shape[1])[None, :]
    low, high = jnp.minimum(start, goal), jnp.maximum(start, goal)
    in_row = (rows == start[0]) & (cols >= low[1]) & (cols <= high[1])
    in_col = (cols == goal[1]) & (rows >= low[0]) & (rows <= high[0])
    return in_row | in_col


@functools.cache
def _hash_table(height: int, width: int, n_planes: int, n_extra: int) -> np.ndarray:
    """Random words uint32[planes H W + extra, 2] by splitmix64 (Steele et al. 2014).

    Written out because stored hashes must mean the same for ever, on any machine
    and under any version of a random number library.
    """
    n_words = n_planes * height * width + n_extra
    with np.errstate(over="ignore"):
        seed = np.uint64(height * 65536 + width) << np.uint64(20)
        z = (seed + np.arange(1, n_words + 1, dtype=np.uint64)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return np.stack([z >> np.uint64(32), z & np.uint64(0xFFFFFFFF)], -1).astype(
        np.uint32
    )
