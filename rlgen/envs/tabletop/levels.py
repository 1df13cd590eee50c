"""The family of tabletop tasks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.envs.tabletop.env import Task
from rlgen.envs.tabletop.physics import EDGE
from rlgen.errors import UserError
from rlgen.levels import LevelFileError, LevelSpace, hash_leaves, resample_until

DIRECTIONS = ("both", "forward", "backward")

FARTHEST = 0.8 * EDGE  # m: goals and homes are not nearer to an edge
APART = 0.5  # m, at least, between goal and home
SPREAD = (0.1, 0.2)  # m
MASS = (0.5, 2.0)  # kg
FRICTION = (3.0, 10.0)  # m/s^2
_N_NUMBERS = 2**20  # so that hardly two tasks share one
_EDIT, _LEAST_EDIT = 0.1, 0.01  # of an edit in m: standard deviation, and at least


@dataclasses.dataclass(frozen=True)
class Tasks(LevelSpace[Task]):
    """Goals, homes, masses and frictions, each uniform in its range.

    A task belongs to a split whatever its direction and its number: who has trained to
    tidy up has seen the task.

    Attributes:
      direction: of its tasks: forward, backward or both, by a fair coin.
    """

    direction: str = "both"

    def __post_init__(self):
        if self.direction not in DIRECTIONS:
            raise UserError(
                f"Unknown direction {self.direction!r}: choose {', '.join(DIRECTIONS)}."
            )

    def sample(self, key: jax.Array) -> Task:
        return resample_until(self._draw, _is_wide, key)[0]

    def _draw(self, key: jax.Array) -> Task:
        keys = jax.random.split(key, 7)

        def uniform(key, low, high, shape=()):
            return jax.random.uniform(key, shape, jnp.float32, low, high)

        coin = jax.random.bernoulli(keys[6])
        return Task(
            goal=uniform(keys[0], -FARTHEST, FARTHEST, (2,)),
            home=uniform(keys[1], -FARTHEST, FARTHEST, (2,)),
            spread=uniform(keys[2], *SPREAD),
            mass=uniform(keys[3], *MASS),
            friction=uniform(keys[4], *FRICTION),
            number=jax.random.randint(keys[5], (), 0, _N_NUMBERS, jnp.int32),
            backward={
                "both": coin,
                "forward": jnp.bool_(False),
                "backward": jnp.bool_(True),
            }[self.direction],
        )

    def valid(self, level: Task) -> jax.Array:
        """Whether all is in its range, and goal and home far enough apart. () bool."""
        inside = [jnp.all(jnp.abs(x) <= FARTHEST) for x in (level.goal, level.home)]
        for value, (low, high) in (
            (level.spread, SPREAD),
            (level.mass, MASS),
            (level.friction, FRICTION),
        ):
            value = jnp.asarray(value)
            inside.append((value >= np.float32(low)) & (value <= np.float32(high)))
        return jnp.all(jnp.stack(inside)) & _is_wide(level)

    def features(self, level: Task) -> dict[str, jax.Array]:
        """How far the object has to go in m, and what it is like."""
        return {
            "distance": _distance(level),
            "spread": jnp.asarray(level.spread, jnp.float32),
            "mass": jnp.asarray(level.mass, jnp.float32),
            "friction": jnp.asarray(level.friction, jnp.float32),
            "backward": jnp.asarray(level.backward, jnp.float32),
        }

    def mutate(self, key: jax.Array, level: Task) -> Task:
        """Moves the goal or the home, such that the task stays one of the family."""

        def draw(key):
            key_which, key_size, key_angle = jax.random.split(key, 3)
            size = _LEAST_EDIT + _EDIT * jnp.abs(jax.random.normal(key_size))
            angle = jax.random.uniform(key_angle, maxval=2 * jnp.pi)
            shift = size * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
            of_goal = jax.random.bernoulli(key_which)
            return level.replace(
                goal=level.goal + jnp.where(of_goal, shift, 0.0),
                home=level.home + jnp.where(of_goal, 0.0, shift),
            )

        return resample_until(draw, self.valid, key)[0]

    def hash(self, level: Task) -> jax.Array:
        scene = level.replace(backward=jnp.bool_(False), number=jnp.int32(0))
        # Splits go by the second word.
        return jnp.stack([hash_leaves(level)[0], hash_leaves(scene)[1]])

    def to_str(self, level: Task) -> str:
        """The task as a line of JSON, as many digits as float32 needs."""
        return json.dumps({name: _plain(value) for name, value in vars(level).items()})

    def from_str(self, text: str) -> Task:
        try:
            values = dict(json.loads(text))
            level = task(**values)
            shapes = [np.shape(leaf) for leaf in jax.tree.leaves(level)]
            if shapes != [np.shape(leaf) for leaf in jax.tree.leaves(self.example())]:
                raise ValueError("goal and home are two numbers each, others one")
            if not self.valid(level):
                raise ValueError("a number is out of its range")
        except (ValueError, TypeError, OverflowError) as error:
            raise LevelFileError(
                f"This is no task ({error}): give goal, home, spread, mass, friction, "
                "number and backward as a line of JSON."
            ) from None
        return level

    def example(self) -> Task:
        return task([0.5, 0.0], [-0.5, 0.0], 0.15, 1.0, 4.0, 0, False)


def task(
    goal: Any,
    home: Any,
    spread: float,
    mass: float,
    friction: float,
    number: int,
    backward: bool,
) -> Task:
    """A task of plain numbers, as host arrays."""
    leaves: dict[str, Any] = {
        "goal": np.asarray(goal, np.float32),
        "home": np.asarray(home, np.float32),
        "spread": np.float32(spread),
        "mass": np.float32(mass),
        "friction": np.float32(friction),
        "number": np.int32(number),
        "backward": np.bool_(backward),
    }
    return Task(**leaves)


def _distance(level: Task) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(jnp.asarray(level.goal) - level.home)))


def _is_wide(level: Task) -> jax.Array:
    return _distance(level) >= APART


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    if array.ndim:
        return [_plain(each) for each in array]
    if array.dtype == np.float32:
        return float(str(array[()]))
    return array.item()


FAMILIES: Mapping[str, type[Tasks]] = {"tasks": Tasks}
