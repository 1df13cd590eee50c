"""The offline learners by name: each is a set of settings.

Published hyper-parameters stand in the `paper` preset, each beside its source in
`rlgen.algos.offline.published`; `quick` is sized for minutes on a laptop's CPU.
"""

from __future__ import annotations

from typing import Any

from rlgen.algos.offline import published
from rlgen.algos.offline.assembly import OfflineAlgorithm
from rlgen.algos.offline.bc import BC, BCConfig
from rlgen.algos.offline.decision_transformer import (
    DecisionTransformer,
    TransformerConfig,
)
from rlgen.algos.offline.iql import IQL, IQLConfig
from rlgen.algos.offline.sac import SAC, SACConfig
from rlgen.algos.offline.td3_bc import TD3BC, TD3BCConfig
from rlgen.algos.offline.variants import (
    GoalAlgorithm,
    ModelBasedAlgorithm,
    OnlineAlgorithm,
    OutcomeAlgorithm,
)
from rlgen.ranges import Range

# Small networks, 20,000 gradient steps, and models (of those that have some) of 2 x 128
# that learn for 2,500. The same for every learner.
_QUICK: dict[str, Any] = {
    "n_updates": 40,
    "steps_per_update": 500,
    "eval_every": 10,
    "log_every": 1,
    "actor_units": 128,
    "critic_units": 128,
    "model_updates": 5,
    "model_layers": 2,
    "model_units": 128,
    "seeker_updates": 2,
}
# A million gradient steps.
_PAPER: dict[str, Any] = {
    "n_updates": 1000,
    "steps_per_update": 1000,
    "eval_every": 50,
    "log_every": 5,
    "eval_episodes": 10,
}


# Around a learner, COCOA as its authors ran it around most.
_COCOA: dict[str, Any] = {
    "cocoa": True,
    "final_bound": 0.0,
    "embedding_layers": 2,
    "embedding_units": 64,
    "n_products": 64,
    "product_size": 4,
}


def _presets(**paper: Any) -> dict[str, dict[str, Any]]:
    return {"quick": _QUICK, "paper": _PAPER | paper}


BEHAVIOUR_CLONING = OfflineAlgorithm(
    summary="behaviour cloning: the recorded actions, whatever they led to",
    source="Pomerleau 1989",
    settings={},
    presets=_presets(normalize_obs=True, final_bound=0.0),
    published={"paper": published.BC},
    make_agent=BC,
    agent=BCConfig(),
)

PERCENT_BC = OfflineAlgorithm(
    summary="behaviour cloning of the tenth of the episodes with the highest return",
    source="Chen et al. 2021, section 5.1",
    settings={"best_share": 0.1},
    definition={"best_share": Range(above=0.0, below=1.0)},
    presets=_presets(normalize_obs=True, final_bound=0.0),
    published={"paper": published.PERCENT_BC},
    make_agent=BC,
    agent=BCConfig(),
)

TD3_BC = OfflineAlgorithm(
    summary="TD3 whose actor is held to the recorded actions",
    source="Fujimoto and Gu 2021",
    settings={"normalize_obs": True},
    definition={"actor_bc": Range(above=0.0), "critic_bc": 0.0},
    presets=_presets(final_bound=0.0),
    published={"paper": published.TD3_BC},
    make_agent=TD3BC,
    agent=TD3BCConfig(),
)

REBRAC = OfflineAlgorithm(
    summary="TD3+BC with a penalty in the critics' target too, each with its weight",
    source="Tarasov et al. 2023",
    settings={
        "q_weight": 1.0,
        "actor_bc": 0.01,
        "critic_bc": 0.01,
        "bc_distance": "sum",
        "actor_critic": "min",
        "critic_norm": True,
        "actor_layers": 3,
        "critic_layers": 3,
    },
    definition={"actor_bc": Range(above=0.0), "critic_bc": Range(above=0.0)},
    presets=_presets(batch_size=1024, actor_lr=1e-3, critic_lr=1e-3),
    published={"paper": published.REBRAC},
    make_agent=TD3BC,
    agent=TD3BCConfig(),
)

IQL_ALGORITHM = OfflineAlgorithm(
    summary="implicit Q-learning: the best of the recorded actions by expectiles",
    source="Kostrikov et al. 2022",
    settings={"reward_scaling": "range"},
    presets=_presets(final_bound=0.0)
    | {"cocoa-paper": _PAPER | _COCOA | {"actor_units": 100, "critic_units": 100}},
    published={"paper": published.IQL, "cocoa-paper": published.COCOA_IQL},
    make_agent=IQL,
    agent=IQLConfig(),
)

# What OfflineRL-Kit's learners have in common beside the settings of each.
_KIT: dict[str, Any] = {"temperature_lr": 1e-4, "final_bound": 0.0}

_CQL: dict[str, Any] = {"cql_weight": 5.0, "entropy_backup": False, "actor_lr": 1e-4}
_CQL_QUICK: dict[str, Any] = {"cql_actions": 4}
_CQL_PAPER: dict[str, Any] = _KIT | {"actor_layers": 3, "critic_layers": 3}
_WIDE: dict[str, Any] = {
    "embedding_layers": 3,
    "embedding_units": 256,
    "n_products": 256,
    "product_size": 32,
}

CQL = OfflineAlgorithm(
    summary="conservative Q-learning: values of actions that are no data are lowered",
    source="Kumar et al. 2020",
    settings=_CQL,
    definition={"cql_weight": Range(above=0.0), "calibrated": False},
    presets={
        "quick": _QUICK | _CQL_QUICK,
        "paper": _PAPER | _CQL_PAPER,
        "cocoa-paper": _PAPER | _CQL_PAPER | _COCOA | _WIDE,
    },
    published={"paper": published.CQL, "cocoa-paper": published.COCOA_CQL},
    make_agent=SAC,
    agent=SACConfig(),
)

CAL_QL = OfflineAlgorithm(
    summary="CQL that never lowers a value below what the data returned",
    source="Nakamoto et al. 2023",
    settings=_CQL | {"calibrated": True},
    definition={"cql_weight": Range(above=0.0), "calibrated": True},
    presets={
        "quick": _QUICK | _CQL_QUICK,
        # Of AntMaze, where a step pays 1 at the goal and else 0.
        "paper": _PAPER
        | {
            "reward_factor": 10.0,
            "reward_shift": -5.0,
            "cql_gap": 0.8,
            "multiplier": 2.718281828459045,  # its logarithm begins at 1
            "backup_actions": 10,
            "temperature_lr": 1e-4,
            "actor_layers": 2,
            "critic_layers": 4,
            "final_bound": 0.0,
        },
    },
    published={"paper": published.CAL_QL},
    make_agent=SAC,
    agent=SACConfig(),
)

_IN_ENSEMBLE: dict[str, Any] = {"cql_weight": 0.0, "n_critics": Range(above=1)}
_IN_ENSEMBLE_PAPER: dict[str, Any] = {
    "n_updates": 3000,
    "actor_layers": 3,
    "critic_layers": 3,
    "max_temperature": 1e6,
}

SAC_N = OfflineAlgorithm(
    summary="SAC with the least of many critics",
    source="An et al. 2021",
    settings={"n_critics": 10, "max_temperature": 1.0},
    definition=_IN_ENSEMBLE | {"diversity": 0.0},
    presets=_presets(**_IN_ENSEMBLE_PAPER),
    published={"paper": published.SAC_N},
    make_agent=SAC,
    agent=SACConfig(),
)

EDAC = OfflineAlgorithm(
    summary="SAC-N whose critics' slopes are kept apart, so that fewer will do",
    source="An et al. 2021",
    settings={"n_critics": 10, "max_temperature": 1.0, "diversity": 1.0},
    definition=_IN_ENSEMBLE | {"diversity": Range(above=0.0)},
    presets=_presets(**_IN_ENSEMBLE_PAPER),
    published={"paper": published.EDAC},
    make_agent=SAC,
    agent=SACConfig(),
)

_IN_MODEL: dict[str, Any] = {"actor_lr": 1e-4}
_IN_MODEL_PAPER: dict[str, Any] = _KIT | {
    "n_updates": 3000,
    "n_rollouts": 50_000,
    "anneal_actor": True,
    "max_temperature": 1.0,
    "penalty_weight": 0.5,
}
_IN_MODEL_COCOA: dict[str, Any] = (
    _IN_MODEL_PAPER | _COCOA | {"actor_units": 100, "critic_units": 100}
)
_IN_MODEL_QUICK: dict[str, Any] = {"n_rollouts": 2000}

MOPO = ModelBasedAlgorithm(
    summary="SAC in a model of the dynamics, whose uncertain steps pay less",
    source="Yu et al. 2020",
    settings=_IN_MODEL,
    definition={"penalty": "noise", "cql_weight": 0.0},
    presets={
        "quick": _QUICK | _IN_MODEL_QUICK,
        "paper": _PAPER | _IN_MODEL_PAPER,
        "cocoa-paper": _PAPER | _IN_MODEL_COCOA | {"penalty_weight": 2.5},
    },
    published={"paper": published.MOPO, "cocoa-paper": published.COCOA_MOPO},
    make_agent=SAC,
    agent=SACConfig(),
)

# No return is negative in what the paper trained on; elsewhere, leave it out.
_FLOOR: dict[str, Any] = {"floor_target": True}

MOBILE = ModelBasedAlgorithm(
    summary="SAC in a model, with targets lowered where the model's members disagree",
    source="Sun et al. 2023",
    settings=_IN_MODEL
    | {"penalty": "values", "entropy_backup": False, "max_temperature": 1.0},
    definition={"penalty": "values", "cql_weight": 0.0},
    presets={
        "quick": _QUICK | _IN_MODEL_QUICK,
        "paper": _PAPER | _IN_MODEL_PAPER | _FLOOR,
        "cocoa-paper": _PAPER | _IN_MODEL_COCOA | _FLOOR | {"penalty_weight": 2.0},
    },
    published={"paper": published.MOBILE, "cocoa-paper": published.COCOA_MOBILE},
    make_agent=SAC,
    agent=SACConfig(),
)

_EMMONS: dict[str, Any] = {
    "batch_size": 16_384,
    "actor_units": 1024,
    "normalize_obs": False,
    "final_bound": 0.0,
}

RVS = OutcomeAlgorithm(
    summary="behaviour cloning that is told the return to come, per step left",
    source="Emmons et al. 2022",
    settings={"normalize_obs": True, "actor_lr": 1e-3},
    presets=_presets(n_updates=124, eval_every=10, **_EMMONS),
    published={"paper": published.RVS},
    make_agent=BC,
    agent=BCConfig(),
)

DECISION_TRANSFORMER = OutcomeAlgorithm(
    summary="a transformer over returns to go, observations and actions",
    source="Chen et al. 2021",
    settings={"normalize_obs": True},
    presets={
        "quick": {
            "n_updates": 20,
            "steps_per_update": 100,
            "eval_every": 5,
            "log_every": 1,
            "context": 8,
            "token_size": 64,
            "n_blocks": 2,
            "warmup": 100,
            "actor_lr": 1e-3,
        },
        "paper": _PAPER
        | {
            "n_updates": 100,
            "eval_every": 10,
            "block_activation": "relu",
            "token_norm": True,
            "max_time": 1000,
            "dropout": 0.1,
            "weight_decay": 1e-4,
            "warmup": 10_000,
        },
    },
    published={"paper": published.DECISION_TRANSFORMER},
    make_agent=DecisionTransformer,
    agent=TransformerConfig(),
    rate=False,
    windows=True,
)

_GOALS: dict[str, Any] = {"normalize_obs": True, "actor_lr": 1e-3}
_GOALS_QUICK: dict[str, Any] = {
    "n_updates": 10,
    "steps_per_update": 1000,
    "eval_every": 5,
    "log_every": 1,
    "actor_units": 256,
}

GOAL_CLONING = GoalAlgorithm(
    summary="behaviour cloning that is told a goal its episode reached later",
    source="Emmons et al. 2022",
    settings=_GOALS,
    definition={"stitch_prob": 0.0},
    presets={
        "quick": _GOALS_QUICK,
        "paper": _PAPER | _EMMONS | {"n_updates": 20, "eval_every": 5},
    },
    published={"paper": published.GOAL_CLONING},
    make_agent=BC,
    agent=BCConfig(),
    env="pointmaze",
)

STITCHING = GoalAlgorithm(
    summary="goal-conditioned cloning that also looks at where other episodes went on",
    source="Ghugare et al. 2024",
    settings=_GOALS | {"stitch_prob": 0.5},
    definition={"stitch_prob": Range(above=0.0)},
    presets={
        "quick": _GOALS_QUICK,
        "paper": _PAPER
        | {
            "actor_units": 1024,
            "normalize_obs": False,
            "final_bound": 0.0,
            "n_clusters": 40,
        },
    },
    published={"paper": published.STITCHING},
    make_agent=BC,
    agent=BCConfig(),
    env="pointmaze",
)

SAC_ALGORITHM = OnlineAlgorithm(
    summary="soft actor-critic, on new levels of the train split all the time",
    source="Haarnoja et al. 2018",
    settings={"random_updates": 4},
    definition={"cql_weight": 0.0, "diversity": 0.0},
    presets={
        "quick": {
            "n_updates": 60,
            "steps_per_update": 512,
            "n_envs": 16,
            "n_steps": 64,
            "eval_every": 20,
            "log_every": 1,
            "actor_units": 64,
            "critic_units": 64,
            "actor_lr": 1e-3,
            "critic_lr": 1e-3,
            "temperature_lr": 1e-3,
            "target_rate": 1e-2,
        },
        "paper": {
            "n_updates": 1000,
            "steps_per_update": 1000,
            "n_envs": 10,
            "n_steps": 100,
            "replay_size": 1_000_000,
            "random_updates": 10,
            "eval_every": 50,
        },
    },
    published={"paper": published.SAC},
    make_agent=SAC,
    agent=SACConfig(),
    env="reacher",
)
