"""Named held-out mazes, drawn by us after their published descriptions.

Each is a text file in the folder `named`: add one and it is a named level. After
the mazes of Dennis et al. 2020 (SixteenRooms, Labyrinth, Maze), of MiniGrid
(FourRooms, Crossing) and of Jiang et al. 2021 (corridors, perfect mazes).
"""

from __future__ import annotations

import functools

import jax

from rlgen.envs.grid import paths
from rlgen.envs.maze.env import MazeLevel
from rlgen.envs.maze.levels import Empty, parse_maze
from rlgen.files import package_texts
from rlgen.levels import LevelFileError, LevelSet, stack


def _texts() -> dict[str, str]:
    return package_texts("rlgen.envs.maze", "named")


def names() -> tuple[str, ...]:
    """All named levels, in alphabetical order."""
    return tuple(_texts())


@functools.cache
def _read(name: str) -> MazeLevel:
    if name not in names():
        raise LevelFileError(
            f"There is no maze named {name}: choose {', '.join(names())}."
        )
    return parse_maze(_texts()[name])


@functools.cache
def named_level(name: str) -> MazeLevel:
    """One named level.

    Raises:
      LevelFileError: there is no such level, or it cannot be solved.
    """
    return check_solvable(_read(name), name)


def check_solvable(level: MazeLevel, name: str) -> MazeLevel:
    """Returns the level if its goal can be reached.

    Raises:
      LevelFileError: it cannot.
    """
    if _path_length(level.walls, level.start, level.goal) <= 0:
        raise LevelFileError(
            f"The goal of level {name} cannot be reached from its start: open a way."
        )
    return level


_path_length = jax.jit(paths.path_length)


def named_levels(height: int, width: int) -> LevelSet[MazeLevel]:
    """The named levels of exactly this size.

    Raises:
      LevelFileError: none has this size.
    """
    chosen = [n for n in names() if _read(n).walls.shape == (height, width)]
    if not chosen:
        sizes = sorted({"x".join(map(str, _read(n).walls.shape)) for n in names()})
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
    shapes = {_read(n).walls.shape for n in names()}
    return tuple(sorted((height, width) for height, width in shapes))
