"""Pictures of an environment-design run: held-out levels, curriculum, agent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pandas as pd

from rlgen.env import take
from rlgen.evaluation import pictures

if TYPE_CHECKING:
    from rlgen.algos.ued.experiment import UED, UEDState

_MAX_LEVELS = 24


def draw(
    experiment: UED, states: UEDState, folder: Path, episodes: pd.DataFrame
) -> list[Path]:
    """Draws the first seed's view of the run; returns the files written."""
    first = take(states, 0)
    files = [
        heldout(experiment, str(name), part, folder)
        for name, part in episodes.groupby("level_set", sort=False)
    ]
    replayed = curriculum(experiment, first.curriculum, folder)
    if replayed is not None:
        files.append(replayed)
    if experiment.eval_sets:
        files.append(_agent(experiment, first, folder))
    return files


def heldout(experiment: Any, name: str, part: pd.DataFrame, folder: Path) -> Path:
    """Held-out levels with their solve rates, the hardest first if there are many."""
    level_set = experiment.eval_sets[name]
    rates = part.groupby("level")["success"].mean()
    rates = pd.Series(rates, index=list(level_set.labels))  # in the order of the set
    order = np.arange(len(level_set))
    title = f"{name}: solve rate {rates.mean():.2f} over {len(level_set)} levels"
    if len(order) > _MAX_LEVELS:
        order = np.argsort(rates.to_numpy(), kind="stable")[:_MAX_LEVELS]
        title += f", the {_MAX_LEVELS} hardest"
    images = pictures.level_images(
        experiment.env, take(level_set.levels, order), jax.random.key(0)
    )
    values = rates.to_numpy()[order]
    captions = [
        f"{level_set.labels[i]}  {value:.2f}"
        for i, value in zip(order, values, strict=True)
    ]
    return pictures.level_grid(
        images, captions, folder / f"{name}.png", title=title, values=values
    )


def curriculum(
    experiment: Any,
    state: Any,
    folder: Path,
    level_of: Callable[[Any], Any] = lambda level: level,
) -> Path | None:
    """The levels that the curriculum would replay now, the likeliest first.

    Args:
      state: of the curriculum.
      level_of: what the environment draws of a level of the curriculum's.
    """
    replayed = experiment.curriculum.replayed(state, jax.random.key(0))
    if replayed is None:
        return None
    levels, probabilities, scores = jax.device_get(replayed)
    order = np.argsort(-probabilities, kind="stable")[:12]
    order = order[probabilities[order] > 0]
    if not len(order):
        return None
    images = pictures.level_images(
        experiment.env, level_of(take(levels, order)), jax.random.key(0)
    )
    captions = [f"score {scores[i]:.2f}" for i in order]
    return pictures.curriculum_picture(
        images, probabilities[order], captions, folder / "curriculum.png"
    )


def _agent(experiment: UED, state: UEDState, folder: Path) -> Path:
    """The agent on four held-out levels, named ones if there are any."""
    sets = experiment.eval_sets
    level_set = sets["named"] if "named" in sets else next(iter(sets.values()))
    chosen = np.linspace(0, len(level_set) - 1, 4).round().astype(int)
    chosen = np.unique(chosen)
    return pictures.agent_gif(
        experiment.env,
        experiment.network,
        state.learner.params,
        take(level_set.levels, chosen),
        jax.random.key(0),
        folder / "agent.gif",
        labels=[level_set.labels[i] for i in chosen],
    )
