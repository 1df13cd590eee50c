"""Learning curves: metrics against environment steps, in small panels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator

from rlgen.evaluation import statistics
from rlgen.evaluation.pictures._style import (
    DPI,
    INK,
    QUIET,
    TRACK,
    looks,
    plain_text,
    save,
)

# Panel title -> columns, as "column" or "name of the series=column"; "*" stands for
# anything and names the series. A column is drawn in the first panel that asks for it.
DEFAULT_GROUPS: dict[str, tuple[str, ...]] = {
    "Held-out solve rate": ("eval_*_solve_rate",),
    "Held-out return": ("eval_*_return",),
    "Return at the end of a life": ("rule=life_return", "A2C=life_antagonist_return"),
    "Score of ended lives": ("all=life_score",),
    "Meta-loss by quarter of a life": ("all=meta_loss", "meta_loss_age_*"),
    "Length of meta-gradient and rule": ("gradient=meta_grad_norm", "rule=rule_norm"),
    "Gaps in return": ("generalization=generalization_gap", "shift=shift_gap"),
    "Mutual information (nats)": ("level and representation=mutual_information",),
    "Divergence of tiles (bits)": ("given and trained on=tile_divergence",),
    "Train solve rate by role": (
        "all=train_solve_rate",
        "levels, first try=train_levels_solved",
        "solve_rate_*",
    ),
    "Train return": ("student=train_return", "antagonist=antagonist_return"),
    "Regret, the teacher's pay": ("regret",),
    "Loss": ("total=loss", "policy=policy_loss", "value=value_loss"),
    "Losses of actor and critics": (
        "critics=critic_loss",
        "actor=actor_loss",
        "critics online=online_critic_loss",
        "actor online=online_actor_loss",
    ),
    "Values of recorded actions": ("from the dataset=q", "online=online_q"),
    "Conservative gap": ("from the dataset=cql_gap", "online=online_cql_gap"),
    "Errors of models, held back": (
        "forwards=model_held_back_error",
        "backwards=reverse_held_back_error",
        "seeker=seeker_loss",
    ),
    "Uncertainty that is charged for": ("penalty",),
    "Distance to the dataset (1: like it)": ("mahalanobis_*",),
    "Entropy": (
        "student=entropy",
        "teacher=teacher_entropy",
        "prediction=prediction_entropy",
    ),
    "Size of an update": ("KL divergence=approx_kl", "share clipped=clip_fraction"),
    "Shares of levels": (
        "filled=buffer_fill",
        "edited=buffer_edited",
        "accepted=acceptance",
        "solvable=level_solvable",
    ),
    "Number of levels": (
        "effective, buffer=buffer_effective_levels",
        "distinct, batch=unique_levels",
    ),
    "Scores in the buffer": ("mean=buffer_score", "highest=buffer_max_score"),
    "Levels played": ("level_*",),
    "Rewards of tasks": ("task_*_reward",),
    "Sizes of tasks": ("task_*",),
}
# Panels of these columns alone run from 0 to 1.
_SHARES = (
    "*_rate*",
    "train_levels_solved",
    "buffer_fill",
    "buffer_edited",
    "acceptance",
    "*solvable",
)
_MAX_POINTS = 1000  # per line: more than a panel has pixels


@plain_text
def learning_curves(
    frame: pd.DataFrame,
    path: str | Path,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Draws metrics against environment steps, one small panel per group.

    Where none were played (offline learning), against updates.

    The line is the mean over seeds and the band their range; from 4 seeds on, the
    interquartile mean and its 95 % bootstrap interval. Nothing is smoothed: of long
    runs, evenly spaced points are drawn.

    Args:
      frame: one row per seed and time: `seed`, `env_steps` and columns of metrics,
        NaN where one has no value.
      path: PNG file to write.
      groups: panel title -> columns, written as in `DEFAULT_GROUPS`, which None takes.
        Columns that are missing or empty are left out, and so are empty panels.

    Returns:
      the path.
    """
    unit = "environment steps"
    if "update" in frame and not (_numbers(frame["env_steps"]) > 0).any():
        # Whoever learns from a dataset plays nothing.
        frame, unit = frame.assign(env_steps=frame["update"]), "updates"
    panels = _panels(frame, DEFAULT_GROUPS if groups is None else groups)
    n_columns = min(3, max(1, len(panels)))
    n_rows = max(1, math.ceil(len(panels) / n_columns))
    figure = Figure(
        figsize=(3.5 * n_columns + 0.2, 2.55 * n_rows + 0.55),
        dpi=DPI,
        layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09),
    )
    FigureCanvasAgg(figure)
    if not panels:
        figure.suptitle("No metrics yet", fontsize=11, color=INK)
        return save(figure, path)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).reshape(-1)
    for ax in axes[len(panels) :]:
        ax.remove()
    legends = [_legend_shape(series) for series in panels.values()]
    steps = _numbers(frame["env_steps"])
    end = float(np.nanmax(steps, initial=1.0))
    for i, (title, series) in enumerate(panels.items()):
        _lines(axes[i], frame, series)
        row = legends[i - i % n_columns :][:n_columns]
        n_rows_above = max(shape[1] for shape in row)
        _decorate(axes[i], title, end, legends[i][0], n_rows_above)
        axes[i].set_xlabel(unit, size=8, color=QUIET)
    figure.suptitle(_seeds_note(frame), fontsize=9.5, color=QUIET)
    return save(figure, path)


def _panels(
    frame: pd.DataFrame, groups: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, str]]:
    """Panel title -> {name of the series: column}, of columns that hold numbers."""
    if "env_steps" not in frame:
        return {}
    left = [c for c in frame if c not in ("seed", "env_steps", "update", "wall_s")]
    left = [c for c in left if np.isfinite(_numbers(frame[c])).any()]
    panels = {}
    for title, patterns in groups.items():
        series = {}
        for entry in patterns:
            name, _, pattern = entry.rpartition("=")
            for column in list(left):
                if (wild := _match(pattern, column)) is not None:
                    series[name or (wild or column).replace("_", " ")] = column
                    left.remove(column)
        if series:
            panels[title] = series
    return panels


def _match(pattern: str, column: str) -> str | None:
    """What the stars of a pattern stand for in a column; None if it does not fit."""
    regex = "(.*)".join(re.escape(part) for part in pattern.split("*"))
    found = re.fullmatch(regex, column)
    return None if found is None else " ".join(found.groups())


def _lines(ax: Axes, frame: pd.DataFrame, series: dict[str, str]) -> None:
    """One line and band per series; panels of shares run from 0 to 1."""
    given = looks(series)
    for name, column in series.items():
        colour, style, _ = given[name]
        label = name
        for x, line, low, high in _over_seeds(frame, column):
            width = 1.6 if len(x) < 60 else 1.2
            marker = "o" if len(x) == 1 else None
            front = 2 if name == "all" else 3
            ax.plot(
                x, line, style, color=colour, label=label, lw=width, marker=marker,
                ms=3.5, zorder=front,
            )  # fmt: skip
            ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
            label = None  # one entry in the legend, however many pieces
    if all(any(_match(p, c) is not None for p in _SHARES) for c in series.values()):
        ax.set_ylim(-0.03, 1.03)


def _legend_shape(series: dict[str, str]) -> tuple[int, int]:
    """Columns and rows of a legend that is about as wide as a panel."""
    widest = max(len(name) for name in series)
    columns = int(np.clip(58 // (widest + 6), 1, len(series)))
    return columns, math.ceil(len(series) / columns)


def _decorate(ax: Axes, title: str, end: float, columns: int, rows: int) -> None:
    """Title, legend and axes; titles of a row of panels leave room for `rows`."""
    ax.set_title(title, loc="left", size=10, color=INK, pad=6 + 11.5 * rows)
    # Above the panel, a legend covers no data.
    ax.legend(
        ncols=columns, fontsize=7.5, loc="lower left", bbox_to_anchor=(-0.02, 0.985),
        frameon=False, borderaxespad=0.1, handlelength=1.3, handletextpad=0.45,
        columnspacing=1.1, labelspacing=0.25, labelcolor=INK,
    )  # fmt: skip
    ax.set_xlim(0, 1.02 * end)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.tick_params(labelsize=8, color=TRACK, labelcolor=QUIET)
    ax.grid(color=TRACK, lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#b9bcc6")


def _over_seeds(
    frame: pd.DataFrame, column: str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """x, line, low and high of one metric, in pieces over which the seeds are the same.

    A seed counts from its first value to its last; in between, what it has not logged
    is interpolated.
    """
    values = _numbers(frame[column])
    steps = _numbers(frame["env_steps"])
    known = np.isfinite(values) & np.isfinite(steps)
    values, steps, seeds = values[known], steps[known], _seeds(frame)[known]
    x = np.unique(steps)
    x = x[np.unique(np.linspace(0, len(x) - 1, _MAX_POINTS).round().astype(int))]
    rows = []
    for seed in np.unique(seeds):
        own = seeds == seed
        order = np.argsort(steps[own], kind="stable")
        at, y = steps[own][order], values[own][order]
        rows.append(np.interp(x, at, y, left=np.nan, right=np.nan))
    table = np.stack(rows)
    present = ~np.isnan(table)
    change = np.flatnonzero((present[:, 1:] != present[:, :-1]).any(axis=0)) + 1
    for piece in np.split(np.arange(len(x)), change):
        runs = table[present[:, piece[0]]][:, piece]
        if len(runs) == 0:
            continue
        yield x[piece], *_centre_and_band(runs)


def _centre_and_band(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if len(runs) < 4:
        return runs.mean(axis=0), runs.min(axis=0), runs.max(axis=0)

    def iqm(x: np.ndarray) -> Any:
        return statistics.iqm(x, axis=0)

    interval = statistics.stratified_bootstrap(runs, iqm, reps=300, whole_runs=True)
    line, low, high = (np.asarray(part) for part in interval)
    return line, low, high


def _seeds_note(frame: pd.DataFrame) -> str:
    steps, seeds = _numbers(frame["env_steps"]), _seeds(frame)
    ends = [np.nanmax(steps[seeds == seed]) for seed in np.unique(seeds)]
    n, n_to_end = len(ends), ends.count(max(ends))
    note = "1 seed" if n == 1 else f"{n} seeds"
    if n_to_end < n:
        note += f" ({n_to_end} to the end)"
    if 1 < n < 4:
        note += ": mean and range"
    elif n >= 4:
        note += ": interquartile mean and its 95 % bootstrap interval"
    return note


def _seeds(frame: pd.DataFrame) -> np.ndarray:
    return np.asarray(frame["seed"]) if "seed" in frame else np.zeros(len(frame))


def _numbers(column: Any) -> np.ndarray:
    """A column as float64, NaN for whatever is no number."""
    return np.asarray(pd.to_numeric(column, errors="coerce"), float)
