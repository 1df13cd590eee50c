"""Choosing by a bandit, against plain counting and cases with a known answer."""

import math

import numpy as np
import pytest

from rlgen.evaluation import selection


def plain_ucb(returns, pulled, exploration):
    """The index of every arm before each pull, written out."""
    for t, arm in enumerate(pulled):
        indices = []
        for k in range(len(returns)):
            n = sum(p == k for p in pulled[:t])
            # Arms whose episodes are all alike have a mean that is known.
            bonus = math.sqrt(exploration * math.log(t) / n) if n else math.inf
            indices.append(returns[k][0] + bonus)
        yield arm, indices


def test_every_pull_is_of_the_largest_index():
    returns = [[0.2], [0.5], [0.4]]
    choice = selection.ucb(returns, 60, np.random.default_rng(0), exploration=0.5)
    for arm, indices in plain_ucb(returns, choice.pulled[0].tolist(), 0.5):
        assert indices[arm] == max(indices)
    assert sorted(choice.pulled[0, :3]) == [0, 1, 2]
    assert (choice.chosen[0, 2:] == 1).all()
    assert choice.chosen[0, 0] == choice.pulled[0, 0]


def test_a_better_arm_is_found_and_played_most():
    rng = np.random.default_rng(1)
    returns = [rng.normal(m, 0.3, 500) for m in (0.2, 0.8, 0.5)]
    choice = selection.ucb(returns, 400, rng)
    assert choice.chosen[0, -1] == 1
    assert np.argmax(np.bincount(choice.pulled[0])) == 1


def test_bandits_differ_and_play_only_what_they_are_offered():
    offered = np.array([[True, False, True], [False, True, True]])
    choice = selection.ucb(
        [[0.0, 1.0]] * 3, 50, np.random.default_rng(0), offered=offered, repeats=2
    )
    assert set(choice.pulled[0]) == {0, 2} and set(choice.pulled[1]) == {1, 2}
    assert set(choice.chosen[0]) <= {0, 2} and set(choice.chosen[1]) <= {1, 2}
    alike = selection.ucb([[0.0, 1.0]] * 3, 50, np.random.default_rng(0), repeats=2)
    assert (alike.pulled[0] != alike.pulled[1]).any()


def test_the_first_episode_chooses_at_random_and_many_the_best():
    returns = [[0.0], [0.5], [1.0]]
    curve = selection.budget_curve(returns, [10.0, 20.0, 30.0], 30, repeats=2000)
    assert curve.mean[0] == pytest.approx(20.0, abs=0.8)
    # Of two of three arms that are known, the better one: 2, 3 or 3 of equal chance.
    assert curve.mean[1] == pytest.approx((20 + 30 + 30) / 3, abs=0.6)
    assert curve.mean[-1] == 30.0
    assert (curve.low <= curve.mean).all() and (curve.mean <= curve.high).all()
    assert curve.low[0] < curve.mean[0] < curve.high[0]


def test_values_are_not_what_is_played_for():
    curve = selection.budget_curve([[0.0], [1.0]], [7.0, 3.0], 5, repeats=20)
    assert curve.mean[-1] == 3.0


def test_some_arms_of_all():
    curve = selection.budget_curve(
        [[0.0], [1.0]], [0.0, 1.0], 3, repeats=2000, n_arms=1
    )
    assert curve.mean[-1] == pytest.approx(0.5, abs=0.05)


def test_a_seed_fixes_everything():
    returns = [np.arange(5) / 5, np.arange(7) / 7]
    one, two, other = (
        selection.budget_curve(returns, [0, 1], 9, repeats=30, seed=s)
        for s in (3, 3, 4)
    )
    assert (one.mean == two.mean).all() and (one.mean != other.mean).any()


@pytest.mark.parametrize(("returns", "n"), [([], 3), ([[]], 3), ([[1.0]], 0)])
def test_nothing_to_choose_from(returns, n):
    with pytest.raises(ValueError, match="bandit"):
        selection.ucb(returns, n, np.random.default_rng(0))
