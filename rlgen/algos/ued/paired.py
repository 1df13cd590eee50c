"""PAIRED and REPAIRED: a teacher that builds levels, paid by regret.

Regret is what an antagonist earns on a level beyond the protagonist (Dennis et al.
2020). In REPAIRED (Jiang et al. 2021, Replay-guided adversarial environment design)
both students learn only from levels replayed out of buffers of their own, and the
teacher's new levels are scored. The order of one update, of one batch of levels: the
teacher builds, the protagonist plays, the antagonist plays, antagonist and teacher
learn, the protagonist learns.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rlgen.algos import ppo
from rlgen.algos.student import Play, Student
from rlgen.algos.ued import scores
from rlgen.algos.ued.buffer import GENERATED, LevelBatch, first_of_each
from rlgen.algos.ued.curriculum import (
    GENERATED_LEVELS,
    REPLAYED,
    Draw,
    LevelDistribution,
    batch_metrics,
    fresh_batch,
)
from rlgen.algos.ued.level_replay import LevelReplay
from rlgen.env import Editor
from rlgen.errors import UserError
from rlgen.experiment import all_finite
from rlgen.levels import LevelSpace
from rlgen.networks import NetworkConfig
from rlgen.ranges import Count, CountOrZero, PositiveOrZero, Settings

PyTree = Any


class Earned(struct.PyTreeNode):
    """Returns of one student on L levels; 0 where no episode finished."""

    mean: jax.Array  # (L,) float32
    best: jax.Array  # (L,) float32


def _flexible(pro: Earned, ant: Earned) -> jax.Array:
    return jnp.where(ant.best >= pro.best, ant.best - pro.mean, pro.best - ant.mean)


# clipped: dcd's and minimax's PAIRED; unclipped: Dennis et al. 2020; mean: minimax's
# mean relative regret; flexible: whoever did better is the antagonist of that level;
# population: over all students; minimax: the teacher is paid for failure alone.
REGRETS = {
    "clipped": lambda pro, ant: jnp.maximum(ant.best - pro.mean, 0.0),
    "unclipped": lambda pro, ant: ant.best - pro.mean,
    "mean": lambda pro, ant: ant.mean - pro.mean,
    "flexible": _flexible,
    "population": lambda pro, ant: (
        jnp.maximum(pro.best, ant.best) - 0.5 * (pro.mean + ant.mean)
    ),
    "minimax": lambda pro, ant: -pro.mean,
}


@dataclasses.dataclass(frozen=True)
class TeacherConfig(Settings):
    """The teacher, and what it is paid for.

    Attributes:
      regret: "clipped" (best return of the antagonist less the protagonist's mean, at
        least 0), "unclipped", "mean" (means of both), "flexible" (whoever had the
        better return on a level is its antagonist), "population" (best of all less
        mean of all), or "minimax" (less the protagonist's mean; no antagonist).
      n_blocks: blocks that the teacher places, after goal and start.
      noise_size: random numbers that the teacher sees in an episode.
      teacher_lr, teacher_anneal_lr, teacher_entropy_coef, teacher_epochs: of its
        PPO; discount, lambda and clip are the students'.
      teacher_channels, teacher_core, teacher_core_size: its network.
    """

    regret: str = "clipped"
    n_blocks: CountOrZero = 50
    noise_size: Count = 50
    teacher_lr: PositiveOrZero = 1e-4
    teacher_anneal_lr: bool = False
    teacher_entropy_coef: PositiveOrZero = 5e-2
    teacher_epochs: Count = 5
    teacher_channels: Count = 128
    teacher_core: str = "lstm"
    teacher_core_size: Count = 256

    def __post_init__(self):
        super().__post_init__()
        if self.regret not in REGRETS:
            raise UserError(
                f"Unknown regret {self.regret!r}: choose {', '.join(REGRETS)}."
            )
        _ = self.network  # checks the rest

    @property
    def network(self) -> NetworkConfig:
        """The teacher's network."""
        return NetworkConfig(
            torso="conv",
            channels=self.teacher_channels,
            core=self.teacher_core,
            core_size=self.teacher_core_size,
        )

    def ppo(self, students: ppo.PPOConfig) -> ppo.PPOConfig:
        """The teacher's PPO: one episode of each environment per rollout."""
        return dataclasses.replace(
            students,
            n_steps=self.n_blocks + 2,
            n_epochs=self.teacher_epochs,
            n_minibatches=1,
            lr=self.teacher_lr,
            anneal_lr=self.teacher_anneal_lr,
            entropy_coef=self.teacher_entropy_coef,
            time_limit="terminate",
        )


class PairedState(struct.PyTreeNode):
    """Teacher and antagonist, and in REPAIRED both students' buffers."""

    teacher: ppo.Learner
    antagonist: Any  # its learner, or None
    buffers: Any  # ReplayState of protagonist and of antagonist, or None
    clock: jax.Array  # () int32, batches


class Memo(struct.PyTreeNode):
    """What `update` must know of the draw."""

    building: Play  # the teacher's episodes; empty where levels were replayed
    batch: LevelBatch  # what the antagonist plays


@dataclasses.dataclass(frozen=True)
class Paired(LevelDistribution[PairedState]):
    """Levels from a teacher; in REPAIRED also replayed ones.

    Attributes:
      space: describes and hashes levels.
      config: see `TeacherConfig`.
      teacher: the agent that builds, in an `Editor`.
      antagonist: the other student, set up like the protagonist.
      total_updates: batches of the whole training, for annealing.
      replay: how REPAIRED replays; None for PAIRED.
      seed_axis: name of the vmapped axis of seeds, if there is one.
    """

    space: LevelSpace
    config: TeacherConfig
    teacher: Student
    antagonist: Student
    total_updates: int
    replay: LevelReplay | None = None
    seed_axis: str | None = None

    @property
    def _editor(self) -> Editor:
        assert isinstance(self.teacher.env, Editor)
        return self.teacher.env

    @property
    def _has_antagonist(self) -> bool:
        return self.config.regret != "minimax"

    @property
    def _hyper(self) -> tuple[ppo.Hyperparameters, ppo.Hyperparameters]:
        """Of teacher and antagonist."""
        return (
            ppo.Hyperparameters.from_config(self.teacher.config),
            ppo.Hyperparameters.from_config(self.antagonist.config),
        )

    @property
    def scores(self) -> tuple[str, str]:
        first = "l1" if self.replay is None else self.replay.config.score
        return first, "mean_return"

    @property
    def env_steps_per_update(self) -> int:
        config = self.antagonist.config
        return config.n_envs * config.n_steps if self._has_antagonist else 0

    def init(self, key: jax.Array) -> PairedState:
        key_teacher, key_antagonist, key_one, key_other = jax.random.split(key, 4)
        hyper_teacher, hyper = self._hyper
        replay = self.replay
        return PairedState(
            teacher=self.teacher.init(key_teacher, hyper_teacher),
            antagonist=self.antagonist.init(key_antagonist, hyper)
            if self._has_antagonist
            else None,
            buffers=None
            if replay is None
            else (replay.init(key_one), replay.init(key_other)),
            clock=jnp.int32(0),
        )

    def sample(self, state, key, shared_key, n):
        assert n == self.teacher.config.n_envs, "the teacher builds another number"
        state = state.replace(clock=state.clock + 1)
        if self.replay is None:
            batch, building = self._build(state, key)
            return state, Draw(
                batch=batch,
                role=jnp.int32(GENERATED_LEVELS),
                trains=jnp.bool_(True),
                memo=Memo(building=building, batch=batch),
            )
        replay, buffers = self.replay, state.buffers
        # One decision for both students, by the emptier of their buffers.
        roles = [replay.next_role(buffer, shared_key) for buffer in buffers]
        replays = (roles[0] == REPLAYED) & (roles[1] == REPLAYED)
        role = jnp.where(replays, REPLAYED, GENERATED_LEVELS).astype(jnp.int32)

        def built():
            batch, building = self._build(state, key)
            return batch, batch, building

        def replayed():
            keys = jax.random.split(key)
            batches = [
                replay.replayed_levels(b, k) for b, k in zip(buffers, keys, strict=True)
            ]
            shapes = jax.eval_shape(lambda: self._build(state, key)[1])
            nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            return batches[0], batches[1], nothing

        batch, other, building = jax.lax.cond(replays, replayed, built)
        state = state.replace(
            buffers=(
                replay.played(buffers[0], batch, role),
                replay.played(buffers[1], other, role),
            )
        )
        return state, Draw(
            batch=batch,
            role=role,
            trains=replays,
            memo=Memo(building=building, batch=other),
        )

    def _build(self, state: PairedState, key: jax.Array) -> tuple[LevelBatch, Play]:
        """The teacher builds one level in each of its environments."""
        key_start, key_play, key_finish = jax.random.split(key, 3)
        start = self.teacher.start(key_start, None)
        play = self.teacher.play(state.teacher, self._hyper[0], key_play, None, start)
        levels = jax.vmap(self._editor.finish)(
            jax.random.split(key_finish, self.teacher.config.n_envs),
            play.end.env_state,
        )
        return fresh_batch(self.space, levels, GENERATED), play

    def best_returns(self, state, batch):
        if self.replay is None:
            return super().best_returns(state, batch)
        return self.replay.best_returns(state.buffers[0], batch)

    def update(self, state, key, draw, feedback):
        key_play, key_learn, key_teacher, key_record = jax.random.split(key, 4)
        memo: Memo = draw.memo
        metrics = batch_metrics(draw, feedback)
        antagonist, other = state.antagonist, feedback
        if self._has_antagonist:
            play, other = self._antagonise(state, memo.batch, key_play)
            antagonist, learned = self.antagonist.learn(
                antagonist,
                self._hyper[1],
                play,
                key_learn,
                self._lr_scale(self.antagonist, state),
                draw.trains,
            )
            metrics["antagonist_return"] = jnp.mean(other.score2)
            metrics["antagonist_loss"] = learned["loss"]
        is_built = draw.role == GENERATED_LEVELS
        regret = REGRETS[self.config.regret](earned(feedback), earned(other))
        teacher, learned = self._teach(
            state, memo.building, regret, key_teacher, is_built
        )
        metrics["regret"] = jnp.where(is_built, jnp.mean(regret), jnp.nan)
        metrics["teacher_loss"] = learned["loss"]
        metrics["teacher_entropy"] = learned["entropy"]
        metrics["finite"] = all_finite((teacher.params, antagonist))
        state = state.replace(teacher=teacher, antagonist=antagonist)
        if self.replay is not None:
            buffers = state.buffers
            keys = jax.random.split(key_record)
            first, recorded = self.replay.update(buffers[0], keys[0], draw, feedback)
            second, _ = self.replay.update(
                buffers[1], keys[1], draw.replace(batch=memo.batch), other
            )
            metrics["acceptance"] = recorded["acceptance"]
            state = state.replace(buffers=(first, second))
        return state, metrics

    def _antagonise(
        self, state: PairedState, batch: LevelBatch, key: jax.Array
    ) -> tuple[Play, scores.Feedback]:
        key_start, key_play = jax.random.split(key)
        student, n_levels = self.antagonist, batch.hash.shape[0]
        start = student.start(key_start, batch.levels)
        play = student.play(
            state.antagonist, self._hyper[1], key_play, batch.levels, start
        )
        best = jnp.full(n_levels, -jnp.inf)
        if self.replay is not None:
            best = self.replay.best_returns(state.buffers[1], batch)
        optimal = None
        if self.scores[0] in scores.NEEDS_ORACLE:
            optimal = jax.vmap(student.env.optimal_return)(batch.levels)
        feedback = scores.score(
            self.scores,
            play.trajectory,
            play.targets.advantage,
            jnp.broadcast_to(
                jnp.arange(n_levels, dtype=jnp.int32), play.trajectory.reward.shape
            ),
            first_of_each(batch.hash),
            best,
            optimal,
        )
        return play, feedback

    def _lr_scale(self, student: Student, state: PairedState) -> jax.Array | float:
        if not student.config.anneal_lr:
            return 1.0
        return 1.0 - (state.clock - 1) / self.total_updates

    def _teach(self, state: PairedState, building: Play, regret, key, is_built):
        """The teacher learns from its episodes; the last step of each earns regret."""
        teacher, hyper = state.teacher, self._hyper[0]
        reward = jnp.zeros_like(building.trajectory.reward).at[-1].set(regret)
        paid = building.with_reward(reward, self.teacher, teacher, hyper)
        lr_scale = self._lr_scale(self.teacher, state)
        return self.teacher.learn(teacher, hyper, paid, key, lr_scale, is_built)

    def metrics(self, state, key):
        if self.replay is None:
            return {}
        return self.replay.metrics(state.buffers[0], key)

    def replayed(self, state, key):
        """In PAIRED, which remembers no levels: what the teacher would build now."""
        if self.replay is not None:
            return self.replay.replayed(state.buffers[0], key)
        batch, _ = self._build(state, key)
        n_levels = batch.hash.shape[0]
        return batch.levels, jnp.full(n_levels, 1.0 / n_levels), jnp.zeros(n_levels)


def earned(feedback: scores.Feedback) -> Earned:
    """Returns from feedback whose second score is `mean_return`."""
    is_played = feedback.n_episodes > 0
    return Earned(
        mean=jnp.where(is_played, feedback.score2, 0.0),
        best=jnp.where(is_played, feedback.max_return, 0.0),
    )
