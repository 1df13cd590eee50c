"""Layouts by wave function collapse, after small patterns that are drawn as text.

The patterns are ours: every file in `structures` is one structure, named
`family_name.txt`. The solver is the one that the package `minigrid` ships
(`minigrid.envs.wfc`, after Karth and Smith 2017), fed with float32 adjacency
matrices, whose products use BLAS where those of booleans do not.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from rlgen.errors import UserError
from rlgen.files import package_texts

# Every window of so many cells of a layout appears in the pattern, in one of its
# eight rotations and reflections.
_WINDOW = 3
_N_SYMMETRIES = 8
_DIRECTIONS = ((0, -1), (1, 0), (0, 1), (-1, 0))


def _texts() -> dict[str, str]:
    return package_texts("rlgen.envs.cave", "structures")


def structures() -> tuple[str, ...]:
    """Names of all structures, in alphabetical order."""
    return tuple(_texts())


def pattern(structure: str) -> np.ndarray:
    """The drawing that a structure imitates: bool[H, W], True where one can walk.

    Raises:
      UserError: there is no such structure.
    """
    if structure not in structures():
        raise UserError(
            f"There is no structure {structure}: choose {', '.join(structures())}."
        )
    rows = _texts()[structure].split()
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


# The solver looks at the whole grid at each choice, so large grids are solved in blocks
# of so many cells per side. A block solves some cells of those before it anew: what was
# chosen there without knowing of the block need not go on into it.
_BLOCK = 15
_OVERLAP = 4
_BLOCK_ATTEMPTS = 10


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
    chosen = np.full((height, width), -1)
    for row in range(0, height, _BLOCK):
        for col in range(0, width, _BLOCK):
            block = (
                slice(max(row - _OVERLAP, 0), row + _BLOCK),
                slice(max(col - _OVERLAP, 0), col + _BLOCK),
            )
            n_attempts = 1 if max(height, width) <= _BLOCK else _BLOCK_ATTEMPTS
            if not any(_solve(chosen, block, tables, rng) for _ in range(n_attempts)):
                return None
    return tables.corner[chosen]


def _solve(chosen, block, tables: _Tables, rng: np.random.Generator) -> bool:
    """Chooses a window for every cell of a block, in place; False if there is no way.

    Args:
      chosen: int[H, W], windows chosen so far, -1 where none is.
      block: slices of rows and columns.
    """
    from minigrid.envs.wfc.wfclogic import solver

    rows, cols = block
    # One cell more on each side: what stands there already binds the block.
    around = (
        slice(max(rows.start - 1, 0), rows.stop + 1),
        slice(max(cols.start - 1, 0), cols.stop + 1),
    )
    open_cells = chosen.copy()
    open_cells[block] = -1
    given = open_cells[around]
    wave = solver.makeWave(len(tables.weights), *given.shape)
    at_row, at_col = np.nonzero(given >= 0)
    wave[:, at_row, at_col] = False
    wave[given[at_row, at_col], at_row, at_col] = True
    try:
        solved = solver.run(
            wave,
            tables.adjacency,
            locationHeuristic=solver.makeEntropyLocationHeuristic(
                rng.random(given.shape) * 0.1
            ),
            patternHeuristic=solver.makeWeightedPatternHeuristic(tables.weights, rng),
        )
    except solver.Contradiction:
        return False
    inside = (
        slice(rows.start - around[0].start, None),
        slice(cols.start - around[1].start, None),
    )
    height, width = chosen[block].shape
    chosen[block] = solved[inside][:height, :width]
    return True
