"""Scores of levels, one strip per level set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from rlgen.evaluation.pictures._style import (
    DPI,
    INK,
    QUIET,
    looks,
    plain_text,
    quieten,
    save,
)

# Scores that differ more than so many times are drawn on a logarithmic axis.
_MANY_TIMES = 10


@plain_text
def score_strips(table: pd.DataFrame, path: str | Path, title: str, label: str) -> Path:
    """Draws a dot per seed and level, and a line at each set's mean.

    Args:
      table: columns level_set and score (positive), one row per seed and level.
      label: what the score is.
    """
    parts = {
        str(name): part["score"].to_numpy(float)
        for name, part in table.groupby("level_set", sort=False)
    }
    figure = Figure(
        figsize=(7.0, 0.55 * len(parts) + 1.2), dpi=DPI, layout="constrained"
    )
    ax = figure.subplots()
    rng = np.random.default_rng(0)
    given = looks(parts)
    for at, (name, scores) in enumerate(parts.items()):
        colour = given[name].colour
        # Spread in height, so that dots do not hide one another.
        height = at + rng.uniform(-0.3, 0.3, len(scores))
        ax.scatter(scores, height, s=9, lw=0, alpha=0.5, color=colour)
        mean = float(scores.mean())
        ax.plot([mean, mean], [at - 0.4, at + 0.4], color=INK, lw=1.6)
        ax.annotate(
            f"{name}: {mean:.2f}", (0, at), (-6, 0), ha="right", va="center",
            xycoords=("axes fraction", "data"), textcoords="offset points",
            fontsize=8, color=INK,
        )  # fmt: skip
    every = np.concatenate(list(parts.values()))
    if every.max() > _MANY_TIMES * every.min():
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_yticks([])
    ax.set_ylim(len(parts) - 0.4, -0.6)
    ax.set_xlabel(f"{label}; line: mean", fontsize=8, color=QUIET)
    quieten(ax, "x")
    ax.spines["left"].set_visible(False)
    figure.suptitle(title, fontsize=11, color=INK)
    return save(figure, path)
