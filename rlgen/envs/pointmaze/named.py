"""The mazes that point mazes are usually compared in.

Layouts of D4RL (Fu et al. 2020) as gymnasium-robotics has them (its `maps.py`), without
the border. Starts and goals are those that its maps marked before both became random.
"""

from __future__ import annotations

from rlgen.envs.pointmaze.env import PointMazeLevel
from rlgen.envs.pointmaze.levels import empty, parse_point_maze
from rlgen.levels import LevelFileError, LevelSet, stack

TEXTS = {
    "umaze": """
S..
##.
G..
""",
    "medium": """
S.##..
..#...
#...##
..#...
.#..#.
...#G.
""",
    "large": """
S...#.....
.##.#.#.#.
......#...
.####.###.
..#.#.....
#.#.#.#.##
..#...#.G.
""",
}


def named_level(name: str) -> PointMazeLevel:
    """One named maze.

    Raises:
      LevelFileError: there is no such maze.
    """
    if name not in TEXTS:
        raise LevelFileError(
            f"There is no point maze named {name}: choose {', '.join(TEXTS)}."
        )
    return parse_point_maze(TEXTS[name])


def named_levels(height: int, width: int) -> LevelSet[PointMazeLevel]:
    """The named mazes of exactly this size.

    Raises:
      LevelFileError: none has this size.
    """
    chosen = {
        name: level
        for name in TEXTS
        if (level := named_level(name)).walls.shape == (height, width)
    }
    if not chosen:
        known = ", ".join(f"{h}x{w}" for h, w in sizes())
        raise LevelFileError(
            f"No named point maze is {height}x{width}: choose one of {known}."
        )
    return LevelSet.from_levels(
        empty(height, width),
        stack(list(chosen.values())),
        name="named",
        split="named",
        labels=tuple(chosen),
        provenance={"source": "rlgen/envs/pointmaze/named.py"},
    )


def sizes() -> tuple[tuple[int, int], ...]:
    """Sizes (height, width) for which there are named mazes, ascending."""
    shapes = {named_level(name).walls.shape for name in TEXTS}
    return tuple(sorted((height, width) for height, width in shapes))
