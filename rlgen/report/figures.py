"""The figures of a report, as PNG for the page and PDF for papers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlgen import comparison
from rlgen.comparison import Compared
from rlgen.evaluation import pictures, statistics
from rlgen.runs import Run

# More lines than colours cannot be told apart.
_MOST_LINES = 7
_X = {
    "env_steps": "environment steps of a seed, scoring included",
    "wall_s": "wall time of a seed (s)",
}
# What curricula log about the levels that they train on, and what it is called.
_CURRICULUM = {
    "level_path_length": "shortest path of train levels",
    "level_n_walls": "walls of train levels",
    "buffer_score": "mean score in the buffer",
    "buffer_fill": "share of the buffer that is filled",
    "solve_rate_new": "solved, new levels",
    "solve_rate_replay": "solved, replayed levels",
    "solve_rate_edited": "solved, edited levels",
    "train_solve_rate": "episodes of training solved",
    "train_levels_solved": "train levels solved at first try",
}


def draw(
    groups: Mapping[str, Sequence[Run]],
    compared: Mapping[str, Compared],
    tables: Mapping[str, pd.DataFrame],
    folder: Path,
) -> dict[str, Path]:
    """Draws what the runs have, each twice; the PNG files by name."""
    makers: dict[str, Callable[[Path], Path | None]] = {
        "returns": lambda path: _intervals(tables, "return", path),
        "solved": lambda path: _intervals(tables, "solved", path),
        "curves": lambda path: _curves(compared, path),
        "profiles": lambda path: _profiles(compared, path),
        "gaps": lambda path: _gaps(tables, path),
        "curriculum": lambda path: _curriculum(groups, path),
    }
    drawn = {}
    for name, make in makers.items():
        if make(folder / f"{name}.png"):
            make(folder / f"{name}.pdf")
            drawn[name] = folder / f"{name}.png"
    return drawn


def _points(table: pd.DataFrame, column: str) -> pd.DataFrame:
    names = {
        "name": "algorithm",
        column: "point",
        f"{column}_low": "low",
        f"{column}_high": "high",
    }
    part: Any = table[list(names)]
    return part.rename(columns=names)


def _intervals(
    tables: Mapping[str, pd.DataFrame], column: str, path: Path
) -> Path | None:
    if "scores" not in tables:
        return None
    scores = tables["scores"]
    panels = {
        str(level_set): _points(part, column)
        for level_set, part in scores.groupby("level_set", sort=False)
    }
    title = {"return": "Mean return", "solved": "Share of episodes solved"}[column]
    note = "95 % intervals over seeds and sampled levels"
    return pictures.interval_panels(panels, path, title, note)


def _gaps(tables: Mapping[str, pd.DataFrame], path: Path) -> Path | None:
    if "gaps" not in tables:
        return None
    panels = {
        f"train minus {level_set}": _points(part, "gap")
        for level_set, part in tables["gaps"].groupby("level_set", sort=False)
    }
    note = "difference of mean returns; 95 % intervals over seeds and sampled levels"
    return pictures.interval_panels(panels, path, "Generalization gap", note)


def _best(compared: Mapping[str, Compared]) -> dict[str, Compared]:
    """At most as many as there are colours: those with the best held-out returns."""

    def score(each: Compared) -> float:
        if "heldout" not in each.level_sets:
            return -np.inf
        return float(each.scores("heldout", "return").mean())

    kept = sorted(compared, key=lambda label: -score(compared[label]))[:_MOST_LINES]
    return {label: each for label, each in compared.items() if label in kept}


def _curves(compared: Mapping[str, Compared], path: Path) -> Path | None:
    shown = _best(compared)
    level_sets = dict.fromkeys(s for each in shown.values() for s in each.level_sets)
    tables = {}
    for level_set in list(level_sets)[:4]:
        table = comparison.curve_table(dict(shown), level_set)
        if len(table):
            tables[f"mean return: {level_set}"] = table
    if not tables:
        return None
    note = "mean and its 95 % interval over seeds"
    if len(shown) < len(compared):
        note += f"; the {len(shown)} of {len(compared)} with the best held-out returns"
    return pictures.cost_curves(tables, _X, path, "Learning curves", note)


def _profiles(compared: Mapping[str, Compared], path: Path) -> Path | None:
    """Share of (seed, level) pairs solved in more than a share of the episodes."""
    shown = {
        label: each
        for label, each in _best(compared).items()
        if "heldout" in each.level_sets
    }
    if not shown:
        return None
    taus = np.linspace(0.0, 1.0, 201)
    title = "share of seeds and levels"
    lines = {
        label: statistics.performance_profile(each.scores("heldout", "success"), taus)
        for label, each in shown.items()
    }
    return pictures.line_panels(
        {title: lines},
        {title: taus},
        path,
        "Performance profile on held-out levels",
        x_label={title: "that are solved in more than this share of episodes"},
    )


def _curriculum(groups: Mapping[str, Sequence[Run]], path: Path) -> Path | None:
    panels: dict[str, dict[str, np.ndarray]] = {}
    x: dict[str, np.ndarray] = {}
    for column, heading in _CURRICULUM.items():
        lines = {}
        for label, members in list(groups.items())[:_MOST_LINES]:
            metrics = members[0].metrics
            if column not in metrics:
                continue
            rows = metrics[metrics["kind"] == "train"]
            wide = rows.pivot_table(index="update", columns="seed", values=column)
            wide = wide.interpolate(limit_direction="both")
            if len(wide) < 2:
                continue
            if heading in x and len(x[heading]) != len(wide):
                continue  # other lengths: only those of the first are comparable
            x[heading] = wide.index.to_numpy(float)
            lines[label] = wide.to_numpy(float).T
        if lines:
            panels[heading] = lines
    if not panels:
        return None
    return pictures.line_panels(
        panels,
        x,
        path,
        "What was trained on",
        x_label=dict.fromkeys(panels, "update"),
        note="mean and range over seeds",
    )
