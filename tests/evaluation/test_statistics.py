"""Statistics against SciPy, rliable's golden values, closed forms and enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import stats

from rlgen.evaluation import statistics
from rlgen.evaluation.statistics import (
    cvar,
    iqm,
    optimality_gap,
    paired_bootstrap,
    paired_bootstrap_difference,
    performance_profile,
    probability_of_improvement,
    robustness,
    stratified_bootstrap,
    unpaired_bootstrap,
    wilson_interval,
)

scores_2d = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(0, 1),
)


def golden_x():
    i, j = np.ogrid[:5, :4]
    return ((7 * i + 3 * j * j + i * j) % 11) / 10


def golden_y():
    i, j = np.ogrid[:6, :4]
    return ((5 * i + 2 * j + i * i * j) % 11) / 10


def mean(x):
    return x.mean()


# Golden values: rliable 1.2.0 with numpy 2.4.6, scipy 1.17.1, pandas 2.3.3, arch 7.2.0,
# on golden_x and golden_y (scores with many ties).


def test_aggregates_equal_rliable():
    x, y = golden_x(), golden_y()
    assert iqm(x) == pytest.approx(0.41000000000000003, abs=1e-15)
    assert iqm(y) == pytest.approx(0.4416666666666666, abs=1e-15)
    assert optimality_gap(x) == pytest.approx(0.5599999999999999, abs=1e-15)
    assert optimality_gap(x, 0.5) == pytest.approx(0.16000000000000003, abs=1e-15)
    poi = probability_of_improvement(x, y)
    assert poi == pytest.approx(0.45416666666666666, abs=1e-15)
    profile = performance_profile(x, [0, 0.25, 0.5, 0.6, 0.9, 1.0])
    np.testing.assert_allclose(profile, [0.9, 0.7, 0.35, 0.25, 0.1, 0.0])


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [({}, 0.26, 0.57), ({"resample_tasks": True, "whole_runs": False}, 0.25, 0.65)],
)
def test_intervals_agree_with_rliable(options, low, high):
    # library.get_interval_estimates, IQM, 50,000 reps; task_bootstrap False and True.
    found = stratified_bootstrap(golden_x(), reps=6000, **options)
    assert found.point == pytest.approx(0.41)
    assert found.low == pytest.approx(low, abs=0.015)
    assert found.high == pytest.approx(high, abs=0.015)


def test_profile_bands_agree_with_rliable():
    # create_performance_profile's function at tau 0.25 and 0.5, 20,000 reps.
    found = stratified_bootstrap(
        golden_x(), lambda x: performance_profile(x, [0.25, 0.5])
    )
    np.testing.assert_allclose(found.point, [0.7, 0.35])
    np.testing.assert_allclose(found.low, [0.5, 0.15], atol=0.051)
    np.testing.assert_allclose(found.high, [0.9, 0.5], atol=0.051)


@settings(max_examples=50, deadline=None)
@given(scores_2d)
def test_iqm_is_scipys_trimmed_mean(x):
    for axis in (None, 0, 1):
        np.testing.assert_allclose(
            iqm(x, axis), stats.trim_mean(x, 0.25, axis=axis), atol=1e-12
        )


@settings(max_examples=30, deadline=None)
@given(scores_2d, st.integers(1, 5), st.integers(0, 99))
def test_improvement_is_mann_whitney_and_all_pairs(x, runs_y, seed):
    x = np.round(x, 1)  # so that ties happen
    y = np.round(np.random.default_rng(seed).random((runs_y, x.shape[1])), 1)
    pairs = np.sign(x[:, None] - y[None]) / 2 + 0.5
    found = probability_of_improvement(x, y)
    assert found == pytest.approx(pairs.mean())
    assert found + probability_of_improvement(y, x) == pytest.approx(1)
    u = stats.mannwhitneyu(x, y, method="asymptotic").statistic
    assert found == pytest.approx(np.mean(u / (len(x) * runs_y)))


def test_small_cases_by_hand():
    assert iqm([[0.0, 1.0], [2.0, 9.0]]) == 1.5
    assert iqm([[5.0]]) == 5
    assert iqm([True, False]) == 0.5
    assert optimality_gap([[0.5, 3.0]]) == 0.25
    assert performance_profile([1, 2, 2, 3], 2) == 0.25  # strictly above
    assert performance_profile([1, 2], np.zeros((2, 3))).shape == (2, 3)


# The bootstrap.


def bootstrap_samples(x, **options):
    seen = []
    stratified_bootstrap(x, lambda a: seen.append(a) or 0.0, reps=40, **options)
    return seen[:40] if np.array_equal(seen[-1], x) else seen[1:]


def test_what_is_redrawn():
    """Cells are labelled 10 * run + task, so a sample shows where it came from."""
    x = np.add.outer(10.0 * np.arange(4), np.arange(3))
    run, task = (lambda a: a // 10), (lambda a: a % 10)
    cells = bootstrap_samples(x)
    assert all((task(a) == [0, 1, 2]).all() for a in cells)
    assert any((run(a) != run(a)[:, :1]).any() for a in cells)
    whole = bootstrap_samples(x, whole_runs=True)
    assert all((task(a) == [0, 1, 2]).all() for a in whole)
    assert all((run(a) == run(a)[:, :1]).all() for a in whole)
    both = bootstrap_samples(x, resample_tasks=True)
    assert all((run(a) == run(a)[:, :1]).all() for a in both)
    assert all((task(a) == task(a)[:1]).all() for a in both)
    assert any((task(a) != [0, 1, 2]).any() for a in both)
    one_run = bootstrap_samples(x[:1])
    assert any((task(a) != [0, 1, 2]).any() for a in one_run)


@pytest.mark.parametrize("whole", [False, True])
def test_interval_equals_the_enumerated_bootstrap_distribution(whole):
    x = np.array([[0.0, 10.0], [1.0, 25.0], [4.0, 70.0]])
    rows = list(itertools.product(range(3), repeat=3))
    pairs = [(r, r) for r in rows] if whole else itertools.product(rows, rows)
    exact = [(x[list(a), 0].mean() + x[list(b), 1].mean()) / 2 for a, b in pairs]
    found = stratified_bootstrap(x, mean, 6000, level=0.6, whole_runs=whole)
    assert found.point == x.mean()
    for end, share in ((found.low, 0.2), (found.high, 0.8)):
        below = np.mean(np.less(exact, end - 1e-9))
        assert below - 0.02 < share < np.mean(np.less(exact, end + 1e-9)) + 0.02


def test_the_seed_decides_the_interval():
    x = np.random.default_rng(1).random((5, 7))
    assert stratified_bootstrap(x, seed=3) == stratified_bootstrap(x, seed=3)
    assert stratified_bootstrap(x, seed=3) != stratified_bootstrap(x, seed=4)
    generator = np.random.default_rng(3)
    assert stratified_bootstrap(x, seed=generator) == stratified_bootstrap(x, seed=3)


def test_coverage_and_why_one_agent_needs_whole_runs():
    """True mean 0. Redrawing cells is right for independent cells only."""
    rng, trials = np.random.default_rng(0), 150
    covered = dict.fromkeys(["cells", "agents by cell", "agents whole", "both"], 0)
    for trial in range(trials):
        noise, agent = rng.normal(size=(20, 10)), rng.normal(size=(20, 1))
        level = rng.normal(size=(1, 10))
        for name, x, options in [
            ("cells", noise, {}),
            ("agents by cell", agent + noise, {}),
            ("agents whole", agent + noise, {"whole_runs": True}),
            ("both", agent + level + noise, {"resample_tasks": True}),
        ]:
            found = stratified_bootstrap(x, mean, 200, seed=trial, **options)
            covered[name] += found.low <= 0 <= found.high
    rate = {name: count / trials for name, count in covered.items()}
    assert 0.9 <= rate["cells"] <= 0.99
    assert rate["agents by cell"] < 0.7
    assert 0.88 <= rate["agents whole"] <= 0.99
    assert 0.85 <= rate["both"] <= 0.99


def test_a_single_run_gives_an_interval_over_levels_and_one_score_gives_none():
    found = stratified_bootstrap([[0.0, 0.0, 1.0, 1.0]], mean)
    assert (found.low, found.point, found.high) == (0.0, 0.5, 1.0)
    single = stratified_bootstrap([[0.3]], mean)
    assert single.point == 0.3
    assert np.isnan(single.low)
    assert np.isnan(single.high)


def test_paired_difference_cancels_level_difficulty():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=(1, 50))
    x = 0.2 + difficulty + 0.01 * rng.normal(size=(6, 50))
    y = difficulty + 0.01 * rng.normal(size=(4, 50))
    found = paired_bootstrap_difference(x, y, mean, reps=500)
    assert 0.19 < found.low < found.point < found.high < 0.21
    alone = stratified_bootstrap(x, mean, 500, resample_tasks=True)
    assert alone.high - alone.low > 10 * (found.high - found.low)


def test_paired_runs_cancel_agent_quality_too():
    agent = np.random.default_rng(0).normal(size=(8, 1)) + np.zeros((1, 5))
    together = paired_bootstrap_difference(agent + 1, agent, mean, paired_runs=True)
    np.testing.assert_allclose(together, (1, 1, 1))
    apart = paired_bootstrap_difference(agent + 1, agent, mean)
    assert apart.high - apart.low > 0.5
    with pytest.raises(ValueError, match="equal counts"):
        paired_bootstrap_difference(agent, agent[:3], paired_runs=True)


def test_paired_levels_are_redrawn_unless_the_suite_is_fixed():
    gain, zero = np.tile([0.0, 1.0, 2.0], (4, 1)), np.zeros((4, 3))
    fixed = paired_bootstrap_difference(gain, zero, mean, resample_tasks=False)
    assert fixed == (1, 1, 1)
    drawn = paired_bootstrap_difference(gain, zero, mean)
    assert drawn.low < 1 < drawn.high
    one = paired_bootstrap_difference(gain[:1], zero, mean, resample_tasks=False)
    assert one.low < 1 < one.high


def test_improvement_has_an_interval():
    """On levels of unlike difficulty, so that columns must stay side by side."""
    level = 10 * np.arange(4)
    better = paired_bootstrap(
        golden_x() + level + 2, golden_x() + level, probability_of_improvement, reps=50
    )
    assert better == (1, 1, 1)


# CVaR.


def test_cvar_by_hand():
    rank, report = [0.3, 0.1, 0.9, 0.2], [10.0, 20.0, 30.0, 40.0]
    assert cvar(rank, report, 0.25) == 20
    assert cvar(rank, report, 0.26) == 30  # ceil: two levels, 20 and 40
    assert robustness(rank, report, (1.0, 0.75, 0.001)) == {
        1.0: 25,
        0.75: pytest.approx(70 / 3),
        0.001: 20,
    }
    assert list(robustness(rank, report)) == [1.0, 0.1, 0.01, 0.001]
    levels = np.arange(100.0)  # 0.07 * 100 > 7 in floating point
    assert cvar(levels, levels, 0.07) == 3


def test_each_agent_ranks_its_own_levels():
    rng = np.random.default_rng(0)
    rank, report = rng.random((2, 3, 40))
    alone = [cvar(a, b, 0.1) for a, b in zip(rank, report, strict=True)]
    np.testing.assert_allclose(cvar(rank, report, 0.1), alone)


def test_ties_are_broken_at_random_by_the_seed():
    report = np.arange(10.0)
    drawn = [cvar(np.zeros(10), report, 0.1, seed=s) for s in range(400)]
    assert set(drawn) == set(report)
    assert np.mean(drawn) == pytest.approx(4.5, abs=0.5)
    assert cvar(np.zeros(10), report, 0.1, seed=7) == drawn[7]


def test_the_same_rollouts_for_both_are_biased_and_independent_ones_are_not():
    """Every level has the same true solve rate, so the true CVaR is that rate."""
    rng, rate = np.random.default_rng(0), 0.5
    first, second = rng.binomial(10, rate, size=(2, 200, 500)) / 10
    assert np.mean(cvar(first, first, 0.01)) < rate - 0.3
    assert np.mean(cvar(first, second, 0.01)) == pytest.approx(rate, abs=0.02)
    # Levels that differ: unbiased for the true rates of the levels that were picked.
    rates = rng.beta(8, 2, size=(200, 500))
    first, second = rng.binomial(10, rates, size=(2, 200, 500)) / 10
    picked = np.mean(cvar(first, rates, 0.05))
    assert np.mean(cvar(first, second, 0.05)) == pytest.approx(picked, abs=0.01)
    assert np.mean(cvar(first, first, 0.05)) < picked - 0.05


# Proportions, and bad input.


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (1, 1), (980, 1000)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_wilson_equals_scipy(k, n, level):
    expected = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    found = wilson_interval(k, n, level)
    np.testing.assert_allclose(found, (k / n, *expected), atol=1e-12)
    assert 0 <= found.low <= found.high <= 1


def test_wilson_closed_form_and_broadcast():
    z = stats.norm.ppf(0.975)
    assert wilson_interval(0, 10).high == pytest.approx(z**2 / (10 + z**2))
    n = np.arange(1, 300)
    assert (wilson_interval(0, n).low == 0).all()
    assert (wilson_interval(n, n).high == 1).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: iqm([0.1, np.nan]), "1 of 2 scores are NaN"),
        (lambda: performance_profile([np.nan], 0.5), "NaN"),
        (lambda: stratified_bootstrap([[0.1, np.nan]]), "NaN"),
        (lambda: paired_bootstrap_difference([[0.1]], [[np.nan]]), "NaN"),
        (lambda: cvar([np.nan], [1.0], 0.5), "NaN"),
        (lambda: cvar([1.0], [np.nan], 0.5), "NaN"),
        (lambda: stratified_bootstrap(np.zeros((0, 3))), "empty"),
        (lambda: stratified_bootstrap([0.1, 0.2]), "runs, tasks"),
        (lambda: stratified_bootstrap([[0.1, 0.2]], reps=0), "reps"),
        (lambda: stratified_bootstrap([[0.1, 0.2]], level=95), "level"),
        (lambda: probability_of_improvement([[0.1, 0.2]], [[0.1]]), "2 and 1"),
        (lambda: cvar([1.0, 2.0], [1.0], 0.5), "shape|levels"),
        (lambda: cvar([1.0], [1.0], 0.0), "alpha"),
        (lambda: robustness([1.0], [1.0], (1.5,)), "alpha"),
        (lambda: wilson_interval(3, 2), "successes"),
        (lambda: wilson_interval(0, 0), "successes"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, match):
    with pytest.raises(ValueError, match=match) as error:
        call()
    assert "\n" not in str(error.value)


class TestUnpairedBootstrap:
    def test_of_one_run_it_is_as_wide_as_theory_says(self):
        """The difference of two means of independent samples."""
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(1, 300)), 2 * rng.normal(size=(1, 150)) + 1
        interval = unpaired_bootstrap(x, y, lambda a, b: b.mean() - a.mean(), seed=1)
        error = np.sqrt(x.var() / 300 + y.var() / 150)
        assert interval.point == pytest.approx(y.mean() - x.mean())
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)

    def test_a_run_is_drawn_whole(self):
        """What a run adds to both of its samples cancels in their difference."""
        runs = np.array([[0.0], [100.0]])
        x, y = np.zeros((2, 5)) + runs, np.ones((2, 3)) + runs
        interval = unpaired_bootstrap(x, y, lambda a, b: b.mean() - a.mean())
        np.testing.assert_allclose(interval, 1.0)

    def test_runs_that_differ_in_number_are_refused(self):
        with pytest.raises(ValueError, match="runs differ in number: 2 and 3"):
            unpaired_bootstrap(np.ones((2, 4)), np.ones((3, 4)), lambda a, b: 0.0)


def studies(n_methods, n_runs, n_levels=60, n_episodes=4, seed=0, better=0.0):
    """Solve rates [runs, levels] of methods that are equal, but for the first.

    Levels differ in difficulty, seeds in how good they are, seeds on levels by chance,
    and few episodes say how often a level is solved.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(1.5, 1.5, n_levels)
    of_seed = rng.normal(0.0, 0.5, (n_methods, n_runs, 1))
    of_both = rng.normal(0.0, 0.7, (n_methods, n_runs, n_levels))
    logit = difficulty + of_seed + of_both
    logit[0] += better
    solved = rng.binomial(n_episodes, 1 / (1 + np.exp(-logit)))
    return {str(i): solved[i] / n_episodes for i in range(n_methods)}


@pytest.mark.parametrize("n_runs", [5, 10])
def test_equal_methods_seem_different_in_one_study_of_twenty(n_runs):
    """Each against the best, uncorrected, found a winner in 32 % with five seeds."""
    found = [
        any(
            statistics.verdict(d, n_runs) != "open"
            for d in statistics.all_differences(studies(4, n_runs, seed=i)).values()
        )
        for i in range(1500)
    ]
    assert 0.01 < np.mean(found) < 0.06


def test_a_difference_that_is_there_is_found():
    found = [
        statistics.all_differences(studies(4, 10, seed=i, better=1.5))
        for i in range(100)
    ]
    right = [study["0", other] for study in found for other in "123"]
    assert np.mean([statistics.verdict(d, 10) == "more" for d in right]) > 0.8
    wrong = [study[pair] for study in found for pair in (("1", "2"), ("2", "3"))]
    assert np.mean([statistics.verdict(d, 10) != "open" for d in wrong]) < 0.05
    turned = statistics.all_differences(dict(reversed(studies(2, 10).items())))
    point, low, high = turned["1", "0"]
    again = statistics.all_differences(studies(2, 10))["0", "1"]
    np.testing.assert_allclose(again, (-point, -high, -low))


def test_the_interval_of_a_difference_is_welch_s_where_levels_are_alike():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (6, 1)), rng.normal(1, 3, (9, 1))
    test = stats.ttest_ind(x[:, 0], y[:, 0], equal_var=False)
    expected = test.confidence_interval(0.95)
    found = statistics.difference_of_means(x, y)
    np.testing.assert_allclose(found[1:], [expected.low, expected.high])
    # Runs that are all alike, and levels that favour one: t of the levels, normal.
    gain = rng.normal(0, 1, 400)
    found = statistics.difference_of_means(np.stack([gain] * 5), np.zeros((5, 400)))
    half = 1.96 * gain.std(ddof=1) / 20
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=1e-3)


def test_few_seeds_say_nothing():
    found = statistics.all_differences(studies(2, 4, better=9.0))["0", "1"]
    assert found.low > 0 and statistics.verdict(found, 5) == "more"
    assert statistics.verdict(found, 4) == "fewer than 5 seeds"
    assert np.isnan(statistics.difference_of_means([[1.0]], [[0.0]]).low)
