"""Settings that levels on grids share, and those that grid worlds share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from rlgen.envs.config import EnvConfig
from rlgen.envs.grid.editor import GridEditor
from rlgen.envs.grid.env import GridEnv
from rlgen.envs.grid.levels import GridLevels
from rlgen.envs.grid.mutators import Mutator
from rlgen.envs.grid.shifts import grid_shifts
from rlgen.errors import UserError
from rlgen.levels import LevelSet
from rlgen.ranges import MAX_INT, Count, CountOrZero, PositiveOrZero, Range

#: A start and a goal need two cells.
Side = Annotated[int, Range(least=2, most=MAX_INT)]


@dataclasses.dataclass(frozen=True)
class GridLevelsConfig(EnvConfig):
    """What an environment whose levels are grids can be told about them.

    Attributes:
      height, width: cells, without the border of walls.
      n_edits, change_cell, move_goal, move_start, no_op: see `Mutator`.
    """

    height: Side = 13
    width: Side = 13
    n_edits: Count = 5
    change_cell: PositiveOrZero = 1.0
    move_goal: PositiveOrZero = 1.0
    move_start: PositiveOrZero = 0.0
    no_op: PositiveOrZero = 0.0

    FAMILIES: ClassVar[Mapping[str, type[GridLevels]]]
    #: The family whose levels have as many blocks as asked for, and the names of its
    #: settings for the fewest and the most.
    COUNTED: ClassVar[tuple[str, str, str]]

    @property
    def fixes_size(self) -> bool:
        """Whether observations have another shape on grids of another size."""
        raise NotImplementedError

    def make_editor(self, n_blocks: int, noise_size: int) -> GridEditor:
        """The environment in which a teacher builds levels like these."""
        return GridEditor(self.family(self.levels), n_blocks, noise_size)

    def family(self, name: str, **changes: Any) -> GridLevels:
        """A family of levels of this size, with the settings that belong to it."""
        mutator = Mutator(
            n_edits=self.n_edits,
            change_cell=self.change_cell,
            move_goal=self.move_goal,
            move_start=self.move_start,
            no_op=self.no_op,
        )
        fields = {f: getattr(self, f) for f in self.FAMILY_FIELDS.get(name, ())}
        shared: dict[str, Any] = {"height": self.height, "width": self.width}
        shared |= {"solvable": self.solvable, "mutator": mutator}
        return self.FAMILIES[name](**shared | fields | changes)

    def read_levels(self, name):
        """As everywhere, but the levels may be of another size: that of the file."""
        size = self.family("empty").size_in(name)
        if size in (None, (self.height, self.width)):
            return super().read_levels(name)
        if self.fixes_size:
            raise UserError(
                f"The levels of {name} are {size[0]}x{size[1]}, but whole grids of "
                f"{self.height}x{self.width} are seen here: choose others."
            )
        shape = {"height": size[0], "width": size[1]}
        env: Any = self.make_env()
        space = self.family("empty", **shape)
        env = dataclasses.replace(env, **shape, max_steps=None)
        return env, space, LevelSet.load(name, space)

    def heldout_space(self) -> GridLevels:
        # It may draw unsolvable levels: `LevelSet.generate` keeps what can be solved.
        return self.family(self.levels, solvable=False)

    def resized(self, height: int, width: int) -> Self:
        """These settings for new levels of another size, as densely blocked.

        The time limit is that of the size.

        Raises:
          UserError: the family does not fit that size.
        """
        family, *counts = self.COUNTED
        share = height * width / (self.height * self.width)
        changes: dict[str, Any] = {"height": height, "width": width, "max_steps": 0}
        if family in self._used:
            changes |= {name: round(getattr(self, name) * share) for name in counts}
        return dataclasses.replace(self, dataset="", reference="", **changes)

    def shifts(self, n_levels, seed):
        """Other densities of walls, distances to the goal, and sizes."""
        return grid_shifts(self, n_levels, seed)


@dataclasses.dataclass(frozen=True)
class GridConfig(GridLevelsConfig):
    """What a grid world can be told about itself and its levels.

    Attributes:
      view_size: odd side of the egocentric view, or "full".
      see_through_walls: whether walls hide what is behind them.
      max_steps: time limit; 0 scales 250 steps for 13x13 with the area.
      actions: "minimal" (left, right, forward) or "minigrid" (seven).
    """

    view_size: Annotated[int, Range(least=3, most=31)] | Literal["full"] = 5
    see_through_walls: bool = True
    max_steps: CountOrZero = 0
    actions: str = "minimal"

    ENV: ClassVar[type[GridEnv]]

    @property
    def fixes_size(self):
        # The full view fixes the size of the network's input.
        return self.view_size == "full"

    def make_env(self) -> Any:
        """The environment."""
        return self.ENV(
            height=self.height,
            width=self.width,
            view_size=self.view_size,
            see_through_walls=self.see_through_walls,
            max_steps=self.max_steps or None,
            actions=self.actions,
        )
