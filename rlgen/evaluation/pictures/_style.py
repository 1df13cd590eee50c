"""Colours, and how a figure is written."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from rlgen.errors import UserError
from rlgen.files import write_atomically

INK, QUIET, TRACK = "#2b3040", "#6b7080", "#e4e4e8"
# Okabe and Ito's colours, darkest contrasts first; yellow is too pale for lines.
CYCLE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6b4c9a"),
    *("#1b1b1b", "#8f8300"),
)
# What is compared with one another has colours of its own, in the order of `CYCLE`; one
# name has one colour in all figures.
_COMPARED = (
    ("new", "replay", "edited"),
    ("dr", "plr", "robust-plr", "accel", "paired", "sfl", "repaired"),
    ("uniform", "plr-d", "robust-plr", "accel", "accel-d", "el-dred", "vae-dred"),
    ("bc", "cql", "iql", "td3-bc", "mopo", "cocoa-iql", "cocoa-td3-bc"),
    ("goal-cloning", "stitching"),
    ("a2c", "ppo", "dpo", "lpg", "ta-lpg", "lpo", "ta-lpo"),
)
COLOURS = {
    name: colour
    for names in _COMPARED
    for name, colour in zip(names, CYCLE, strict=False)
} | dict.fromkeys(("all", "all of them"), "#8a8d98")
_DASHES = ("-", "--", ":", "-.")
_MARKERS = "os^D"
DPI = 160

#: For functions that make figures: a dollar in a label, or in a setting, is a dollar,
#: and not the beginning of a formula. Texts are asked once, as they are made.
plain_text = matplotlib.rc_context({"text.parse_math": False})


class Look(NamedTuple):
    """How a line is drawn."""

    colour: str
    dash: str
    marker: str


def looks(names: Collection[str], among: Collection[str] = ()) -> dict[str, Look]:
    """The look of each name, no two alike; the same in all figures of a comparison.

    Names in `COLOURS` have theirs; others take what these leave over, in their order.
    Of more names than colours, dashes and markers tell them apart.

    Args:
      among: all names of the comparison, of which this figure shows some: what one of
        them looks like does not depend on which others are shown.
    """
    every = list(dict.fromkeys((*among, *names)))
    known: dict[str, str] = {}
    for name in every:
        if name in COLOURS:  # the first, where two have one colour
            known.setdefault(COLOURS[name], name)
    given = {
        name: Look(colour, _DASHES[0], _MARKERS[0]) for colour, name in known.items()
    }
    free = [
        Look(colour, dash, marker)
        for dash, marker in zip(_DASHES, _MARKERS, strict=True)
        for colour in CYCLE
        if dash != _DASHES[0] or colour not in known
    ]
    others = [name for name in every if name not in given]
    given |= {name: free[i % len(free)] for i, name in enumerate(others)}
    return {name: given[name] for name in names}


def size_axis(ax: Axes, sizes: ArrayLike) -> None:
    """A logarithmic x axis with its ticks at the sizes that were tried."""
    ticks = np.unique(np.asarray(sizes, float))
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{size:,.0f}" for size in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


def legend_below(figure: Figure, axes: Iterable[Axes], title: str = "") -> None:
    """One legend for all panels, outside of them, each name once."""
    handles: dict[str, Artist] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    # As many columns as fit: about 0.07 inches for a letter, and a handle beside it.
    widest = max(map(len, handles), default=0)
    fit = int(figure.get_figwidth() / (0.07 * widest + 0.65))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center",
        ncols=max(1, min(len(handles), fit)), fontsize=8, frameon=False,
        title=title or None, title_fontsize=8, labelcolor=INK,
    )  # fmt: skip


def quieten(ax: Axes, grid: Literal["x", "y", "both"] = "both") -> None:
    """Axes that stand back behind what they measure."""
    ax.tick_params(labelsize=8, colors=QUIET)
    ax.grid(axis=grid, color=TRACK, lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: str | Path) -> Path:
    """Writes PNG, or PDF whose text stays text, as the file's name asks.

    Raises:
      UserError: the name asks for nothing that can be written.
    """
    path = Path(path)
    kinds = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in kinds:
        raise UserError(
            f"A picture cannot be written to {path}: name a file that ends in .png, or "
            f"another of {', '.join(kinds)}."
        )
    # Type 42: journals refuse what matplotlib embeds by itself.
    with write_atomically(path) as file, matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, format=path.suffix[1:])
    return path
