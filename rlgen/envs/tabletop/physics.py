"""How a hand moves above a table, and what it carries there.

The hand is a point above the table that is told a velocity: nothing is in its way but
the edges. Only fingers that close touch the object. They get hold of it if they close
within `GRASP` of its centre, and while they hold it both move as one body, lifted; the
heavier it is, the slower they follow what they are told. Once they open, the object
slides on until friction stops it.

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
MAX_SPEED = 1.5  # m/s of the hand in x and in y, by an action of 1
STEP_S = 0.1
HAND_MASS = 0.25  # kg
GRASP = 0.06  # m


class Body(struct.PyTreeNode):
    """What moves."""

    hand: jax.Array  # (2,) float32, m
    hand_velocity: jax.Array  # (2,) float32, m/s
    object: jax.Array  # (2,) float32, m
    object_velocity: jax.Array  # (2,) float32, m/s
    closed: jax.Array  # () bool, the fingers
    holding: jax.Array  # () bool, whether they hold the object


def move(body: Body, action: jax.Array, mass: jax.Array, friction: jax.Array) -> Body:
    """One step.

    Args:
      action: float32[3], velocity in x and y, clipped to -1..1, and fingers: closed
        where above 0.
      mass: () of the object, kg.
      friction: () by which a sliding object gets slower, m/s^2.
    """
    closes = action[2] > 0
    near = jnp.sum(jnp.square(body.object - body.hand)) < GRASP**2
    holding = closes & (body.holding | (near & ~body.closed))
    # What they take hold of moves with the hand from then on: momentum is kept.
    ratio = HAND_MASS / mass
    together = (body.hand_velocity + body.object_velocity / ratio) / (1.0 + 1.0 / ratio)
    velocity = jnp.where(holding & ~body.holding, together, body.hand_velocity)
    # The mean of the velocity and what is told, by the mass of the body and 1 kg. Sums
    # of products are avoided: XLA rounds them one way here and another way there.
    inertia = HAND_MASS + mass * holding
    told = MAX_SPEED * jnp.clip(action[:2], -1.0, 1.0)
    velocity = (velocity + told / inertia) / (1.0 + 1.0 / inertia)
    # Of what moves as one body, no part leaves the table.
    both = jnp.stack([body.hand, jnp.where(holding, body.object, body.hand)])
    shift, velocity = _shift(both, velocity)
    own_velocity = _slowed(body.object_velocity, friction)
    own_shift, own_velocity = _shift(body.object[None], own_velocity)
    return Body(
        hand=_on_table(body.hand + shift),
        hand_velocity=velocity,
        object=_on_table(body.object + jnp.where(holding, shift, own_shift)),
        object_velocity=jnp.where(holding, velocity, own_velocity),
        closed=closes,
        holding=holding,
    )


def _shift(places: jax.Array, velocity: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How far places [n, 2] of one body move in a step, and its velocity after it.

    The first of them to reach an edge stops the body in that direction.
    """
    low, high = -EDGE - places.min(axis=0), EDGE - places.max(axis=0)
    shift = STEP_S * velocity
    stops = (shift < low) | (shift > high)
    return jnp.clip(shift, low, high), jnp.where(stops, 0.0, velocity)


def _slowed(velocity: jax.Array, friction: jax.Array) -> jax.Array:
    """The velocity of a free object after a step of sliding. float32[2]."""
    speed = jnp.sqrt(jnp.sum(jnp.square(velocity)))
    left = jnp.maximum(speed - STEP_S * friction, 0.0)
    return velocity * (left / jnp.maximum(speed, 1e-6))


def _on_table(place: jax.Array) -> jax.Array:
    """The place, less what rounding has put beyond an edge."""
    return jnp.clip(place, -EDGE, EDGE)
