"""The environment contract: levels are arguments, episodes end honestly.

An `Env` is a frozen dataclass. Everything that fixes a shape is a field of it;
everything that varies between episodes lives in a *level*, a pytree that vmaps.
Nothing here resets by itself: `Replay` and `Resample` are wrappers that an
algorithm chooses by name.

Axis letters, the same everywhere: S seeds, T time, B environments, L levels,
A actions.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

LevelT = TypeVar("LevelT")
StateT = TypeVar("StateT")
PyTree = Any
#: Acts with full knowledge: (key, level, state) to an action; pure, and vmaps.
Controller = Callable[[jax.Array, Any, Any], jax.Array]


class Step(struct.PyTreeNode, Generic[StateT]):
    """What one environment step returns.

    `terminated` says that the value of what follows is zero, `truncated` that the
    clock ran out; they are never merged. `info` has fixed keys and shapes and
    always carries `success` (bool).
    """

    state: StateT
    obs: PyTree
    reward: jax.Array  # () float32
    terminated: jax.Array  # () bool
    truncated: jax.Array  # () bool
    info: dict[str, jax.Array]

    @property
    def done(self) -> jax.Array:
        """Whether the episode is over, for either reason. () bool."""
        return self.terminated | self.truncated


@dataclasses.dataclass(frozen=True)
class GoalLayout:
    """Where a flat observation holds what is reached and what should be.

    Attributes:
      achieved: indices of what stands now for what a goal asks (a position).
      goal: indices of the goal, in the same order.
    """

    achieved: tuple[int, ...]
    goal: tuple[int, ...]


class Env(abc.ABC, Generic[LevelT, StateT]):
    """An underspecified environment (UPOMDP): a level fixes the free parameters.

    Implementations are frozen dataclasses and pure: `reset` and `step` jit, vmap
    and scan. They never reset themselves.
    """

    @abc.abstractmethod
    def reset(self, key: jax.Array, level: LevelT) -> tuple[StateT, PyTree]:
        """Starts an episode on `level`; returns the state and first observation."""

    @abc.abstractmethod
    def step(
        self, key: jax.Array, level: LevelT, state: StateT, action: jax.Array
    ) -> Step[StateT]:
        """Advances one step; the observation is that of the state arrived at."""

    @property
    @abc.abstractmethod
    def observation_space(self) -> gymnasium.Space:
        """Describes one observation (metadata: spaces are unhashable)."""

    @property
    @abc.abstractmethod
    def action_space(self) -> gymnasium.Space:
        """Describes one action."""

    @property
    @abc.abstractmethod
    def max_episode_steps(self) -> int:
        """The longest that an episode can last, in steps."""

    @abc.abstractmethod
    def render(self, level: LevelT, state: StateT) -> jax.Array:
        """Draws the state: uint8[H, W, 3]."""

    @property
    def goal_layout(self) -> GoalLayout | None:
        """Where observations hold goals; None where they hold none."""
        return None

    def terminates(self, obs: jax.Array) -> jax.Array:
        """Whether an episode ends in what is seen in `obs` [..., O]. bool[...].

        Optional: what learns in a model of the environment may ask for it.

        Raises:
          NotImplementedError: it cannot be told from an observation.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say from an observation whether an "
            "episode ends: choose termination=learned."
        )

    def optimal_return(self, level: LevelT) -> jax.Array:
        """The best undiscounted return that any policy can reach on `level`.

        Optional: environments with an oracle override it, and the `true_regret`
        score needs it.

        Raises:
          NotImplementedError: the environment has no oracle.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no oracle for the best return, so the score "
            "true_regret is not available: choose another score."
        )


class Editor(Env[LevelT, StateT]):
    """A teacher's environment: an episode of fixed length ends in a level.

    Every episode takes exactly `max_episode_steps` steps. The reward is 0: whoever
    trains the teacher gives one for the finished level.
    """

    @abc.abstractmethod
    def finish(self, key: jax.Array, state: StateT) -> LevelT:
        """The level of a finished episode, of the train split."""


def select(predicate: jax.Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """`jnp.where` over whole pytrees with one scalar predicate."""
    return jax.tree.map(lambda a, b: _where(predicate, a, b), on_true, on_false)


def _where(predicate, a, b):
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        data = jnp.where(predicate, jax.random.key_data(a), jax.random.key_data(b))
        return jax.random.wrap_key_data(data)
    return jnp.where(predicate, a, b)


@dataclasses.dataclass(frozen=True)
class Wrapper(Env[LevelT, StateT]):
    """An environment around another one, with its spaces and time limit.

    Attributes:
      env: the environment inside.
      keep_final_obs: put the true last observation into `info["final_obs"]`. It
        doubles the memory of observations, so it is kept only where an algorithm
        bootstraps from it.
    """

    env: Env
    keep_final_obs: bool = False

    @property
    def observation_space(self):
        return self.env.observation_space

    @property
    def action_space(self):
        return self.env.action_space

    @property
    def max_episode_steps(self):
        return self.env.max_episode_steps


@dataclasses.dataclass(frozen=True)
class Replay(Wrapper[LevelT, StateT]):
    """Resets to the same level; the observation is then the next episode's first."""

    def reset(self, key, level):
        return self.env.reset(key, level)

    def step(self, key, level, state, action):
        key_step, key_reset = jax.random.split(key)
        step = self.env.step(key_step, level, state, action)
        first_state, first_obs = self.env.reset(key_reset, level)
        info = step.info
        if self.keep_final_obs:
            info = info | {"final_obs": step.obs}
        return step.replace(
            state=select(step.done, first_state, step.state),
            obs=select(step.done, first_obs, step.obs),
            info=info,
        )

    def render(self, level, state):
        return self.env.render(level, state)


class ResampleState(struct.PyTreeNode, Generic[StateT]):
    """State of `Resample`: the episode's state and which level it is played on."""

    state: StateT
    level_index: jax.Array  # () int32, index into the pool


@dataclasses.dataclass(frozen=True)
class Resample(Wrapper[LevelT, ResampleState[StateT]]):
    """Resets to a random level of a pool made before the rollout.

    Here `level` is the *pool*: levels stacked on a leading axis L. Generating a
    level inside each step would cost 20 to 50 times as much as indexing one.
    `info["level_index"]` is the level that the finished step was played on.
    """

    def reset(self, key, level) -> tuple[ResampleState[StateT], PyTree]:
        key_level, key_reset = jax.random.split(key)
        size = jax.tree.leaves(level)[0].shape[0]
        return self.reset_to(
            key_reset, level, jax.random.randint(key_level, (), 0, size, jnp.int32)
        )

    def reset_to(self, key, pool, level_index):
        """Starts an episode on the pool's level number `level_index`."""
        state, obs = self.env.reset(key, take(pool, level_index))
        return ResampleState(state=state, level_index=level_index), obs

    def step(self, key, level, state, action) -> Step[ResampleState[StateT]]:
        key_step, key_reset = jax.random.split(key)
        step = self.env.step(
            key_step, take(level, state.level_index), state.state, action
        )
        first_state, first_obs = self.reset(key_reset, level)
        info = step.info | {"level_index": state.level_index}
        if self.keep_final_obs:
            info = info | {"final_obs": step.obs}
        return Step(
            state=select(
                step.done,
                first_state,
                ResampleState(state=step.state, level_index=state.level_index),
            ),
            obs=select(step.done, first_obs, step.obs),
            reward=step.reward,
            terminated=step.terminated,
            truncated=step.truncated,
            info=info,
        )

    def render(self, level, state):
        return self.env.render(take(level, state.level_index), state.state)


def take(tree: PyTree, index: jax.typing.ArrayLike | slice) -> PyTree:
    """Indexes the leading axis of every leaf; `index` may have any shape."""
    return jax.tree.map(lambda x: x[index], tree)


def sample_action(key: jax.Array, space: gymnasium.Space) -> jax.Array:
    """Draws a uniform action from a gymnasium space, under jit.

    Raises:
      TypeError: the space is neither Discrete nor Box.
    """
    if isinstance(space, gymnasium.spaces.Discrete):
        return jax.random.randint(key, (), 0, int(space.n), jnp.int32) + int(
            space.start
        )
    if isinstance(space, gymnasium.spaces.Box):
        return jax.random.uniform(
            key, space.shape, jnp.float32, np.asarray(space.low), np.asarray(space.high)
        )
    raise TypeError(f"Actions of type {type(space).__name__} cannot be sampled.")


def check_env(
    env: Env[LevelT, StateT], level: LevelT, key: jax.Array, n_steps: int = 32
) -> None:
    """Asserts the contract that every Env promises, on one level.

    Checks that observations lie in the declared space, that `reset` and `step`
    agree in structure and type (so that they scan), that the same key gives the
    same step, that vmap equals a loop, that nothing retraces, and that `info`
    carries `success`.

    Raises:
      AssertionError: with a sentence that names the broken promise.
    """
    traces = {"step": 0}

    def counted_step(key, level, state, action):
        traces["step"] += 1
        return env.step(key, level, state, action)

    step_fn = jax.jit(counted_step)
    batched_fn = jax.jit(jax.vmap(env.step))
    reset_fn = jax.jit(env.reset)
    state, obs = reset_fn(key, level)
    for i in range(n_steps):
        step_key = jax.random.fold_in(key, i)
        action = sample_action(step_key, env.action_space)
        host_obs = jax.tree.map(np.asarray, obs)
        assert env.observation_space.contains(host_obs), (
            f"observation {i} lies outside observation_space"
        )
        args = (step_key, level, state, action)
        step = step_fn(*args)
        _assert_equal(step, step_fn(*args), "step is not a function of its arguments")
        assert "success" in step.info, "info lacks `success`"
        _assert_same_type(state, step.state, "state")
        _assert_same_type(obs, step.obs, "obs")
        assert step.reward.shape == () and step.reward.dtype == jnp.float32, (
            "the reward is not a scalar of float32"
        )
        assert step.terminated.dtype == bool and step.truncated.dtype == bool, (
            "terminated and truncated are not both bool"
        )
        assert bool(jnp.isfinite(step.reward)), "the reward is not finite"
        batch = batched_fn(*jax.tree.map(lambda x: jnp.asarray(x)[None], args))
        _assert_equal(take(batch, 0), step, "vmap of step differs from step", _ROUNDING)
        state, obs = step.state, step.obs
        if bool(step.done):
            state, obs = reset_fn(step_key, level)
    assert traces["step"] == 1, f"step was traced {traces['step']} times"


# Of float32 in programs that compute the same in another order.
_ROUNDING = 1e-5


def _assert_equal(a: PyTree, b: PyTree, complaint: str, tolerance: float = 0.0) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        # NaN equals NaN here; whether it is allowed is another question.
        if tolerance and jnp.issubdtype(x.dtype, jnp.floating):
            equal = np.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            is_float = jnp.issubdtype(x.dtype, jnp.floating)
            equal = np.array_equal(x, y, equal_nan=is_float)
        assert equal, complaint


def _assert_same_type(before: PyTree, after: PyTree, name: str) -> None:
    assert jax.tree.structure(before) == jax.tree.structure(after), (
        f"{name} changes structure between reset and step"
    )
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, (
            f"{name} changes shape or dtype between reset and step"
        )
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):  # keys are never weak
            assert a.weak_type == b.weak_type, f"{name} has a weak type after a step"
