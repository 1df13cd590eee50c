"""Named held-out mazes, drawn by us after their published descriptions.

Each is a text file in the folder `named`: add one and it is a named level. After
the mazes of Dennis et al. 2020 (SixteenRooms, Labyrinth, Maze), of MiniGrid
(FourRooms, Crossing) and of Jiang et al. 2021 (corridors, perfect mazes).
"""

from __future__ import annotations

import functools
from importlib import resources

import jax
import numpy as np

from rlgen.envs.maze.env import MazeLevel
from rlgen.envs.maze.levels import Empty, parse_maze
from rlgen.levels import LevelFileError, LevelSet, stack


@functools.cache
def names() -> tuple[str, ...]:
    """All named levels, in alphabetical order."""
    folder = resources.files("rlgen.envs.maze") / "named"
    return tuple(
        sorted(
            entry.name.removesuffix(".txt")
            for entry in folder.iterdir()
            if entry.name.endswith(".txt")
        )
    )


@functools.cache
def named_level(name: str) -> MazeLevel:
    """One named level.

    Raises:
      LevelFileError: there is no such level, or it cannot be solved.
    """
    if name not in names():
        raise LevelFileError(
            f"There is no maze named {name}: choose {', '.join(names())}."
        )
    folder = resources.files("rlgen.envs.maze") / "named"
    return check_solvable(parse_maze((folder / f"{name}.txt").read_text()), name)


def check_solvable(level: MazeLevel, name: str) -> MazeLevel:
    """Returns the level if its goal can be reached.

    Raises:
      LevelFileError: it cannot.
    """
    space = Empty(*level.walls.shape)
    if not bool(space.valid(jax.tree.map(np.asarray, level))):
        raise LevelFileError(
            f"The goal of level {name} cannot be reached from its start: open a way."
        )
    return level


def named_levels(height: int, width: int) -> LevelSet[MazeLevel]:
    """The named levels of exactly this size.

    Raises:
      LevelFileError: none has this size.
    """
    chosen = [n for n in names() if named_level(n).walls.shape == (height, width)]
    if not chosen:
        sizes = sorted({"x".join(map(str, named_level(n).walls.shape)) for n in names()})
        raise LevelFileError(
            f"No named maze is {height}x{width}: choose one of {', '.join(sizes)}."
        )
    return LevelSet.from_levels(
        Empty(height, width),
        stack([named_level(n) for n in chosen]),
        name="named",
        split="named",
        labels=tuple(chosen),
        provenance={"source": "rlgen/envs/maze/named"},
    )


def sizes() -> tuple[tuple[int, int], ...]:
    """Sizes (height, width) for which there are named levels, ascending."""
    return tuple(sorted({named_level(n).walls.shape for n in names()}))
