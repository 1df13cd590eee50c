"""Datasets that cannot be learned from: one sentence and exit code 2."""

import dataclasses

import numpy as np
import pytest
from offline_data import episodes_of

from rlgen import cli, datasets
from rlgen.envs.pointmaze.config import PointMazeConfig
from rlgen.levels import LevelSet
from rlgen.transitions import from_episodes


def flat(path, **changes):
    """A flat file of steps that point mazes could have had, with some changed."""
    rows = from_episodes(episodes_of(4, 5, obs_size=6, action_size=2)).rows
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
    arrays = {name: np.array(getattr(rows, name)) for name in names}
    for name, change in changes.items():
        change(arrays[name]) if callable(change) else arrays.update({name: change})
    np.savez(path, **arrays)
    return path


def at(value, *index):
    def change(array):
        array[index] = value

    return change


@pytest.mark.parametrize(
    ("algorithm", "changes", "sentence"),
    [
        ("rebrac", {}, "needs next_action, which the dataset does not have"),
        ("cal-ql", {}, "needs return_to_go, which the dataset does not have"),
        ("rvs", {}, "needs return_to_go, which the dataset does not have"),
        (
            "iql",
            {"obs": at(np.nan, 3, 1)},
            "1 steps whose obs is not finite",
        ),
        ("iql", {"reward": at(np.inf, 7)}, "whose reward is not finite"),
        ("iql", {"action": at(1.5, 2, 0)}, "1 actions outside the environment's box"),
        (
            "iql",
            {"obs": np.zeros((20, 4)), "next_obs": np.zeros((20, 4))},
            "has observations of shape (4,), but the environment's have (6,)",
        ),
    ],
)
def test_flat_files(algorithm, changes, sentence, tmp_path, capsys):
    path = flat(tmp_path / "steps.npz", **changes)
    command = f"train {algorithm} --env pointmaze --data {path} --out {tmp_path}/runs"
    assert cli.main(command.split()) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def recorded(tmp_path):
    config = PointMazeConfig()
    levels = LevelSet.generate(
        config.make_space(), 2, seed=0, split="train", name="train"
    )
    env = config.make_env()
    return datasets.save(
        tmp_path / "pointmaze" / "noise-v0",
        [
            dataclasses.replace(episode, level_id=i % 2)
            for i, episode in enumerate(episodes_of(4, 5, obs_size=6, action_size=2))
        ],
        name="pointmaze/noise-v0",
        observation_space=env.observation_space,
        action_space=env.action_space,
        level_set=levels,
    )


def edit(folder, change):
    import h5py

    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        change(file["episode_1"])


def shorten(episode):
    observations = np.array(episode["observations"])[:-1]
    del episode["observations"]
    episode["observations"] = observations


@pytest.mark.parametrize(
    ("change", "sentence"),
    [(shorten, "5 observations for 5 steps, but needs 6")],
)
def test_recorded_episodes(change, sentence, recorded, tmp_path, capsys):
    edit(recorded, change)
    command = f"train bc --env pointmaze --data {recorded} --out {tmp_path}/runs"
    assert cli.main(command.split()) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1


def test_a_level_that_is_missing(recorded, tmp_path, capsys):
    """Of a level set that was exchanged for a smaller one."""
    space = PointMazeConfig().make_space()
    whole = LevelSet.load(recorded / "levels.npz", space)
    (recorded / "levels.npz").unlink()
    whole.thin(1).save(recorded / "levels.npz")
    command = f"train bc --env pointmaze --data {recorded} --out {tmp_path}/runs"
    assert cli.main(command.split()) == 2
    err = capsys.readouterr().err
    assert "level 1, which is missing from its level set of 1" in err


def test_no_data(capsys):
    assert cli.main(["train", "iql", "--env", "pointmaze"]) == 2
    assert "Name a dataset with --data" in capsys.readouterr().err
