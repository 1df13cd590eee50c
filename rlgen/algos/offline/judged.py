"""Rewards by a judge: a learned classifier, or the truth that a simulation has.

A step costs 1, and a success costs nothing and ends an attempt. What failed is taken to
go on failing for ever, so its return to go is -1 / (1 - discount), as published with
Cal-QL (Nakamoto et al. 2023) for tasks with two rewards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlgen.algos.offline.classifier import ADAPTED, ClassifierStage
from rlgen.algos.offline.sac import SAC, SACConfig
from rlgen.algos.offline.stages import AgentStage
from rlgen.ranges import PositiveOrZero
from rlgen.transitions import OfflineData, Transitions

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Judge:
    """Who says what is a success.

    Attributes:
      classifier: the stage to ask; None for the truth, which only a simulation has.
    """

    classifier: ClassifierStage | None

    def recorded(self, stages: Mapping[str, PyTree], data: Any) -> jax.Array:
        """Which of the dataset's N states arrived at are successes. bool[N]."""
        if self.classifier is None:
            return data.is_success
        return self.classifier.claims(stages[ADAPTED], data.rows.next_obs)

    def played(
        self, stages: Mapping[str, PyTree], obs: jax.Array, truth: jax.Array
    ) -> jax.Array:
        """Whether the state just arrived at is one. () bool."""
        if self.classifier is None:
            return truth
        return self.classifier.claims(stages[ADAPTED], obs)


def failure(discount: jax.Array | float) -> jax.Array | float:
    """The return of failing for ever, with -1 in each step."""
    return -1.0 / (1.0 - discount)


def returns_to_go(
    success: jax.Array, last: jax.Array, discount: jax.Array | float
) -> jax.Array:
    """Returns to go where steps cost 1 and a success costs nothing and ends it.

    Args:
      success: bool[N], whether the state arrived at is a success.
      last: bool[N], whether an attempt ends with the step, one way or another.
      discount: gamma.

    Returns:
      float32[N]; `failure` where no success follows in the attempt.
    """

    def step(following, inputs):
        success, last = inputs
        following = jnp.where(last, failure(discount), following)
        total = jnp.where(success, 0.0, -1.0 + discount * following)
        return total, total

    start = jnp.float32(failure(discount))
    return jax.lax.scan(step, start, (success, last), reverse=True)[1]


def labelled(
    rows: Transitions, success: jax.Array, discount: jax.Array | float
) -> Transitions:
    """Steps [N, ...] of attempts with rewards, ends and returns by these successes."""
    last = rows.terminated | rows.truncated
    return rows.replace(
        reward=jnp.where(success, 0.0, -1.0),
        terminated=success,
        truncated=last & ~success,
        return_to_go=returns_to_go(success, last, discount),
    )


@dataclasses.dataclass(frozen=True)
class PractisingConfig(SACConfig):
    """Settings of a conservative learner that is also held to what led to success.

    Attributes:
      bc_weight: of the squared distance to actions that led to success, in units of the
        mean size of values, so that it matches the other terms of the actor's loss; 0
        leaves it out.
    """

    bc_weight: PositiveOrZero = 10.0


class Practising(SAC):
    """CQL or Cal-QL with a term that clones the actions of successful attempts.

    Targets are never below the return of failing for ever: nothing is worse.
    """

    def target(self, state, batch, key):
        lowest = failure(state.numbers["discount"])
        return jnp.maximum(super().target(state, batch, key), lowest)

    def regulariser(self, state, batch, action, q):
        if self.config.bc_weight <= 0:
            return 0.0
        n = state.numbers
        # Not of failed attempts, by the label that they carry.
        led = batch.return_to_go > failure(n["discount"]) * (1.0 - 1e-5)
        far = jnp.square(action - batch.action).sum(axis=-1)
        scale = jax.lax.stop_gradient(jnp.abs(q).mean())
        return n["bc_weight"] * scale * jnp.where(led, far, 0.0).mean()


@dataclasses.dataclass(frozen=True)
class LabelledStage(AgentStage):
    """An agent that learns from a dataset with a judge's rewards.

    Attributes:
      judge: whose.
    """

    judge: Judge = Judge(None)

    def update(self, state, stages, data, key):
        data = relabelled(self.judge, stages, data, state.numbers["discount"])
        return super().update(state, stages, data, key)


def relabelled(
    judge: Judge, stages: Mapping[str, PyTree], data: OfflineData, discount: jax.Array
) -> OfflineData:
    """The dataset with a judge's rewards."""
    success = judge.recorded(stages, data)
    return data.replace(rows=labelled(data.rows, success, discount))
