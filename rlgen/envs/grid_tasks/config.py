"""Settings of grid-world tasks: environment, levels to train on, levels to hold out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from rlgen.envs.config import HELDOUT_SEED, EnvConfig
from rlgen.envs.grid_tasks.env import GridTasks
from rlgen.envs.grid_tasks.levels import FAMILIES, TASKS, Classic, TaskLevels
from rlgen.errors import UserError
from rlgen.levels import LevelSet
from rlgen.ranges import Count, CountOrZero

_CLASSIC_PER_KIND = 4


@dataclasses.dataclass(frozen=True)
class GridTasksConfig(EnvConfig):
    """Everything that an experiment with grid-world tasks can be told.

    Attributes:
      levels: family of tasks: generated (GROOVE's) or classic (LPG's).
      height, width, n_objects: the largest grid and the fullest task.
      observation: "state" (an integer) or "picture".
      min_size, max_size, min_objects, n_walls, min_steps, max_steps: of generated
        tasks.
      kinds: of classic tasks; empty for all.
    """

    levels: str = "generated"
    height: Count = 10
    width: Count = 10
    n_objects: Count = 5
    observation: Literal["state", "picture"] = "state"
    min_size: Count = 4
    max_size: Count = 10
    min_objects: Count = 1
    n_walls: CountOrZero = 15
    min_steps: Count = 20
    max_steps: Count = 750
    kinds: tuple[str, ...] = ()

    FAMILIES = FAMILIES
    FAMILY_FIELDS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "generated": (
            "min_size",
            "max_size",
            "min_objects",
            "n_walls",
            "min_steps",
            "max_steps",
        ),
        "classic": ("kinds",),
    }

    def __post_init__(self):
        super().__post_init__()
        if self.observation == "state" and self._moves_objects:
            raise UserError(
                "Where objects move before every episode, an integer does not say "
                "where they are: choose observation=picture or other kinds."
            )

    @property
    def _moves_objects(self) -> bool:
        kinds = self.kinds or tuple(TASKS)
        return self.levels == "classic" and any(k.startswith("random") for k in kinds)

    def make_env(self) -> GridTasks:
        limit = self.max_steps
        if self.levels == "classic":
            limit = max(TASKS[kind][2] for kind in self.kinds or TASKS)
        return GridTasks(
            self.height, self.width, self.n_objects, limit, self.observation
        )

    def family(self, name: str, **changes: Any) -> TaskLevels:
        fields = {f: getattr(self, f) for f in self.FAMILY_FIELDS[name]}
        shared: dict[str, Any] = {
            "height": self.height,
            "width": self.width,
            "n_objects": self.n_objects,
            "solvable": self.solvable,
        }
        return FAMILIES[name](**shared | fields | changes)

    def heldout_space(self):
        return self.family(self.levels, solvable=False)

    def other_named(self):
        """The tabular tasks of Oh et al. 2020, whatever is trained on."""
        if self.levels == "classic" or self.observation == "picture":
            return {}
        kinds = tuple(kind for kind in TASKS if not kind.startswith("random"))
        env = GridTasks(13, 13, 5, max(TASKS[kind][2] for kind in kinds))
        sets = {}
        for kind in kinds:
            level_set = LevelSet.generate(
                Classic(kinds=(kind,)),
                _CLASSIC_PER_KIND,
                seed=HELDOUT_SEED,
                split=self.eval_split,
                name=f"classic {kind}",
            )
            sets[level_set.name] = (env, level_set)
        return sets
