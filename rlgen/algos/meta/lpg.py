"""LPG: an update rule that is a recurrent network (Oh et al. 2020).

An agent has a policy pi and a categorical prediction y with no meaning of its own. Of
each trajectory the rule, running backwards, says how to change both: by a scalar for
the log probability of the action taken, and by a distribution that y is to approach.
It sees neither states nor actions, so it fits any environment. With the time that an
agent has lived and will live as inputs it is time-aware (Jackson et al. 2024, Equation
9).

Letters: T time, B environments, N predictions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rlgen import recurrent
from rlgen.errors import UserError

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LPGConfig:
    """The shape of the rule; sizes of Jackson et al. 2023 (GROOVE).

    Attributes:
      n_predictions: categories of the agent's prediction y.
      embedding_size: hidden units that read y.
      rule_size: units of the rule's GRU.
      time_aware: give it the share of the lifetime that is over, and its logarithm.
    """

    n_predictions: int = 8
    embedding_size: int = 16
    rule_size: int = 256
    time_aware: bool = False

    def __post_init__(self):
        for name in ("n_predictions", "embedding_size", "rule_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: choose at least 1.")

    @property
    def input_size(self) -> int:
        """Reward, end, probability and the two predictions; two more of time."""
        return 7 if self.time_aware else 5


class Experience(struct.PyTreeNode):
    """What the rule reads of T steps; gradients do not flow into it.

    `prediction` has one row more than there are steps: the last is of the state that
    the last step led to.
    """

    reward: jax.Array  # (T, B) float32
    done: jax.Array  # (T, B) bool, the step ended its episode
    probability: jax.Array  # (T, B) float32, of the action taken
    prediction: jax.Array  # (T + 1, B, N) float32, probabilities
    time: jax.Array  # () float32, updates that the agent has had
    lifetime: jax.Array  # () float32, updates that it will have had in the end


class Targets(struct.PyTreeNode):
    """What the rule asks of an agent."""

    policy: jax.Array  # (T, B) float32: raise the log probability by so much
    prediction: jax.Array  # (T, B, N) float32, log probabilities to approach


def init(key: jax.Array, config: LPGConfig) -> Params:
    """A rule that knows nothing: weights LeCun normal, biases zero."""
    keys = jax.random.split(key, 5)
    size, hidden = config.rule_size, config.embedding_size
    return {
        "read": _dense_init(keys[0], config.n_predictions, hidden),
        "read_out": _dense_init(keys[1], hidden, 1),
        "core": recurrent.gru_init(keys[2], config.input_size, size),
        "policy": _dense_init(keys[3], size, 1),
        "prediction": _dense_init(keys[4], size, config.n_predictions),
    }


def targets(params: Params, config: LPGConfig, experience: Experience) -> Targets:
    """What to change, of every step; differentiable in the rule's parameters.

    The memory is emptied where an episode ended, so a step hears only of the rest of
    its own episode within the T steps.
    """
    experience = jax.lax.stop_gradient(experience)
    done = experience.done
    read = _embed(params, experience.prediction)  # (T + 1, B)
    inputs = [
        experience.reward,
        done.astype(jnp.float32),
        experience.probability,
        read[:-1],
        # Beyond the end of an episode there is nothing to predict.
        jnp.where(done, 0.0, read[1:]),
    ]
    if config.time_aware:
        age = experience.time / experience.lifetime
        inputs += [jnp.full(done.shape, age)]
        inputs += [jnp.full(done.shape, jnp.log(experience.lifetime))]
    x = jnp.stack(inputs, axis=-1)
    empty = jnp.zeros((done.shape[1], config.rule_size))
    _, hidden = recurrent.gru(params["core"], empty, x[::-1], done[::-1])
    hidden = jax.nn.relu(hidden[::-1])
    return Targets(
        policy=_dense(params["policy"], hidden)[..., 0],
        prediction=jax.nn.log_softmax(_dense(params["prediction"], hidden)),
    )


def agent_loss(
    log_prob: jax.Array,
    log_prediction: jax.Array,
    targets: Targets,
    prediction_coef: jax.Array | float = 0.5,
) -> jax.Array:
    """What an agent lowers (Oh et al. 2020, Equation 2), mean over steps. ().

    Args:
      log_prob: float32[T, B], of the actions taken, under the agent's parameters.
      log_prediction: float32[T, B, N], log y of the same steps.
      targets: of the rule.
      prediction_coef: alpha_y, weight of the KL divergence of y from its target.
    """
    divergence = jnp.sum(
        jnp.exp(log_prediction) * (log_prediction - targets.prediction), axis=-1
    )
    return jnp.mean(-log_prob * targets.policy + prediction_coef * divergence)


def _embed(params: Params, prediction: jax.Array) -> jax.Array:
    """A number for each prediction [..., N]."""
    hidden = jax.nn.relu(_dense(params["read"], prediction))
    return _dense(params["read_out"], hidden)[..., 0]


def _dense_init(key: jax.Array, n_in: int, n_out: int) -> Params:
    kernel = jax.nn.initializers.lecun_normal()(key, (n_in, n_out), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros((n_out,), jnp.float32)}


def _dense(params: Params, x: jax.Array) -> jax.Array:
    return x @ params["kernel"] + params["bias"]
