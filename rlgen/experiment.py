"""The experiment contract: everything that learns is a pure function of one pytree."""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.env import Env
from rlgen.errors import UserError
from rlgen.levels import LevelSet
from rlgen.published import Published
from rlgen.ranges import Range

if TYPE_CHECKING:
    import pandas as pd

    from rlgen.config import RunConfig

PyTree = Any
StateT = TypeVar("StateT")
Metrics = dict[str, jax.Array]


class EvalResult(struct.PyTreeNode):
    """Episodes on levels that were not trained on; L levels, E episodes each."""

    returns: jax.Array  # (L, E) float32, undiscounted
    success: jax.Array  # (L, E) bool
    length: jax.Array  # (L, E) int32, steps


class Experiment(abc.ABC, Generic[StateT]):
    """What the runner trains, checkpoints, resumes and evaluates.

    `init`, `update` and `evaluate` are pure; all that changes is in the state.
    """

    #: What the policy acts in, and with: a `PolicyNetwork`.
    env: Env
    network: Any

    #: Held-out levels by name; they are only ever evaluated on.
    eval_sets: dict[str, LevelSet]

    #: Whether a policy is what it learns; else `export` writes what is.
    has_policy: bool = True

    #: Evaluations take the likeliest action instead of a sample.
    greedy: bool = False

    #: Whether its environments can be spread over devices (`rlgen.mesh.spread`).
    spreads_envs: bool = False

    #: Arrays that are too large to stand in a program as constants (a dataset): the
    #: runner hands them to it as arguments, through `with_data`.
    data: PyTree = None

    def with_data(self, data: PyTree) -> Self:
        """The same experiment with these arrays, which may be traced."""
        if self.data is None:
            return self
        clone = copy.copy(self)
        # Experiments are frozen: nobody else has seen this one yet.
        object.__setattr__(clone, "data", data)
        return clone

    @property
    def updates_without_policy(self) -> int:
        """First updates that only learn models; the runner evaluates after them."""
        return 0

    @property
    @abc.abstractmethod
    def env_steps_per_update(self) -> int:
        """Environment steps of one update, scoring rollouts included."""

    def env_steps(self, n_updates: int) -> int:
        """Environment steps of the first so many updates."""
        return n_updates * self.env_steps_per_update

    @abc.abstractmethod
    def init(self, key: jax.Array) -> StateT:
        """The state before training. No two leaves share a buffer."""

    @abc.abstractmethod
    def update(self, state: StateT) -> tuple[StateT, Metrics]:
        """One unit of work.

        The metrics are float32 scalars, NaN where a quantity does not exist in this
        update. They always hold `finite`: 0 if the loss or the parameters are not
        finite any more, else 1.
        """

    @abc.abstractmethod
    def evaluate(self, state: StateT, key: jax.Array) -> dict[str, EvalResult]:
        """Zero-shot results on each held-out level set, by the set's name."""

    def diagnose(self, state: StateT, key: jax.Array) -> Metrics:
        """Further scalars that are measured at every evaluation; none by default."""
        del state, key
        return {}

    def kept_steps(self, state: StateT) -> tuple[PyTree, int] | None:
        """Shapes of the environment steps that an update of one seed keeps, for a list.

        And how many they are. Steps that are learned from; None where none are kept.
        """
        del state

    def curriculum_levels(
        self, state: StateT, key: jax.Array
    ) -> tuple[PyTree, jax.Array] | None:
        """The levels [C, ...] that a curriculum would replay now, of one seed.

        With their probabilities [C]; None without a curriculum that remembers any.
        """
        del state, key

    def policy_params(self, states: StateT) -> PyTree:
        """The parameters that `network` acts with, of one seed or stacked over S."""
        raise UserError(f"{type(self).__name__} has no policy to evaluate.")

    def export(self, states: StateT, folder: Path) -> list[Path]:
        """Writes what other runs can use of the final states [S, ...]; the files."""
        del states, folder
        return []

    def draw(self, states: StateT, folder: Path, episodes: pd.DataFrame) -> list[Path]:
        """Draws what there is to see of the final states [S, ...]; returns the files.

        Args:
          episodes: the newest evaluation, one row per seed, set, level and episode.
        """
        del states, folder, episodes
        return []

    def train(self, key: jax.Array, n_updates: int) -> tuple[StateT, Metrics]:
        """A whole training run as one pure function, for vmap and grad.

        The same `update` that the runner compiles. Metrics get a leading axis of
        `n_updates`.
        """
        return jax.lax.scan(
            lambda state, _: self.update(state), self.init(key), length=n_updates
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm(abc.ABC):
    """What `rlgen train` knows by a name: settings, and the experiment they make.

    Attributes:
      summary: one line for lists.
      source: the paper.
      settings: flat settings that make the algorithm what it is.
      presets: further flat settings, by the preset's name.
      definition: settings that would make another algorithm of it if they were others:
        the value that they have, or the `Range` of what they may be.
      published: the configuration that a preset follows, by the preset's name.
      env: environment to train on if none is named.
    """

    summary: str
    source: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    definition: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    published: Mapping[str, Published] = dataclasses.field(default_factory=dict)
    env: str = "maze"

    def contradiction(self, values: Mapping[str, Any]) -> str:
        """What flat settings have that this algorithm has not, in words; or nothing."""
        for name, own in self.definition.items():
            value = values[name]
            is_own = value in own if isinstance(own, Range) else value == own
            if not is_own:
                return f"{name} is {own} in it, not {value}"
        return ""

    @property
    def wrappers(self) -> Mapping[str, str]:
        """Switches that put something else around it, by name: what, in a line."""
        return {}

    def env_of(self, values: Mapping[str, Any]) -> str:
        """The environment that flat settings imply; empty for `env`."""
        del values
        return ""

    def implied(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Further settings that follow from flat settings, where none are given."""
        del values
        return {}

    @property
    @abc.abstractmethod
    def config(self) -> Any:
        """A frozen dataclass of settings, before `settings` and presets change it."""

    @abc.abstractmethod
    def build(self, run: RunConfig, env_config: Any, config: Any) -> Experiment[Any]:
        """The experiment of these settings; `config` is of the type of `self.config`.

        Raises:
          UserError: the settings do not go together.
        """


def all_finite(tree: PyTree) -> jax.Array:
    """Whether every number of a pytree is finite. () bool."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))
