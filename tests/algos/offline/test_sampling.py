"""Batches: goals that were reached later, stitched or not, and windows of steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from offline_data import episodes_of

from rlgen.algos.offline.outcomes import best_return, with_outcomes
from rlgen.algos.offline.sampling import Goals, Windows, clustered
from rlgen.env import GoalLayout
from rlgen.errors import UserError
from rlgen.transitions import Episode, from_episodes

KEY = jax.random.key(0)
LAYOUT = GoalLayout(achieved=(0,), goal=(2,))


def walk(first, last, level):
    """From one whole number to another, on a line; the goal is where it ends."""
    step = 1 if last > first else -1
    at = np.arange(first, last + step, step, dtype=np.float32)
    obs = np.stack([at, np.zeros_like(at), np.full_like(at, last)], axis=1)
    n = len(at) - 1
    return Episode(
        observations=obs,
        actions=np.full((n, 1), step, np.float32),
        rewards=(np.arange(n) == n - 1).astype(np.float32),
        terminations=np.arange(n) == n - 1,
        truncations=np.zeros(n, bool),
        level_id=level,
    )


@functools.cache
def line():
    """Level 0: 0 to 5 and 3 to 9: stitched, 0 leads to 9. Level 1: it does not."""
    episodes = [walk(0, 5, 0), walk(3, 9, 0), walk(0, 5, 1), walk(5, 0, 1)]
    return clustered(from_episodes(episodes), LAYOUT, 50)


@functools.cache
def batch(stitch_prob, n=4000):
    data = jax.tree.map(jnp.asarray, line())
    draw = jax.jit(Goals(LAYOUT, stitch_prob), static_argnums=2)
    return jax.tree.map(np.asarray, draw(data, KEY, (n,)))


def test_clusters_stay_within_a_level_and_hold_what_is_near():
    data = line()
    rows, cluster_of = data.rows, np.asarray(data.cluster_of)
    for c in range(len(data.cluster_size)):
        start, size = data.cluster_start[c], data.cluster_size[c]
        members = np.asarray(data.members)[start : start + size]
        assert size > 0 and (cluster_of[members] == c).all()
        assert len(np.unique(rows.level_id[members])) == 1
        # More clusters than places: each holds one place.
        assert len(np.unique(rows.next_obs[members, 0])) == 1
    assert sorted(np.asarray(data.members)) == list(range(len(rows)))
    few = clustered(data, LAYOUT, 2)
    assert len(few.cluster_size) == 4  # two of each level


def test_goals_were_reached_later_in_the_episode():
    drawn = batch(0.0)
    goal, place = drawn.obs[:, 2], drawn.obs[:, 0]
    last = np.array([5, 9, 5, 0])[drawn.episode_id]
    step = drawn.action[:, 0]
    assert ((goal - place) * step >= 1).all()
    assert ((last - goal) * step >= 0).all()
    np.testing.assert_array_equal(drawn.next_obs[:, 2], goal)
    # Every later state is as likely as the others.
    of_first = goal[(drawn.episode_id == 0) & (place == 0)]
    counts = np.bincount(of_first.astype(int), minlength=6)[1:]
    assert counts.min() > 0.6 * counts.mean()


def test_stitched_goals_are_beyond_what_an_episode_reached():
    drawn = batch(0.5)
    goal, first = drawn.obs[:, 2], drawn.episode_id == 0
    assert (goal[first] > 5).any() and goal[first].max() == 9
    # What leads there leads through a state of both: never before it was reached.
    assert (drawn.obs[first, 0] < 5).all()
    # About half, of those a part stays in its own episode.
    share = (goal[first] > 5).mean()
    assert 0.1 < share < 0.5
    # Never across levels, where the same places do not lead on.
    assert goal[drawn.level_id == 1].max() <= 5
    assert (batch(0.0).obs[batch(0.0).episode_id == 0, 2] <= 5).all()


def test_a_stitched_goal_is_later_in_an_episode_that_met_this_one():
    """Enumerated: every goal that algorithm 1 can give, and no other."""
    data = line()
    rows = data.rows
    possible = set()
    episodes = [np.flatnonzero(rows.episode_id == e) for e in range(4)]
    for own in episodes:
        for i, row in enumerate(own):
            for j in own[i:]:
                possible.add((row, float(rows.next_obs[j, 0])))
                near = np.flatnonzero(data.cluster_of == data.cluster_of[j])
                for w in near:
                    other = episodes[rows.episode_id[w]]
                    for k in other[other >= w]:
                        possible.add((row, float(rows.next_obs[k, 0])))
    drawn = batch(0.5)
    start = np.asarray(data.episode_start)
    row = start[drawn.episode_id] + drawn.time
    seen = set(zip(row.tolist(), drawn.obs[:, 2].tolist(), strict=True))
    assert seen <= {(int(r), g) for r, g in possible}
    assert len(seen) > 0.9 * len(possible)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(UserError, match="choose 0 to 1"):
        Goals(LAYOUT, 1.5)


def test_windows_end_anywhere_and_never_reach_into_another_episode():
    data = from_episodes(episodes_of(3, 6))
    drawn = Windows(4)(jax.tree.map(jnp.asarray, data), KEY, (300,))
    drawn = jax.tree.map(np.asarray, drawn)
    assert drawn.obs.shape == (300, 4, 3)
    assert (drawn.episode_id == drawn.episode_id[:, -1:]).all()
    assert set(drawn.time[:, -1]) == set(range(6))
    for window_time in drawn.time:
        expected = np.maximum(np.arange(-3, 1) + window_time[-1], 0)
        np.testing.assert_array_equal(window_time, expected)


def test_pieces_of_episodes_begin_where_they_begin():
    """Whatever the clock says: what is before a piece is not there."""
    data = from_episodes(episodes_of(3, 6))
    late = data.replace(rows=data.rows.replace(time=data.rows.time + 40))
    own, other = (
        Windows(4)(jax.tree.map(jnp.asarray, d), KEY, (50,)) for d in (data, late)
    )
    np.testing.assert_array_equal(own.time, other.time)
    told = [
        with_outcomes(d, 60, rate=False, tells_action=True).rows.obs
        for d in (data, late)
    ]
    np.testing.assert_array_equal(*told)
    n_actions = np.asarray(data.rows.action).shape[1]
    assert (np.asarray(told[1])[data.episode_start, -n_actions:] == 0).all()


@pytest.mark.parametrize("rate", [True, False])
def test_outcomes_are_what_the_rest_of_the_episode_gave(rate):
    episodes = episodes_of(2, 5)
    data = from_episodes(episodes, discount=0.5)  # of which nothing may depend
    told = with_outcomes(data, 8, rate=rate, tells_action=True)
    i = 0
    for episode in episodes:
        for t in range(5):
            to_go = episode.rewards[t:].sum() / (8 - t if rate else 1)
            after = episode.rewards[t + 1 :].sum() / (7 - t if rate else 1)
            last = episode.actions[t - 1] if t else np.zeros(2)
            row = np.concatenate([episode.observations[t], [to_go], last])
            following = np.concatenate(
                [episode.observations[t + 1], [after], episode.actions[t]]
            )
            np.testing.assert_allclose(told.rows.obs[i], row, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(
                told.rows.next_obs[i], following, rtol=1e-4, atol=1e-5
            )
            i += 1
    totals = [e.rewards.sum() for e in episodes]
    assert best_return(data, 1.0) == pytest.approx(max(totals), rel=1e-5)
