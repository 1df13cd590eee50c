"""What the released code of the offline learners sets, for the presets that follow it.

Read at the commits that are named; where values differ by task, those of the task. A
value that the code does not name is that of what it calls.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from rlgen.published import Published

Values = Mapping[str, Any]

_BIASES = "Biases start at 0; there uniform, as PyTorch has them."
_BIASES_ABOVE = "Biases start at 0; those of hidden layers there at 0.1."
_ORTHOGONAL = (
    "Kernels start uniform within one over the root of their inputs; there orthogonal."
)
_COUNTED_IN = "the models' own updates are counted in"
_TERMINATION = (
    "not every environment tells its rule: what ends an episode is learned from the "
    "dataset unless termination is analytic"
)
_UNTIL_NO_GAIN = (
    "A model learns for model_updates x steps_per_update gradient steps, of which each "
    "member keeps its best; there until five epochs brought no member a gain of 1 %. "
    "How long a run is here is known before it begins."
)
_STAIRS = (
    "The actor's rate falls with every gradient step; there with every thousandth."
)
_MILLION: Values = {"n_updates": 1000, "steps_per_update": 1000}
_TWO_LAYERS: Values = {
    "actor_layers": 2,
    "actor_units": 256,
    "actor_norm": False,
    "critic_layers": 2,
    "critic_units": 256,
    "critic_norm": False,
}
_THREE_LAYERS: Values = {**_TWO_LAYERS, "actor_layers": 3, "critic_layers": 3}
_RATES: Values = {"actor_lr": 3e-4, "critic_lr": 3e-4}
_TARGETS: Values = {"discount": 0.99, "target_rate": 0.005}

# Cloning: as the authors of CORL ran it; no code of Pomerleau's is.
_CORL = functools.partial(
    Published,
    repository="tinkoff-ai/CORL",
    commit="6afec90484bbf47dee05fdf525e26a3ebe028e9b",
    task="hopper-medium-v2",
    beyond=(_BIASES,),
)
_CORL_ACTOR: Values = {
    "actor_layers": 2,
    "actor_units": 256,
    "actor_norm": False,
    "actor_lr": 3e-4,
    "final_bound": 0.0,
}


def _cloning(folder: str, share: float) -> Published:
    return _CORL(
        values={
            f"configs/offline/{folder}/hopper/medium_v2.yaml": {
                **_MILLION,
                "batch_size": 256,
                "normalize_obs": True,
                "best_share": share,
            },
            "algorithms/offline/any_percent_bc.py": _CORL_ACTOR,
        }
    )


BC = _cloning("bc", 1.0)
PERCENT_BC = _cloning("bc_10", 0.1)

TD3_BC = Published(
    repository="sfujim/TD3_BC",
    commit="8791ad7d7656cb8396f1b3ac8c37f170b2a2dd5f",
    task="hopper-medium-v0",
    values={
        "main.py": {
            **_MILLION,
            **_TARGETS,
            "batch_size": 256,
            "target_noise": 0.2,
            "target_noise_clip": 0.5,
            "policy_delay": 2,
            "q_weight": 2.5,
            "normalize_obs": True,
        },
        "TD3_BC.py": {
            **_TWO_LAYERS,
            **_RATES,
            "final_bound": 0.0,
            "actor_bc": 1.0,
            "critic_bc": 0.0,
            "bc_distance": "mean",
            "actor_critic": "first",
        },
    },
    beyond=(_BIASES,),
)

REBRAC = Published(
    repository="tinkoff-ai/ReBRAC",
    commit="694385b72fcef2ae318e3f0ff41ca36122355343",
    task="hopper-medium-v2",
    values={
        "configs/rebrac/hopper/hopper_medium.yaml": {
            **_MILLION,
            **_TARGETS,
            **_THREE_LAYERS,
            "critic_norm": True,
            "batch_size": 1024,
            "actor_lr": 1e-3,
            "critic_lr": 1e-3,
            "actor_bc": 0.01,
            "critic_bc": 0.01,
            "target_noise": 0.2,
            "target_noise_clip": 0.5,
            "policy_delay": 2,
            "normalize_obs": False,
            "reward_scaling": "none",
        },
        "src/algorithms/rebrac.py": {
            "q_weight": 1.0,
            "bc_distance": "sum",
            "actor_critic": "min",
        },
        "src/networks.py": {"final_bound": 3e-3},
    },
    beyond=(
        _BIASES_ABOVE,
        "The actor's layer on top starts within 0.003 like the critics'; there within "
        "0.001.",
    ),
)

IQL = Published(
    repository="ikostrikov/implicit_q_learning",
    commit="09d700248117881a75cb21f0adb95c6c8a694cb2",
    task="hopper-medium-v2",
    values={
        "train_offline.py": {
            **_MILLION,
            "batch_size": 256,
            "reward_scaling": "range",
            "normalize_obs": False,
        },
        "configs/mujoco_config.py": {
            **_RATES,
            **_TARGETS,
            **_TWO_LAYERS,
            "expectile": 0.7,
            "inverse_temperature": 3.0,
        },
        "learner.py": {"anneal_actor": True},
        "actor.py": {"max_weight": 100.0},
        "common.py": {"final_bound": 0.0},
    },
    beyond=(_ORTHOGONAL,),
)

_KIT = functools.partial(
    Published,
    repository="yihaosun1124/OfflineRL-Kit",
    commit="e3ce69793766d02660217d4dfc0af4693a5531bd",
)
# What learners with a squashed Gaussian share there.
_KIT_SAC: Values = {
    **_TARGETS,
    "steps_per_update": 1000,
    "batch_size": 256,
    "actor_lr": 1e-4,
    "critic_lr": 3e-4,
    "n_critics": 2,
    "temperature": 1.0,
    "temperature_lr": 1e-4,
    "entropy_per_action": -1.0,
    "backup_actions": 1,
}
_SOFT_MAXIMUM = (
    "The soft maximum is over all 30 sampled actions of a state, as in Kumar et al. "
    "2020; there over 3 of them, for the result of a reshape is dropped."
)
_RUN_CQL: Values = {
    **_KIT_SAC,
    "n_updates": 1000,
    "entropy_backup": False,
    "cql_weight": 5.0,
    "cql_actions": 10,
    "cql_temperature": 1.0,
    "cql_gap": -1.0,
}
_CQL_POLICY: Values = {
    "cql_importance": True,
    "max_temperature": 1e6,
    "anneal_actor": False,
}

CQL = _KIT(
    task="hopper-medium-v2",
    values={
        "run_example/run_cql.py": {**_RUN_CQL, **_THREE_LAYERS},
        "offlinerlkit/policy/model_free/cql.py": _CQL_POLICY,
        "offlinerlkit/modules": {"final_bound": 0.0},
    },
    beyond=(_BIASES, _SOFT_MAXIMUM),
)

CAL_QL = Published(
    repository="nakamotoo/Cal-QL",
    commit="ac6eafec22e8d60836573e1f488c7f626ce8a77e",
    task="antmaze-medium-diverse-v2",
    values={
        "scripts/run_antmaze.sh": {
            **_MILLION,
            **_TWO_LAYERS,
            "critic_layers": 4,
            "cql_weight": 5.0,
            "cql_gap": 0.8,
            "calibrated": True,
            "recorded_share": 0.5,
            "reward_factor": 10.0,
            "reward_shift": -5.0,
        },
        "JaxCQL/conservative_sac_main.py": {"batch_size": 256},
        "JaxCQL/conservative_sac.py": {
            **_TARGETS,
            "actor_lr": 1e-4,
            "critic_lr": 3e-4,
            "n_critics": 2,
            "entropy_backup": False,
            "backup_actions": 10,
            "temperature": 1.0,
            "temperature_lr": 1e-4,
            "entropy_per_action": -1.0,
            "multiplier": 2.718281828459045,
            "multiplier_lr": 3e-4,
            "cql_actions": 10,
            "cql_importance": True,
            "cql_temperature": 1.0,
        },
        "JaxCQL/model.py": {"final_bound": 0.0},
    },
    beyond=(
        _ORTHOGONAL + " On top with a gain of 0.01.",
        "A policy begins with deviations near 1; there near 0.37, with a factor and an "
        "offset of the logarithm that are learned.",
        "Critics' gradients and their targets use the actor before its update, and the "
        "actor the critics after theirs; there all of them those before the step.",
        "Playing on is off until online_updates; there it follows for a million steps.",
    ),
)

# By its authors' own code, which has both.
_DIVERSIFIED = functools.partial(
    Published,
    repository="snu-mllab/EDAC",
    commit="198d5708701b531fd97a918a33152e1914ea14d7",
    task="halfcheetah-medium-v2",
    beyond=(
        _BIASES_ABOVE,
        "The actor's layer on top starts within 0.003 like the critics'; there within "
        "0.001.",
    ),
)
_ENSEMBLE: Mapping[str, Values] = {
    "scripts/sac.py": {
        **_TARGETS,
        **_RATES,
        **_THREE_LAYERS,
        "n_updates": 3000,
        "steps_per_update": 1000,
        "batch_size": 256,
        "n_critics": 10,
        "entropy_backup": True,
        "backup_actions": 1,
    },
    "lifelong_rl/trainers/q_learning/sac.py": {
        "temperature": 1.0,
        "temperature_lr": 3e-4,
        "max_temperature": 1e6,
        "entropy_per_action": -1.0,
    },
    "lifelong_rl/models/networks.py": {"final_bound": 3e-3},
}
_AN = "the paper, settings for MuJoCo"

SAC_N = _DIVERSIFIED(values={**_ENSEMBLE, "README.md": {"diversity": 0.0}})
EDAC = _DIVERSIFIED(values={**_ENSEMBLE, _AN: {"diversity": 1.0}})

_RUN_MODEL: Values = {
    **_KIT_SAC,
    "n_updates": 3000,
    "anneal_actor": True,
    "n_members": 7,
    "n_elites": 5,
    "model_layers": 4,
    "model_units": 200,
    "model_lr": 1e-3,
    "n_rollouts": 50_000,
    "retain_updates": 5,
    "real_share": 0.05,
}
_MODEL: Mapping[str, Values] = {
    "offlinerlkit/dynamics/ensemble_dynamics.py": {
        "model_batch_size": 256,
        "n_held_back": 1000,
    },
    "offlinerlkit/utils/termination_fns.py": {"termination": "analytic"},
    "offlinerlkit/modules": {"final_bound": 0.0},
}
_IN_MODEL = {"n_updates": _COUNTED_IN, "termination": _TERMINATION}
_MOPO_POLICY: Values = {
    "penalty": "noise",
    "entropy_backup": True,
    "max_temperature": 1.0,
    "floor_target": False,
}
_MOBILE_POLICY: Values = {
    "penalty": "values",
    "entropy_backup": False,
    "max_temperature": 1.0,
    "floor_target": True,
    "target_floor": 0.0,
    "value_samples": 10,
}

MOPO = _KIT(
    task="halfcheetah-medium-v2",
    values={
        "run_example/run_mopo.py": {
            **_RUN_MODEL,
            **_TWO_LAYERS,
            "rollout_length": 5,
            "penalty_weight": 0.5,
        },
        "offlinerlkit/policy/model_free/sac.py": _MOPO_POLICY,
        **_MODEL,
    },
    reasons=_IN_MODEL,
    beyond=(_BIASES, _UNTIL_NO_GAIN, _STAIRS),
)

MOBILE = _KIT(
    task="halfcheetah-medium-v2",
    values={
        "run_example/run_mobile.py": {
            **_RUN_MODEL,
            **_TWO_LAYERS,
            "rollout_length": 5,
            "penalty_weight": 0.5,
        },
        "offlinerlkit/policy/model_based/mobile.py": _MOBILE_POLICY,
        **_MODEL,
    },
    reasons=_IN_MODEL,
    beyond=(_BIASES, _UNTIL_NO_GAIN, _STAIRS),
)

# The same learners with COCOA around them, by its authors' code: a fork of the kit.
_COCOA = functools.partial(
    Published,
    repository="runamu/compositional-conservatism",
    commit="8d63985321b15db0cd96d82027f2bb4fc2c83186",
)
_SEEKER: Mapping[str, Values] = {
    "README.md": {
        "cocoa": True,
        "anchors": "seeker",
        "horizon": 1,
        "divergence": 0.8,
        "divergence_noise": 0.1,
        "reverse_length": 5,
    },
    "run_example/run_anchor_seeker.py": {
        "seeker_layers": 2,
        "seeker_units": 100,
        "seeker_lr": 1e-3,
        "seeker_batch_size": 256,
        "model_layers": 4,
        "model_units": 200,
        "model_lr": 1e-3,
        "n_members": 7,
        "n_elites": 5,
    },
    "offlinerlkit/modules": {"product": "bilinear", "final_bound": 0.0},
}
_WIDE: Values = {
    "embedding_layers": 3,
    "embedding_units": 256,
    "n_products": 256,
    "product_size": 32,
}
_NARROW: Values = {
    "embedding_layers": 2,
    "embedding_units": 64,
    "n_products": 64,
    "product_size": 4,
}
_HUNDRED: Values = {**_TWO_LAYERS, "actor_units": 100, "critic_units": 100}
_COCOA_BEYOND = (
    _BIASES,
    _UNTIL_NO_GAIN,
    "The last layer of f and g is activated before its normalisation; there only "
    "normalised.",
    "States, anchors and differences are normalised; there they are not.",
    "Reverse rollouts are made when they are needed, from the whole dataset; there "
    "once, into a ring that holds the last fifth of them, and read in that order.",
    "The seeker learns for seeker_updates x steps_per_update gradient steps; there for "
    "50 epochs at most, until five of them gained less than 0.5 %.",
)
_IN_COCOA = {"n_updates": _COUNTED_IN}

COCOA_CQL = _COCOA(
    task="hopper-medium-v2",
    values={
        "run_example/run_cql.py": {**_RUN_CQL, **_THREE_LAYERS, **_WIDE},
        "offlinerlkit/policy/model_free/cql.py": _CQL_POLICY,
        **_SEEKER,
    },
    reasons=_IN_COCOA,
    beyond=(*_COCOA_BEYOND, _SOFT_MAXIMUM),
)
COCOA_IQL = _COCOA(
    task="hopper-medium-replay-v2",
    values={
        "run_example/run_iql.py": {
            **_RATES,
            **_TARGETS,
            **_MILLION,
            **_HUNDRED,
            **_NARROW,
            "batch_size": 256,
            "expectile": 0.7,
            "inverse_temperature": 3.0,
            "anneal_actor": True,
            "reward_scaling": "range",
        },
        "offlinerlkit/policy/model_free/iql.py": {"max_weight": 100.0},
        **_SEEKER,
    },
    reasons=_IN_COCOA,
    beyond=(*_COCOA_BEYOND, _STAIRS),
)
_COCOA_MODEL: Mapping[str, Values] = {
    name: values for name, values in _MODEL.items() if name not in _SEEKER
}
# That the seeker's model is the agent's, whose numbers stand with the seeker.
_RUN_COCOA_MODEL: Values = {
    name: value
    for name, value in {**_RUN_MODEL, **_HUNDRED, **_NARROW}.items()
    if name not in _SEEKER["run_example/run_anchor_seeker.py"]
}
COCOA_MOPO = _COCOA(
    task="halfcheetah-medium-expert-v2",
    values={
        "run_example/run_mopo.py": {
            **_RUN_COCOA_MODEL,
            "rollout_length": 5,
            "penalty_weight": 2.5,
        },
        "offlinerlkit/policy/model_free/sac.py": _MOPO_POLICY,
        **_COCOA_MODEL,
        **_SEEKER,
    },
    reasons=_IN_MODEL,
    beyond=(*_COCOA_BEYOND, _STAIRS),
)
COCOA_MOBILE = _COCOA(
    task="halfcheetah-medium-expert-v2",
    values={
        "run_example/run_mobile.py": {
            **_RUN_COCOA_MODEL,
            "rollout_length": 5,
            "penalty_weight": 2.0,
        },
        "offlinerlkit/policy/model_based/mobile.py": _MOBILE_POLICY,
        **_COCOA_MODEL,
        **_SEEKER,
    },
    reasons=_IN_MODEL,
    beyond=(*_COCOA_BEYOND, _STAIRS),
)

_RVS = functools.partial(
    Published,
    repository="scottemmons/rvs",
    commit="90c0ffb26a1a3dd617d4f51c726f135d06f44b00",
)
_WIDE_ACTOR: Values = {
    "actor_lr": 1e-3,
    "actor_layers": 2,
    "actor_units": 1024,
    "batch_size": 16_384,
}
_RVS_POLICY: Values = {
    "actor_norm": False,
    "normalize_obs": False,
    "final_bound": 0.0,
}
_LIKELIHOOD = (
    "The actor is deterministic within the box, by its squared error; there a Gaussian "
    "by its likelihood."
)

RVS = _RVS(
    task="hopper-medium-v2",
    values={
        "experiments/config/d4rl/gym_rvs_r.cfg": {
            **_WIDE_ACTOR,
            "n_updates": 124,
            "steps_per_update": 1000,
        },
        "src/rvs/policies.py": _RVS_POLICY,
    },
    beyond=(
        _LIKELIHOOD,
        _ORTHOGONAL,
        "A run is 124,000 gradient steps whatever the dataset; there 2,000 epochs, "
        "which are that many of a million steps.",
        "The return to reach is a quantile of the dataset's; there one of several "
        "shares of what an expert reaches.",
    ),
)
GOAL_CLONING = _RVS(
    task="antmaze-umaze-v2",
    values={
        "experiments/config/d4rl/antmaze_rvs_g.cfg": {
            **_WIDE_ACTOR,
            "n_updates": 20,
            "steps_per_update": 1000,
        },
        "src/rvs/policies.py": _RVS_POLICY,
    },
    beyond=(
        _LIKELIHOOD,
        _ORTHOGONAL,
        "No steps are held back; there a tenth, of which nothing depends but which "
        "parameters are kept.",
    ),
)

STITCHING = Published(
    repository="RajGhugare19/stitching-is-combinatorial-generalisation",
    commit="f1163c1ddd3b3448dc3883c86d35db2141b7f591",
    task="pointmaze-umaze-v0",
    values={
        "cfgs/dmlp.yaml": {**_MILLION, "batch_size": 256, "actor_lr": 1e-3},
        "README.md": {"stitch_prob": 0.5, "n_clusters": 40},
        "model.py": {
            "actor_layers": 2,
            "actor_units": 1024,
            "actor_norm": False,
            "final_bound": 0.0,
        },
        "utils/data.py": {"normalize_obs": False},
    },
    beyond=(
        _BIASES,
        "Gradients are as they are; there scaled down to a norm of 0.25.",
        "Clusters are of positions, each within one level; there of all that is seen.",
    ),
)

DECISION_TRANSFORMER = Published(
    repository="kzl/decision-transformer",
    commit="e2d82e68f330c00f763507b3b01d774740bee53f",
    task="hopper-medium-v2",
    values={
        "gym/experiment.py": {
            "n_updates": 100,
            "steps_per_update": 1000,
            "batch_size": 64,
            "context": 20,
            "token_size": 128,
            "n_blocks": 3,
            "n_heads": 1,
            "block_activation": "relu",
            "dropout": 0.1,
            "actor_lr": 1e-4,
            "weight_decay": 1e-4,
            "warmup": 10_000,
            "max_time": 1000,
            "normalize_obs": True,
        },
        "gym/decision_transformer/models/decision_transformer.py": {"token_norm": True},
        "gym/decision_transformer/training/seq_trainer.py": {"max_grad_norm": 0.25},
    },
    beyond=(
        "The return to reach is a quantile of the dataset's; there 3,600 and half of "
        "it, chosen by hand.",
        "Returns are normalised by the dataset's statistics, like what is seen; there "
        "divided by 1,000.",
        "A step is three tokens, of which the first is the action before it; there the "
        "last is the action that it takes.",
        "What is left out are numbers of tokens and of what blocks add; there weights "
        "of the attention too.",
        "All kernels start with deviation 0.02; those that embed there as PyTorch has "
        "them, and of times with deviation 1.",
    ),
)

SAC = Published(
    repository="rail-berkeley/softlearning",
    commit="13cf187cc93d90f7c217ea2845067491c3c65464",
    task="Hopper-v3",
    values={
        "examples/development/variants.py": {
            **_MILLION,
            **_TWO_LAYERS,
            **_RATES,
            **_TARGETS,
            "batch_size": 256,
            "n_envs": 1,
            "n_steps": 1000,
            "replay_size": 1_000_000,
            "random_updates": 10,
            "temperature_lr": 3e-4,
            "reward_factor": 1.0,
        },
        "softlearning/algorithms/sac.py": {
            "n_critics": 2,
            "entropy_backup": True,
            "temperature": 1.0,
            "entropy_per_action": -1.0,
        },
    },
    reasons={
        "n_envs": "ten environments side by side are ten times as fast",
        "n_steps": "as many steps in an update, of ten environments",
    },
    beyond=(
        "A thousand steps are played and then as many gradient steps made; there one "
        "after each.",
        "A deviation is the exponential of what the actor gives, within e^-5 and e^2; "
        "there its softplus.",
        "Kernels start uniform within one over the root of their inputs, on top within "
        "0.003; there by Glorot and Bengio 2010.",
    ),
)
