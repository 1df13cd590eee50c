"""The runner: chunks, seeds, resumption, signals and what it writes."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import time

import chex
import jax
import jax.numpy as jnp
import kills
import numpy as np
import pandas as pd
import pytest
from tiny import TINY_MAZE, as_data, assert_same_bits, operations, preempted

from rlgen import config as configs
from rlgen import programs, runner, training
from rlgen.config import RunConfig
from rlgen.errors import UserError
from rlgen.store import RunStore

TINY = TINY_MAZE | {
    "n_envs": 4,
    "n_epochs": 2,
    "buffer_size": 16,
    "min_fill": 0.1,
    "progress": False,
    "pictures": False,
}


def tiny(algorithm="accel", **settings):
    levels = {"heldout": "uniform"} if algorithm == "accel" else {}
    return training.make_config(algorithm, "maze", "quick", TINY | levels | settings)


def train(config, path, program=None):
    store = RunStore.open(path, config.name, config)
    experiment = program.experiment if program else config.build()
    states = runner.run(experiment, config.run, store, program=program)
    return store, jax.device_get(jax.tree.map(as_data, states))


@pytest.fixture(scope="module")
def program():
    """Of ACCEL with two seeds; when it is evaluated and logged is the runner's."""
    config = tiny(seeds=2, eval_every=4)
    return programs.Program(programs.Plan(config.build(), config.run))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, program):
    """One uninterrupted run of ACCEL with two seeds, in chunks of two updates."""
    path = tmp_path_factory.mktemp("whole")
    return train(tiny(seeds=2, eval_every=4), path, program)


@pytest.mark.parametrize("log_every", [1, 3])
def test_chunk_sizes_end_with_the_same_bits(whole, program, tmp_path, log_every):
    config = tiny(seeds=2, eval_every=4, log_every=log_every)
    assert_same_bits(train(config, tmp_path, program)[1], whole[1])


def test_no_program_knows_how_long_chunks_are(program):
    """Nor when it is evaluated: chunks of any length are the same instructions."""
    config = tiny(seeds=2, eval_every=0, log_every=5, checkpoint_every_s=0.0)
    other = programs.Plan(config.build(), config.run)
    for name, traced in program.plan.traced.items():
        assert traced.lower().as_text() == other.traced[name].lower().as_text(), name


@pytest.fixture(scope="module")
def exported(program):
    """What `Experiment.train` makes of the first seed: state, metrics by update."""
    train = jax.jit(program.experiment.train, static_argnums=1)
    return jax.device_get(
        jax.tree.map(as_data, train(jax.random.key(0), program.config.n_updates))
    )


def test_the_exported_train_function_ends_with_the_same_numbers(whole, exported):
    """`Experiment.train` scans the same update; XLA may order a sum differently."""
    states, metrics = exported
    first = jax.tree.map(lambda x: x[0], whole[1])
    chex.assert_trees_all_close(states, first, atol=1e-4)
    assert metrics["loss"].shape == (6,)


def test_rows_are_means_over_the_updates_of_a_chunk(whole, exported):
    """Where a metric exists; counters are those of the last update."""
    rows = whole[0].read_metrics()
    rows = rows[(rows.kind == "train") & (rows.seed == 0)]
    assert list(rows["update"]) == [2, 4, 6]
    for name, values in exported[1].items():
        pairs = values.reshape(3, 2)
        exists = np.isfinite(pairs)
        expected = np.where(exists, pairs, 0).sum(1) / np.where(
            exists.any(1), exists.sum(1), np.nan
        )
        if name == "student_updates":
            expected = pairs[:, -1]
        np.testing.assert_allclose(rows[name], expected, atol=1e-4, err_msg=name)


def test_a_tally_is_what_numpy_says_of_its_rows():
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    rows[1:3, 0], rows[:, 1] = np.nan, np.inf
    tally = programs.Tally.empty(4)
    for i, row in enumerate(rows):
        finite = jnp.float32(np.nan if i == 4 else i < 3)
        tally = tally.with_row(jnp.int32(i), jnp.asarray(row), finite)
    exists = np.isfinite(rows)
    np.testing.assert_array_equal(tally.count, exists.sum(0))
    np.testing.assert_allclose(tally.total, np.where(exists, rows, 0).sum(0), 1e-6)
    np.testing.assert_array_equal(tally.last, rows[-1])
    assert tally.first_bad == 3  # not the fourth, and not the last


def test_seeds_run_as_if_alone(whole, tmp_path):
    """Up to rounding: XLA drops a loop over one seed, and fuses what is left anew."""
    alone = train(tiny(seed=1, eval_every=4), tmp_path)[1]
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: as_data(x[0]), alone),
        jax.tree.map(lambda x: as_data(x[1]), whole[1]),
        rtol=1e-4,
        atol=1e-6,
    )


def test_seeds_differ(whole):
    params = jax.tree.leaves(whole[1].learner.params)
    assert not all(np.array_equal(p[0], p[1]) for p in params)


def test_vmapped_seeds_learn_the_same_numbers(tmp_path):
    """On DR no decision depends on the seeds' buffers, so both axes must agree."""
    one = train(tiny("dr", seeds=2, n_updates=2), tmp_path / "map")[1]
    two = train(tiny("dr", seeds=2, n_updates=2, seed_axis="vmap"), tmp_path / "vmap")[
        1
    ]
    chex.assert_trees_all_close(one.learner.params, two.learner.params, atol=1e-4)


def test_vmapped_seeds_of_accel_share_their_roles(tmp_path):
    store, _ = train(tiny(seeds=3, seed_axis="vmap", log_every=1), tmp_path)
    rows = store.read_metrics()
    roles = rows[rows.kind == "train"].groupby("update")["role"]
    assert (roles.nunique() == 1).all() and set(rows.role.dropna()) > {0.0}


def test_a_stopped_run_goes_on_to_the_same_bits(whole, program, tmp_path):
    config = tiny(seeds=2, eval_every=4)
    store = RunStore.open(tmp_path, config.name, config)
    with preempted() as stop:
        runner.run(program.experiment, config.run, store, program=program)
    assert stop.value.signum == signal.SIGTERM
    assert store.read_run()["status"] == "preempted" and not store.is_done
    # A row written after the checkpoint must not stand twice after resuming.
    store.append_metrics([{"kind": "train", "seed": 0, "update": 5}])
    again, states = train(config, tmp_path)  # as another process would, from nothing
    assert again.path == store.path
    assert_same_bits(states, whole[1])
    mine, theirs = again.read_metrics(), whole[0].read_metrics()
    timing = ["wall_s", "steps_per_s"]
    pd.testing.assert_frame_equal(
        mine.drop(columns=timing), theirs.drop(columns=timing)
    )


@pytest.fixture(scope="module")
def stopped(program, tmp_path_factory):
    """A run that was stopped after two checkpoints."""
    config = tiny(seeds=2, eval_every=4, checkpoint_every_s=0.0)
    store = RunStore.open(tmp_path_factory.mktemp("stopped"), config.name, config)
    with preempted():
        runner.run(program.experiment, config.run, store, program=program)
    return config, store


@pytest.mark.parametrize("loss", ["gone", "cut"])
def test_rows_that_are_lost_are_not_lost_silently(stopped, program, tmp_path, loss):
    config, whole = stopped
    store = RunStore(shutil.copytree(whole.path, tmp_path / "run"))
    rows = store.metrics_path.read_bytes()
    store.metrics_path.unlink()
    if loss == "cut":
        store.metrics_path.write_bytes(rows[:-1])
    with pytest.raises(UserError, match=r"has lost rows .* put it back, or remove"):
        runner.run(program.experiment, config.run, store, program=program)
    store.metrics_path.write_bytes(rows)
    runner.run(program.experiment, config.run, store, program=program)


def test_a_damaged_checkpoint_costs_time_alone(stopped, program, tmp_path, whole):
    """The one before it goes on, to the same bits and rows."""
    config, before = stopped
    store = RunStore(shutil.copytree(before.path, tmp_path / "run"))
    newest = store.newest_checkpoint()
    assert newest.name == "4"
    for path in newest.glob("state/**/*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"4 is damaged .* going on from update 2"):
        states = runner.run(program.experiment, config.run, store, program=program)
    assert store.read_run()["resumed_at"] == 2
    assert_same_bits(jax.device_get(jax.tree.map(as_data, states)), whole[1])
    timing = ["wall_s", "steps_per_s"]
    pd.testing.assert_frame_equal(
        store.read_metrics().drop(columns=timing),
        whole[0].read_metrics().drop(columns=timing),
    )


def test_settings_that_are_lost_are_said(stopped, tmp_path):
    config, whole = stopped
    path = shutil.copytree(whole.path, tmp_path / "run")
    (path / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"has lost its config.yaml: put it back"):
        RunStore.open("", config.name, config, str(path))


def test_a_run_that_is_killed_at_any_write_goes_on_to_the_same_bits(program, tmp_path):
    """Copies of its directory are what SIGKILL leaves; `kills.py` does kill.

    Of every stage the first write and the first name that is given, and of checkpoints
    each kind of operation.
    """
    config = tiny(seeds=2, eval_every=2, checkpoint_every_s=0.0, keep_policies=True)
    seen = set()

    def wanted(stage, event):
        kind = (stage, event)
        if event == "os.rename" or stage in ("metrics", "checkpoint"):
            new = kind not in seen
            seen.add(kind)
            return new
        return False

    whole, copies = kills.moments(program, config, tmp_path, wanted)
    assert {stage for stage, _ in seen} == {
        *("start", "levels", "metrics", "policies", "evaluation", "checkpoint", "end")
    }
    # They save no more than they must: what was half saved is not saved again.
    seldom = configs.override(config, {"checkpoint_every_s": 3600.0}, "test")
    for path in copies:
        kills.end(program, seldom, path)
        assert kills.differences(whole, path) == [], path.name


@pytest.fixture(scope="module")
def compiled():
    """Settings of PLR with two seeds, and their programs."""
    config = tiny("plr", n_updates=7, eval_every=3, seeds=2)
    return config, programs.Program(programs.Plan(config.build(), config.run))


def test_nothing_passes_between_host_and_device_inside_a_chunk(compiled):
    _, program = compiled
    states = program.initialise()
    number = jax.device_put(np.int32(2), program.plan.of_all)
    with jax.transfer_guard("disallow"):
        states, table = program._chunk(states, number)
        jax.block_until_ready(table)
        with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device"):
            program._chunk(states, np.int32(2))
    names = set(operations(program.plan.traced["chunk"].jaxpr.jaxpr))
    assert "scan" in names and not [name for name in names if "callback" in name]


def test_nothing_compiles_while_a_run_is_going(compiled, tmp_path, caplog):
    """Chunks of several lengths and evaluations run what was compiled before."""
    config, program = compiled
    experiment = program.experiment
    store = RunStore.open(tmp_path, config.name, config)
    with jax.log_compiles(True), caplog.at_level("WARNING", logger="jax"):
        runner.run(experiment, config.run, store, program=program)
        jax.jit(lambda x: x + 1)(1)  # shows that a compilation would be seen
    compiled = [r.getMessage() for r in caplog.records if "ompiling" in r.getMessage()]
    large = [
        m for m in compiled if any(n in m for n in ("run_all", "evaluate", "init"))
    ]
    assert compiled and not large


def test_a_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    config = tiny("dr", lr=1e-3, n_updates=20, checkpoint_every_s=0.0, log_every=1)
    experiment = config.build()
    update = type(experiment).update

    class Poisoned(type(experiment)):
        def update(self, state):
            state, metrics = update(self, state)
            bad = state.n_updates >= 7
            params = jax.tree.map(
                lambda p: jnp.where(bad, jnp.nan, p), state.learner.params
            )
            metrics["finite"] = jnp.where(bad, 0.0, metrics["finite"])
            return state.replace(learner=state.learner.replace(params=params)), metrics

    fields = dataclasses.fields(experiment)
    poisoned = Poisoned(**{f.name: getattr(experiment, f.name) for f in fields})
    store = RunStore.open(tmp_path, config.name, config)
    with pytest.raises(runner.NonFinite, match="after update 7: lower the learning"):
        runner.run(poisoned, config.run, store)
    assert store.read_run()["status"] == "failed"
    _, saved, states = training.restore(config, store)
    assert saved == 6
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(states.learner.params))


def test_a_huge_learning_rate_is_noticed(tmp_path):
    config = tiny("dr", lr=1e30, max_grad_norm=1e30, n_updates=20, anneal_lr=False)
    with pytest.raises(runner.NonFinite, match="not finite any more after update"):
        train(config, tmp_path)


def test_what_a_run_writes(whole):
    store = whole[0]
    run = store.read_run()
    assert run["update"] == 6 and run["env_steps"] == 2 * 6 * 4 * 8
    assert {"versions", "commit", "device", "compile_s", "wall_s"} <= run.keys()
    rows = store.read_metrics()
    assert list(rows[rows.kind == "train"]["update"].unique()) == [2, 4, 6]
    assert list(rows[rows.kind == "eval"]["update"].unique()) == [4, 6]
    episodes = pd.read_parquet(store.eval_dir / "update_00000006.parquet")
    assert len(episodes) == 2 * 4 * 1 and set(episodes.level_set) == {"heldout"}
    diagnostics = {
        "buffer_effective_levels", "unique_levels", "buffer_fill", "acceptance",
        "level_solvable", "level_path_length", "level_n_walls", "score_new",
        "score_replay", "score_edited", "student_updates", "steps_per_s",
    }  # fmt: skip
    assert diagnostics <= set(rows.columns)


def test_evaluation_does_not_change_training(whole, program, tmp_path):
    """Held-out levels are only looked at: without them training is the same."""
    config = tiny(seeds=2, eval_every=0)
    assert_same_bits(train(config, tmp_path, program)[1], whole[1])


def test_an_unwritable_directory_says_so(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    config = tiny("dr")
    with pytest.raises(UserError, match=r"Cannot write to .* choose another --out"):
        RunStore.open(blocked, config.name, config)


def test_a_full_disk_ends_with_one_sentence(program, tmp_path, monkeypatch):
    config = tiny(seeds=2, eval_every=4)
    store = RunStore.open(tmp_path, config.name, config)

    def full(self, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunStore, "append_metrics", full)
    with pytest.raises(UserError, match="No space left on device"):
        runner.run(program.experiment, config.run, store, program=program)


def test_a_directory_of_other_settings_is_refused(tmp_path):
    config = tiny("dr", run_dir=str(tmp_path / "mine"))
    RunStore.open("", config.name, config, config.run.run_dir)
    other = tiny("dr", run_dir=str(tmp_path / "mine"), lr=0.5)
    with pytest.raises(UserError, match="belongs to other settings"):
        RunStore.open("", other.name, other, other.run.run_dir)
    # What does not change results does not change the directory.
    same = tiny("dr", run_dir=str(tmp_path / "mine"), log_every=1, wandb="offline")
    RunStore.open("", same.name, same, same.run.run_dir)


def test_a_second_signal_is_not_caught():
    old = signal.getsignal(signal.SIGUSR1)
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append("outer"))
    try:
        with runner.catch_signals() as received:
            assert received() is None
            os.kill(os.getpid(), signal.SIGUSR1)
            assert received() == signal.SIGUSR1 and not seen
            os.kill(os.getpid(), signal.SIGUSR1)
            assert seen == ["outer"]
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_what_is_no_loop_ends_at_the_first_signal():
    old = signal.getsignal(signal.SIGTERM)
    with pytest.raises(runner.Preempted, match="SIGTERM") as stop, runner.preemptible():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)  # not reached
    assert stop.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is old


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wandb": "maybe"}, "choose off, offline, online"),
        ({"seed_axis": "pmap"}, "choose auto, map, vmap"),
    ],
)
def test_bad_run_settings_say_what_to_do(changes, words):
    with pytest.raises(UserError, match=words):
        RunConfig(**changes)
