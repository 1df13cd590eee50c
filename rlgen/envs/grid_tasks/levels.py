"""Families of grid-world tasks: generated ones, and those of Oh et al. 2020."""

from __future__ import annotations

import abc
import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.envs.grid import paths
from rlgen.envs.grid_tasks.env import GridTask, scatter
from rlgen.errors import UserError
from rlgen.levels import LevelFileError, LevelSpace, mark, resample_until

# Numbers of an object, in the order of its text form.
_NUMBERS = ("reward", "p_end", "p_return")
# Ranges of generated probabilities: of ending, and of coming back.
_END = (1e-2, 1.0)
_RETURN = (1e-3, 1e-1)


@dataclasses.dataclass(frozen=True)
class TaskLevels(LevelSpace[GridTask]):
    """What every family of tasks shares.

    Attributes:
      height, width, n_objects: largest grid and fullest task; see `GridTasks`.
      solvable: sample tasks in which something that pays can be reached.
    """

    height: int = 10
    width: int = 10
    n_objects: int = 5
    solvable: bool = False

    @abc.abstractmethod
    def draw(self, key: jax.Array) -> GridTask:
        """Draws one task, solvable or not."""

    def sample(self, key: jax.Array) -> GridTask:
        if not self.solvable:
            return self.draw(key)
        return resample_until(self.draw, self.valid, key)[0]

    def valid(self, level: GridTask) -> jax.Array:
        """Whether something that pays can be reached. () bool."""
        pays = level.exists & (level.reward > 0)
        return level.moves_objects & jnp.any(pays) | jnp.any(pays & _reachable(level))

    def features(self, level: GridTask) -> dict[str, jax.Array]:
        """Free cells, objects, the best and the worst of their rewards, time limit."""
        reward = jnp.where(level.exists, level.reward, 0.0)
        return {
            "n_free": jnp.sum(~level.blocked, dtype=jnp.float32),
            "n_objects": jnp.sum(level.exists, dtype=jnp.float32),
            "best_reward": jnp.max(reward, initial=0.0),
            "worst_reward": jnp.min(reward, initial=0.0),
            "max_steps": level.max_steps.astype(jnp.float32),
            "solvable": self.valid(level).astype(jnp.float32),
        }

    def mutate(self, key: jax.Array, level: GridTask) -> GridTask:
        """Flips a cell, moves an object or the start, or redraws an object's numbers,
        each as likely.
        """
        key_kind, key_at, key_new = jax.random.split(key, 3)
        taken = _taken(level)

        def flip(level):
            at = mark(taken.shape, _pick(key_at, ~taken))
            return level.replace(blocked=level.blocked ^ at)

        def move(level):
            free = ~taken & ~level.blocked
            to = _pick(key_at, jnp.where(jnp.any(free), free, ~taken))
            which = jax.random.choice(
                key_new,
                self.n_objects + 1,
                p=jnp.append(level.exists, True) / (1 + jnp.sum(level.exists)),
            )
            at_object = jnp.arange(self.n_objects)[:, None] == which
            return level.replace(
                places=jnp.where(at_object, to, level.places),
                start=jnp.where(which == self.n_objects, to, level.start),
                blocked=level.blocked & ~mark(taken.shape, to),
            )

        def redraw(level):
            key_reward, key_end, key_return = jax.random.split(key_new, 3)
            which = jax.random.choice(
                key_at, self.n_objects, p=level.exists / jnp.sum(level.exists)
            )
            numbers = {
                "reward": jax.random.uniform(key_reward, minval=-1.0),
                "p_end": _log_uniform(key_end, (), *_END),
                "p_return": _log_uniform(key_return, (), *_RETURN),
            }
            chosen = jnp.arange(self.n_objects) == which
            return level.replace(
                **{
                    name: jnp.where(chosen, new, getattr(level, name))
                    for name, new in numbers.items()
                }
            )

        kind = jax.random.randint(key_kind, (), 0, 3)
        return jax.lax.switch(kind, [flip, move, redraw], level)

    def to_str(self, level: GridTask) -> str:
        """A map (`S` start, digits objects), and one line of JSON with the numbers."""
        rows = [["#" if b else "." for b in row] for row in np.asarray(level.blocked)]
        row, col = (int(i) for i in level.start)
        rows[row][col] = "S"
        objects = {}
        for o in np.flatnonzero(np.asarray(level.exists)):
            row, col = (int(i) for i in level.places[o])
            rows[row][col] = str(o)
            objects[str(o)] = [float(getattr(level, name)[o]) for name in _NUMBERS]
        numbers = {
            "max_steps": int(level.max_steps),
            "moves_objects": bool(level.moves_objects),
            "objects": objects,
        }
        return "\n".join(["".join(row) for row in rows] + [json.dumps(numbers)])

    def from_str(self, text: str) -> GridTask:
        lines = text.strip().splitlines()
        try:
            numbers = json.loads(lines[-1])
            rows = np.array([list(line) for line in lines[:-1]])
            if rows.shape != (self.height, self.width):
                raise ValueError(f"a map of {rows.shape}")
            (start,) = np.argwhere(rows == "S")
            leaves = jax.tree.map(np.array, vars(self.example()))
            leaves |= {
                "blocked": rows == "#",
                "start": start.astype(np.int32),
                "max_steps": np.int32(numbers["max_steps"]),
                "moves_objects": np.bool_(numbers["moves_objects"]),
                "exists": np.zeros(self.n_objects, bool),
                "places": np.zeros((self.n_objects, 2), np.int32),
            }
            for name, values in numbers["objects"].items():
                (place,) = np.argwhere(rows == name)
                leaves["exists"][int(name)] = True
                leaves["places"][int(name)] = place
                for number, value in zip(_NUMBERS, values, strict=True):
                    leaves[number][int(name)] = value
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise LevelFileError(
                f"This is no task of {self.height}x{self.width} cells and up to "
                f"{self.n_objects} objects ({error}): give a map with one S, a digit "
                "per object, and a line of JSON as `rlgen levels grid_tasks` prints it."
            ) from None
        return GridTask(**leaves)

    def example(self) -> GridTask:
        leaves: dict[str, Any] = {
            "blocked": np.zeros((self.height, self.width), bool),
            "start": np.zeros(2, np.int32),
            "places": np.stack(
                np.divmod(np.arange(1, self.n_objects + 1), self.width), axis=1
            ).astype(np.int32),
            "exists": np.arange(self.n_objects) == 0,
            "reward": (np.arange(self.n_objects) == 0).astype(np.float32),
            "p_end": np.zeros(self.n_objects, np.float32),
            "p_return": np.zeros(self.n_objects, np.float32),
            "max_steps": np.int32(20),
            "moves_objects": np.bool_(False),
        }
        return GridTask(**leaves)


@dataclasses.dataclass(frozen=True)
class Generated(TaskLevels):
    """Random tasks (Jackson et al. 2023, GROOVE, appendix C, as released).

    A square grid, its side uniform; walls on distinct cells of the largest grid, so
    that a small grid has fewer; a uniform number of objects; the first reward uniform
    in 0 to 1, the others in -1 to 1; probabilities and the time limit uniform in their
    logarithm.
    A wall that would leave no room for start and objects gives way to them.

    Attributes:
      min_size, max_size: cells of a side.
      min_objects, n_objects: how many.
      n_walls: on the largest grid.
      min_steps, max_steps: time limit.
      min_end, max_end, min_return, max_return: probabilities of objects.
    """

    min_size: int = 4
    max_size: int = 10
    min_objects: int = 1
    n_walls: int = 15
    min_steps: int = 20
    max_steps: int = 750
    min_end: float = _END[0]
    max_end: float = _END[1]
    min_return: float = _RETURN[0]
    max_return: float = _RETURN[1]

    def __post_init__(self):
        if not 1 <= self.min_size <= self.max_size <= min(self.height, self.width):
            raise UserError(
                f"Sizes {self.min_size} to {self.max_size} do not fit "
                f"{self.height}x{self.width} cells: choose 1 <= min_size <= max_size "
                "<= height and width."
            )
        if not 1 <= self.min_objects <= self.n_objects < self.min_size**2:
            raise UserError(
                f"{self.min_objects} to {self.n_objects} objects do not fit a grid of "
                f"{self.min_size}x{self.min_size}: choose fewer or a larger min_size."
            )
        if not 0 <= self.n_walls <= self.height * self.width:
            raise UserError(f"n_walls is {self.n_walls}: choose fewer.")
        if not 1 <= self.min_steps <= self.max_steps:
            raise UserError(
                f"min_steps is {self.min_steps} and max_steps {self.max_steps}: choose "
                "1 <= min_steps <= max_steps."
            )
        for low, high in (("min_end", "max_end"), ("min_return", "max_return")):
            if not 0 < getattr(self, low) <= getattr(self, high) <= 1:
                raise UserError(f"Choose 0 < {low} <= {high} <= 1.")

    def draw(self, key: jax.Array) -> GridTask:
        keys = jax.random.split(key, 9)
        shape, n = (self.height, self.width), self.n_objects
        size = jax.random.randint(keys[0], (), self.min_size, self.max_size + 1)
        rows, cols = jnp.indices(shape)
        outside = (rows >= size) | (cols >= size)
        order = jax.random.permutation(keys[1], self.height * self.width)
        walls = order.reshape(shape) < self.n_walls
        count = jax.random.randint(keys[2], (), self.min_objects, n + 1)
        exists = jnp.arange(n) < count
        low = jnp.where(jnp.arange(n) == 0, 0.0, -1.0)
        level = GridTask(
            blocked=outside,
            start=jnp.zeros(2, jnp.int32),
            places=jnp.zeros((n, 2), jnp.int32),
            exists=exists,
            reward=jax.random.uniform(keys[3], (n,), minval=low),
            p_end=_log_uniform(keys[4], (n,), self.min_end, self.max_end),
            p_return=_log_uniform(keys[5], (n,), self.min_return, self.max_return),
            max_steps=jnp.floor(
                _log_uniform(keys[6], (), self.min_steps, self.max_steps + 1)
            ).astype(jnp.int32),
            moves_objects=jnp.bool_(False),
        )
        return _furnish(keys[7], level, walls)


@dataclasses.dataclass(frozen=True)
class Classic(TaskLevels):
    """The tabular and random-object tasks of Oh et al. 2020 (appendix A.1, A.2).

    `TASKS` has their objects, as (how many, reward, p_end, p_return), sizes and time
    limits. Tabular ones draw places once a level, the others before every episode.

    Attributes:
      kinds: which; empty for all.
    """

    height: int = 13
    width: int = 13
    kinds: tuple[str, ...] = ()

    def __post_init__(self):
        unknown = set(self.kinds) - set(TASKS)
        if unknown:
            raise UserError(
                f"Unknown task {sorted(unknown)[0]}: choose {', '.join(TASKS)}."
            )
        if self.height < 13 or self.width < 13 or self.n_objects < 5:
            raise UserError("These tasks need height and width 13 and 5 objects.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks that are drawn."""
        return self.kinds or tuple(TASKS)

    def draw(self, key: jax.Array) -> GridTask:
        key_kind, key_places = jax.random.split(key)
        table = jax.tree.map(
            lambda *x: jnp.stack(x), *[self._template(name) for name in self.names]
        )
        kind = jax.random.randint(key_kind, (), 0, len(self.names))
        level = jax.tree.map(lambda x: x[kind], table)
        return _furnish(key_places, level, jnp.zeros(level.blocked.shape, bool))

    def _template(self, name: str) -> GridTask:
        """A task before start and objects have places."""
        size, objects, max_steps, walls = TASKS[name]
        blocked = np.ones((self.height, self.width), bool)
        blocked[: size[0], : size[1]] = False
        for row, col in walls:
            blocked[row, col] = True
        numbers = np.zeros((self.n_objects, 3), np.float32)
        rows = [row[1:] for row in objects for _ in range(int(row[0]))]
        numbers[: len(rows)] = rows
        leaves: dict[str, Any] = {
            "blocked": blocked,
            "start": np.zeros(2, np.int32),
            "places": np.zeros((self.n_objects, 2), np.int32),
            "exists": np.arange(self.n_objects) < len(rows),
            "max_steps": np.int32(max_steps),
            "moves_objects": np.bool_(name.startswith("random")),
        }
        leaves |= {field: numbers[:, i] for i, field in enumerate(_NUMBERS)}
        return GridTask(**leaves)


_DENSE = ((2, 1.0, 0.0, 0.05), (1, -1.0, 0.5, 0.1), (1, -1.0, 0.0, 0.5))
_SPARSE = ((1, 1.0, 1.0, 0.0), (1, -1.0, 1.0, 0.0))
_LONG = ((2, 1.0, 0.0, 0.01), (2, -1.0, 0.5, 1.0))
_LONGER = ((2, 1.0, 0.1, 0.01), (3, -1.0, 0.8, 1.0))
# A wall with two doors, and a cross with four.
_WALL = tuple((4, col) for col in range(9) if col not in (2, 6))
_CROSS = tuple((5, i) for i in range(11) if i not in (2, 8)) + tuple(
    (i, 5) for i in range(11) if i not in (2, 5, 8)
)

# Name -> size, objects, time limit, walls. "longer" and "long_dense" with GROOVE's
# walls and number of objects; the sizes of doors are ours.
TASKS: dict[str, tuple[Any, ...]] = {
    "dense": ((11, 11), _DENSE, 500, ()),
    "sparse": ((13, 13), _SPARSE, 50, ()),
    "long": ((11, 11), _LONG, 1000, ()),
    "longer": ((9, 9), _LONGER, 2000, _WALL),
    "long_dense": ((11, 11), ((4, 1.0, 0.0, 0.005),), 2000, _CROSS),
    "random_dense": ((11, 11), _DENSE, 500, ()),
    "random_long": ((11, 11), _LONG, 1000, ()),
    "random_small": ((5, 7), _DENSE, 500, ()),
    "random_small_sparse": ((5, 7), _SPARSE, 50, ()),
}

FAMILIES: dict[str, type[TaskLevels]] = {"generated": Generated, "classic": Classic}


def _log_uniform(key, shape, low, high) -> jax.Array:
    return jnp.exp(
        jax.random.uniform(key, shape, minval=jnp.log(low), maxval=jnp.log(high))
    )


def _furnish(key: jax.Array, level: GridTask, walls: jax.Array) -> GridTask:
    """Puts start and objects on free cells, and walls where they are not.

    What does not exist has no numbers and no place, so that equal tasks are equal.
    """
    n_cells = level.places.shape[0] + 1
    cells = scatter(key, 2 * level.blocked + walls, n_cells)
    there = level.exists
    level = level.replace(
        start=cells[0], places=jnp.where(there[:, None], cells[1:], 0)
    )
    numbers = {name: jnp.where(there, getattr(level, name), 0.0) for name in _NUMBERS}
    return level.replace(blocked=level.blocked | (walls & ~_taken(level)), **numbers)


def _taken(level: GridTask) -> jax.Array:
    """Cells of the start and of objects. bool[H, W]."""
    shape = level.blocked.shape
    here = jax.vmap(lambda place: mark(shape, place))(level.places)
    here &= level.exists[:, None, None]
    return mark(shape, level.start) | jnp.any(here, axis=0)


def _reachable(level: GridTask) -> jax.Array:
    """Which objects the start can walk to. bool[O]."""
    moves = paths.distances(level.blocked, level.start)
    return moves[level.places[:, 0], level.places[:, 1]] > 0


def _pick(key: jax.Array, mask: jax.Array) -> jax.Array:
    """A cell of a mask bool[H, W], uniformly. int32[2]."""
    weights = mask.reshape(-1) / jnp.sum(mask)
    cell = jax.random.choice(key, mask.size, p=weights)
    return jnp.stack(jnp.divmod(cell, mask.shape[1])).astype(jnp.int32)
