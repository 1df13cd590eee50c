"""Datasets that were recorded elsewhere: what is said of them, and their actions."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

from rlgen import datasets
from rlgen.algos.offline import assembly
from rlgen.datasets import Dataset
from rlgen.envs.maze.config import MazeConfig
from rlgen.envs.pointmaze.config import PointMazeConfig
from rlgen.errors import UserError
from rlgen.transitions import Episode, from_episodes

Box = gymnasium.spaces.Box
HERE = PointMazeConfig(height=3, width=3)
CONFIG = SimpleNamespace(data="x", agent=SimpleNamespace(discount=0.9))
LOW, HIGH = np.array([-3, 0], np.float32), np.array([3, 8], np.float32)


def load(monkeypatch, env_config=HERE, *, scale=False, **about):
    """A dataset with the shapes of a point maze and actions in a larger box."""
    env = HERE.make_env()
    n_obs, rng = env.observation_space.shape[0], np.random.default_rng(0)
    flags = np.arange(6) == 5
    episodes = [
        Episode(
            rng.normal(size=(7, n_obs)).astype(np.float32),
            rng.uniform(LOW, HIGH, (6, 2)).astype(np.float32),
            np.zeros(6, np.float32),
            flags,
            ~flags & flags,
        )
        for _ in range(2)
    ]
    given = {"action_space": Box(LOW, HIGH), **about}
    dataset = Dataset("theirs", from_episodes(episodes), **given)
    monkeypatch.setattr(datasets, "load", lambda *args, **kwargs: dataset)
    made = assembly.load(CONFIG, env_config.make_env(), env_config, scale_actions=scale)
    return dataset, made


def test_actions_are_brought_into_the_environments_box(monkeypatch):
    with pytest.warns(UserWarning, match="are scaled from -3 to 8 into -1 to 1"):
        theirs, ours = load(monkeypatch, scale=True)
    recorded, rows = theirs.data.rows, ours.data.rows
    # The middle of one box is the middle of the other, and ends are ends.
    wanted = 2 * (recorded.action - LOW) / (HIGH - LOW) - 1
    np.testing.assert_allclose(rows.action, wanted, atol=1e-6)
    np.testing.assert_allclose(rows.next_action[:5], wanted[1:6], atol=1e-6)
    np.testing.assert_array_equal(rows.next_action[5], 0.0)
    np.testing.assert_array_equal(rows.obs, recorded.obs)


def test_without_scaling_they_are_refused_and_the_setting_named(monkeypatch):
    with pytest.raises(UserError, match=r"outside the .* as scale_actions does"):
        load(monkeypatch)


@pytest.mark.parametrize("space", [None, Box(-np.inf, np.inf, (2,))])
def test_a_box_that_is_unknown_cannot_be_scaled_from(monkeypatch, space):
    with pytest.raises(UserError, match="cannot be scaled"):
        load(monkeypatch, scale=True, action_space=space)


def test_data_of_another_simulator_are_a_warning_that_names_both(monkeypatch):
    with pytest.warns(UserWarning) as said:
        load(monkeypatch, scale=True, recorded_in="PointMaze_UMaze-v3")
    texts = [str(warning.message) for warning in said]
    assert "recorded in PointMaze_UMaze-v3, but is evaluated in PointMaze" in texts[0]


@pytest.mark.parametrize("recorded_in", ["", "pointmaze"])
def test_data_of_the_same_environment_are_not(monkeypatch, recorded_in):
    with pytest.warns(UserWarning) as said:
        load(monkeypatch, scale=True, recorded_in=recorded_in)
    assert ["scaled from" in str(warning.message) for warning in said] == [True]


def test_an_environment_without_a_box_is_named(monkeypatch):
    """The default one, where none is named: a maze."""
    sentence = "theirs, recorded in Pendulum-v1, was to be evaluated in Maze"
    with pytest.raises(UserError, match=sentence):
        load(monkeypatch, MazeConfig(), recorded_in="Pendulum-v1")
