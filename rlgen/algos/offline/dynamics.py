"""Ensembles of models of the dynamics, forwards or backwards in time.

As in MOPO (Yu et al. 2020, section 4.3) and PETS (Chua et al. 2018): each member is a
Gaussian with a mean and a variance that depend on state and action, trained on a sample
of its own; the members that predict held-back steps best are the elites. Early stopping
became this: after every update each member is measured on held-back steps, and its best
parameters so far are what is used.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rlgen.algos.offline.encoder import Statistics
from rlgen.algos.offline.stages import Stage
from rlgen.env import take
from rlgen.errors import UserError
from rlgen.mlp import MLP, init_ensemble
from rlgen.ranges import Count, PositiveOrZero, Settings
from rlgen.transitions import OfflineData, Transitions

PyTree = Any
_ADAM = optax.scale_by_adam()
# Weight decay of each layer, the first to the last (MOPO's code).
_DECAYS = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
_BOUNDS_WEIGHT = 0.01
_TERMINATIONS = ("learned", "analytic", "never")


@dataclasses.dataclass(frozen=True)
class DynamicsConfig(Settings):
    """Settings of a dynamics ensemble.

    Attributes:
      model_updates: updates of the run that it is trained for.
      n_members, n_elites: networks, and how many of them are used.
      model_layers, model_units: hidden layers of each, and their width.
      model_lr: learning rate of Adam.
      model_batch_size: steps in a gradient step, for each member.
      n_held_back: steps to choose members by; at most a tenth of the dataset.
      termination: whether a step ends the episode is "learned" from the dataset,
        "analytic" (the environment's own rule, where it tells it), or it "never" does.
    """

    model_updates: Count = 20
    n_members: Count = 7
    n_elites: Count = 5
    model_layers: Count = 4
    model_units: Count = 200
    model_lr: PositiveOrZero = 1e-3
    model_batch_size: Count = 256
    n_held_back: Count = 1000
    termination: str = "learned"

    def __post_init__(self):
        super().__post_init__()
        if self.n_elites > self.n_members:
            raise UserError(
                f"{self.n_elites} elites of {self.n_members} members are not possible: "
                "choose n_elites <= n_members."
            )
        if self.termination not in _TERMINATIONS:
            raise UserError(
                f"Unknown termination {self.termination!r}: choose "
                f"{', '.join(_TERMINATIONS)}."
            )


class Prediction(NamedTuple):
    """What members say of steps, in the dataset's units; [E, ..., D]."""

    mean: jax.Array  # of the difference of states and, forwards, the reward
    std: jax.Array
    termination: jax.Array  # [E, ...] logit


class DynamicsParams(struct.PyTreeNode):
    """What a trained ensemble needs to predict; of members [E, ...] or of elites."""

    layers: PyTree
    max_log_var: jax.Array  # (E, D)
    min_log_var: jax.Array  # (E, D)
    inputs: Statistics  # of states and actions
    targets: Statistics


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """Predicts what is next, or what was before.

    Backwards it reads the state arrived at and the action, and predicts the difference
    to the state before, and no reward (ROMI, Wang et al. 2021, section 4.1).

    Attributes:
      config: its settings.
      obs_size, action_size: numbers in an observation and an action.
      backwards: in time.
    """

    config: DynamicsConfig
    obs_size: int
    action_size: int
    backwards: bool = False

    @property
    def target_size(self) -> int:
        """Numbers that are predicted."""
        return self.obs_size + (not self.backwards)

    @property
    def _mlp(self) -> MLP:
        config = self.config
        return MLP(
            config.model_layers,
            config.model_units,
            2 * self.target_size + 1,
            activation="silu",
        )

    def inputs(self, rows: Transitions) -> jax.Array:
        """What the ensemble reads of steps. [..., O + A]."""
        obs = rows.next_obs if self.backwards else rows.obs
        return jnp.concatenate([obs, rows.action], axis=-1)

    def targets(self, rows: Transitions) -> jax.Array:
        """What it should predict of them. [..., D]."""
        if self.backwards:
            return rows.obs - rows.next_obs
        return jnp.concatenate(
            [rows.next_obs - rows.obs, rows.reward[..., None]], axis=-1
        )

    def init(self, key: jax.Array, data: OfflineData) -> DynamicsParams:
        """Members that have learned nothing, with the dataset's statistics."""
        n = self.config.n_members
        rows = jax.tree.map(jnp.asarray, data.rows)
        size = self.obs_size + self.action_size
        return DynamicsParams(
            layers=init_ensemble(lambda k: self._mlp.init(k, size), key, n),
            max_log_var=jnp.full((n, self.target_size), 0.5),
            min_log_var=jnp.full((n, self.target_size), -10.0),
            inputs=Statistics.of(self.inputs(rows)),
            targets=Statistics.of(self.targets(rows)),
        )

    def raw(self, params: DynamicsParams, inputs: jax.Array):
        """Normalised means, log variances and logits [E, ...] of inputs [E, ..., I]."""
        x = params.inputs.normalize(inputs)
        out = jax.vmap(self._mlp)(params.layers, x)
        mean, log_var, logit = jnp.split(
            out, [self.target_size, 2 * self.target_size], axis=-1
        )
        shape = (len(mean), *[1] * (mean.ndim - 2), self.target_size)
        high = params.max_log_var.reshape(shape)
        low = params.min_log_var.reshape(shape)
        log_var = high - jax.nn.softplus(high - log_var)
        log_var = low + jax.nn.softplus(log_var - low)
        return mean, log_var, logit[..., 0]

    def predict(
        self, params: DynamicsParams, obs: jax.Array, action: jax.Array
    ) -> Prediction:
        """What all members say of states [..., O] and actions [..., A]."""
        x = jnp.concatenate([obs, action], axis=-1)
        n = len(params.max_log_var)
        mean, log_var, logit = self.raw(params, jnp.broadcast_to(x, (n, *x.shape)))
        scale = params.targets.std
        return Prediction(
            mean * scale + params.targets.mean, jnp.exp(0.5 * log_var) * scale, logit
        )

    def loss(self, params: DynamicsParams, rows: Transitions):
        """Gaussian negative log likelihood of steps [E, B], with its extras.

        Mean over batch and dimensions, summed over members, plus weight decay, plus
        what pulls the bounds of the variance together (Chua et al. 2018, appendix A).
        """
        target = params.targets.normalize(self.targets(rows))
        mean, log_var, logit = self.raw(params, self.inputs(rows))
        square = jnp.square(mean - target)
        nll = (square * jnp.exp(-log_var) + log_var).mean(axis=(1, 2)).sum()
        decays = [*_DECAYS] + [_DECAYS[-1]] * len(params.layers)
        decay = sum(
            0.5 * d * jnp.square(layer["kernel"]).sum()
            for d, layer in zip(decays, params.layers, strict=False)
        )
        bounds = (params.max_log_var - params.min_log_var).sum()
        loss = nll + decay + _BOUNDS_WEIGHT * bounds
        if self.learns_termination:
            ends = optax.sigmoid_binary_cross_entropy(logit, rows.terminated * 1.0)
            loss += ends.mean(axis=1).sum()
        return loss, square.mean()

    @property
    def learns_termination(self) -> bool:
        """Whether it says when an episode ends."""
        return self.config.termination == "learned" and not self.backwards


class DynamicsState(struct.PyTreeNode):
    """An ensemble in training."""

    params: DynamicsParams
    moments: PyTree
    best: DynamicsParams  # each member at its best so far
    best_error: jax.Array  # (E,) float32, of held-back steps
    key: jax.Array  # fixes which steps are held back, and each member's sample


@dataclasses.dataclass(frozen=True)
class DynamicsStage(Stage):
    """Trains a dynamics ensemble.

    Attributes:
      dynamics: it.
      n_steps: gradient steps of an update.
      n_updates: updates of the run.
      prefix: of its metrics' names.
    """

    dynamics: Dynamics
    n_steps: int
    n_updates: int
    prefix: str = "model"

    @property
    def metrics(self):
        names = ("loss", "error", "held_back_error")
        return tuple(f"{self.prefix}_{name}" for name in names)

    def _n_held_back(self, data: OfflineData) -> int:
        return max(1, min(self.dynamics.config.n_held_back, len(data.rows) // 10))

    def init(self, key, data) -> DynamicsState:
        key_init, key_split = jax.random.split(key)
        params = self.dynamics.init(key_init, data)
        return DynamicsState(
            params=params,
            moments=_ADAM.init(_trainable(params)),
            best=jax.tree.map(jnp.copy, params),
            best_error=jnp.full(self.dynamics.config.n_members, jnp.inf),
            key=key_split,
        )

    def order(self, state: DynamicsState, data: OfflineData) -> jax.Array:
        """All steps in an order of chance: training ones, then those held back."""
        return jax.random.permutation(state.key, len(data.rows))

    def places(self, state: DynamicsState, n_train: int, key: jax.Array) -> jax.Array:
        """A batch of each member's own bootstrap sample of n_train steps. int32[E, B].

        Place j of member e's sample holds a step that depends on e and j alone, so the
        sample need not be stored.
        """
        config = self.dynamics.config
        shape = (config.n_members, config.model_batch_size)

        def drawn(member, place):
            own = jax.random.fold_in(jax.random.fold_in(state.key, member), place)
            return jax.random.randint(own, (), 0, n_train)

        members = jnp.broadcast_to(jnp.arange(config.n_members)[:, None], shape)
        place = jax.random.randint(key, shape, 0, n_train)
        return jax.vmap(jax.vmap(drawn))(members, place)

    def update(self, state, stages, data, key):
        del stages
        lr = self.dynamics.config.model_lr
        order = self.order(state, data)
        n_train = len(order) - self._n_held_back(data)

        def step(carry, key):
            params, moments = carry
            rows = take(data.rows, order[self.places(state, n_train, key)])
            (loss, error), grads = jax.value_and_grad(
                lambda part: self.dynamics.loss(params.replace(**part), rows),
                has_aux=True,
            )(_trainable(params))
            updates, moments = _ADAM.update(grads, moments)
            moved = jax.tree.map(lambda p, u: p - lr * u, _trainable(params), updates)
            return (params.replace(**moved), moments), (loss, error)

        (params, moments), (loss, error) = jax.lax.scan(
            step, (state.params, state.moments), jax.random.split(key, self.n_steps)
        )
        now = self.errors(params, take(data.rows, order[n_train:]))
        better = now < state.best_error
        state = state.replace(
            params=params,
            moments=moments,
            best=params.replace(
                **jax.tree.map(
                    lambda new, old: jnp.where(
                        better.reshape(-1, *[1] * (new.ndim - 1)), new, old
                    ),
                    _trainable(params),
                    _trainable(state.best),
                )
            ),
            best_error=jnp.minimum(now, state.best_error),
        )
        values = (loss.mean(), error.mean(), state.best_error.mean())
        return state, dict(zip(self.metrics, values, strict=True))

    def errors(self, params: DynamicsParams, rows: Transitions) -> jax.Array:
        """Mean squared errors of members on steps [B], normalised. [E]."""
        x = self.dynamics.inputs(rows)
        n = self.dynamics.config.n_members
        mean, _, _ = self.dynamics.raw(params, jnp.broadcast_to(x, (n, *x.shape)))
        target = params.targets.normalize(self.dynamics.targets(rows))
        return jnp.square(mean - target).mean(axis=(1, 2))

    def params(self, state: DynamicsState):
        return _trainable(state.params)

    def best(self, state: DynamicsState) -> DynamicsParams:
        """Members at their best, [E, ...]: the first `n_elites` are the elites.

        Of one seed, or of seeds stacked in front: [S, E, ...].
        """
        order = jnp.argsort(state.best_error, axis=-1)

        def ordered(x):
            index = order.reshape(*order.shape, *[1] * (x.ndim - order.ndim))
            return jnp.take_along_axis(x, index, axis=order.ndim - 1)

        return state.best.replace(**jax.tree.map(ordered, _trainable(state.best)))


def _trainable(params: DynamicsParams) -> dict[str, PyTree]:
    return {
        "layers": params.layers,
        "max_log_var": params.max_log_var,
        "min_log_var": params.min_log_var,
    }


def pick(values: jax.Array, member: jax.Array) -> jax.Array:
    """From [E, B, ...] the values of one member for each row; member int32[B]."""
    return values[member, jnp.arange(len(member))]
