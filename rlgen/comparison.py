"""Several runs side by side: tables of returns, of measures, and of differences."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlgen import runs
from rlgen.errors import UserError
from rlgen.evaluation import level_sets, statistics
from rlgen.runs import Run

# Scalars of a run beside its returns, by their column in the metrics.
MEASURES = (
    "generalization_gap",
    "shift_gap",
    "mutual_information",
    "tile_divergence",
)
# What a run cost.
COSTS = ("student_updates", "env_steps", "wall_s")


@dataclasses.dataclass(frozen=True)
class Compared:
    """What a comparison knows of one algorithm (or one of its settings).

    Attributes:
      algorithm: what it is called.
      members: its runs, which differ in their seeds alone.
    """

    algorithm: str
    members: Sequence[Run]

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return sum(run.n_seeds for run in self.members)

    @functools.cached_property
    def episodes(self) -> pd.DataFrame:
        """The last evaluation, one row per seed, level set, level and episode.

        Level sets that only `rlgen eval` played come from there.
        """
        return runs.together([run.episodes for run in self.members])

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """Every evaluation, one row per seed and update: `COSTS` until then, of one
        seed (wall seconds are those of all seeds divided by their number), and the
        columns of the evaluation.
        """
        return runs.together([_history(run) for run in self.members])

    @property
    def measures(self) -> pd.DataFrame:
        """`MEASURES` at the end, one row per seed (NaN where it has none)."""
        last: Any = self.history
        if len(last):
            last = last.groupby("seed").last()
        return last.reindex(columns=list(MEASURES))

    @property
    def costs(self) -> dict[str, float]:
        """`COSTS` at the end, of one seed; NaN where nothing is known."""
        history: Any = self.history
        return {
            name: float(history[name].max()) if name in history else np.nan
            for name in COSTS
        }

    @property
    def level_sets(self) -> list[str]:
        """The level sets that it was played on."""
        return list(self._cells)

    def scores(self, level_set: str, value: str, half: int | None = None) -> np.ndarray:
        """Means over episodes: float64[seeds, levels].

        Args:
          half: 0 for the first, third, ... episode of each level, 1 for the others: two
            sets of episodes that know nothing of each other.
        """
        if level_set not in self._cells:
            raise UserError(
                f"The run of {self.algorithm} has no level set {level_set}."
            )
        rows, cells, (n_seeds, n_levels) = self._cells[level_set]
        if half is not None:
            belongs = self.episodes["episode"].to_numpy()[rows] % 2 == half
            rows, cells = rows[belongs], cells[belongs]
        values = self.episodes[value].to_numpy(float)[rows]
        total = np.bincount(cells, weights=values, minlength=n_seeds * n_levels)
        counts = np.bincount(cells, minlength=n_seeds * n_levels)
        with np.errstate(invalid="ignore"):  # a seed that did not play a level: NaN
            return (total / counts).reshape(n_seeds, n_levels)

    @functools.cached_property
    def _cells(self) -> dict[str, tuple[np.ndarray, np.ndarray, tuple[int, int]]]:
        """Rows of each level set, and which cell [seed, level] each belongs to.

        What pivot tables do, fifty times as fast; seeds and levels in order.
        """
        if self.episodes.empty:
            return {}
        table = self.episodes.astype({"level_set": "category", "level": "category"})
        set_code = table["level_set"].cat.codes.to_numpy()
        in_order = np.argsort(np.argsort(table["level"].cat.categories.to_numpy(str)))
        level = in_order[table["level"].cat.codes.to_numpy()]
        seed, cells = table["seed"].to_numpy(), {}
        codes, first = np.unique(set_code, return_index=True)
        for code in codes[np.argsort(first)]:  # as they appear
            rows = np.flatnonzero(set_code == code)
            seeds, row = np.unique(seed[rows], return_inverse=True)
            levels, column = np.unique(level[rows], return_inverse=True)
            shape = (len(seeds), len(levels))
            name = str(table["level_set"].cat.categories[code])
            cells[name] = (rows, row * shape[1] + column, shape)
        return cells


def load(folder: str | Path) -> dict[str, Compared]:
    """The finished runs in a folder, by algorithm.

    Raises:
      UserError: there is none, or two are of one algorithm.
    """
    compared: dict[str, Compared] = {}
    for run in runs.finished(folder):
        if run.algorithm in compared:
            raise UserError(
                f"{folder} holds two runs of {run.algorithm}: keep one of them."
            )
        compared[run.algorithm] = Compared(run.algorithm, [run])
    return compared


def _history(run: Run) -> pd.DataFrame:
    """`Compared.history` of one run.

    Evaluations do not know how many batches trained: the row of training that the
    runner writes before each of them does.
    """
    metrics, keys = run.metrics, ["seed", "update"]
    if metrics.empty:
        return metrics
    history = metrics[metrics["kind"] == "eval"]
    if "student_updates" in metrics:
        training = metrics.loc[metrics["kind"] == "train", [*keys, "student_updates"]]
        history = history.drop(columns="student_updates")
        history = history.merge(training, on=keys, how="left", validate="one_to_one")
    # Seeds that share one program share its time.
    return history.assign(wall_s=history["wall_s"] / run.n_seeds)


def score_table(compared: dict[str, Compared], value: str) -> pd.DataFrame:
    """Mean and IQM of "return" or "success" per algorithm and level set, with 95 %
    intervals over seeds, and over levels where these are a sample.
    """
    rows = []
    for name, run in compared.items():
        for level_set in run.level_sets:
            scores = run.scores(level_set, value)
            row = {
                "algorithm": name,
                "level_set": level_set,
                "levels": scores.shape[1],
                "seeds": scores.shape[0],
            }
            for kind, statistic in (("mean", np.mean), ("iqm", statistics.iqm)):
                interval = statistics.interval_on_set(scores, level_set, statistic)
                row |= {
                    kind: interval.point,
                    f"{kind}_low": interval.low,
                    f"{kind}_high": interval.high,
                }
            rows.append(row)
    return pd.DataFrame(rows)


def curve_table(
    compared: dict[str, Compared], level_set: str, value: str = "return"
) -> pd.DataFrame:
    """Mean "return" or "solve_rate" on a level set at every evaluation: `COSTS` until
    then (mean over seeds), point, low and high (95 % intervals over seeds, NaN of one).
    """
    column = f"eval_{level_set}_{value}"
    rows = []
    for name, run in compared.items():
        if column not in run.history:
            continue
        for _, part in run.history.groupby("update"):
            scores = part[column].to_numpy(float)[:, None]
            interval = statistics.stratified_bootstrap(scores, np.mean)
            rows.append(
                {"algorithm": name}
                | {cost: part[cost].mean() for cost in COSTS if cost in part}
                | {"point": interval.point, "low": interval.low, "high": interval.high}
            )
    return pd.DataFrame(rows)


def measure_table(compared: dict[str, Compared]) -> pd.DataFrame:
    """Every measure per algorithm, with 95 % intervals over seeds, and the costs."""
    rows = []
    for name, run in compared.items():
        row: dict[str, object] = {"algorithm": name}
        for measure in MEASURES:
            values = run.measures[measure].dropna().to_numpy(float)[:, None]
            if len(values) > 1:
                interval = statistics.stratified_bootstrap(values, np.mean)
                row[measure] = interval.point
                row[f"{measure}_low"] = interval.low
                row[f"{measure}_high"] = interval.high
            else:
                row[measure] = float(values.mean()) if len(values) else np.nan
        rows.append(row | run.costs)
    return pd.DataFrame(rows)


@dataclasses.dataclass(frozen=True)
class Claim:
    """Says that one algorithm exceeds another in something.

    Attributes:
      text: the claim in words.
      more, less: algorithms.
      of: a measure, or a level set whose mean return is meant.
    """

    text: str
    more: str
    less: str
    of: str


def check(compared: dict[str, Compared], claims: Sequence[Claim]) -> pd.DataFrame:
    """The difference that each claim is about, and whether it holds.

    "yes" and "no" where the interval leaves out 0, else "open"; "not run", "not
    measured" or too few seeds where nothing can be said. Intervals hold together, for
    all claims, at 95 %; see `statistics.difference_of_means`. Returns compare the same
    levels, measures compare seeds.
    """
    rows, level = [], statistics.level_of_each(0.95, len(claims))
    for claim in claims:
        row: dict[str, object] = {"claim": claim.text}
        if claim.more in compared and claim.less in compared:
            more, less = compared[claim.more], compared[claim.less]
            if claim.of in MEASURES:
                pair = [
                    run.measures[claim.of].to_numpy(float)[:, None]
                    for run in (more, less)
                ]
                if any(np.isnan(values).any() for values in pair):
                    rows.append(row | {"holds": "not measured"})
                    continue
            else:
                pair = [run.scores(claim.of, "return") for run in (more, less)]
            sampled = level_sets.is_sample(claim.of)
            difference = statistics.difference_of_means(
                pair[0], pair[1], level, sampled=sampled
            )
            said = statistics.verdict(difference, min(map(len, pair)))
            row |= {
                "difference": difference.point,
                "low": difference.low,
                "high": difference.high,
                "holds": {"more": "yes", "less": "no"}.get(said, said),
            }
        else:
            row["holds"] = "not run"
        rows.append(row)
    return pd.DataFrame(rows)
