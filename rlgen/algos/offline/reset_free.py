"""Reset-free fine-tuning with a learned success classifier (RoboFuME, in simulation).

After Yang et al. 2023 (arXiv 2310.15145). In four stages: a classifier learns from
prior tasks when a task is done, and adapts to a target task; an agent learns offline
with its rewards (Cal-QL), and then practises the target task and its undoing with
hardly a reset. There is no vision-language model and no picture here: the classifier is
a small network that sees what a picture would show.
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
from rlgen.algos.offline.assembly import load
from rlgen.algos.offline.classifier import (
    ClassifierConfig,
    ExampleData,
    classifier_stages,
    with_examples,
)
from rlgen.algos.offline.encoder import Encoder, Scaler
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
from rlgen.env import take
from rlgen.errors import UserError
from rlgen.experiment import Algorithm
from rlgen.levels import LevelSet, assert_disjoint
from rlgen.programs import seed_axis_name
from rlgen.ranges import Count, Settings

# Settings of an environment that say how one evaluates, not where data is from.
_OF_EVALUATION = ("n_heldout", "eval_split", "dataset", "reference")
_REWARDS = ("classifier", "truth")


@dataclasses.dataclass(frozen=True)
class ResetFreeConfig(Settings):
    """Settings of reset-free fine-tuning.

    Attributes:
      agent: see its class; `calibrated` off is CQL instead of Cal-QL.
      nets: sizes of its networks.
      classifier, practice: see their classes.
      data: the dataset: a folder or a Minari id.
      offline_updates: updates of the run in which the agent learns from the dataset.
      steps_per_update: gradient steps in one update of the run.
      normalize_obs: observations get mean 0 and deviation 1, by the dataset.
      reward: whose: of the "classifier", or the "truth", which no robot has.
      prior_data: learn from prior tasks too; without, the classifier does not either.
      eval_episodes: episodes on each level of an evaluation.
      greedy: evaluate the likeliest actions, not samples, which are what is practised.
    """

    agent: PractisingConfig
    nets: NetsConfig = NetsConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    practice: PracticeConfig = PracticeConfig()
    data: str = ""
    offline_updates: Count = 12
    steps_per_update: Count = 500
    normalize_obs: bool = False
    reward: str = "classifier"
    prior_data: bool = True
    eval_episodes: Count = 50
    greedy: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.reward not in _REWARDS:
            raise UserError(
                f"Unknown reward {self.reward!r}: choose {' or '.join(_REWARDS)}."
            )

    @property
    def n_updates(self) -> int:
        """Updates of the run, in all stages."""
        n_updates = self.offline_updates + self.practice.online_updates
        if self.reward == "classifier":
            n_updates += self.classifier.adapt_updates
            n_updates += self.classifier.classifier_updates * self.has_prior
        return n_updates

    @property
    def has_prior(self) -> bool:
        """Whether the classifier learns from prior tasks."""
        return self.prior_data and self.classifier.classifier_prior


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
        """The settings of the dataset's environment, and the length of all stages."""
        settings = _about(values).get("settings", {})
        implied = {k: v for k, v in settings.items() if k not in _OF_EVALUATION}
        known = configs.flatten(self.config)
        config = configs.override(
            self.config, {k: v for k, v in values.items() if k in known}, "flags"
        )
        return implied | {"n_updates": config.n_updates}

    def build(self, run: RunConfig, env_config: Any, config: Any) -> Staged:
        env = env_config.make_env()
        _check_undoable(env)
        dataset = load(config, env, env_config)
        level_set, target = _target(dataset)
        if run.n_updates != config.n_updates:
            raise UserError(
                f"The stages take {config.n_updates} updates, not {run.n_updates}: "
                "leave n_updates out, and set offline_updates and online_updates."
            )
        data = with_examples(
            dataset.data if config.prior_data else only(dataset.data, target), target
        )
        spaces = env.observation_space, env.action_space
        sizes = [int(np.prod(space.shape)) for space in spaces]
        agent = Practising(Factory(config.nets, *sizes), config.agent)
        encoder = Scaler(config.normalize_obs)
        levels = jax.tree.map(jnp.asarray, take(level_set.levels, np.array(target)))
        return Staged(
            env=env,
            network=OfflinePolicy(*spaces, agent, encoder),
            stages=_stages(config, agent, encoder, env, levels, data),
            encoder=encoder,
            eval_sets=_evaluation_sets(env_config, dataset, level_set),
            eval_episodes=config.eval_episodes,
            seed_axis=seed_axis_name(run),
            data=jax.tree.map(jnp.asarray, data),
            greedy=config.greedy,
        )


def _stages(
    config: ResetFreeConfig,
    agent: Practising,
    encoder: Encoder,
    env: Any,
    levels: Any,
    data: ExampleData,
) -> dict[str, Stage]:
    """The classifier's stages, unless the truth is used, the agent's, and practice."""
    n_steps, judge = config.steps_per_update, Judge(None)
    stages: dict[str, Stage] = {}
    if config.reward == "classifier":
        learning = classifier_stages(
            config.classifier, config.has_prior, env.visible, n_steps, data
        )
        stages |= learning
        judge = Judge(list(learning.values())[-1])
    stages[AGENT] = LabelledStage(
        agent, encoder, Uniform(), n_steps, config.offline_updates, judge
    )
    practice = config.practice
    if practice.online_updates:
        stages[PRACTICE] = PracticeStage(
            agent, encoder, env, levels, judge, practice, practice.online_updates
        )
    return stages


def _about(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the named dataset was made; that there is none is said by `build`."""
    try:
        return datasets.about(values["data"]) if values.get("data") else {}
    except UserError:
        return {}


def _check_undoable(env: Any) -> None:
    if not isinstance(env, Undoable):
        raise UserError(
            f"{type(env).__name__} has no task that can be undone: choose another "
            "environment, such as tabletop."
        )


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


def only(data: transitions.OfflineData, levels: list[int]) -> transitions.OfflineData:
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


# The paper gives no sizes for tasks without pictures: these are ours, for minutes on a
# CPU. At most 20,000 steps of practice, one gradient step for each.
RESET_FREE = ResetFree(
    summary="Cal-QL from demonstrations, then practice without resets, by a classifier",
    source="Yang et al. 2023, in simulation and without a vision-language model",
    settings={"cql_weight": 1.0, "calibrated": True, "entropy_backup": False},
    presets={
        "quick": {
            "log_every": 1,
            "eval_every": 6,
            "n_heldout": 16,
            "actor_units": 64,
            "critic_units": 64,
            "batch_size": 128,
            "cql_actions": 2,
            "discount": 0.95,
            "temperature": 0.1,
            "actor_lr": 1e-3,
            "critic_lr": 1e-3,
            "temperature_lr": 1e-3,
        },
    },
    agent=PractisingConfig(),
    env="tabletop",
)
