"""Actors, critics and values as functions of an encoded observation.

An agent asks a factory for its functions and never looks inside an input: for a plain
factory it is the observation, for a transductive one (COCOA) an anchor and a
difference. So what wraps the networks wraps every agent.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import jax

from rlgen.mlp import MLP, init_ensemble
from rlgen.ranges import Count, PositiveOrZero, Settings

PyTree = Any


class Function(abc.ABC):
    """A network of an encoded observation and, for critics, an action."""

    @abc.abstractmethod
    def init(self, key: jax.Array) -> PyTree:
        """Makes the parameters."""

    @abc.abstractmethod
    def __call__(
        self, params: PyTree, inputs: PyTree, action: jax.Array | None = None
    ) -> jax.Array:
        """Outputs [..., n_outputs] for inputs [B, ...] and actions [..., B, A]."""


@dataclasses.dataclass(frozen=True)
class Plain(Function):
    """An MLP of the observation, with the action beside it."""

    mlp: MLP
    n_inputs: int

    def init(self, key: jax.Array) -> PyTree:
        return self.mlp.init(key, self.n_inputs)

    def __call__(self, params, inputs, action=None):
        parts = (inputs,) if action is None else (inputs, action)
        return self.mlp(params, *parts)


@dataclasses.dataclass(frozen=True)
class Ensemble(Function):
    """Critics: E members with one output each; [E, ...]."""

    member: Function
    size: int

    def init(self, key: jax.Array) -> PyTree:
        return init_ensemble(self.member.init, key, self.size)

    def __call__(self, params, inputs, action=None):
        return jax.vmap(lambda p: self.member(p, inputs, action)[..., 0])(params)


@dataclasses.dataclass(frozen=True)
class NetsConfig(Settings):
    """Sizes of an agent's networks.

    Attributes:
      actor_layers, actor_units: hidden layers of the actor, and their width.
      actor_norm: layer normalisation in the actor.
      critic_layers, critic_units, critic_norm: the same of critics and values.
      final_bound: linear layers on top start uniform within +- this; 0 for the usual
        start.
    """

    actor_layers: Count = 2
    actor_units: Count = 256
    actor_norm: bool = False
    critic_layers: Count = 2
    critic_units: Count = 256
    critic_norm: bool = False
    final_bound: PositiveOrZero = 3e-3


@dataclasses.dataclass(frozen=True)
class Factory:
    """Makes the functions of an agent: here, plain MLPs.

    Attributes:
      config: their sizes.
      obs_size, action_size: numbers in an observation and in an action.
    """

    config: NetsConfig
    obs_size: int
    action_size: int

    def actor_mlp(self, n_outputs: int) -> MLP:
        """Layers of an actor."""
        config = self.config
        return MLP(
            config.actor_layers,
            config.actor_units,
            n_outputs,
            layer_norm=config.actor_norm,
            final_bound=config.final_bound,
        )

    def critic_mlp(self) -> MLP:
        """Layers of a critic or a value."""
        config = self.config
        return MLP(
            config.critic_layers,
            config.critic_units,
            1,
            layer_norm=config.critic_norm,
            final_bound=config.final_bound,
        )

    def actor(self, n_outputs: int) -> Function:
        """From a state to parameters of a policy [..., n_outputs]."""
        return Plain(self.actor_mlp(n_outputs), self.obs_size)

    def critics(self, size: int) -> Ensemble:
        """From state and action to `size` values [size, ...]."""
        member = Plain(self.critic_mlp(), self.obs_size + self.action_size)
        return Ensemble(member, size)

    def value(self) -> Ensemble:
        """From a state to one value [1, ...]."""
        return Ensemble(Plain(self.critic_mlp(), self.obs_size), 1)
