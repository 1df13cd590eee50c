"""Functions as pictures: maps of two arguments, lines of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from rlgen.evaluation.pictures._style import (
    CYCLE,
    DPI,
    INK,
    QUIET,
    plain_text,
    quieten,
    save,
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


@plain_text
def line_panels(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    x: Mapping[str, np.ndarray],
    path: str | Path,
    title: str,
    *,
    x_label: Mapping[str, str],
    note: str = "",
) -> Path:
    """Draws lines in panels: mean and range over the rows of values [R, X].

    Args:
      panels: title -> name of the line -> values [R, X], all of one panel against
        `x` of that title.
      x_label: by title too.
      note: a line below, on what bands are.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(3.3 * columns + 0.4, 2.7 * rows + 0.6), dpi=DPI, layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (heading, lines) in zip(axes, panels.items(), strict=False):
        for at, (name, values) in enumerate(lines.items()):
            colour = CYCLE[at % len(CYCLE)]
            style = ("-", "--", ":")[at // len(CYCLE) % 3]
            values = np.atleast_2d(values)
            ax.plot(x[heading], values.mean(0), style, color=colour, lw=1.6, label=name)
            if len(values) > 1:
                ax.fill_between(
                    x[heading], values.min(0), values.max(0), color=colour, alpha=0.15,
                    lw=0,
                )  # fmt: skip
        ax.set_title(heading, fontsize=9, color=INK, loc="left")
        ax.set_xlabel(x_label[heading], fontsize=8, color=QUIET)
        ax.locator_params(axis="x", nbins=5)
        if len(lines) > 1:
            ax.legend(fontsize=7, frameon=False, labelcolor=INK)
        quieten(ax)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    figure.suptitle(title, fontsize=11, color=INK)
    if note:
        figure.supxlabel(note, fontsize=8, color=QUIET)
    return save(figure, path)
