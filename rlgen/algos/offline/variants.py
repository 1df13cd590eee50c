"""Kinds of offline learners: in a model, told an outcome or a goal, or playing."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from rlgen import transitions
from rlgen.algos.offline.assembly import OfflineAlgorithm, OfflineConfig, online_stage
from rlgen.algos.offline.dynamics import DynamicsStage
from rlgen.algos.offline.model_based import (
    DYNAMICS,
    ModelAgentStage,
    ModelBasedConfig,
)
from rlgen.algos.offline.online import ONLINE
from rlgen.algos.offline.outcomes import Conditioned, best_return, with_outcomes
from rlgen.algos.offline.sac import SAC
from rlgen.algos.offline.sampling import Goals, Windows, clustered
from rlgen.env import Env
from rlgen.errors import UserError
from rlgen.ranges import Count, Share


@dataclasses.dataclass(frozen=True)
class ModelBasedSettings(OfflineConfig):
    """Settings of an offline learner that learns in a model.

    Attributes:
      model_based: see its class.
    """

    model_based: ModelBasedConfig = ModelBasedConfig()


@dataclasses.dataclass(frozen=True)
class ModelBasedAlgorithm(OfflineAlgorithm):
    """An offline learner that learns in a model of the dynamics."""

    plays = False

    @property
    def config(self) -> ModelBasedSettings:
        return ModelBasedSettings(agent=self.agent)

    def model_updates(self, config):
        return {DYNAMICS: config.dynamics.model_updates} | super().model_updates(config)

    def agent_stage(self, config, env, agent, encoder, sampler, n_updates, stages):
        del sampler  # recorded steps are uniform among the imagined ones
        model = stages[DYNAMICS]
        assert isinstance(model, DynamicsStage) and isinstance(agent, SAC)
        if config.dynamics.termination == "analytic":
            _check_termination(env)
        return ModelAgentStage(
            agent,
            encoder,
            model.dynamics,
            model,
            config.model_based,
            env,
            config.steps_per_update,
            n_updates,
        )


def _check_termination(env: Env) -> None:
    try:
        env.terminates(jnp.zeros(env.observation_space.shape or ()))
    except NotImplementedError as error:
        raise UserError(str(error)) from None


@dataclasses.dataclass(frozen=True)
class OutcomeConfig(OfflineConfig):
    """Settings of an agent that is told the return to reach.

    Attributes:
      target_quantile: it is told this quantile of the dataset's returns.
    """

    target_quantile: Share = 0.9


@dataclasses.dataclass(frozen=True)
class OutcomeAlgorithm(OfflineAlgorithm):
    """Supervised learning of actions given the return that followed.

    Attributes:
      rate: it is told the return for each step left, not the whole.
      windows: it reads windows of steps, with their actions.
    """

    rate: bool = True
    windows: bool = False
    plays = False

    @property
    def config(self) -> OutcomeConfig:
        return OutcomeConfig(agent=self.agent)

    @property
    def wrappers(self):
        return {} if self.windows else super().wrappers

    def told(self, config, env, data):
        if self.windows and config.cocoa:
            raise UserError(
                "A decision transformer reads windows of steps, not anchors: leave "
                "cocoa out."
            )
        if not config.keeps_rewards:
            raise UserError(
                "An agent that is told a return counts the rewards as they are played: "
                "choose reward_scaling none, reward_factor 1 and reward_shift 0."
            )
        transitions.require(data, "return_to_go", "A policy that is told a return")
        target = best_return(data, config.target_quantile)
        env = Conditioned(env, target=target, rate=self.rate, tells_action=self.windows)
        return env, with_outcomes(
            data, env.max_episode_steps, rate=self.rate, tells_action=self.windows
        )

    def sampler(self, config, env, data):
        if not self.windows:
            return super().sampler(config, env, data)
        return Windows(config.agent.context), data


@dataclasses.dataclass(frozen=True)
class GoalConfig(OfflineConfig):
    """Settings of an agent that is told a goal in its observation.

    Attributes:
      stitch_prob: share of goals that another episode reached; 0 for none.
      n_clusters: groups of states of one level, that lead on to the same goals.
    """

    stitch_prob: Share = 0.0
    n_clusters: Count = 20


@dataclasses.dataclass(frozen=True)
class GoalAlgorithm(OfflineAlgorithm):
    """Supervised learning of actions given goals that were reached later."""

    plays = False

    @property
    def config(self) -> GoalConfig:
        return GoalConfig(agent=self.agent)

    def sampler(self, config, env, data):
        layout = env.goal_layout
        if layout is None:
            raise UserError(
                f"{type(env).__name__} shows no goals in its observations: choose "
                "another environment, such as pointmaze."
            )
        if config.stitch_prob > 0:
            data = clustered(data, layout, config.n_clusters)
        return Goals(layout, config.stitch_prob), data


@dataclasses.dataclass(frozen=True)
class OnlineAlgorithm(OfflineAlgorithm):
    """An agent that has no dataset: it plays from the first update on."""

    @property
    def wrappers(self):
        return {}

    def build(self, run, env_config, config):
        scaled = config.reward_scaling != "none"
        if config.data or config.cocoa or config.normalize_obs or scaled:
            raise UserError(
                "This agent learns from what it plays: leave data, cocoa, "
                "normalize_obs and reward_scaling out."
            )
        env = env_config.make_env()
        agent = self.agent_of(config, self.factory(config, env), run.n_updates)
        encoder = self.encoder(config, self.factory(config, env), {})
        stage = online_stage(
            config,
            agent,
            encoder,
            env,
            env_config,
            run.n_updates,
            goes_on=False,
            reward_scale=config.reward_factor,
            reward_shift=config.reward_shift,
        )
        sets = env_config.eval_sets()
        return self.experiment(
            run, config, env, agent, encoder, {ONLINE: stage}, sets, None
        )
