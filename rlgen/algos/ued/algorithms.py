"""The environment-design algorithms by name: each is a set of settings.

A `paper` preset is one released configuration; `rlgen.algos.ued.published` says which,
and where it differs. `quick` is sized for minutes on a laptop's CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlgen.algos.ued import published
from rlgen.algos.ued.assembly import (
    CurriculumAlgorithm,
    GenerativeAlgorithm,
    PairedAlgorithm,
    UEDAlgorithm,
)
from rlgen.algos.ued.sfl import SFL, SFLConfig
from rlgen.ranges import Range

# Minutes on two CPU cores. Chosen on the validation split (--eval-split validation).
_QUICK: dict[str, Any] = {
    "n_updates": 320,
    "log_every": 10,
    "solvable": True,
    "view_size": 7,
    "n_envs": 64,
    "n_steps": 256,
    "n_epochs": 4,
    "n_minibatches": 4,
    "lr": 1e-3,
    "anneal_lr": True,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "entropy_coef": 1e-2,
    "torso": "mlp",
    "channels": 64,
    "core": "gru",
    "core_size": 128,
    "eval_every": 80,
    "buffer_size": 1000,
    "min_fill": 0.2,
    "temperature": 1.0,
}

# What the students of all releases have in common: 32 x 256 steps, 5 epochs of one
# minibatch, Adam 1e-4, gamma 0.995, clip 0.2, convolution of 16 channels, LSTM of 256,
# heads of 32, MiniGrid's seven actions.
_STUDENT: dict[str, Any] = {
    "eval_every": 250,
    "log_every": 10,
    "n_envs": 32,
    "n_steps": 256,
    "n_epochs": 5,
    "n_minibatches": 1,
    "lr": 1e-4,
    "discount": 0.995,
    "clip": 0.2,
    "torso": "conv",
    "channels": 16,
    "core": "lstm",
    "core_size": 256,
    "head_size": 32,
    "eval_episodes": 10,
    "actions": "minigrid",
}

# jaxued's mazes: 25 walls drawn with replacement; 245.8 million steps.
_JAXUED: dict[str, Any] = _STUDENT | {
    "n_updates": 30_000,
    "anneal_lr": True,
    "gae_lambda": 0.98,
    "entropy_coef": 1e-3,
    "min_walls": 25,
    "max_walls": 25,
    "distinct_walls": False,
}
_JAXUED_REPLAY: dict[str, Any] = {
    "buffer_size": 4000,
    "min_fill": 0.5,
    "score": "maxmc",
    "prioritization": "rank",
    "temperature": 0.3,
    "staleness": 0.3,
    "replay_prob": 0.8,
}

# dcd, the release of robust PLR, REPAIRED and ACCEL, which counts turns (a batch of new
# or replayed levels, and the edits after it).
_DCD_TURNS = 250_000_000 // (32 * 256)
_DCD: dict[str, Any] = _STUDENT | {
    "anneal_lr": False,
    "gae_lambda": 0.95,
    "entropy_coef": 0.0,
    "time_limit": "bootstrap",
}
_DCD_REPLAY: dict[str, Any] = {
    "buffer_size": 4000,
    "min_fill": 0.5,
    "prioritization": "rank",
    "staleness": 0.3,
}
# Kinds of dcd's edits are as likely as they are many: two of walls, goal, start.
_DCD_EDITS: dict[str, Any] = {"change_cell": 2.0, "move_goal": 1.0, "move_start": 1.0}

#: The quick preset, less what is the methods' own: buffer and temperature.
QUICK_STUDENT: dict[str, Any] = {
    name: value
    for name, value in _QUICK.items()
    if name not in ("buffer_size", "min_fill", "temperature", "solvable")
}

# The comparison of Garcin et al. 2024 for two CPU cores: the same student and as many
# student updates for every method; what differs is the method's own.
_DRED_CPU_UPDATES = 160
_DRED_CPU: dict[str, Any] = QUICK_STUDENT | {
    "view_size": 5,
    "n_heldout": 128,
    "eval_episodes": 2,
}
# How levels are scored and drawn where they are random.
_RANDOM_LEVELS: dict[str, Any] = _DCD_REPLAY | {
    "reference": "train",
    "score": "pvl",
    "temperature": 0.3,
}
# Batches that fill half of such a buffer, before the first replay.
_DRED_CPU_FILL = 2000 // 64 + 1


def _sized(settings: Mapping[str, Any], batches: float, first: int) -> dict[str, Any]:
    """Length of a run with `batches` per student update, after `first` without one."""
    n_updates = round(_DRED_CPU_UPDATES * batches) + first
    # Four points of a learning curve; nothing is chosen by them.
    return dict(settings) | {"n_updates": n_updates, "eval_every": -(-n_updates // 4)}


# The release of Garcin et al. 2024, Cave Escape, made of dcd: 36 environments, other
# budgets (all of about 28,750 updates of the student). Edits are of four kinds of cell,
# goal and start.
_DRED_BATCH = 36 * 256
_DRED_PAPER: dict[str, Any] = _DCD | {"n_envs": 36}
_DRED_EDITS: dict[str, Any] = {"change_cell": 4.0, "move_goal": 1.0, "move_start": 1.0}


def _dred_turns(env_steps: int) -> int:
    """Batches that train or fill the buffer in a budget of DRED's release."""
    return env_steps // _DRED_BATCH


# What the methods on a given level set share.
_ON_DATASET: dict[str, Any] = {
    "dataset": "train",
    "replay_prob": 1.0,
    "train_on_new": False,
    "support": "dataset",
    "staleness_support": "dataset",
    "prioritization": "rank",
    "temperature": 0.1,
    "staleness": 0.3,
    "score": "l1",
}

# Two channels: value loss on the given levels, and value loss that counts only where
# the goal was once reached on all levels; the second takes over during training.
_DRED: dict[str, Any] = _ON_DATASET | {
    "second_score": "grounded_l1",
    "second_support": "all",
    "second_temperature": 1.0,
    "second_weight": 0.0,
    "second_weight_end": 1.0,
    "insert_by": "second",
    "insert_positive": True,
}


def _presets(
    batches: int, first: int, edits: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Presets of a method on a level set; see `_sized`."""
    own = dict(edits or {})
    paper = _DRED_PAPER | own | {"n_updates": _dred_turns(265_000_000) * batches}
    return {
        "quick": QUICK_STUDENT
        | {"n_updates": 320 * batches, "eval_every": 80 * batches},
        "paper": paper,
        "dred-cpu": _sized(_DRED_CPU | own, batches, first),
        "dred-paper": paper,
    }


# What levels that are drawn again have in common, and those with two channels.
_REPLAYS: dict[str, Any] = {
    "replay_prob": Range(above=0.0),
    "edit_prob": 0.0,
    "generate_prob": 0.0,
}
_MIXES: dict[str, Any] = _REPLAYS | {"second_support": "all", "insert_by": "second"}

DR = UEDAlgorithm(
    summary="domain randomisation: a new random level for every environment and update",
    source="Tobin et al. 2017",
    settings={"replay_prob": 0.0},
    definition={"replay_prob": 0.0},
    presets={
        "quick": _QUICK,
        # A new maze at every episode: a trained agent finishes about twenty in a
        # rollout.
        "paper": _JAXUED
        | {
            "auto_reset": "resample",
            "continue_episodes": True,
            "levels_per_env": 32,
        },
    },
    published={"paper": published.DR},
)

PLR = UEDAlgorithm(
    summary="prioritised level replay: new levels and replayed ones both train",
    source="Jiang et al. 2021, Prioritized level replay",
    settings={"replay_prob": 0.5, "train_on_new": True},
    definition=_REPLAYS | {"train_on_new": True},
    presets={"quick": _QUICK, "paper": _JAXUED | _JAXUED_REPLAY},
    published={"paper": published.PLR},
)

ROBUST_PLR = UEDAlgorithm(
    summary="robust PLR: only replayed levels train, new ones are scored",
    source="Jiang et al. 2021, Replay-guided adversarial environment design",
    settings={"replay_prob": 0.5, "train_on_new": False},
    definition=_REPLAYS | {"train_on_new": False},
    presets={
        "quick": _QUICK,
        "paper": _JAXUED | _JAXUED_REPLAY,
        "dred-cpu": _sized(_DRED_CPU | _RANDOM_LEVELS, 2, _DRED_CPU_FILL),
        "dred-paper": _DRED_PAPER
        | _RANDOM_LEVELS
        | {"n_updates": _dred_turns(525_000_000)},
    },
    published={
        "paper": published.ROBUST_PLR,
        "dred-paper": published.ROBUST_PLR_OF_DRED,
    },
)

ACCEL = UEDAlgorithm(
    summary="ACCEL: robust PLR from empty mazes, with edits of replayed levels",
    source="Parker-Holder et al. 2022",
    settings={
        "replay_prob": 0.8,
        "train_on_new": False,
        "edit_prob": 1.0,
        "levels": "empty",
    },
    definition=_REPLAYS | {"train_on_new": False, "edit_prob": Range(above=0.0)},
    presets={
        "quick": _QUICK,
        # A turn is one batch, and in four of five times its edits.
        "paper": _DCD
        | _DCD_REPLAY
        | _DCD_EDITS
        | {"score": "pvl", "temperature": 0.3, "n_updates": round(1.8 * _DCD_TURNS)},
        # A replayed batch, its edits, and new levels once in five times.
        "dred-cpu": _sized(
            _DRED_CPU | _RANDOM_LEVELS | _DRED_EDITS, 2.25, _DRED_CPU_FILL
        ),
        "dred-paper": _DRED_PAPER
        | _RANDOM_LEVELS
        | _DRED_EDITS
        | {"n_updates": round(1.8 * _dred_turns(340_000_000))},
    },
    published={"paper": published.ACCEL, "dred-paper": published.ACCEL_OF_DRED},
)

UNIFORM = UEDAlgorithm(
    summary="levels of a given set, uniformly",
    source="Garcin et al. 2024",
    settings=_ON_DATASET | {"prioritization": "uniform", "staleness": 0.0},
    definition=_REPLAYS
    | {"prioritization": "uniform", "staleness": 0.0, "support": "dataset"},
    presets=_presets(1, 0),
    env="cave",
    published={"paper": published.UNIFORM, "dred-paper": published.UNIFORM},
)

PLR_D = UEDAlgorithm(
    summary="PLR on a given set of levels",
    source="Jiang et al. 2021, as run by Garcin et al. 2024",
    settings=_ON_DATASET,
    definition=_REPLAYS | {"support": "dataset"},
    presets=_presets(1, 8),
    env="cave",
    published={"paper": published.PLR_D, "dred-paper": published.PLR_D},
)

ACCEL_D = UEDAlgorithm(
    summary="ACCEL that starts from a given set, whose levels are never evicted",
    source="Garcin et al. 2024",
    settings=_ON_DATASET
    | {
        "support": "all",
        "staleness_support": "all",
        "score": "grounded_l1",
        "insert_positive": True,
        "edit_prob": 1.0,
    },
    definition=_REPLAYS | {"edit_prob": Range(above=0.0), "support": "all"},
    presets=_presets(2, 8, _DRED_EDITS),
    env="cave",
    published={"paper": published.ACCEL_D, "dred-paper": published.ACCEL_D},
)

EL_DRED = UEDAlgorithm(
    summary="DRED with edited levels in place of generated ones",
    source="Garcin et al. 2024",
    settings=_DRED | {"edit_prob": 1.0},
    definition=_MIXES | {"edit_prob": Range(above=0.0), "generate_prob": 0.0},
    presets=_presets(2, 8, _DRED_EDITS),
    env="cave",
    published={"paper": published.EL_DRED, "dred-paper": published.EL_DRED},
)

VAE_DRED = GenerativeAlgorithm(
    summary="DRED: levels from a model of a given set, mixed with that set",
    source="Garcin et al. 2024",
    settings=_DRED | {"generate_prob": 1.0},
    definition=_MIXES | {"edit_prob": 0.0, "generate_prob": Range(above=0.0)},
    presets=_presets(2, 8),
    env="cave",
    published={"paper": published.VAE_DRED, "dred-paper": published.VAE_DRED},
)

# Rutherford et al. 2024, MiniGrid: 60 walls drawn with replacement; 256 x 256 steps, 4
# epochs of 4 minibatches; 25,000 levels of 2,000 steps (98 batches here, of eight
# rollouts), 1,000 kept, 100 updates between.
_SFL_PAPER: dict[str, Any] = _JAXUED | {
    "min_walls": 60,
    "max_walls": 60,
    # 300 million steps that train: 46 turns of 884 updates, the last one cut short.
    "n_updates": 40_641,
    "n_envs": 256,
    "n_epochs": 4,
    "n_minibatches": 4,
    "lr": 2.5e-4,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "clip": 0.04,
    "entropy_coef": 0.0,
    "scoring_batches": 98,
    "scoring_rollouts": 8,
    "training_batches": 100,
    "n_kept": 1000,
}

SFL_ALGORITHM = CurriculumAlgorithm(
    summary="SFL: random levels are scored, the most learnable ones trained on",
    source="Rutherford et al. 2024",
    make=SFL.of,
    options=SFLConfig(),
    presets={
        "quick": QUICK_STUDENT | {"n_updates": 492, "eval_every": 82, "solvable": True},
        "paper": _SFL_PAPER,
    },
    published={"paper": published.SFL},
)

# The quick preset without level replay, for levels that a teacher builds. In so few
# updates the published rate and entropy bonus leave the teacher as it starts, uniform
# over cells: its entropy on mazes stays within 1 % of log 169 for 320 updates.
_QUICK_TEACHER: dict[str, Any] = QUICK_STUDENT | {
    "teacher_lr": 1e-3,
    "teacher_entropy_coef": 5e-3,
    "teacher_channels": 16,
    "teacher_core": "gru",
    "teacher_core_size": 128,
}

# The teachers of both releases: 128 channels; jaxued's episodes of 50 steps place goal,
# direction, start and 47 walls, dcd's 25 blocks after which goal and start follow.
_JAXUED_TEACHER: dict[str, Any] = {
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
}
_DCD_TEACHER: dict[str, Any] = _JAXUED_TEACHER | {
    "regret": "clipped",
    "n_blocks": 25,
    "noise_size": 50,
    "teacher_anneal_lr": False,
    "teacher_entropy_coef": 0.0,
    "teacher_core": "none",
}
# The teacher chooses walls: what random mazes are told is not needed.
_JAXUED_STUDENT = {
    name: value for name, value in _JAXUED.items() if not name.endswith("_walls")
}

PAIRED = PairedAlgorithm(
    summary="PAIRED: a teacher builds levels that only one of two students masters",
    source="Dennis et al. 2020",
    settings={},
    presets={"quick": _QUICK_TEACHER, "paper": _JAXUED_STUDENT | _JAXUED_TEACHER},
    published={"paper": published.PAIRED},
)

REPAIRED = PairedAlgorithm(
    summary="REPAIRED: PAIRED's teacher, and students that learn from replayed levels",
    source="Jiang et al. 2021, Replay-guided adversarial environment design",
    settings={"replay_prob": 0.5, "train_on_new": False},
    definition={"replay_prob": Range(above=0.0)},
    presets={
        "quick": _QUICK_TEACHER
        | {"buffer_size": 1000, "min_fill": 0.2, "temperature": 1.0},
        "paper": _DCD
        | _DCD_REPLAY
        | _DCD_TEACHER
        | {
            "n_updates": _DCD_TURNS,
            "score": "maxmc",
            "temperature": 0.1,
            "replay_prob": 0.95,
        },
    },
    replays=True,
    published={"paper": published.REPAIRED},
)
