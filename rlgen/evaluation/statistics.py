"""Aggregates and intervals for ``x[runs, tasks]``: training seeds by levels.

Whatever is random takes ``seed`` (an int or a ``np.random.Generator``), so an interval
can be computed again to the bit. NaN is a ValueError: sorting would trim it away.

Sources: Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice" (IQM to
stratified bootstrap); Rutherford et al. 2024, "No Regrets" (SFL: CVaR from two sets of
rollouts); Owen 2007, "The Pigeonhole Bootstrap" (runs and tasks redrawn together).
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from rlgen.evaluation.level_sets import is_sample

FloatArray = NDArray[np.float64]
Value = float | FloatArray
Seed = int | np.random.Generator


#: With fewer seeds than this nothing is said of a difference.
MIN_RUNS = 5


class Interval(NamedTuple):
    """A point estimate and the ends of its interval (arrays for array statistics)."""

    point: Value
    low: Value
    high: Value


def iqm(x: ArrayLike, axis: int | None = None) -> Value:
    """Interquartile mean: ``floor(n / 4)`` scores go from each end, the rest count.

    Equals ``scipy.stats.trim_mean(x, 0.25, axis)``; None pools runs and tasks.
    """
    x = _scores(x)
    x = x.ravel() if axis is None else np.moveaxis(x, axis, -1)
    n = x.shape[-1]
    cut = n // 4
    middle = np.partition(x, (cut, n - cut - 1), axis=-1)[..., cut : n - cut]
    return _value(middle.mean(axis=-1))


def optimality_gap(x: ArrayLike, gamma: float = 1.0) -> float:
    """How far scores fall short of ``gamma`` on average; excess does not make up."""
    return float(gamma - np.minimum(_scores(x), gamma).mean())


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """P(a run of X beats a run of Y on a task), ties half, averaged over tasks.

    ``x[runs_x, tasks]`` and ``y[runs_y, tasks]`` list the same tasks in one order.
    Per task it is Mann-Whitney's U over runs_x * runs_y.
    """
    x, y = _same_tasks(x, y)
    n_x, n_y = len(x), len(y)
    # U from rank sums: linear memory, where comparing all pairs would be quadratic.
    ranks = stats.rankdata(np.concatenate([x, y]), axis=0)[:n_x]
    u = ranks.sum(axis=0) - n_x * (n_x + 1) / 2
    return float(np.mean(u / (n_x * n_y)))


def performance_profile(x: ArrayLike, taus: ArrayLike) -> FloatArray:
    """Fraction of all scores strictly above each threshold; shaped like ``taus``."""
    ordered = np.sort(_scores(x), axis=None)
    above = ordered.size - np.searchsorted(ordered, np.asarray(taus), side="right")
    return np.asarray(above / ordered.size)


def stratified_bootstrap(
    x: ArrayLike,
    statistic: Callable[[FloatArray], Value] = iqm,
    reps: int = 2000,
    seed: Seed = 0,
    level: float = 0.95,
    *,
    resample_tasks: bool = False,
    whole_runs: bool | None = None,
) -> Interval:
    """Percentile bootstrap interval of a statistic of ``x[runs, tasks]``.

    What is redrawn must mirror how the scores came about:

    - one training per run *and task* (Atari): the default redraws runs independently
      within each task, as rliable does;
    - one agent per run, scored on all levels: a good seed is good on all of them, so a
      run must be drawn whole. Drawn cell by cell, seed effects average out over the
      levels and the interval is far too narrow. ``resample_tasks=True`` redraws whole
      runs and levels, for levels sampled from a distribution; ``whole_runs=True`` alone
      redraws whole runs, for a fixed suite.

    Few runs make any percentile interval narrow: where seeds differ, 95 % asked for
    covers the mean about 83 % of the time with 5 seeds, 89 % with 10. One run gives an
    interval over tasks, one score NaN ends.

    Args:
        x: Scores, [runs, tasks].
        statistic: Of [runs, tasks]; one that gives an array gets pointwise intervals.
        reps: Bootstrap samples.
        seed: Seed or generator of the draws.
        level: Nominal coverage, in (0, 1).
        resample_tasks: Redraw tasks too.
        whole_runs: Draw all scores of a run together; None means as ``resample_tasks``
            (rliable's ``task_bootstrap`` is ``True, whole_runs=False``).
    """
    x = _scores(x, ndim=2)
    runs, tasks = x.shape
    whole = resample_tasks if whole_runs is None else whole_runs
    if whole and isinstance(seed, int) and reps > 0 and statistic in _OF_COUNTS:
        counts = _counts(runs, tasks, resample_tasks or runs == 1, reps, seed)
        draws = _OF_COUNTS[statistic](x, *counts)
        return _interval(statistic(x), list(draws), level, x.size > 1)
    drawn = (runs, 1 if whole else tasks)
    rng, draws = np.random.default_rng(seed), []
    for _ in range(reps):  # no stack of samples: any statistic works, memory stays low
        columns = _columns(rng, tasks, resample_tasks or runs == 1)
        draws.append(statistic(x[rng.integers(runs, size=drawn), columns]))
    return _interval(statistic(x), draws, level, x.size > 1)


def interval_on_set(
    x: ArrayLike,
    level_set: str,
    statistic: Callable[[FloatArray], Value] = iqm,
    **options: Any,
) -> Interval:
    """Interval of a statistic of ``x[runs, levels]``, the scores on one level set.

    Runs are redrawn whole, levels where they are a sample (`level_sets.is_sample`);
    options of ``stratified_bootstrap``.
    """
    redrawn = is_sample(level_set)
    return stratified_bootstrap(
        x, statistic, resample_tasks=redrawn, whole_runs=True, **options
    )


def paired_bootstrap(
    x: ArrayLike,
    y: ArrayLike,
    statistic: Callable[[FloatArray, FloatArray], Value],
    reps: int = 2000,
    seed: Seed = 0,
    level: float = 0.95,
    *,
    resample_tasks: bool = True,
    paired_runs: bool = False,
) -> Interval:
    """Interval of ``statistic(x[runs_x, levels], y[runs_y, levels])``, same levels.

    Both get the same redrawn levels (``resample_tasks``), so a level's difficulty
    cancels, and runs are drawn whole. Seed 3 of one algorithm has nothing to do with
    seed 3 of another: runs are drawn separately, and may differ in number, unless
    ``paired_runs`` says that row i is one agent twice (before and after fine-tuning).
    """
    x, y = _same_tasks(x, y)
    if paired_runs and len(x) != len(y):
        raise ValueError(f"paired runs need equal counts, not {len(x)} and {len(y)}.")
    fewest, levels = min(x.shape, y.shape)
    rng, draws = np.random.default_rng(seed), []
    for _ in range(reps):
        columns = _columns(rng, levels, resample_tasks or fewest == 1)
        in_x = rng.integers(len(x), size=(len(x), 1))
        in_y = in_x if paired_runs else rng.integers(len(y), size=(len(y), 1))
        draws.append(statistic(x[in_x, columns], y[in_y, columns]))
    return _interval(statistic(x, y), draws, level, fewest * levels > 1)


def unpaired_bootstrap(
    x: ArrayLike,
    y: ArrayLike,
    statistic: Callable[[FloatArray, FloatArray], Value],
    reps: int = 2000,
    seed: Seed = 0,
    level: float = 0.95,
    *,
    resample_tasks: tuple[bool, bool] = (True, True),
) -> Interval:
    """Interval of ``statistic(x[runs, levels_x], y[runs, levels_y])``, other levels.

    Row i of both is one agent, drawn whole; levels of each are redrawn on their own,
    if they are (``resample_tasks``, of both).
    """
    x, y = _scores(x, ndim=2), _scores(y, ndim=2)
    if len(x) != len(y):
        raise ValueError(f"runs differ in number: {len(x)} and {len(y)}.")
    rng, draws = np.random.default_rng(seed), []
    for _ in range(reps):
        runs = rng.integers(len(x), size=(len(x), 1))
        in_x, in_y = (
            _columns(rng, z.shape[1], redraw or len(z) == 1)
            for z, redraw in zip((x, y), resample_tasks, strict=True)
        )
        draws.append(statistic(x[runs, in_x], y[runs, in_y]))
    return _interval(statistic(x, y), draws, level, x.size + y.size > 2)


def paired_bootstrap_difference(
    x: ArrayLike,
    y: ArrayLike,
    statistic: Callable[[FloatArray], Value] = iqm,
    **options: Any,
) -> Interval:
    """Interval of ``statistic(x) - statistic(y)``; options of ``paired_bootstrap``."""
    return paired_bootstrap(x, y, lambda a, b: statistic(a) - statistic(b), **options)


def difference_of_means(
    x: ArrayLike, y: ArrayLike, level: float = 0.95, *, sampled: bool = True
) -> Interval:
    """Interval of the mean of ``x[runs_x, levels]`` less that of ``y[runs_y, levels]``.

    Welch's t of the runs' means (unequal variances, degrees of freedom by
    Satterthwaite), plus what levels that favour one of both contribute where levels are
    a sample (``sampled``). With few runs it keeps its level, as percentile bootstraps
    do not: five runs, drawn again, vary by 4/5 of what they should. One run gives NaN
    ends.
    """
    x, y = _same_tasks(x, y)
    point = float(x.mean() - y.mean())
    if min(len(x), len(y)) < 2:
        return Interval(point, math.nan, math.nan)
    of_runs = [float(z.mean(axis=1).var(ddof=1)) / len(z) for z in (x, y)]
    # What runs do by chance on single levels is in the means of runs already.
    of_levels = 0.0
    if sampled and x.shape[1] > 1:
        apart = float((x.mean(axis=0) - y.mean(axis=0)).var(ddof=1))
        by_chance = sum(_residual_variance(z) / len(z) for z in (x, y))
        of_levels = max(0.0, apart - by_chance) / x.shape[1]
    total = sum(of_runs)
    if total + of_levels == 0.0:
        return Interval(point, point, point)
    freedom = math.inf
    if total > 0:
        freedom = total**2 / sum(
            v**2 / (len(z) - 1) for v, z in zip(of_runs, (x, y), strict=True)
        )
    half = stats.t.isf(_tail(level), freedom) * math.sqrt(total + of_levels)
    return Interval(point, point - float(half), point + float(half))


def level_of_each(level: float, n: int) -> float:
    """The level of each of n intervals that are to hold together at `level` (Sidak)."""
    return level ** (1 / max(n, 1))


def all_differences(
    scores: Mapping[str, ArrayLike], level: float = 0.95, *, sampled: bool = True
) -> dict[tuple[str, str], Interval]:
    """Mean differences of all pairs, whose intervals hold together at `level`.

    Each is widened for the number of pairs. Of four methods that are equal some
    pair seems different in 2 to 4 % of studies of five or ten seeds, less where most
    levels are always solved (simulated; see the tests).

    Args:
      scores: [runs, levels] of each method, of the same levels.
      sampled: whether these stand for others like them.

    Returns:
      the mean of the first less that of the second, by pairs of names in order.
    """
    pairs = list(itertools.combinations(scores, 2))
    each = level_of_each(level, len(pairs))
    return {
        (a, b): difference_of_means(scores[a], scores[b], each, sampled=sampled)
        for a, b in pairs
    }


def verdict(difference: Interval, n_runs: int) -> str:
    """What is said of a difference: "more", "less" or "open", if enough runs were made.

    Args:
      n_runs: of the one of both that has fewer.
    """
    if n_runs < MIN_RUNS:
        return f"fewer than {MIN_RUNS} seeds"
    if difference.low > 0:
        return "more"
    return "less" if difference.high < 0 else "open"


def _residual_variance(x: FloatArray) -> float:
    """Of x[runs, levels], what is neither of the run nor of the level."""
    runs, levels = x.shape
    if min(runs, levels) < 2:
        return 0.0
    rest = x - x.mean(axis=0) - x.mean(axis=1, keepdims=True) + x.mean()
    return float((rest**2).sum() / ((runs - 1) * (levels - 1)))


def cvar(
    rank_scores: ArrayLike, report_scores: ArrayLike, alpha: float, seed: Seed = 0
) -> Value:
    """Mean score on the worst ``ceil(alpha * levels)`` levels (alpha 1: the mean).

    Both are scores of the same levels, [..., levels]; each agent ranks its own, giving
    [...]. ``rank_scores`` picks the levels, ``report_scores`` from independent rollouts
    measures them: an unbiased estimate of the true mean on the levels picked. One set
    for both is biased low, because the merely unlucky levels get picked. Noise in the
    ranking also picks levels that are not the worst: more ranking episodes lower the
    value. Ties are broken at random by ``seed``: solve rates tie often, and breaking by
    index would favour the levels that were generated first.
    """
    return robustness(rank_scores, report_scores, (alpha,), seed)[alpha]


def robustness(
    rank_scores: ArrayLike,
    report_scores: ArrayLike,
    alphas: Sequence[float] = (1.0, 0.1, 0.01, 0.001),
    seed: Seed = 0,
) -> dict[float, Value]:
    """``cvar`` at each alpha from one ranking; 1.0 is the plain mean.

    Less than one level counts as one, so 0.001 means something from 1,000 levels on.
    """
    rank, report = _scores(rank_scores), _scores(report_scores)
    if rank.shape != report.shape or not rank.ndim:
        raise ValueError(f"need two [..., levels], not {rank.shape}, {report.shape}.")
    ties = np.random.default_rng(seed).random(rank.shape)
    worst_first = np.take_along_axis(report, np.lexsort((ties, rank), axis=-1), axis=-1)
    out: dict[float, Value] = {}
    for alpha in alphas:
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1], not {alpha}.")
        # Rounded first: 0.07 * 100 is a hair above 7, and that hair is no level.
        count = max(1, math.ceil(round(alpha * rank.shape[-1], 9)))
        out[alpha] = _value(worst_first[..., :count].mean(axis=-1))
    return out


def wilson_interval(
    successes: ArrayLike, n: ArrayLike, level: float = 0.95
) -> Interval:
    """Wilson's (1927) interval of a success rate, useful at 0 and n too; broadcasts.

    Successes must be independent: counts pooled over seeds need a bootstrap.
    """
    k, n = np.broadcast_arrays(_scores(successes), _scores(n))
    if np.any(n <= 0) or np.any(k < 0) or np.any(k > n):
        raise ValueError("a success rate needs 0 <= successes <= n and n > 0.")
    p, z = k / n, stats.norm.isf(_tail(level))
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # The ends are exact at 0 and n; rounding would leave them a hair off.
    low, high = np.where(k, centre - half, 0.0), np.where(k == n, 1.0, centre + half)
    return Interval(_value(p), _value(low), _value(high))


def _columns(rng: np.random.Generator, n: int, redraw: bool) -> NDArray[np.int64]:
    return rng.integers(n, size=n) if redraw else np.arange(n)


_AT_ONCE = 64


# Thousands of intervals of the same size are asked for by a report: what was drawn for
# one serves all, as how often each run and each task was drawn.
@functools.lru_cache(maxsize=32)
def _counts(
    runs: int, tasks: int, redraw_tasks: bool, reps: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """How often whole runs [reps, runs] and tasks [reps, tasks] are drawn.

    The same draws, in the same order, as the loop over samples makes.
    """
    rng = np.random.default_rng(seed)
    of_runs, of_tasks = np.empty((reps, runs)), np.ones((reps, tasks))
    for i in range(reps):
        if redraw_tasks:
            of_tasks[i] = np.bincount(rng.integers(tasks, size=tasks), minlength=tasks)
        drawn = rng.integers(runs, size=(runs, 1))[:, 0]
        of_runs[i] = np.bincount(drawn, minlength=runs)
    return of_runs, of_tasks


def _means(x: FloatArray, of_runs: FloatArray, of_tasks: FloatArray) -> FloatArray:
    """The mean of each sample [reps]."""
    return ((of_runs @ x) * of_tasks).sum(axis=1) / x.size


def _iqms(x: FloatArray, of_runs: FloatArray, of_tasks: FloatArray) -> FloatArray:
    """The interquartile mean of each sample [reps].

    In order of the scores, a sample holds as many of each as its run and its task were
    drawn; those between the quarters count.
    """
    run, task = np.unravel_index(np.argsort(x, axis=None), x.shape)
    ordered, n = x[run, task], x.size
    cut, steps = n // 4, np.diff(ordered)
    # Small numbers and few samples at a time: they stay in the cache.
    rows, columns = of_runs.astype(np.int16), of_tasks.astype(np.int16)
    means = np.empty(len(of_runs))
    for i in range(0, len(of_runs), _AT_ONCE):
        part = slice(i, i + _AT_ONCE)
        drawn = rows[part].take(run, axis=1) * columns[part].take(task, axis=1)
        upto = np.clip(drawn.cumsum(axis=1, dtype=np.int32), cut, n - cut)
        # The sum of how many of each lie inside times their scores, by parts.
        total = upto[:, -1] * ordered[-1] - cut * ordered[0]
        means[part] = total - (upto[:, :-1] * steps).sum(axis=1)
    return means / (n - 2 * cut)


_OF_COUNTS: dict[Any, Callable[..., FloatArray]] = {np.mean: _means, iqm: _iqms}


def _interval(point: Value, draws: list[Value], level: float, known: bool) -> Interval:
    if not draws:
        raise ValueError("reps must be at least 1.")
    tail, values = _tail(level), np.asarray(draws, dtype=np.float64)
    values = values if known else np.full_like(values, np.nan)
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return Interval(_value(point), _value(low), _value(high))


def _tail(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must be in (0, 1), not {level}.")
    return (1 - level) / 2


def _value(x: ArrayLike) -> Value:
    x = np.asarray(x, dtype=np.float64)
    return float(x) if x.ndim == 0 else x


def _scores(x: ArrayLike, ndim: int | None = None) -> FloatArray:
    x = np.asarray(x, dtype=np.float64)
    if ndim is not None and x.ndim != ndim:
        raise ValueError(f"scores must be [runs, tasks], not of shape {x.shape}.")
    if x.size == 0:
        raise ValueError(f"scores are empty: shape {x.shape}.")
    if missing := int(np.isnan(x).sum()):
        raise ValueError(f"{missing} of {x.size} scores are NaN.")
    return x


def _same_tasks(x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
    x, y = _scores(x, ndim=2), _scores(y, ndim=2)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"tasks differ in number: {x.shape[1]} and {y.shape[1]}.")
    return x, y
