"""Levels of foreign suites: a level is the seed of an episode's initial state.

As in Procgen (Cobbe et al. 2020) a level is known by a number alone. It fixes where an
episode starts; what happens later is drawn from the keys of the steps.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen.envs.config import EnvConfig
from rlgen.levels import LevelFileError, LevelSpace
from rlgen.ranges import Count

_N_SEEDS = 2**32


class Start(struct.PyTreeNode):
    """One initial state."""

    seed: jax.Array  # () uint32


def start(seed: int) -> Start:
    """The level of a seed, as a host array."""
    leaf: Any = np.uint32(seed)
    return Start(seed=leaf)


@dataclasses.dataclass(frozen=True)
class Starts(LevelSpace[Start]):
    """All initial states, with uniform seeds."""

    def sample(self, key: jax.Array) -> Start:
        return Start(seed=jax.random.bits(key, (), jnp.uint32))

    def mutate(self, key: jax.Array, level: Start) -> Start:
        """Another seed: initial states have no neighbours."""
        low, high = jnp.uint32(1), jnp.uint32(_N_SEEDS - 1)
        other = jax.random.randint(key, (), low, high, jnp.uint32)
        return level.replace(seed=level.seed + other)  # wraps

    def from_str(self, text: str) -> Start:
        try:
            seed = json.loads(text)["seed"]
            if type(seed) is not int or not 0 <= seed < _N_SEEDS:
                raise ValueError(f"the seed is {seed!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise LevelFileError(
                f"This is no initial state ({error}): give a seed from 0 to "
                f'{_N_SEEDS - 1} as a line of JSON, such as {{"seed": 0}}.'
            ) from None
        return start(seed)

    def example(self) -> Start:
        return start(0)


@dataclasses.dataclass(frozen=True)
class StartsConfig(EnvConfig):
    """What environments whose levels are initial states can be told of them.

    Attributes:
      levels: family of initial states: there is one.
      n_heldout: number of held-out initial states.
    """

    levels: str = "starts"
    n_heldout: Count = 16

    FAMILIES: ClassVar[Mapping[str, type[Starts]]] = {"starts": Starts}
