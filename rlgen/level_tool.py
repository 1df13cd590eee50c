"""`rlgen levels`: look at levels, keep them in files, read them back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from rlgen import config as configs
from rlgen.env import Env
from rlgen.errors import UserError
from rlgen.levels import SPLITS, LevelSet, LevelSpace, hash_text
from rlgen.ranges import Count, CountOrZero, Seed, Settings


@dataclasses.dataclass(frozen=True)
class LevelsOptions(Settings):
    """Which levels, and what to do with them.

    Attributes:
      n: number of levels to generate.
      seed: seed of the generator.
      split: generate levels of this split (train, validation or test).
      named: the named levels of this size instead of generated ones.
      load: a level set (.npz, or the name of one that ships) or a level drawn as text
        (.txt) instead, of its own size.
      folder: where the level sets go that `--dataset NAME[,NAME]` or `--dataset all`
        makes; what is there already is kept.
      jobs: processes that make them; 0 for one per core.
      save: write the set to this file (.npz).
      picture: write a picture of the levels to this file (.png).
      show: how many levels to print as text.
      name: name of the generated set.
    """

    n: Count = 16
    seed: Seed = 0
    split: str = "train"
    named: bool = False
    load: str = ""
    folder: str = "level-sets"
    jobs: CountOrZero = 0
    save: str = ""
    picture: str = "levels.png"
    show: CountOrZero = 4
    name: str = "levels"


def run(env_name: str, env_type: type, args: Sequence[str]) -> LevelSet:
    """Parses the flags of `rlgen levels ENV` and does what they say."""
    groups = {"options": LevelsOptions(), "env": env_type()}
    parsed = configs.parse_flags(groups, args, f"rlgen levels {env_name}")
    options, config = parsed["options"], parsed["env"]
    if config.dataset:
        config, level_set = _make(options, config)
        env, space = config.make_env(), config.make_space()
    else:
        env, space, level_set = _choose(options, config)
    features = jax.jit(jax.vmap(space.features))(level_set.levels)
    features = {name: np.asarray(value) for name, value in features.items()}
    _print(level_set, features, space, options.show)
    if options.save:
        print("saved", level_set.save(options.save))
    if options.picture:
        from rlgen.evaluation import pictures

        images = pictures.level_images(env, level_set.levels, jax.random.key(0))
        path = pictures.level_grid(
            images, captions(level_set, features), Path(options.picture), level_set.name
        )
        print("picture", path)
    return level_set


def _choose(options: LevelsOptions, config: Any) -> tuple[Env, LevelSpace, LevelSet]:
    if options.load:
        return config.read_levels(options.load)
    env, space = config.make_env(), config.make_space()
    if options.named:
        return env, space, config.named_set()
    if options.split not in SPLITS:
        raise UserError(f"Unknown split {options.split!r}: choose {', '.join(SPLITS)}.")
    level_set = LevelSet.generate(
        space,
        options.n,
        seed=options.seed,
        split=options.split,
        name=options.name,
        solvable=config.solvable,
    )
    return env, space, level_set


def _make(options: LevelsOptions, config: Any) -> tuple[Any, LevelSet]:
    """Makes the level sets asked for; returns the first and settings of its size."""
    wanted = config.recipes()
    if config.dataset != "all":
        wanted = tuple(config.dataset.split(","))
    known = config.recipes()
    for name in wanted or (config.dataset,):
        if name not in known:
            choice = (
                f"choose all or one of {', '.join(known)}"
                if known
                else ("leave dataset out and save generated levels with --save")
            )
            raise UserError(f"There is no recipe for level set {name}: {choice}.")
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as progress:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what)
            progress.update(tasks[what], completed=done, total=total)

        jobs = options.jobs or os.cpu_count() or 1
        paths = config.make_sets(wanted, Path(options.folder), jobs, show)
    for path in paths.values():
        print("made", path)
    config = config.sized_for(wanted[0])
    return config, config.load_set(str(paths[wanted[0]]))


def captions(level_set: LevelSet, features: dict[str, np.ndarray]) -> list[str]:
    """One line per level: its label and what is known of it."""
    lines = []
    for i, label in enumerate(level_set.labels):
        parts = [label]
        if "path_length" in features:
            length = features["path_length"][i]
            parts.append(f"path {length:.0f}" if np.isfinite(length) else "unsolvable")
        if "n_walls" in features:
            parts.append(f"{features['n_walls'][i]:.0f} walls")
        lines.append("  ".join(parts))
    return lines


def _print(level_set: LevelSet, features: dict, space: Any, show: int) -> None:
    lines = captions(level_set, features)
    for i in range(min(show, len(level_set))):
        print(f"{lines[i]}  {hash_text(level_set.hashes[i])}")
        print(space.to_str(level_set[i]))
    summary = ", ".join(
        f"{name} {np.nanmean(value):.2f}"
        for name, value in features.items()
        if np.any(np.isfinite(value))
    )
    name = f"{level_set.name} ({level_set.split})"
    print(f"{len(level_set)} levels of set {name}: {summary}")
