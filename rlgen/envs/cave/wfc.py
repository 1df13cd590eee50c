"""Layouts by wave function collapse, after small patterns that are drawn as text.

The patterns are ours: every file in `structures` is one structure, named
`family_name.txt`. The solver is the one that the package `minigrid` ships
(`minigrid.envs.wfc`, after Karth and Smith 2017), fed with float32 adjacency
matrices, whose products use BLAS where those of booleans do not.
"""

from __future__ import annotations

import dataclasses
import functools
from importlib import resources
from typing import Any

import numpy as np

from rlgen.errors import UserError

# Every window of so many cells of a layout appears in the pattern, in one of its
# eight rotations and reflections.
_WINDOW = 3
_N_SYMMETRIES = 8
_DIRECTIONS = ((0, -1), (1, 0), (0, 1), (-1, 0))


@functools.cache
def structures() -> tuple[str, ...]:
    """Names of all structures, in alphabetical order."""
    folder = resources.files("rlgen.envs.cave") / "structures"
    return tuple(
        sorted(
            entry.name.removesuffix(".txt")
            for entry in folder.iterdir()
            if entry.name.endswith(".txt")
        )
    )


def pattern(structure: str) -> np.ndarray:
    """The drawing that a structure imitates: bool[H, W], True where one can walk.

    Raises:
      UserError: there is no such structure.
    """
    if structure not in structures():
        raise UserError(
            f"There is no structure {structure}: choose {', '.join(structures())}."
        )
    folder = resources.files("rlgen.envs.cave") / "structures"
    rows = (folder / f"{structure}.txt").read_text().split()
    return np.array([[char == "." for char in row] for row in rows])


@dataclasses.dataclass(frozen=True)
class _Tables:
    """What the solver needs of a structure: P windows and which fit beside which."""

    adjacency: dict[tuple[int, int], np.ndarray]  # float32[P, P] by direction
    weights: np.ndarray  # float64[P]
    corner: np.ndarray  # (P,) bool, the window's first cell


@functools.cache
def _tables(structure: str) -> _Tables:
    try:
        from minigrid.envs.wfc.wfclogic import adjacency, patterns, solver, tiles
    except ImportError:
        raise UserError(
            "Making layouts needs the package minigrid: pip install 'rlgen[levels]'."
        ) from None
    image = pattern(structure).astype(np.uint8)[:, :, None] * 255
    catalog, tile_grid, _, _ = tiles.make_tile_catalog(image, 1)
    windows, counts, codes, grid = patterns.make_pattern_catalog_with_rotations(
        tile_grid, _WINDOW, input_is_periodic=True, rotations=_N_SYMMETRIES - 1
    )
    index = {code: i for i, code in enumerate(codes)}
    lists: dict[Any, list[set[int]]] = {d: [set() for _ in codes] for d in _DIRECTIONS}
    legal = adjacency.adjacency_extraction(
        grid, windows, list(enumerate(_DIRECTIONS)), (_WINDOW, _WINDOW)
    )
    for direction, one, other in legal:
        lists[direction][index[one]].add(index[other])
    return _Tables(
        adjacency={d: m.astype(np.float32) for d, m in solver.makeAdj(lists).items()},
        weights=np.array([counts[code] for code in codes], np.float64),
        corner=np.array([catalog[windows[code][0][0]].item() > 0 for code in codes]),
    )


def layout(
    structure: str, height: int, width: int, rng: np.random.Generator
) -> np.ndarray | None:
    """One attempt at a layout in the style of a structure.

    Returns:
      bool[H, W], True where one can walk; None after a contradiction.

    Raises:
      UserError: an unknown structure, or the package `minigrid` is missing.
    """
    tables = _tables(structure)
    from minigrid.envs.wfc.wfclogic import solver

    wave = solver.makeWave(len(tables.weights), height, width)
    preferences = rng.random((height, width)) * 0.1
    try:
        chosen = solver.run(
            wave,
            tables.adjacency,
            locationHeuristic=solver.makeEntropyLocationHeuristic(preferences),
            patternHeuristic=solver.makeWeightedPatternHeuristic(tables.weights, rng),
        )
    except solver.Contradiction:
        return None
    return tables.corner[chosen]
