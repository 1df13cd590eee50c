"""Grids of levels: held-out ones with their results, and what is replayed now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from rlgen.env import Env
from rlgen.evaluation.pictures._style import CYCLE, DPI, INK, TRACK, plain_text, save

PyTree = Any
Images = np.ndarray | Sequence[np.ndarray]

_SOLVED = LinearSegmentedColormap.from_list(
    "solved", ["#D55E00", "#EBB747", "#68AEDB", "#005FA3"]
)
_MAX_PICTURES = 120


def level_images(env: Env, levels: PyTree, key: jax.Array) -> np.ndarray:
    """First picture of every level of a stack: uint8[N, H, W, 3]."""
    n = jax.tree.leaves(levels)[0].shape[0]

    def draw(key, level):
        return env.render(level, env.reset(key, level)[0])

    levels = jax.tree.map(jnp.asarray, levels)
    return np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(key, n), levels))


@plain_text
def level_grid(
    images: Images,
    captions: Sequence[str],
    path: str | Path,
    title: str | None = None,
    columns: int | None = None,
    values: Sequence[float] | np.ndarray | None = None,
) -> Path:
    """Draws a grid of pictures with a caption below each.

    Args:
      images: N pictures uint8[H, W, 3], of one size or of several. Of more than 120,
        the first 120 are drawn and the title says so.
      captions: N texts, of one line or several. Long lines are set smaller.
      path: PNG file to write.
      title: stands above the grid.
      columns: pictures per row; None chooses a grid with few holes.
      values: N numbers in 0..1, such as solve rates, shown as a bar and a frame from
        orange (0) to blue (1). NaN shows none.

    Returns:
      the path.

    Raises:
      ValueError: no pictures, or not as many captions or values as pictures.
    """
    if values is None:
        return _tiles(images, captions, path, title, columns)
    bars = np.clip(np.asarray(values, float), 0, 1)
    colours = [TRACK if np.isnan(bar) else _SOLVED(bar) for bar in bars]
    return _tiles(images, captions, path, title, columns, bars, colours, framed=True)


@plain_text
def curriculum_picture(
    images: Images,
    probabilities: Sequence[float] | np.ndarray,
    captions: Sequence[str],
    path: str | Path,
) -> Path:
    """Draws what a curriculum replays now, the likeliest levels first.

    Args:
      images: N pictures uint8[H, W, 3], N at most a few dozen.
      probabilities: N chances that a replayed level is this one. They sum to less
        than 1 if other levels are left out.
      captions: N texts such as "score 0.42".
      path: PNG file to write.

    Returns:
      the path.
    """
    p = np.asarray(probabilities, float)
    order = np.argsort(-p, kind="stable")
    texts = [f"{p[i]:.1%} of replays\n{captions[i]}" for i in order]
    levels = "level" if len(p) == 1 else f"{len(p)} levels"
    title = f"The {levels} replayed most: {min(p.sum(), 1):.0%} of all replays"
    bars = p[order] / max(p.max(initial=0), 1e-12)
    colours = [CYCLE[0]] * len(p)
    return _tiles([images[i] for i in order], texts, path, title, None, bars, colours)


def _tiles(
    images: Images,
    captions: Sequence[str],
    path: str | Path,
    title: str | None,
    columns: int | None,
    bars: np.ndarray | None = None,
    colours: Sequence[Any] | None = None,
    framed: bool = False,
) -> Path:
    """Pictures in rows, each with a bar (a length in 0..1) and a caption below it."""
    n = len(images)
    if n == 0:
        raise ValueError("There are no pictures to draw: pass at least one.")
    for name, given in (("captions", captions), ("values", bars)):
        if given is not None and len(given) != n:
            raise ValueError(f"{n} pictures need {n} {name}, not {len(given)}.")
    if n > _MAX_PICTURES:
        title = f"{title or 'Levels'} (the first {_MAX_PICTURES} of {n})"
        n = _MAX_PICTURES
    columns = columns or _balanced_columns(n)
    n_rows = math.ceil(n / columns)
    # All lengths are inches, so that text and pictures keep their proportions.
    ratio = max(image.shape[0] / image.shape[1] for image in images[:n])
    n_lines = max(caption.count("\n") + 1 for caption in captions[:n])
    tile_w, tile_h, gap, margin = 1.75, 1.75 * min(ratio, 2.0), 0.2, 0.2
    caption_h = 0.07 + 0.15 * n_lines + (0.11 if bars is not None else 0)
    head = 0.3 if title else 0.0
    width = 2 * margin + columns * tile_w + (columns - 1) * gap
    height = 2 * margin + head + n_rows * (tile_h + caption_h) + (n_rows - 1) * gap
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        top = 1 - (margin + 0.06) / height
        text = figure.text(
            0.5, top, title, ha="center", va="center", color=INK, size=11
        )
        _fit(text, width - 2 * margin)
    for i in range(n):
        row, column = divmod(i, columns)
        left = margin + column * (tile_w + gap)
        bottom = height - margin - head - row * (tile_h + caption_h + gap) - tile_h
        box = (left / width, bottom / height, tile_w / width, tile_h / height)
        ax = figure.add_axes(box)
        # Enlarged by whole pixels first, cells keep sharp edges in any figure size.
        ax.imshow(images[i].repeat(2, 0).repeat(2, 1), interpolation="antialiased")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(framed)
        below = bottom - 0.05
        if bars is not None and colours is not None:
            ax.spines[:].set(color=colours[i], linewidth=2.2)
            below -= 0.08
            length = 0.0 if np.isnan(bars[i]) else bars[i]
            for share, colour in ((1.0, TRACK), (length, colours[i])):
                size = (share * tile_w / width, 0.05 / height)
                corner = (left / width, below / height)
                figure.add_artist(Rectangle(corner, *size, color=colour, lw=0))
            below -= 0.04
        centre = (left + tile_w / 2) / width
        for line in captions[i].split("\n"):
            text = figure.text(
                centre, below / height, line, ha="center", va="top", color=INK, size=8
            )
            _fit(text, tile_w + 0.6 * gap)
            below -= 0.15
    return save(figure, path)


def _balanced_columns(n: int) -> int:
    """Columns of a grid that is a bit wider than high and has few holes."""
    root = math.sqrt(n)
    options = range(math.ceil(root), min(math.ceil(2 * root), 12) + 1)
    return min(options, key=lambda c: (-n % c, abs(c - 1.4 * root)))


def _fit(text: Text, width: float) -> None:
    """Sets a text smaller, and at last shortens it, until it is `width` inches wide."""

    def too_wide() -> bool:
        return text.get_window_extent().width > width * DPI

    size = float(text.get_fontsize())
    while too_wide() and size > 6:
        size -= 0.5
        text.set_fontsize(size)
    words = text.get_text()
    while too_wide() and len(words) > 1:
        words = words[:-1]
        text.set_text(words.rstrip() + "…")
