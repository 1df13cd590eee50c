"""SFL: turns of scoring and training, the most learnable kept, honest horizons."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen import training
from rlgen.algos.ued.curriculum import NEW_LEVELS, REPLAYED
from rlgen.algos.ued.scores import Feedback
from rlgen.algos.ued.sfl import SFL, SFLConfig
from rlgen.envs.maze.levels import UniformWalls
from rlgen.errors import UserError
from rlgen.evaluation import zero_shot
from rlgen.levels import hash_text, split_of

SPACE = UniformWalls(5, 5, max_walls=8)
L = 8
CONFIG = SFLConfig(scoring_batches=3, training_batches=4, n_kept=5, kept_share=0.5)


#: Finished episodes of every level and rollout.
N = 2000


def solved(hashes):
    """Of N episodes, as a level's hash decides: all of them for a third of levels."""
    return jnp.where(hashes[:, 1] % 3 == 0, N, hashes[:, 0] % 1000).astype(jnp.int32)


def learnability(hashes):
    """What these counts amount to, in exact numbers."""
    p = np.asarray(solved(hashes), np.float64) / N
    return p * (1 - p)


def feedback_of(n_episodes, n_success):
    """Rollouts that finished so many episodes; SFL looks at nothing else."""
    nothing = jnp.full(L, jnp.nan)
    return Feedback(nothing, nothing, jnp.ones(L), n_episodes, n_success)


def play(n_batches, config=CONFIG, n_rollouts=1):
    sfl = SFL(SPACE, config, L, n_rollouts)
    state = jax.jit(sfl.init)(jax.random.key(0))
    sample, update = jax.jit(sfl.sample, static_argnums=3), jax.jit(sfl.update)
    for i in range(n_batches):
        key = jax.random.key(i)
        state, draw = sample(state, key, key, L)
        feedback = feedback_of(jnp.full(L, N), solved(draw.batch.hash))
        state, metrics = update(state, key, draw, feedback)
        yield jax.device_get((state, draw, metrics))


def test_turns_score_then_train():
    batches = list(play(14))
    roles = [int(draw.role) for _, draw, _ in batches]
    assert roles == 2 * (3 * [NEW_LEVELS] + 4 * [REPLAYED])
    trains = [bool(draw.trains) for _, draw, _ in batches]
    assert trains == [role == REPLAYED for role in roles]


def test_the_most_learnable_of_a_turn_are_kept_and_half_of_each_batch():
    batches = list(play(14))
    for turn in (0, 7):
        scored = {}
        for _, draw, _ in batches[turn : turn + 3]:
            for level_hash, score in zip(
                draw.batch.hash, learnability(draw.batch.hash), strict=True
            ):
                scored[hash_text(level_hash)] = float(score)
        best = sorted(scored, key=scored.get, reverse=True)[:5]
        assert all(scored[name] > 0 for name in best)
        kept_batch = batches[turn + 6][0].buffer.batch
        assert {hash_text(h) for h in kept_batch.hash} == set(best)
        for _, draw, _ in batches[turn + 3 : turn + 7]:
            names = [hash_text(h) for h in draw.batch.hash]
            assert set(names[:4]) <= set(best)
            assert not set(names[4:]) & set(best)
    hashes = np.concatenate([draw.batch.hash for _, draw, _ in batches])
    assert (np.asarray(split_of(jnp.asarray(hashes))) == 0).all()


def test_levels_that_cannot_be_learned_are_not_kept():
    """Levels without an end, and those that are always or never solved."""
    sfl = SFL(SPACE, CONFIG, L, 1)
    state = jax.jit(sfl.init)(jax.random.key(0))
    state, draw = sfl.sample(state, jax.random.key(0), jax.random.key(0), L)
    n_episodes = jnp.array([10, 10, 0, 0, 7, 49, 10, 2], jnp.int32)
    n_success = jnp.array([8, 0, 0, 0, 7, 49, 0, 1], jnp.int32)
    feedback = feedback_of(n_episodes, n_success)
    state, _ = sfl.update(state, jax.random.key(0), draw, feedback)
    assert int(state.buffer.size) == 2
    np.testing.assert_allclose(sorted(state.buffer.score[:2]), [0.16, 0.25], rtol=1e-6)


def test_a_batch_is_scored_by_all_its_rollouts_together():
    """Three rollouts each: the same levels, counts added up, written once."""
    batches = list(play(13, n_rollouts=3))
    going_on = [bool(draw.goes_on) for _, draw, _ in batches]
    assert going_on == 3 * [False, True, True] + 4 * [False]
    sizes = [int(state.buffer.size) for state, _, _ in batches[:9]]
    assert sizes[0] == sizes[1] == 0 < sizes[2] == sizes[3] == sizes[4] <= sizes[5]
    for first in (0, 3, 6):
        three = [draw.batch.hash for _, draw, _ in batches[first : first + 3]]
        np.testing.assert_array_equal(three[0], three[1])
        np.testing.assert_array_equal(three[0], three[2])
        state = batches[first + 2][0]
        np.testing.assert_array_equal(state.n_episodes, [3 * N] * L)
        np.testing.assert_array_equal(state.n_success, 3 * solved(three[0]))
    kept = batches[8][0].buffer
    np.testing.assert_allclose(kept.score, learnability(kept.batch.hash), rtol=1e-5)
    assert not any(bool(state_draw[1].trains) for state_draw in batches[:9])


SCORING = {
    "height": 5, "width": 5, "max_walls": 8, "n_envs": 64, "n_steps": 24,
    "max_steps": 16, "core": "none", "n_heldout": 1, "n_updates": 20,
    "scoring_batches": 1, "training_batches": 1, "n_kept": 64, "scoring_rollouts": 8,
}  # fmt: skip


def test_failures_after_a_win_count():
    """What a student without training scores is what its levels are.

    Episodes go on over the edges of rollouts: 12 time limits fit into eight rollouts of
    one and a half, where rollouts that begin anew would see eight.
    """
    experiment = training.make_config("sfl", "maze", settings=SCORING).build()
    update = jax.jit(experiment.update)
    state = jax.jit(experiment.init)(jax.random.key(3))
    for _ in range(8):
        state, metrics = update(state)
    assert metrics["student_updates"] == 0
    scored = state.curriculum
    n, wins = np.asarray(scored.n_episodes), np.asarray(scored.n_success)
    assert (n[wins == 0] == 12).all() and (wins == 0).any() and (n >= 12).all()
    env, levels = experiment.env, scored.scored.levels
    result = jax.jit(
        lambda key: zero_shot.evaluate(
            env, experiment.network, state.learner.params, key, levels, 400
        )
    )(jax.random.key(9))
    p = np.asarray(result.success).mean(axis=-1)
    learnable = p * (1 - p) > 0.05
    assert learnable.sum() > 20
    ours = wins / n * (1 - wins / n)
    both_seen = 1 - p**n - (1 - p) ** n
    assert np.mean(ours > 0) == pytest.approx(both_seen.mean(), abs=0.1)
    assert np.corrcoef(ours, p * (1 - p))[0, 1] > 0.7
    assert abs(np.mean(wins[learnable] / n[learnable]) - p[learnable].mean()) < 0.1


def test_with_nothing_learnable_it_trains_on_random_levels():
    sfl = SFL(SPACE, CONFIG, L, 1)
    state = jax.jit(sfl.init)(jax.random.key(0)).replace(clock=jnp.int32(3))
    state, draw = sfl.sample(state, jax.random.key(0), jax.random.key(0), L)
    assert bool(draw.trains) and len({hash_text(h) for h in draw.batch.hash}) == L


def test_an_experiment_learns_and_counts_scoring_steps():
    settings = SCORING | {"n_envs": 4, "max_steps": 12, "n_steps": 48, "n_kept": 4}
    settings["scoring_rollouts"] = 0
    experiment = training.make_config("sfl", "maze", settings=settings).build()
    assert experiment.env_steps_per_update == 4 * 48
    assert experiment.curriculum.n_rollouts == 2
    _, metrics = jax.jit(lambda key: experiment.train(key, 6))(jax.random.key(0))
    assert metrics["student_updates"].tolist() == [0, 0, 1, 1, 1, 2]
    assert np.isnan(metrics["loss"]).tolist() == [True, True, False, True, True, False]


def test_one_rollout_scores_a_batch_where_it_is_long_enough():
    """As published, 2,000 steps of up to 250: nothing goes on, and nothing is kept."""
    settings = SCORING | {"n_envs": 4, "max_steps": 6, "n_steps": 48, "n_kept": 4}
    settings["scoring_rollouts"] = 0
    experiment = training.make_config("sfl", "maze", settings=settings).build()
    assert experiment.curriculum.n_rollouts == 1
    state, metrics = jax.jit(lambda key: experiment.train(key, 4))(jax.random.key(0))
    assert metrics["student_updates"].tolist() == [0, 1, 1, 2]
    assert state.ongoing is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scoring_rollouts": 7}, "7 scoring_rollouts of 256 steps see hardly a fail"),
        ({"continue_episodes": True, "auto_reset": "resample"}, "leave continue_epi"),
    ],
)
def test_settings_that_see_no_failures_are_refused(settings, message):
    """Time limits of 250 steps: eight of them take eight rollouts of 256."""
    config = training.make_config("sfl", "maze", settings={"n_steps": 256} | settings)
    with pytest.raises(UserError, match=message):
        config.build()
