"""What all offline agents share: their state, their optimizer, their contract."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rlgen.algos.offline.functions import Factory
from rlgen.errors import UserError
from rlgen.ranges import Count, PositiveOrZero, Settings, ShareAboveZero, ShareBelowOne
from rlgen.transitions import Transitions

PyTree = Any
Metrics = dict[str, jax.Array]

_ADAM = optax.scale_by_adam()


class AgentState(struct.PyTreeNode):
    """Networks by name, with what they learn by."""

    params: dict[str, PyTree]
    targets: dict[str, PyTree]  # slow copies of some
    optimizers: dict[str, PyTree]  # Adam's moments of each
    numbers: dict[str, jax.Array]  # the settings that are numbers, () float32 each
    n_updates: jax.Array  # () int32, gradient steps


@dataclasses.dataclass(frozen=True)
class AgentConfig(Settings):
    """Settings of every agent.

    Attributes:
      batch_size: steps in a gradient step.
      discount: gamma.
      actor_lr, critic_lr: learning rates of Adam.
      anneal_actor: lower the actor's to 0 over the run (half a cosine).
      target_rate: tau, by which slow copies follow their networks.
    """

    batch_size: Count = 256
    discount: ShareBelowOne = 0.99
    actor_lr: PositiveOrZero = 3e-4
    critic_lr: PositiveOrZero = 3e-4
    anneal_actor: bool = False
    target_rate: ShareAboveZero = 5e-3


def numbers(config: Any) -> dict[str, jax.Array]:
    """The settings that are numbers, traced: a population of them vmaps like seeds."""
    return {
        field.name: jnp.float32(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if isinstance(getattr(config, field.name), float)
    }


class Agent(abc.ABC):
    """Learns a policy from batches of recorded steps. Holds no parameters.

    In a batch `obs` and `next_obs` are encoded: whatever the factory's functions read.

    Attributes:
      factory: makes its networks.
      config: its settings.
      total_updates: gradient steps of the run, for schedules; 0 where it is not known.

    Raises:
      UserError: there is no length that a schedule could span.
    """

    #: Optional fields of the dataset that it reads.
    needs: tuple[str, ...] = ()
    #: Batches that one `update` takes, each for one gradient step of the critics.
    batches_per_update: int = 1
    #: Whether returns that it reads are those of tasks without an end, where only a
    #: time limit ended an episode.
    endless_returns: bool = False
    #: Whether it can go on learning from steps that it played.
    plays: bool = True
    #: Names of the scalars that `update` returns.
    metrics: tuple[str, ...] = ()

    def __init__(self, factory: Factory, config: Any, total_updates: int = 0):
        if config.anneal_actor and total_updates < 1:
            raise UserError(
                "How long this learner will learn is not known before it begins: leave "
                "anneal_actor out."
            )
        self.factory = factory
        self.config = config
        self.total_updates = total_updates

    @abc.abstractmethod
    def networks(self) -> Mapping[str, Callable[[jax.Array], PyTree]]:
        """How the parameters of each network are made, by its name."""

    #: Networks with a slow copy.
    with_targets: tuple[str, ...] = ()

    @property
    @abc.abstractmethod
    def policy_size(self) -> int:
        """Numbers that the actor gives for one action."""

    @abc.abstractmethod
    def policy(self, raw: jax.Array) -> Any:
        """The distribution of actions from what the actor gives [..., policy_size]."""

    @abc.abstractmethod
    def act(self, params: PyTree, inputs: PyTree) -> jax.Array:
        """What the actor gives [..., policy_size] for encoded observations."""

    def initial_carry(self, batch_size: int) -> PyTree:
        """An empty memory for `batch_size` environments (None without memory)."""
        del batch_size

    def step(
        self, params: PyTree, carry: PyTree, inputs: PyTree, reset: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        """Acts once with memory: carry and what `act` gives [B, policy_size]."""
        del reset
        return carry, self.act(params, inputs)

    @abc.abstractmethod
    def update(
        self, state: AgentState, batches: Transitions, key: jax.Array
    ) -> tuple[AgentState, Metrics]:
        """Learns from `batches_per_update` batches [n, B, ...]."""

    def init(self, key: jax.Array) -> AgentState:
        """An agent that has learned nothing. Slow copies equal their networks."""
        makers = self.networks()
        keys = jax.random.split(key, len(makers))
        params = {
            name: make(k) for (name, make), k in zip(makers.items(), keys, strict=True)
        }
        return AgentState(
            params=params,
            targets={n: jax.tree.map(jnp.copy, params[n]) for n in self.with_targets},
            optimizers={name: _ADAM.init(p) for name, p in params.items()},
            numbers=numbers(self.config),
            n_updates=jnp.int32(0),
        )

    def actor_lr(self, state: AgentState) -> jax.Array:
        """The actor's learning rate now, ()."""
        lr = state.numbers["actor_lr"]
        if not self.config.anneal_actor:
            return lr
        done = jnp.minimum(state.n_updates / self.total_updates, 1.0)
        return lr * 0.5 * (1.0 + jnp.cos(jnp.pi * done))


def descend(
    state: AgentState,
    name: str,
    loss: Callable[[PyTree], tuple[jax.Array, Any]],
    lr: jax.Array,
    max_grad_norm: jax.Array | None = None,
    weight_decay: jax.Array | None = None,
) -> tuple[AgentState, Any]:
    """One step of Adam on the network `name`; returns the state and the loss's extras.

    Args:
      loss: from the network's parameters to its loss and extras.
      max_grad_norm: gradients are scaled down to this global norm; None leaves them.
      weight_decay: share of every parameter that a step of 1 would take off, beside
        Adam's moments (AdamW, Loshchilov and Hutter 2019); None for none.
    """
    params = state.params[name]
    (_, extras), grads = jax.value_and_grad(loss, has_aux=True)(params)
    if max_grad_norm is not None:
        scale = jnp.minimum(1.0, max_grad_norm / (optax.global_norm(grads) + 1e-6))
        grads = jax.tree.map(lambda g: g * scale, grads)
    updates, moments = _ADAM.update(grads, state.optimizers[name])
    if weight_decay is not None:
        updates = jax.tree.map(lambda u, p: u + weight_decay * p, updates, params)
    params = jax.tree.map(lambda p, u: p - lr * u, params, updates)
    return state.replace(
        params=state.params | {name: params},
        optimizers=state.optimizers | {name: moments},
    ), extras


def follow(state: AgentState) -> AgentState:
    """Moves every slow copy towards its network (Polyak averaging)."""
    rate = state.numbers["target_rate"]
    targets = {
        name: jax.tree.map(
            lambda slow, fast: slow + rate * (fast - slow), copy, state.params[name]
        )
        for name, copy in state.targets.items()
    }
    return state.replace(targets=targets)
