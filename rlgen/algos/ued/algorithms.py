"""The environment-design algorithms by name: each is a set of settings.

Published hyper-parameters stand in the `paper` preset with their source; `quick` is
sized for minutes on a laptop's CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlgen.algos.ppo import PPOConfig
from rlgen.algos.ued.curriculum import LevelDistribution, LevelGenerator
from rlgen.algos.ued.diagnostics import DiagnosticsConfig
from rlgen.algos.ued.experiment import UED, check_auto_reset
from rlgen.algos.ued.level_generator import GeneratorConfig, InterpolatedLevels
from rlgen.algos.ued.level_replay import LevelReplay, ReplayConfig, check_batch_size
from rlgen.algos.ued.level_vae import LevelVAE, VAEConfig, load_variables
from rlgen.algos.ued.paired import Paired, TeacherConfig
from rlgen.algos.ued.sfl import SFL, SFLConfig, check_horizon
from rlgen.algos.ued.student import Student
from rlgen.config import RunConfig
from rlgen.errors import UserError
from rlgen.levels import LevelSet
from rlgen.networks import ActorCritic, NetworkConfig
from rlgen.runner import SEED_AXIS_NAME, resolve_seed_axis


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """Settings of a student and of how it plays the levels of a curriculum.

    Attributes:
      ppo, network, measured: see their classes.
      auto_reset: after an episode, "replay" its level or "resample" one of the batch.
      continue_episodes: episodes go on across updates (needs "resample").
      eval_episodes: episodes per held-out level in evaluations during training.
    """

    ppo: PPOConfig = PPOConfig()
    network: NetworkConfig = NetworkConfig()
    measured: DiagnosticsConfig = DiagnosticsConfig()
    auto_reset: str = "replay"
    continue_episodes: bool = False
    eval_episodes: int = 4

    def __post_init__(self):
        check_auto_reset(self.auto_reset, self.continue_episodes)
        if self.eval_episodes < 1:
            raise UserError(f"eval_episodes is {self.eval_episodes}: choose 1 or more.")


@dataclasses.dataclass(frozen=True)
class UEDConfig(StudentConfig):
    """Settings of an experiment with level replay.

    Attributes:
      replay: see its class.
    """

    replay: ReplayConfig = ReplayConfig()

    def __post_init__(self):
        super().__post_init__()
        check_batch_size(self.replay, self.ppo.n_envs)


@dataclasses.dataclass(frozen=True)
class UEDAlgorithm:
    """One registered algorithm: what it is, its settings, how to build it.

    Attributes:
      summary: one line for lists.
      source: the paper.
      settings: flat settings that make the algorithm what it is.
      presets: further flat settings, by the preset's name.
    """

    summary: str
    source: str
    settings: Mapping[str, Any]
    presets: Mapping[str, Mapping[str, Any]]

    @property
    def config(self) -> UEDConfig:
        """Settings before presets; what `settings` changes comes on top."""
        return UEDConfig()

    def generator(
        self, space: Any, dataset: LevelSet | None, config: Any
    ) -> LevelGenerator | None:
        """The model that invents levels, if the algorithm has one."""
        del space, dataset, config

    def build(self, run: RunConfig, env_config: Any, config: UEDConfig) -> UED:
        """The experiment of these settings."""
        space, dataset = env_config.make_space(), env_config.training_set()
        curriculum = LevelReplay(
            space=space,
            config=config.replay,
            n_levels=config.ppo.n_envs,
            total_updates=run.n_updates,
            dataset=dataset,
            generator=self.generator(space, dataset, config),
            seed_axis=_seed_axis(run),
        )
        return student_on(
            curriculum, run, env_config, config, config.replay.needs_oracle
        )


def _seed_axis(run: RunConfig) -> str | None:
    vmapped = resolve_seed_axis(run.seed_axis) == "vmap"
    return SEED_AXIS_NAME if vmapped else None


def student_on(
    curriculum: LevelDistribution,
    run: RunConfig,
    env_config: Any,
    config: StudentConfig,
    needs_oracle: bool = False,
) -> UED:
    """A student that learns from the levels of a curriculum."""
    env = env_config.make_env()
    return UED(
        env=env,
        space=env_config.make_space(),
        curriculum=curriculum,
        network=ActorCritic(env.observation_space, env.action_space, config.network),
        config=config.ppo,
        total_updates=run.n_updates,
        auto_reset=config.auto_reset,
        continue_episodes=config.continue_episodes,
        eval_sets=env_config.eval_sets(),
        eval_episodes=config.eval_episodes,
        needs_oracle=needs_oracle,
        reference=env_config.reference_set(),
        diagnostics=config.measured,
    )


@dataclasses.dataclass(frozen=True)
class SFLExperimentConfig(StudentConfig):
    """Settings of an experiment with SFL.

    Attributes:
      sfl: see its class.
    """

    sfl: SFLConfig = SFLConfig()


@dataclasses.dataclass(frozen=True)
class SFLAlgorithm(UEDAlgorithm):
    """The registered entry of SFL."""

    @property
    def config(self) -> Any:
        return SFLExperimentConfig()

    def build(self, run: RunConfig, env_config: Any, config: Any) -> UED:
        check_horizon(env_config.make_env(), config.ppo.n_steps)
        curriculum = SFL(
            space=env_config.make_space(),
            config=config.sfl,
            n_levels=config.ppo.n_envs,
            seed_axis=_seed_axis(run),
        )
        return student_on(curriculum, run, env_config, config)


@dataclasses.dataclass(frozen=True)
class PairedConfig(StudentConfig):
    """Settings of an experiment with a teacher.

    Attributes:
      teacher: see its class.
    """

    teacher: TeacherConfig = TeacherConfig()

    def __post_init__(self):
        super().__post_init__()
        if self.auto_reset != "replay":
            raise UserError("A teacher's levels are replayed: leave auto_reset out.")


@dataclasses.dataclass(frozen=True)
class RepairedConfig(PairedConfig):
    """Settings of an experiment with a teacher and level replay.

    Attributes:
      replay: see its class.
    """

    replay: ReplayConfig = ReplayConfig(train_on_new=False)

    def __post_init__(self):
        super().__post_init__()
        check_batch_size(self.replay, self.ppo.n_envs)
        if self.replay.edit_prob + self.replay.generate_prob > 0 or (
            self.replay.train_on_new or self.replay.uses_second
        ):
            raise UserError(
                "repaired scores the teacher's levels and trains on replayed ones: "
                "leave edit_prob, generate_prob, train_on_new and second_weight out."
            )
        if self.teacher.regret == "minimax":
            raise UserError(
                "repaired needs an antagonist, which regret=minimax has not: choose "
                "another regret."
            )


@dataclasses.dataclass(frozen=True)
class PairedAlgorithm(UEDAlgorithm):
    """A registered entry with a teacher.

    Attributes:
      replays: whether both students replay levels from buffers (REPAIRED).
    """

    replays: bool = False

    @property
    def config(self) -> Any:
        return RepairedConfig() if self.replays else PairedConfig()

    def build(self, run: RunConfig, env_config: Any, config: Any) -> UED:
        if env_config.dataset:
            raise UserError("A teacher builds its levels: leave dataset out.")
        env, space = env_config.make_env(), env_config.make_space()
        editor = env_config.make_editor(
            config.teacher.n_blocks, config.teacher.noise_size
        )
        replay = None
        if self.replays:
            replay = LevelReplay(
                space=space,
                config=config.replay,
                n_levels=config.ppo.n_envs,
                total_updates=run.n_updates,
                seed_axis=_seed_axis(run),
            )
        curriculum = Paired(
            space=space,
            config=config.teacher,
            teacher=Student(
                env=editor,
                network=ActorCritic(
                    editor.observation_space,
                    editor.action_space,
                    config.teacher.network,
                ),
                config=config.teacher.ppo(config.ppo),
                auto_reset="none",
            ),
            antagonist=Student(
                env=env,
                network=ActorCritic(
                    env.observation_space, env.action_space, config.network
                ),
                config=config.ppo,
            ),
            total_updates=run.n_updates,
            replay=replay,
        )
        needs_oracle = replay is not None and config.replay.needs_oracle
        return student_on(curriculum, run, env_config, config, needs_oracle)


@dataclasses.dataclass(frozen=True)
class GenerativeConfig(UEDConfig):
    """Settings of an algorithm with a model of levels.

    Attributes:
      vae, generator: see their classes.
    """

    vae: VAEConfig = VAEConfig()
    generator: GeneratorConfig = GeneratorConfig()


@dataclasses.dataclass(frozen=True)
class GenerativeAlgorithm(UEDAlgorithm):
    """An algorithm whose levels come from a model of the given ones."""

    @property
    def config(self) -> GenerativeConfig:
        return GenerativeConfig()

    def generator(self, space, dataset, config):
        if dataset is None:
            raise UserError(
                "A model of levels needs levels to learn from: give a dataset."
            )
        vae = LevelVAE(space, config.vae)
        path = config.generator.vae_file
        return InterpolatedLevels(
            vae,
            dataset,
            config.generator,
            load_variables(path, vae) if path else None,
        )


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

# The quick preset, less what is the methods' own: buffer and temperature.
_QUICK_ON_DATASET: dict[str, Any] = {
    name: value
    for name, value in _QUICK.items()
    if name not in ("buffer_size", "min_fill", "temperature", "solvable")
}

# The comparison of Garcin et al. 2024 for two CPU cores: the same student and as many
# student updates for every method; what differs is the method's own.
_DRED_CPU_UPDATES = 160
_DRED_CPU: dict[str, Any] = _QUICK_ON_DATASET | {
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
        "quick": _QUICK_ON_DATASET
        | {"n_updates": 320 * batches, "eval_every": 80 * batches},
        "paper": _DRED_PAPER | {"n_updates": 28_750 * batches},
        "dred-cpu": _sized(_DRED_CPU, batches, first),
        "dred-paper": _DRED_PAPER | {"n_updates": 28_750 * batches},
    }


DR = UEDAlgorithm(
    summary="domain randomisation: a new random level for every environment and update",
    source="Tobin et al. 2017",
    settings={"replay_prob": 0.0},
    presets={"quick": _QUICK, "paper": _PAPER},
)

PLR = UEDAlgorithm(
    summary="prioritised level replay: new levels and replayed ones both train",
    source="Jiang et al. 2021, Prioritized level replay",
    settings={"replay_prob": 0.5, "train_on_new": True},
    presets={"quick": _QUICK, "paper": _PAPER | _PAPER_REPLAY},
)

ROBUST_PLR = UEDAlgorithm(
    summary="robust PLR: only replayed levels train, new ones are scored",
    source="Jiang et al. 2021, Replay-guided adversarial environment design",
    settings={"replay_prob": 0.5, "train_on_new": False},
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
    presets=_presets(1, 0),
)

PLR_D = UEDAlgorithm(
    summary="PLR on a given set of levels",
    source="Jiang et al. 2021, as run by Garcin et al. 2024",
    settings=_ON_DATASET,
    presets=_presets(1, 8),
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
    presets=_presets(2, 8),
)

EL_DRED = UEDAlgorithm(
    summary="DRED with edited levels in place of generated ones",
    source="Garcin et al. 2024",
    settings=_DRED | {"edit_prob": 1.0},
    presets=_presets(2, 8),
)

VAE_DRED = GenerativeAlgorithm(
    summary="DRED: levels from a model of a given set, mixed with that set",
    source="Garcin et al. 2024",
    settings=_DRED | {"generate_prob": 1.0},
    presets=_presets(2, 8),
)

# Rutherford et al. 2024, minigrid: 256 x 256 steps, Adam 2.5e-4 annealed, gamma 0.99,
# lambda 0.95, clip 0.04, 4 epochs of 4 minibatches; 25,000 levels of 2,000 steps (98
# batches here, of 256 steps), 1,000 kept, 100 updates between.
_SFL_PAPER: dict[str, Any] = _PAPER | {
    "n_updates": 9_000,
    "n_envs": 256,
    "n_epochs": 4,
    "n_minibatches": 4,
    "lr": 2.5e-4,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "clip": 0.04,
    "entropy_coef": 0.0,
    "scoring_batches": 98,
    "training_batches": 100,
    "n_kept": 1000,
}

SFL_ALGORITHM = SFLAlgorithm(
    summary="SFL: random levels are scored, the most learnable ones trained on",
    source="Rutherford et al. 2024",
    settings={},
    presets={
        "quick": _QUICK_ON_DATASET
        | {"n_updates": 450, "eval_every": 90, "solvable": True},
        "paper": _SFL_PAPER,
    },
)

# The quick preset without level replay, for levels that a teacher builds.
_QUICK_TEACHER: dict[str, Any] = _QUICK_ON_DATASET | {
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
    presets={
        "quick": _QUICK_TEACHER
        | {"buffer_size": 1000, "min_fill": 0.2, "temperature": 1.0},
        "paper": _PAIRED_PAPER | _PAPER_REPLAY | {"replay_prob": 0.95},
    },
    replays=True,
)
