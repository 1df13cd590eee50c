"""Recorded in pieces, learned, drawn: what the stitching sweep's README asks for."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from rlgen import cli, datasets, training
from rlgen.envs.pointmaze.config import PointMazeConfig

SCRIPT = Path(__file__).parents[1] / "analysis" / "stitching.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("stitching", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    out = tmp_path_factory.mktemp("datasets")
    command = "collect pointmaze --recording stitch-umaze --transitions 3000"
    assert cli.main([*command.split(), "--out", str(out)]) == 0
    return out / "pointmaze" / "stitch-umaze-v0"


def test_a_recording_brings_its_environment_and_what_to_test_it_on(recorded):
    about = datasets.about(recorded)
    assert about["environment"] == "pointmaze" and about["settings"]["height"] == 3
    config = PointMazeConfig(height=3, width=3)
    dataset = datasets.load(recorded, config.make_space())
    assert {name: len(s) for name, s in dataset.tests.items()} == {
        "seen pairs": 16,
        "unseen pairs": 2,
    }
    assert dataset.level_set is not None and len(dataset.level_set) == 1
    # Only episodes that reached their goal.
    ends = np.cumsum(dataset.data.episode_length) - 1
    assert dataset.data.rows.terminated[ends].all()
    made = training.make_config("stitching", settings={"data": str(recorded)})
    assert made.env == "pointmaze" and made.levels_config.height == 3
    assert set(made.build().eval_sets) == {"seen pairs", "unseen pairs"}


def test_a_sweep_of_both_makes_a_table_and_a_figure(script, recorded, tmp_path, capsys):
    with pytest.raises(script.UserError, match="No run in"):
        script.read(tmp_path)
    for name in ("goal-cloning", "stitching"):
        command = f"train {name} --data {recorded} --preset quick --n-updates 1"
        command += " --steps-per-update 1 --actor-units 8 --eval-episodes 2"
        command += f" --pictures False --progress False --out {tmp_path}/runs"
        assert cli.main(command.split()) == 0
    script.figure(str(tmp_path / "runs"), str(tmp_path / "out"))
    table = script.read(tmp_path / "runs")
    assert sorted(table["algorithm"] + ", " + table["pairs"]) == [
        "goal-cloning, seen pairs",
        "goal-cloning, unseen pairs",
        "stitching, seen pairs",
        "stitching, unseen pairs",
    ]
    assert set(table["maze"]) == {"umaze"} and set(table["gradient_steps"]) == {1}
    assert (tmp_path / "out" / "stitching.png").stat().st_size > 1000
    assert (tmp_path / "out" / "stitching.csv").exists()
    assert "stitching.png" in capsys.readouterr().out


def test_stitching_looks_at_other_episodes_by_default(recorded):
    """The published code leaves it off where its name is given."""
    shares = {
        name: training.make_config(name, preset="quick").algo.stitch_prob
        for name in ("goal-cloning", "stitching")
    }
    assert shares == {"goal-cloning": 0.0, "stitching": 0.5}


@pytest.mark.slow
def test_pairs_that_no_episode_connects_are_reached(recorded):
    """From none to all, as measured at full length for five seeds."""
    rates = {}
    for name in ("goal-cloning", "stitching"):
        settings = {"data": str(recorded), "n_updates": 2, "actor_units": 128}
        config = training.make_config(name, preset="quick", settings=settings)
        experiment = config.build()
        state = jax.jit(experiment.init)(jax.random.key(0))
        update = jax.jit(experiment.update)
        for _ in range(2):
            state, _ = update(state)
        results = jax.jit(experiment.evaluate)(state, jax.random.key(1))
        rates[name] = {k: float(r.success.mean()) for k, r in results.items()}
    assert rates["goal-cloning"]["unseen pairs"] <= 0.05
    assert rates["stitching"]["unseen pairs"] >= 0.95
    assert min(r["seen pairs"] for r in rates.values()) >= 0.95


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("collect pointmaze --recording u", "has no recording u: choose stitch-umaze,"),
        ("collect pointmaze --recording stitch-umaze --quality random", "not two."),
        ("collect maze --recording x", "maze has no recording x: leave it out."),
        ("train stitching --env maze --data nowhere", "There is no dataset nowhere"),
    ],
)
def test_bad_input_is_one_sentence(command, sentence, capsys):
    assert cli.main(command.split()) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1
