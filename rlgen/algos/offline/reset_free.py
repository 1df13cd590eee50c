"""Reset-free fine-tuning with a learned success classifier (RoboFuME, in simulation).

After Yang et al. 2023 (arXiv 2310.15145). In four stages: a classifier learns from
prior tasks when a task is done, and adapts to a target task; an agent learns offline with
its rewards (Cal-QL), and then practises the target task and its undoing with hardly a
reset. There is no vision-language model and no picture here: the classifier is a small
network that sees what a picture would show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlgen import config as configs
from rlgen import datasets, transitions
from rlgen.algos.offline.classifier import (
    ClassifierConfig,
    classifier_stages,
    with_examples,
)
from rlgen.algos.offline.encoder import Scaler
from rlgen.algos.offline.experiment import OfflinePolicy, Staged
from rlgen.algos.offline.functions import Factory, NetsConfig
from rlgen.algos.offline.judged import (
    Judge,
    LabelledStage,
    Practising,
    PractisingConfig,
)
from rlgen.algos.offline.practice import (
    PRACTICE,
    PracticeConfig,
    PracticeStage,
    Undoable,
)
from rlgen.algos.offline.sampling import Uniform
from rlgen.algos.offline.stages import AGENT, Stage
from rlgen.config import RunConfig
from rlgen.datasets import Dataset
from rlgen.env import Env, take
from rlgen.errors import UserError
from rlgen.experiment import Algorithm
from rlgen.levels import LevelSet, assert_disjoint
from rlgen.runner import SEED_AXIS_NAME, resolve_seed_axis

# Settings of an environment that say how one evaluates, not where data is from.
_OF_EVALUATION = ("n_heldout", "eval_split", "dataset", "reference")
_REWARDS = ("classifier", "truth")


@dataclasses.dataclass(frozen=True)
class ResetFreeConfig:
    """Settings of reset-free fine-tuning.

    Attributes:
      agent: see its class; `calibrated` off is CQL instead of Cal-QL.
      nets: sizes of its networks.
      classifier, practice: see their classes.
      data: the dataset: a folder or a Minari id.
      steps_per_update: gradient steps in one update of the run.
      normalize_obs: observations get mean 0 and deviation 1, by the dataset.
      reward: whose: of the "classifier", or the "truth", which no robot has.
      prior_data: learn from prior tasks too; without, the classifier does not either.
      eval_episodes: episodes on each level of an evaluation.
    """

    agent: PractisingConfig
    nets: NetsConfig = NetsConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    practice: PracticeConfig = PracticeConfig()
    data: str = ""
    steps_per_update: int = 500
    normalize_obs: bool = False
    reward: str = "classifier"
    prior_data: bool = True
    eval_episodes: int = 50

    def __post_init__(self):
        if min(self.steps_per_update, self.eval_episodes) < 1:
            raise UserError("steps_per_update and eval_episodes must be at least 1.")
        if self.reward not in _REWARDS:
            raise UserError(
                f"Unknown reward {self.reward!r}: choose {' or '.join(_REWARDS)}."
            )

    @property
    def extra_updates(self) -> int:
        """Updates of the run beside those in which the agent learns offline."""
        n_updates = self.practice.online_updates
        if self.reward == "classifier":
            n_updates += self.classifier.adapt_updates
            if self.prior_data and self.classifier.classifier_prior:
                n_updates += self.classifier.classifier_updates
        return n_updates


@dataclasses.dataclass(frozen=True)
class ResetFree(Algorithm):
    """Reset-free fine-tuning by name.

    Attributes:
      agent: the agent's settings.
    """

    agent: PractisingConfig = PractisingConfig()

    @property
    def config(self) -> ResetFreeConfig:
        return ResetFreeConfig(agent=self.agent)

    def env_of(self, values: Mapping[str, Any]) -> str:
        """The environment that the dataset was recorded in."""
        return _about(values).get("environment", "")

    def implied(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The settings of the dataset's environment, and updates on top.

        `n_updates` is for learning offline; the classifier's updates and practising
        come on top.
        """
        settings = _about(values).get("settings", {})
        implied = {k: v for k, v in settings.items() if k not in _OF_EVALUATION}
        known = configs.flatten(self.config)
        config = configs.override(
            self.config, {k: v for k, v in values.items() if k in known}, "flags"
        )
        n_updates = values.get("n_updates", RunConfig().n_updates)
        return implied | {"n_updates": n_updates + config.extra_updates}

    def build(self, run: RunConfig, env_config: Any, config: Any) -> Staged:
        env: Any = env_config.make_env()
        if not isinstance(env, Undoable):
            raise UserError(
                f"{type(env).__name__} has no task that can be undone: choose another "
                "environment, such as tabletop."
            )
        dataset = _load(config, env, env_config)
        level_set, target = _target(dataset)
        data = with_examples(
            dataset.data if config.prior_data else _only(dataset.data, target), target
        )
        n_offline = run.n_updates - config.extra_updates
        if n_offline < 1:
            raise UserError(
                f"Classifier and practising take {config.extra_updates} updates, which "
                f"leaves the dataset none of {run.n_updates}: choose a larger "
                "n_updates."
            )
        sizes = [
            int(np.prod(s.shape)) for s in (env.observation_space, env.action_space)
        ]
        agent = Practising(Factory(config.nets, *sizes), config.agent)
        encoder = Scaler(config.normalize_obs)
        n_steps = config.steps_per_update
        stages: dict[str, Stage] = {}
        judge = Judge(None)
        if config.reward == "classifier":
            learning = classifier_stages(config.classifier, env.visible, n_steps, data)
            stages |= learning
            judge = Judge(list(learning.values())[-1])
        stages[AGENT] = LabelledStage(
            agent, encoder, Uniform(), n_steps, n_offline, judge
        )
        if config.practice.online_updates:
            levels = jax.tree.map(jnp.asarray, take(level_set.levels, np.array(target)))
            stages[PRACTICE] = PracticeStage(
                agent, encoder, env, levels, judge, config.practice,
                config.practice.online_updates,
            )  # fmt: skip
        vmapped = resolve_seed_axis(run.seed_axis) == "vmap"
        return Staged(
            env=env,
            network=OfflinePolicy(
                env.observation_space, env.action_space, agent, encoder
            ),
            stages=stages,
            encoder=encoder,
            eval_sets=_evaluation_sets(env_config, dataset, level_set),
            eval_episodes=config.eval_episodes,
            seed_axis=SEED_AXIS_NAME if vmapped else None,
            data=jax.tree.map(jnp.asarray, data),
        )


def _about(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the named dataset was made; that there is none is said by `build`."""
    try:
        return datasets.about(values["data"]) if values.get("data") else {}
    except UserError:
        return {}


def _load(config: ResetFreeConfig, env: Env, env_config: Any) -> Dataset:
    if not config.data:
        raise UserError(
            "Name a dataset with --data; `rlgen collect tabletop --recording "
            "demonstrations` makes one."
        )
    dataset = datasets.load(config.data, env_config.make_space())
    n_levels = None if dataset.level_set is None else len(dataset.level_set)
    transitions.check(
        dataset.data,
        env.observation_space,
        env.action_space,
        n_levels=n_levels,
        name=dataset.name,
    )
    return dataset


def _target(dataset: Dataset) -> tuple[LevelSet, list[int]]:
    """The levels, and which are the target task forward and backward."""
    level_set = dataset.level_set
    target = level_set.provenance.get("target_levels") if level_set else None
    if level_set is None or target is None:
        raise UserError(
            f"{dataset.name} names no target task: record one with `rlgen collect "
            "tabletop --recording demonstrations`."
        )
    return level_set, list(target)


def _only(data: transitions.OfflineData, levels: list[int]) -> transitions.OfflineData:
    """The episodes on these levels."""
    rows = data.rows
    kept = np.isin(np.asarray(rows.level_id)[data.episode_start], levels)
    length: Any = np.asarray(data.episode_length)[kept]
    rows = take(rows, kept[rows.episode_id])
    ids: Any = np.repeat(np.arange(len(length), dtype=np.int32), length)
    start: Any = (np.cumsum(length) - length).astype(np.int32)
    return transitions.OfflineData(rows.replace(episode_id=ids), start, length)


def _evaluation_sets(
    env_config: Any, dataset: Dataset, level_set: LevelSet
) -> dict[str, LevelSet]:
    """Tasks that are held out, and what the recording asks for: the target task."""
    sets = {n: s for n, s in env_config.eval_sets().items() if s.split != "train"}
    assert_disjoint(level_set, *sets.values())
    return sets | dict(dataset.tests)


RESET_FREE = ResetFree(
    summary="Cal-QL from demonstrations, then practice without resets, by a classifier",
    source="Yang et al. 2023, in simulation and without a vision-language model",
    settings={
        "cql_weight": 5.0,
        "calibrated": True,
        "entropy_backup": False,
    },
    presets={
        "quick": {
            "n_updates": 20,
            "steps_per_update": 500,
            "eval_every": 12,
            "log_every": 1,
            "actor_units": 64,
            "critic_units": 64,
            "batch_size": 128,
            "cql_actions": 2,
            "discount": 0.95,
            "actor_lr": 1e-3,
            "critic_lr": 1e-3,
            "temperature_lr": 1e-3,
            "n_heldout": 16,
        },
    },
    agent=PractisingConfig(),
    env="tabletop",
)
