"""Pictures of a tabletop, as a pure function that jits and vmaps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.envs.tabletop.env import GOAL_RADIUS, Task
from rlgen.envs.tabletop.physics import EDGE, Body

SIZE = 96  # pixels
_TABLE = np.array([244, 243, 238], np.float32)
_GOAL = np.array([0, 158, 115], np.float32)
_HOME = np.array([86, 180, 233], np.float32)
_OBJECT = np.array([213, 94, 0], np.float32)
_HAND = np.array([43, 48, 64], np.float32)
_OBJECT_RADIUS, _HAND_RADIUS, _OPEN_RADIUS = 0.07, 0.05, 0.1  # m
_FAINT = 0.35  # of what is not the target now


def render(level: Task, body: Body) -> jax.Array:
    """Draws goal and home, the target of the two stronger, the object, and the hand.

    The hand is a ring, which is narrow while the fingers are closed.

    Returns:
      uint8[SIZE, SIZE, 3].
    """
    right = ((jnp.arange(SIZE) + 0.5) / SIZE * 2 - 1) * EDGE
    x, y = right[None, :], -right[:, None]
    pixel = 2 * EDGE / SIZE
    picture = jnp.broadcast_to(_TABLE, (SIZE, SIZE, 3))

    def inside(at, radius):
        # A pixel's width of transition makes smooth edges.
        distance = jnp.hypot(x - at[0], y - at[1])
        return jnp.clip((radius - distance) / pixel + 0.5, 0.0, 1.0)

    def paint(picture, strength, colour):
        return picture + strength[..., None] * (colour - picture)

    of_home = jnp.where(level.backward, 1.0, _FAINT)
    of_goal = jnp.where(level.backward, _FAINT, 1.0)
    picture = paint(picture, of_home * inside(level.home, level.spread), _HOME)
    picture = paint(picture, of_goal * inside(level.goal, GOAL_RADIUS), _GOAL)
    picture = paint(picture, inside(body.object, _OBJECT_RADIUS), _OBJECT)
    radius = jnp.where(body.closed, _HAND_RADIUS, _OPEN_RADIUS)
    ring = inside(body.hand, radius) - inside(body.hand, radius - 2 * pixel)
    picture = paint(picture, ring, _HAND)
    return jnp.round(picture).astype(jnp.uint8)
