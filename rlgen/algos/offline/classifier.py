"""A learned classifier says whether a task is done, from demonstrations and failures.

It stands where Yang et al. 2023 (RoboFuME, arXiv 2310.15145) have a vision-language
model: a small network that learns from many prior tasks first and then adapts to a
target task. What a reward needs of it is few false positives, for an agent looks for
them; so its threshold is chosen by them, on episodes that it never learned from.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from rlgen.algos.offline.stages import Stage
from rlgen.env import select, take
from rlgen.errors import UserError
from rlgen.mlp import MLP
from rlgen.ranges import MAX_INT, Count, PositiveOrZero, Range, Settings, ShareBelowOne
from rlgen.transitions import OfflineData

PyTree = Any
CLASSIFIER, ADAPTED = "classifier", "adapted"

_ADAM = optax.scale_by_adam()
# Of so many episodes of a task that end alike, one chooses the threshold and one
# measures: the last two.
_FOLD = 5
TRAIN, CHOOSE, MEASURE = range(3)


@dataclasses.dataclass(frozen=True)
class ClassifierConfig(Settings):
    """Settings of a success classifier.

    Attributes:
      classifier_updates: updates of the run in which it learns the prior tasks; without
        prior tasks it starts from nothing at the target.
      adapt_updates: updates of the run in which it learns the target task too.
      classifier_layers, classifier_units: its hidden layers, and their width.
      classifier_lr: learning rate of Adam.
      classifier_batch_size: states in a gradient step, half of them successes.
      max_false_positives: the threshold is the lowest by which at most this share of
        the failed states held back for it are called successes, on prior tasks as on
        the target; and never below even odds.
      classifier_prior: learn from prior tasks too.
    """

    classifier_updates: Count = 4
    adapt_updates: Count = 2
    classifier_layers: Count = 2
    classifier_units: Count = 64
    classifier_lr: PositiveOrZero = 1e-3
    classifier_batch_size: Annotated[int, Range(least=4, most=MAX_INT)] = 128
    max_false_positives: ShareBelowOne = 0.01
    classifier_prior: bool = True


class ExampleData(OfflineData):
    """A dataset whose N states arrived at are examples of success and failure."""

    is_success: jax.Array  # (N,) bool, as whoever recorded them says
    is_target: jax.Array  # (N,) bool, whether they are of the target task
    part: jax.Array  # (N,) int32, of the episode: TRAIN, CHOOSE or MEASURE
    #: Rows to learn from, by "prior" and "target": of successes, and of the others.
    rows_of: dict[str, tuple[jax.Array, jax.Array]]


def with_examples(data: OfflineData, target_levels: Sequence[int]) -> ExampleData:
    """The dataset with its examples sorted, on the host.

    A reward above 0 is what marks the last state of a demonstration; all other states
    are examples of failure. Episodes are held back whole: neighbouring states look
    alike.

    Raises:
      UserError: it has no demonstrations, or no failed states, of the target task.
    """
    rows = data.rows
    is_success: Any = np.asarray(rows.reward) > 0
    is_target: Any = np.isin(rows.level_id, np.asarray(target_levels))
    part = _parts(data, is_success)[rows.episode_id]
    rows_of: Any = {}
    for name, of in (("prior", ~is_target), ("target", is_target)):
        known = of & (part == TRAIN)
        rows_of[name] = tuple(
            np.flatnonzero(known & which).astype(np.int32)
            for which in (is_success, ~is_success)
        )
    if min(map(len, rows_of["target"])) == 0:
        raise UserError(
            "The dataset holds no demonstration that reaches its target task: record "
            "some."
        )
    return ExampleData(
        rows,
        data.episode_start,
        data.episode_length,
        is_success,
        is_target,
        part,
        rows_of,
    )


def _parts(data: OfflineData, is_success: np.ndarray) -> np.ndarray:
    """The part of each episode: by its place among those like it. int32[E]."""
    start = np.asarray(data.episode_start)
    succeeds = np.maximum.reduceat(is_success, start)
    group = 2 * np.asarray(data.rows.level_id)[start] + succeeds
    part = np.full(len(start), TRAIN, np.int32)
    for each in np.unique(group):
        members = np.flatnonzero(group == each)
        part[members[_FOLD - 2 :: _FOLD]] = CHOOSE
        part[members[_FOLD - 1 :: _FOLD]] = MEASURE
    return part


def lowest_threshold(
    scores: jax.Array, is_negative: jax.Array, n_allowed: int
) -> jax.Array:
    """The lowest threshold that at most `n_allowed` of the negatives lie above; ().

    It is one of their scores, or 0 (even odds) where that is lower.

    Args:
      scores: float32[N], log odds of success.
      is_negative: bool[N], which of them are to count.
    """
    ordered = jnp.sort(jnp.where(is_negative, scores, -jnp.inf), descending=True)
    return jnp.maximum(ordered[n_allowed], 0.0)


class ClassifierState(struct.PyTreeNode):
    """What a classifier has learned."""

    layers: PyTree
    moments: PyTree  # of Adam
    threshold: jax.Array  # () float32, log odds above which a state is a success
    n_updates: jax.Array  # () int32


@dataclasses.dataclass(frozen=True)
class ClassifierStage(Stage):
    """Learns to tell successes; first on prior tasks, then on the target with them.

    Attributes:
      name: its own.
      config: settings.
      visible: the numbers of an observation that it sees.
      n_steps: gradient steps of an update.
      n_updates: updates of the run.
      n_allowed: what it learns from, "prior", "target" or both with equal shares, each
        with the false positives that the threshold may leave there.
      before: the stage that it goes on from; empty for none.
    """

    name: str
    config: ClassifierConfig
    visible: tuple[int, ...]
    n_steps: int
    n_updates: int
    n_allowed: Mapping[str, int]
    before: str = ""

    @property
    def metrics(self):
        names = ["loss", "threshold", "false_positives", "false_negatives"]
        if "target" in self.n_allowed:
            names += ["target_false_positives", "target_false_negatives"]
        return tuple(f"{self.name}_{name}" for name in names)

    @property
    def mlp(self) -> MLP:
        """Its network."""
        config = self.config
        return MLP(config.classifier_layers, config.classifier_units, 1)

    def init(self, key, data) -> ClassifierState:
        del data
        layers = self.mlp.init(key, len(self.visible))
        return ClassifierState(
            layers=layers,
            moments=_ADAM.init(layers),
            threshold=jnp.float32(jnp.inf),
            n_updates=jnp.int32(0),
        )

    def score(self, layers: PyTree, obs: jax.Array) -> jax.Array:
        """Log odds of success [...] of observations [..., O]."""
        return self.mlp(layers, obs[..., jnp.array(self.visible)])[..., 0]

    def claims(self, state: ClassifierState, obs: jax.Array) -> jax.Array:
        """Which of the observations [..., O] it calls successes. bool[...]."""
        return self.score(state.layers, obs) > state.threshold

    def _batch(self, data: ExampleData, key: jax.Array) -> jax.Array:
        """Rows [2, B / 2] of successes and of the others."""
        n_each = self.config.classifier_batch_size // 2 // len(self.n_allowed)
        both: list[list[jax.Array]] = [[], []]
        for j, name in enumerate(self.n_allowed):
            for i, rows in enumerate(data.rows_of[name]):
                own = jax.random.fold_in(key, 2 * j + i)
                place = jax.random.randint(own, (n_each,), 0, len(rows))
                both[i].append(rows[place])
        return jnp.stack([jnp.concatenate(some) for some in both])

    def update(self, state, stages, data, key):
        if self.before:
            earlier = stages[self.before]
            layers = select(state.n_updates == 0, earlier.layers, state.layers)
            state = state.replace(layers=layers)
        lr = self.config.classifier_lr

        def step(carry, key):
            layers, moments = carry
            obs = take(data.rows.next_obs, self._batch(data, key))

            def loss(layers):
                odds = self.score(layers, obs)
                # The log likelihoods of success and of failure.
                return -(jax.nn.log_sigmoid(odds[0]) + jax.nn.log_sigmoid(-odds[1]))

            value, grads = jax.value_and_grad(lambda p: loss(p).mean())(layers)
            updates, moments = _ADAM.update(grads, moments)
            layers = jax.tree.map(lambda p, u: p - lr * u, layers, updates)
            return (layers, moments), value

        (layers, moments), losses = jax.lax.scan(
            step, (state.layers, state.moments), jax.random.split(key, self.n_steps)
        )
        scores = self.score(layers, data.rows.next_obs)
        state = ClassifierState(
            layers=layers,
            moments=moments,
            threshold=self._threshold(scores, data),
            n_updates=state.n_updates + 1,
        )
        values = [losses.mean(), state.threshold]
        claims, measured = scores > state.threshold, data.part == MEASURE
        for of in (measured, measured & data.is_target):
            values.append(share(claims, of & ~data.is_success))
            values.append(share(~claims, of & data.is_success))
        return state, dict(zip(self.metrics, values, strict=False))

    def _threshold(self, scores: jax.Array, data: ExampleData) -> jax.Array:
        held_back = ~data.is_success & (data.part == CHOOSE)
        each = [
            lowest_threshold(scores, held_back & (data.is_target == of_target), n)
            for n, of_target in ((n, k == "target") for k, n in self.n_allowed.items())
        ]
        return jnp.stack(each).max()

    def params(self, state: ClassifierState) -> PyTree:
        return state.layers


def share(which: jax.Array, of: jax.Array) -> jax.Array:
    """Of those in `of`, the share that is in `which` too; NaN of none. ()."""
    n = jnp.sum(of)
    return jnp.sum(which & of) / jnp.where(n, n, jnp.nan)


def classifier_stages(
    config: ClassifierConfig,
    has_prior: bool,
    visible: tuple[int, ...],
    n_steps: int,
    data: ExampleData,
) -> Mapping[str, ClassifierStage]:
    """The stages of a classifier by name, in order; the last is the one to ask.

    Args:
      has_prior: whether it learns from prior tasks.

    Raises:
      UserError: there are none, or too few failed states are held back to choose a
        threshold by.
    """
    held_back = ~np.asarray(data.is_success) & (np.asarray(data.part) == CHOOSE)

    def allowed(*tasks):
        numbers = {}
        for task in tasks:
            of = held_back & (np.asarray(data.is_target) == (task == "target"))
            if not of.any():
                raise UserError(
                    f"No {task} task has {_FOLD - 1} episodes that end alike, so none "
                    "is held back to choose the classifier's threshold by: record more."
                )
            # 0.07 * 100 is a little above 7, and other products a little below.
            exact = config.max_false_positives * int(of.sum())
            numbers[task] = math.floor(exact + 1e-9)
        return numbers

    def stage(name, n_updates, tasks, before=""):
        return ClassifierStage(
            name, config, visible, n_steps, n_updates, allowed(*tasks), before
        )

    if not has_prior:
        return {ADAPTED: stage(ADAPTED, config.adapt_updates, ["target"])}
    if min(map(len, data.rows_of["prior"])) == 0:
        raise UserError(
            "The dataset holds no demonstrations of prior tasks: record some, or set "
            "classifier_prior False."
        )
    return {
        CLASSIFIER: stage(CLASSIFIER, config.classifier_updates, ["prior"]),
        ADAPTED: stage(ADAPTED, config.adapt_updates, ["prior", "target"], CLASSIFIER),
    }
