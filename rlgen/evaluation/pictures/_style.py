"""Colours, and how a figure is written."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlgen.files import write_atomically

INK, QUIET, TRACK = "#2b3040", "#6b7080", "#e4e4e8"
# Okabe and Ito's colours, darkest contrasts first; yellow is too pale for lines.
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6b4c9a")
# What appears in several panels or figures keeps its colour everywhere.
COLOURS = {
    "new": "#0072B2",
    "replay": "#D55E00",
    "edited": "#009E73",
    "all": "#8a8d98",
}
DPI = 160

#: For functions that make figures: a dollar in a label, or in a setting, is a dollar,
#: and not the beginning of a formula. Texts are asked once, as they are made.
plain_text = matplotlib.rc_context({"text.parse_math": False})


def quieten(ax: Axes, grid: Literal["x", "y", "both"] = "both") -> None:
    """Axes that stand back behind what they measure."""
    ax.tick_params(labelsize=8, colors=QUIET)
    ax.grid(axis=grid, color=TRACK, lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: str | Path) -> Path:
    """Writes PNG, or PDF whose text stays text, as the file's name asks."""
    path = Path(path)
    # Type 42: journals refuse what matplotlib embeds by itself.
    with write_atomically(path) as file, matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, format=path.suffix[1:])
    return path
