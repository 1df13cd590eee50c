"""Measures of generalization against closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import pytest

from rlgen.evaluation import generalization, statistics


@pytest.mark.parametrize("shape", [(5, 64), (2, 7), (1, 30), (4, 1)])
@pytest.mark.parametrize("statistic", [np.mean, statistics.iqm])
@pytest.mark.parametrize("options", [{"resample_tasks": True}, {"whole_runs": True}])
def test_products_of_matrices_give_the_intervals_of_the_loop(shape, statistic, options):
    """A function that the table of fast ones does not know goes through the loop."""
    x = np.random.default_rng(1).normal(size=shape).round(1)  # with ties
    fast = statistics.stratified_bootstrap(x, statistic, reps=300, **options)
    slow = statistics.stratified_bootstrap(
        x, lambda scores: statistic(scores), reps=300, **options
    )
    np.testing.assert_allclose(fast, slow, rtol=1e-12, atol=1e-12)


def test_a_gap_is_the_difference_of_means_and_covers_it():
    """Coverage of 95 % intervals, seeds and levels drawn: near what is promised."""
    rng = np.random.default_rng(0)
    covered = 0
    for i in range(100):
        seed_effect = rng.normal(scale=0.3, size=(20, 1))  # cancels in a gap
        train = 1.0 + seed_effect + rng.normal(scale=0.5, size=(1, 40))
        heldout = 0.6 + seed_effect + rng.normal(scale=0.5, size=(1, 50))
        interval = generalization.gap(train, heldout, reps=200, seed=i)
        assert interval.point == pytest.approx(train.mean() - heldout.mean())
        covered += interval.low <= 0.4 <= interval.high
        # Standard error of the two level means; the seeds' share is gone.
        width = 2 * 1.96 * np.sqrt(0.25 / 40 + 0.25 / 50)
        assert 0.6 * width < interval.high - interval.low < 1.5 * width
    assert 86 <= covered <= 100
    with pytest.raises(ValueError, match="runs differ"):
        generalization.gap(np.ones((2, 3)), np.ones((3, 3)))


def test_percentiles_are_those_of_scipy():
    references = [0.0, 1.0, 1.0, 2.0]
    got = generalization.normalized_percentile([-1, 0, 1, 1.5, 3], references)
    np.testing.assert_allclose(got, [0.0, 0.125, 0.5, 0.75, 1.0])


def test_participation_counts_levels():
    assert generalization.participation(np.full((3, 8), 0.7)) == pytest.approx(1.0)
    one = np.zeros((2, 8))
    one[:, 3] = 5.0
    assert generalization.participation(one) == pytest.approx(1 / 8)
    half = np.tile([0.0, 1.0], (2, 4))
    assert generalization.participation(half) == pytest.approx(0.5)
    assert generalization.participation(np.zeros((2, 8))) == 0.0
    with pytest.raises(ValueError, match="0 and more"):
        generalization.participation(-one)


def test_the_worst_share_is_of_each_seed_s_own_levels():
    x = np.array([[0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.5]])
    assert generalization.worst_share(x, x, 0.25).point == pytest.approx(0.25)
    assert generalization.worst_share(x, x, 1.0).point == pytest.approx(x.mean())
    # What was only bad luck is not bad again.
    assert generalization.worst_share(x, np.ones((2, 4)), 0.25).point == 1.0
