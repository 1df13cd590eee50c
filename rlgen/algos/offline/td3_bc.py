"""TD3+BC (Fujimoto and Gu 2021) and ReBRAC (Tarasov et al. 2023): one agent.

Both are TD3 that is held to the recorded action. The actor minimises

    -w Q(s, pi(s)) / mean |Q| + b1 ||pi(s) - a||^2

and the critics regress on r + gamma (min Q(s', a') - b2 ||a' - a'_data||^2). TD3+BC is
w = 2.5, b1 = 1 over the mean of the action's numbers, b2 = 0; ReBRAC is w = 1 and both
weights chosen for the dataset.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rlgen import distributions
from rlgen.algos.offline.agent import Agent, AgentConfig, AgentState, descend, follow
from rlgen.errors import UserError
from rlgen.ranges import Count, PositiveOrZero


@dataclasses.dataclass(frozen=True)
class TD3BCConfig(AgentConfig):
    """Settings of TD3+BC and ReBRAC.

    Attributes:
      q_weight: weight of the critics' value in the actor's loss, after division by its
        mean size (alpha of TD3+BC).
      actor_bc: weight of the squared distance to the recorded action there (beta 1 of
        ReBRAC).
      critic_bc: weight of that distance, for the next action, in the critics' target
        (beta 2 of ReBRAC).
      bc_distance: squared distance as "mean" over the action's numbers, or "sum".
      actor_critic: the actor climbs the "first" critic, or the least of them ("min").
      target_noise, target_noise_clip: of the smoothed action in the target.
      policy_delay: gradient steps of the critics for one of the actor.
    """

    q_weight: PositiveOrZero = 2.5
    actor_bc: PositiveOrZero = 1.0
    critic_bc: PositiveOrZero = 0.0
    bc_distance: str = "mean"
    actor_critic: str = "first"
    target_noise: PositiveOrZero = 0.2
    target_noise_clip: PositiveOrZero = 0.5
    policy_delay: Count = 2

    def __post_init__(self):
        super().__post_init__()
        for name, known in (
            ("bc_distance", ("mean", "sum")),
            ("actor_critic", ("first", "min")),
        ):
            if getattr(self, name) not in known:
                raise UserError(
                    f"Unknown {name} {getattr(self, name)!r}: choose "
                    f"{' or '.join(known)}."
                )


class TD3BC(Agent):
    """Two critics and a deterministic actor, held to the data."""

    metrics = ("critic_loss", "actor_loss", "q", "bc_distance")
    with_targets = ("actor", "critic")

    def __init__(self, factory, config: TD3BCConfig, total_updates: int = 0):
        super().__init__(factory, config, total_updates)
        self.batches_per_update = config.policy_delay
        # A number that is traced can be raised later; one that is 0 is not computed.
        self.penalises_target = config.critic_bc > 0
        self.needs = ("next_action",) if self.penalises_target else ()
        self.plays = not self.penalises_target  # what is played next is not recorded
        self._actor = factory.actor(factory.action_size)
        self._critic = factory.critics(2)

    def networks(self):
        return {"actor": self._actor.init, "critic": self._critic.init}

    @property
    def policy_size(self) -> int:
        return self.factory.action_size

    def policy(self, raw: jax.Array) -> Any:
        return distributions.Deterministic(raw)

    def act(self, params, inputs):
        return self._actor(params, inputs)

    def _distance(self, a: jax.Array, b: jax.Array) -> jax.Array:
        reduce = jnp.mean if self.config.bc_distance == "mean" else jnp.sum
        return reduce(jnp.square(a - b), axis=-1)

    def target(self, state: AgentState, batch, key: jax.Array) -> jax.Array:
        """What the critics should say of a batch. float32[B]."""
        n = state.numbers
        action = jnp.tanh(self._actor(state.targets["actor"], batch.next_obs))
        noise = n["target_noise"] * jax.random.normal(key, action.shape)
        noise = jnp.clip(noise, -n["target_noise_clip"], n["target_noise_clip"])
        action = jnp.clip(action + noise, -1.0, 1.0)
        value = self._critic(state.targets["critic"], batch.next_obs, action).min(0)
        if self.penalises_target:
            far = self._distance(action, batch.next_action)
            # After an episode's last step nothing was done that one could be held to.
            value -= n["critic_bc"] * jnp.where(batch.has_next_action, far, 0.0)
        return batch.reward + n["discount"] * jnp.where(batch.terminated, 0.0, value)

    def _learn_critic(self, state: AgentState, inputs):
        batch, key = inputs
        target = self.target(state, batch, key)

        def loss(params):
            q = self._critic(params, batch.obs, batch.action)
            error = jnp.square(q - target).mean(axis=1).sum()
            return error, {"critic_loss": error, "q": q.mean()}

        return descend(state, "critic", loss, state.numbers["critic_lr"])

    def _actor_loss(self, state: AgentState, params, batch):
        n = state.numbers
        action = jnp.tanh(self._actor(params, batch.obs))
        critic = state.params["critic"]
        if self.config.actor_critic == "first":
            critic = jax.tree.map(lambda p: p[:1], critic)
        q = self._critic(critic, batch.obs, action).min(0)
        scale = n["q_weight"] / (jnp.abs(jax.lax.stop_gradient(q)).mean() + 1e-8)
        distance = self._distance(action, batch.action).mean()
        loss = -scale * q.mean() + n["actor_bc"] * distance
        return loss, {"actor_loss": loss, "bc_distance": distance}

    def update(self, state, batches, key):
        keys = jax.random.split(key, self.batches_per_update)
        state, metrics = jax.lax.scan(
            self._learn_critic, state, (batches, keys), unroll=True
        )
        batch = jax.tree.map(lambda x: x[-1], batches)
        state, actor_metrics = descend(
            state,
            "actor",
            lambda params: self._actor_loss(state, params, batch),
            self.actor_lr(state),
        )
        state = follow(state)
        metrics = jax.tree.map(jnp.mean, metrics) | actor_metrics
        return state.replace(n_updates=state.n_updates + len(keys)), metrics
