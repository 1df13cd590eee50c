"""What the released code of the offline learners sets, for the `paper` presets.

Read at the commits that are named; where values differ by task, those of the task.
"""

from __future__ import annotations

from typing import Any

from rlgen.published import Published

# Of everything here that is written in PyTorch.
_BIASES = "Biases start at 0; there uniform, as PyTorch has them."
# Where what an episode ends by is given to the model there.
_TERMINATION = (
    "learned from the dataset: what ends an episode is not known of every environment; "
    "termination=analytic is as published where it is"
)

TD3_BC = Published(
    repository="sfujim/TD3_BC",
    commit="8791ad7d7656cb8396f1b3ac8c37f170b2a2dd5f",
    task="hopper-medium-v0",
    values={
        "main.py": {
            "n_updates": 1000,
            "steps_per_update": 1000,
            "batch_size": 256,
            "discount": 0.99,
            "target_rate": 0.005,
            "target_noise": 0.2,
            "target_noise_clip": 0.5,
            "policy_delay": 2,
            "q_weight": 2.5,
            "normalize_obs": True,
            "eval_episodes": 10,
        },
        "TD3_BC.py": {
            "actor_layers": 2,
            "actor_units": 256,
            "actor_norm": False,
            "actor_lr": 3e-4,
            "critic_layers": 2,
            "critic_units": 256,
            "critic_norm": False,
            "critic_lr": 3e-4,
            "final_bound": 0.0,
            "actor_bc": 1.0,
            "critic_bc": 0.0,
            "bc_distance": "mean",
            "actor_critic": "first",
        },
    },
    beyond=(_BIASES,),
)

_KIT: dict[str, str] = {
    "repository": "yihaosun1124/OfflineRL-Kit",
    "commit": "e3ce69793766d02660217d4dfc0af4693a5531bd",
}
# What all of its learners with a squashed Gaussian share.
_KIT_SAC: dict[str, Any] = {
    "steps_per_update": 1000,
    "batch_size": 256,
    "discount": 0.99,
    "target_rate": 0.005,
    "actor_lr": 1e-4,
    "critic_lr": 3e-4,
    "temperature": 1.0,
    "temperature_lr": 1e-4,
    "entropy_per_action": -1.0,
    "actor_units": 256,
    "critic_units": 256,
    "eval_episodes": 10,
}
_KIT_NETS: dict[str, Any] = {
    "actor_norm": False,
    "critic_norm": False,
    "final_bound": 0.0,
}

CQL = Published(
    **_KIT,
    task="hopper-medium-v2",
    values={
        "run_example/run_cql.py": _KIT_SAC
        | {
            "n_updates": 1000,
            "actor_layers": 3,
            "critic_layers": 3,
            "n_critics": 2,
            "entropy_backup": False,
            "cql_weight": 5.0,
            "cql_actions": 10,
            "cql_temperature": 1.0,
            "cql_gap": -1.0,
        },
        "offlinerlkit/policy/model_free/cql.py": {
            "cql_importance": True,
            "max_temperature": 1e6,
            "calibrated": False,
        },
        "offlinerlkit/modules": _KIT_NETS,
    },
    beyond=(
        _BIASES,
        "The soft maximum is over all 30 sampled actions of a state, as in Kumar et "
        "al. 2020; the code there takes it over 3 of them, for the result of a reshape "
        "is dropped.",
    ),
)

_MODEL: dict[str, dict[str, Any]] = {
    "offlinerlkit/dynamics/ensemble_dynamics.py": {
        "model_batch_size": 256,
        "n_held_back": 1000,
        "penalty": "noise",
    },
    "offlinerlkit/utils/termination_fns.py": {"termination": "analytic"},
    "offlinerlkit/modules": _KIT_NETS,
}
_RUN_MODEL: dict[str, Any] = {
    "n_updates": 3000,
    "actor_layers": 2,
    "critic_layers": 2,
    "n_critics": 2,
    "n_members": 7,
    "n_elites": 5,
    "model_layers": 4,
    "model_units": 200,
    "model_lr": 1e-3,
    "rollout_length": 5,
    "penalty_weight": 0.5,
    "n_rollouts": 50_000,
    "retain_updates": 5,
    "real_share": 0.05,
}
_IN_MODEL_REASONS = {
    "n_updates": "the model's own updates are counted in",
    "termination": _TERMINATION,
}
_UNTIL_NO_GAIN = (
    "The model learns for model_updates x steps_per_update gradient steps, of which "
    "each member keeps its best; there until five epochs brought no member a gain of "
    "1 %: how long a run is here is known before it begins."
)

MOPO = Published(
    **_KIT,
    task="halfcheetah-medium-v2",
    values={
        "run_example/run_mopo.py": _KIT_SAC | _RUN_MODEL,
        "offlinerlkit/policy/model_free/sac.py": {
            "entropy_backup": True,
            "max_temperature": 1.0,
        },
    }
    | _MODEL,
    reasons=_IN_MODEL_REASONS,
    beyond=(_BIASES, _UNTIL_NO_GAIN),
)
