"""A curriculum needs only a beginning and what is played next."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
from tiny import as_data

from rlgen.algos.ued.curriculum import (
    NEW_LEVELS,
    REPLAYED,
    Draw,
    LevelDistribution,
    new_batch,
)
from rlgen.levels import LevelSpace
from rlgen.training import make_config

SETTINGS = {
    "height": 5,
    "width": 5,
    "max_walls": 5,
    "max_steps": 8,
    "n_heldout": 4,
    "n_envs": 4,
    "n_steps": 8,
    "n_epochs": 1,
    "torso": "mlp",
    "channels": 8,
    "core": "none",
    "score": "learnability",
}


@dataclasses.dataclass(frozen=True)
class Fresh(LevelDistribution):
    """Domain randomisation in the fewest lines."""

    space: LevelSpace

    def init(self, key):
        return jnp.int32(0)

    def sample(self, state, key, shared_key, n):
        return state + 1, Draw.of(new_batch(self.space, key, n))


def test_the_least_curriculum_trains_as_domain_randomisation_does():
    theirs = make_config("dr", "maze", settings=SETTINGS).build()
    ours = dataclasses.replace(theirs, curriculum=Fresh(theirs.space))
    assert ours.env_steps_per_update == theirs.env_steps_per_update
    (a, of_a), (b, of_b) = (
        jax.jit(e.train, static_argnums=1)(jax.random.key(0), 3) for e in (ours, theirs)
    )
    assert int(a.curriculum) == 3
    assert int(a.learner.n_updates) == 3
    chex.assert_trees_all_close(*(jax.tree.map(as_data, x.learner) for x in (a, b)))
    # What it reports without a line of its own is of the same rollouts.
    for name in ("role", "unique_levels", "finished_levels", "score_new", "episodes"):
        np.testing.assert_allclose(of_a[name], of_b[name], err_msg=name)
    assert np.all(of_a["finite"] == 1)
    assert ours.curriculum.replayed(a.curriculum, jax.random.key(0)) is None


def test_a_draw_trains_on_new_levels_unless_told_otherwise():
    draw = Draw.of(None)
    assert int(draw.role) == NEW_LEVELS
    assert bool(draw.trains)
    assert draw.memo is None
    draw = Draw.of(None, REPLAYED, trains=False, memo=3)
    assert (int(draw.role), bool(draw.trains), draw.memo) == (REPLAYED, False, 3)
    assert draw.role.dtype == jnp.int32
    assert draw.trains.dtype == bool
