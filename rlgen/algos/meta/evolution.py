"""Evolution strategies: update rules that are worth more at the end of whole lives.

Pairs of rules, the mean plus and minus one perturbation, bring up agents that are born
alike on the same task and see the same luck; the sign of the difference says which way
is better (antithetic pairs with ranks within the pair, Jackson et al. 2024, TA-LPG). A
tie says nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rlgen.algos.meta.experiment import MetaLearning
from rlgen.errors import UserError
from rlgen.experiment import Metrics, all_finite
from rlgen.ranges import (
    Positive,
    PositiveOrZero,
    Settings,
    ShareAboveZero,
    ShareBelowOne,
)

PyTree = Any


@dataclasses.dataclass(frozen=True)
class EvolutionConfig(Settings):
    """Settings of the evolution strategy; defaults of Jackson et al. 2024's code.

    Attributes:
      sigma: standard deviation of perturbations at the start.
      sigma_decay: factor on it per generation.
      sigma_end: it falls no lower.
      es_lr: learning rate of Adam at the start.
      es_lr_decay: factor on it per generation.
      es_lr_end: it falls no lower.
      es_b1: decay of Adam's mean of gradients.
    """

    sigma: Positive = 0.1
    sigma_decay: ShareAboveZero = 1.0
    sigma_end: PositiveOrZero = 0.0
    es_lr: Positive = 1e-2
    es_lr_decay: ShareAboveZero = 0.999
    es_lr_end: PositiveOrZero = 1e-5
    es_b1: ShareBelowOne = 0.99

    def sigma_at(self, generation: jax.Array) -> jax.Array:
        """Standard deviation of the perturbations of a generation. ()."""
        return jnp.maximum(self.sigma * self.sigma_decay**generation, self.sigma_end)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam with the falling learning rate."""
        return optax.adam(
            optax.exponential_decay(
                self.es_lr, 1, self.es_lr_decay, end_value=self.es_lr_end
            ),
            b1=self.es_b1,
        )


def perturbations(key: jax.Array, params: PyTree, n_pairs: int) -> PyTree:
    """Standard normal numbers in the structure of `params`, stacked [n_pairs, ...]."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure,
        [
            jax.random.normal(key, (n_pairs, *leaf.shape))
            for key, leaf in zip(keys, leaves, strict=True)
        ],
    )


def perturbed(params: PyTree, noise: PyTree, scale: jax.typing.ArrayLike) -> PyTree:
    """The mean moved along every perturbation, stacked like `noise`."""
    return jax.tree.map(lambda mean, n: mean + scale * n, params, noise)


def gradient(noise: PyTree, plus: jax.Array, minus: jax.Array) -> PyTree:
    """What to descend on for more fitness: the mean of perturbations by who won.

    Args:
      noise: from `perturbations`.
      plus, minus: float32[n_pairs], fitness of the two members of every pair; a pair
        with a NaN says nothing.
    """
    sign = jnp.nan_to_num(jnp.sign(plus - minus))
    return jax.tree.map(lambda n: -jnp.tensordot(sign, n, 1) / sign.shape[0], noise)


class EvolutionState(struct.PyTreeNode):
    """Everything that evolution carries."""

    rule: PyTree  # the mean
    opt_state: PyTree
    curriculum: PyTree
    key: jax.Array
    n_updates: jax.Array  # () int32, generations


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evolution(MetaLearning[EvolutionState]):
    """Learns a rule by an evolution strategy; one update is one generation.

    All agents of a generation live equally long, so none is stepped in vain. The
    population is `n_agents`; fitness is what the policy at the end of a life earns from
    a fresh start, in the mean over as many episodes as an agent has environments. The
    last episodes of training would say less: older policies began them, and none may
    have ended.

    Attributes:
      config: see its class.
    """

    config: EvolutionConfig

    def __post_init__(self):
        if self.n_agents % 2:
            raise UserError(
                f"A population of {self.n_agents} cannot be made of pairs: choose an "
                "even n_agents."
            )

    @property
    def env_steps_per_update(self) -> int:
        """In the mean over lifetimes; the metric agent_updates counts them.

        Episodes that measure fitness count by their time limit: all are played until
        the longest has ended.
        """
        mean = sum(n * p for n, p in self.tasks.p_lifetime.items())
        config = self.lifetime.student.config
        n_steps = mean * config.n_steps + self.env.max_episode_steps
        return round(self.n_agents * config.n_envs * n_steps)

    def rule_params(self, states: EvolutionState) -> PyTree:
        return states.rule

    def init(self, key: jax.Array) -> EvolutionState:
        key, key_rule, key_curriculum = jax.random.split(key, 3)
        # The published mean begins at zero, not at a drawn rule.
        rule = jax.tree.map(jnp.zeros_like, self.lifetime.student.rule.init(key_rule))
        return EvolutionState(
            rule=rule,
            opt_state=self.config.optimizer.init(rule),
            curriculum=self.curriculum.init(key_curriculum),
            key=key,
            n_updates=jnp.int32(0),
        )

    def fitness(self, rules: PyTree, tasks: PyTree, lifetime, key: jax.Array):
        """What rules [M, ...] make of agents on tasks [M, ...]. float32[M]."""
        n = len(jax.tree.leaves(rules)[0])
        tasks = tasks.replace(lifetime=jnp.full(n, lifetime))
        key_begin, key_live, key_play = jax.random.split(key, 3)
        lives = jax.vmap(self.lifetime.begin)(jax.random.split(key_begin, n), tasks)

        def update(i, lives):
            keys = jax.random.split(jax.random.fold_in(key_live, i), n)
            return jax.vmap(lambda *args: self.lifetime.advance(*args)[0])(
                lives, tasks, rules, keys
            )

        lives = jax.lax.fori_loop(0, lifetime, update, lives)
        n_episodes = self.lifetime.student.config.n_envs

        def play(life, task, key):
            return self.lifetime.evaluate(life, task, key, n_episodes).returns.mean()

        return jax.vmap(play)(lives, tasks, jax.random.split(key_play, n))

    def update(self, state: EvolutionState) -> tuple[EvolutionState, Metrics]:
        key, key_tasks, key_age, key_noise, key_live, key_metrics = jax.random.split(
            state.key, 6
        )
        n_pairs = self.n_agents // 2
        shared_key = self.curriculum.shared_key(state.n_updates)
        curriculum, draw = self.curriculum.sample(
            state.curriculum, key_tasks, shared_key, n_pairs
        )
        lifetime = self.tasks.lifetime(key_age)
        noise = perturbations(key_noise, state.rule, n_pairs)
        sigma = self.config.sigma_at(state.n_updates)
        # The same key twice: both of a pair are born alike and have the same luck.
        plus, minus = (
            self.fitness(
                perturbed(state.rule, noise, scale),
                draw.batch.levels,
                lifetime,
                key_live,
            )
            for scale in (sigma, -sigma)
        )
        direction = gradient(noise, plus, minus)
        updates, opt_state = self.config.optimizer.update(direction, state.opt_state)
        rule = optax.apply_updates(state.rule, updates)
        both = jnp.concatenate([plus, minus])
        metrics = {
            "life_return": jnp.nanmean(both),
            "lifetime": lifetime,
            "agent_updates": lifetime * self.n_agents,
            "ties": jnp.mean(plus == minus),
            "nan_fitness": jnp.sum(jnp.isnan(both)),
            "rule_norm": optax.global_norm(rule),
            "meta_grad_norm": optax.global_norm(direction),
            "finite": all_finite(rule),
        }
        metrics |= self.curriculum.metrics(curriculum, key_metrics)
        state = EvolutionState(
            rule=rule,
            opt_state=opt_state,
            curriculum=curriculum,
            key=key,
            n_updates=state.n_updates + 1,
        )
        return state, {k: jnp.asarray(v, jnp.float32) for k, v in metrics.items()}
