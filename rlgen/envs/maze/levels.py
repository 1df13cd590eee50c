"""Families of mazes: each says how its walls are laid."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.envs.grid.levels import GridLevels, read_cells
from rlgen.envs.grid.mutators import pick_cell
from rlgen.envs.grid.tiles import Tile
from rlgen.envs.maze.env import MazeLevel
from rlgen.errors import UserError


@dataclasses.dataclass(frozen=True)
class MazeLevels(GridLevels[MazeLevel]):
    """What every family of mazes shares: start, goal and direction are uniform."""

    LEVEL = MazeLevel
    START_CHARS = ">v<^"
    N_EXTRA_WORDS = 4

    @abc.abstractmethod
    def layout(self, key: jax.Array) -> jax.Array:
        """Lays the walls: bool[H, W] with at least two free cells."""

    def draw(self, key: jax.Array) -> MazeLevel:
        key_walls, key_goal, key_start, key_direction = jax.random.split(key, 4)
        walls = self.layout(key_walls)
        goal = pick_cell(key_goal, ~walls)
        start = pick_cell(key_start, (~walls).at[goal[0], goal[1]].set(False))
        direction = jax.random.randint(key_direction, (), 0, 4, jnp.int32)
        return MazeLevel(walls=walls, goal=goal, start=start, direction=direction)

    def extra_word(self, level: MazeLevel) -> jax.Array:
        return level.direction

    def from_grid(self, key, grid):
        level = super().from_grid(key, grid)
        return level.replace(direction=jax.random.randint(key, (), 0, 4, jnp.int32))

    def start_char(self, level: MazeLevel) -> str:
        return self.START_CHARS[int(level.direction)]

    @classmethod
    def parse(cls, text: str) -> MazeLevel:
        return parse_maze(text)

    def example(self) -> MazeLevel:
        leaves: dict[str, Any] = {
            "walls": np.zeros((self.height, self.width), bool),
            "goal": np.array([self.height - 1, self.width - 1], np.int32),
            "start": np.zeros(2, np.int32),
            "direction": np.int32(0),
        }
        return MazeLevel(**leaves)


@dataclasses.dataclass(frozen=True)
class UniformWalls(MazeLevels):
    """Walls on cells chosen uniformly, their number uniform in a range.

    The family of Dennis et al. 2020 (PAIRED) and its successors.

    Attributes:
      min_walls, max_walls: range of the number.
      distinct_walls: no cell is chosen twice. Otherwise the number is that of draws,
        with replacement, as in the mazes of jaxued and SFL: a few walls fewer.
    """

    min_walls: int = 0
    max_walls: int = 60
    distinct_walls: bool = True

    def __post_init__(self):
        room = self.height * self.width - 2
        if not 0 <= self.min_walls <= self.max_walls <= room:
            raise UserError(
                f"{self.min_walls} to {self.max_walls} walls do not fit a "
                f"{self.height}x{self.width} maze: choose 0 <= min_walls <= max_walls "
                f"<= {room}."
            )

    @property
    def block_range(self):
        return self.min_walls, self.max_walls

    def layout(self, key: jax.Array) -> jax.Array:
        key_count, key_cells = jax.random.split(key)
        count = jax.random.randint(
            key_count, (), self.min_walls, self.max_walls + 1, jnp.int32
        )
        n_cells = self.height * self.width
        if self.distinct_walls:
            walls = jax.random.permutation(key_cells, n_cells) < count
        else:
            shape = (self.max_walls,)
            drawn = jax.random.randint(key_cells, shape, 0, n_cells, jnp.int32)
            # Beyond the last cell nothing is written.
            drawn = jnp.where(jnp.arange(self.max_walls) < count, drawn, n_cells)
            walls = jnp.zeros(n_cells, bool).at[drawn].set(True, mode="drop")
        return walls.reshape(self.height, self.width)


@dataclasses.dataclass(frozen=True)
class Empty(MazeLevels):
    """No walls at all: where ACCEL starts (Parker-Holder et al. 2022)."""

    def layout(self, key: jax.Array) -> jax.Array:
        del key
        return jnp.zeros((self.height, self.width), bool)


@dataclasses.dataclass(frozen=True)
class PerfectMaze(MazeLevels):
    """A spanning tree of corridors: exactly one way between any two free cells.

    Rooms stand on even rows and columns (height and width are odd); depth-first
    search with random turns opens the walls between them.
    """

    def __post_init__(self):
        if self.height % 2 == 0 or self.width % 2 == 0:
            raise UserError(
                f"A perfect maze of {self.height}x{self.width} is not possible: "
                "choose an odd height and width."
            )

    def layout(self, key: jax.Array) -> jax.Array:
        rows, cols = (self.height + 1) // 2, (self.width + 1) // 2
        n_rooms = rows * cols
        moves = jnp.array([[0, 1], [1, 0], [0, -1], [-1, 0]], jnp.int32)
        key_first, key_turns = jax.random.split(key)
        first = jax.random.randint(key_first, (), 0, n_rooms, jnp.int32)
        # Depth-first search visits each edge of the tree twice.
        n_turns = 2 * n_rooms
        luck = jax.random.uniform(key_turns, (n_turns, 4))

        def turn(carry, luck):
            walls, visited, stack, depth = carry
            here = stack[depth]
            at = jnp.stack([here // cols, here % cols])
            there = at + moves
            inside = jnp.all((there >= 0) & (there < jnp.array([rows, cols])), axis=1)
            room = jnp.where(inside, there[:, 0] * cols + there[:, 1], 0)
            unseen = inside & ~visited[room]
            choice = jnp.argmax(jnp.where(unseen, luck, -1.0))
            advances = jnp.any(unseen)
            between = 2 * at + moves[choice]
            goes_to = jnp.where(advances, room[choice], here)
            # Writes that change nothing stand in for a branch: cells already open
            # are opened again when the search steps back.
            opened = jnp.where(advances, between, 2 * at)
            walls = walls.at[opened[0], opened[1]].set(False)
            visited = visited.at[goes_to].set(True)
            depth = jnp.where(advances, depth + 1, jnp.maximum(depth - 1, 0))
            stack = stack.at[depth].set(jnp.where(advances, goes_to, stack[depth]))
            return (walls, visited, stack, depth), None

        walls = jnp.ones((self.height, self.width), bool).at[::2, ::2].set(False)
        visited = jnp.zeros(n_rooms, bool).at[first].set(True)
        stack = jnp.zeros(n_rooms + 1, jnp.int32).at[0].set(first)
        (walls, *_), _ = jax.lax.scan(turn, (walls, visited, stack, jnp.int32(0)), luck)
        return walls


@dataclasses.dataclass(frozen=True)
class Rooms(MazeLevels):
    """A grid of rooms, each shared wall with a door at a random place.

    Attributes:
      rooms_per_side: rooms in each direction; a side must hold them with walls
        between.
      door_probability: chance that a shared wall has its door.
    """

    rooms_per_side: int = 3
    door_probability: float = 0.8

    def __post_init__(self):
        if min(self.height, self.width) < 2 * self.rooms_per_side - 1:
            raise UserError(
                f"{self.rooms_per_side} rooms per side do not fit a "
                f"{self.height}x{self.width} maze: choose fewer rooms."
            )
        if not 0.0 <= self.door_probability <= 1.0:
            raise UserError(
                f"door_probability is {self.door_probability}: choose 0 to 1."
            )

    def layout(self, key: jax.Array) -> jax.Array:
        rows, cols = (_room_lines(n, self.rooms_per_side) for n in self._size)
        key_rows, key_cols = jax.random.split(key)
        across = self._doors(key_rows, rows, cols, self.width)
        down = self._doors(key_cols, cols, rows, self.height)
        walls = np.zeros(self._size, bool)
        walls[rows, :] = True
        walls[:, cols] = True
        walls = jnp.asarray(walls)
        walls = walls.at[rows, :].set(walls[rows, :] & ~across)
        return walls.at[:, cols].set(walls[:, cols] & ~down.T)

    @property
    def _size(self):
        return self.height, self.width

    def _doors(self, key, lines, cross_lines, length):
        """Doors in each wall line: bool[n lines, length], at most one per segment."""
        edges = np.concatenate([[-1], cross_lines, [length]])
        segment = np.searchsorted(cross_lines, np.arange(length), side="right")
        first, size = edges[:-1] + 1, np.diff(edges) - 1
        key_place, key_exists = jax.random.split(key)
        shape = (len(lines), len(size))
        place = first + jnp.floor(jax.random.uniform(key_place, shape) * size)
        exists = jax.random.bernoulli(key_exists, self.door_probability, shape)
        return (place[:, segment] == np.arange(length)) & exists[:, segment]


def _room_lines(length: int, n_rooms: int) -> np.ndarray:
    """Where the walls between `n_rooms` rooms stand on a side of `length` cells."""
    return np.linspace(-1, length, n_rooms + 1).round().astype(int)[1:-1]


@dataclasses.dataclass(frozen=True)
class Caves(MazeLevels):
    """Cellular-automaton caves: random fill, then smoothing by majority.

    A cell becomes wall when at least five of the nine cells around and under it
    are walls (the 4-5 rule); the border counts as wall.
    """

    fill: float = 0.45
    smoothing_steps: int = 1

    def __post_init__(self):
        if not 0.0 <= self.fill <= 1.0:
            raise UserError(f"fill is {self.fill}: choose 0 to 1.")

    def layout(self, key: jax.Array) -> jax.Array:
        walls = jax.random.bernoulli(key, self.fill, (self.height, self.width))
        for _ in range(self.smoothing_steps):
            padded = jnp.pad(walls, 1, constant_values=True).astype(jnp.int32)
            around = jax.lax.reduce_window(
                padded, 0, jax.lax.add, (3, 3), (1, 1), "VALID"
            )
            walls = around >= 5
        # A cave that closed entirely would leave no room for start and goal.
        middle = jnp.zeros_like(walls)
        row, col = self.height // 2, self.width // 2
        middle = middle.at[row, max(col - 1, 0) : col + 1].set(True)
        return walls & ~(middle & (jnp.sum(~walls) < 2))


FAMILIES: dict[str, type[MazeLevels]] = {
    "uniform": UniformWalls,
    "perfect": PerfectMaze,
    "rooms": Rooms,
    "caves": Caves,
    "empty": Empty,
}


def parse_maze(text: str) -> MazeLevel:
    """Reads a maze of any size from its text form.

    Raises:
      LevelFileError: ragged rows, unknown characters, or not exactly one goal and
        one agent.
    """
    tiles, goal, start, direction = read_cells(
        text, MazeLevel.KINDS, MazeLevels.START_CHARS
    )
    leaves: dict[str, Any] = {
        "walls": tiles == Tile.WALL,
        "goal": goal,
        "start": start,
        "direction": np.int32(direction),
    }
    return MazeLevel(**leaves)
