"""Functions as pictures: maps of two arguments, lines of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from rlgen.evaluation.pictures._style import (
    DPI,
    INK,
    QUIET,
    legend_below,
    looks,
    plain_text,
    quieten,
    save,
    size_axis,
)


@plain_text
def heat_maps(
    maps: Mapping[str, np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    path: str | Path,
    title: str,
    *,
    x_label: str,
    y_label: str,
    value_label: str,
) -> Path:
    """Draws values [Y, X] over a regular grid, one panel each, all in one scale.

    White is 0, and a line marks where the sign changes or a value leaves 0.
    """
    figure = Figure(figsize=(2.6 * len(maps) + 1.4, 3.2), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False, sharey=True)[0]
    peak = max(float(np.nanmax(np.abs(values))) for values in maps.values())
    norm = TwoSlopeNorm(0.0, -max(peak, 1e-9), max(peak, 1e-9))
    image = None
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        image = ax.pcolormesh(x, y, values, cmap="PuOr", norm=norm, rasterized=True)
        if np.nanmax(np.abs(values)) > 0.01 * peak:
            ax.contour(
                x, y, np.abs(values), levels=[0.01 * peak], colors=QUIET, linewidths=0.7
            )
        ax.set_title(name, fontsize=9, color=INK)
        ax.set_xlabel(x_label, fontsize=8, color=QUIET)
        ax.tick_params(labelsize=8, colors=QUIET)
    axes[0].set_ylabel(y_label, fontsize=8, color=QUIET)
    if image is not None:
        bar = figure.colorbar(image, ax=list(axes), shrink=0.85)
        bar.set_label(value_label, fontsize=8, color=QUIET)
        bar.ax.tick_params(labelsize=8, colors=QUIET)
    figure.suptitle(title, fontsize=11, color=INK)
    return save(figure, path)


class Line(NamedTuple):
    """A line with a band, over its own x: all of shape [X]; NaN ends: no band."""

    x: np.ndarray
    point: np.ndarray
    low: np.ndarray
    high: np.ndarray


def over_runs(x: ArrayLike, values: ArrayLike) -> Line:
    """Mean and range over the rows of values [R, X] (or one line [X])."""
    rows = np.atleast_2d(np.asarray(values, float))
    nothing = np.full(rows.shape[1], np.nan)
    low, high = (rows.min(0), rows.max(0)) if len(rows) > 1 else (nothing, nothing)
    return Line(np.asarray(x, float), rows.mean(0), low, high)


def over_rows(table: pd.DataFrame) -> Line:
    """Mean and range over the rows of a table whose columns are x.

    Every row counts at every point: where one has no value, there is none.
    """
    known = table.dropna(axis="columns")
    return over_runs(known.columns.to_numpy(float), known.to_numpy(float))


@plain_text
def line_panels(
    panels: Mapping[str, Mapping[str, Line]],
    path: str | Path,
    title: str,
    *,
    x_label: Mapping[str, str],
    note: str = "",
    among: Sequence[str] = (),
    sizes: bool = False,
    share_y: bool = False,
) -> Path:
    """Draws lines in panels, each against its own x.

    Args:
      panels: title -> name of the line -> the line.
      x_label: by title too.
      note: a line below, on what bands are.
      among: see `looks`.
      sizes: x is a size: its axis is logarithmic and has ticks where lines have points.
      share_y: all panels have one y axis.
    """
    columns = min(4 if len(panels) > 6 else 3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(3.3 * columns + 0.4, 2.7 * rows + 0.8), dpi=DPI, layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y).ravel()
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    given = looks(names, among)
    # Panels of the same lines share a legend, others have their own.
    fullest = set(max(panels.values(), key=len))
    is_shared = all(fullest & set(lines) for lines in panels.values())
    for ax, (heading, lines) in zip(axes, panels.items(), strict=False):
        for name, line in lines.items():
            colour, style, marker = given[name]
            ax.plot(
                line.x, line.point, style, color=colour, lw=1.6, label=name,
                marker=marker if sizes else None, ms=4,
            )  # fmt: skip
            ax.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, lw=0)
        ax.set_title(heading, fontsize=9, color=INK, loc="left")
        ax.set_xlabel(x_label[heading], fontsize=8, color=QUIET)
        if sizes:
            size_axis(ax, np.concatenate([line.x for line in lines.values()]))
        else:
            ax.locator_params(axis="x", nbins=5)
        if len(lines) > 1 and not is_shared:
            ax.legend(
                fontsize=7, frameon=False, labelcolor=INK, loc="upper left",
                bbox_to_anchor=(1.0, 1.0),
            )  # fmt: skip
        quieten(ax)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    figure.suptitle(title, fontsize=11, color=INK)
    if is_shared and len(names) > 1:
        legend_below(figure, axes[: len(panels)], note)
    elif note:
        figure.supxlabel(note, fontsize=8, color=QUIET)
    return save(figure, path)
