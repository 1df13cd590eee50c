"""Tidying a table: an object is carried to a goal, or back to where it belongs."""

from __future__ import annotations

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen.env import Env, Step
from rlgen.envs.tabletop import physics
from rlgen.errors import UserError

TASK_VECTORS = ("embedding", "one-hot")

GOAL_RADIUS = 0.06  # m: nearer to the goal than this is at the goal
STILL = 0.05  # m/s: slower than this is at rest
_N_FIXED = 14  # numbers in an observation beside the task vector
_EMBEDDING_SEED = 2310_15145  # of the table of embeddings, the same for everyone


class Task(struct.PyTreeNode):
    """A task: where an object belongs, where it is to go, and which of the two now."""

    goal: jax.Array  # (2,) float32, m: where the forward task takes the object
    home: jax.Array  # (2,) float32, m: the middle of where the backward task takes it
    spread: jax.Array  # () float32, m: radius of home, where forward episodes begin
    mass: jax.Array  # () float32, kg of the object
    friction: jax.Array  # () float32, m/s^2 by which it gets slower when it slides
    number: jax.Array  # () int32, which the task vector tells
    backward: jax.Array  # () bool: back home instead of to the goal


class TabletopState(struct.PyTreeNode):
    """State of an episode."""

    body: physics.Body
    time: jax.Array  # () int32, steps since the reset or the last instruction


@dataclasses.dataclass(frozen=True)
class Tabletop(Env[Task, TabletopState]):
    """Carry an object to a goal ("forward") or back home ("backward").

    - observation: float32[14 + n]: place and velocity of the hand in x and y; whether
      the fingers are closed, whether they hold the object; its place as seen from the
      hand, and its velocity; then the instruction: the target's place as seen from the
      object, and its radius; whether it is the backward task (1) or the forward one
      (0), and n numbers of a task vector. Mass and friction are not observed; a task
      vector may tell them.
    - task vector: "embedding": a fixed direction for each task number, drawn uniformly;
      "one-hot": one of `vector_size` for the task number modulo that.
    - action: float32[3] in -1..1: velocity in x and y, and fingers, closed above 0.
    - dynamics: see `physics`; deterministic. Episodes begin at rest with open fingers,
      the hand anywhere, the object anywhere within home, or backward within the goal.
    - success: the object is within the target's radius, not held, and at rest (slower
      than 0.05 m/s).
    - reward: 1 with success, else 0.
    - terminated: with success.
    - truncated: `max_steps` are over without success.
    - info: `success`.

    Attributes:
      task_vector: "embedding" or "one-hot".
      vector_size: numbers in it.
      max_steps: time limit.
    """

    task_vector: str = "embedding"
    vector_size: int = 8
    max_steps: int = 40

    def __post_init__(self):
        if self.task_vector not in TASK_VECTORS:
            raise UserError(
                f"Unknown task_vector {self.task_vector!r}: choose "
                f"{', '.join(TASK_VECTORS)}."
            )
        if self.vector_size < 1 or self.max_steps < 1:
            raise UserError("vector_size and max_steps must be at least 1.")

    def reset(self, key, level):
        key_hand, key_object = jax.random.split(key)
        centre = jnp.where(level.backward, level.goal, level.home)
        radius = jnp.where(level.backward, GOAL_RADIUS, level.spread)
        place = centre + radius * _in_disc(key_object)
        body = physics.Body(
            hand=jax.random.uniform(
                key_hand, (2,), jnp.float32, -physics.EDGE, physics.EDGE
            ),
            hand_velocity=jnp.zeros(2, jnp.float32),
            object=jnp.clip(place, -physics.EDGE, physics.EDGE),
            object_velocity=jnp.zeros(2, jnp.float32),
            closed=jnp.bool_(False),
            holding=jnp.bool_(False),
        )
        state = TabletopState(body=body, time=jnp.int32(0))
        return state, self.observe(level, state)

    def step(self, key, level, state, action):
        del key  # the world is deterministic
        body = physics.move(state.body, action, level.mass, level.friction)
        after = TabletopState(body=body, time=state.time + 1)
        success = is_done(level, body)
        return Step(
            state=after,
            obs=self.observe(level, after),
            reward=success.astype(jnp.float32),
            terminated=success,
            truncated=(after.time >= self.max_steps) & ~success,
            info={"success": success},
        )

    def instruct(
        self, level: Task, state: TabletopState
    ) -> tuple[TabletopState, jax.Array]:
        """Tells another task, or the same again, and moves nothing.

        Returns:
          the state with a new clock, and what is observed.
        """
        state = state.replace(time=jnp.int32(0))
        return state, self.observe(level, state)

    def observe(self, level: Task, state: TabletopState) -> jax.Array:
        """What the agent sees in `state`; see the class for its parts."""
        body = state.body
        place, radius = target_of(level)
        flags = jnp.stack([body.closed, body.holding]).astype(jnp.float32)
        told = jnp.stack([radius, level.backward.astype(jnp.float32)])
        return jnp.concatenate(
            [
                body.hand,
                body.hand_velocity,
                flags,
                body.object - body.hand,
                body.object_velocity,
                place - body.object,
                told,
                self._vector(level),
            ]
        )

    def _vector(self, level: Task) -> jax.Array:
        if self.task_vector == "one-hot":
            return jax.nn.one_hot(level.number % self.vector_size, self.vector_size)
        key = jax.random.fold_in(jax.random.key(_EMBEDDING_SEED), level.number)
        vector = jax.random.normal(key, (self.vector_size,))
        return jnp.clip(vector / jnp.linalg.norm(vector), -1.0, 1.0)

    @property
    def visible(self) -> tuple[int, ...]:
        """Where observations hold what a picture would show: all but velocities."""
        velocities = (2, 3, 8, 9)
        return tuple(
            i for i in range(_N_FIXED + self.vector_size) if i not in velocities
        )

    def optimal_return(self, level: Task) -> jax.Array:
        """1: every task of the family can be done."""
        return jnp.float32(1.0) + 0.0 * level.mass

    @property
    def max_episode_steps(self) -> int:
        return self.max_steps

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        edge, fast = [physics.EDGE] * 2, [physics.MAX_SPEED] * 2
        flags, far = [1.0, 1.0], [2 * physics.EDGE] * 2
        high = [*edge, *fast, *flags, *far, *fast, *far, far[0], 1.0]
        low = [*(-x for x in high)]
        for i in (4, 5, 12, 13):
            low[i] = 0.0
        lowest = 0.0 if self.task_vector == "one-hot" else -1.0
        low += [lowest] * self.vector_size
        high += [1.0] * self.vector_size
        return gymnasium.spaces.Box(
            np.array(low, np.float32), np.array(high, np.float32)
        )

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)

    def render(self, level: Task, state: TabletopState) -> jax.Array:
        from rlgen.envs.tabletop import render  # pictures are rare: import when asked

        return render.render(level, state.body)


def target_of(level: Task) -> tuple[jax.Array, jax.Array]:
    """Where the object is to be: the middle float32[2] and the radius (), m."""
    place = jnp.where(level.backward, level.home, level.goal)
    return place, jnp.where(level.backward, level.spread, GOAL_RADIUS)


def is_done(level: Task, body: physics.Body) -> jax.Array:
    """Whether the object lies at its target; see `Tabletop`. () bool."""
    place, radius = target_of(level)
    there = jnp.sum(jnp.square(body.object - place)) < jnp.square(radius)
    rests = jnp.sum(jnp.square(body.object_velocity)) < STILL**2
    return there & rests & ~body.holding


def _in_disc(key: jax.Array) -> jax.Array:
    """A place in the unit disc, uniformly. float32[2]."""
    key_radius, key_angle = jax.random.split(key)
    radius = jnp.sqrt(jax.random.uniform(key_radius))
    angle = jax.random.uniform(key_angle, maxval=2 * jnp.pi)
    return radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
