"""Ways to choose actions, for recording: random, scripted and learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax

from rlgen.env import Controller, sample_action
from rlgen.networks import PolicyNetwork

PyTree = Any


def _no_memory(n: int) -> PyTree:
    del n


@dataclasses.dataclass(frozen=True, eq=False)
class Player:
    """A way to choose the actions of B episodes side by side; compiled once.

    Attributes:
      act: (params, memory, key[B], level, state, obs, first bool[B]), all with a
        leading axis B, to memory and action; `first` marks an episode's first step.
      memory: what `memory` is at first, for B episodes.
    """

    act: Callable[..., tuple[PyTree, jax.Array]]
    memory: Callable[[int], PyTree] = _no_memory


class Policy(NamedTuple):
    """A player with its parameters, under a name."""

    name: str
    player: Player
    params: PyTree = None


def uniform(space: gymnasium.Space) -> Player:
    """Uniform actions."""

    def act(params, memory, key, level, state, obs, first):
        del params, level, state, obs, first
        return memory, jax.vmap(lambda key: sample_action(key, space))(key)

    return Player(act)


def scripted(controller: Controller) -> Player:
    """A scripted agent, which knows level and state."""

    def act(params, memory, key, level, state, obs, first):
        del params, obs, first
        return memory, jax.vmap(controller)(key, level, state)

    return Player(act)


def learned(network: PolicyNetwork, *, greedy: bool = False) -> Player:
    """A network's policy: samples of it, or its likeliest actions."""

    def act(params, memory, key, level, state, obs, first):
        del level, state
        memory, raw, _ = network.step(params, memory, obs, first)
        if greedy:
            return memory, network.policy(raw).mode()
        # A key each: an episode is the same whatever is played beside it.
        return memory, jax.vmap(lambda raw, key: network.policy(raw).sample(seed=key))(
            raw, key
        )

    return Player(act, network.initial_carry)
