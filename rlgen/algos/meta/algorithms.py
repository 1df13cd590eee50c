"""The meta-learners by name: each is a set of settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from rlgen.algos import rule_library
from rlgen.algos.meta import published
from rlgen.algos.meta.evolution import Evolution, EvolutionConfig
from rlgen.algos.meta.experiment import MetaLearning
from rlgen.algos.meta.lifetime import Lifetime
from rlgen.algos.meta.meta_gradient import Critic, MetaGradient, MetaGradientConfig
from rlgen.algos.meta.tasks import Tasks
from rlgen.algos.ppo import PPOConfig
from rlgen.algos.rule_library import RuleConfig
from rlgen.algos.rules import ActorCriticRule
from rlgen.algos.student import Student
from rlgen.algos.ued.assembly import UEDAlgorithm, UEDConfig
from rlgen.algos.ued.experiment import UED
from rlgen.algos.ued.level_replay import LevelReplay, ReplayConfig
from rlgen.algos.ued.scores import NEEDS_ANTAGONIST
from rlgen.config import RunConfig
from rlgen.env import take
from rlgen.errors import UserError
from rlgen.experiment import Algorithm
from rlgen.networks import NetworkConfig, make_network
from rlgen.programs import seed_axis_name
from rlgen.ranges import Count, CountOrZero, PositiveOrZero, Range, Settings


@dataclasses.dataclass(frozen=True)
class MetaConfig(Settings):
    """Settings of learning an update rule, by whatever means.

    Attributes:
      ppo: of the agents; `discount` and `gae_lambda` are those of their critics.
      network: of the agents.
      shape: of the rule.
      replay: how tasks are chosen.
      n_agents: agents that live side by side.
      min_lifetime, max_lifetime: updates of an agent, log-uniform between.
      eval_lifetime: updates of agents on held-out levels; 0 for max_lifetime.
      eval_episodes: episodes of each at its end.
    """

    ppo: PPOConfig = PPOConfig(
        n_envs=64,
        n_steps=20,
        n_epochs=1,
        optimizer="sgd",
        lr=40.0,
        discount=0.99,
        gae_lambda=0.95,
        drift="none",
        clip_value=False,
        entropy_coef=0.0,
    )
    network: NetworkConfig = NetworkConfig(torso="table", core="none")
    shape: RuleConfig = RuleConfig()
    replay: ReplayConfig = ReplayConfig(replay_prob=0.0)
    n_agents: Count = 16
    min_lifetime: Count = 250
    max_lifetime: Count = 250
    eval_lifetime: CountOrZero = 0
    eval_episodes: Count = 16


@dataclasses.dataclass(frozen=True)
class MetaGradientSettings(MetaConfig):
    """Settings of learning an update rule by truncated meta-gradients.

    Attributes:
      gradient: see its class.
      antagonist_optimizer, antagonist_lr: of the A2C agents that algorithmic regret
        compares with; clipping and the value's learning rate are as of the others.
      antagonist_entropy, antagonist_value_coef: weights of their entropy bonus and of
        their value loss.
    """

    gradient: MetaGradientConfig = MetaGradientConfig()
    antagonist_optimizer: str = "sgd"
    antagonist_lr: PositiveOrZero = 40.0
    antagonist_entropy: PositiveOrZero = 0.01
    antagonist_value_coef: PositiveOrZero = 2.0


@dataclasses.dataclass(frozen=True)
class EvolutionSettings(MetaConfig):
    """Settings of learning an update rule by evolution; `n_agents` is the population.

    Attributes:
      evolution: see its class.
    """

    evolution: EvolutionConfig = EvolutionConfig()

    def __post_init__(self):
        super().__post_init__()
        if self.replay.replay_prob > 0:
            raise UserError("Evolution draws tasks uniformly: leave replay_prob at 0.")


def _common(
    run: RunConfig,
    env_config: Any,
    config: MetaConfig,
    student: Student,
    n_tasks: int,
) -> dict[str, Any]:
    """What every way of learning a rule is made of; tasks come in batches."""
    tasks = Tasks(
        env_config.make_space(),
        config.min_lifetime,
        config.max_lifetime,
        env_config.training_set(),
    )
    curriculum = LevelReplay(
        space=tasks,
        config=config.replay,
        n_levels=n_tasks,
        total_updates=run.n_updates,
        seed_axis=seed_axis_name(run),
    )
    return {
        "env": student.env,
        "network": student.network,
        "lifetime": Lifetime(student),
        "rule": config.shape,
        "curriculum": curriculum,
        "tasks": tasks,
        "n_agents": config.n_agents,
        "eval_sets": env_config.eval_sets(),
        "eval_lifetime": config.eval_lifetime or config.max_lifetime,
        "eval_episodes": config.eval_episodes,
    }


@dataclasses.dataclass(frozen=True)
class MetaGradientAlgorithm(Algorithm):
    """A rule that is learned by truncated meta-gradients."""

    @property
    def config(self) -> MetaGradientSettings:
        return MetaGradientSettings()

    def build(
        self, run: RunConfig, env_config: Any, config: MetaGradientSettings
    ) -> MetaLearning:
        env, gradient = env_config.make_env(), config.gradient
        if config.shape.rule != "lpg":
            raise UserError(
                f"The rule {config.shape.rule} is not learned by meta-gradients: "
                "choose rule=lpg."
            )
        if config.ppo.time_limit != "terminate":
            raise UserError(
                "Critics of meta-gradients do not bootstrap at time limits: leave "
                "time_limit out."
            )
        if config.replay.needs_oracle:
            level = env_config.make_space().example()
            try:
                jax.eval_shape(env.optimal_return, level)
            except NotImplementedError as error:
                raise UserError(str(error)) from None
        rule = config.shape.make(config.ppo, differentiable=True)
        student = Student.create(env, config.network, rule, one_level=True)
        antagonist = None
        if {config.replay.score, config.replay.second_score} & NEEDS_ANTAGONIST:
            a2c = dataclasses.replace(
                config.ppo,
                optimizer=config.antagonist_optimizer,
                lr=config.antagonist_lr,
                entropy_coef=config.antagonist_entropy,
                value_coef=config.antagonist_value_coef,
            )
            antagonist = Lifetime(
                Student.create(
                    env, config.network, ActorCriticRule(a2c), one_level=True
                )
            )
        critic = Critic(
            network=make_network(
                env.observation_space, env.action_space, config.network
            ),
            lr=gradient.critic_lr,
            n_steps=gradient.critic_steps,
            discount=config.ppo.discount,
            gae_lambda=config.ppo.gae_lambda,
        )
        return MetaGradient(
            config=gradient,
            critic=critic,
            antagonist=antagonist,
            **_common(run, env_config, config, student, config.n_agents),
        )


@dataclasses.dataclass(frozen=True)
class EvolutionAlgorithm(Algorithm):
    """A rule that is learned by an evolution strategy."""

    @property
    def config(self) -> EvolutionSettings:
        return EvolutionSettings()

    def build(
        self, run: RunConfig, env_config: Any, config: EvolutionSettings
    ) -> MetaLearning:
        rule = config.shape.make(config.ppo)
        student = Student.create(
            env_config.make_env(), config.network, rule, one_level=True
        )
        n_pairs = max(1, config.n_agents // 2)
        return Evolution(
            config=config.evolution,
            **_common(run, env_config, config, student, n_pairs),
        )


#: Grids of 4 or 5 cells a side with one or two objects, episodes of 20 to 50 steps.
SMALL_GRIDS: Mapping[str, Any] = {
    "height": 5,
    "width": 5,
    "n_objects": 2,
    "max_size": 5,
    "n_walls": 4,
    "max_steps": 50,
    "n_heldout": 128,
}

# As in the code of Jackson et al. 2023: policy and prediction are of two optimizers,
# with learning rates of 40 and 4, each of which clips.
_TWO_OPTIMIZERS: Mapping[str, Any] = {"separate_clip": True, "value_lr_ratio": 0.1}

# The rules that ship and the committed figures were made with one optimizer for both.
_ONE_OPTIMIZER: Mapping[str, Any] = {"separate_clip": False, "value_lr_ratio": 1.0}

_QUICK: Mapping[str, Any] = {
    **SMALL_GRIDS,
    **_ONE_OPTIMIZER,
    "n_envs": 16,
    "n_agents": 32,
    "part_size": 8,
    "min_lifetime": 50,
    "max_lifetime": 50,
    "rule_size": 64,
    "meta_lr": 5e-4,
    "meta_grad_norm": 0.1,
    "n_updates": 1000,
    "log_every": 10,
    "eval_every": 200,
    "seeds": 3,
}

# Jackson et al. 2023, tables 2 and 3: 512 lifetimes 5000 meta-steps.
_PAPER: Mapping[str, Any] = {
    "n_agents": 512,
    "part_size": 32,
    "n_updates": 5000,
    "eval_every": 250,
}


@dataclasses.dataclass(frozen=True)
class AgentConfig(UEDConfig):
    """Settings of an agent that learns by some update rule.

    Attributes:
      rule: the name of a registered one (a2c, ppo, dpo, lpg, ...), or the file or run
        directory of a learned one (then the rule of its first meta-seed).
    """

    rule: str = "ppo"


@dataclasses.dataclass(frozen=True)
class AgentAlgorithm(UEDAlgorithm):
    """One agent on random levels of an environment, by a rule of choice."""

    @property
    def config(self) -> AgentConfig:
        return AgentConfig()

    def implied(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return rule_library.find(values.get("rule", "ppo")).settings

    def build(self, run: RunConfig, env_config: Any, config: AgentConfig) -> UED:
        named = rule_library.find(config.rule)
        rule, params = named.make(config.ppo), take(named.params, 0)
        ued = super().build(run, env_config, config)
        student = Student.create(ued.env, config.network, rule, config.auto_reset)
        return dataclasses.replace(
            ued, network=student.network, rule=rule, rule_params=params
        )


# An agent by itself: rollouts of 64 x 32 steps, episodes that go on across them. Values
# are not clipped: where returns are in the hundreds, that would keep them near 0.
_AGENT: Mapping[str, Any] = {
    "replay_prob": 0.0,
    "auto_reset": "resample",
    "continue_episodes": True,
    "n_envs": 64,
    "n_steps": 32,
    "n_epochs": 4,
    "n_minibatches": 4,
    "clip_value": False,
    "core": "none",
    "torso": "mlp",
    "channels": 64,
    "head_size": 64,
    "lr": 5e-4,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "entropy_coef": 1e-2,
}

AGENT = AgentAlgorithm(
    summary="an agent that learns by an update rule: --rule NAME or FILE",
    source="the rule's",
    settings=_AGENT,
    definition={"replay_prob": 0.0},
    presets={"quick": {"n_updates": 2000, "log_every": 50, "solvable": True}},
)

LPG = MetaGradientAlgorithm(
    summary="an update rule learned by meta-gradients on grid-world tasks",
    source="Oh et al. 2020",
    settings=_TWO_OPTIMIZERS,
    definition={"replay_prob": 0.0},
    presets={"quick": _QUICK, "paper": _PAPER},
    published={"paper": published.LPG},
    env="grid_tasks",
)

# Tasks by the regret of the rule to A2C on the same task and lifetime; antagonists live
# beside the agents. As in the code of Jackson et al. 2023, the tasks of highest regret
# are replayed, as many as there are agents, about equally often.
_GROOVE: Mapping[str, Any] = {
    **_TWO_OPTIMIZERS,
    "replay_prob": 0.5,
    "score": "algorithmic_regret",
    "prioritization": "topk",
    "top_k": 16,
    "temperature": 1.0,
    "staleness": 0.0,
}

GROOVE = MetaGradientAlgorithm(
    summary="an update rule learned on the tasks where it is worse than A2C",
    source="Jackson et al. 2023",
    settings=_GROOVE,
    definition={"replay_prob": Range(above=0.0)},
    presets={
        "quick": {
            **_QUICK,
            "antagonist_optimizer": "adam",
            "antagonist_lr": 0.1,
            "antagonist_value_coef": 0.5,
            "top_k": 32,
            "buffer_size": 256,
            "min_fill": 0.25,
        },
        # Replays begin once the buffer holds a task for every agent: 512 of 4000.
        "paper": {**_PAPER, "top_k": 512, "buffer_size": 4000, "min_fill": 0.128},
    },
    published={"paper": published.GROOVE},
    env="grid_tasks",
)

# Evolution on two CPU cores: lives of 10 to 100 updates on small grids.
_QUICK_EVOLUTION: Mapping[str, Any] = {
    **SMALL_GRIDS,
    "n_envs": 8,
    "n_agents": 64,
    "es_b1": 0.9,
    "eval_lifetime": 50,
    "n_updates": 1500,
    "log_every": 50,
    "eval_every": 500,
    "seeds": 3,
}

# Jackson et al. 2024: 512 pairs, 2500 generations, lifetimes log-uniform in 10 to 250.
TA_LPG = EvolutionAlgorithm(
    summary="time-aware LPG, learned by evolution over whole lifetimes",
    source="Jackson et al. 2024",
    settings={
        **_TWO_OPTIMIZERS,
        "time_aware": True,
        "min_lifetime": 10,
        "max_lifetime": 250,
    },
    definition={"rule": "lpg", "time_aware": True},
    presets={
        "quick": {
            **_QUICK_EVOLUTION,
            **_ONE_OPTIMIZER,
            "rule_size": 16,
            "max_lifetime": 100,
        },
        "paper": {"n_agents": 1024, "n_updates": 2500, "eval_every": 250},
    },
    published={"paper": published.TA_LPG},
    env="grid_tasks",
)

# Agents that learn by a drift: several passes over each rollout, or none would be
# needed. The network is added to PPO's clip (the published option ppo-init).
_DRIFT: Mapping[str, Any] = {
    "rule": "lpo",
    "from_clip": True,
    "optimizer": "adam",
    "lr": 5e-2,
    "n_epochs": 4,
    "entropy_coef": 1e-2,
    "clip_value": False,
}

# Lu et al. 2022: a population of 32 and 1,025 generations, there on one task (Ant), by
# evosax's OpenES as it comes.
_PAPER_LPO: Mapping[str, Any] = {
    "n_agents": 32,
    "n_updates": 1025,
    "eval_every": 205,
    "sigma": 0.04,
    "sigma_decay": 0.999,
    "sigma_end": 0.01,
    "es_lr_end": 1e-3,
}

_QUICK_LPO: Mapping[str, Any] = {
    **_QUICK_EVOLUTION,
    "n_agents": 32,
    "drift_size": 32,
    "n_updates": 600,
    "eval_every": 200,
}

LPO = EvolutionAlgorithm(
    summary="a drift for PPO, learned by evolution over whole lifetimes",
    source="Lu et al. 2022",
    settings={**_DRIFT, "min_lifetime": 250, "max_lifetime": 250},
    definition={"rule": "lpo", "time_aware": False},
    presets={
        "quick": {**_QUICK_LPO, "min_lifetime": 50, "max_lifetime": 50},
        "paper": _PAPER_LPO,
    },
    published={"paper": published.LPO},
    env="grid_tasks",
)

TA_LPO = EvolutionAlgorithm(
    summary="a drift that knows the time, learned by evolution over whole lifetimes",
    source="Jackson et al. 2024",
    settings={
        **_DRIFT,
        "time_aware": True,
        "min_lifetime": 10,
        "max_lifetime": 250,
    },
    definition={"rule": "lpo", "time_aware": True},
    presets={
        "quick": {**_QUICK_LPO, "max_lifetime": 100},
        "paper": _PAPER_LPO,
    },
    published={"paper": published.TA_LPO},
    env="grid_tasks",
)
