"""Sinks: what wandb is told, what its files hold, and that none stops a run."""

from __future__ import annotations

import json
import shutil
import sys
import types
from contextlib import nullcontext

import numpy as np
import offline_wandb
import pytest
from PIL import Image
from scipy import stats
from tiny import TINY_MAZE, preempted

from rlgen import reports, runner, sinks, training
from rlgen.config import RunConfig
from rlgen.levels import LevelSet
from rlgen.store import RunStore

TINY = TINY_MAZE | {"n_envs": 4, "eval_every": 4, "wandb": "offline"}
AXES = ("update", "env_steps", "wall_s")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No words of wandb's, and none of a sweep that the tests are run in."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    ours = ("MODE", "DISABLED", "PROJECT", "SWEEP_ID", "RUN_ID", "FINISH_TIMEOUT")
    for name in (f"WANDB_{each}" for each in ours):
        monkeypatch.delenv(name, raising=False)


def tiny(out, **settings):
    return training.make_config(
        "dr", "maze", "quick", TINY | {"out": str(out)} | settings
    )


def rows_of(n_seeds, update=4, seed=0, **metrics):
    """One update's rows; metrics are arrays [S]."""
    axes = {"update": update, "env_steps": 32 * update, "wall_s": 0.5 * update}
    return [
        {"kind": "eval", "seed": seed + i}
        | axes
        | {n: float(v[i]) for n, v in metrics.items()}
        for i in range(n_seeds)
    ]


def put_pictures(folder):
    """A picture and a film of two frames."""
    frames = [Image.fromarray(np.full((8, 8, 3), i, np.uint8)) for i in (0, 200)]
    frames[0].save(folder / "curves.png")
    frames[0].save(folder / "agent.gif", save_all=True, append_images=frames[1:])
    (folder / "notes.txt").write_text("no picture")


class Spy:
    """Stands where the progress bar does, and notes what it is told."""

    def __init__(self, *_):
        Spy.last = self
        self.told = []

    def log(self, rows):
        self.told.append(("log", rows[0]["kind"], [row["seed"] for row in rows]))

    def complete(self, store):
        self.told.append(
            ("complete", sorted(p.name for p in store.figures_dir.iterdir()))
        )

    def close(self, status):
        self.told.append(("close", status))


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A run of four seeds, stopped by SIGTERM after its first chunk, and its rest.

    Returns its store, what the spies heard, and status and id after each part.
    """
    config = tiny(tmp_path_factory.mktemp("runs"), seeds=4, seed=3)

    def draw(experiment, store, states):
        del experiment, states
        assert store.is_done  # pictures may fail without spoiling what was learned
        put_pictures(store.figures_dir)

    heard, states = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        patch.setattr(sinks, "ProgressBar", Spy)
        patch.setattr(reports, "draw", draw)
        with preempted(at_chunk=1):
            training.run_training(config)
        for _ in range(2):
            place = (config.run.out, config.name, config)
            store = RunStore(RunStore.path_of(*place))
            heard.append(Spy.last.told)
            states.append(store.read_run())
            if not store.is_done:
                training.run_training(config)
    return store, heard, states


def test_rows_of_all_seeds_come_together_and_pictures_before_the_end(resumed):
    _, (first, second), _ = resumed
    seeds = [3, 4, 5, 6]
    assert first == [("log", "train", seeds), ("close", "preempted")]
    assert second == [
        ("log", "train", seeds),
        ("log", "eval", seeds),
        ("log", "train", seeds),
        ("log", "eval", seeds),
        ("complete", ["agent.gif", "curves.png", "notes.txt"]),
        ("close", "done"),
    ]


def test_wandb_has_statistics_of_the_rows_in_the_files(resumed):
    """Against SciPy and NumPy on metrics.jsonl, row by row."""
    store, _, _ = resumed
    metrics = store.read_metrics()
    folders = offline_wandb.runs(store.path)
    logged = [row for folder in folders for row in offline_wandb.history(folder)]
    assert [row["_step"] for row in logged] == [2, 4, 6]
    for row in logged:
        files = metrics[metrics["update"] == row["_step"]]
        assert row["update"] == row["_step"] and row["env_steps"] == 32 * row["_step"]
        compared = 0
        for name in files.columns.difference(["kind", "seed", *AXES]):
            x = files[name].dropna().to_numpy()
            if len(x) == 0:
                assert name not in row
                continue
            np.testing.assert_allclose(row[name], np.mean(x), rtol=1e-9)
            is_eval = name.startswith("eval_")
            assert (f"{name}/iqm" in row) == is_eval
            if is_eval:
                assert len(x) == 4
                middle = stats.trim_mean(x, 0.25)
                expected = {"iqm": middle, "min": x.min(), "max": x.max()}
                for key, value in expected.items():
                    np.testing.assert_allclose(row[f"{name}/{key}"], value, rtol=1e-9)
            compared += 1
        assert compared > 10
        assert ("eval_heldout_return" in row) == (row["_step"] in (4, 6))


def test_a_resumed_run_is_the_same_run_and_goes_on(resumed):
    store, _, (first, second) = resumed
    folders = offline_wandb.runs(store.path)
    assert len(folders) == 2
    records = [offline_wandb.records(folder, "run")[0] for folder in folders]
    assert first["wandb_id"] == second["wandb_id"]
    assert {record.run_id for record in records} == {first["wandb_id"]}
    assert {record.display_name for record in records} == {store.path.name}
    assert {record.project for record in records} == {"rlgen"}
    config = {u.key: json.loads(u.value_json) for u in records[1].config.update}
    assert config["algorithm"] == "dr" and config["seeds"] == 4
    preempted = [len(offline_wandb.records(folder, "preempting")) for folder in folders]
    assert preempted == [1, 0]
    codes = [offline_wandb.records(folder, "exit")[0].exit_code for folder in folders]
    assert codes == [1, 0]
    defined = {
        m.name or m.glob_name: m for m in offline_wandb.records(folders[1], "metric")
    }
    assert defined["*"].step_metric == "env_steps" and {*AXES} <= defined.keys()


def test_pictures_levels_and_checkpoint_go_along(resumed):
    store, _, _ = resumed
    first, second = offline_wandb.runs(store.path)
    assert not offline_wandb.records(first, "artifact")
    last = offline_wandb.history(second)[-1]
    assert last["figures/curves._type"] == "image-file"
    assert last["figures/agent._type"] == "video-file"
    film = second / "files" / last["figures/agent.path"]
    assert film.read_bytes() == (store.figures_dir / "agent.gif").read_bytes()
    artifacts = {a.type: a for a in offline_wandb.records(second, "artifact")}
    assert {kind: artifact.name for kind, artifact in artifacts.items()} == {
        "levels": f"{store.path.name}-levels",
        "checkpoint": f"{store.path.name}-checkpoint",
    }
    # Where they lie, in whole: nothing was copied out of the run directory.
    for kind, folder in (
        ("levels", store.path / "levels"),
        ("checkpoint", store.path / "checkpoints" / "6"),
    ):
        listed = {c.local_path for c in artifacts[kind].manifest.contents}
        files = {str(p.resolve()) for p in folder.rglob("*") if p.is_file()}
        assert listed == files and files


def test_the_run_directory_has_the_levels_that_were_played(resumed):
    store, _, _ = resumed
    config, _ = training.load_run(store.path)
    experiment = config.build()
    assert {p.name for p in store.levels_dir.iterdir()} == {"heldout.npz"}
    saved = LevelSet.load(
        store.levels_dir / "heldout.npz", config.levels_config.make_space()
    )
    played = experiment.eval_sets["heldout"]
    np.testing.assert_array_equal(saved.hashes, played.hashes)
    assert saved.split == played.split == "test" and len(saved) == 4


def test_levels_of_the_dataset_are_not_saved_again(tmp_path):
    level_sets = {
        name: LevelSet(
            name, split, np.zeros(2), np.zeros((2, 2), np.uint32), ("a", "b")
        )
        for name, split in (("train", "train"), ("heldout", "test"))
    }
    store = RunStore(tmp_path)
    training.save_levels(types.SimpleNamespace(eval_sets=level_sets), store)
    assert [p.name for p in store.levels_dir.iterdir()] == ["heldout.npz"]


def test_one_run_for_each_seed(tmp_path):
    config = tiny(tmp_path, seeds=3, seed=7, wandb_per_seed=True)
    store = RunStore.open(tmp_path, config.name, config)
    put_pictures(store.figures_dir)
    values = np.random.default_rng(0).normal(size=(2, 3))
    rows = rows_of(3, seed=7, eval_heldout_return=values[0], loss=values[1])
    rows[1]["loss"] = np.nan
    sink = sinks.open_wandb(config.run, store, {"lr": 1.0})
    assert sink is not None
    sink.log(rows)
    store.append_metrics(rows)
    sink.complete(store)
    sink.close("done")
    folders = offline_wandb.runs(store.path)
    records = [offline_wandb.records(folder, "run")[0] for folder in folders]
    name, run_id = store.path.name, store.read_run()["wandb_id"]
    assert {r.display_name: (r.run_id, r.run_group) for r in records} == {
        f"{name}-seed{seed}": (f"{run_id}-seed{seed}", name) for seed in (7, 8, 9)
    }
    with_pictures = []
    for folder, record in zip(folders, records, strict=True):
        (row,) = offline_wandb.history(folder)
        seed = int(record.run_id[-1])
        own = rows[seed - 7]
        metrics = {n: v for n, v in row.items() if n[0] != "_" and n[:7] != "figures"}
        expected = {n: own[n] for n in (*AXES, "eval_heldout_return", "loss")}
        if seed == 8:
            del expected["loss"]
        assert metrics == expected
        if any(n.startswith("figures") for n in row):
            with_pictures.append(seed)
    assert with_pictures == [7]


def test_statistics_over_seeds():
    x = np.random.default_rng(1).normal(size=9)
    rows = rows_of(9, eval_a=x, loss=x)
    rows[2]["loss"], rows[3]["loss"], rows[4]["text"] = np.inf, None, "a word"
    assert sinks.means(rows).keys() == {"eval_a", "loss"}
    np.testing.assert_allclose(sinks.means(rows)["eval_a"], x.mean())
    np.testing.assert_allclose(sinks.means(rows)["loss"], np.delete(x, [2, 3]).mean())
    spread = sinks.spread(rows)
    # Two of nine go from each end.
    np.testing.assert_allclose(spread.pop("eval_a/iqm"), np.sort(x)[2:-2].mean())
    assert spread == {"eval_a/min": x.min(), "eval_a/max": x.max()}
    assert sinks.spread(rows[:1]) == {}


def test_the_bar_shows_means_over_seeds(capsys):
    bar = sinks.ProgressBar(8)
    logged = {
        "eval_heldout_solve_rate": [0.25, 0.5],
        "eval_named_solve_rate": [1.0, 0.5],
        "eval_train_solve_rate": [1.0, 1.0],
        "train_solve_rate": [0.25, 0.25],
        "train_levels_solved": [0.125, 0.125],
    }
    bar.log(rows_of(2, **logged, steps_per_s=[1e4, 1e4]))
    bar.close("done")
    shown = capsys.readouterr().err
    assert "4/8" in shown and "steps/s=10,000" in shown
    for part in ("held-out=0.38", "named=0.75", "train=0.25", "train levels=0.12"):
        assert part in shown


@pytest.mark.parametrize(
    ("sets", "shown"),
    [
        # Four mazes are solved, no named one: their mean would be of neither.
        ({"heldout": 1.0, "named": 0.0}, {"held-out": 1.0, "named": 0.0}),
        ({"heldout": 1.0, "structures": 0.5, "train": 0.0}, {"held-out": 0.75}),
        ({"seen pairs": 1.0, "unseen pairs": 0.0}, {"named": 0.5}),
        ({"target": 1.0, "heldout back": 0.0}, {"held-out": 0.5}),
        ({}, {}),
    ],
)
def test_held_out_and_named_levels_are_two_numbers(sets, shown):
    values = {f"eval_{name}_solve_rate": rate for name, rate in sets.items()}
    returns = {f"eval_{name}_return": 9.0 for name in sets}
    assert sinks.not_trained_on(values | returns | {"loss": 2.0}) == shown


class FakeWandb(types.ModuleType):
    """Takes every call and notes it, or raises where it is told to."""

    def __init__(self, fails=(), after=0):
        super().__init__("wandb")
        self.calls, self.fails, self.after, self.step = [], fails, after, 0

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **options):
            self.calls.append((name, args, options))
            count = sum(called == name for called, _, _ in self.calls)
            if name in self.fails and count > self.after:
                raise ConnectionError(f"no {name}\nand a long story")
            return self

        return call

    def options_of_init(self):
        return [options for name, _, options in self.calls if name == "init"]


def fake(monkeypatch, **options):
    module = FakeWandb(**options)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_sweep_names_run_and_project(tmp_path, monkeypatch):
    """wandb ignores what it is told in a sweep, and says so at every run."""
    module = fake(monkeypatch)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "of-the-agent")
    config = tiny(tmp_path, seeds=2, wandb="online")
    store = RunStore.open(tmp_path, config.name, config)
    assert sinks.open_wandb(config.run, store, {}) is not None
    (options,) = module.options_of_init()
    assert not {"id", "project", "entity", "group"} & options.keys()
    assert options["mode"] == "online" and options["resume"] == "allow"
    assert "wandb_id" not in store.read_run()
    with pytest.warns(UserWarning, match="name one run"):
        per_seed = tiny(tmp_path, seeds=2, wandb_per_seed=True).run
        sinks.open_wandb(per_seed, store, {})
    assert len(module.options_of_init()) == 2


def test_an_agent_is_told_of_a_run_that_was_finished_before(tmp_path, monkeypatch):
    """Its rows and its pictures; without an agent nothing is sent again."""
    module = fake(monkeypatch)
    config = tiny(tmp_path, seeds=2, pictures=False)
    store = training.run_training(config)
    first = [call for call in module.calls if call[0] == "log"]
    put_pictures(store.figures_dir)
    module.calls.clear()
    training.run_training(config)
    assert module.calls == []
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    training.run_training(config)
    (options,) = module.options_of_init()
    assert "id" not in options
    again = [call for call in module.calls if call[0] == "log"]
    assert len(again) == len(first) + 1 == 6  # three chunks, two evaluations, pictures
    for (_, (row,), options), (_, (known,), other) in zip(again, first, strict=False):
        assert row == pytest.approx(known, rel=1e-9) and options == other
    assert {"figures/curves", "figures/agent"} <= again[-1][1][0].keys()
    assert module.calls[-1] == ("finish", (), {"exit_code": 0})


def test_without_a_key_from_the_terminal_it_is_an_offline_run(tmp_path, monkeypatch):
    module = fake(monkeypatch)
    monkeypatch.setattr(module, "login", lambda timeout: False, raising=False)
    sinks.open_wandb(RunConfig(wandb="online"), RunStore(tmp_path), {})
    assert [options["mode"] for options in module.options_of_init()] == ["offline"]


def test_runs_of_two_directories_are_two_runs(tmp_path, monkeypatch):
    """wandb would drop the rows of a repeated run: it has seen those steps."""
    module = fake(monkeypatch)
    run_dir = tmp_path / "of mine?"
    config = tiny(tmp_path, run_dir=str(run_dir))
    for _ in range(2):
        for _ in range(2):
            store = RunStore.open(tmp_path, config.name, config, str(run_dir))
            sinks.open_wandb(config.run, store, {})
        shutil.rmtree(run_dir)
    ids = [options["id"] for options in module.options_of_init()]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert all(run_id.startswith("of-mine--") for run_id in ids)


@pytest.mark.parametrize("fails", ["login", "init", "define_metric"])
def test_a_wandb_that_does_not_start_is_one_warning(tmp_path, monkeypatch, fails):
    module = fake(monkeypatch, fails=(fails, "finish"))
    store = RunStore(tmp_path)
    with pytest.warns(UserWarning, match="does not start .*logging to files") as said:
        assert sinks.open_wandb(RunConfig(wandb="online"), store, {}) is None
    assert len(said) == 1 and "long story" not in str(said[0].message)
    finished = sum(name == "finish" for name, _, _ in module.calls)
    assert finished == (fails == "define_metric")


def test_a_missing_wandb_is_one_warning(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match="logging to files only"):
        assert (
            sinks.open_wandb(RunConfig(wandb="online"), RunStore(tmp_path), {}) is None
        )
    assert sinks.open_wandb(RunConfig(), RunStore(tmp_path), {}) is None


@pytest.mark.parametrize("fails", ["log", "Image", "log_artifact", "finish"])
def test_a_wandb_that_breaks_is_one_warning(tmp_path, monkeypatch, fails):
    module = fake(monkeypatch, fails=(fails, "finish"))
    config = tiny(tmp_path, seeds=2, wandb_per_seed=True)
    store = RunStore.open(tmp_path, config.name, config)
    put_pictures(store.figures_dir)
    store.levels_dir.mkdir()
    rows = rows_of(2, loss=[1.0, 2.0])
    store.append_metrics(rows)
    sink = sinks.open_wandb(config.run, store, {})
    assert sink is not None
    with pytest.warns(UserWarning, match=f"stopped logging .*no {fails}") as said:
        sink.log(rows)
        sink.log(rows)
        sink.complete(store)
        sink.close("failed")
    assert len(said) == 1
    # Both runs are ended all the same, as what they are.
    ends = [options for name, _, options in module.calls if name == "finish"]
    assert ends == [{"exit_code": 1}] * 2


def test_a_run_ends_well_though_wandb_breaks_half_way(tmp_path, monkeypatch):
    module = fake(monkeypatch, fails=("log", "finish"), after=1)
    config = tiny(tmp_path, progress=False, pictures=False, eval_every=0)
    with pytest.warns(UserWarning, match="wandb stopped logging"):
        store = training.run_training(config)
    assert store.is_done and store.read_run()["status"] == "done"
    assert sum(name == "log" for name, _, _ in module.calls) == 2
    assert set(store.read_metrics()["update"]) == {2, 4, 6}


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "done"), (runner.Preempted(15), "preempted"), (OSError(), "failed")],
)
def test_sinks_are_closed_whatever_happens(error, status):
    class Broken(Spy):
        def close(self, status):
            super().close(status)
            raise RuntimeError("a sink of somebody's")

    all_sinks = [Spy(), Broken(), Spy()]
    with pytest.raises(RuntimeError), sinks.closing(all_sinks):
        if error:
            raise error
    assert [sink.told for sink in all_sinks] == [[("close", status)]] * 3


@pytest.mark.parametrize(
    ("variables", "flag", "mode"),
    [
        ({}, "online", "online"),
        ({"WANDB_MODE": "online"}, "offline", "offline"),
        ({"WANDB_MODE": "run"}, "online", "online"),
        ({"WANDB_MODE": "offline"}, "online", "offline"),
        ({"WANDB_MODE": "dryrun"}, "online", "offline"),
        ({"WANDB_MODE": "disabled"}, "online", None),
        ({"WANDB_MODE": "disabled"}, "offline", None),
        ({"WANDB_DISABLED": "true"}, "online", None),
        ({"WANDB_MODE": "of"}, "online", "offline"),
    ],
)
def test_variables_of_wandb_keep_at_home_what_they_say(
    monkeypatch, tmp_path, variables, flag, mode
):
    """As a cluster's login script sets them; what differs from the flag is said."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    told = []
    fake = types.SimpleNamespace(
        login=lambda timeout: True,
        init=lambda **options: told.append(options["mode"]) or LOGGED_NOWHERE,
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    differs = mode != flag or variables.get("WANDB_MODE") == "of"
    expected = pytest.warns(UserWarning, match="WANDB_") if differs else nullcontext()
    with expected:
        sink = sinks.open_wandb(RunConfig(wandb=flag), RunStore(tmp_path), {})
    assert told == ([mode] if mode else []) and (sink is None) == (mode is None)


LOGGED_NOWHERE = types.SimpleNamespace(define_metric=lambda *_, **__: None)


@pytest.mark.parametrize(
    ("variable", "flag", "project"),
    [("", "rlgen", "rlgen"), ("theirs", "rlgen", None), ("theirs", "ours", "ours")],
)
def test_the_project_is_the_flags_or_else_the_variables(
    monkeypatch, tmp_path, variable, flag, project
):
    monkeypatch.setenv("WANDB_PROJECT", variable)
    (options,) = sinks._runs_to_open(
        RunConfig(wandb_project=flag), RunStore(tmp_path)
    ).values()
    assert options.get("project") == project  # None: wandb reads its variable
