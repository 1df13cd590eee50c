"""What the released code of the meta-learners sets, for the `paper` presets.

Read at the commits that are named; where values differ by task, those of the task.
"""

from __future__ import annotations

from typing import Any

from rlgen.published import Published

_GROOVE: dict[str, str] = {
    "repository": "EmptyJackson/groove",
    "commit": "0c091c039deceb12ad57ae50a16972f1821fb710",
}
# The grid worlds that it calls "all", and the agents that learn them.
_ALL: dict[str, Any] = {
    "levels": "generated",
    "height": 10,
    "width": 10,
    "n_objects": 5,
    "min_size": 4,
    "max_size": 10,
    "min_objects": 1,
    "n_walls": 15,
    "min_steps": 20,
    "max_steps": 750,
    "torso": "table",
    "optimizer": "sgd",
    "lr": 40.0,
    "value_lr_ratio": 0.1,
    "max_grad_norm": 0.5,
}
_AGENTS: dict[str, Any] = {
    "n_envs": 64,
    "n_steps": 20,
    "n_predictions": 8,
    "embedding_size": 16,
    "rule_size": 256,
    "value_coef": 0.5,
}
_META_GRADIENT: dict[str, Any] = _AGENTS | {
    "discount": 0.99,
    "gae_lambda": 0.95,
    "time_aware": False,
    "meta_lr": 1e-4,
    "n_inner": 5,
    "policy_entropy": 0.05,
    "prediction_entropy": 1e-3,
    "policy_target_cost": 5e-3,
    "prediction_target_cost": 1e-3,
}
_TABLES = (
    "Tables begin at 0 and read cell and objects; there linear layers begin with drawn "
    "weights, and read a thousandth of the time too."
)
_LPG: dict[str, Any] = {
    "README.md": {"n_agents": 512, "n_updates": 5000, "part_size": 32},
    "environments/gridworld/configs.py": _ALL
    | {"min_lifetime": 250, "max_lifetime": 250, "critic_lr": 4.0},
    "agents/agents.py": {"separate_clip": True},
    "meta/train.py": {"critic_steps": 1},
    "models/optim.py": {"meta_grad_norm": 0.0},
}
_LPG_REASONS = {
    "critic_lr": (
        "of Adam; there of clipped descent, but what the critic learns is lost "
        "(meta/train.py drops the new parameters), so no rate was ever tried"
    )
}
_LPG_BEYOND = (
    _TABLES,
    "The critics of the meta-gradient learn from the K rollouts, as seems meant; there "
    "they stay as they were drawn.",
    "First lives are shorter, by chance, so that lives end at all times; there all "
    "begin together and end in the same meta-step.",
    "The entropies that a rule is to keep are those before each update; there those "
    "after it, on the same rollout.",
)

LPG = Published(
    **_GROOVE,
    task="all_shortlife",
    values=_LPG
    | {
        "experiments/parse_args.py": _META_GRADIENT,
        "environments/level_sampler.py": {"replay_prob": 0.0},
    },
    reasons=_LPG_REASONS,
    beyond=_LPG_BEYOND,
)

GROOVE = Published(
    **_GROOVE,
    task="all_shortlife",
    values=_LPG
    | {
        "experiments/parse_args.py": _META_GRADIENT
        | {
            "replay_prob": 0.5,
            "buffer_size": 4000,
            "score": "algorithmic_regret",
            "temperature": 1.0,
            "antagonist_entropy": 0.01,
        },
        "environments/level_sampler.py": {
            "prioritization": "topk",
            "top_k": 512,
            "min_fill": 512 / 4000,
            "staleness": 0.0,
            "antagonist_optimizer": "sgd",
            "antagonist_lr": 40.0,
        },
        "agents/a2c.py": {"antagonist_value_coef": 2.0},
    },
    reasons=_LPG_REASONS,
    beyond=(
        *_LPG_BEYOND,
        "Antagonists live beside the agents; there each is brought up anew in every "
        "meta-step, for every agent. Both play fresh episodes at the end of a life, "
        "one in every environment.",
        "Whether lives are followed by replayed tasks is one decision a meta-step, so "
        "that it is a branch; there one for each life.",
        "A task is drawn from the 512 of highest regret; there the best that no agent "
        "lives on, in order.",
        "New tasks are drawn when they are wanted; there they wait in the buffer, of "
        "which the 512 lowest are drawn anew in every meta-step, and by a slip "
        "(environments/level_sampler.py, _reset_lowest_scoring) many that nobody "
        "played count as played, with a regret of 0.",
    ),
)

_ES_REASONS = {"sigma_end": "sigma does not fall, neither here nor there"}

TA_LPG = Published(
    **_GROOVE,
    task="all_vrandlife",
    values={
        "README.md": {
            "n_agents": 1024,
            "n_updates": 2500,
            "es_lr": 1e-2,
            "time_aware": True,
        },
        "experiments/parse_args.py": _AGENTS
        | {
            "es_lr_decay": 0.999,
            "es_lr_end": 1e-5,
            "sigma": 0.1,
            "sigma_decay": 1.0,
            "sigma_end": 0.1,
        },
        "environments/gridworld/configs.py": _ALL
        | {"min_lifetime": 10, "max_lifetime": 250},
        "agents/agents.py": {"separate_clip": True},
        "environments/level_sampler.py": {"replay_prob": 0.0},
        "evosax 0.1.4, utils/optimizer.py": {"es_b1": 0.99},
    },
    reasons=_ES_REASONS,
    beyond=(
        _TABLES,
        "The rule reads the share of the lifetime that is over and the logarithm of "
        "the lifetime, as in Equation 9 of the paper; there the plain numbers of both.",
        "All agents of a generation live equally long, log-uniform over generations; "
        "there each as long as its task says, and all are stepped 250 times.",
        "Both of a pair see the same luck, and a tie says nothing; there they see "
        "other luck, and a tie is won by the second.",
        "A lifetime is rounded down from a range that ends at 251; there to the "
        "nearest, which halves the shares of 10 and 250.",
    ),
)

# Ant's networks and steps, where agents here are tables on grid worlds.
_ANT = "of agents for Ant; here they are tables on grid worlds, for rules of all kinds"
_LPO: dict[str, dict[str, Any]] = {
    "README.md": {"from_clip": True},
    "dpo/main_drift_brax.py": {
        "n_agents": 32,
        "n_updates": 1025,
        "drift_size": 128,
        "n_envs": 2048,
        "n_steps": 80,
        "n_epochs": 4,
        "n_minibatches": 32,
        "discount": 0.97,
        "lr": 3e-4,
        "entropy_coef": 1e-2,
        "min_lifetime": 183,
        "max_lifetime": 183,
    },
    "dpo/brax_drift.py": {
        "rule": "lpo",
        "optimizer": "adam",
        "gae_lambda": 0.95,
        "clip": 0.2,
        "clip_value": False,
        "value_coef": 0.5,
    },
    "evosax 0.0.4, strategies/open_es.py": {
        "sigma": 0.04,
        "sigma_decay": 0.999,
        "sigma_end": 0.01,
    },
    "evosax 0.0.4, utils/optimizer.py": {
        "es_lr": 1e-2,
        "es_lr_decay": 0.999,
        "es_lr_end": 1e-3,
        "es_b1": 0.99,
    },
}
_LPO_REASONS: dict[str, str] = dict.fromkeys(
    (
        "n_envs",
        "n_steps",
        "n_minibatches",
        "discount",
        "lr",
        "min_lifetime",
        "max_lifetime",
    ),
    _ANT,
)
_LPO_BEYOND = (
    "Agents clip gradients to a norm of 0.5, as all here do; there they do not.",
    "A pair has a task of its own, and the sign of its difference counts; there all "
    "have one task, and the z-score of the return does.",
)

LPO = Published(
    repository="luchris429/discovered-policy-optimisation",
    commit="c412884cf6525155d9fb2d7e3c9e171e27d285cc",
    task="ant",
    values=_LPO,
    reasons=_LPO_REASONS,
    beyond=_LPO_BEYOND,
)

TA_LPO = Published(
    repository="luchris429/discovered-policy-optimisation",
    commit="c412884cf6525155d9fb2d7e3c9e171e27d285cc",
    task="ant (of LPO, for no code of TA-LPO was released)",
    values=_LPO | {"README.md": {"from_clip": True, "time_aware": False}},
    reasons=_LPO_REASONS
    | {
        "time_aware": "what TA-LPO adds to LPO",
        "min_lifetime": "as of TA-LPG",
        "max_lifetime": "as of TA-LPG",
    },
    beyond=_LPO_BEYOND,
)
