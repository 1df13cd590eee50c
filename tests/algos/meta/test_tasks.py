"""Tasks: a level and a lifetime, split by the level alone."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rlgen.algos.meta.tasks import Tasks
from rlgen.envs.grid_tasks.config import GridTasksConfig
from rlgen.errors import UserError
from rlgen.levels import LevelFileError, LevelSet, sample_split, split_of

SPACE = GridTasksConfig(height=5, width=5, n_objects=2, max_size=5).make_space()
TASKS = Tasks(SPACE, 10, 250)


def test_lifetimes_are_log_uniform():
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(jax.vmap(TASKS.lifetime)(keys))
    assert drawn.min() == 10
    assert drawn.max() == 250
    # The middle of the logarithms divides the draws in two.
    assert np.mean(drawn < 50) == pytest.approx(np.log(5.0) / np.log(25.1), abs=0.03)


def test_one_lifetime_can_be_asked_for():
    for n in (1, 7):
        assert int(Tasks(SPACE, n, n).lifetime(jax.random.key(3))) == n
    with pytest.raises(UserError, match="choose 1 <= min_lifetime"):
        Tasks(SPACE, 9, 8)


def test_a_task_is_of_its_levels_split_whatever_its_lifetime():
    for i in range(5):
        task = sample_split(TASKS, jax.random.key(i), "test")
        assert int(split_of(SPACE.hash(task.level))) == 2
        longer = task.replace(lifetime=task.lifetime + 1)
        assert int(split_of(TASKS.hash(longer))) == 2
        assert (TASKS.hash(longer) != TASKS.hash(task)).any()


def test_no_two_lifetimes_on_a_level_are_the_same_task():
    task = TASKS.sample(jax.random.key(0))
    lifetimes = np.arange(1, 3001)
    hashes = jax.vmap(lambda n: TASKS.hash(task.replace(lifetime=n)))(lifetimes)
    assert len(np.unique(hashes[:, 0])) == 3000
    features = TASKS.features(task)
    assert float(features.pop("lifetime")) == int(task.lifetime)
    assert features.keys() == SPACE.features(task.level).keys()


def test_given_levels_are_the_only_ones():
    given = LevelSet.generate(SPACE, 3, seed=0, split="train")
    tasks = Tasks(SPACE, 10, 20, given)
    drawn = jax.vmap(tasks.sample)(jax.random.split(jax.random.key(0), 64))
    hashes = np.asarray(jax.vmap(SPACE.hash)(drawn.level))
    assert {h.tobytes() for h in hashes} == {h.tobytes() for h in given.hashes}
    assert 10 <= drawn.lifetime.min() < drawn.lifetime.max() <= 20


def test_tasks_round_trip_through_text():
    task = TASKS.sample(jax.random.key(1))
    again = TASKS.from_str(TASKS.to_str(task))
    np.testing.assert_array_equal(TASKS.hash(task), TASKS.hash(again))
    with pytest.raises(LevelFileError, match="give level and lifetime"):
        TASKS.from_str("{}")
