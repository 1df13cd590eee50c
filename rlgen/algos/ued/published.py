"""What the released code of environment design sets, for the `paper` presets.

Read at the commits that are named.
"""

from __future__ import annotations

from typing import Any

from rlgen.published import Published

# What holds of everything here.
_TILES = ("Tiles of a view are one-hot planes; there three numbers each, scaled down.",)
_MINIGRID_EDITS = (
    "Edits always change something, and goal and start stay on free cells; there a "
    "tile may be set to what it is, and goal or start that were overwritten are placed "
    "anew.",
)
_PARENTS = (
    "All levels of the replayed batch are edited; there four of them several times, "
    "those of the lowest return less value loss, under the name of easy ones.",
)

_JAXUED: dict[str, Any] = {
    "repository": "DramaCow/jaxued",
    "commit": "0f8f1284677375b889e4f13a32c9617cd009f8c4",
}
_MAZES = "mazes of 13 x 13"
_JAXUED_STUDENT: dict[str, Any] = {
    "n_updates": 30_000,
    "n_envs": 32,
    "n_steps": 256,
    "n_epochs": 5,
    "n_minibatches": 1,
    "optimizer": "adam",
    "adam_eps": 1e-5,
    "lr": 1e-4,
    "anneal_lr": True,
    "max_grad_norm": 0.5,
    "discount": 0.995,
    "gae_lambda": 0.98,
    "clip": 0.2,
    "clip_value": True,
    "entropy_coef": 1e-3,
    "value_coef": 0.5,
    "time_limit": "terminate",
    "torso": "conv",
    "channels": 16,
    "core": "lstm",
    "core_size": 256,
    "head_size": 32,
    "view_size": 5,
    "eval_episodes": 10,
}
_JAXUED_MAZE: dict[str, Any] = {
    "height": 13,
    "width": 13,
    "actions": "minigrid",
    "see_through_walls": True,
}
_JAXUED_WALLS: dict[str, Any] = {
    "min_walls": 25,
    "max_walls": 25,
    "distinct_walls": False,
}
_JAXUED_REPLAY: dict[str, Any] = {
    "replay_prob": 0.8,
    "buffer_size": 4000,
    "min_fill": 0.5,
    "score": "maxmc",
    "prioritization": "rank",
    "temperature": 0.3,
    "staleness": 0.3,
}

DR = Published(
    **_JAXUED,
    task=_MAZES,
    values={
        "examples/maze_dr.py": _JAXUED_STUDENT
        | {
            "replay_prob": 0.0,
            "auto_reset": "resample",
            "continue_episodes": True,
            "levels_per_env": "one an episode",
        },
        "src/jaxued/environments/maze": _JAXUED_MAZE | _JAXUED_WALLS,
    },
    reasons={
        "levels_per_env": "mazes are made before a rollout, 1,024 for about 700 "
        "episodes, and drawn with replacement: made within each step they cost more "
        "than the rest of a run"
    },
    beyond=_TILES,
)


def _plr(task: str, trains_on_new: bool) -> Published:
    return Published(
        **_JAXUED,
        task=task,
        values={
            "examples/maze_plr.py": _JAXUED_STUDENT
            | _JAXUED_REPLAY
            | {"train_on_new": trains_on_new},
            "src/jaxued/environments/maze": _JAXUED_MAZE | _JAXUED_WALLS,
        },
        beyond=_TILES,
    )


PLR = _plr(f"{_MAZES}, with exploratory_grad_updates", True)
ROBUST_PLR = _plr(_MAZES, False)

PAIRED = Published(
    **_JAXUED,
    task=_MAZES,
    values={
        "examples/maze_paired.py": _JAXUED_STUDENT
        | {
            "regret": "unclipped",
            "n_blocks": 47,
            "noise_size": 16,
            "teacher_lr": 1e-4,
            "teacher_anneal_lr": True,
            "teacher_entropy_coef": 1e-3,
            "teacher_epochs": 5,
            "teacher_channels": 128,
            "teacher_core": "lstm",
            "teacher_core_size": 256,
        },
        "src/jaxued/environments/maze": _JAXUED_MAZE,
    },
    beyond=(
        *_TILES,
        "The teacher's 50 steps there are goal, direction, start and 47 cells whose "
        "wall is toggled; here goal, start and 47 walls, and directions are drawn.",
        "The random numbers that the teacher sees are all 0 there, unless a flag says "
        "otherwise.",
        "The students' heads are of ReLU; there the policy's is of tanh.",
    ),
)

_DCD: dict[str, Any] = {
    "repository": "facebookresearch/dcd",
    "commit": "72991be64f7571ec962b14489b151b3fd997f1bc",
}
_DCD_STUDENT: dict[str, Any] = {
    "n_steps": 256,
    "n_epochs": 5,
    "n_minibatches": 1,
    "lr": 1e-4,
    "discount": 0.995,
    "entropy_coef": 0.0,
    "core": "lstm",
    "core_size": 256,
    "time_limit": "bootstrap",
}
_DCD_DEFAULTS: dict[str, Any] = {
    "gae_lambda": 0.95,
    "clip": 0.2,
    "clip_value": True,
    "value_coef": 0.5,
    "max_grad_norm": 0.5,
    "adam_eps": 1e-5,
    "anneal_lr": False,
    "eval_episodes": 10,
}
_DCD_REPLAY: dict[str, Any] = {
    "buffer_size": 4000,
    "min_fill": 0.5,
    "prioritization": "rank",
    "staleness": 0.3,
    "train_on_new": False,
}
_DCD_NETWORK: dict[str, Any] = {"torso": "conv", "channels": 16, "head_size": "32, 32"}
_HEADS = {"head_size": "heads have one hidden layer in this lab"}
_DCD_GRID: dict[str, Any] = {
    "height": 13,
    "width": 13,
    "view_size": 5,
    "actions": "minigrid",
    "see_through_walls": True,
}
_CONFIGS = "train_scripts/grid_configs/minigrid"

ACCEL = Published(
    **_DCD,
    task=f"{_MAZES} that begin empty",
    values={
        f"{_CONFIGS}/60_blocks_uniform/mg_60b_uni_accel_empty.json": _DCD_STUDENT
        | _DCD_REPLAY
        | {
            "n_updates": 54_931,
            "n_envs": 32,
            "replay_prob": 0.8,
            "score": "pvl",
            "temperature": 0.3,
            "levels": "empty",
            "edit_prob": 1.0,
            "n_edits": 5,
        },
        "arguments.py": _DCD_DEFAULTS,
        "models/multigrid_models.py": _DCD_NETWORK,
        "envs/multigrid/adversarial.py": _DCD_GRID
        | {"change_cell": 2.0, "move_goal": 1.0, "move_start": 1.0, "no_op": 0.0},
    },
    reasons=_HEADS,
    beyond=(
        *_TILES,
        *_MINIGRID_EDITS,
        *_PARENTS,
        "A turn of 250 million steps there is a batch, and in four of five turns its "
        "edits: n_updates counts both.",
    ),
)

REPAIRED = Published(
    **_DCD,
    task=f"{_MAZES} with 25 blocks",
    values={
        f"{_CONFIGS}/25_blocks/mg_25b_repaired.json": _DCD_STUDENT
        | _DCD_REPLAY
        | {
            "n_updates": 30_517,
            "n_envs": 32,
            "replay_prob": 0.95,
            "score": "maxmc",
            "temperature": 0.1,
            "teacher_core": "none",
            "teacher_entropy_coef": 0.0,
            "regret": "clipped",
        },
        "arguments.py": _DCD_DEFAULTS
        | {"teacher_lr": 1e-4, "teacher_epochs": 5, "teacher_anneal_lr": False},
        "models/multigrid_models.py": _DCD_NETWORK
        | {"teacher_channels": 128, "teacher_core_size": 256},
        "envs/multigrid/adversarial.py": _DCD_GRID | {"n_blocks": 25, "noise_size": 50},
    },
    reasons=_HEADS,
    beyond=(*_TILES, "The teacher places goal and start first; there last."),
)

SFL = Published(
    repository="amacrutherford/sampling-for-learnability",
    commit="8b14e2ec07b38dc33a9df476b84faa2f3ca5fd3b",
    task=_MAZES,
    values={
        "sfl/train/config/learning/ippo-minigrid.yaml": {
            "n_updates": 4577,
            "n_envs": 256,
            "n_steps": 256,
            "n_epochs": 4,
            "n_minibatches": 4,
            "lr": 2.5e-4,
            "anneal_lr": True,
            "max_grad_norm": 0.5,
            "discount": 0.99,
            "gae_lambda": 0.95,
            "clip": 0.04,
            "entropy_coef": 0.0,
            "value_coef": 0.5,
        },
        "sfl/train/config/minigrid-sfl.yaml": {
            "scoring_batches": "5 of 5,000 levels",
            "scoring_rollouts": "2,000 steps",
            "n_kept": 1000,
            "kept_share": 0.5,
        },
        "sfl/train/minigrid_sfl.py": {
            "training_batches": 100,
            "optimizer": "adam",
            "adam_eps": 1e-5,
            "time_limit": "terminate",
        },
        "sfl/train/minigrid_plr.py": {
            "torso": "conv",
            "channels": 16,
            "core": "lstm",
            "core_size": 256,
            "head_size": 32,
        },
        "sfl/train/config/env/minigrid.yaml": {
            "min_walls": 60,
            "max_walls": 60,
            "distinct_walls": False,
            "view_size": 5,
            "actions": "minigrid",
            "eval_episodes": 5,
        },
    },
    reasons={
        "n_updates": "300 million steps that train, and the batches that score before "
        "them: 46 turns of 884, the last one cut short",
        "scoring_batches": "98 batches of 256 are 25,088 levels",
        "scoring_rollouts": "8 of 256 are 2,048 steps",
        "eval_episodes": "as the other presets",
    },
    beyond=_TILES,
)

_DRED: dict[str, Any] = {
    "repository": "uoe-agents/dred",
    "commit": "59e505d50fa79d84ba64cc30730c405004fa7e89",
    "task": "Cave Escape",
}
_DRED_STUDENT = _DCD_STUDENT | {"n_envs": 36}
_DRED_SHARED: dict[str, Any] = {
    "arguments.py": _DCD_DEFAULTS,
    "models/multigrid_models.py": _DCD_NETWORK,
}
_GIVEN: dict[str, Any] = {
    "dataset": "train",
    "replay_prob": 1.0,
    "train_on_new": False,
    "support": "dataset",
    "staleness_support": "dataset",
}
_DRED_EDITS: dict[str, Any] = {
    "change_cell": 4.0,
    "move_goal": 1.0,
    "move_start": 1.0,
    "no_op": 0.0,
}
_RANKED: dict[str, Any] = {
    "prioritization": "rank",
    "temperature": 0.1,
    "staleness": 0.3,
    "score": "l1",
}
_TWO_CHANNELS: dict[str, Any] = {
    "buffer_size": 4000,
    "second_score": "grounded_l1",
    "second_support": "all",
    "second_temperature": 1.0,
    "second_weight": 0.0,
    "second_weight_end": 1.0,
    "insert_by": "second",
    "insert_positive": True,
}


def _dred(
    file: str,
    env_steps: int,
    batches: float,
    values: dict[str, Any],
    edits: bool = False,
    reasons: dict[str, str] | None = None,
    **files: dict[str, Any],
) -> Published:
    """A configuration of DRED's release.

    Args:
      env_steps: its budget, which counts one batch of each turn.
      batches: of a turn.
      edits: whether levels are edited.
    """
    grid = _DCD_GRID | (_DRED_EDITS if edits else {})
    turns = env_steps // (36 * 256)
    return Published(
        **_DRED,
        env="cave",
        values={
            f"{_CONFIGS}/cave_escape/mg_ce_{file}.json": _DRED_STUDENT
            | values
            | {"n_updates": round(turns * batches)}
            | ({"n_edits": 5} if edits else {}),
            "envs/multigrid/adversarial.py": grid,
        }
        | _DRED_SHARED
        | files,
        reasons=_HEADS | (reasons or {}),
        beyond=(
            *_TILES,
            "Given levels are our own of the same recipe, made by `rlgen levels`.",
            *((*_MINIGRID_EDITS, *_PARENTS) if edits else ()),
        ),
    )


UNIFORM = _dred(
    "dataset_uni",
    265_000_000,
    1,
    _GIVEN
    | {
        "prioritization": "uniform",
        "score": "uniform",
        "temperature": 0.1,
        "staleness": 0.3,
    },
    reasons={
        "score": "of no account here",
        "staleness": "there equal scores are ranked: in 70 % of cases one level is "
        "drawn, else one not seen for long; here levels are uniform",
    },
)
PLR_D = _dred("dataset_plr", 265_000_000, 1, _GIVEN | _RANKED)
ACCEL_D = _dred(
    "dataset_accel",
    265_000_000,
    2,
    _GIVEN
    | _RANKED
    | {
        "support": "all",
        "staleness_support": "all",
        "score": "grounded_l1",
        "insert_positive": True,
        "edit_prob": 1.0,
        "buffer_size": 4000,
    },
    edits=True,
)
EL_DRED = _dred(
    "dataset_el_dred",
    265_000_000,
    2,
    _GIVEN | _RANKED | _TWO_CHANNELS | {"edit_prob": 1.0},
    edits=True,
)
_VAE: dict[str, Any] = {
    "latent_size": 1024,
    "vae_hidden": 256,
    "gin_layers": 3,
    "gin_size": 12,
    "layout_coef": 0.04,
    "goal_coef": 0.013,
    "start_coef": 0.013,
    "kl_coef": 0.0448,
}
_VAE_TRAINING: dict[str, Any] = {"vae_batch": 64, "vae_lr": 3.976023e-4}
_VAE_REASONS = {"vae_lr": "rounded"}
_MODEL_CONF = "minigrid_level_generation/conf"
VAE_DRED = _dred(
    "dataset_vae_dred",
    265_000_000,
    2,
    _GIVEN
    | _RANKED
    | _TWO_CHANNELS
    | {"generate_prob": 1.0, "interpolation_points": 6},
    reasons=_VAE_REASONS,
    **{
        f"{_MODEL_CONF}/model/res_graphVAE_ce.yaml": _VAE,
        f"{_MODEL_CONF}/optim/adam.yaml": _VAE_TRAINING,
        f"{_MODEL_CONF}/config.yaml": {"vae_epochs": 200},
    },
)
LEVEL_VAE = Published(
    **_DRED,
    values={
        f"{_MODEL_CONF}/model/res_graphVAE_ce.yaml": _VAE,
        f"{_MODEL_CONF}/optim/adam.yaml": _VAE_TRAINING,
        f"{_MODEL_CONF}/config.yaml": {"n_updates": 200, "dataset": "train"},
    },
    reasons=_VAE_REASONS,
)
ROBUST_PLR_OF_DRED = _dred(
    "60b_uni_robust_plr",
    525_000_000,
    1,
    _DCD_REPLAY
    | {
        "replay_prob": 0.5,
        "score": "pvl",
        "temperature": 0.3,
        "max_blocks": 59,
        "reference": "train",
    },
    reasons={"max_blocks": "60 may be drawn, too"},
)
ACCEL_OF_DRED = _dred(
    "60b_uni_accel_empty",
    340_000_000,
    1.8,
    _DCD_REPLAY
    | {
        "replay_prob": 0.8,
        "score": "pvl",
        "temperature": 0.3,
        "levels": "empty",
        "edit_prob": 1.0,
        "reference": "train",
    },
    edits=True,
)
