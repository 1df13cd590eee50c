"""Films of an agent at play: animated GIFs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rlgen.env import Env, select, take
from rlgen.evaluation.pictures._style import COLOURS, INK, QUIET
from rlgen.files import write_atomically
from rlgen.networks import PolicyNetwork

PyTree = Any

_MAX_FRAMES = 300
_FRAMES_AT_ONCE = 16  # rendered side by side, so that memory stays small
_LAST_FRAME_MS = 1500


def agent_gif(
    env: Env,
    network: PolicyNetwork,
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
            return f"step {t}", QUIET
        if success[i]:
            return f"solved in {length[i]}", COLOURS["new"]
        return "not solved", COLOURS["replay"]

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


def _play(
    env: Env,
    network: PolicyNetwork,
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
            policy = network.policy(raw)
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
        pen.text((left, middle), name, INK, font, anchor="lm")
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
