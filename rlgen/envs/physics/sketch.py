"""Bodies of a physics simulation as a simple picture, drawn under jit."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH = 120, 160  # pixels
_INK = np.array([43, 48, 64], np.uint8)
_PAPER = np.array([244, 243, 238], np.uint8)
_GROUND = np.array([205, 200, 186], np.uint8)
_BODY = np.array([0, 114, 178], np.uint8)
_THING = np.array([213, 94, 0], np.uint8)
_GAUGE = np.array([0, 158, 115], np.uint8)
_RADIUS = 3.0  # pixels, half the thickness of a rod
_TICK = 4  # pixels, depth of the marks on the ground


def draw(
    rods: jax.Array,
    things: jax.Array,
    centre: jax.Array,
    scale: float,
    *,
    ground: bool,
) -> jax.Array:
    """Rods in blue and things in orange on paper, with marks of metres on the ground.

    Args:
      rods: float32[N, 2, 2], the two ends of each, in metres to the right and up.
      things: float32[K, 2].
      centre: float32[2], what the middle of the picture shows.
      scale: pixels per metre.
      ground: fill what lies below 0, with a mark at every metre.

    Returns:
      uint8[HEIGHT, WIDTH, 3].
    """
    right = (jnp.arange(WIDTH) - (WIDTH - 1) / 2) / scale + centre[0]
    up = ((HEIGHT - 1) / 2 - jnp.arange(HEIGHT)) / scale + centre[1]
    pixels = jnp.stack(jnp.broadcast_arrays(right[None, :], up[:, None]), axis=-1)
    picture = jnp.broadcast_to(_PAPER, (HEIGHT, WIDTH, 3))
    if ground:
        below = up[:, None] < 0
        # A mark is the one pixel in which a whole metre begins.
        whole = jnp.floor(right) != jnp.floor(right - 1 / scale)
        marks = below & (up[:, None] >= -_TICK / scale) & whole
        picture = jnp.where(below[..., None], _GROUND, picture)
        picture = jnp.where(marks[..., None], _INK, picture)
    points = jnp.stack([things, things], axis=1)
    for shapes, colour in ((rods, _BODY), (points, _THING)):
        if len(shapes):
            near = jnp.min(jax.vmap(_distance, (None, 0))(pixels, shapes), axis=0)
            picture = jnp.where((near * scale < _RADIUS)[..., None], colour, picture)
    return picture


def _distance(pixels: jax.Array, rod: jax.Array) -> jax.Array:
    """Distance of pixels [H, W, 2] to the line between two ends [2, 2]. [H, W]."""
    along = rod[1] - rod[0]
    offset = pixels - rod[0]
    # Rods without length are points.
    share = offset @ along / jnp.maximum(along @ along, 1e-12)
    nearest = jnp.clip(share, 0.0, 1.0)[..., None] * along
    return jnp.linalg.norm(offset - nearest, axis=-1)


_ROW = 10  # pixels, height of a gauge
_MARGIN = 2  # pixels
_LETTERS, _LABEL_WIDTH = 4, 26  # of a name, pixels
_UNIT = 22  # pixels


def gauges(picture: jax.Array, names: tuple[str, ...], values: jax.Array) -> jax.Array:
    """Adds a named bar for each value in the corner, from a mark at 0 on.

    Args:
      picture: uint8[HEIGHT, WIDTH, 3].
      values: float32[N] in -1..1, to the left and to the right.

    Returns:
      the picture.
    """
    zero = _MARGIN + _LABEL_WIDTH + _UNIT
    ends = zero + jnp.round(_UNIT * jnp.clip(values, -1.0, 1.0))
    rows, columns = jnp.arange(HEIGHT)[:, None], jnp.arange(WIDTH)
    for i, end in enumerate(ends):
        top = _MARGIN + i * _ROW
        within = (rows >= top + 2) & (rows < top + _ROW - 2)
        low, high = jnp.minimum(zero, end), jnp.maximum(zero, end)
        bar = within & (columns >= low) & (columns <= high)
        mark = (rows >= top + 1) & (rows < top + _ROW - 1) & (columns == zero)
        picture = jnp.where(bar[..., None], _GAUGE, picture)
        picture = jnp.where(mark[..., None], _INK, picture)
    return jnp.where(_labels(names)[..., None], _INK, picture)


@functools.cache
def _labels(names: tuple[str, ...]) -> np.ndarray:
    """Where the ink of the gauges' names is. bool[HEIGHT, WIDTH]."""
    canvas = Image.new("1", (WIDTH, HEIGHT))
    font = ImageFont.load_default_imagefont()
    for i, name in enumerate(names):
        at = (_MARGIN, _MARGIN + i * _ROW - 1)
        ImageDraw.Draw(canvas).text(at, name[:_LETTERS], fill=1, font=font)
    return np.array(canvas)
