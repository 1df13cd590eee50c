"""From settings to offline experiments."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from rlgen import config as configs
from rlgen import datasets, registry, transitions
from rlgen.algos.offline.agent import Agent, AgentConfig
from rlgen.algos.offline.anchors import (
    REVERSE,
    SEEKER,
    AnchorConfig,
    AnchorEncoder,
    Seeker,
    SeekerStage,
)
from rlgen.algos.offline.dynamics import Dynamics, DynamicsConfig, DynamicsStage
from rlgen.algos.offline.encoder import Encoder, Scaler
from rlgen.algos.offline.experiment import OfflinePolicy, Staged
from rlgen.algos.offline.functions import Factory, NetsConfig
from rlgen.algos.offline.model_based import (
    DYNAMICS,
)
from rlgen.algos.offline.online import ONLINE, OnlineConfig, OnlineStage
from rlgen.algos.offline.sampling import (
    Sampler,
    Uniform,
    best_episodes,
)
from rlgen.algos.offline.stages import AGENT, AgentStage, Stage
from rlgen.algos.offline.transduction import TransductionConfig, TransductiveFactory
from rlgen.config import RunConfig
from rlgen.datasets import Dataset
from rlgen.env import Env, take
from rlgen.errors import UserError
from rlgen.experiment import Algorithm
from rlgen.levels import LevelSet, assert_disjoint, sample_split
from rlgen.programs import seed_axis_name
from rlgen.ranges import (
    Count,
    CountOrZero,
    Finite,
    Positive,
    Settings,
    ShareAboveZero,
)
from rlgen.transitions import OfflineData

# Settings of an environment that say how one evaluates, not where data is from.
_OF_EVALUATION = ("n_heldout", "eval_split", "dataset", "reference")
# Of returns from the worst episode to the best, where rewards are scaled by them.
_RANGE = 1000.0


@dataclasses.dataclass(frozen=True)
class OfflineConfig(Settings):
    """Settings of an offline learner.

    Attributes:
      agent: see its class.
      nets: sizes of its networks.
      data: the dataset: a folder, a Minari id, or a flat .npz file.
      steps_per_update: gradient steps in one update of the run.
      normalize_obs: observations get mean 0 and deviation 1, by the dataset; with
        cocoa they always do.
      reward_scaling: "none", or "range": rewards are divided such that the returns of
        the dataset's episodes span 1,000 (as published with IQL).
      reward_factor, reward_shift: rewards, scaled or not, are multiplied and then
        shifted by these; evaluations count them as the environment gives them.
      best_share: learn only from this share of the episodes, those of highest return.
      scale_actions: bring actions from the box of the dataset's action space to that of
        the environment; off, those outside it are refused.
      cocoa: give the agent anchors and differences to read, and networks to match
        (compositional conservatism, Song et al. 2024).
      transduction, anchor, dynamics: of that; see their classes.
      online: how the agent plays and goes on learning after the dataset.
      eval_episodes: episodes on each level of an evaluation.
      min_eval_episodes: and at least so many on each level set, however few its levels.
      n_eval_levels: at most so many of the dataset's own levels are evaluated on.
    """

    agent: AgentConfig
    nets: NetsConfig = NetsConfig()
    data: str = ""
    steps_per_update: Count = 1000
    normalize_obs: bool = False
    reward_scaling: str = "none"
    reward_factor: Positive = 1.0
    reward_shift: Finite = 0.0
    best_share: ShareAboveZero = 1.0
    scale_actions: bool = False
    cocoa: bool = False
    transduction: TransductionConfig = TransductionConfig()
    anchor: AnchorConfig = AnchorConfig()
    dynamics: DynamicsConfig = DynamicsConfig()
    online: OnlineConfig = OnlineConfig()
    eval_episodes: Count = 4
    min_eval_episodes: CountOrZero = 0
    n_eval_levels: Count = 64

    def __post_init__(self):
        super().__post_init__()
        if self.reward_scaling not in ("none", "range"):
            raise UserError(
                f"Unknown reward_scaling {self.reward_scaling!r}: choose none or range."
            )

    @property
    def keeps_rewards(self) -> bool:
        """Whether rewards are learned from as they were recorded."""
        factor, shift = self.reward_factor, self.reward_shift
        return self.reward_scaling == "none" and factor == 1.0 and shift == 0.0


@dataclasses.dataclass(frozen=True)
class OfflineAlgorithm(Algorithm):
    """An offline learner by name.

    Attributes:
      make_agent: from the factory, the agent's settings and the gradient steps of the
        run to the agent.
      agent: the agent's settings.
    """

    make_agent: Callable[[Factory, Any, int], Agent] = None  # pyright: ignore
    agent: AgentConfig = AgentConfig()
    #: Whether its agents can go on learning from what they play.
    plays: ClassVar[bool] = True

    @property
    def config(self) -> OfflineConfig:
        return OfflineConfig(agent=self.agent)

    @property
    def wrappers(self) -> Mapping[str, str]:
        return {"cocoa": "compositional conservatism by anchors (Song et al. 2024)"}

    def env_of(self, values: Mapping[str, Any]) -> str:
        """The environment that the dataset was collected in."""
        return _about(values).get("environment", "")

    def implied(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The settings of the dataset's environment, and updates on top.

        The agent learns from the dataset for as many updates as it would without
        models and without playing.
        """
        implied = {
            name: value
            for name, value in _about(values).get("settings", {}).items()
            if name not in _OF_EVALUATION
        }
        config = configs.override(
            self.config, {k: v for k, v in values.items() if k in self._names}, "flags"
        )
        extra = sum(self.model_updates(config).values())
        extra += config.online.online_updates
        if extra:
            n_updates = values.get("n_updates", RunConfig().n_updates)
            implied["n_updates"] = n_updates + extra
        return implied

    @property
    def _names(self) -> set[str]:
        return set(configs.flatten(self.config))

    def model_updates(self, config: Any) -> dict[str, int]:
        """Updates of the run for each model, by the stage's name, in order."""
        if not seeks_anchors(config):
            return {}
        return {
            DYNAMICS: config.dynamics.model_updates,
            REVERSE: config.dynamics.model_updates,
            SEEKER: config.anchor.seeker_updates,
        }

    def build(self, run: RunConfig, env_config: Any, config: Any) -> Staged:
        env = env_config.make_env()
        dataset = load(config, env, env_config, scale_actions=config.scale_actions)
        data, reward_scale = prepared(config, dataset)
        env, data = self.told(config, env, data)
        sampler, data = self.sampler(config, env, data)
        n_online = config.online.online_updates
        taken = sum(self.model_updates(config).values()) + n_online
        if run.n_updates <= taken:
            raise UserError(
                f"Models and playing take {taken} updates, which leaves the dataset "
                f"none of {run.n_updates}: choose a larger n_updates."
            )
        n_updates = run.n_updates - taken
        factory = self.factory(config, env)
        # Schedules span the run: playing goes on at a rate that is not yet 0.
        agent = self.agent_of(config, factory, n_updates + n_online)
        if n_online and not (self.plays and agent.plays):
            raise UserError(
                "This learner cannot play on after the dataset: leave online_updates "
                "out, or choose one such as iql or cal-ql."
            )
        for field in agent.needs:
            transitions.require(data, field, type(agent).__name__)
        if agent.endless_returns:
            data = transitions.with_endless_returns(data, config.agent.discount)
        stages = self.model_stages(config, factory)
        encoder = self.encoder(config, factory, stages)
        stages[AGENT] = self.agent_stage(
            config, env, agent, encoder, sampler, n_updates, stages
        )
        if n_online:
            stages[ONLINE] = online_stage(
                config,
                agent,
                encoder,
                env,
                env_config,
                n_online,
                goes_on=True,
                reward_scale=reward_scale,
                reward_shift=config.reward_shift,
                failing_reward=transitions.failing_reward(data),
            )
        sets = evaluation_sets(env_config, dataset, config.n_eval_levels)
        return self.experiment(run, config, env, agent, encoder, stages, sets, data)

    def agent_of(self, config: Any, factory: Factory, n_updates: int) -> Agent:
        """The agent, for so many updates of learning from the dataset.

        Raises:
          UserError: an update is no whole number of its steps.
        """
        n_steps = config.steps_per_update
        agent = self.make_agent(factory, config.agent, n_updates * n_steps)
        if n_steps % agent.batches_per_update:
            raise UserError(
                f"steps_per_update is {n_steps}, but must be a multiple of "
                f"{agent.batches_per_update}, the steps of the critics for one of the "
                "actor."
            )
        return agent

    def experiment(
        self,
        run: RunConfig,
        config: Any,
        env: Env,
        agent: Agent,
        encoder: Encoder,
        stages: dict[str, Stage],
        eval_sets: dict[str, LevelSet],
        data: OfflineData | None,
    ) -> Staged:
        """All of it together."""
        return Staged(
            env=env,
            network=OfflinePolicy(
                env.observation_space, env.action_space, agent, encoder
            ),
            stages=stages,
            encoder=encoder,
            eval_sets=eval_sets,
            eval_episodes=config.eval_episodes,
            min_eval_episodes=config.min_eval_episodes,
            seed_axis=seed_axis_name(run),
            data=jax.tree.map(jnp.asarray, data),
        )

    def factory(self, config: Any, env: Env) -> Factory:
        """What makes the agent's networks."""
        sizes = _size(env.observation_space), _size(env.action_space)
        if config.cocoa:
            return TransductiveFactory(config.nets, *sizes, config.transduction)
        return Factory(config.nets, *sizes)

    def told(self, config: Any, env: Env, data: OfflineData) -> tuple[Env, OfflineData]:
        """Environment and data as the agent sees them."""
        del config
        return env, data

    def sampler(
        self, config: Any, env: Env, data: OfflineData
    ) -> tuple[Sampler, OfflineData]:
        """How batches are drawn, and the data with what that needs."""
        del config, env
        return Uniform(), data

    def model_stages(self, config: Any, factory: Factory) -> dict[str, Stage]:
        """The models that the agent or its anchors need, in order."""
        sizes = factory.obs_size, factory.action_size
        n_steps = config.steps_per_update
        stages: dict[str, Stage] = {}
        for name, n_updates in self.model_updates(config).items():
            if name == SEEKER:
                reverse = stages[REVERSE]
                assert isinstance(reverse, DynamicsStage)
                seeker = Seeker(config.anchor, factory.action_size)
                stages[name] = SeekerStage(
                    seeker, reverse, config.anchor, n_steps, n_updates
                )
            else:
                dynamics = Dynamics(config.dynamics, *sizes, name == REVERSE)
                prefix = "model" if name == DYNAMICS else "reverse"
                stages[name] = DynamicsStage(dynamics, n_steps, n_updates, prefix)
        return stages

    def encoder(
        self, config: Any, factory: Factory, stages: Mapping[str, Stage]
    ) -> Encoder:
        """What makes the networks' inputs."""
        if not config.cocoa:
            return Scaler(config.normalize_obs)
        if not seeks_anchors(config):
            return AnchorEncoder(config.anchor)
        seeker, forward = stages[SEEKER], stages[DYNAMICS]
        assert isinstance(seeker, SeekerStage) and isinstance(forward, DynamicsStage)
        return AnchorEncoder(config.anchor, seeker.seeker, forward)

    def agent_stage(
        self,
        config: Any,
        env: Env,
        agent: Agent,
        encoder: Encoder,
        sampler: Sampler,
        n_updates: int,
        stages: Mapping[str, Stage],
    ) -> Stage:
        """How the agent learns, given the models."""
        del env, stages
        return AgentStage(agent, encoder, sampler, config.steps_per_update, n_updates)


def online_stage(
    config: Any,
    agent: Agent,
    encoder: Encoder,
    env: Env,
    env_config: Any,
    n_updates: int,
    *,
    goes_on: bool,
    reward_scale: float = 1.0,
    reward_shift: float = 0.0,
    failing_reward: float | None = None,
) -> OnlineStage:
    """Playing on new levels of the train split, or on the given ones.

    Raises:
      UserError: actions are not in a box.
    """
    if not isinstance(env.action_space, gymnasium.spaces.Box):
        raise UserError("This agent needs actions in a box: choose another env.")
    space, given = env_config.make_space(), env_config.training_set()

    def sample_level(key: jax.Array) -> Any:
        if given is None:
            return sample_split(space, key, "train")
        levels = jax.tree.map(jnp.asarray, given.levels)
        return take(levels, jax.random.randint(key, (), 0, len(given)))

    return OnlineStage(
        agent,
        encoder,
        env,
        sample_level,
        config.online,
        config.steps_per_update,
        n_updates,
        goes_on,
        reward_scale,
        reward_shift,
        failing_reward,
    )


def seeks_anchors(config: Any) -> bool:
    """Whether anchors are sought in models."""
    return (
        config.cocoa and config.anchor.anchors == "seeker" and config.anchor.horizon > 0
    )


def _about(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the named dataset was made; that there is none is said by `build`."""
    try:
        return datasets.about(values["data"]) if values.get("data") else {}
    except UserError:
        return {}


def _size(space: Any) -> int:
    return int(np.prod(space.shape))


def load(
    config: Any, env: Env, env_config: Any, *, scale_actions: bool = False
) -> Dataset:
    """The dataset, checked against environment and held-out levels.

    That it was recorded elsewhere is a warning: shapes alone tell too little.

    Raises:
      UserError: none is named, or it does not fit.
    """
    if not config.data:
        raise UserError(
            "Name a dataset with --data; `rlgen collect` makes one from a trained run."
        )
    dataset = datasets.load(
        config.data, env_config.make_space(), discount=config.agent.discount
    )
    here = type(env_config).__name__.removesuffix("Config")
    elsewhere = dataset.recorded_in and not _is(dataset.recorded_in, env_config)
    if not isinstance(env.action_space, gymnasium.spaces.Box):
        was = f", recorded in {dataset.recorded_in}," if dataset.recorded_in else ""
        raise UserError(
            f"{dataset.name}{was} was to be evaluated in {here}, whose actions are in "
            "no box: name with --env an environment like that of the dataset."
        )
    if elsewhere:
        warnings.warn(
            f"{dataset.name} was recorded in {dataset.recorded_in}, but is evaluated "
            f"in {here}: results mean little unless both are alike.",
            stacklevel=2,
        )
    if scale_actions:
        dataset = scaled_actions(dataset, env.action_space)
    n_levels = None if dataset.level_set is None else len(dataset.level_set)
    transitions.check(
        dataset.data,
        env.observation_space,
        env.action_space,
        n_levels=n_levels,
        name=dataset.name,
    )
    return dataset


def _is(name: str, env_config: Any) -> bool:
    """Whether a registered environment of this name has settings like these."""
    known = registry.names(registry.ENVS)
    return name in known and registry.load(registry.ENVS, name) is type(env_config)


def scaled_actions(dataset: Dataset, space: gymnasium.spaces.Box) -> Dataset:
    """The dataset with its actions in another box, each share of the way as before.

    Raises:
      UserError: the boxes are unknown, without bounds, or of other shapes.
    """
    own = dataset.action_space
    if own is None or not (own.is_bounded() and space.is_bounded()):
        raise UserError(
            f"The actions of {dataset.name} cannot be scaled, for its box or that of "
            "the environment is unknown: leave scale_actions out and scale them in the "
            "file."
        )
    if own.shape != space.shape:
        raise UserError(
            f"The actions of {dataset.name} have shape {own.shape}, but the "
            f"environment's have {space.shape}: name another environment."
        )
    low, high = own.low.astype(np.float64), own.high.astype(np.float64)

    def scaled(action: Any) -> Any:
        share = (np.asarray(action, np.float64) - low) / (high - low)
        return (space.low + share * (space.high - space.low)).astype(np.float32)

    rows = dataset.data.rows
    rows = rows.replace(action=scaled(rows.action))
    if rows.next_action is not None:
        # Behind the last step of an episode stand zeros.
        there = np.asarray(rows.has_next_action)[:, None]
        rows = rows.replace(next_action=np.where(there, scaled(rows.next_action), 0))
    warnings.warn(
        f"The actions of {dataset.name} are scaled from {low.min():g} to "
        f"{high.max():g} into {space.low.min():g} to {space.high.max():g}, in which "
        "the agent acts.",
        stacklevel=2,
    )
    return dataclasses.replace(dataset, data=dataset.data.replace(rows=rows))


def prepared(config: OfflineConfig, dataset: Dataset) -> tuple[OfflineData, float]:
    """The steps as they are learned from, on the host, and their rewards' factor."""
    data = dataset.data
    if config.best_share < 1.0:
        data = best_episodes(data, config.best_share)
    if config.keeps_rewards:
        return data, 1.0
    factor = config.reward_factor
    if config.reward_scaling == "range":
        factor *= range_factor(data)
    factor = np.float32(factor)
    shifted = with_rewards(data, factor, config.reward_shift, config.agent.discount)
    return shifted, float(factor)


def with_rewards(
    data: OfflineData, factor: np.float32, shift: float, discount: float
) -> OfflineData:
    """Rewards `factor` r + `shift`, and the returns that they make."""
    rows: Any = data.rows
    reward, to_go = rows.reward * factor, rows.return_to_go
    if to_go is not None:
        to_go = to_go * factor
    if shift:
        reward = np.asarray(reward + shift, np.float32)
    if shift and to_go is not None:
        places = np.asarray(data.episode_start), np.asarray(data.episode_length)
        to_go = transitions.returns_to_go(reward, *places, discount)
    return data.replace(rows=rows.replace(reward=reward, return_to_go=to_go))


def range_factor(data: OfflineData) -> float:
    """What rewards are multiplied by, so that returns of whole episodes span `_RANGE`.

    Raises:
      UserError: all episodes have the same return.
    """
    rows = data.rows
    totals = np.bincount(rows.episode_id, rows.reward)
    span = float(np.ptp(totals))
    if span <= 0:
        raise UserError(
            "All episodes of the dataset have the same return, which rewards cannot be "
            "scaled by: choose reward_scaling none."
        )
    return _RANGE / span


def evaluation_sets(
    env_config: Any, dataset: Dataset, n_levels: int
) -> dict[str, LevelSet]:
    """Held-out levels, and of the dataset's own some, to measure the gap.

    A recording that asks for level sets of its own is evaluated on those alone.
    """
    if dataset.tests:
        return dict(dataset.tests)
    sets = {n: s for n, s in env_config.eval_sets().items() if s.split != "train"}
    if dataset.level_set is not None:
        assert_disjoint(dataset.level_set, *sets.values())
        train = dataclasses.replace(dataset.level_set, name="train", split="train")
        sets["train"] = train.thin(n_levels)
    return sets
