"""Tasks as an environment of the lab: settings, held-out sets, a student on them."""

import numpy as np
import pytest

from rlgen import training
from rlgen.envs.grid_tasks.config import GridTasksConfig
from rlgen.errors import UserError
from rlgen.levels import assert_disjoint, split_of

SMALL = {
    "height": 5,
    "width": 5,
    "n_objects": 2,
    "max_size": 5,
    "n_walls": 4,
    "max_steps": 40,
    "n_heldout": 16,
}


def test_held_out_tasks_are_of_their_split():
    config = GridTasksConfig(**SMALL)
    (held_out,) = config.eval_sets().values()
    assert len(held_out) == 16
    assert (np.asarray(split_of(held_out.hashes)) == 2).all()
    others = config.other_named()
    assert sorted(others) == [
        "classic dense",
        "classic long",
        "classic long_dense",
        "classic longer",
        "classic sparse",
    ]
    assert_disjoint(*(level_set for _, level_set in others.values()))


def test_settings_that_go_against_each_other():
    with pytest.raises(UserError, match="observation=picture"):
        GridTasksConfig(levels="classic", height=13, width=13)
    with pytest.raises(UserError, match="n_walls has no effect on classic"):
        GridTasksConfig(levels="classic", n_walls=3)
    with pytest.raises(UserError, match="no editor for a teacher"):
        GridTasksConfig(**SMALL).make_editor(1, 1)


@pytest.mark.parametrize("observation", ["state", "picture"])
def test_a_student_trains_on_tasks(observation, tmp_path):
    settings = SMALL | {
        "observation": observation,
        "n_updates": 4,
        "n_envs": 8,
        "n_steps": 16,
        "n_minibatches": 2,
        "core": "none",
        "eval_every": 2,
        "min_fill": 0.1,
        "buffer_size": 32,
        "progress": False,
    }
    store = training.train("plr", "grid_tasks", out=str(tmp_path), **settings)
    assert store.is_done
    last = store.read_metrics().iloc[-1]
    assert np.isfinite(last["eval_heldout_return"])
    assert (store.figures_dir / "curves.png").exists()
