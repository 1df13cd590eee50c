"""How costs grow with a size, beside what the machine would let them be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from numpy.typing import ArrayLike

from rlgen.evaluation.pictures._style import CYCLE, DPI, INK, plain_text, quieten, save


@plain_text
def growth_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]],
    path: str | Path,
    *,
    x_label: str,
    y_label: str,
    title: str,
) -> Path:
    """Draws costs against a size, both by their powers of ten.

    Args:
      curves: sizes [X], costs [X] and lower limits [X] (NaN where there is none) by
        name; limits are dotted.
    """
    figure = Figure(figsize=(6.75, 4.0), layout="constrained", dpi=DPI)
    ax = figure.subplots()
    for i, (name, (sizes, costs, limits)) in enumerate(curves.items()):
        colour, marker = CYCLE[i % len(CYCLE)], "os^Dv"[i // len(CYCLE) % 5]
        order = np.argsort(np.asarray(sizes))
        x, y = np.asarray(sizes)[order], np.asarray(costs)[order]
        ax.plot(x, y, color=colour, marker=marker, ms=4, lw=1.4, label=name)
        ax.plot(x, np.asarray(limits, float)[order], color=colour, ls=":", lw=1.0)
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):  # as they are by default, but without formulas
        axis.set_major_formatter(LogFormatter())
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    ax.set_xlabel(x_label, fontsize=8, color=INK)
    ax.set_ylabel(y_label, fontsize=8, color=INK)
    ax.set_title(title, fontsize=9, color=INK)
    quieten(ax)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    return save(figure, path)
