"""PAIRED and REPAIRED: what is paid, who learns, and what a teacher can find."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen import training
from rlgen.algos.student import Student
from rlgen.algos.ued import paired
from rlgen.algos.ued.curriculum import GENERATED_LEVELS, REPLAYED
from rlgen.algos.ued.paired import REGRETS, Earned
from rlgen.algos.ued.scores import Feedback
from rlgen.envs.grid import paths
from rlgen.errors import UserError

TINY = {
    "height": 4,
    "width": 4,
    "n_blocks": 3,
    "noise_size": 4,
    "n_envs": 8,
    "n_steps": 32,
    "max_steps": 16,
    "n_epochs": 2,
    "torso": "mlp",
    "channels": 8,
    "core": "gru",
    "core_size": 8,
    "teacher_channels": 8,
    "teacher_core": "none",
    "n_heldout": 4,
    "n_updates": 10,
    "anneal_lr": False,
}


def experiment(algorithm="paired", env="maze", **settings):
    sizes = {"maze": {"max_walls": 8}, "cave": {"max_blocks": 8}}[env]
    settings = TINY | sizes | settings
    return training.make_config(algorithm, env, settings=settings).build()


def rows(*values):
    return jnp.array(values, jnp.float32)


PRO = Earned(mean=rows(0.2, 0.6, 0.0), best=rows(0.5, 0.9, 0.0))
ANT = Earned(mean=rows(0.7, 0.1, 0.0), best=rows(0.8, 0.3, 0.0))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clipped", [0.6, 0.0, 0.0]),
        ("unclipped", [0.6, -0.3, 0.0]),
        ("mean", [0.5, -0.5, 0.0]),
        # The antagonist is better on the first level, the protagonist on the second.
        ("flexible", [0.6, 0.8, 0.0]),
        ("population", [0.8 - 0.45, 0.9 - 0.35, 0.0]),
        ("minimax", [-0.2, -0.6, 0.0]),
    ],
)
def test_regrets_by_hand(name, expected):
    np.testing.assert_allclose(REGRETS[name](PRO, ANT), expected, atol=1e-6)


def test_levels_without_a_finished_episode_earned_nothing():
    feedback = Feedback(
        score=rows(1.0, 1.0),
        score2=rows(0.0, 0.4),
        max_return=rows(-np.inf, 0.7),
        n_episodes=jnp.array([0, 2]),
        n_success=jnp.array([0, 1]),
    )
    earned = paired.earned(feedback)
    np.testing.assert_allclose(earned.mean, [0.0, 0.4])
    np.testing.assert_allclose(earned.best, [0.0, 0.7])


def test_regret_is_paid_on_the_last_step_and_discounted_back():
    """Against the closed form: with values of zero and lambda 1, A_t = g^(T-1-t) R."""
    built = experiment(discount=0.9, gae_lambda=1.0)
    curriculum = built.curriculum
    state = jax.jit(curriculum.init)(jax.random.key(0))
    sample = jax.jit(curriculum.sample, static_argnums=3)
    _, draw = sample(state, jax.random.key(1), jax.random.key(2), 8)
    play = draw.memo.building
    assert np.all(play.trajectory.terminated[-1])
    assert not np.any(play.trajectory.terminated[:-1])
    play = play.replace(
        trajectory=play.trajectory.replace(value=jnp.zeros_like(play.trajectory.value))
    )
    regret = jnp.arange(8, dtype=jnp.float32)
    reward = jnp.zeros_like(play.trajectory.reward).at[-1].set(regret)
    hyper, _ = curriculum._hyper
    paid = jax.jit(
        lambda play, reward, teacher: play.with_reward(
            reward, curriculum.teacher, teacher, hyper
        )
    )(play, reward, state.teacher)
    n_steps = TINY["n_blocks"] + 2
    powers = 0.9 ** (n_steps - 1 - np.arange(n_steps))
    np.testing.assert_allclose(
        paid.targets.advantage, powers[:, None] * np.asarray(regret), rtol=1e-5
    )


def test_every_agent_learns_and_steps_of_both_students_count():
    built = experiment(teacher_anneal_lr=True)
    state = jax.jit(built.init)(jax.random.key(0))
    update = jax.jit(built.update)
    after, metrics = update(state)
    before = state.curriculum
    for old, new in [
        (state.learner, after.learner),
        (before.teacher, after.curriculum.teacher),
        (before.antagonist, after.curriculum.antagonist),
    ]:
        changed = [
            np.any(np.asarray(a) != np.asarray(b))
            for a, b in zip(
                jax.tree.leaves(old.params), jax.tree.leaves(new.params), strict=True
            )
        ]
        assert np.mean(changed) > 0.5
    assert built.env_steps_per_update == 2 * 8 * 32
    assert metrics["finite"] == 1 and metrics["role"] == GENERATED_LEVELS
    # At the end of training the teacher's annealed rate is 0, the antagonist's is not.
    end = state.replace(curriculum=before.replace(clock=jnp.int32(10)))
    last = update(end)[0].curriculum
    chex.assert_trees_all_equal(last.teacher.params, before.teacher.params)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(last.antagonist.params, before.antagonist.params)


class TellsItsRate(Student):
    """Learns nothing: its loss is the factor on its learning rate."""

    def learn(self, learner, hyper, play, key, lr_scale, trains):
        return learner, {name: jnp.float32(lr_scale) for name in self.rule.metrics}


def test_the_antagonists_rate_falls_as_the_students_does_and_the_teachers_stays():
    curriculum = experiment(anneal_lr=True).curriculum
    told = dataclasses.replace(
        curriculum,
        antagonist=TellsItsRate(**vars(curriculum.antagonist)),
        teacher=TellsItsRate(**vars(curriculum.teacher)),
    )
    state, key = jax.jit(told.init)(jax.random.key(0)), jax.random.key(1)
    sample = jax.jit(told.sample, static_argnums=3)
    zeros, none = jnp.zeros(8), jnp.zeros(8, jnp.int32)
    feedback = Feedback(zeros, zeros, zeros, none, none)
    update = jax.jit(told.update)
    for done in (0, 4, 9):
        begun, draw = sample(state.replace(clock=jnp.int32(done)), key, key, 8)
        _, metrics = update(begun, key, draw, feedback)
        assert float(metrics["antagonist_loss"]) == pytest.approx(1.0 - done / 10)
        assert float(metrics["teacher_loss"]) == 1.0


def test_minimax_has_no_antagonist():
    built = experiment(regret="minimax")
    state = jax.jit(built.init)(jax.random.key(0))
    assert state.curriculum.antagonist is None
    assert built.env_steps_per_update == 8 * 32
    _, metrics = jax.jit(built.update)(state)
    np.testing.assert_allclose(
        metrics["regret"], -np.nan_to_num(float(metrics["train_return"])), atol=0.2
    )


def test_a_teacher_that_breaks_down_is_noticed():
    built = experiment()
    state = jax.jit(built.init)(jax.random.key(0))
    broken = jax.tree.map(lambda x: x * jnp.nan, state.curriculum.teacher.params)
    teacher = state.curriculum.teacher.replace(params=broken)
    state = state.replace(curriculum=state.curriculum.replace(teacher=teacher))
    _, metrics = jax.jit(built.update)(state)
    assert metrics["finite"] == 0


def test_repaired_trains_students_on_replay_and_the_teacher_on_new_levels():
    built = experiment(
        "repaired", buffer_size=8, min_fill=0.1, replay_prob=0.5, score="l1"
    )
    state = jax.jit(built.init)(jax.random.key(0))
    update = jax.jit(built.update)
    roles = []
    for _ in range(12):
        after, metrics = update(state)
        role = int(metrics["role"])
        roles.append(role)

        def count(x):
            c = x.curriculum
            return [int(x.learner.n_updates), int(c.antagonist.n_updates)], int(
                c.teacher.n_updates
            )

        (students, teacher), (students_before, teacher_before) = (
            count(after),
            count(state),
        )
        replays = role == REPLAYED
        assert students == [n + replays for n in students_before]
        assert teacher == teacher_before + (not replays)
        state = after
    assert set(roles) == {REPLAYED, GENERATED_LEVELS}
    one, other = state.curriculum.buffers
    assert one.buffer.size > 0 and other.buffer.size > 0
    assert one.clock == other.clock == 12
    # Each buffer holds what its own student found: they disagree on scores.
    assert np.any(np.asarray(one.buffer.score) != np.asarray(other.buffer.score))


def test_repaired_under_vmap_decides_once_for_all_seeds():
    built = experiment("repaired", buffer_size=8, min_fill=0.1, seed_axis="vmap")
    from rlgen import programs

    states = jax.jit(programs.over_seeds(built.init, "vmap"))(
        jax.random.split(jax.random.key(0), 2)
    )
    update = jax.jit(programs.over_seeds(built.update, "vmap"))
    for _ in range(4):
        states, metrics = update(states)
        assert metrics["role"][0] == metrics["role"][1]


def test_the_teacher_finds_what_it_is_paid_for():
    """A probe with a known answer: paid for long ways, it puts both ends in corners."""
    built = experiment(
        n_envs=64,
        n_blocks=4,
        teacher_lr=1e-2,
        teacher_entropy_coef=0.0,
        discount=1.0,
    )
    curriculum = built.curriculum
    state = jax.jit(curriculum.init)(jax.random.key(0))

    @jax.jit
    def round_(teacher, key):
        key_build, key_learn = jax.random.split(key)
        batch, play = curriculum._build(state.replace(teacher=teacher), key_build)
        length = jax.vmap(paths.path_length)(
            batch.levels.walls, batch.levels.start, batch.levels.goal
        ).astype(jnp.float32)
        teacher, _ = curriculum._teach(
            state.replace(teacher=teacher), play, length, key_learn, jnp.bool_(True)
        )
        return teacher, length.mean()

    _, lengths = jax.lax.scan(
        round_, state.teacher, jax.random.split(jax.random.key(3), 150)
    )
    # Random goals and starts of 4x4 cells are under 3 moves apart; corners are 6.
    assert lengths[:5].mean() < 3.2
    assert lengths[-5:].mean() > 4.5


def test_caves_too():
    built = experiment("paired", "cave")
    _, metrics = jax.jit(built.update)(jax.jit(built.init)(jax.random.key(0)))
    assert metrics["finite"] == 1
    assert metrics["level_n_lava"] > 0


@pytest.mark.parametrize(
    ("algorithm", "env", "settings", "complaint"),
    [
        ("paired", "maze", {"regret": "median"}, "choose clipped"),
        ("paired", "maze", {"auto_reset": "resample"}, "leave auto_reset out"),
        ("repaired", "maze", {"regret": "minimax"}, "needs an antagonist"),
        ("repaired", "maze", {"edit_prob": 0.5}, "leave edit_prob"),
        ("repaired", "maze", {"replay_prob": 0.0}, "nothing is ever learned"),
        ("paired", "cave", {"dataset": "train"}, "leave dataset out"),
    ],
)
def test_what_does_not_go_together_is_refused(algorithm, env, settings, complaint):
    with pytest.raises(UserError, match=complaint):
        training.make_config(algorithm, env, settings=settings).build()
