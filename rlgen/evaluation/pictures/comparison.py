"""Algorithms side by side: points with intervals, and curves against what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from rlgen.evaluation.pictures._style import (
    INK,
    QUIET,
    legend_below,
    looks,
    plain_text,
    quieten,
    save,
)


@plain_text
def interval_panels(
    panels: Mapping[str, pd.DataFrame],
    path: str | Path,
    title: str,
    note: str = "",
    *,
    among: Sequence[str] = (),
    share: bool = False,
) -> Path:
    """Draws one panel per table, one row of it per algorithm.

    Args:
      panels: by title; columns algorithm, point, low and high (NaN: none).
      note: a line below, on what the intervals are.
      among: see `looks`; rows are in its order.
      share: what is drawn are shares: all panels run from 0 to 1.
    """
    present = list(dict.fromkeys(n for p in panels.values() for n in p["algorithm"]))
    names = [name for name in dict.fromkeys((*among, *present)) if name in present]
    columns = _columns(len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(2.6 * columns + 1.2, (0.3 * len(names) + 0.8) * rows + 0.8),
        layout="constrained",
        dpi=160,
    )
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    given = looks(names, among)
    # Normalised scores go a little beyond.
    drawn = pd.concat([p[["point", "low", "high"]] for p in panels.values()])
    least, most = min(0.0, drawn.min().min()), max(1.0, drawn.max().max())
    for ax, (heading, table) in zip(axes, panels.items(), strict=False):
        for row in table.to_dict("records"):
            at = names.index(row["algorithm"])
            colour, _, marker = given[row["algorithm"]]
            if np.isfinite(row["low"]):
                ax.plot([row["low"], row["high"]], [at, at], color=colour, lw=2.5)
            ax.plot(row["point"], at, marker, color=colour, ms=5)
        ax.set_title(heading, fontsize=9, color=INK)
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.set_ylim(len(names) - 0.5, -0.5)
        quieten(ax, "x")
        if share:
            ax.set_xlim(least - 0.03, most + 0.03)
            ax.set_xticks([0.0, 0.5, 1.0])
        else:
            ax.locator_params(axis="x", nbins=4)
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    figure.suptitle(title, fontsize=11, color=INK)
    if note:
        figure.supxlabel(note, fontsize=8, color=QUIET)
    return save(figure, path)


def _columns(n: int) -> int:
    """So that rows are full, or nearly."""
    return n if n <= 5 else 3 if n % 3 == 0 and n % 4 else 4


@plain_text
def cost_curves(
    tables: Mapping[str, pd.DataFrame],
    costs: Mapping[str, str],
    path: str | Path,
    title: str,
    note: str = "",
    *,
    among: Sequence[str] = (),
) -> Path:
    """Draws one row of panels per table, and in it the same curves against each cost.

    Args:
      tables: by title; columns algorithm, point, low, high (NaN: none) and the costs,
        one row per algorithm and time.
      costs: the columns of costs, and what their axes are called.
      note: a line below, on what the bands are.
      among: see `looks`.
    """
    names = list(dict.fromkeys(n for t in tables.values() for n in t["algorithm"]))
    figure = Figure(
        figsize=(3.2 * len(costs) + 0.6, 2.4 * len(tables) + 1.1),
        layout="constrained",
        dpi=160,
    )
    axes = figure.subplots(len(tables), len(costs), squeeze=False, sharey="row")
    given = looks(names, among)
    for row, (heading, table) in zip(axes, tables.items(), strict=True):
        for ax, (cost, label) in zip(row, costs.items(), strict=True):
            for name, (colour, dash, marker) in given.items():
                own: Any = table[table["algorithm"] == name]
                if own.empty:
                    continue
                ax.plot(
                    own[cost], own["point"], dash, marker=marker, color=colour, ms=3,
                    lw=1.6, label=name,
                )  # fmt: skip
                ax.fill_between(
                    own[cost], own["low"], own["high"], color=colour, alpha=0.15, lw=0
                )
            quieten(ax)
            ax.locator_params(axis="x", nbins=4)
            ax.set_xlim(left=0)
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
            ax.set_xlabel(label, fontsize=8, color=QUIET)
        row[0].set_title(heading, fontsize=9, color=INK, loc="left")
    figure.suptitle(title, fontsize=11, color=INK)
    legend_below(figure, axes.ravel(), note)
    return save(figure, path)
