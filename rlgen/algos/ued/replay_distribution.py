"""The probability with which each level of a buffer is replayed.

P = (1 - rho) ((1 - eta) P_S + eta P_S') + rho P_C: two score channels and staleness,
each on a support of its own (Garcin et al. 2024, overview figure; PLR of Jiang et
al. 2021, Equations 3 to 5, is eta = 0 with everything on the whole buffer).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rlgen.algos.ued.buffer import DATASET, LevelBuffer
from rlgen.errors import UserError

PRIORITIZATIONS = ("rank", "proportional", "topk", "uniform")
TIES = ("shared", "random")
SUPPORTS = ("all", "dataset", "generated")


@dataclasses.dataclass(frozen=True)
class Channel:
    """How one score becomes probabilities.

    Attributes:
      prioritization: "rank" (proportional to rank^(-1/T)), "proportional" (to
        max(score, 0)^(1/T)), "topk" (softmax of score / T among the k best), or
        "uniform" (scores do not matter).
      temperature: T; small is sharp.
      ties: equal scores "shared" their mean rank, or are ranked in "random" order.
      k: levels of "topk".
      support: which levels can be drawn: "all", "dataset" or "generated" ones.
    """

    prioritization: str = "rank"
    temperature: float = 0.3
    ties: str = "shared"
    k: int = 4
    support: str = "all"

    def __post_init__(self):
        for value, known, name in (
            (self.prioritization, PRIORITIZATIONS, "prioritization"),
            (self.ties, TIES, "ties"),
            (self.support, SUPPORTS, "support"),
        ):
            if value not in known:
                raise UserError(f"Unknown {name} {value!r}: choose {', '.join(known)}.")
        if self.temperature <= 0:
            raise UserError(
                f"The temperature is {self.temperature}: choose more than 0."
            )
        if self.k < 1:
            raise UserError(f"k is {self.k}: choose at least 1.")


def supported(buffer: LevelBuffer, support: str) -> jax.Array:
    """Which slots a support covers. bool[C]."""
    is_data = buffer.batch.origin == DATASET
    masks = {"all": True, "dataset": is_data, "generated": ~is_data}
    return buffer.filled & masks[support]


def ranks(
    scores: jax.Array, support: jax.Array, ties: str, key: jax.Array
) -> jax.Array:
    """Ranks from 1 (the highest score) within the support. float32[C].

    Ties share their mean rank or are ordered at random, never by index: with sharp
    temperatures an order by index gives all the mass to one arbitrary level.
    Outside the support ranks are larger than inside.
    """
    if ties == "random":
        size = scores.shape[0]
        index = jnp.arange(size, dtype=jnp.int32)
        luck = jax.random.uniform(key, (size,))
        order_by = jnp.where(support, -scores, jnp.inf)
        *_, order = jax.lax.sort((order_by, luck, index), num_keys=2)
        return jnp.zeros(size, jnp.float32).at[order].set(index + 1.0)
    order_by = _sortable(jnp.where(support, -scores, jnp.inf))
    in_order = jnp.sort(order_by)
    first = jnp.searchsorted(in_order, order_by, side="left")
    last = jnp.searchsorted(in_order, order_by, side="right")
    return 0.5 * (first + last + 1).astype(jnp.float32)


def _sortable(x: jax.Array) -> jax.Array:
    """int32 keys in the order of float32 numbers.

    On a CPU, XLA sorts a single array of integers five times as fast as floats.
    """
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def normalise(weights: jax.Array, support: jax.Array) -> jax.Array:
    """Weights to probabilities; without any weight, uniform over the support."""
    weights = jnp.where(support, weights, 0.0)
    total = weights.sum()
    uniform = support / jnp.maximum(support.sum(), 1)
    return jnp.where(total > 0, weights / jnp.where(total > 0, total, 1.0), uniform)


def channel_probabilities(
    channel: Channel, scores: jax.Array, support: jax.Array, key: jax.Array
) -> jax.Array:
    """P_S of one channel. float32[C]."""
    if channel.prioritization == "uniform":
        weights = support.astype(jnp.float32)
    elif channel.prioritization == "rank":
        place = ranks(scores, support, channel.ties, key)
        # Relative to the best, whose weight 1 cannot vanish at sharp temperatures.
        weights = (place / jnp.min(place)) ** (-1.0 / channel.temperature)
    elif channel.prioritization == "proportional":
        positive = jnp.where(support, jnp.maximum(scores, 0.0), 0.0)
        # Scaled by the largest so that powers neither overflow nor vanish.
        top = jnp.max(positive)
        weights = (positive / jnp.where(top > 0, top, 1.0)) ** (
            1.0 / channel.temperature
        )
    else:
        masked = jnp.where(support, scores, -jnp.inf)
        best = jax.lax.top_k(masked, min(channel.k, scores.shape[0]))[0]
        # All that tie with the k-th are kept: none is dropped for its index.
        kept = support & (scores >= best[-1])
        weights = jnp.where(
            kept, jnp.exp((scores - best[0]) / channel.temperature), 0.0
        )
    return normalise(weights, support)


def staleness_probabilities(
    last_seen: jax.Array, clock: jax.Array, support: jax.Array
) -> jax.Array:
    """P_C, proportional to the time since a level was last played. float32[C]."""
    return normalise((clock - last_seen).astype(jnp.float32), support)


def effective_number(probabilities: jax.Array) -> jax.Array:
    """Inverse Simpson index: how many equally likely levels would be as diverse."""
    return 1.0 / jnp.maximum(jnp.sum(jnp.square(probabilities)), 1e-12)


def draw(key: jax.Array, probabilities: jax.Array, n: int) -> jax.Array:
    """Draws n slots with replacement, by inversion: int32[n].

    One sorted pass over C instead of C x n random numbers.
    """
    cumulative = jnp.cumsum(probabilities)
    luck = jax.random.uniform(key, (n,)) * cumulative[-1]
    slot = jnp.searchsorted(cumulative, luck, side="right")
    # Parallel sums round differently from slot to slot, so a draw may land on one
    # without mass or past the end: it goes back to the last that has some.
    index = jnp.arange(len(probabilities), dtype=jnp.int32)
    with_mass = jax.lax.cummax(jnp.where(probabilities > 0, index, 0))
    return with_mass[jnp.minimum(slot, len(probabilities) - 1)]
