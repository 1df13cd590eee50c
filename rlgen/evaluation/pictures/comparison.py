"""Algorithms side by side: point estimates with intervals, one panel a quantity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rlgen.evaluation.pictures._style import CYCLE, INK, QUIET, TRACK, save


def interval_panels(
    panels: Mapping[str, pd.DataFrame], path: str | Path, title: str, note: str = ""
) -> Path:
    """Draws one panel per table, one row of it per algorithm.

    Args:
      panels: by title; columns algorithm, point, low and high (NaN: none).
      note: a line below, on what the intervals are.
    """
    names = list(dict.fromkeys(n for p in panels.values() for n in p["algorithm"]))
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(2.6 * columns + 1.2, (0.3 * len(names) + 0.8) * rows + 0.8),
        layout="constrained",
        dpi=160,
    )
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for ax, (heading, table) in zip(axes, panels.items(), strict=False):
        for row in table.to_dict("records"):
            at = names.index(row["algorithm"])
            colour = CYCLE[at % len(CYCLE)]
            if np.isfinite(row["low"]):
                ax.plot([row["low"], row["high"]], [at, at], color=colour, lw=2.5)
            ax.plot(row["point"], at, "o", color=colour, ms=5)
        ax.set_title(heading, fontsize=9, color=INK)
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.tick_params(labelsize=8, colors=QUIET)
        ax.grid(axis="x", color=TRACK, lw=0.7)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.locator_params(axis="x", nbins=4)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    figure.suptitle(title, fontsize=11, color=INK)
    if note:
        figure.supxlabel(note, fontsize=8, color=QUIET)
    return save(figure, path)
