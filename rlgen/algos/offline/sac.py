"""Soft actor-critic and what offline learning made of it: SAC-N, EDAC, CQL, Cal-QL.

One agent, whose settings say which. SAC is Haarnoja et al. 2018, SAC-N and EDAC are An
et al. 2021, CQL is Kumar et al. 2020, Cal-QL is Nakamoto et al. 2023.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlgen import distributions
from rlgen.algos.offline.agent import Agent, AgentConfig, AgentState, descend, follow
from rlgen.errors import UserError
from rlgen.ranges import Count, Finite, Positive, PositiveOrZero


@dataclasses.dataclass(frozen=True)
class SACConfig(AgentConfig):
    """Settings of SAC, SAC-N, EDAC, CQL and Cal-QL.

    Attributes:
      n_critics: how many; targets take the least of them.
      entropy_backup: count the policy's entropy in the critics' target.
      temperature: alpha at the start.
      temperature_lr: its learning rate; 0 keeps it.
      max_temperature: alpha is kept below.
      entropy_per_action: the entropy that alpha is steered to, for each number of the
        action.
      backup_actions: actions that are tried after a step, of which targets take the one
        of most value (max-target backup); 1 is the policy's own.
      floor_target: targets are at least `target_floor`.
      target_floor: see there; 0 where no return is negative.
      diversity: eta, weight of EDAC's term that makes critics' slopes differ.
      cql_weight: of the conservative term; 0 leaves it out.
      cql_actions: sampled actions of each kind (uniform, now, after the step).
      cql_temperature: tau of the soft maximum over them.
      cql_importance: weigh sampled actions by their density.
      cql_gap: with a Lagrange multiplier, the gap that is tolerated; below 0 without.
      multiplier: it at the start.
      multiplier_lr: its learning rate.
      calibrated: values of the policy's actions count at least the return that the
        data had from there (Cal-QL).
    """

    n_critics: Count = 2
    entropy_backup: bool = True
    temperature: Positive = 1.0
    temperature_lr: PositiveOrZero = 3e-4
    max_temperature: Positive = 1e6
    entropy_per_action: Finite = -1.0
    backup_actions: Count = 1
    floor_target: bool = False
    target_floor: Finite = 0.0
    diversity: PositiveOrZero = 0.0
    cql_weight: PositiveOrZero = 0.0
    cql_actions: Count = 10
    cql_temperature: Positive = 1.0
    cql_importance: bool = True
    cql_gap: Finite = -1.0
    multiplier: Positive = 1.0
    multiplier_lr: PositiveOrZero = 3e-4
    calibrated: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.diversity > 0 and self.n_critics < 2:
            raise UserError("diversity needs n_critics of at least 2.")
        if self.cql_weight <= 0 and (self.cql_gap >= 0 or self.calibrated):
            raise UserError(
                "cql_gap and calibrated have no effect without cql_weight: set it."
            )


class Sampled(NamedTuple):
    """M sampled actions of each of three kinds, for B states."""

    action: jax.Array  # (3 M, B, A)
    log_density: jax.Array  # (3 M, B)


def conservative_gap(
    sampled_q: jax.Array,
    log_density: jax.Array,
    data_q: jax.Array,
    temperature: jax.Array | float,
    importance: bool,
) -> jax.Array:
    """How far the soft maximum over actions lies above the data; [N, B].

    tau logsumexp(Q(s, a) / tau) - Q(s, a_data), for each critic on its own: CQL(H) of
    Kumar et al. 2020, Equation 4. With importance sampling (appendix F there) densities
    are taken off after the division by the temperature; without, the recorded action is
    one of the actions.

    Args:
      sampled_q: float32[N, M, B], critics' values of sampled actions.
      log_density: float32[M, B], under which they were sampled.
      data_q: float32[N, B], values of recorded actions.
    """
    logits = sampled_q / temperature
    if importance:
        logits = logits - log_density
    else:
        logits = jnp.concatenate([logits, data_q[:, None] / temperature], axis=1)
    return temperature * jax.nn.logsumexp(logits, axis=1) - data_q


def slopes_alike(slopes: jax.Array) -> jax.Array:
    """EDAC's term for critics' slopes float32[N, B, A], without its weight; ().

    The sum of the cosines between the slopes of every two different critics over N - 1,
    mean over the batch (An et al. 2021, section 4).
    """
    n_critics = slopes.shape[0]
    unit = slopes / (jnp.linalg.norm(slopes, axis=-1, keepdims=True) + 1e-10)
    # The sum over all pairs is the square of the sum; less those with themselves.
    alike = jnp.square(unit.sum(axis=0)).sum(axis=-1) - jnp.square(unit).sum((0, 2))
    return alike.mean() / (n_critics - 1)


class SAC(Agent):
    """Critics, a squashed Gaussian actor, and a temperature that is learned."""

    with_targets = ("critic",)

    def __init__(self, factory, config: SACConfig, total_updates: int = 0):
        super().__init__(factory, config, total_updates)
        self.needs = ("return_to_go",) if config.calibrated else ()
        # What critics estimate goes on beyond time limits, and so must its bound.
        self.endless_returns = config.calibrated
        self.is_conservative = config.cql_weight > 0
        self.has_multiplier = config.cql_gap >= 0
        self.learns_temperature = config.temperature_lr > 0
        self._actor = factory.actor(2 * factory.action_size)
        self._critic = factory.critics(config.n_critics)
        self.metrics = ("critic_loss", "actor_loss", "q", "entropy", "temperature")
        if self.is_conservative:
            self.metrics += ("cql_gap", "cql_multiplier")
        if config.diversity > 0:
            self.metrics += ("slopes_alike",)
        if config.calibrated:
            self.metrics += ("calibrated_share",)

    def networks(self):
        start = jnp.log(self.config.temperature)
        parts = {
            "actor": self._actor.init,
            "critic": self._critic.init,
            "log_temperature": lambda key: jnp.asarray(start, jnp.float32),
        }
        if self.has_multiplier:
            multiplier = jnp.log(self.config.multiplier)
            parts["log_multiplier"] = lambda key: jnp.asarray(multiplier, jnp.float32)
        return parts

    @property
    def policy_size(self) -> int:
        return 2 * self.factory.action_size

    def policy(self, raw: jax.Array) -> Any:
        return distributions.SquashedGaussian(raw)

    def act(self, params, inputs):
        return self._actor(params, inputs)

    def temperature(self, state: AgentState) -> jax.Array:
        """alpha, ()."""
        alpha = jnp.exp(state.params["log_temperature"])
        return jnp.minimum(alpha, state.numbers["max_temperature"])

    def next_value(
        self, state: AgentState, next_obs: Any, key: jax.Array, n_actions: int = 1
    ) -> jax.Array:
        """Values [...] of what the policy does next, by the slow critics' least.

        Args:
          n_actions: it may try so many, of which the best counts.
        """
        policy = self.policy(self._actor(state.params["actor"], next_obs))
        shape = () if n_actions == 1 else (n_actions,)
        action, log_prob = policy.sample_and_log_prob(seed=key, sample_shape=shape)
        value = self._critic(state.targets["critic"], next_obs, action).min(0)
        if n_actions > 1:
            best = value.argmax(axis=0)[None]
            value = jnp.take_along_axis(value, best, axis=0)[0]
            log_prob = jnp.take_along_axis(log_prob, best, axis=0)[0]
        if self.config.entropy_backup:
            value -= self.temperature(state) * log_prob
        return value

    def target(self, state: AgentState, batch, key: jax.Array) -> jax.Array:
        """What the critics should say of a batch. float32[B]."""
        n = state.numbers
        value = self.next_value(state, batch.next_obs, key, self.config.backup_actions)
        target = batch.reward + n["discount"] * jnp.where(batch.terminated, 0.0, value)
        if self.config.floor_target:
            target = jnp.maximum(target, n["target_floor"])
        return target

    def _sample(self, state: AgentState, batch, key: jax.Array) -> Sampled:
        """Actions that CQL asks about, all at the batch's states.

        Those that the policy takes after the step are asked about before it, as in the
        authors' code: with their own states results were far worse (OfflineRL-Kit,
        issue 12).
        """
        m = self.config.cql_actions
        key_uniform, key_now, key_next = jax.random.split(key, 3)
        size = self.factory.action_size
        shape = (m, *batch.reward.shape)
        uniform = jax.random.uniform(key_uniform, (*shape, size), minval=-1, maxval=1)
        actions, densities = [uniform], [jnp.full(shape, -size * jnp.log(2.0))]
        for obs, k in ((batch.obs, key_now), (batch.next_obs, key_next)):
            policy = self.policy(self._actor(state.params["actor"], obs))
            action, log_prob = policy.sample_and_log_prob(seed=k, sample_shape=(m,))
            actions.append(action)
            densities.append(log_prob)
        return Sampled(jnp.concatenate(actions), jnp.concatenate(densities))

    def _gap(self, params, batch, sampled: Sampled, data_q, temperature):
        q = self._critic(params, batch.obs, sampled.action)  # [N, 3M, B]
        extras = {}
        if self.config.calibrated:
            m = self.config.cql_actions
            below = q[:, m:] < batch.return_to_go
            extras["calibrated_share"] = below.mean()
            q = q.at[:, m:].set(jnp.maximum(q[:, m:], batch.return_to_go))
        gap = conservative_gap(
            q, sampled.log_density, data_q, temperature, self.config.cql_importance
        )
        return gap.mean(axis=1), extras

    def _multiplier(self, params) -> jax.Array:
        return jnp.clip(jnp.exp(params), 0.0, 1e6)

    def _critic_loss(self, state: AgentState, params, batch, target, sampled):
        n = state.numbers
        q = self._critic(params, batch.obs, batch.action)
        error = jnp.square(q - target).mean(axis=1).sum()
        loss, metrics = error, {"critic_loss": error, "q": q.mean()}
        if self.is_conservative:
            gap, extras = self._gap(params, batch, sampled, q, n["cql_temperature"])
            multiplier, tolerated = jnp.float32(1.0), 0.0
            if self.has_multiplier:
                multiplier = self._multiplier(state.params["log_multiplier"])
                tolerated = n["cql_gap"]
            loss += (multiplier * n["cql_weight"] * (gap - tolerated)).sum()
            metrics |= extras | {"cql_gap": gap.mean(), "cql_multiplier": multiplier}
        if self.config.diversity > 0:
            alike = slopes_alike(self._slopes(params, batch))
            loss += n["diversity"] * alike
            metrics["slopes_alike"] = alike
        return loss, metrics

    def update(self, state, batches, key):
        batch = jax.tree.map(lambda x: x[0], batches)
        n = state.numbers
        key_target, key_sample, key_actor = jax.random.split(key, 3)
        target = self.target(state, batch, key_target)
        sampled = None
        if self.is_conservative:
            sampled = self._sample(state, batch, key_sample)
        before = state
        state, metrics = descend(
            state,
            "critic",
            lambda params: self._critic_loss(before, params, batch, target, sampled),
            n["critic_lr"],
        )
        if self.has_multiplier:
            # Rises while the gap is above what is tolerated.
            excess = metrics["cql_gap"] - n["cql_gap"]
            state, _ = descend(
                state,
                "log_multiplier",
                lambda p: (-self._multiplier(p) * n["cql_weight"] * excess, None),
                n["multiplier_lr"],
            )
        state, actor_metrics = self._learn_actor(state, batch, key_actor)
        state = follow(state).replace(n_updates=state.n_updates + 1)
        return state, metrics | actor_metrics

    def _learn_actor(self, state: AgentState, batch, key):
        n = state.numbers
        alpha = self.temperature(state)
        critic = state.params["critic"]

        def loss(params):
            policy = self.policy(self._actor(params, batch.obs))
            action, log_prob = policy.sample_and_log_prob(seed=key)
            q = self._critic(critic, batch.obs, action).min(0)
            value = (alpha * log_prob - q).mean()
            value += self.regulariser(state, batch, action, q)
            return value, (value, -log_prob.mean())

        state, (actor_loss, entropy) = descend(
            state, "actor", loss, self.actor_lr(state)
        )
        if self.learns_temperature:
            wanted = n["entropy_per_action"] * self.factory.action_size
            state, _ = descend(
                state,
                "log_temperature",
                lambda p: (p * (entropy - wanted), None),
                n["temperature_lr"],
            )
        return state, {
            "actor_loss": actor_loss,
            "entropy": entropy,
            "temperature": self.temperature(state),
        }

    def regulariser(self, state: AgentState, batch, action, q) -> jax.Array | float:
        """What is added to the actor's loss, for its actions [B, A] and their values.

        Nothing here.
        """
        del state, batch, action, q
        return 0.0

    def _slopes(self, params, batch) -> jax.Array:
        """How each critic's value changes with the recorded action. [N, B, A]."""

        def of_member(params):
            return jax.grad(
                lambda action: self._critic.member(params, batch.obs, action).sum()
            )(batch.action)

        return jax.vmap(of_member)(params)
