"""What candidates were chosen by against what they turned out to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from rlgen.evaluation.pictures._style import DPI, INK, looks, plain_text, quieten, save


@plain_text
def agreement_panels(
    panels: Mapping[str, ArrayLike],
    target: ArrayLike,
    groups: Sequence[str],
    path: str | Path,
    *,
    target_name: str,
    title: str,
) -> Path:
    """Draws one panel per criterion: its scores of C candidates against a target.

    A ring marks what the criterion chooses, a line the best that there is.

    Args:
      panels: scores [C] by the criterion's name, which may have several lines.
      target: [C].
      groups: what each candidate belongs to (its run); a colour each.
    """
    target = np.asarray(target, np.float64)
    names = list(dict.fromkeys(groups))
    figure = Figure(
        figsize=(3.4 * len(panels), 3.1 + 0.22 * -(-len(names) // 2)),
        layout="constrained",
        dpi=DPI,
    )
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for ax, (heading, scores) in zip(axes, panels.items(), strict=True):
        scores = np.asarray(scores, np.float64)
        for name, look in looks(names).items():
            rows = [j for j, group in enumerate(groups) if group == name]
            ax.plot(
                scores[rows],
                target[rows],
                look.marker,
                color=look.colour,
                ms=5,
                label=name,
            )
        chosen = int(np.argmax(scores))
        ax.plot(scores[chosen], target[chosen], "o", mfc="none", mec=INK, ms=12)
        ax.axhline(target.max(), color=INK, lw=0.7, ls=":")
        ax.set_xlabel(heading, fontsize=8, color=INK)
        quieten(ax)
    axes[0].set_ylabel(target_name, fontsize=8, color=INK)
    figure.suptitle(title, fontsize=10, color=INK)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2, fontsize=7, frameon=False
    )
    return save(figure, path)
