"""Several runs side by side: tables of returns, of measures, and of differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlgen import runs
from rlgen.errors import UserError
from rlgen.evaluation import statistics
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
      seeds: number of seeds.
      episodes: the last evaluation, one row per seed, level set, level and episode;
        level sets that only `rlgen eval` played come from there.
      measures: `MEASURES` at the end, one row per seed (NaN where it has none).
      history: every evaluation, one row per seed and update: `COSTS` until then, of one
        seed (wall seconds are those of all seeds divided by their number), and the
        columns of the evaluation.
    """

    algorithm: str
    seeds: int
    episodes: pd.DataFrame
    measures: pd.DataFrame
    history: pd.DataFrame

    @property
    def costs(self) -> dict[str, float]:
        """`COSTS` at the end, of one seed; NaN where nothing is known."""
        return {
            name: float(self.history[name].max()) if name in self.history else np.nan
            for name in COSTS
        }

    @property
    def level_sets(self) -> list[str]:
        """The level sets that it was played on."""
        return list(self.episodes["level_set"].unique()) if len(self.episodes) else []

    def scores(self, level_set: str, value: str) -> np.ndarray:
        """Means over episodes: float64[seeds, levels]."""
        part = self.episodes
        if len(part):
            part = part[part["level_set"] == level_set]
        if part.empty:
            raise UserError(
                f"The run of {self.algorithm} has no level set {level_set}."
            )
        table = part.pivot_table(
            index="seed", columns="level", values=value, aggfunc="mean"
        )
        return table.to_numpy(float)


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
        compared[run.algorithm] = pool(run.algorithm, [run])
    return compared


def pool(name: str, members: Sequence[Run]) -> Compared:
    """Runs that differ in their seeds alone, as one."""
    history = pd.concat([_history(run) for run in members], ignore_index=True)
    if len(history):
        last: Any = history.groupby("seed").last()
    else:
        last = pd.DataFrame()
    return Compared(
        algorithm=name,
        seeds=sum(run.n_seeds for run in members),
        episodes=pd.concat([run.episodes for run in members], ignore_index=True),
        measures=last.reindex(columns=list(MEASURES)),
        history=history,
    )


def _history(run: Run) -> pd.DataFrame:
    """`Compared.history` of a run.

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
    intervals over seeds and levels.
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
                interval = statistics.stratified_bootstrap(
                    scores, statistic, resample_tasks=True
                )
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

    "yes" and "no" where the 95 % interval leaves out 0, else "open"; "not run" and "not
    measured" where nothing can be said. Returns compare
    the same levels, redrawn for both; measures compare seeds.
    """
    rows = []
    for claim in claims:
        row: dict[str, object] = {"claim": claim.text}
        if claim.more in compared and claim.less in compared:
            more, less = compared[claim.more], compared[claim.less]
            if claim.of in MEASURES:
                pair = [
                    run.measures[claim.of].to_numpy(float)[:, None]
                    for run in (more, less)
                ]
                options = {"resample_tasks": False}
                if any(np.isnan(values).any() for values in pair):
                    rows.append(row | {"holds": "not measured"})
                    continue
            else:
                pair = [run.scores(claim.of, "return") for run in (more, less)]
                options = {"resample_tasks": True}
            interval = statistics.paired_bootstrap_difference(
                *pair, statistic=np.mean, **options
            )
            low, high = float(interval.low), float(interval.high)
            holds = "yes" if low > 0 else "no" if high < 0 else "open"
            row |= {
                "difference": interval.point,
                "low": low,
                "high": high,
                "holds": holds,
            }
        else:
            row["holds"] = "not run"
        rows.append(row)
    return pd.DataFrame(rows)
