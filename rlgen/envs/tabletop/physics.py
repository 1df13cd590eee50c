"""How a hand moves above a table, and what it carries there.

The hand is a point of 1 kg above the table: nothing is in its way but the edges. Only
fingers that close touch the object. They get hold of it if they close within `GRASP` of
its centre, and while they hold it both move as one body, lifted, as heavy as both. Once
they open, the object slides on until friction stops it.

What this leaves out: the hand never pushes, a hold never slips, the object has no shape
and does not turn.

A step of 0.1 s is semi-implicit Euler: first the velocity, then the place by the new
velocity.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

EDGE = 1.0  # m: the table reaches from -EDGE to EDGE, in x and in y
MAX_SPEED = 1.0  # m/s of the hand, in x and in y
STEP_S = 0.1
FORCE = 8.0  # N by an action of 1
DRAG = 2.0  # 1/s, of the hand's velocity
GRASP = 0.1  # m


class Body(struct.PyTreeNode):
    """What moves."""

    hand: jax.Array  # (2,) float32, m
    hand_velocity: jax.Array  # (2,) float32, m/s
    object: jax.Array  # (2,) float32, m
    object_velocity: jax.Array  # (2,) float32, m/s
    closed: jax.Array  # () bool, the fingers
    holding: jax.Array  # () bool, whether they hold the object


def move(
    body: Body, action: jax.Array, mass: jax.Array, friction: jax.Array
) -> Body:
    """One step.

    Args:
      action: float32[3], force in x and y, clipped to -1..1, and fingers: closed where
        above 0.
      mass: () of the object, kg.
      friction: () by which a sliding object gets slower, m/s^2.
    """
    closes = action[2] > 0
    near = jnp.sum(jnp.square(body.object - body.hand)) < GRASP**2
    holding = closes & (body.holding | (near & ~body.closed))
    # What they take hold of moves with the hand from then on.
    together = (body.hand_velocity + mass * body.object_velocity) / (1.0 + mass)
    velocity = jnp.where(holding & ~body.holding, together, body.hand_velocity)
    force = FORCE * jnp.clip(action[:2], -1.0, 1.0)
    velocity = (1.0 - DRAG * STEP_S) * velocity + STEP_S * force / (
        1.0 + mass * holding
    )
    velocity = jnp.clip(velocity, -MAX_SPEED, MAX_SPEED)
    # Of what moves as one body, no part leaves the table.
    both = jnp.stack([body.hand, jnp.where(holding, body.object, body.hand)])
    low, high = -EDGE - both.min(axis=0), EDGE - both.max(axis=0)
    shift = STEP_S * velocity
    stops = (shift < low) | (shift > high)
    shift = jnp.clip(shift, low, high)
    velocity = jnp.where(stops, 0.0, velocity)
    thing, thing_velocity = _slide(body.object, body.object_velocity, friction)
    return Body(
        hand=jnp.clip(body.hand + shift, -EDGE, EDGE),
        hand_velocity=velocity,
        object=jnp.where(
            holding, jnp.clip(body.object + shift, -EDGE, EDGE), thing
        ),
        object_velocity=jnp.where(holding, velocity, thing_velocity),
        closed=closes,
        holding=holding,
    )


def _slide(place: jax.Array, velocity: jax.Array, friction: jax.Array):
    """A free object: place and velocity after a step. The edges stop it."""
    speed = jnp.sqrt(jnp.sum(jnp.square(velocity)))
    left = jnp.maximum(speed - STEP_S * friction, 0.0)
    velocity = velocity * (left / jnp.maximum(speed, 1e-6))
    there = place + STEP_S * velocity
    velocity = jnp.where(jnp.abs(there) > EDGE, 0.0, velocity)
    return jnp.clip(there, -EDGE, EDGE), velocity
