"""Several runs side by side: tables of returns, of measures, and of differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlgen import config as configs
from rlgen.errors import UserError
from rlgen.evaluation import statistics
from rlgen.reports import last_evaluation
from rlgen.store import RunStore

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
class Run:
    """One finished run.

    Attributes:
      algorithm: its name in the registry.
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
        """`COSTS` at the end, of one seed."""
        return {name: float(self.history[name].to_numpy().max()) for name in COSTS}

    def scores(self, level_set: str, value: str) -> np.ndarray:
        """Means over episodes: float64[seeds, levels]."""
        part = self.episodes[self.episodes["level_set"] == level_set]
        if part.empty:
            raise UserError(
                f"The run of {self.algorithm} has no level set {level_set}."
            )
        table = part.pivot_table(
            index="seed", columns="level", values=value, aggfunc="mean"
        )
        return table.to_numpy(float)


def load(folder: str | Path) -> dict[str, Run]:
    """The finished runs in a folder, by algorithm.

    Raises:
      UserError: there is none, or two are of one algorithm.
    """
    runs: dict[str, Run] = {}
    for path in sorted(Path(folder).glob("*/DONE")):
        store = RunStore(path.parent)
        config = configs.read_yaml(path.parent / "config.yaml")
        name, n_seeds = config["algorithm"], config["seeds"]
        if name in runs:
            raise UserError(f"{folder} holds two runs of {name}: keep one of them.")
        history = _history(store.read_metrics(), n_seeds)
        last: Any = history.groupby("seed").last()
        runs[name] = Run(
            algorithm=name,
            seeds=n_seeds,
            episodes=_episodes(store),
            measures=last.reindex(columns=list(MEASURES)),
            history=history,
        )
    if not runs:
        raise UserError(f"{folder} holds no finished run: train some first.")
    return runs


def _episodes(store: RunStore) -> pd.DataFrame:
    """`Run.episodes` of a run."""
    parts = [last_evaluation(store)]
    for path in sorted(store.eval_dir.glob("final_seed*.parquet")):
        known = set(pd.concat(parts)["level_set"])
        table: Any = pd.read_parquet(path)
        parts.append(table[~table["level_set"].isin(known)])
    return pd.concat(parts, ignore_index=True)


def _history(metrics: pd.DataFrame, n_seeds: int) -> pd.DataFrame:
    """`Run.history` from the rows of a run.

    Evaluations do not know how many batches trained: the row of training that the
    runner writes before each of them does.
    """
    keys = ["seed", "update"]
    training = metrics.loc[metrics["kind"] == "train", [*keys, "student_updates"]]
    evaluations = metrics[metrics["kind"] == "eval"]
    evaluations = evaluations.drop(columns="student_updates", errors="ignore")
    history = evaluations.merge(training, on=keys, how="left", validate="one_to_one")
    # Seeds that share one program share its time.
    return history.assign(wall_s=history["wall_s"] / n_seeds)


def score_table(runs: dict[str, Run], value: str) -> pd.DataFrame:
    """Mean and IQM of "return" or "success" per algorithm and level set, with 95 %
    intervals over seeds and levels.
    """
    rows = []
    for name, run in runs.items():
        for level_set in run.episodes["level_set"].unique():
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
    runs: dict[str, Run], level_set: str, value: str = "return"
) -> pd.DataFrame:
    """Mean "return" or "solve_rate" on a level set at every evaluation: `COSTS` until
    then (mean over seeds), point, low and high (95 % intervals over seeds, NaN of one).
    """
    column = f"eval_{level_set}_{value}"
    rows = []
    for name, run in runs.items():
        if column not in run.history:
            continue
        for _, part in run.history.groupby("update"):
            scores = part[column].to_numpy(float)[:, None]
            interval = statistics.stratified_bootstrap(scores, np.mean)
            rows.append(
                {"algorithm": name}
                | {cost: part[cost].mean() for cost in COSTS}
                | {"point": interval.point, "low": interval.low, "high": interval.high}
            )
    return pd.DataFrame(rows)


def measure_table(runs: dict[str, Run]) -> pd.DataFrame:
    """Every measure per algorithm, with 95 % intervals over seeds, and the costs."""
    rows = []
    for name, run in runs.items():
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


def check(runs: dict[str, Run], claims: Sequence[Claim]) -> pd.DataFrame:
    """The difference that each claim is about, and whether it holds.

    "yes" and "no" where the 95 % interval leaves out 0, else "open"; "not run" and "not
    measured" where nothing can be said. Returns compare
    the same levels, redrawn for both; measures compare seeds.
    """
    rows = []
    for claim in claims:
        row: dict[str, object] = {"claim": claim.text}
        if claim.more in runs and claim.less in runs:
            more, less = runs[claim.more], runs[claim.less]
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
