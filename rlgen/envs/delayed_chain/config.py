"""Settings of delayed chains: environment, levels to train on, levels to hold out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.env import take
from rlgen.envs.config import EnvConfig
from rlgen.envs.delayed_chain.env import DelayedChain
from rlgen.envs.delayed_chain.levels import Chains
from rlgen.errors import UserError
from rlgen.levels import SPLITS, LevelSet, split_of
from rlgen.ranges import Count, CountOrZero


@dataclasses.dataclass(frozen=True)
class DelayedChainConfig(EnvConfig):
    """Everything that an experiment with delayed chains can be told.

    Oh et al. 2020 have five: "short" (5 to 30 steps), "long" (5 to 50), both of them
    noisy, and "short" with 20 distractors.

    Attributes:
      levels: family of chains: there is one.
      min_length, max_length: steps of a chain.
      noisy: rewards of 1 or -1 on the way, by fair coins.
      n_distractors: fair coins in the observation.
    """

    levels: str = "chains"
    min_length: Count = 5
    max_length: Count = 30
    noisy: bool = False
    n_distractors: CountOrZero = 0

    FAMILIES: ClassVar[Mapping[str, type[Chains]]] = {"chains": Chains}

    def make_env(self) -> DelayedChain:
        return DelayedChain(self.max_length, self.n_distractors)

    def heldout_sets(self):
        """All chains of the split: there are few, one in twenty by their hash."""
        space: Any = self.family(self.levels)
        levels = space.all_levels()
        splits = np.asarray(
            split_of(jax.vmap(space.hash)(jax.tree.map(jnp.asarray, levels)))
        )
        rows = np.flatnonzero(splits == SPLITS.index(self.eval_split))
        if len(rows) == 0:
            raise UserError(
                f"No chain of {self.min_length} to {self.max_length} steps is of split "
                f"{self.eval_split}: choose a wider range."
            )
        held_out = LevelSet.from_levels(
            space,
            take(levels, rows),
            name="heldout",
            split=self.eval_split,
            provenance={"space": repr(space)},
        )
        return {"heldout": held_out.thin(self.n_heldout)}
