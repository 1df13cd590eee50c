"""The tables of a report, from runs that were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rlgen import runs
from rlgen.comparison import Compared
from rlgen.evaluation import generalization, level_sets, statistics
from rlgen.runs import Run

# The share of levels that a tail is of.
_TAIL = 0.1


def overview(groups: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """What was run: one row per group."""
    names = dict.fromkeys(
        name
        for members in groups.values()
        for name in runs.differing_from_peers(members[0], groups)
    )
    rows = []
    for label, members in groups.items():
        first = members[0]
        settings = {name: _word(first.settings.get(name)) for name in names}
        commits = {str(run.facts.get("commit", "unknown"))[:7] for run in members}
        rows.append(
            {
                "name": label,
                "algorithm": first.algorithm,
                "environment": first.env,
                "seeds": sum(run.n_seeds for run in members),
                "updates": first.settings.get("n_updates"),
            }
            | {f"setting {name}": value for name, value in settings.items()}
            | {
                "commit": ", ".join(sorted(commits)),
                "device": first.facts.get("device", "unknown"),
                "machine": first.facts.get("machine", "unknown"),
            }
        )
    return pd.DataFrame(rows)


def _word(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def scores(compared: Mapping[str, Compared]) -> pd.DataFrame:
    """Returns and solve rates on every level set, with 95 % intervals.

    Columns: name, level_set, seeds, levels, and for `return`, `solved`, `solved_iqm`
    and `solved_worst_tenth` the point, `_low` and `_high`. Intervals are over seeds and
    levels that are a sample (of one seed over levels).
    """
    rows = []
    for label, each in compared.items():
        for level_set in each.level_sets:
            returns = each.scores(level_set, "return")
            solved = each.scores(level_set, "success")
            row: dict[str, object] = {
                "name": label,
                "level_set": level_set,
                "seeds": returns.shape[0],
                "levels": returns.shape[1],
            }
            for column, x, statistic, reps in (
                ("return", returns, np.mean, 2000),
                ("solved", solved, np.mean, 2000),
                ("solved_iqm", solved, statistics.iqm, 500),
            ):
                interval = statistics.interval_on_set(
                    x, level_set, statistic, reps=reps
                )
                row |= _columns(column, interval)
            rows.append(row)
    return pd.DataFrame(rows)


def tails(compared: Mapping[str, Compared]) -> pd.DataFrame:
    """The mean solve rate of the worst tenth of levels of each seed (CVaR).

    Half of the episodes find these levels, the other half says how often they are
    solved. Of level sets of ten levels and two episodes on each, and more.
    """
    rows = []
    for label, each in compared.items():
        for level_set in each.level_sets:
            rank, report = (each.scores(level_set, "success", i) for i in (0, 1))
            n_levels = report.shape[1]
            if n_levels < 1 / _TAIL or np.isnan(report).any():
                continue  # a tenth of nine levels is none; one episode is one set
            sampled = level_sets.is_sample(level_set)
            interval = generalization.worst_share(
                rank, report, _TAIL, reps=500, resample_tasks=sampled
            )
            row = {"name": label, "level_set": level_set, "levels": n_levels}
            rows.append(row | _columns("worst_tenth", interval))
    return pd.DataFrame(rows)


def gaps(compared: Mapping[str, Compared]) -> pd.DataFrame:
    """Mean return on train levels minus that on each other set, same seeds.

    Empty where no run was played on its train levels.
    """
    rows = []
    for label, each in compared.items():
        if "train" not in each.level_sets:
            continue
        train = each.scores("train", "return")
        for level_set in each.level_sets:
            if level_set == "train":
                continue
            held_out = each.scores(level_set, "return")
            sampled = level_sets.is_sample(level_set)
            interval = generalization.gap(train, held_out, reps=500, sampled=sampled)
            row = {"name": label, "level_set": level_set}
            rows.append(row | _columns("gap", interval))
    return pd.DataFrame(rows)


def differences(compared: Mapping[str, Compared], level_set: str) -> pd.DataFrame:
    """Each against each other, in mean return on a level set: all pairs.

    Intervals hold together at 95 % (`statistics.all_differences`); `verdict` says what
    the first is: more, less, or open. Beside it the probability that a seed of the
    first beats a seed of the other on a level, ties half (Agarwal et al. 2021). Only
    those that played the same levels are compared.
    """
    played: dict[frozenset[str], dict[str, np.ndarray]] = {}
    for label, each in compared.items():
        if level_set in each.level_sets:
            peers = played.setdefault(_levels(each, level_set), {})
            peers[label] = each.scores(level_set, "return")
    rows = []
    for scores in played.values():
        sampled = level_sets.is_sample(level_set)
        found = statistics.all_differences(scores, sampled=sampled)
        for (first, other), interval in found.items():
            x, y = scores[first], scores[other]
            row = {"first": first, "other": other, "level_set": level_set}
            row |= _columns("difference", interval)
            row["probability_of_improvement"] = statistics.probability_of_improvement(
                x, y
            )
            verdict = statistics.verdict(interval, min(len(x), len(y)))
            rows.append(row | {"verdict": verdict})
    return pd.DataFrame(rows)


def _levels(each: Compared, level_set: str) -> frozenset[str]:
    part = each.episodes[each.episodes["level_set"] == level_set]
    return frozenset(part["level"])


def costs(groups: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """What a seed of each cost: steps, seconds, compilation; and all of it together."""
    rows = []
    for label, members in groups.items():
        n_seeds = sum(run.n_seeds for run in members)

        def total(name: str, members: Sequence[Run] = members) -> float:
            return float(sum(run.facts.get(name) or 0.0 for run in members))

        wall_s = total("wall_s")
        rows.append(
            {
                "name": label,
                "runs": len(members),
                "seeds": n_seeds,
                "env_steps_per_seed": total("env_steps") / n_seeds,
                "training_s_per_seed": wall_s / n_seeds,
                "training_s": wall_s,
                "compile_s": total("compile_s"),
            }
        )
    return pd.DataFrame(rows)


def diagnostics(groups: Mapping[str, Sequence[Run]], last: float = 0.1) -> pd.DataFrame:
    """Every number that training logged, mean over seeds and the last tenth of it."""
    rows = []
    for label, members in groups.items():
        parts = []
        for run in members:
            metrics: Any = run.metrics
            if metrics.empty:
                continue
            metrics = metrics[metrics["kind"] == "train"]
            since = (1 - last) * float(metrics["update"].max())
            parts.append(metrics[metrics["update"] > since])
        if parts:
            means = pd.concat(parts).mean(numeric_only=True).dropna()
            means = means.drop(["seed", "update", "finite"], errors="ignore")
            rows.append({"name": label} | means.to_dict())
    return pd.DataFrame(rows)


def _columns(name: str, interval: statistics.Interval) -> dict[str, float]:
    point, low, high = (float(x) for x in interval)
    return {name: point, f"{name}_low": low, f"{name}_high": high}


def with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """A table for readers: each point with its interval in one cell, as text."""
    shown = pd.DataFrame(index=table.index)
    for column in table.columns:
        if column.endswith(("_low", "_high")):
            continue
        if f"{column}_low" in table:
            cells = zip(
                table[column],
                table[f"{column}_low"],
                table[f"{column}_high"],
                strict=True,
            )
            shown[column] = [_interval_text(*cell) for cell in cells]
        else:
            shown[column] = [_text(value) for value in table[column]]
    return shown.rename(columns=lambda name: name.replace("_", " "))


def _interval_text(point: float, low: float, high: float) -> str:
    if not np.isfinite(low):
        return _text(point)
    return f"{_text(point)} ({_text(low)} to {_text(high)})"


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating):
        if not np.isfinite(value):
            return "-"
        if value == round(value) and abs(value) >= 1000:
            return f"{value:,.0f}"
        digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
        return f"{value:,.{digits}f}"
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def of_all(
    groups: Mapping[str, Sequence[Run]],
) -> tuple[dict[str, Compared], dict[str, pd.DataFrame]]:
    """The pooled groups, and every table that has rows, by name."""
    compared = {label: Compared(label, members) for label, members in groups.items()}
    held_out = "heldout"
    made = {
        "runs": overview(groups),
        "scores": scores(compared),
        "worst_tenth": tails(compared),
        "gaps": gaps(compared),
        "differences": differences(compared, held_out),
        "costs": costs(groups),
        "diagnostics": diagnostics(groups),
    }
    return compared, {name: table for name, table in made.items() if len(table)}
