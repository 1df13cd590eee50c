"""Pictures that every run leaves: held-out levels with solve rates, and the agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from rlgen.env import take
from rlgen.evaluation import pictures

PyTree = Any
_MAX_LEVELS = 24


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


def agent(experiment: Any, params: PyTree, folder: Path) -> Path:
    """The agent of one seed on four held-out levels, named ones if there are any."""
    sets = experiment.eval_sets
    level_set = sets["named"] if "named" in sets else next(iter(sets.values()))
    chosen = np.linspace(0, len(level_set) - 1, 4).round().astype(int)
    chosen = np.unique(chosen)
    return pictures.agent_gif(
        experiment.env,
        experiment.network,
        params,
        take(level_set.levels, chosen),
        jax.random.key(0),
        folder / "agent.gif",
        labels=[level_set.labels[i] for i in chosen],
    )
