"""COCOA's anchors: states like the data's that a policy walks back to in a model.

Song et al. 2024. A divergent policy walks away from recorded states in a model of the
dynamics backwards in time; what leads back, forwards in time, is cloned by the
anchor-seeking policy; a state's anchor is where that policy comes to in a few steps of
the forward model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rlgen.algos.offline.dynamics import (
    DynamicsParams,
    DynamicsStage,
    pick,
)
from rlgen.algos.offline.encoder import Encoder, Statistics
from rlgen.algos.offline.model_based import DYNAMICS
from rlgen.algos.offline.stages import Stage
from rlgen.algos.offline.transduction import Pair, paired
from rlgen.errors import UserError
from rlgen.mlp import MLP
from rlgen.ranges import Count, CountOrZero, PositiveOrZero, Settings
from rlgen.transitions import OfflineData

PyTree = Any
REVERSE, SEEKER = "reverse", "seeker"
ANCHORS = ("seeker", "random", "nearest", "nearest-difference")
_ADAM = optax.scale_by_adam()


@dataclasses.dataclass(frozen=True)
class AnchorConfig(Settings):
    """Settings of anchors and of the policy that seeks them.

    Attributes:
      anchors: where a state's anchor is from: the "seeker" policy; a "random" recorded
        state; the "nearest" recorded one; or "nearest-difference": the recorded one
        whose difference is most like one between recorded states (Netanyahu et al.
        2023). All but the first choose among `n_candidates` recorded states.
      horizon: steps that the seeker takes; 0 makes the state its own anchor.
      n_candidates: recorded states, and differences, to choose from.
      divergence: scale of the direction that reverse rollouts keep.
      divergence_noise: deviation of the noise on it.
      reverse_length: steps of a reverse rollout.
      seeker_updates: updates of the run that the seeker is trained for.
      seeker_layers, seeker_units: its hidden layers, and their width.
      seeker_lr: learning rate of Adam.
      seeker_batch_size: steps in a gradient step.
    """

    anchors: str = "seeker"
    horizon: CountOrZero = 1
    n_candidates: Count = 128
    divergence: PositiveOrZero = 0.8
    divergence_noise: PositiveOrZero = 0.1
    reverse_length: Count = 5
    seeker_updates: Count = 10
    seeker_layers: Count = 2
    seeker_units: Count = 100
    seeker_lr: PositiveOrZero = 1e-3
    seeker_batch_size: Count = 256

    def __post_init__(self):
        super().__post_init__()
        if self.anchors not in ANCHORS:
            raise UserError(
                f"Unknown anchors {self.anchors!r}: choose {', '.join(ANCHORS)}."
            )


class Seeker:
    """The anchor-seeking policy: deterministic, frozen once it is trained."""

    def __init__(self, config: AnchorConfig, action_size: int):
        self._mlp = MLP(
            config.seeker_layers, config.seeker_units, action_size, layer_norm=True
        )

    def init(self, key: jax.Array, n_inputs: int) -> PyTree:
        """Its parameters."""
        return self._mlp.init(key, n_inputs)

    def __call__(self, params: PyTree, x: jax.Array) -> jax.Array:
        """Actions [..., A] for normalised states [..., O]."""
        return jnp.tanh(self._mlp(params, x))


class SeekerState(struct.PyTreeNode):
    """The seeker in training."""

    params: PyTree
    moments: PyTree
    statistics: Statistics


@dataclasses.dataclass(frozen=True)
class SeekerStage(Stage):
    """Trains the anchor-seeking policy on divergent reverse rollouts.

    They are made as they are needed, from states drawn from the whole dataset.

    Attributes:
      seeker: it.
      reverse: the stage that trained the model backwards in time.
      config: settings.
      n_steps: gradient steps of an update.
      n_updates: updates of the run.
    """

    seeker: Seeker
    reverse: DynamicsStage
    config: AnchorConfig
    n_steps: int
    n_updates: int

    @property
    def metrics(self):
        return ("seeker_loss",)

    def init(self, key, data) -> SeekerState:
        obs = jnp.asarray(data.rows.obs)
        params = self.seeker.init(key, obs.shape[-1])
        return SeekerState(params, _ADAM.init(params), Statistics.of(obs))

    def diverge(
        self, model: DynamicsParams, data: OfflineData, key: jax.Array, n: int
    ) -> tuple[jax.Array, jax.Array]:
        """Walks away from recorded states: states and the actions that lead back.

        Each of n rollouts keeps one recorded action as its direction, so that they fan
        out. Returns float32[H, n, O] and float32[H, n, A].
        """
        config, dynamics = self.config, self.reverse.dynamics
        key, key_start, key_direction = jax.random.split(key, 3)
        size = len(data.rows)
        start = data.rows.next_obs[jax.random.randint(key_start, (n,), 0, size)]
        way = data.rows.action[jax.random.randint(key_direction, (n,), 0, size)]

        def step(obs, key):
            key_act, key_member, key_noise = jax.random.split(key, 3)
            noise = config.divergence_noise * jax.random.normal(key_act, way.shape)
            action = jnp.clip(config.divergence * way + noise, -1.0, 1.0)
            said = dynamics.predict(model, obs, action)
            member = jax.random.randint(key_member, (n,), 0, dynamics.config.n_elites)
            mean, std = pick(said.mean, member), pick(said.std, member)
            before = obs + mean + std * jax.random.normal(key_noise, mean.shape)
            # A model that left the numbers is not followed.
            before = jnp.where(jnp.isfinite(before), before, obs)
            return before, (before, action)

        keys = jax.random.split(key, config.reverse_length)
        return jax.lax.scan(step, start, keys)[1]

    def update(self, state, stages, data, key):
        config = self.config
        model = self.reverse.best(stages[REVERSE])
        n_rollouts = -(-config.seeker_batch_size // config.reverse_length)

        def step(carry, key):
            params, moments = carry
            obs, action = self.diverge(model, data, key, n_rollouts)
            x = state.statistics.normalize(obs)

            def loss(params):
                return jnp.square(self.seeker(params, x) - action).mean()

            value, grads = jax.value_and_grad(loss)(params)
            updates, moments = _ADAM.update(grads, moments)
            moved = jax.tree.map(lambda p, u: p - config.seeker_lr * u, params, updates)
            return (moved, moments), value

        (params, moments), loss = jax.lax.scan(
            step, (state.params, state.moments), jax.random.split(key, self.n_steps)
        )
        state = state.replace(params=params, moments=moments)
        return state, {"seeker_loss": loss.mean()}

    def params(self, state: SeekerState) -> PyTree:
        return state.params


class AnchorParams(struct.PyTreeNode):
    """What turns a state into a pair; no gradient reaches it."""

    statistics: Statistics
    candidates: jax.Array  # (M, O) recorded states
    differences: jax.Array  # (M, O) between recorded states
    model: DynamicsParams | None
    seeker: PyTree


@dataclasses.dataclass(frozen=True)
class AnchorEncoder(Encoder):
    """Encodes a state as a `Pair` of anchor and difference.

    Attributes:
      config: settings.
      seeker: the anchor-seeking policy.
      forward: the stage that trained the model forwards in time; None where anchors
        are not sought.
    """

    config: AnchorConfig
    seeker: Seeker | None = None
    forward: DynamicsStage | None = None

    def init(self, data: OfflineData) -> AnchorParams:
        obs = jnp.asarray(data.rows.obs)
        # Spread over the whole dataset, the same for every seed.
        key_a, key_b = jax.random.split(jax.random.key(len(obs)))
        shape = (self.config.n_candidates,)
        candidates = obs[jax.random.randint(key_a, shape, 0, len(obs))]
        others = obs[jax.random.randint(key_b, shape, 0, len(obs))]
        return AnchorParams(
            Statistics.of(obs), candidates, others - candidates, None, None
        )

    def params(self, start: AnchorParams, stages: Mapping[str, PyTree]) -> AnchorParams:
        if self.forward is None:
            return start
        model = self.forward.best(stages[DYNAMICS])
        return start.replace(model=model, seeker=stages[SEEKER].params)

    def anchor(self, params: AnchorParams, obs: jax.Array) -> jax.Array:
        """Anchors [..., O] of states [..., O]."""
        kind = self.config.anchors
        if kind == "seeker":
            return self._sought(params, obs)
        flat = obs.reshape(-1, obs.shape[-1])
        if kind == "random":
            index = _hashed(flat) % len(params.candidates)
        elif kind == "nearest":
            index = self._nearest(params, flat)
        else:
            index = self._nearest_difference(params, flat)
        return params.candidates[index].reshape(obs.shape)

    def _sought(self, params: AnchorParams, obs: jax.Array) -> jax.Array:
        """Steps of the seeker in the mean of the model's elites, without noise."""
        if self.config.horizon == 0:
            return obs
        seeker, forward, model = self.seeker, self.forward, params.model
        assert seeker is not None and forward is not None and model is not None
        dynamics = forward.dynamics
        n_elites = dynamics.config.n_elites

        def step(obs, _):
            action = seeker(params.seeker, params.statistics.normalize(obs))
            said = dynamics.predict(model, obs, action)
            return obs + said.mean[:n_elites].mean(axis=0)[..., : obs.shape[-1]], None

        return jax.lax.scan(step, obs, length=self.config.horizon)[0]

    def _nearest(self, params: AnchorParams, obs: jax.Array) -> jax.Array:
        near = params.statistics.normalize(params.candidates)
        return _square_distances(params.statistics.normalize(obs), near).argmin(axis=1)

    def _nearest_difference(self, params: AnchorParams, obs: jax.Array) -> jax.Array:
        std = params.statistics.std
        known = params.differences / std

        def to_candidate(candidate):
            return _square_distances((obs - candidate) / std, known).min(axis=1)

        return jax.lax.map(to_candidate, params.candidates).argmin(axis=0)

    def __call__(self, params: AnchorParams, obs: jax.Array) -> Pair:
        anchor = jax.lax.stop_gradient(self.anchor(params, obs))
        return paired(obs, anchor, params.statistics.mean, params.statistics.std)


def _square_distances(a: jax.Array, b: jax.Array) -> jax.Array:
    """Between rows [N, O] and [M, O]: [N, M]."""
    return (
        jnp.square(a).sum(axis=1)[:, None] + jnp.square(b).sum(axis=1) - 2.0 * a @ b.T
    )


def _hashed(obs: jax.Array) -> jax.Array:
    """A number that looks random but is the state's own. uint32[N]."""
    words = jax.lax.bitcast_convert_type(obs.astype(jnp.float32), jnp.uint32)
    odd = 2 * jnp.arange(obs.shape[-1], dtype=jnp.uint32) + 1
    mixed = (words * (odd * jnp.uint32(0x9E3779B1))).sum(axis=-1, dtype=jnp.uint32)
    return (mixed ^ (mixed >> 15)) * jnp.uint32(0x85EBCA6B) >> 8
