"""Proximal policy optimisation (Schulman et al. 2017), for any actor-critic here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rlgen import returns
from rlgen.algos import optimizers
from rlgen.algos.drift import DRIFTS, Drift
from rlgen.errors import UserError
from rlgen.mesh import spread
from rlgen.networks import ActorCritic
from rlgen.ranges import Count, Positive, PositiveOrZero, Settings, Share
from rlgen.rollout import RolloutState, Trajectory, final_values

PyTree = Any


@dataclasses.dataclass(frozen=True)
class PPOConfig(Settings):
    """Everything that PPO can be told.

    Attributes:
      n_envs: environments stepped side by side.
      n_steps: steps of each environment per rollout.
      n_epochs: passes over each rollout.
      n_minibatches: parts of each pass; environments are split if the network has a
        memory, single steps if not.
      optimizer: "adam" or "sgd".
      lr: its learning rate.
      anneal_lr: lower the learning rate linearly to zero over all student updates.
      discount: gamma.
      gae_lambda: lambda of the advantage estimate.
      drift: what holds the policy back: "clip" (PPO), "dpo", or "none"; see
        `rlgen.algos.drift`.
      clip: how far the policy may move, as a ratio.
      clip_value: clip the value's move by `clip` too.
      entropy_coef, value_coef: weights of the entropy bonus and of the value loss.
      max_grad_norm: gradients are scaled down to this global norm.
      separate_clip: scale down gradients of the value's own parameters by themselves,
        and those of the rest by themselves, as two optimizers would.
      value_lr_ratio: learning rate of the value's own parameters (with LPG, of the
        prediction's), as a factor on lr.
      adam_eps: epsilon of Adam.
      time_limit: value after the time limit: "terminate" (0) or "bootstrap".
    """

    n_envs: Count = 32
    n_steps: Count = 256
    n_epochs: Count = 5
    n_minibatches: Count = 1
    optimizer: str = "adam"
    lr: PositiveOrZero = 1e-4
    anneal_lr: bool = False
    discount: Share = 0.995
    gae_lambda: Share = 0.98
    drift: str = "clip"
    clip: Positive = 0.2
    clip_value: bool = True
    entropy_coef: PositiveOrZero = 1e-3
    value_coef: PositiveOrZero = 0.5
    max_grad_norm: Positive = 0.5
    separate_clip: bool = False
    value_lr_ratio: PositiveOrZero = 1.0
    adam_eps: Positive = 1e-5
    time_limit: str = "terminate"

    def __post_init__(self):
        super().__post_init__()
        if self.n_envs % self.n_minibatches:
            raise UserError(
                f"{self.n_envs} environments cannot be split into "
                f"{self.n_minibatches} minibatches: choose n_envs as a multiple of "
                "n_minibatches."
            )
        optimizers.check(self.optimizer)
        if self.value_lr_ratio < 0:
            raise UserError(
                f"value_lr_ratio is {self.value_lr_ratio}: choose 0 or more."
            )
        if self.drift not in DRIFTS:
            raise UserError(
                f"Unknown drift {self.drift!r}: choose {', '.join(DRIFTS)}."
            )
        if self.time_limit not in returns.TIME_LIMITS:
            raise UserError(
                f"Unknown time_limit {self.time_limit!r}: choose terminate or "
                "bootstrap."
            )


class Hyperparameters(struct.PyTreeNode):
    """The numbers among PPO's settings: traced, so a population of them vmaps.

    The parameters of a learned update rule are among them, and the length of the
    training that time-aware rules read.
    """

    lr: jax.Array
    discount: jax.Array
    gae_lambda: jax.Array
    clip: jax.Array
    entropy_coef: jax.Array
    value_coef: jax.Array
    max_grad_norm: jax.Array
    adam_eps: jax.Array
    lifetime: jax.Array  # updates in all
    rule: PyTree = None  # parameters of the update rule, if it has any

    @classmethod
    def from_config(
        cls,
        config: PPOConfig,
        lifetime: jax.typing.ArrayLike = 1.0,
        rule: PyTree = None,
    ) -> Hyperparameters:
        """Takes the numbers out of a configuration, as float32 scalars."""
        names = {f.name for f in dataclasses.fields(cls)} - {"lifetime", "rule"}
        return cls(
            **{name: jnp.float32(getattr(config, name)) for name in names},
            lifetime=jnp.float32(lifetime),
            rule=rule,
        )


class Learner(struct.PyTreeNode):
    """Parameters and optimizer of one student."""

    params: PyTree
    opt_state: PyTree
    n_updates: jax.Array  # () int32, rollouts learned from


def optimizer(
    config: PPOConfig,
    hyper: Hyperparameters,
    *,
    differentiable: bool = False,
    apart: PyTree = None,
) -> optax.GradientTransformation:
    """The optimizer of these settings, without its learning rate.

    What it remembers does not depend on what is clipped apart.
    """
    return optimizers.make(
        config.optimizer,
        hyper.max_grad_norm,
        hyper.adam_eps,
        differentiable=differentiable,
        apart=apart,
    )


def init(
    config: PPOConfig, key: jax.Array, network: ActorCritic, hyper: Hyperparameters
) -> Learner:
    """A fresh student."""
    params = network.init(key)
    return Learner(
        params=params,
        opt_state=optimizer(config, hyper).init(params),
        n_updates=jnp.int32(0),
    )


def advantages(
    config: PPOConfig,
    network: ActorCritic,
    params: PyTree,
    hyper: Hyperparameters,
    trajectory: Trajectory,
    last_value: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Advantages and value targets float32[T, B], time limits as configured."""
    final_value = None
    if config.time_limit == "bootstrap":
        final_value = final_values(network, params, trajectory)
    return returns.gae(
        trajectory.reward,
        trajectory.value,
        trajectory.terminated,
        trajectory.truncated,
        last_value,
        final_value,
        hyper.discount,
        hyper.gae_lambda,
    )


def descend(
    config: PPOConfig,
    network: ActorCritic,
    hyper: Hyperparameters,
    learner: Learner,
    loss: Callable[[PyTree], tuple[jax.Array, dict[str, jax.Array]]],
    lr_scale: jax.Array | float = 1.0,
    *,
    differentiable: bool = False,
) -> tuple[Learner, dict[str, jax.Array]]:
    """One step of a student's optimizer down a loss.

    Args:
      loss: from the student's parameters to the loss and metrics.
      lr_scale: factor on the learning rate (annealing).
      differentiable: see `optimizers.make`.

    Returns:
      the student, who has seen no further rollout, and the metrics with `grad_norm`.
    """
    grads, metrics = jax.grad(loss, has_aux=True)(learner.params)
    metrics["grad_norm"] = optax.global_norm(jax.lax.stop_gradient(grads))
    apart = network.value_part(learner.params) if config.separate_clip else None
    descent = optimizer(config, hyper, differentiable=differentiable, apart=apart)
    updates, opt_state = descent.update(grads, learner.opt_state, learner.params)
    if config.value_lr_ratio != 1:
        updates = jax.tree.map(
            lambda u, own: jnp.where(own, config.value_lr_ratio * u, u),
            updates,
            network.value_part(learner.params),
        )
    params = jax.tree.map(
        lambda p, u: p - hyper.lr * lr_scale * u, learner.params, updates
    )
    return learner.replace(params=params, opt_state=opt_state), metrics


class Minibatch(struct.PyTreeNode):
    """What the loss reads, [T, B, ...] ([1, N, ...] for single steps)."""

    obs: PyTree
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reset: jax.Array
    advantage: jax.Array
    target: jax.Array


def loss(
    config: PPOConfig,
    network: ActorCritic,
    hyper: Hyperparameters,
    params: PyTree,
    memory: PyTree,
    batch: Minibatch,
    drift: Drift,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The policy's objective less its drift, with value loss and entropy."""
    raw, value = network.unroll(params, memory, batch.obs, batch.reset)
    policy = network.policy(raw)
    log_ratio = policy.log_prob(batch.action) - batch.log_prob
    ratio = jnp.exp(log_ratio)
    advantage = batch.advantage
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    cost = drift(log_ratio, advantage, hyper.clip)
    policy_loss = -(ratio * advantage - cost).mean()

    value_error = jnp.square(value - batch.target)
    if config.clip_value:
        near = batch.value + jnp.clip(value - batch.value, -hyper.clip, hyper.clip)
        value_error = jnp.maximum(value_error, jnp.square(near - batch.target))
    value_loss = 0.5 * value_error.mean()
    entropy = policy.entropy().mean()
    total = policy_loss + hyper.value_coef * value_loss - hyper.entropy_coef * entropy
    return total, {
        "loss": total,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        # Schulman's low-variance estimate of KL(old || new).
        "approx_kl": jnp.mean(ratio - 1.0 - log_ratio),
        "clip_fraction": jnp.mean(jnp.abs(ratio - 1.0) > hyper.clip),
    }


METRICS = (
    "loss",
    "policy_loss",
    "value_loss",
    "entropy",
    "approx_kl",
    "clip_fraction",
    "grad_norm",
)


def update(
    config: PPOConfig,
    network: ActorCritic,
    hyper: Hyperparameters,
    learner: Learner,
    start: RolloutState,
    trajectory: Trajectory,
    advantage: jax.Array,
    target: jax.Array,
    key: jax.Array,
    lr_scale: jax.Array | float = 1.0,
    drift: Drift | None = None,
) -> tuple[Learner, dict[str, jax.Array]]:
    """Learns from one rollout: `n_epochs` passes of `n_minibatches` gradient steps.

    Args:
      start: where the rollout began; its memory is the one to replay from.
      advantage, target: float32[T, B], from `advantages`.
      lr_scale: factor on the learning rate (annealing).
      drift: of the policy; None for the configured one.

    Returns:
      the student, and means of the loss terms over all gradient steps.
    """
    drift = drift or DRIFTS[config.drift]
    batch = Minibatch(
        obs=trajectory.obs,
        action=trajectory.action,
        log_prob=trajectory.log_prob,
        value=trajectory.value,
        reset=trajectory.reset,
        advantage=advantage,
        target=target,
    )
    memory = start.memory
    if not network.is_recurrent:
        # Without memory a step is an example of its own: [T, B] becomes [1, T B].
        batch = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), batch)

    # A permutation: no index has to be checked, wrapped or filled in for.
    inside: Any = {"mode": "promise_in_bounds", "wrap_negative_indices": False}

    def gradient_step(learner, indices):
        part, part_memory = batch, memory
        if config.n_minibatches > 1:
            part = jax.tree.map(lambda x: x.at[:, indices].get(**inside), batch)
            part_memory = jax.tree.map(lambda x: x.at[indices].get(**inside), memory)
        # Each device has its share of the examples, and the gradient is their sum.
        part, part_memory = spread(part, axis=1), spread(part_memory)
        return descend(
            config,
            network,
            hyper,
            learner,
            lambda p: loss(config, network, hyper, p, part_memory, part, drift),
            lr_scale,
        )

    n_examples = batch.reset.shape[1]

    def epoch(learner, key):
        order = jax.random.permutation(key, n_examples)
        parts = order.reshape(config.n_minibatches, -1)
        return jax.lax.scan(gradient_step, learner, parts)

    learner, metrics = jax.lax.scan(
        epoch, learner, jax.random.split(key, config.n_epochs)
    )
    learner = learner.replace(n_updates=learner.n_updates + 1)
    return learner, jax.tree.map(jnp.mean, metrics)
