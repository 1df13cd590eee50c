"""How costs grow with a size, beside what the machine would let them be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from numpy.typing import ArrayLike

from rlgen.evaluation.pictures._style import (
    DPI,
    INK,
    looks,
    plain_text,
    quieten,
    save,
    size_axis,
)


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
    given = looks(curves)
    for name, (sizes, costs, limits) in curves.items():
        colour, _, marker = given[name]
        order = np.argsort(np.asarray(sizes))
        x, y = np.asarray(sizes)[order], np.asarray(costs)[order]
        ax.plot(x, y, color=colour, marker=marker, ms=4, lw=1.4, label=name)
        ax.plot(x, np.asarray(limits, float)[order], color=colour, ls=":", lw=1.0)
    size_axis(ax, np.concatenate([np.asarray(sizes) for sizes, *_ in curves.values()]))
    ax.set_yscale("log")
    # As it is by default, but without formulas.
    ax.yaxis.set_major_formatter(LogFormatter())
    ax.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    ax.set_xlabel(x_label, fontsize=8, color=INK)
    ax.set_ylabel(y_label, fontsize=8, color=INK)
    ax.set_title(title, fontsize=9, color=INK)
    quieten(ax)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    return save(figure, path)
