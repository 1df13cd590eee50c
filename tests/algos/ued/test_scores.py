"""Scores against a loop over episodes, and the ways in which published ones fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracles import level_replay as oracle

from rlgen.algos.ued import scores
from rlgen.rollout import Trajectory

T, B, L = 11, 3, 4
# Scores of one batch of rollouts; those that need agents of another rule are apart.
NAMES = tuple(name for name in scores.SCORES if name not in scores.NEEDS_ANTAGONIST)


def trajectory(reward, value, success, terminated, truncated):
    return Trajectory(
        obs=None,
        action=None,
        log_prob=None,
        value=value,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        reset=None,
        info={"success": success},
        memory=None,
    )


@jax.jit
def all_scores(batch, advantage, level_index, first_copy, max_return, optimal_return):
    """Every score in one compilation; each is asked for in both channels."""
    feedback = {}
    for first, second in zip(NAMES, NAMES[1:] + NAMES[:1], strict=True):
        feedback[first, second] = scores.score(
            (first, second),
            batch,
            advantage,
            level_index,
            first_copy,
            max_return,
            optimal_return,
        )
    return feedback


def constant_within_episodes(level_of_episode, done):
    """Gives every step the level of its episode: a new one after each ending."""
    level = np.zeros((T, B), np.int32)
    for env in range(B):
        count = 0
        for t in range(T):
            level[t, env] = level_of_episode[count, env]
            count += done[t, env]
    return level


def one_level(**columns):
    """Feedback of every score for one level played by one environment."""
    n_steps = len(columns["reward"])
    default = {
        "value": np.zeros(n_steps),
        "advantage": np.zeros(n_steps),
        "success": np.zeros(n_steps, bool),
        "terminated": np.zeros(n_steps, bool),
        "truncated": np.zeros(n_steps, bool),
    }
    columns = {k: np.asarray(v)[:, None] for k, v in (default | columns).items()}
    columns = {
        k: v if v.dtype == bool else v.astype(np.float32) for k, v in columns.items()
    }
    advantage = columns.pop("advantage")

    def feedback(name, stored=-np.inf):
        return scores.score(
            (name, name),
            trajectory(**columns),
            advantage,
            np.zeros((n_steps, 1), np.int32),
            np.zeros(1, np.int32),
            jnp.float32([stored]),
            jnp.float32([1.0]),
        )

    return feedback


numbers = st.floats(-4, 4, width=32)
steps = arrays(np.float32, (T, B), elements=numbers)
# Endings are rarer than steps, else most episodes would be one step long.
endings = arrays(np.bool_, (T, B), elements=st.sampled_from([False, False, True]))
best = arrays(np.float32, (L,), elements=st.just(-np.inf) | st.floats(-8, 8, width=32))


@settings(max_examples=60, deadline=None)
@given(
    reward=steps,
    value=steps,
    advantage=steps,
    success=arrays(np.bool_, (T, B)),
    terminated=endings,
    truncated=endings,
    level_of_episode=arrays(np.int32, (T + 1, B), elements=st.integers(0, L - 1)),
    names=arrays(np.int32, (L,), elements=st.integers(0, L - 1)),
    stored=best,
    optimal=arrays(np.float32, (L,), elements=numbers),
)
def test_all_scores_equal_loops_over_finished_episodes(
    reward,
    value,
    advantage,
    success,
    terminated,
    truncated,
    level_of_episode,
    names,
    stored,
    optimal,
):
    """Time means first, then means over episodes: short episodes weigh as much as long.

    Tails that never finish are dropped, several environments may share a level, and
    levels of one name are scored together, and a level without a finished episode says
    so with a count of 0.
    """
    names = list(names)
    level_index = constant_within_episodes(level_of_episode, terminated | truncated)
    results = all_scores(
        trajectory(reward, value, success, terminated, truncated),
        advantage,
        level_index,
        np.array([names.index(name) for name in names], np.int32),
        stored,
        optimal,
    )
    expected = oracle.level_feedback(
        oracle.finished_episodes(
            reward, value, advantage, success, terminated, truncated, level_index
        ),
        names,
        stored,
        optimal,
    )
    for (first, second), feedback in results.items():
        for level, row in enumerate(expected):
            assert feedback.n_episodes[level] == row["n_episodes"]
            assert feedback.n_success[level] == row["n_success"]
            np.testing.assert_allclose(
                feedback.max_return[level], row["max_return"], rtol=1e-5, atol=1e-4
            )
            assert np.isfinite(feedback.score[level])
            if row["scores"] is None:
                continue
            pairs = [(first, feedback.score), (second, feedback.score2)]
            for name, score in pairs:
                # At a best return of 0 rounding may decide what counts as positive.
                known = stored[np.array(names) == names[level]].max()
                at_edge = abs(max(row["max_return"], known)) < 1e-4
                if name == "grounded_l1" and at_edge:
                    continue
                np.testing.assert_allclose(
                    score[level], row["scores"][name], rtol=1e-5, atol=1e-4
                )


def test_every_episode_weighs_the_same_however_long():
    """A mean over all steps would let long failures drown short successes."""
    feedback = one_level(
        reward=np.zeros(5),
        advantage=[8, 0, 0, 0, 0],
        terminated=[True, False, False, False, True],
    )
    assert feedback("l1").score[0] == 4.0  # not 8 / 5


@pytest.mark.parametrize("name", ["learnability", "maxmc", "grounded_l1", "mna"])
def test_copies_are_scored_by_their_episodes_together(name):
    """Eight copies, one episode each, four solved: the means over copies are wrong."""
    n_steps, n_copies = 10, 8
    done, solved = np.zeros((2, n_steps, n_copies), bool)
    done[-1], solved[-1, :4] = True, True
    sign = -1 if name == "mna" else 1
    feedback = scores.score(
        (name, name),
        trajectory(
            np.where(solved, 0.9, 0.0).astype(np.float32),
            np.full((n_steps, n_copies), 0.3, np.float32),
            solved,
            done,
            np.zeros_like(done),
        ),
        sign * np.full((n_steps, n_copies), 0.1, np.float32),
        np.broadcast_to(np.arange(n_copies, dtype=np.int32), done.shape),
        np.zeros(n_copies, np.int32),
        np.full(n_copies, -np.inf, np.float32),
        None,
    )
    right = {"learnability": 0.25, "maxmc": 0.6, "grounded_l1": 0.1, "mna": 0.1}[name]
    np.testing.assert_allclose(feedback.score, [right] * n_copies, rtol=1e-6)
    np.testing.assert_array_equal(feedback.n_episodes, [8] * n_copies)
    np.testing.assert_array_equal(feedback.n_success, [4] * n_copies)


def test_what_is_undefined_does_not_leak_from_unfinished_copies():
    """A row without an episode has no means: even NaN must not spread."""
    x = np.array([6.0, np.nan, np.nan], np.float32)
    rows = scores.Episodes(
        l1=x,
        positive=x,
        negative=x,
        value=x,
        mean_return=x,
        n_played=np.array([2, 7, 7], np.int32),
        n_success=np.array([1, 7, 7], np.int32),
        max_return=np.full(3, -np.inf, np.float32),
        optimal_return=None,
    )
    told = np.array([2, 0, 0], np.int32)
    found = scores.pooled(("l1", "maxmc"), rows, told, x, np.array([0, 0, 2], np.int32))
    np.testing.assert_array_equal(found.score, [6.0, 6.0, 0.0])
    np.testing.assert_array_equal(found.score2, [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(found.max_return, [6.0, 6.0, -np.inf])
    np.testing.assert_array_equal(found.n_success, [1, 1, 0])


def test_levels_that_are_always_solved_score_nothing():
    """As rollouts are scored: environment n ends and solves n + 1 episodes of one step.

    A mean of successes, 1 - p of it, left 6e-8 for 38 of these counts.
    """
    n = 256
    done = np.arange(n)[:, None] <= np.arange(n)[None]
    zeros = np.zeros((n, n), np.float32)
    batch = trajectory(done.astype(np.float32), zeros, done, done, np.zeros_like(done))
    index = np.broadcast_to(np.arange(n, dtype=np.int32), done.shape)

    @jax.jit
    def score(batch):
        best = jnp.full(n, -jnp.inf)
        names = ("learnability", "l1")
        return scores.score(names, batch, zeros, index, jnp.arange(n), best, None)

    feedback = score(batch)
    np.testing.assert_array_equal(feedback.n_success, np.arange(1, n + 1))
    np.testing.assert_array_equal(feedback.score, np.zeros(n))


def test_what_is_mastered_has_no_learnability_whatever_the_count():
    n = jnp.arange(1, 4001)
    learnability = jax.jit(scores.learnability)
    assert not np.any(learnability(n, n)) and not np.any(learnability(0 * n, n))
    assert np.all(np.asarray(learnability(n[1:] - 1, n[1:])) > 0)
    half = learnability(n * 1000, 2 * n * 1000)  # 4 million episodes and more
    np.testing.assert_allclose(half, 0.25, rtol=1e-6)


def test_unfinished_tails_do_not_count():
    """Sums over tails were published; they reward whatever the rollout cuts off."""
    with_tail = one_level(
        reward=[1, 50, 50],
        value=[0.5, 90, 90],
        advantage=[2, 70, 70],
        success=[True, True, True],
        terminated=[True, False, False],
    )
    expected = {"l1": 2, "pvl": 2, "maxmc": 0.5, "learnability": 0, "true_regret": 0}
    for name, score in expected.items():
        feedback = with_tail(name)
        assert feedback.score[0] == score
        assert (feedback.n_episodes[0], feedback.n_success[0]) == (1, 1)
        assert feedback.max_return[0] == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_a_level_without_a_finished_episode_reports_none(name):
    """NaN or -inf scores of unfinished levels poison sorting and weighting."""
    feedback = one_level(reward=[1, 1, 1], value=[1, 1, 1], advantage=[1, 1, 1])(name)
    assert feedback.n_episodes[0] == 0
    assert np.isfinite(feedback.score[0])
    assert feedback.max_return[0] == -np.inf


def test_maxmc_uses_the_best_return_ever_seen():
    """One published implementation forgets the best return after one replay."""
    feedback = one_level(
        reward=[0.25, 0.5], value=[0.125, 0.375], terminated=[False, True]
    )
    assert feedback("maxmc").score[0] == 0.75 - 0.25
    assert feedback("maxmc", stored=2.0).score[0] == 2.0 - 0.25
    assert feedback("maxmc", stored=0.5).score[0] == 0.75 - 0.25
    # The batch reports its own best; keeping the best of all time is the buffer's.
    assert feedback("maxmc", stored=2.0).max_return[0] == 0.75


def test_negative_returns_register():
    """Accumulators that start at 0 floor the best return of every level at 0."""
    feedback = one_level(
        reward=[-3, -1, -2],
        value=[-4, -4, -4],
        terminated=[True, False, True],
    )
    assert feedback("maxmc").max_return[0] == -3.0
    assert feedback("maxmc").score[0] == 1.0
    assert feedback("maxmc", stored=-2.0).score[0] == 2.0


def test_learnability_without_a_finished_episode_is_not_the_best():
    """A success rate of 0 / 0 episodes is NaN, which sorts as the most learnable."""
    unfinished = one_level(reward=[0, 0])("learnability")
    half = one_level(reward=[0, 0], success=[True, False], terminated=[True, True])
    assert half("learnability").score[0] == 0.25
    assert unfinished.score[0] < 0.25


def test_grounded_score_needs_a_positive_return_once():
    """A level that was solved before stays grounded while it is failed."""
    feedback = one_level(reward=[0], advantage=[-3], terminated=[True])
    assert feedback("grounded_l1").score[0] == 0.0
    assert feedback("grounded_l1", stored=0.5).score[0] == 3.0


def test_truncated_episodes_count_as_finished():
    """A time limit ends an episode: most unsolved levels end in no other way."""
    feedback = one_level(reward=[0, 0], advantage=[1, 3], truncated=[False, True])
    assert feedback("l1").n_episodes[0] == 1
    assert feedback("l1").score[0] == 2.0


def test_scores_scale_with_the_reward():
    """Scores are in units of raw returns, so normalised ones would not compare."""
    columns = {
        "reward": np.array([1.0, 2.0, -1.0]),
        "value": np.array([0.5, 0.25, 0.5]),
        "advantage": np.array([1.0, -2.0, 0.5]),
    }
    done = [False, True, True]
    small = one_level(**columns, terminated=done)
    large = one_level(**{k: 8 * v for k, v in columns.items()}, terminated=done)
    for name in ("l1", "pvl", "maxmc", "grounded_l1"):
        assert large(name).score[0] == 8 * small(name).score[0]


def test_algorithmic_regret_is_what_the_antagonist_earns_more():
    nothing = np.zeros(3)
    lives = scores.Episodes(
        l1=nothing,
        positive=nothing,
        negative=nothing,
        value=nothing,
        mean_return=np.array([0.2, 0.5, 1.0]),
        n_played=nothing,
        n_success=nothing,
        max_return=nothing,
        optimal_return=None,
        antagonist_return=np.array([0.9, 0.5, 0.25]),
    )
    found = scores.SCORES["algorithmic_regret"](lives)
    np.testing.assert_allclose(found, [0.7, 0.0, -0.75])


@given(
    done=arrays(bool, (T, B)),
    success=arrays(bool, (T, B)),
    level_of_episode=arrays(np.int32, (T, B), elements=st.integers(0, L)),
)
@settings(max_examples=100, deadline=None)
def test_levels_solved_at_the_first_try_are_those_of_a_loop(
    done, success, level_of_episode
):
    """Level number L is none of the L."""
    level_index = constant_within_episodes(level_of_episode, done)
    first = {}
    for t in range(T):
        for env in range(B):
            if done[t, env] and level_index[t, env] < L:
                first.setdefault(level_index[t, env], bool(success[t, env]))
    expected = np.mean(list(first.values())) if first else np.nan
    got = jitted_first_tries(success, done, level_index)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


jitted_first_tries = jax.jit(lambda *x: scores.solved_at_first_try(*x, L))


def test_a_level_counts_once_however_often_it_is_solved():
    """Of two levels one is solved in every step: 10 of 11 episodes, half of levels."""
    done = np.ones((10, 2), bool)
    done[:-1, 1] = False
    success = np.stack([np.ones(10, bool), np.zeros(10, bool)], axis=1)
    index = np.broadcast_to(np.arange(2, dtype=np.int32), done.shape)
    assert success[done].mean() == pytest.approx(10 / 11)
    got = scores.solved_at_first_try(*map(jnp.asarray, (success, done, index)), 2)
    assert float(got) == 0.5
