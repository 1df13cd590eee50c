"""The level sets of Cave Escape: what they hold, how they are made, where they are.

The finished sets ship in the folder `data`. `rlgen levels cave --dataset all` makes
them again, bit for bit: layouts by wave function collapse in parallel processes, then
objects, redrawn until the level's hash falls into the split of the set. So no
curriculum can ever generate a held-out level.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import math
import multiprocessing
import multiprocessing.connection
import os
import threading
import zlib
from collections.abc import Callable, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlgen.envs.cave import wfc
from rlgen.envs.cave.env import CaveLevel
from rlgen.envs.cave.levels import Empty
from rlgen.envs.cave.objects import Objects, largest_area, place
from rlgen.errors import UserError
from rlgen.files import write_atomically
from rlgen.levels import SPLITS, LevelFileError, LevelSet, split_of, stack

# Layouts are made and stored in chunks of so many cells, so that a chunk of any size
# takes seconds.
_CHUNK_CELLS = 16 * 169
# A level must leave at least this share of its cells to walk on, in one piece.
_MIN_AREA = 40 / 169
# Objects are drawn so many times at once until one hash is of the wanted split.
_TRIES = 32
_SEED = 2024

TRAIN_STRUCTURES = ("maze_paths", "maze_walls", "obstacles_blocks", "rooms_office")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a level set is made of.

    Attributes:
      split: whose hashes its levels have.
      per_structure: levels of each structure.
      size: cells per side, without the border.
      layouts: of the structures of the "train" set, of "other" ones, or of "all".
      objects: shares of moss and lava.
      first: layouts of a structure that come before in the same pool.
    """

    split: str
    per_structure: int
    size: int = 13
    layouts: str = "train"
    objects: Objects = Objects()
    first: int = 0

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the structures."""
        others = tuple(s for s in wfc.structures() if s not in TRAIN_STRUCTURES)
        return {
            "train": TRAIN_STRUCTURES,
            "other": others,
            "all": TRAIN_STRUCTURES + others,
        }[self.layouts]


_FEW_HINTS = (0.05, 0.05)

# The sets of Garcin et al. 2024 (Cave Escape), with our structures. The three edge
# sets of 13x13 share their layouts, so that they differ in their objects alone.
RECIPES: dict[str, Recipe] = {
    "train": Recipe("train", 128),
    "validation": Recipe("validation", 128, first=128),
    "test": Recipe("test", 512, first=256),
    "structures": Recipe("test", 9, layouts="other"),
    "lava": Recipe(
        "test", 9, layouts="other", objects=Objects(moss=_FEW_HINTS, lava=(0.5, 0.5))
    ),
    "hints": Recipe("test", 9, layouts="other", objects=Objects(moss=_FEW_HINTS)),
    "large": Recipe(
        "test", 6, size=43, layouts="all", objects=Objects(temperature=2.0)
    ),
}


def names() -> tuple[str, ...]:
    """Names of the sets that ship."""
    return tuple(RECIPES)


@functools.cache
def shipped(name: str) -> LevelSet[CaveLevel]:
    """A level set that ships with the package.

    Raises:
      LevelFileError: there is none of this name.
    """
    if name not in RECIPES:
        raise LevelFileError(
            f"There is no cave level set {name}: choose {', '.join(RECIPES)}."
        )
    size = RECIPES[name].size
    folder = resources.files("rlgen.envs.cave") / "data"
    with resources.as_file(folder / f"{name}.npz") as path:
        return LevelSet.load(path, Empty(size, size))


def make(
    wanted: Sequence[str],
    folder: Path,
    jobs: int,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Path]:
    """Makes level sets that are not there yet; what is there is kept.

    Args:
      wanted: names from `RECIPES`.
      folder: where the sets go; finished layouts are kept in its `layouts`.
      jobs: processes.
      on_progress: called with what is being made, how much is done, and of how much.

    Returns:
      the path of each set.

    Raises:
      UserError: an unknown name, or the package `minigrid` is missing.
    """
    for name in wanted:
        if name not in RECIPES:
            raise UserError(
                f"There is no recipe {name}: choose all or one of {', '.join(RECIPES)}."
            )
    paths = {name: folder / f"{name}.npz" for name in wanted}
    missing = [name for name, path in paths.items() if not path.exists()]
    if missing:
        _make_layouts(missing, folder / "layouts", jobs, on_progress)
    for i, name in enumerate(missing):
        on_progress("sets", i, len(missing))
        _furnish(name, folder / "layouts").save(paths[name])
    if missing:
        on_progress("sets", len(missing), len(missing))
    _write_sums(folder)
    return paths


def _write_sums(folder: Path) -> None:
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.glob("*.npz"))
    ]
    with write_atomically(folder / "SHA256SUMS") as file:
        file.write("".join(lines).encode())


def _make_layouts(names, folder, jobs, on_progress) -> None:
    """Makes the chunks of layouts that the sets need and that are not there yet."""
    needed: dict[tuple[str, int], int] = {}
    for name in names:
        recipe = RECIPES[name]
        for structure in recipe.structures:
            pool = (structure, recipe.size)
            needed[pool] = max(needed.get(pool, 0), recipe.first + recipe.per_structure)
    on_progress("layouts", 0, sum(needed.values()))
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_end_with_parent
    ) as pool:
        while True:
            found = {at: _layouts(*at, folder) for at in needed}
            done = sum(min(len(found[at]), n) for at, n in needed.items())
            on_progress("layouts", done, sum(needed.values()))
            short = {at: n - len(found[at]) for at, n in needed.items()}
            short = {at: n for at, n in short.items() if n > 0}
            if not short:
                return
            # The slowest first, so that none is left alone at the end.
            futures = []
            for at in sorted(short, key=lambda at: -at[1]):
                first = _n_chunks(*at, folder)
                for chunk in range(
                    first, first + math.ceil(short[at] / _chunk_size(at[1]))
                ):
                    futures.append(pool.submit(_make_chunk, *at, chunk, folder))
            for future in concurrent.futures.as_completed(futures):
                done += future.result()
                on_progress("layouts", done, sum(needed.values()))


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed; by itself it would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch():
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _chunk_size(size: int) -> int:
    """Attempts per chunk."""
    return max(1, _CHUNK_CELLS // size**2)


def _chunk_path(structure: str, size: int, chunk: int, folder: Path) -> Path:
    return folder / f"{structure}_{size}_{chunk:04d}.npz"


def _n_chunks(structure: str, size: int, folder: Path) -> int:
    """How many chunks are there without a gap."""
    chunk = 0
    while _chunk_path(structure, size, chunk, folder).exists():
        chunk += 1
    return chunk


def _make_chunk(structure: str, size: int, chunk: int, folder: Path) -> int:
    """Makes one chunk of attempts; returns how many layouts came out of it."""
    path = _chunk_path(structure, size, chunk, folder)
    if path.exists():
        return 0
    areas = []
    for attempt in range(_chunk_size(size)):
        entropy = [_SEED, zlib.crc32(structure.encode()), size, chunk, attempt]
        rng = np.random.default_rng(np.random.SeedSequence(entropy))
        layout = wfc.layout(structure, size, size, rng)
        if layout is not None:
            area = largest_area(layout)
            if area.mean() >= _MIN_AREA:
                areas.append(area)
    packed = np.packbits(np.array(areas, bool).reshape(len(areas), size * size), axis=1)
    with write_atomically(path) as file:
        np.savez_compressed(file, areas=packed)
    return len(areas)


def _layouts(structure: str, size: int, folder: Path) -> list[np.ndarray]:
    """Distinct areas bool[H, W] of a pool, in the order in which they were drawn."""
    distinct: dict[bytes, np.ndarray] = {}
    for chunk in range(_n_chunks(structure, size, folder)):
        path = _chunk_path(structure, size, chunk, folder)
        with np.load(path, allow_pickle=False) as file:
            packed = file["areas"]
        for row in packed:
            area = np.unpackbits(row, count=size * size).astype(bool)
            distinct.setdefault(area.tobytes(), area.reshape(size, size))
    return list(distinct.values())


def _furnish(name: str, folder: Path) -> LevelSet[CaveLevel]:
    """Puts objects on layouts until the hash of each level is of the set's split."""
    recipe = RECIPES[name]
    space = Empty(recipe.size, recipe.size)
    hash_all = jax.jit(jax.vmap(space.hash))
    levels, labels = [], []
    for structure in recipe.structures:
        areas = _layouts(structure, recipe.size, folder)
        chosen = areas[recipe.first : recipe.first + recipe.per_structure]
        for i, area in enumerate(chosen):
            entropy = [
                _SEED,
                zlib.crc32(f"{name}/{structure}".encode()),
                recipe.first + i,
            ]
            rng = np.random.default_rng(np.random.SeedSequence(entropy))
            levels.append(_draw_until(area, rng, recipe, hash_all))
            labels.append(f"{structure}-{recipe.first + i}")
    level_set = LevelSet.from_levels(
        space,
        stack(levels),
        name=name,
        split=recipe.split,
        labels=tuple(labels),
        provenance={
            "command": f"rlgen levels cave --dataset {name}",
            "seed": _SEED,
            "structures": list(recipe.structures),
            "objects": dataclasses.asdict(recipe.objects),
            "minigrid": metadata.version("minigrid"),
        },
    )
    if len({h.tobytes() for h in level_set.hashes}) < len(level_set):
        raise UserError(f"The level set {name} has equal levels: change its seed.")
    return level_set


def _draw_until(area, rng, recipe: Recipe, hash_all) -> CaveLevel:
    wanted = SPLITS.index(recipe.split)
    while True:
        tries = []
        for _ in range(_TRIES):
            tiles, goal, start = place(area, rng, recipe.objects)
            leaves: dict[str, Any] = {"cells": tiles, "goal": goal, "start": start}
            tries.append(CaveLevel(**leaves))
        hits = np.flatnonzero(np.asarray(split_of(hash_all(stack(tries)))) == wanted)
        if len(hits):
            return tries[hits[0]]
