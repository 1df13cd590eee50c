"""The family of chains: lengths and good actions."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.envs.delayed_chain.env import Chain
from rlgen.errors import UserError
from rlgen.levels import LevelFileError, LevelSpace, stack


@dataclasses.dataclass(frozen=True)
class Chains(LevelSpace[Chain]):
    """Chains of uniform length with a uniform good action.

    Attributes:
      min_length, max_length: steps.
      noisy: rewards on the way.
    """

    min_length: int = 5
    max_length: int = 30
    noisy: bool = False

    def __post_init__(self):
        if not 1 <= self.min_length < self.max_length:
            raise UserError(
                f"min_length is {self.min_length} and max_length {self.max_length}: "
                "choose 1 <= min_length < max_length."
            )

    def sample(self, key: jax.Array) -> Chain:
        key_length, key_action = jax.random.split(key)
        return Chain(
            length=jax.random.randint(
                key_length, (), self.min_length, self.max_length + 1, jnp.int32
            ),
            good_action=jax.random.randint(key_action, (), 0, 2, jnp.int32),
            noisy=jnp.bool_(self.noisy),
        )

    def all_levels(self) -> Chain:
        """Every chain of the family, stacked."""
        lengths = range(self.min_length, self.max_length + 1)
        return stack(
            [self._chain(*pair) for pair in itertools.product(lengths, (0, 1))]
        )

    def _chain(self, length: int, good_action: int) -> Chain:
        leaves: dict[str, Any] = {
            "length": np.int32(length),
            "good_action": np.int32(good_action),
            "noisy": np.bool_(self.noisy),
        }
        return Chain(**leaves)

    def features(self, level: Chain) -> dict[str, jax.Array]:
        return {"length": jnp.asarray(level.length).astype(jnp.float32)}

    def mutate(self, key: jax.Array, level: Chain) -> Chain:
        """One step longer or shorter, within the family."""
        longer = jax.random.bernoulli(key) | (level.length <= self.min_length)
        longer &= level.length < self.max_length
        return level.replace(length=level.length + jnp.where(longer, 1, -1))

    def from_str(self, text: str) -> Chain:
        try:
            values = json.loads(text)
            level = self._chain(values["length"], values["good_action"])
            return level.replace(noisy=np.bool_(values["noisy"]))
        except (ValueError, KeyError, TypeError) as error:
            raise LevelFileError(
                f"This is no chain ({error}): give length, good_action and noisy as a "
                "line of JSON."
            ) from None

    def example(self) -> Chain:
        return self._chain(self.min_length, 0)
