"""Pictures of an environment-design run: held-out levels, curriculum, agent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pandas as pd

from rlgen.algos import gallery
from rlgen.env import take
from rlgen.evaluation import pictures

if TYPE_CHECKING:
    from rlgen.algos.ued.experiment import UED, UEDState


def draw(
    experiment: UED, states: UEDState, folder: Path, episodes: pd.DataFrame
) -> list[Path]:
    """Draws the first seed's view of the run; returns the files written."""
    first = take(states, 0)
    files = [
        gallery.heldout(experiment, str(name), part, folder)
        for name, part in episodes.groupby("level_set", sort=False)
    ]
    replayed = curriculum(experiment, first.curriculum, folder)
    if replayed is not None:
        files.append(replayed)
    if experiment.eval_sets:
        files.append(gallery.agent(experiment, first.learner.params, folder))
    return files


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
