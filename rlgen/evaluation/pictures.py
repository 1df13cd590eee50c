"""Pictures of levels, of learning and of an agent at play: PNG and GIF files.

Nothing here knows an environment: pictures of levels come from `env.render`. Figures
are matplotlib objects of their own, so no display and no global state is needed, and
each file is written whole or not at all. Colours are safe for the colour-blind, and
what a colour says is also said by a length or a word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from rlgen import distributions
from rlgen.env import Env, select, take
from rlgen.evaluation import statistics
from rlgen.files import write_atomically
from rlgen.networks import ActorCritic

PyTree = Any
Images = np.ndarray | Sequence[np.ndarray]

_INK, _QUIET, _TRACK = "#2b3040", "#6b7080", "#e4e4e8"
# Okabe and Ito's colours, darkest contrasts first; yellow is too pale for lines.
_CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6b4c9a")
# What appears in several panels or figures keeps its colour everywhere.
_COLOURS = {
    "new": "#0072B2",
    "replay": "#D55E00",
    "edited": "#009E73",
    "all": "#8a8d98",
}
_SOLVED = LinearSegmentedColormap.from_list(
    "solved", ["#D55E00", "#EBB747", "#68AEDB", "#005FA3"]
)
_DPI = 160

# Panel title -> columns, as "column" or "name of the series=column"; "*" stands for
# anything and names the series. A column is drawn in the first panel that asks for it.
DEFAULT_GROUPS: dict[str, tuple[str, ...]] = {
    "Held-out solve rate": ("eval_*_solve_rate",),
    "Train solve rate by role": ("all=train_solve_rate", "solve_rate_*"),
    "Loss": ("total=loss", "policy=policy_loss", "value=value_loss"),
    "Entropy of the policy": ("entropy",),
    "Size of an update": ("KL divergence=approx_kl", "share clipped=clip_fraction"),
    "Shares of levels": (
        "filled=buffer_fill",
        "edited=buffer_edited",
        "accepted=acceptance",
        "solvable=level_solvable",
    ),
    "Number of levels": (
        "effective, buffer=buffer_effective_levels",
        "distinct, batch=unique_levels",
    ),
    "Scores in the buffer": ("mean=buffer_score", "highest=buffer_max_score"),
    "Levels played": ("level_*",),
}
# Panels of these columns alone run from 0 to 1.
_SHARES = ("*_rate*", "buffer_fill", "buffer_edited", "acceptance", "*solvable")
_MAX_POINTS = 1000  # per line: more than a panel has pixels
_MAX_PICTURES = 120
_MAX_FRAMES = 300
_FRAMES_AT_ONCE = 16  # rendered side by side, so that memory stays small
_LAST_FRAME_MS = 1500


def level_images(env: Env, levels: PyTree, key: jax.Array) -> np.ndarray:
    """First picture of every level of a stack: uint8[N, H, W, 3]."""
    n = jax.tree.leaves(levels)[0].shape[0]

    def draw(key, level):
        return env.render(level, env.reset(key, level)[0])

    levels = jax.tree.map(jnp.asarray, levels)
    return np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(key, n), levels))


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
    colours = [_TRACK if np.isnan(bar) else _SOLVED(bar) for bar in bars]
    return _tiles(images, captions, path, title, columns, bars, colours, framed=True)


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
    colours = [_CYCLE[0]] * len(p)
    return _tiles([images[i] for i in order], texts, path, title, None, bars, colours)


def learning_curves(
    frame: pd.DataFrame,
    path: str | Path,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Draws metrics against environment steps, one small panel per group.

    The line is the mean over seeds and the band their range; from 4 seeds on, the
    interquartile mean and its 95 % bootstrap interval. Nothing is smoothed: of long
    runs, evenly spaced points are drawn.

    Args:
      frame: one row per seed and time: `seed`, `env_steps` and columns of metrics,
        NaN where one has no value.
      path: PNG file to write.
      groups: panel title -> columns, written as in `DEFAULT_GROUPS`, which None takes.
        Columns that are missing or empty are left out, and so are empty panels.

    Returns:
      the path.
    """
    panels = _panels(frame, DEFAULT_GROUPS if groups is None else groups)
    n_columns = min(3, max(1, len(panels)))
    n_rows = max(1, math.ceil(len(panels) / n_columns))
    figure = Figure(
        figsize=(3.5 * n_columns + 0.2, 2.55 * n_rows + 0.55),
        dpi=_DPI,
        layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09),
    )
    FigureCanvasAgg(figure)
    if not panels:
        figure.suptitle("No metrics yet", fontsize=11, color=_INK)
        return _save(figure, path)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).reshape(-1)
    for ax in axes[len(panels) :]:
        ax.remove()
    legends = [_legend_shape(series) for series in panels.values()]
    steps = _numbers(frame["env_steps"])
    end = float(np.nanmax(steps, initial=1.0))
    for i, (title, series) in enumerate(panels.items()):
        _lines(axes[i], frame, series)
        row = legends[i - i % n_columns :][:n_columns]
        _decorate(axes[i], title, end, legends[i][0], max(shape[1] for shape in row))
    figure.suptitle(_seeds_note(frame), fontsize=9.5, color=_QUIET)
    return _save(figure, path)


def agent_gif(
    env: Env,
    network: ActorCritic,
    params: PyTree,
    levels: PyTree,
    key: jax.Array,
    path: str | Path,
    labels: Sequence[str] | None = None,
    max_steps: int | None = None,
    fps: int = 12,
) -> Path:
    """Films one episode of the stochastic policy on each of up to four levels.

    The film ends when all episodes have; an episode that ends first stands still. Long
    films skip steps evenly.

    Args:
      env: without an auto-reset wrapper.
      network: the policy.
      params: its parameters.
      levels: stacked on a leading axis N in 1..4.
      key: of the episodes.
      path: GIF file to write.
      labels: N names of levels.
      max_steps: films no longer than this; None for the episode's time limit.
      fps: frames a second.

    Returns:
      the path.

    Raises:
      ValueError: no level or more than four.
    """
    levels = jax.tree.map(jnp.asarray, levels)
    n = jax.tree.leaves(levels)[0].shape[0]
    if not 1 <= n <= 4:
        raise ValueError(f"A film shows 1 to 4 levels, not {n}: choose some of them.")
    labels = [f"level {i + 1}" for i in range(n)] if labels is None else list(labels)
    n_steps = env.max_episode_steps if max_steps is None else max_steps
    states, success, length = _play(env, network, params, levels, key, n_steps)
    last = int(length.max())
    times = np.unique(
        np.linspace(0, last, min(last + 1, _MAX_FRAMES)).round().astype(int)
    )

    def status(i: int, t: int) -> tuple[str, str]:
        if t < length[i]:
            return f"step {t}", _QUIET
        if success[i]:
            return f"solved in {length[i]}", _COLOURS["new"]
        return "not solved", _COLOURS["replay"]

    draw = jax.jit(jax.vmap(jax.vmap(env.render), in_axes=(None, 0)))

    def film(times: np.ndarray) -> Iterator[Image.Image]:
        for start in range(0, len(times), _FRAMES_AT_ONCE):
            # Short chunks are filled up with the last time: one shape, one compilation.
            at = np.minimum(start + np.arange(_FRAMES_AT_ONCE), len(times) - 1)
            pictures = np.asarray(draw(levels, take(states, jnp.asarray(times[at]))))
            for t, images in zip(
                times[start : start + len(at)], pictures, strict=False
            ):
                yield _frame(images, labels, [status(i, t) for i in range(n)])

    few = times[np.unique(np.linspace(0, len(times) - 1, 6).round().astype(int))]
    palette = _palette(np.concatenate([np.asarray(image) for image in film(few)]))
    frames = (
        image.quantize(palette=palette, dither=Image.Dither.NONE)
        for image in film(times)
    )
    pause = [round(1000 / fps)] * (len(times) - 1) + [_LAST_FRAME_MS]
    with write_atomically(path) as file:
        next(frames).save(
            file, "GIF", save_all=True, append_images=frames, duration=pause, loop=0
        )
    return Path(path)


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
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        top = 1 - (margin + 0.06) / height
        text = figure.text(
            0.5, top, title, ha="center", va="center", color=_INK, size=11
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
            for share, colour in ((1.0, _TRACK), (length, colours[i])):
                size = (share * tile_w / width, 0.05 / height)
                corner = (left / width, below / height)
                figure.add_artist(Rectangle(corner, *size, color=colour, lw=0))
            below -= 0.04
        centre = (left + tile_w / 2) / width
        for line in captions[i].split("\n"):
            text = figure.text(
                centre, below / height, line, ha="center", va="top", color=_INK, size=8
            )
            _fit(text, tile_w + 0.6 * gap)
            below -= 0.15
    return _save(figure, path)


def _balanced_columns(n: int) -> int:
    """Columns of a grid that is a bit wider than high and has few holes."""
    root = math.sqrt(n)
    options = range(math.ceil(root), min(math.ceil(2 * root), 12) + 1)
    return min(options, key=lambda c: (-n % c, abs(c - 1.4 * root)))


def _fit(text: Text, width: float) -> None:
    """Sets a text smaller, and at last shortens it, until it is `width` inches wide."""

    def too_wide() -> bool:
        return text.get_window_extent().width > width * _DPI

    size = float(text.get_fontsize())
    while too_wide() and size > 6:
        size -= 0.5
        text.set_fontsize(size)
    words = text.get_text()
    while too_wide() and len(words) > 1:
        words = words[:-1]
        text.set_text(words.rstrip() + "…")


def _panels(
    frame: pd.DataFrame, groups: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, str]]:
    """Panel title -> {name of the series: column}, of columns that hold numbers."""
    if "env_steps" not in frame:
        return {}
    left = [c for c in frame if c not in ("seed", "env_steps", "update", "wall_s")]
    left = [c for c in left if np.isfinite(_numbers(frame[c])).any()]
    panels = {}
    for title, patterns in groups.items():
        series = {}
        for entry in patterns:
            name, _, pattern = entry.rpartition("=")
            for column in list(left):
                if (wild := _match(pattern, column)) is not None:
                    series[name or (wild or column).replace("_", " ")] = column
                    left.remove(column)
        if series:
            panels[title] = series
    return panels


def _match(pattern: str, column: str) -> str | None:
    """What the stars of a pattern stand for in a column; None if it does not fit."""
    regex = "(.*)".join(re.escape(part) for part in pattern.split("*"))
    found = re.fullmatch(regex, column)
    return None if found is None else " ".join(found.groups())


def _lines(ax: Axes, frame: pd.DataFrame, series: dict[str, str]) -> None:
    """One line and band per series; panels of shares run from 0 to 1."""
    taken = {_COLOURS[name] for name in series if name in _COLOURS}
    free = [c for c in _CYCLE if c not in taken]
    others = [name for name in series if name not in _COLOURS]
    for name, column in series.items():
        colour, style = _COLOURS.get(name), "-"
        if colour is None:
            turn, at = divmod(others.index(name), len(free))
            colour, style = free[at], ("-", "--", ":", "-.")[turn % 4]
        label = name
        for x, line, low, high in _over_seeds(frame, column):
            width = 1.6 if len(x) < 60 else 1.2
            marker = "o" if len(x) == 1 else None
            front = 2 if name == "all" else 3
            ax.plot(
                x, line, style, color=colour, label=label, lw=width, marker=marker,
                ms=3.5, zorder=front,
            )  # fmt: skip
            ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
            label = None  # one entry in the legend, however many pieces
    if all(any(_match(p, c) is not None for p in _SHARES) for c in series.values()):
        ax.set_ylim(-0.03, 1.03)


def _legend_shape(series: dict[str, str]) -> tuple[int, int]:
    """Columns and rows of a legend that is about as wide as a panel."""
    widest = max(len(name) for name in series)
    columns = int(np.clip(58 // (widest + 6), 1, len(series)))
    return columns, math.ceil(len(series) / columns)


def _decorate(ax: Axes, title: str, end: float, columns: int, rows: int) -> None:
    """Title, legend and axes; titles of a row of panels leave room for `rows`."""
    ax.set_title(title, loc="left", size=10, color=_INK, pad=6 + 11.5 * rows)
    # Above the panel, a legend covers no data.
    ax.legend(
        ncols=columns, fontsize=7.5, loc="lower left", bbox_to_anchor=(-0.02, 0.985),
        frameon=False, borderaxespad=0.1, handlelength=1.3, handletextpad=0.45,
        columnspacing=1.1, labelspacing=0.25, labelcolor=_INK,
    )  # fmt: skip
    ax.set_xlim(0, 1.02 * end)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlabel("environment steps", size=8, color=_QUIET)
    ax.tick_params(labelsize=8, color=_TRACK, labelcolor=_QUIET)
    ax.grid(color=_TRACK, lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#b9bcc6")


def _over_seeds(
    frame: pd.DataFrame, column: str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """x, line, low and high of one metric, in pieces over which the seeds are the same.

    A seed counts from its first value to its last; in between, what it has not logged
    is interpolated.
    """
    values = _numbers(frame[column])
    steps = _numbers(frame["env_steps"])
    known = np.isfinite(values) & np.isfinite(steps)
    values, steps, seeds = values[known], steps[known], _seeds(frame)[known]
    x = np.unique(steps)
    x = x[np.unique(np.linspace(0, len(x) - 1, _MAX_POINTS).round().astype(int))]
    rows = []
    for seed in np.unique(seeds):
        own = seeds == seed
        order = np.argsort(steps[own], kind="stable")
        at, y = steps[own][order], values[own][order]
        rows.append(np.interp(x, at, y, left=np.nan, right=np.nan))
    table = np.stack(rows)
    present = ~np.isnan(table)
    change = np.flatnonzero((present[:, 1:] != present[:, :-1]).any(axis=0)) + 1
    for piece in np.split(np.arange(len(x)), change):
        runs = table[present[:, piece[0]]][:, piece]
        if len(runs) == 0:
            continue
        yield x[piece], *_centre_and_band(runs)


def _centre_and_band(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if len(runs) < 4:
        return runs.mean(axis=0), runs.min(axis=0), runs.max(axis=0)

    def iqm(x: np.ndarray) -> Any:
        return statistics.iqm(x, axis=0)

    interval = statistics.stratified_bootstrap(runs, iqm, reps=300, whole_runs=True)
    line, low, high = (np.asarray(part) for part in interval)
    return line, low, high


def _seeds_note(frame: pd.DataFrame) -> str:
    steps, seeds = _numbers(frame["env_steps"]), _seeds(frame)
    ends = [np.nanmax(steps[seeds == seed]) for seed in np.unique(seeds)]
    n, n_to_end = len(ends), ends.count(max(ends))
    note = "1 seed" if n == 1 else f"{n} seeds"
    if n_to_end < n:
        note += f" ({n_to_end} to the end)"
    if 1 < n < 4:
        note += ": mean and range"
    elif n >= 4:
        note += ": interquartile mean and its 95 % bootstrap interval"
    return note


def _seeds(frame: pd.DataFrame) -> np.ndarray:
    return np.asarray(frame["seed"]) if "seed" in frame else np.zeros(len(frame))


def _numbers(column: Any) -> np.ndarray:
    """A column as float64, NaN for whatever is no number."""
    return np.asarray(pd.to_numeric(column, errors="coerce"), float)


def _save(figure: Figure, path: str | Path) -> Path:
    with write_atomically(path) as file:
        figure.savefig(file, format="png")
    return Path(path)


def _play(
    env: Env,
    network: ActorCritic,
    params: PyTree,
    levels: PyTree,
    key: jax.Array,
    n_steps: int,
) -> tuple[PyTree, np.ndarray, np.ndarray]:
    """States [T + 1, N, ...] of one episode per level, its success and length [N]."""
    n = jax.tree.leaves(levels)[0].shape[0]

    @jax.jit
    def play(params, levels, key):
        key_reset, key_steps = jax.random.split(key)
        first, obs = jax.vmap(env.reset)(jax.random.split(key_reset, n), levels)

        def step(carry, key):
            state, obs, memory, is_first, done, success, length = carry
            key_act, key_env = jax.random.split(key)
            memory, raw, _ = network.step(params, memory, obs, is_first)
            policy = distributions.distribution(network.action_space, raw)
            action = policy.sample(seed=key_act)
            keys = jax.random.split(key_env, n)
            step = jax.vmap(env.step)(keys, levels, state, action)
            success |= ~done & step.info["success"]
            length += ~done
            state = jax.vmap(select)(done, state, step.state)
            obs = jax.vmap(select)(done, obs, step.obs)
            done |= step.done
            return (state, obs, memory, no, done, success, length), state

        no = jnp.zeros(n, bool)
        start = (
            first,
            obs,
            network.initial_carry(n),
            ~no,
            no,
            no,
            jnp.zeros(n, jnp.int32),
        )
        end, states = jax.lax.scan(step, start, jax.random.split(key_steps, n_steps))
        states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, states)
        return states, end[5], end[6]

    states, success, length = play(params, levels, key)
    return states, np.asarray(success), np.asarray(length)


def _frame(
    images: np.ndarray, labels: Sequence[str], status: Sequence[tuple[str, str]]
) -> Image.Image:
    """One frame: pictures [N, H, W, 3] in up to two columns, names and status above."""
    n, height, width, _ = images.shape
    enlarge = max(1, round(240 / width))
    height, width = height * enlarge, width * enlarge
    size = int(np.clip(width / 20, 11, 18))
    gap, caption = max(8, size // 2), round(2.1 * size)
    columns, rows = min(n, 2), math.ceil(n / 2)
    shape = (columns * (width + gap) + gap, rows * (height + caption) + gap)
    canvas = Image.new("RGB", shape, "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size)
    for i in range(n):
        row, column = divmod(i, columns)
        left, top = gap + column * (width + gap), row * (height + caption) + caption
        picture = images[i].repeat(enlarge, 0).repeat(enlarge, 1)
        canvas.paste(Image.fromarray(picture), (left, top))
        middle = top - caption // 2 + 1
        text, colour = status[i]
        pen.text((left + width, middle), text, colour, font, anchor="rm")
        room = width - pen.textlength(text, font) - size
        name = _shorten(labels[i], lambda s, room=room: pen.textlength(s, font) <= room)
        pen.text((left, middle), name, _INK, font, anchor="lm")
    return canvas


def _palette(sample: np.ndarray) -> Image.Image:
    """One palette for a whole film, from a few frames uint8[H, W, 3] of it.

    Drawings have few colours and keep the common ones exactly; photographs do not.
    """
    codes = sample.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, counts = np.unique(codes, return_counts=True)
    common = np.argsort(-counts, kind="stable")[:1000]
    if counts[common].sum() < 0.995 * codes.size:
        return Image.fromarray(sample).quantize(255, Image.Quantize.MEDIANCUT)
    kept: list[np.ndarray] = []
    for code in colours[common]:
        colour = np.array([code >> 16, code >> 8 & 255, code & 255], np.int32)
        # Pillow's look-up is coarse: of colours this near, it may take the wrong one.
        if all(np.abs(colour - other).max() >= 12 for other in kept):
            kept.append(colour)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.array(kept[:255], np.uint8).tobytes())
    return palette


def _shorten(text: str, fits: Callable[[str], bool]) -> str:
    shown = text
    while not fits(shown) and len(text) > 1:
        text = text[:-1]
        shown = text.rstrip() + "..."
    return shown
