"""Truncated meta-gradients: an update rule learns through the updates that it makes.

Agents live on tasks. In every meta-step each of them is updated K times; what the
policy that results is worth, by the policy gradient of fresh rollouts, is
differentiated through those updates by the rule's parameters (Oh et al. 2020, section
4.2; constants of Jackson et al. 2023). Where a lifetime ends, a new agent is born on a
task of the curriculum's.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rlgen import returns
from rlgen.algos import optimizers
from rlgen.algos.meta.experiment import MetaLearning
from rlgen.algos.meta.lifetime import Life, Lifetime
from rlgen.algos.meta.tasks import Task
from rlgen.algos.ppo import Learner
from rlgen.algos.ued import scores
from rlgen.algos.ued.buffer import NEW, LevelBatch, first_of_each
from rlgen.algos.ued.curriculum import NEW_LEVELS, Draw, fresh_batch, mean_over
from rlgen.env import select
from rlgen.errors import UserError
from rlgen.experiment import EvalResult, Metrics, all_finite
from rlgen.networks import ActorCritic
from rlgen.ranges import Count, CountOrZero, PositiveOrZero, Settings
from rlgen.rollout import RolloutState, Trajectory

PyTree = Any

# Meta-losses are logged by the quarter of the lifetime that they are from.
_N_AGES = 4


@dataclasses.dataclass(frozen=True)
class MetaGradientConfig(Settings):
    """Settings of the meta-gradient; defaults of Jackson et al. 2023, table 2.

    Attributes:
      n_inner: K, updates that are differentiated through.
      meta_lr: learning rate of Adam for the rule.
      meta_grad_norm: meta-gradients are scaled down to this global norm; 0 for never,
        as in the published code, which ignores its flag of 0.5 where it has Adam.
      policy_entropy, prediction_entropy: weights of the entropies that a rule is to
        keep, of the policy and of the prediction.
      policy_target_cost, prediction_target_cost: weights of the squares of what a rule
        asks for.
      critic_lr: learning rate of Adam for the critics of the meta-gradient.
      critic_steps: gradient steps of a critic per rollout.
      part_size: so many agents are worked on together, one part after another, so that
        memory does not grow with their number; 0 for all at once. On a CPU two are
        also faster (measured: a batch of 128 columns through the rule).
    """

    n_inner: Count = 5
    meta_lr: PositiveOrZero = 1e-4
    meta_grad_norm: PositiveOrZero = 0.0
    policy_entropy: PositiveOrZero = 0.05
    prediction_entropy: PositiveOrZero = 1e-3
    policy_target_cost: PositiveOrZero = 5e-3
    prediction_target_cost: PositiveOrZero = 1e-3
    critic_lr: PositiveOrZero = 1e-2
    critic_steps: Count = 1
    part_size: CountOrZero = 2

    @property
    def penalties(self) -> dict[str, float]:
        """Weights in the meta-loss of metrics of an agent's update."""
        return {
            "entropy": -self.policy_entropy,
            "prediction_entropy": -self.prediction_entropy,
            "policy_target_square": self.policy_target_cost,
            "prediction_target_square": self.prediction_target_cost,
        }


@dataclasses.dataclass(frozen=True)
class Critic:
    """Values of an agent's policy, learned beside it; the rule never sees them.

    Attributes:
      network: its value is used, its policy is not.
      lr: of Adam.
      n_steps: gradient steps per rollout.
      discount, gae_lambda: of its targets and of the advantages.
    """

    network: ActorCritic
    lr: float
    n_steps: int
    discount: float
    gae_lambda: float

    @property
    def _descent(self) -> optax.GradientTransformation:
        return optimizers.make("adam", 1.0, 1e-5)

    def init(self, key: jax.Array) -> Learner:
        """A critic that knows nothing."""
        params = self.network.init(key)
        return Learner(params, self._descent.init(params), jnp.int32(0))

    def values(self, params: PyTree, trajectory: Trajectory) -> jax.Array:
        """Of the states that the steps started in. float32[T, B]."""
        return self.network.unroll(params, None, trajectory.obs, trajectory.reset)[1]

    def advantages(
        self, params: PyTree, trajectory: Trajectory, end: RolloutState
    ) -> tuple[jax.Array, jax.Array]:
        """Advantages and targets of the value, float32[T, B] each."""
        last_value = self.network.step(params, None, end.obs, end.reset)[2]
        return returns.gae(
            trajectory.reward,
            self.values(params, trajectory),
            trajectory.terminated,
            trajectory.truncated,
            last_value,
            None,
            self.discount,
            self.gae_lambda,
        )

    def learn(
        self, critic: Learner, trajectory: Trajectory, end: RolloutState
    ) -> tuple[Learner, jax.Array]:
        """Moves the values towards their targets; also the last step's loss."""
        _, target = self.advantages(critic.params, trajectory, end)

        def loss(params):
            return 0.5 * jnp.mean(jnp.square(self.values(params, trajectory) - target))

        def step(carry, _):
            params, opt_state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, opt_state = self._descent.update(grads, opt_state)
            params = jax.tree.map(lambda p, u: p - self.lr * u, params, updates)
            return (params, opt_state), value

        (params, opt_state), losses = jax.lax.scan(
            step, (critic.params, critic.opt_state), length=self.n_steps
        )
        return Learner(params, opt_state, critic.n_updates + 1), losses[-1]


class Population(struct.PyTreeNode):
    """A agents, each with its critic and its task."""

    lives: Life
    critics: Learner
    batch: LevelBatch  # of tasks, one per agent
    role: jax.Array  # (A,) int32, how the curriculum came by them


class MetaGradientState(struct.PyTreeNode):
    """Everything that meta-training carries."""

    rule: PyTree
    opt_state: PyTree
    agents: Population
    antagonists: Life | None  # on the same tasks, for algorithmic regret
    curriculum: PyTree
    key: jax.Array
    n_updates: jax.Array  # () int32, meta-steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaGradient(MetaLearning[MetaGradientState]):
    """Learns a rule by truncated meta-gradients.

    Attributes:
      config: see its class.
      critic: of every agent.
      antagonist: a hand-written rule whose agents live beside the others on the same
        tasks, where the curriculum asks for algorithmic regret.
    """

    config: MetaGradientConfig
    critic: Critic
    antagonist: Lifetime | None = None

    def __post_init__(self):
        if self.tasks.min_lifetime < self.config.n_inner:
            raise UserError(
                f"min_lifetime is {self.tasks.min_lifetime}, but {self.config.n_inner} "
                "updates are differentiated through: choose min_lifetime >= n_inner."
            )
        if self.n_agents % (self.config.part_size or self.n_agents):
            raise UserError(
                f"{self.n_agents} agents cannot be split into parts of "
                f"{self.config.part_size}: choose n_agents as a multiple of part_size."
            )
        if self.network.is_recurrent:
            raise UserError(
                "Meta-gradients are of agents without memory: choose core=none."
            )

    @property
    def env_steps_per_update(self) -> int:
        """In the mean over lifetimes; the metric lives_ended counts those that end.

        Episodes of agents whose lives ended count by their time limit: all are played
        until the longest has ended.
        """
        config, n_inner = self.lifetime.student.config, self.config.n_inner
        steps = self.n_agents * (n_inner + 1) * config.n_envs * config.n_steps
        episodes = self.ends_per_update * config.n_envs * self.env.max_episode_steps
        if self.antagonist is not None:
            steps += self.n_agents * n_inner * config.n_envs * config.n_steps
            episodes *= 2
        return round(steps + episodes)

    @functools.cached_property
    def ends_per_update(self) -> float:
        """Lives that end in a meta-step, in the mean over a long training."""
        n_inner = self.config.n_inner
        length = sum(p * -(-n // n_inner) for n, p in self.tasks.p_lifetime.items())
        return self.n_agents / length

    @functools.cached_property
    def _meta_descent(self) -> optax.GradientTransformation:
        max_norm = self.config.meta_grad_norm or math.inf
        return optimizers.make("adam", max_norm, 1e-8)

    def rule_params(self, states: MetaGradientState) -> PyTree:
        return states.rule

    def init(self, key: jax.Array) -> MetaGradientState:
        key, key_rule, key_tasks, key_ages, key_born, key_rival, key_cur = (
            jax.random.split(key, 7)
        )
        rule = self.lifetime.student.rule.init(key_rule)
        curriculum, draw = self.curriculum.sample(
            self.curriculum.init(key_cur), key_tasks, jax.random.key(0), self.n_agents
        )
        # If all began at once, all would end at once: first lives are shorter.
        share = jax.random.uniform(key_ages, (self.n_agents,))
        tasks = draw.batch.levels
        first = jnp.ceil(share * tasks.lifetime).astype(jnp.int32)
        batch = fresh_batch(self.tasks, tasks.replace(lifetime=first), NEW)
        rivals = None
        if self.antagonist is not None:
            rivals = self._born(self.antagonist, key_rival, batch.levels)
        keys_born = jax.random.split(key_born)
        agents = Population(
            lives=self._born(self.lifetime, keys_born[0], batch.levels),
            critics=self._new_critics(keys_born[1]),
            batch=batch,
            role=jnp.full(self.n_agents, NEW_LEVELS, jnp.int32),
        )
        return MetaGradientState(
            rule=rule,
            opt_state=self._meta_descent.init(rule),
            agents=agents,
            antagonists=rivals,
            curriculum=curriculum,
            key=key,
            n_updates=jnp.int32(0),
        )

    def _born(self, lifetime: Lifetime, key: jax.Array, tasks: Task) -> Life:
        return jax.vmap(lifetime.begin)(jax.random.split(key, self.n_agents), tasks)

    def _new_critics(self, key: jax.Array) -> Learner:
        return jax.vmap(self.critic.init)(jax.random.split(key, self.n_agents))

    def meta_loss(
        self, rule: PyTree, life: Life, critic: Learner, task: Task, key: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Of one agent: what K updates by the rule made of it, and what they cost.

        Returns:
          the loss, and the agent and its critic after the updates, with metrics.
        """
        key_inner, key_fresh = jax.random.split(key)
        born = life.learner.n_updates

        def inner(carry, key):
            life, critic = carry
            alive = life.learner.n_updates < task.lifetime
            life, play, metrics = self.lifetime.advance(life, task, rule, key)
            critic, critic_loss = self.critic.learn(critic, play.trajectory, play.end)
            metrics["critic_loss"] = critic_loss
            # What a rule says after the end of a life counts for nothing.
            return (life, critic), jax.tree.map(lambda m: alive * m, metrics)

        (life, critic), metrics = jax.lax.scan(
            inner, (life, critic), jax.random.split(key_inner, self.config.n_inner)
        )
        n_alive = jnp.maximum(life.learner.n_updates - born, 1)
        metrics = {name: jnp.sum(m) / n_alive for name, m in metrics.items()}

        life, play = self.lifetime.watch(
            life, task, jax.lax.stop_gradient(rule), key_fresh
        )
        trajectory = play.trajectory
        advantage, _ = self.critic.advantages(critic.params, trajectory, play.end)
        centred = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        raw, _ = self.network.unroll(
            life.learner.params, None, trajectory.obs, trajectory.reset
        )
        policy = self.network.policy(raw)
        gain = jnp.mean(policy.log_prob(trajectory.action) * centred)
        penalty = sum(
            weight * metrics[name]
            for name, weight in self.config.penalties.items()
            if name in metrics
        )
        share = n_alive / self.config.n_inner
        metrics |= {"policy_gain": gain}
        return share * (penalty - gain), {
            "life": life,
            "critic": critic,
            "metrics": metrics,
            "advantage": advantage,
            "value": self.critic.values(critic.params, trajectory),
        }

    def update(self, state: MetaGradientState) -> tuple[MetaGradientState, Metrics]:
        key, key_agents, key_rivals, key_next = jax.random.split(state.key, 4)
        agents = state.agents
        tasks = agents.batch.levels

        def part_loss(rule, lives, critics, tasks, keys):
            losses, out = jax.vmap(self.meta_loss, in_axes=(None, 0, 0, 0, 0))(
                rule, lives, critics, tasks, keys
            )
            return jnp.mean(losses), (losses, out)

        n_parts = self.n_agents // (self.config.part_size or self.n_agents)

        def part(gradient, inputs):
            (_, aux), grads = jax.value_and_grad(part_loss, has_aux=True)(
                state.rule, *inputs
            )
            return jax.tree.map(lambda a, g: a + g / n_parts, gradient, grads), aux

        keys = jax.random.split(key_agents, self.n_agents)
        inputs = jax.tree.map(
            lambda x: x.reshape(n_parts, -1, *x.shape[1:]),
            (agents.lives, agents.critics, tasks, keys),
        )
        nothing = jax.tree.map(jnp.zeros_like, state.rule)
        gradient, aux = jax.lax.scan(part, nothing, inputs)
        losses, out = jax.tree.map(
            lambda x: x.reshape(self.n_agents, *x.shape[2:]), aux
        )
        updates, opt_state = self._meta_descent.update(gradient, state.opt_state)
        rule = jax.tree.map(
            lambda p, u: p - self.config.meta_lr * u, state.rule, updates
        )
        metrics = {name: m.mean() for name, m in out["metrics"].items()}
        age = out["life"].learner.n_updates / tasks.lifetime
        quarter = jnp.clip((age * _N_AGES).astype(jnp.int32), 0, _N_AGES - 1)
        for i in range(_N_AGES):
            metrics[f"meta_loss_age_{i + 1}"] = mean_over(losses, quarter == i)
        metrics |= {
            "meta_loss": losses.mean(),
            "meta_grad_norm": optax.global_norm(gradient),
            "rule_norm": optax.global_norm(rule),
        }
        agents = agents.replace(lives=out["life"], critics=out["critic"])
        rivals = state.antagonists
        if self.antagonist is not None:
            rivals = self._live_on(self.antagonist, rivals, tasks, key_rivals)
        curriculum, agents, rivals, ended = self._turn(
            state, agents, rivals, out["advantage"], out["value"], key_next
        )
        metrics |= ended
        metrics["finite"] = all_finite(rule) & jnp.isfinite(metrics["meta_loss"])
        state = MetaGradientState(
            rule=rule,
            opt_state=opt_state,
            agents=agents,
            antagonists=rivals,
            curriculum=curriculum,
            key=key,
            n_updates=state.n_updates + 1,
        )
        return state, {k: jnp.asarray(v, jnp.float32) for k, v in metrics.items()}

    def _live_on(self, lifetime: Lifetime, lives, tasks: Task, key: jax.Array) -> Life:
        """K more updates of every agent, by a rule without parameters."""

        def one(life, task, key):
            def step(life, key):
                return lifetime.advance(life, task, None, key)[0], None

            keys = jax.random.split(key, self.config.n_inner)
            return jax.lax.scan(step, life, keys)[0]

        keys = jax.random.split(key, self.n_agents)
        return jax.vmap(one)(lives, tasks, keys)

    def _turn(self, state, agents: Population, rivals, advantage, value, key):
        """Ended lives are scored; new agents are born in their places.

        What a life came to is what its last policy earns from a fresh start (as in
        Jackson et al. 2023's code), not the last episodes of its training: older
        policies began those, and none may have ended.
        """
        key_update, key_draw, key_born, key_critics, key_rivals, key_metrics, *plays = (
            jax.random.split(key, 8)
        )
        batch = agents.batch
        ended = agents.lives.learner.n_updates >= batch.levels.lifetime
        played = self._played(self.lifetime, agents.lives, batch, ended, plays[0])
        rival_returns = None
        if self.antagonist is not None:
            rival = self._played(self.antagonist, rivals, batch, ended, plays[1])
            rival_returns = rival.returns.mean(axis=1)
        feedback = self._feedback(
            state, agents, played, rival_returns, ended, advantage, value
        )
        draw = Draw(batch=batch, role=jnp.int32(NEW_LEVELS), trains=jnp.bool_(True))
        curriculum, _ = self.curriculum.update(
            state.curriculum, key_update, draw, feedback
        )
        shared_key = self.curriculum.shared_key(state.n_updates)
        curriculum, new = self.curriculum.sample(
            curriculum, key_draw, shared_key, self.n_agents
        )

        def replace(old, new):
            return jax.vmap(select)(ended, new, old)

        tasks = new.batch.levels
        metrics = {
            "lives_ended": jnp.sum(ended),
            "life_return": mean_over(played.returns.mean(axis=1), ended),
            "life_score": mean_over(feedback.score, ended & (feedback.n_episodes > 0)),
            "life_replayed": mean_over(agents.role != NEW_LEVELS, ended),
        }
        features = jax.vmap(self.tasks.features)(batch.levels)
        metrics |= {f"task_{k}": jnp.nanmean(v) for k, v in features.items()}
        metrics |= self.curriculum.metrics(curriculum, key_metrics)
        if self.antagonist is not None and rival_returns is not None:
            metrics["life_antagonist_return"] = mean_over(rival_returns, ended)
            rivals = replace(rivals, self._born(self.antagonist, key_rivals, tasks))
        agents = Population(
            lives=replace(agents.lives, self._born(self.lifetime, key_born, tasks)),
            critics=replace(agents.critics, self._new_critics(key_critics)),
            batch=replace(batch, new.batch),
            role=jnp.where(ended, new.role, agents.role),
        )
        return curriculum, agents, rivals, metrics

    def _played(self, lifetime: Lifetime, lives, batch, ended, key) -> EvalResult:
        """Fresh episodes of agents whose lives ended, one in every environment.

        Groups are as large as the number of lives that end in a meta-step: so one or
        two are played, where all agents would be a multiple of the training's steps
        (512 agents that live 250 updates: 10 end, whose episodes of up to 750 steps
        are an eighth of the training's steps; those of all would be six times them).
        """
        size = min(self.n_agents, math.ceil(self.ends_per_update))
        return lifetime.evaluate_some(lives, batch.levels, key, ended, size)

    def _feedback(self, state, agents, played, rival, ended, advantage, value):
        """What ended lives tell of their tasks; the others tell nothing yet.

        Args:
          played: of agents whose lives ended, results [A, n_envs].
          rival: float32[A], what their antagonists earned, or None.
        """
        batch = agents.batch
        optimal = None
        if "true_regret" in self.curriculum.scores:
            optimal = jax.vmap(self.env.optimal_return)(batch.levels.level)
        axes = (1, 2)
        earned = played.returns.mean(axis=1)
        n_agents, n_envs = played.returns.shape
        lives = scores.Episodes(
            l1=jnp.mean(jnp.abs(advantage), axes),
            positive=jnp.mean(jnp.maximum(advantage, 0.0), axes),
            negative=jnp.mean(jnp.maximum(-advantage, 0.0), axes),
            value=jnp.mean(value, axes),
            mean_return=earned,
            n_played=jnp.full(n_agents, n_envs, jnp.int32),
            n_success=jnp.sum(played.success, axis=1, dtype=jnp.int32),
            max_return=self.curriculum.best_returns(state.curriculum, batch),
            optimal_return=optimal,
            antagonist_return=rival,
        )
        # The first lives were cut short: no lifetime that is ever drawn, so no task.
        told = ended & (batch.levels.lifetime >= self.tasks.min_lifetime)
        return scores.pooled(
            self.curriculum.scores,
            lives,
            told.astype(jnp.int32),
            earned,
            first_of_each(batch.hash),
        )
