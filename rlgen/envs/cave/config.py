"""Settings of Cave Escape: environment, levels to train on, levels to hold out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from rlgen.envs.cave import datasets
from rlgen.envs.cave.env import Cave
from rlgen.envs.cave.levels import FAMILIES
from rlgen.envs.grid.config import GridConfig
from rlgen.ranges import CountOrZero

# Size of the caves that ship.
_SIZE = 13


@dataclasses.dataclass(frozen=True)
class CaveConfig(GridConfig):
    """Everything that a cave experiment can be told about its levels.

    Attributes:
      levels: family of new levels: blocks or empty.
      min_blocks, max_blocks: number of blocks of "blocks" levels.
    """

    levels: str = "blocks"
    min_blocks: CountOrZero = 0
    max_blocks: CountOrZero = 60

    ENV = Cave
    FAMILIES = FAMILIES
    FAMILY_FIELDS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "blocks": ("min_blocks", "max_blocks")
    }
    COUNTED: ClassVar[tuple[str, str, str]] = ("blocks", "min_blocks", "max_blocks")

    def load_set(self, name):
        if name in datasets.names():
            return datasets.shipped(name)
        return super().load_set(name)

    def recipes(self):
        return datasets.names()

    def make_sets(self, names, folder, jobs, on_progress):
        return datasets.make(names, folder, jobs, on_progress)

    def sized_for(self, name):
        size = datasets.RECIPES[name].size
        return dataclasses.replace(self, dataset="", height=size, width=size)

    def validation_set(self, n_levels):
        if (self.height, self.width) != (_SIZE, _SIZE):
            return super().validation_set(n_levels)
        return datasets.shipped("validation").thin(n_levels)

    def heldout_sets(self):
        if (self.height, self.width) != (_SIZE, _SIZE):
            blocks = self.family("blocks", solvable=False)
            return {"heldout": self.held_out("heldout", blocks)}
        if self.eval_split == "validation":
            chosen = {"validation": "validation"}
        else:
            chosen = {"heldout": "test"}
            chosen |= {name: name for name in ("structures", "lava", "hints")}
        return {
            name: dataclasses.replace(
                datasets.shipped(source).thin(self.n_heldout), name=name
            )
            for name, source in chosen.items()
        }

    def other_named(self):
        if self.fixes_size:
            return {}
        large = datasets.shipped("large")
        size = datasets.RECIPES["large"].size
        env = dataclasses.replace(
            self.make_env(), height=size, width=size, max_steps=None
        )
        return {"large": (env, large.thin(self.n_heldout))}
