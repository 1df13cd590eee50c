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
from rlgen.levels import hash_text, split_of

SPACE = UniformWalls(5, 5, max_walls=8)
L = 8
CONFIG = SFLConfig(scoring_batches=3, training_batches=4, n_kept=5, kept_share=0.5)


def learnability(hashes):
    """A score that a level's hash decides, and a third of the levels has none."""
    score = (hashes[:, 0] % 1000) / 4000.0
    return jnp.where(hashes[:, 1] % 3 == 0, 0.0, score).astype(jnp.float32)


def play(n_batches, config=CONFIG):
    sfl = SFL(SPACE, config, L)
    state = jax.jit(sfl.init)(jax.random.key(0))
    sample, update = jax.jit(sfl.sample, static_argnums=3), jax.jit(sfl.update)
    for i in range(n_batches):
        key = jax.random.key(i)
        state, draw = sample(state, key, key, L)
        count = jnp.ones(L, jnp.int32)
        score = learnability(draw.batch.hash)
        feedback = Feedback(score, score, jnp.ones(L), count, count)
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
    """Unfinished levels (n = 0) and those with p(1 - p) = 0 are no candidates."""
    sfl = SFL(SPACE, CONFIG, L)
    state = jax.jit(sfl.init)(jax.random.key(0))
    state, draw = sfl.sample(state, jax.random.key(0), jax.random.key(0), L)
    score = jnp.array([0.2, 0.0, jnp.nan, 0.1, 0.0, 0.0, 0.0, 0.25])
    count = jnp.array([5, 5, 0, 0, 5, 5, 5, 5], jnp.int32)
    feedback = Feedback(score, score, jnp.ones(L), count, count)
    state, _ = sfl.update(state, jax.random.key(0), draw, feedback)
    assert int(state.buffer.size) == 2
    np.testing.assert_allclose(sorted(state.buffer.score[:2]), [0.2, 0.25])


def test_with_nothing_learnable_it_trains_on_random_levels():
    sfl = SFL(SPACE, CONFIG, L)
    state = jax.jit(sfl.init)(jax.random.key(0)).replace(clock=jnp.int32(3))
    state, draw = sfl.sample(state, jax.random.key(0), jax.random.key(0), L)
    assert bool(draw.trains) and len({hash_text(h) for h in draw.batch.hash}) == L


def test_an_experiment_learns_and_counts_scoring_steps():
    settings = {
        "height": 5, "width": 5, "max_walls": 8, "n_envs": 4, "n_steps": 40,
        "core": "none", "n_heldout": 4, "n_updates": 6, "scoring_batches": 2,
        "training_batches": 2, "n_kept": 4,
    }  # fmt: skip
    experiment = training.make_config("sfl", "maze", settings=settings).build()
    assert experiment.env_steps_per_update == 4 * 40
    _, metrics = jax.jit(lambda key: experiment.train(key, 6))(jax.random.key(0))
    assert metrics["student_updates"].tolist() == [0, 0, 1, 2, 2, 2]
    assert np.isnan(metrics["loss"]).tolist() == [True, True, False, False, True, True]


def test_horizons_that_may_end_no_episode_are_refused():
    config = training.make_config("sfl", "maze", settings={"n_steps": 128})
    with pytest.raises(UserError, match="128 steps may end none of up to 250: raise"):
        config.build()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kept_share": 0.0}, "kept_share is 0.0: choose more than 0"),
        ({"n_kept": 0}, "n_kept must be at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        SFLConfig(**settings)
