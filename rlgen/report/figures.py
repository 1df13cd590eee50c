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

# More lines are hard to tell apart.
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
    """Draws what the runs have, each twice; the PNG files by name.

    A name has one colour in all of them.
    """
    names, shown = list(groups), _best(compared)
    note = ""
    if len(shown) < len(compared):
        note = f"; the {len(shown)} of {len(compared)} with the best held-out returns"
    makers: dict[str, Callable[[Path], Path | None]] = {
        "returns": lambda path: _intervals(tables, "return", path, names),
        "solved": lambda path: _intervals(tables, "solved", path, names),
        "curves": lambda path: _curves(shown, path, names, note),
        "profiles": lambda path: _profiles(shown, path, names, note),
        "gaps": lambda path: _gaps(tables, path, names),
        "curriculum": lambda path: _curriculum(
            {label: groups[label] for label in shown}, path, names, note
        ),
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
    tables: Mapping[str, pd.DataFrame], column: str, path: Path, among: Sequence[str]
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
    return pictures.interval_panels(
        panels, path, title, note, among=among, share=column == "solved"
    )


def _gaps(
    tables: Mapping[str, pd.DataFrame], path: Path, among: Sequence[str]
) -> Path | None:
    if "gaps" not in tables:
        return None
    panels = {
        f"train minus {level_set}": _points(part, "gap")
        for level_set, part in tables["gaps"].groupby("level_set", sort=False)
    }
    title = "Generalization gap"
    note = "difference of mean returns; 95 % intervals over seeds and sampled levels"
    return pictures.interval_panels(panels, path, title, note, among=among)


def _best(compared: Mapping[str, Compared]) -> dict[str, Compared]:
    """At most as many as can be told apart: those with the best held-out returns."""

    def score(each: Compared) -> float:
        if "heldout" not in each.level_sets:
            return -np.inf
        return float(each.scores("heldout", "return").mean())

    kept = sorted(compared, key=lambda label: -score(compared[label]))[:_MOST_LINES]
    return {label: each for label, each in compared.items() if label in kept}


def _curves(
    shown: Mapping[str, Compared], path: Path, among: Sequence[str], note: str
) -> Path | None:
    level_sets = dict.fromkeys(s for each in shown.values() for s in each.level_sets)
    tables = {}
    for level_set in level_sets:
        table = comparison.curve_table(dict(shown), level_set)
        if len(table):
            tables[f"mean return: {level_set}"] = table
    if not tables:
        return None
    note = f"mean and its 95 % interval over seeds{note}"
    return pictures.cost_curves(tables, _X, path, "Learning curves", note, among=among)


def _profiles(
    shown: Mapping[str, Compared], path: Path, among: Sequence[str], note: str
) -> Path | None:
    """Share of (seed, level) pairs solved in more than a share of the episodes."""
    taus = np.linspace(0.0, 1.0, 201)
    title = "share of seeds and levels"
    lines = {
        label: pictures.over_runs(
            taus,
            statistics.performance_profile(each.scores("heldout", "success"), taus),
        )
        for label, each in shown.items()
        if "heldout" in each.level_sets
    }
    if not lines:
        return None
    return pictures.line_panels(
        {title: lines},
        path,
        "Performance profile on held-out levels",
        x_label={title: "that are solved in more than this share of episodes"},
        note=note.removeprefix("; "),
        among=among,
    )


def _curriculum(
    groups: Mapping[str, Sequence[Run]], path: Path, among: Sequence[str], note: str
) -> Path | None:
    panels: dict[str, dict[str, pictures.Line]] = {}
    fewer = ""
    for column, heading in _CURRICULUM.items():
        for label, members in groups.items():
            line, n_seeds = over_updates(members, column)
            if line is None:
                continue
            panels.setdefault(heading, {})[label] = line
            of = sum(run.n_seeds for run in members)
            if n_seeds < of:
                fewer += f"; {heading}: {n_seeds} of {of} seeds of {label}"
    if not panels:
        return None
    return pictures.line_panels(
        panels,
        path,
        "What was trained on",
        x_label=dict.fromkeys(panels, "update"),
        note=f"mean and range over seeds{note}{fewer}",
        among=among,
    )


def over_updates(
    members: Sequence[Run], column: str
) -> tuple[pictures.Line | None, int]:
    """A metric of training by update: mean and range over all seeds of all members.

    What a seed has not logged at an update is interpolated between those at which it
    has. Where some seed's values have not begun or have ended there is no line.

    Returns:
      the line, None with fewer than two points; and the number of seeds with values.
    """
    parts: list[Any] = [
        run.metrics[run.metrics["kind"] == "train"]
        for run in members
        if column in run.metrics
    ]
    if not parts:
        return None, 0
    rows = pd.concat(parts).dropna(subset=[column])
    if rows.empty:
        return None, 0
    wide = rows.pivot_table(index="seed", columns="update", values=column)
    wide = wide.interpolate(axis="columns", method="index", limit_area="inside")
    line = pictures.over_rows(wide)
    return (line if len(line.x) > 1 else None), len(wide)
