"""Simulations of brax (Freeman et al. 2021) behind the contract of environments."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import importlib
import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen.env import Env, Step, select
from rlgen.envs.physics import sketch
from rlgen.errors import UserError

PyTree = Any
LevelT = TypeVar("LevelT")
BACKENDS = ("spring", "positional", "generalized", "mjx")


class Task(NamedTuple):
    """What the lab adds to a task of brax."""

    aim: str  # "balance", "reach" or "walk"
    scale: float  # pixels per metre


TASKS = {
    "inverted_pendulum": Task("balance", 70.0),
    "inverted_double_pendulum": Task("balance", 40.0),
    "reacher": Task("reach", 220.0),
    "pusher": Task("reach", 75.0),
    "hopper": Task("walk", 45.0),
    "walker2d": Task("walk", 45.0),
    "halfcheetah": Task("walk", 45.0),
    "ant": Task("walk", 45.0),
    "humanoid": Task("walk", 45.0),
}

_REACHED = 0.05  # metres
_PACE = 1.0  # m/s; by random actions no walker gets near it


def _within(x: jax.Array, low: float, high: float) -> jax.Array:
    return (low < x) & (x < high)


def _tip(obs: jax.Array) -> jax.Array:
    """Height of a double pendulum's tip: two poles of 0.6 m, whose joints hold."""
    (sin1, sin2), (cos1, cos2) = (
        jnp.moveaxis(obs[..., i : i + 2], -1, 0) for i in (1, 3)
    )
    return 0.6 * (cos1 + cos1 * cos2 - sin1 * sin2)


def _always(obs: jax.Array) -> jax.Array:
    return jnp.ones(obs.shape[:-1], bool)


# Whether an episode goes on, from observations [..., n], as the tasks of brax have it.
# What is not here observes too little of it.
_GOES_ON: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "inverted_pendulum": lambda obs: jnp.abs(obs[..., 1]) <= 0.2,
    "inverted_double_pendulum": lambda obs: _tip(obs) > 1.0,
    "reacher": _always,
    "pusher": _always,
    "halfcheetah": _always,
    "hopper": lambda obs: (
        _within(obs[..., 0], 0.7, jnp.inf)
        & _within(obs[..., 1], -0.2, 0.2)
        & _within(obs[..., 1:], -100.0, 100.0).all(axis=-1)
    ),
    "walker2d": lambda obs: (
        _within(obs[..., 0], 0.8, 2.0) & _within(obs[..., 1], -1.0, 1.0)
    ),
    "ant": lambda obs: (obs[..., 0] >= 0.2) & (obs[..., 0] <= 1.0),
}


class SimulationState(struct.PyTreeNode):
    """State of an episode: what the simulation goes on from, and the clock."""

    pipeline_state: PyTree  # of the backend; positions and velocities of all bodies
    time: jax.Array  # () int32


@dataclasses.dataclass(frozen=True)
class Simulation(Env[LevelT, SimulationState]):
    """A task of brax, with its own dynamics, observations and rewards.

    Observation: float32[n], what the task observes; zeros if it is not finite.
    Action: float32[m]; the simulation gets it clipped to -1..1.
    Reward: the task's.
    Termination: where the task ends (most do when the body falls), and when the
    simulation is no longer finite: that step pays nothing and `info["non_finite"]`
    says so.
    Truncation: after `episode_length` steps.
    Success, known with the last step: a pendulum is up when time is up; the arm's tip
    (reacher) or the object (pusher) is within 5 cm of its target; a walker, however
    early it fell, has come as far as at 1 m/s in all of `episode_length`.

    Subclasses say what a level means: where an episode starts, and in what physics.

    Attributes:
      task: one of `TASKS`.
      backend: physics, one of `BACKENDS`.
      episode_length: steps.
    """

    task: str = "inverted_pendulum"
    backend: str = "spring"
    episode_length: int = 1000

    def __post_init__(self):
        for name, value, known in (
            ("task", self.task, TASKS),
            ("backend", self.backend, BACKENDS),
        ):
            if value not in known:
                raise UserError(f"Unknown {name} {value!r}: choose {', '.join(known)}.")
        if self.episode_length < 1:
            raise UserError(
                f"episode_length is {self.episode_length}: choose at least 1."
            )

    @property
    def nominal(self) -> Any:
        """The task's own simulation."""
        return make_simulator(self.task, self.backend)

    @abc.abstractmethod
    def simulator(self, level: LevelT) -> Any:
        """The environment of brax that plays a level."""

    @abc.abstractmethod
    def start_key(self, key: jax.Array, level: LevelT) -> jax.Array:
        """What the initial state is drawn from."""

    def observe(self, level: LevelT, obs: jax.Array) -> jax.Array:
        """An observation from what the task observes: just that."""
        del level
        return obs

    @property
    def n_features(self) -> int:
        """Size of what the task observes."""
        return _observation_size(self.task, self.backend)

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-np.inf, np.inf, (self.n_features,), np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1.0, 1.0, (self.nominal.action_size,), np.float32)

    @property
    def max_episode_steps(self) -> int:
        return self.episode_length

    def reset(self, key: jax.Array, level: LevelT):
        first = self.simulator(level).reset(self.start_key(key, level))
        state = SimulationState(first.pipeline_state, time=jnp.int32(0))
        return state, self.observe(level, first.obs)

    def step(self, key: jax.Array, level: LevelT, state: SimulationState, action):
        del key
        simulator = self.simulator(level)
        after = simulator.step(_resume(state), jnp.clip(action, -1.0, 1.0))
        reward = jnp.asarray(after.reward, jnp.float32)
        finite = _all_finite((after.pipeline_state, after.obs, reward))
        time = state.time + 1
        terminated = (after.done > 0.5) | ~finite
        truncated = (time >= self.episode_length) & ~terminated
        reaches = self._reaches_aim(after, truncated)
        return Step(
            state=SimulationState(
                # The last finite one, so that nothing else ever leaves a step.
                select(finite, after.pipeline_state, state.pipeline_state),
                time=time,
            ),
            obs=self.observe(level, jnp.where(finite, after.obs, 0.0)),
            reward=jnp.where(finite, reward, 0.0),
            terminated=terminated,
            truncated=truncated,
            info={
                "success": (terminated | truncated) & reaches & finite,
                "non_finite": ~finite,
            },
        )

    def terminates(self, obs: jax.Array) -> jax.Array:
        if self.task not in _GOES_ON:
            return super().terminates(obs)
        obs = obs[..., : self.n_features]
        return ~(_GOES_ON[self.task](obs) & jnp.isfinite(obs).all(axis=-1))

    def _reaches_aim(self, after: Any, truncated: jax.Array) -> jax.Array:
        aim = TASKS[self.task].aim
        if aim == "balance":
            return truncated
        if aim == "reach":
            return -after.metrics["reward_dist"] < _REACHED
        # All walkers start within centimetres of the origin.
        distance = _PACE * self.episode_length * self.nominal.dt
        return after.pipeline_state.x.pos[0, 0] >= distance

    def render(self, level: LevelT, state: SimulationState) -> jax.Array:
        """Links as rods: from above where something is reached, else from the side.

        A rod runs from a link's joint through its centre of mass and as far again, so a
        limb that is a capsule is drawn at its length; another rod ties it to its
        parent. What hangs on nothing, except the body itself, is a thing.
        """
        del level
        aim, scale = TASKS[self.task]
        system, x = self.nominal.sys, state.pipeline_state.x
        axes = np.array([0, 1] if aim == "reach" else [0, 2])
        mass = x.vmap().do(system.link.inertia.transform).pos[:, axes]
        joint = x.pos[:, axes]
        parents = np.array(system.link_parents)
        links = np.arange(len(parents))
        free = (parents < 0) & (links > 0)
        limbs, tied = links[~free], links[parents >= 0]
        rods = jnp.concatenate(
            [
                jnp.stack([joint[limbs], 2 * mass[limbs] - joint[limbs]], axis=1),
                jnp.stack([joint[parents[tied]], joint[tied]], axis=1),
            ]
        )
        middle = {
            "balance": jnp.array([0.0, 0.5]),
            "reach": jnp.zeros(2),
            "walk": jnp.stack([joint[0, 0], jnp.float32(0.9)]),
        }[aim]
        return sketch.draw(rods, mass[free], middle, scale, ground=aim != "reach")


@functools.cache
def make_simulator(task: str, backend: str) -> Any:
    """The environment of brax, made once in a process; nobody may change it."""
    # MuJoCo, which reads the models, prints that it can do without warp, and writes
    # what it thinks of the cheetah's model to a file in the working directory.
    with contextlib.redirect_stdout(io.StringIO()):
        from brax import envs
    mujoco: Any = importlib.import_module("mujoco")  # its types lack these functions
    on_warning = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: None)
    try:
        # The first use may be inside a trace, whose arrays must not be remembered.
        with jax.ensure_compile_time_eval(), warnings.catch_warnings():
            # That brax is no longer maintained helps nobody in the middle of a run.
            warnings.filterwarnings("ignore", "Brax System", UserWarning)
            return envs.get_environment(task, backend=backend)
    finally:
        mujoco.set_mju_user_warning(on_warning)


@functools.cache
def _observation_size(task: str, backend: str) -> int:
    reset = make_simulator(task, backend).reset
    return jax.eval_shape(reset, jax.random.key(0)).obs.shape[0]


def _resume(state: SimulationState) -> Any:
    """The state of brax to step from: of the rest, tasks read nothing."""
    from brax import envs

    nothing = jnp.float32(0.0)
    return envs.State(
        pipeline_state=state.pipeline_state, obs=nothing, reward=nothing, done=nothing
    )


def _all_finite(tree: PyTree) -> jax.Array:
    """Whether no number of the tree is infinite or NaN. () bool."""
    leaves = [
        jnp.all(jnp.isfinite(leaf))
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    return jnp.all(jnp.stack(leaves))
