"""How the settings of environment design become an experiment, one class a family."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from rlgen.algos.ppo import PPOConfig
from rlgen.algos.rules import ActorCriticRule
from rlgen.algos.student import Student
from rlgen.algos.ued.curriculum import LevelDistribution, LevelGenerator, Setting
from rlgen.algos.ued.diagnostics import DiagnosticsConfig
from rlgen.algos.ued.experiment import UED, check_auto_reset
from rlgen.algos.ued.level_generator import (
    GeneratorConfig,
    InterpolatedLevels,
    levels_to_learn_from,
)
from rlgen.algos.ued.level_replay import (
    LevelReplay,
    ReplayConfig,
    check_batch_size,
    warn_of_few_episodes,
)
from rlgen.algos.ued.level_vae import LevelVAE, VAEConfig, load_variables
from rlgen.algos.ued.paired import Paired, TeacherConfig
from rlgen.algos.ued.scores import NEEDS_ANTAGONIST
from rlgen.config import RunConfig
from rlgen.errors import UserError
from rlgen.experiment import Algorithm
from rlgen.levels import LevelSet
from rlgen.networks import NetworkConfig, make_network
from rlgen.programs import seed_axis_name
from rlgen.ranges import Count, Settings


@dataclasses.dataclass(frozen=True)
class StudentConfig(Settings):
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
    eval_episodes: Count = 4

    def __post_init__(self):
        super().__post_init__()
        check_auto_reset(self.auto_reset, self.continue_episodes)


@dataclasses.dataclass(frozen=True)
class UEDConfig(StudentConfig):
    """Settings of an experiment with level replay.

    Attributes:
      replay: see its class.
      levels_per_env: new levels for each environment and batch; an episode that ends
        is followed by one on any of the batch's. More than 1 needs
        auto_reset=resample, and replay_prob=0: what is replayed is scored level by
        level.
    """

    replay: ReplayConfig = ReplayConfig()
    levels_per_env: Count = 1

    def __post_init__(self):
        super().__post_init__()
        check_auto_reset(self.auto_reset, self.continue_episodes, self.levels_per_env)
        if self.levels_per_env > 1 and self.replay.replay_prob > 0:
            raise UserError(
                "levels_per_env above 1 is for levels that nothing remembers: choose "
                "the algorithm dr, or levels_per_env=1."
            )
        check_batch_size(self.replay, self.ppo.n_envs)
        unknown = {self.replay.score, self.replay.second_score} & NEEDS_ANTAGONIST
        if unknown:
            raise UserError(
                f"The score {unknown.pop()} compares update rules: choose another "
                "score, or train a rule with `rlgen train groove`."
            )


@dataclasses.dataclass(frozen=True)
class UEDAlgorithm(Algorithm):
    """A student whose levels come from level replay."""

    @property
    def config(self) -> UEDConfig:
        return UEDConfig()

    def generator(
        self, space: Any, dataset: LevelSet | None, config: Any
    ) -> LevelGenerator | None:
        """The model that invents levels, if the algorithm has one."""
        del space, dataset, config

    def build(self, run: RunConfig, env_config: Any, config: Any) -> UED:
        space, dataset = env_config.make_space(), env_config.training_set()
        n_steps = config.ppo.n_steps
        warn_of_few_episodes(config.replay, env_config.make_env(), n_steps)
        curriculum = LevelReplay(
            space=space,
            config=config.replay,
            n_levels=config.ppo.n_envs * config.levels_per_env,
            total_updates=run.n_updates,
            dataset=dataset,
            generator=self.generator(space, dataset, config),
            seed_axis=seed_axis_name(run),
        )
        return student_on(
            curriculum,
            run,
            env_config,
            config,
            config.replay.needs_oracle,
            config.levels_per_env,
        )


def student_on(
    curriculum: LevelDistribution,
    run: RunConfig,
    env_config: Any,
    config: StudentConfig,
    needs_oracle: bool = False,
    levels_per_env: int = 1,
) -> UED:
    """A student that learns from the levels of a curriculum."""
    env = env_config.make_env()
    return UED(
        env=env,
        space=env_config.make_space(),
        curriculum=curriculum,
        network=make_network(env.observation_space, env.action_space, config.network),
        config=config.ppo,
        total_updates=run.n_updates,
        auto_reset=config.auto_reset,
        continue_episodes=config.continue_episodes,
        levels_per_env=levels_per_env,
        eval_sets=env_config.eval_sets(),
        eval_episodes=config.eval_episodes,
        needs_oracle=needs_oracle,
        reference=env_config.reference_set(),
        diagnostics=config.measured,
    )


@dataclasses.dataclass(frozen=True)
class NoSettings(Settings):
    """Settings of a curriculum that has none."""


@dataclasses.dataclass(frozen=True)
class CurriculumConfig(StudentConfig):
    """Settings of an experiment with a curriculum of any kind.

    Attributes:
      curriculum: a frozen dataclass of the curriculum's own settings.
    """

    curriculum: Any = NoSettings()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurriculumAlgorithm(Algorithm):
    """A student whose levels come from a curriculum: one class for all of them.

    Attributes:
      make: from what it is made for, and its settings, to the curriculum.
      options: a frozen dataclass of its settings; no name of another setting of the
        run may be used again.
    """

    make: Callable[[Setting, Any], LevelDistribution]
    options: Any = NoSettings()

    @property
    def config(self) -> CurriculumConfig:
        return CurriculumConfig(curriculum=self.options)

    def build(self, run: RunConfig, env_config: Any, config: Any) -> UED:
        setting = Setting(
            env=env_config.make_env(),
            space=env_config.make_space(),
            n_levels=config.ppo.n_envs,
            n_steps=config.ppo.n_steps,
            total_updates=run.n_updates,
            seed_axis=seed_axis_name(run),
        )
        curriculum = self.make(setting, config.curriculum)
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
class PairedAlgorithm(Algorithm):
    """A student whose levels a teacher builds.

    Attributes:
      replays: whether both students replay levels from buffers (REPAIRED).
    """

    replays: bool = False

    @property
    def config(self) -> PairedConfig:
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
            warn_of_few_episodes(config.replay, env, config.ppo.n_steps)
            replay = LevelReplay(
                space=space,
                config=config.replay,
                n_levels=config.ppo.n_envs,
                total_updates=run.n_updates,
                seed_axis=seed_axis_name(run),
            )
        curriculum = Paired(
            space=space,
            config=config.teacher,
            teacher=Student.create(
                editor,
                config.teacher.network,
                ActorCriticRule(config.teacher.ppo(config.ppo)),
                auto_reset="none",
            ),
            antagonist=Student.create(env, config.network, ActorCriticRule(config.ppo)),
            total_updates=run.n_updates,
            replay=replay,
            seed_axis=seed_axis_name(run),
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
        vae = LevelVAE(space, config.vae)
        path = config.generator.vae_file
        return InterpolatedLevels(
            vae,
            levels_to_learn_from(dataset),
            config.generator,
            load_variables(path, vae) if path else None,
        )
