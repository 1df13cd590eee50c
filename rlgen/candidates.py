"""Candidates of a choice: finished runs at their checkpoints, loaded and played."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from rlgen import reports, runner, training
from rlgen.env import Env
from rlgen.errors import UserError
from rlgen.experiment import Experiment
from rlgen.levels import LevelSet
from rlgen.networks import ActorCritic
from rlgen.store import RunStore

PyTree = Any
FloatArray = NDArray[np.float64]


class Candidates(NamedTuple):
    """One run with its policies at each checkpoint that may be chosen."""

    config: Any  # its TrainConfig
    path: Path
    experiment: Experiment
    policies: dict[int, PyTree]  # of all seeds [S, ...], by update, in order


def count(runs: Sequence[Candidates]) -> int:
    """Number of candidates C: checkpoints of all runs."""
    return sum(len(each.policies) for each in runs)


def load(path: str | Path, last: int) -> Candidates:
    """The policies of a finished run that may be chosen.

    These are all that it kept but the untrained one, and that of its last checkpoint.
    The run's own held-out levels are not made: the experiment is built with one
    validation level in their place.

    Args:
      last: only so many, the latest; 0 for all.

    Raises:
      UserError: no finished run, or one without checkpoint or policy.
    """
    config, store = _finished(path)
    levels = dataclasses.replace(
        config.levels_config, eval_split="validation", n_heldout=1
    )
    blind = dataclasses.replace(config, levels_config=levels)
    experiment, newest, states = training.restore(blind, store)
    final = experiment.policy_params(states)
    kept = sorted(
        int(file.stem.removeprefix("update_"))
        for file in (store.path / "policies").glob("update_*.npz")
    )
    policies = {
        update: runner.read_policy(store.path, update, final)
        for update in kept
        if 0 < update < newest
    }
    policies[newest] = final
    updates = list(policies)[-last:]  # all of them where last is 0
    return Candidates(config, Path(path), experiment, {u: policies[u] for u in updates})


def check_comparable(paths: Sequence[str | Path], n_levels: int) -> Any:
    """Checks that runs act in one environment and have the same held-out levels.

    Only settings are read, so that nothing slow comes before a refusal.

    Args:
      n_levels: that will be drawn.

    Returns:
      the settings of their environment, those of the first run.

    Raises:
      UserError: they differ, or one is no finished run or named twice.
    """
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise UserError("A run is named twice: name each run once.")
    configs = [_finished(path)[0] for path in paths]
    first, seen = configs[0], {configs[0].levels_config}
    for path, config in zip(paths, configs, strict=True):
        levels = config.levels_config
        same_name = config.env == first.env
        if not same_name or levels.make_env() != first.levels_config.make_env():
            raise UserError(
                f"{paths[0]} and {path} are of different environments: select among "
                "runs of one environment, with the same settings of it."
            )
        if levels not in seen:
            seen.add(levels)
            n = min(n_levels, 8)  # levels drawn alike begin alike
            a, b = (x.validation_set(n).hashes for x in (first.levels_config, levels))
            if not np.array_equal(a, b):
                raise UserError(
                    f"{paths[0]} and {path} have different held-out levels: select "
                    "among runs with one family of them."
                )
    return first.levels_config


def _finished(path: str | Path) -> tuple[Any, RunStore]:
    config, store = training.load_run(path)
    if not store.is_done:
        raise UserError(f"{path} is not complete: run its `rlgen train` to the end.")
    if not any(store.checkpoint_dir.glob("*")):
        raise UserError(f"{path} has no checkpoint: train it again.")
    return config, store


def play(
    runs: Sequence[Candidates],
    env: Env,
    level_sets: Sequence[LevelSet],
    key: jax.Array,
    field: str,
    n_episodes: int,
) -> FloatArray:
    """Mean score of every candidate on each of K level sets: float64[C, K].

    All candidates of one network, and all sets, are one compiled program.

    Args:
      env: where they play; observations and actions are those of training.
      level_sets: of levels of one shape.
      field: of `EvalResult`, what counts.
      n_episodes: on each level.
    """
    merged = dataclasses.replace(
        level_sets[0],
        levels=jax.tree.map(
            lambda *x: np.concatenate(x), *(s.levels for s in level_sets)
        ),
        hashes=np.concatenate([s.hashes for s in level_sets]),
        labels=tuple(label for s in level_sets for label in s.labels),
    )
    ends = np.cumsum([len(s) for s in level_sets])[:-1]
    scores: dict[tuple[int, int], FloatArray] = {}
    for group in programs(runs):
        items = [(r, u, p) for r in group for u, p in runs[r].policies.items()]
        experiment = runs[group[0]].experiment
        result = reports.evaluate_seeds(
            env,
            experiment.network,
            jax.tree.map(lambda *x: np.concatenate(x), *(p for *_, p in items)),
            key,
            merged,
            n_episodes,
            greedy=experiment.greedy,
        )
        values = np.asarray(getattr(result, field), np.float64)
        values = values.mean(axis=2)  # [policies of all seeds, L]
        sizes = [runs[r].config.run.seeds for r, *_ in items]
        parts = np.split(values, np.cumsum(sizes)[:-1])
        for (r, update, _), part in zip(items, parts, strict=True):
            means = part.mean(axis=0)
            scores[r, update] = np.array([x.mean() for x in np.split(means, ends)])
    order = [(r, u) for r, each in enumerate(runs) for u in each.policies]
    return np.stack([scores[at] for at in order])


def programs(runs: Sequence[Candidates]) -> list[list[int]]:
    """Groups of runs by number: those of one network share a program."""
    groups: list[list[int]] = []
    for i, each in enumerate(runs):
        for group in groups:
            other = runs[group[0]].experiment
            if _same_network(each.experiment, other):
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _same_network(a: Experiment, b: Experiment) -> bool:
    """Whether two experiments act by one program; where it is not known, no."""
    x, y = a.network, b.network
    if not isinstance(x, ActorCritic) or type(x) is not type(y):
        return x is y
    alike = all(
        getattr(x, name) == getattr(y, name)
        for name in ("config", "n_values", "observation_space", "action_space")
    )
    return alike and a.greedy == b.greedy
