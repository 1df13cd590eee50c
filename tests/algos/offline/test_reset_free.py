"""Reset-free practice on a table: its stages, settings and ends."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from probes import PushConfig
from reset_free_data import (
    KEY,
    record_table,
)
from tiny import assert_same_bits, preempted

from rlgen import config as configs
from rlgen import datasets, programs, runner, training
from rlgen.algos.offline.classifier import (
    ADAPTED,
    CLASSIFIER,
)
from rlgen.algos.offline.practice import (
    PRACTICE,
)
from rlgen.algos.offline.stages import AGENT
from rlgen.env import take
from rlgen.errors import UserError
from rlgen.store import RunStore

TINY = {
    "offline_updates": 1,
    "online_updates": 2,
    "classifier_updates": 1,
    "adapt_updates": 1,
    "steps_per_update": 3,
    "n_attempts": 2,
    "reset_every": 12,
    "actor_units": 8,
    "critic_units": 8,
    "actor_layers": 1,
    "critic_layers": 1,
    "batch_size": 8,
    "cql_actions": 1,
    "classifier_units": 8,
    "classifier_layers": 1,
    "eval_episodes": 2,
    "n_heldout": 2,
    "log_every": 1,
    "max_steps": 8,
    "progress": False,
    "pictures": False,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return record_table(tmp_path_factory.mktemp("data") / "tabletop" / "few-v0")


def config_of(table, **settings):
    """As the command line makes it, small."""
    values = TINY | {"data": str(table)} | settings
    return training.make_config("reset-free", "", "", values, flags=values)


@pytest.fixture(scope="module")
def config(table):
    return config_of(table, seeds=2, seed_axis="map")


@pytest.fixture(scope="module")
def program(config):
    return programs.Program(programs.Plan(config.build(), config.run))


@pytest.fixture(scope="module")
def whole(config, program, tmp_path_factory):
    store = RunStore.open(str(tmp_path_factory.mktemp("whole")), config.name, config)
    states = runner.run(program.experiment, config.run, store, [], program)
    return states, store


def test_stages_follow_one_another(config, program, whole):
    states, store = whole
    assert config.env == "tabletop" and config.run.n_updates == 5
    experiment = program.experiment
    assert list(experiment.stages) == [CLASSIFIER, ADAPTED, AGENT, PRACTICE]
    rows = store.read_metrics()
    own = rows[(rows["kind"] == "train") & (rows["seed"] == 0)]
    when = {
        name: own["update"][np.isfinite(own[name])].tolist()
        for name in (
            "classifier_loss", "adapted_loss", "critic_loss", "online_critic_loss",
            "online_false_positives",
        )
    }  # fmt: skip
    assert when == {
        "classifier_loss": [1],
        "adapted_loss": [2],
        "critic_loss": [3],
        "online_critic_loss": [4, 5],
        "online_false_positives": [4, 5],
    }
    # After two attempts of 8 steps, for 12 are over; after the next two it ends.
    assert own["manual_resets"].tolist()[-2:] == [0, 1]
    evaluated = {n for n in rows if n.startswith("eval_") and n.endswith("_solve_rate")}
    sets = ("heldout", "heldout back", "target", "target back")
    assert evaluated >= {f"eval_{name}_solve_rate" for name in sets}
    assert int(states.stages[PRACTICE].n_played[0]) == own["played_steps"].iloc[-1]


def test_a_stopped_run_in_other_chunks_ends_with_the_same_bits(
    config, program, whole, tmp_path
):
    config = configs.override(config, {"log_every": 2}, "test")
    store = RunStore.open(str(tmp_path), config.name, config)
    with preempted():  # amid practice
        runner.run(program.experiment, config.run, store, [], program)
    assert store.read_run()["status"] == "preempted"
    again = runner.run(program.experiment, config.run, store, [], program)
    assert_same_bits(whole[0], again)


@pytest.mark.parametrize(
    ("settings", "stages"),
    [
        ({"reward": "truth"}, [AGENT, PRACTICE]),
        ({"classifier_prior": False}, [ADAPTED, AGENT, PRACTICE]),
        ({"prior_data": False}, [ADAPTED, AGENT, PRACTICE]),
        ({"calibrated": False}, [CLASSIFIER, ADAPTED, AGENT, PRACTICE]),
        ({"episodic": True}, [CLASSIFIER, ADAPTED, AGENT, PRACTICE]),
        ({"online_updates": 0}, [CLASSIFIER, ADAPTED, AGENT]),
    ],
)
def test_every_ablation_is_an_experiment(settings, stages, table):
    """Traced, not compiled: states keep their types, metrics their names."""
    config = config_of(table, **settings)
    experiment = config.build()
    assert list(experiment.stages) == stages
    assert config.run.n_updates == sum(s.n_updates for s in experiment.stages.values())
    state = jax.eval_shape(experiment.init, KEY)
    after, metrics = jax.eval_shape(experiment.update, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )
    assert all(m.shape == () and m.dtype == jnp.float32 for m in metrics.values())
    n_episodes = {"prior_data": 30}.get(*settings, 50)
    assert experiment.data.n_episodes == n_episodes
    assert experiment.network.agent.config.calibrated == settings.get(
        "calibrated", True
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"data": ""}, "Name a dataset with --data"),
        ({"reward": "vlm"}, "choose classifier or truth"),
        ({"replay_size": 4}, "but an attempt takes up to 8 steps"),
        ({"n_updates": 7}, "The stages take 5 updates, not 7"),
    ],
)
def test_settings_that_cannot_be(settings, sentence, table):
    with pytest.raises(UserError, match=sentence):
        config_of(table, **settings).build()


def test_data_and_environments_that_do_not_fit_are_said(table, push_dataset):
    with pytest.raises(UserError, match="Push has no task that can be undone"):
        config = config_of(table)
        algorithm = config.build.__self__

        pushed = dataclasses.replace(algorithm, levels_config=PushConfig())
        pushed.build()
    loaded = datasets.load(table, config_of(table).levels_config.make_space())
    bare = dataclasses.replace(
        loaded, level_set=dataclasses.replace(loaded.level_set, provenance={})
    )
    from rlgen.algos.offline import reset_free

    with pytest.raises(UserError, match="names no target task"):
        reset_free._target(bare)


def test_other_tasks_than_the_target_are_left_where_they_are(table):
    level_set = datasets.load(
        table, config_of(table).levels_config.make_space()
    ).level_set
    experiment = config_of(table).build()
    levels = experiment.stages[PRACTICE].levels
    for i in (0, 1):
        mine = take(levels, i)
        assert_same_bits(mine, jax.tree.map(jnp.asarray, level_set[4 + i]))


def test_the_analysis_says_what_a_run_ended_with(whole, tmp_path, monkeypatch, capsys):
    _, store = whole
    path = Path(__file__).parents[3] / "analysis" / "reset_free.py"
    spec = importlib.util.spec_from_file_location("reset_free_script", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "OUT", tmp_path)
    monkeypatch.setattr("sys.argv", ["reset_free.py", str(store.path.parent)])
    store.finish()
    script.main()
    success = pd.read_csv(tmp_path / "success.csv")
    # It was evaluated at its end alone.
    assert set(success["practice"]) == {"after"} and set(success["seeds"]) == {2}
    last = pd.read_parquet(sorted(store.eval_dir.glob("update_*"))[-1])
    for name, part in last.groupby("level_set"):
        (row,) = success[success["level_set"] == name].to_dict("records")
        assert row["algorithm"] == "classifier"
        assert row["point"] == pytest.approx(part["success"].mean(), abs=1e-3)
    wrong = pd.read_csv(tmp_path / "classifier.csv")
    rows = store.read_metrics()
    rows = rows[rows["kind"] == "train"]
    expected = rows["online_false_positives"].mean()
    assert wrong["online_false_positives"][0] == pytest.approx(expected, rel=1e-3)
    assert wrong["manual_resets"][0] == 1
    for name in ("success.png", "practice.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    (store.path / "DONE").unlink()
