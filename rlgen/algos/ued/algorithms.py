"""The environment-design algorithms by name: each is a set of settings.

Published hyper-parameters stand in the `paper` preset with their source; `quick` is
sized for minutes on a laptop's CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlgen.algos.ued.assembly import (
    CurriculumAlgorithm,
    GenerativeAlgorithm,
    PairedAlgorithm,
    UEDAlgorithm,
)
from rlgen.algos.ued.sfl import SFL, SFLConfig
from rlgen.experiment import Within

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

# Maze settings of jaxued's maze_plr.py (Coward et al. 2024), which follow Jiang et
# al. 2021 and Parker-Holder et al. 2022: 32 x 256 steps, 5 epochs, Adam 1e-4 annealed,
# gamma 0.995, lambda 0.98, entropy 1e-3, LSTM 256, MaxMC, rank 0.3, staleness 0.3,
# buffer 4000 half filled before the first replay, 30,000 updates (245.8 million steps).
# Walls: 0 to 60 as in dcd's maze (60 blocks, uniform number).
_PAPER: dict[str, Any] = {
    "n_updates": 30_000,
    "eval_every": 250,
    "log_every": 10,
    "n_envs": 32,
    "n_steps": 256,
    "n_epochs": 5,
    "n_minibatches": 1,
    "lr": 1e-4,
    "anneal_lr": True,
    "discount": 0.995,
    "gae_lambda": 0.98,
    "clip": 0.2,
    "entropy_coef": 1e-3,
    "torso": "conv",
    "channels": 16,
    "core": "lstm",
    "core_size": 256,
    "head_size": 32,
    "eval_episodes": 10,
}
_PAPER_REPLAY: dict[str, Any] = {
    "buffer_size": 4000,
    "min_fill": 0.5,
    "score": "maxmc",
    "prioritization": "rank",
    "temperature": 0.3,
    "staleness": 0.3,
    "replay_prob": 0.8,
}

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
# How levels are scored and drawn where they are random: as where they are given.
_RANDOM_LEVELS: dict[str, Any] = {
    "reference": "train",
    "buffer_size": 4000,
    "min_fill": 0.05,
    "prioritization": "rank",
    "temperature": 0.1,
    "staleness": 0.3,
    "score": "grounded_l1",
    "insert_positive": True,
}


def _sized(settings: Mapping[str, Any], batches: float, first: int) -> dict[str, Any]:
    """Length of a run with `batches` per student update, after `first` without one."""
    n_updates = round(_DRED_CPU_UPDATES * batches) + first
    # Four points of a learning curve; nothing is chosen by them.
    return dict(settings) | {"n_updates": n_updates, "eval_every": -(-n_updates // 4)}


# Settings of Garcin et al. 2024 for Cave Escape: 36 x 256 steps, 5 epochs, Adam 1e-4,
# gamma 0.995, lambda 0.95, clip 0.2, no entropy bonus, LSTM 256; about 28,750 student
# updates, here counted in batches, of which half only score where levels are generated.
_DRED_PAPER: dict[str, Any] = _PAPER | {
    "n_envs": 36,
    "anneal_lr": False,
    "gae_lambda": 0.95,
    "entropy_coef": 0.0,
    "actions": "minigrid",
}

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


def _presets(batches: int, first: int) -> dict[str, dict[str, Any]]:
    """Presets of a method on a level set; see `_sized`."""
    return {
        "quick": QUICK_STUDENT
        | {"n_updates": 320 * batches, "eval_every": 80 * batches},
        "paper": _DRED_PAPER | {"n_updates": 28_750 * batches},
        "dred-cpu": _sized(_DRED_CPU, batches, first),
        "dred-paper": _DRED_PAPER | {"n_updates": 28_750 * batches},
    }


# What levels that are drawn again have in common, and those with two channels.
_REPLAYS: dict[str, Any] = {
    "replay_prob": Within(0.0),
    "edit_prob": 0.0,
    "generate_prob": 0.0,
}
_MIXES: dict[str, Any] = _REPLAYS | {"second_support": "all", "insert_by": "second"}

DR = UEDAlgorithm(
    summary="domain randomisation: a new random level for every environment and update",
    source="Tobin et al. 2017",
    settings={"replay_prob": 0.0},
    definition={"replay_prob": 0.0},
    presets={"quick": _QUICK, "paper": _PAPER},
)

PLR = UEDAlgorithm(
    summary="prioritised level replay: new levels and replayed ones both train",
    source="Jiang et al. 2021, Prioritized level replay",
    settings={"replay_prob": 0.5, "train_on_new": True},
    definition=_REPLAYS | {"train_on_new": True},
    presets={"quick": _QUICK, "paper": _PAPER | _PAPER_REPLAY},
)

ROBUST_PLR = UEDAlgorithm(
    summary="robust PLR: only replayed levels train, new ones are scored",
    source="Jiang et al. 2021, Replay-guided adversarial environment design",
    settings={"replay_prob": 0.5, "train_on_new": False},
    definition=_REPLAYS | {"train_on_new": False},
    presets={
        "quick": _QUICK,
        "paper": _PAPER | _PAPER_REPLAY,
        "dred-cpu": _sized(_DRED_CPU | _RANDOM_LEVELS, 2, 4),
        "dred-paper": _DRED_PAPER | _RANDOM_LEVELS | {"n_updates": 57_500},
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
    definition=_REPLAYS | {"train_on_new": False, "edit_prob": Within(0.0)},
    presets={
        "quick": _QUICK,
        "paper": _PAPER | _PAPER_REPLAY,
        # A replayed batch, its edits, and new levels once in five times.
        "dred-cpu": _sized(_DRED_CPU | _RANDOM_LEVELS, 2.25, 4),
        "dred-paper": _DRED_PAPER | _RANDOM_LEVELS | {"n_updates": 64_700},
    },
)

UNIFORM = UEDAlgorithm(
    summary="levels of a given set, uniformly",
    source="Garcin et al. 2024",
    settings=_ON_DATASET | {"prioritization": "uniform", "staleness": 0.0},
    definition=_REPLAYS
    | {"prioritization": "uniform", "staleness": 0.0, "support": "dataset"},
    presets=_presets(1, 0),
    env="cave",
)

PLR_D = UEDAlgorithm(
    summary="PLR on a given set of levels",
    source="Jiang et al. 2021, as run by Garcin et al. 2024",
    settings=_ON_DATASET,
    definition=_REPLAYS | {"support": "dataset"},
    presets=_presets(1, 8),
    env="cave",
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
    definition=_REPLAYS | {"edit_prob": Within(0.0), "support": "all"},
    presets=_presets(2, 8),
    env="cave",
)

EL_DRED = UEDAlgorithm(
    summary="DRED with edited levels in place of generated ones",
    source="Garcin et al. 2024",
    settings=_DRED | {"edit_prob": 1.0},
    definition=_MIXES | {"edit_prob": Within(0.0), "generate_prob": 0.0},
    presets=_presets(2, 8),
    env="cave",
)

VAE_DRED = GenerativeAlgorithm(
    summary="DRED: levels from a model of a given set, mixed with that set",
    source="Garcin et al. 2024",
    settings=_DRED | {"generate_prob": 1.0},
    definition=_MIXES | {"edit_prob": 0.0, "generate_prob": Within(0.0)},
    presets=_presets(2, 8),
    env="cave",
)

# Rutherford et al. 2024, minigrid: 256 x 256 steps, Adam 2.5e-4 annealed, gamma 0.99,
# lambda 0.95, clip 0.04, 4 epochs of 4 minibatches; 25,000 levels of 2,000 steps (98
# batches here, of eight rollouts), 1,000 kept, 100 updates between.
_SFL_PAPER: dict[str, Any] = _PAPER | {
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

# The students as in jaxued's maze; the teacher with 128 channels, an LSTM of 256, its
# entropy bonus of 0.05, 50 blocks and 50 random numbers (Dennis et al. 2020).
_PAIRED_PAPER: dict[str, Any] = _PAPER | {"anneal_lr": False}

PAIRED = PairedAlgorithm(
    summary="PAIRED: a teacher builds levels that only one of two students masters",
    source="Dennis et al. 2020",
    settings={},
    presets={"quick": _QUICK_TEACHER, "paper": _PAIRED_PAPER},
)

REPAIRED = PairedAlgorithm(
    summary="REPAIRED: PAIRED's teacher, and students that learn from replayed levels",
    source="Jiang et al. 2021, Replay-guided adversarial environment design",
    settings={"replay_prob": 0.5, "train_on_new": False},
    definition={"replay_prob": Within(0.0)},
    presets={
        "quick": _QUICK_TEACHER
        | {"buffer_size": 1000, "min_fill": 0.2, "temperature": 1.0},
        "paper": _PAIRED_PAPER | _PAPER_REPLAY | {"replay_prob": 0.95},
    },
    replays=True,
)
