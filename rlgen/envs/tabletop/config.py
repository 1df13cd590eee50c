"""Settings of tabletops: environment, tasks to train on, tasks to hold out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax

from rlgen.datasets import Recording
from rlgen.envs.config import EnvConfig
from rlgen.envs.tabletop import demonstrations
from rlgen.envs.tabletop.controllers import FetchAndCarry
from rlgen.envs.tabletop.env import Tabletop
from rlgen.envs.tabletop.levels import FAMILIES, Tasks
from rlgen.errors import UserError
from rlgen.ranges import Count


@dataclasses.dataclass(frozen=True)
class TabletopConfig(EnvConfig):
    """Everything that an experiment with tabletops can be told.

    Attributes:
      levels: family of tasks: there is one.
      n_heldout: number of held-out tasks, at most; each is held out in both directions.
      direction: of new tasks: forward, backward or both.
      task_vector: embedding (fixed Gaussian numbers) or one-hot.
      vector_size: numbers in it.
      max_steps: time limit.
    """

    levels: str = "tasks"
    n_heldout: Count = 64
    direction: Literal["both", "forward", "backward"] = "both"
    task_vector: Literal["embedding", "one-hot"] = "embedding"
    vector_size: Count = 8
    max_steps: Count = 40

    FAMILIES: ClassVar[Mapping[str, type[Tasks]]] = FAMILIES

    def make_env(self) -> Tabletop:
        return Tabletop(self.task_vector, self.vector_size, self.max_steps)

    def heldout_sets(self):
        """The same tasks forward and backward."""
        return {
            name: self.held_out(name, self.family(self.levels, direction=direction))
            for name, direction in (
                ("heldout", "forward"),
                ("heldout back", "backward"),
            )
        }

    def controllers(self):
        return {
            "fetch-and-carry": FetchAndCarry(),
            "fetch-and-carry-exact": FetchAndCarry(noise=0.0),
        }

    def recordings(self):
        return {"demonstrations": self._demonstrations}

    def _demonstrations(self, n_steps: int, seed: int) -> Recording:
        """Demonstrations and failures; how many is fixed, at most `n_steps` steps.

        Raises:
          UserError: they take more.
        """
        episodes, level_set = demonstrations.record(
            self.make_env(), jax.random.key(seed)
        )
        needed = sum(map(len, episodes))
        if needed > n_steps:
            raise UserError(
                f"The demonstrations take {needed} steps, not {n_steps}: ask for more "
                "transitions."
            )
        tests = demonstrations.target_sets(level_set)
        return Recording(self, episodes, level_set, tests)
