"""How the ball moves: a force, some friction, a speed limit and walls.

A step of 0.1 s is semi-implicit Euler: first the velocity, then the place by the new
velocity. From rest, full force crosses a cell in 8 steps, at full speed in 6 to 7.

Against walls the ball is a square of side 0.2 m. It moves in x, then in y; where a wall
is in the way it stops in that direction, 1 mm before it, and slides on in the other.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

RADIUS = 0.1  # m
MAX_SPEED = 1.5  # m/s, in x and in y
STEP_S = 0.1
FORCE = 5.0  # m/s^2 by an action of 1
FRICTION = 1.0  # 1/s
# Rounding must not put the ball into a wall: far less than this for any maze that fits
# the memory.
GAP = 1e-3  # m


def move(
    walls: jax.Array, position: jax.Array, velocity: jax.Array, action: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One step of the ball.

    It moves by less than a cell, so it can only run into the next one: looking at that
    is enough to never tunnel.

    Args:
      walls: bool[H, W]; around them is wall.
      position: float32[2], (x, y) in m.
      velocity: float32[2], m/s.
      action: float32[2], force in x and y; clipped to -1..1.

    Returns:
      The new position and velocity.
    """
    force = FORCE * jnp.clip(action, -1.0, 1.0)
    velocity = (1.0 - FRICTION * STEP_S) * velocity + STEP_S * force
    velocity = jnp.clip(velocity, -MAX_SPEED, MAX_SPEED)
    # The pad does not depend on the state, so it stays out of the loop over steps.
    padded = jnp.pad(walls, 1, constant_values=True)
    stride = padded.shape[1]
    flat = padded.reshape(-1)

    def is_wall(row, column):
        index = (row + 1) * stride + column + 1
        return flat.at[index].get(mode="promise_in_bounds")

    x, y = position[0], position[1]
    x, v_x = _slide(x, velocity[0], y, lambda along, across: is_wall(across, along))
    y, v_y = _slide(y, velocity[1], x, is_wall)
    return jnp.stack([x, y]), jnp.stack([v_x, v_y])


def _slide(at, speed, across, is_wall):
    """Moves along one axis up to the next wall; returns the place and the speed.

    Args:
      at, speed: along the axis.
      across: place along the other axis.
      is_wall: tells whether a cell (along the axis, along the other) is wall.
    """
    forwards = speed > 0
    here = _cell(at)
    ahead = jnp.where(forwards, here + 1, here - 1)
    blocked = is_wall(ahead, _cell(across - RADIUS))
    blocked |= is_wall(ahead, _cell(across + RADIUS))
    there = at + STEP_S * speed
    # The last place before the next cell.
    last = jnp.where(forwards, here + (1 - RADIUS - GAP), here + (RADIUS + GAP))
    beyond = jnp.where(forwards, there > last, there < last)
    hits = blocked & beyond & (speed != 0)
    return jnp.where(hits, last, there), jnp.where(hits, 0.0, speed)


def _cell(place):
    return jnp.floor(place).astype(jnp.int32)
