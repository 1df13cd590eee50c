"""What a dataset holds: returns of its episodes, by who played them and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps, colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlgen.evaluation.pictures._style import (
    CYCLE,
    DPI,
    INK,
    QUIET,
    looks,
    plain_text,
    quieten,
    save,
)

_N_BINS = 40
_MAX_NAMED = 7


@plain_text
def return_panels(
    returns: np.ndarray,
    policies: Sequence[str],
    levels: np.ndarray,
    references: Mapping[str, float | None],
    path: str | Path,
    title: str,
) -> Path:
    """Draws a histogram of returns by policy, and the returns on each level.

    Args:
      returns: [E], one per episode.
      policies: E names of who played it.
      levels: int[E], what it was played on.
      references: returns to mark by a line, by name; None is left out.
    """
    figure = Figure(figsize=(9.0, 3.4), dpi=DPI, layout="constrained")
    by_policy, by_level = figure.subplots(1, 2)
    names = list(dict.fromkeys(policies))
    of_policy = np.array([names.index(name) for name in policies])
    _histogram(by_policy, returns, of_policy, names)
    _by_level(by_level, returns, np.array(_colours(names))[of_policy], levels)
    for name, value in references.items():
        if value is None:
            continue
        by_policy.axvline(value, color=INK, lw=0.9, ls="--")
        by_level.axhline(value, color=INK, lw=0.9, ls="--")
        by_level.annotate(
            f"{name} {value:.3g}", (1.0, value), (3, 0), va="center", fontsize=7,
            xycoords=("axes fraction", "data"), textcoords="offset points", color=INK,
        )  # fmt: skip
    figure.suptitle(title, fontsize=11, color=INK)
    return save(figure, path)


def _histogram(
    ax: Axes, returns: np.ndarray, of_policy: np.ndarray, names: list[str]
) -> None:
    low, high = float(returns.min()), float(returns.max())
    margin = 0.5 if high <= low else 0.0
    bins = np.linspace(low - margin, high + margin, _N_BINS + 1).tolist()
    parts = [returns[of_policy == i] for i in range(len(names))]
    # Of many policies a few are named; they come in order.
    named = np.linspace(0, len(names) - 1, min(len(names), _MAX_NAMED)).astype(int)
    labels = [
        f"{name} ({len(part):,})" if i in named else "_"
        for i, (name, part) in enumerate(zip(names, parts, strict=True))
    ]
    ax.hist(parts, bins, stacked=True, color=_colours(names), label=labels)
    ax.set_xlabel("return of an episode", fontsize=8, color=QUIET)
    ax.set_ylabel("episodes", fontsize=8, color=QUIET)
    ax.set_title("By policy (episodes); dashed: references", fontsize=9, color=INK,
                 loc="left")  # fmt: skip
    ax.legend(fontsize=7, frameon=False, labelcolor=INK)
    quieten(ax, "y")


def _by_level(
    ax: Axes, returns: np.ndarray, colours: np.ndarray, levels: np.ndarray
) -> None:
    known, of_level = np.unique(levels, return_inverse=True)
    mean = np.bincount(of_level, returns) / np.bincount(of_level)
    order = np.argsort(mean, kind="stable")
    rank = np.argsort(order)
    ax.scatter(rank[of_level], returns, s=5, lw=0, alpha=0.5, c=colours.tolist())
    style = "_" if len(known) == 1 else "-"
    ax.plot(np.arange(len(known)), mean[order], style, color=INK, lw=1.4, ms=60)
    ax.set_xlim(-0.5, len(known) - 0.5)
    ax.set_xlabel("levels, in the order of their mean (line)", fontsize=8, color=QUIET)
    ax.set_title("By level", fontsize=9, color=INK, loc="left")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    quieten(ax, "y")


def _colours(names: list[str]) -> list[str]:
    """A colour each for a few policies; for many, which come in order, a scale."""
    n = len(names)
    if n <= len(CYCLE):
        return [look.colour for look in looks(names).values()]
    return [colors.to_hex(row) for row in colormaps["viridis"](np.linspace(0, 0.95, n))]
