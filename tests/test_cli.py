"""The command line: what it promises; one sentence and exit code 2 for mistakes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal

import numpy as np
import pandas as pd
import pytest

from rlgen import cli, registry, reports, training
from rlgen import config as configs
from rlgen.cli import main, train_config
from rlgen.config import RunConfig
from rlgen.envs.maze.levels import UniformWalls
from rlgen.errors import UserError
from rlgen.levels import LevelSet
from rlgen.store import RunStore

TINY = [
    "--n-envs=4", "--n-steps=8", "--n-minibatches=2", "--n-epochs=1", "--core-size=8",
    "--buffer-size=16", "--min-fill=0.1", "--height=5", "--width=5", "--max-steps=8",
    "--max-walls=5", "--n-heldout=4", "--eval-episodes=1", "--n-updates=4",
    "--log-every=2", "--progress=False",
]  # fmt: skip

UNSOLVABLE = "#>#..\n###..\n.....\n.....\n...G.\n"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A finished run of the command, with pictures."""
    out = tmp_path_factory.mktemp("runs")
    assert main(["train", "plr", "--preset=quick", f"--out={out}", *TINY]) == 0
    (path,) = out.iterdir()
    return path


def test_train_leaves_everything(run_dir):
    assert (run_dir / "DONE").exists()
    assert json.loads((run_dir / "run.json").read_text())["status"] == "done"
    assert len(pd.read_parquet(run_dir / "metrics.parquet")) == 3
    pictures = {path.name for path in (run_dir / "figures").iterdir()}
    assert {"curves.png", "heldout.png", "curriculum.png", "agent.gif"} <= pictures


def test_a_repeated_command_returns_the_finished_run(run_dir, capsys):
    before = (run_dir / "metrics.jsonl").read_bytes()
    command = ["train", "plr", "--preset=quick", f"--out={run_dir.parent}", *TINY]
    assert main(command) == 0
    assert (run_dir / "metrics.jsonl").read_bytes() == before
    shown = capsys.readouterr().out
    assert "IQM" in shown and "curves.png" in shown
    assert len(list(run_dir.parent.iterdir())) == 1


def test_pictures_that_failed_are_drawn_by_the_same_command(
    run_dir, tmp_path, monkeypatch, capsys
):
    """A full disk, a signal; what was learned is done, and nothing is trained again."""
    store = RunStore(shutil.copytree(run_dir, tmp_path / "run"))
    shutil.rmtree(store.figures_dir)
    store.figures_dir.mkdir()
    assert store.read_run()["drawn"]
    store.update_run(drawn=False)
    command = ["train", "plr", "--preset=quick", *TINY, f"--run-dir={store.path}"]
    monkeypatch.setattr(training, "planned", None)

    def full():
        raise OSError(errno.ENOSPC, "No space left")

    steps = iter(
        [
            full,
            lambda: os.kill(os.getpid(), signal.SIGTERM),
            lambda: (store.figures_dir / "curves.png").write_text("drawn"),
        ]
    )

    def draw(experiment, store, states):
        del experiment, store, states
        next(steps)()

    monkeypatch.setattr(reports, "draw", draw)
    assert [main(command) for _ in range(4)] == [2, 143, 0, 0]
    said = capsys.readouterr()
    assert "(No space left)" in said.err and "the same command draws" in said.err
    assert "stopped by SIGTERM" in said.err and "curves.png" in said.out
    assert next(steps, None) is None


def test_ctrl_c_before_anything_is_to_be_saved_is_no_traceback(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "ls", interrupted)
    assert main(["ls"]) == 130
    assert capsys.readouterr().err == "rlgen: stopped by SIGINT.\n"


@pytest.mark.parametrize("file", ["config.yaml", "run.json"])
def test_a_run_that_lost_what_it_was_is_said_in_one_sentence(
    run_dir, tmp_path, capsys, file
):
    path = shutil.copytree(run_dir, tmp_path / "run")
    (path / file).write_text("")
    command = ["train", "plr", "--preset=quick", *TINY, f"--run-dir={path}"]
    for words in (["eval", str(path)], ["ood", str(path)], command):
        if file == "config.yaml" and words is command:
            continue  # its settings are the command's
        if file == "run.json" and words[0] in ("eval", "ood"):
            continue  # they read checkpoints
        assert main(words) == 2, words
        error = capsys.readouterr().err
        assert str(path / file) in error.splitlines()[-1]


def test_eval_plays_heldout_named_and_files_and_the_robustness_protocol(
    run_dir, tmp_path, capsys
):
    space = UniformWalls(5, 5, solvable=True, max_walls=5)
    extra = LevelSet.generate(space, 3, seed=5, split="test", name="extra")
    path = extra.save(tmp_path / "extra.npz")
    command = ["eval", str(run_dir), "--episodes=2", "--named=False"]
    assert main([*command, f"--levels={path}", "--robustness=8"]) == 0
    shown = capsys.readouterr().out
    assert "extra" in shown and "heldout" in shown and "0.1%" in shown
    table = pd.read_parquet(run_dir / "eval" / "final_seed0.parquet")
    assert table.groupby("level_set").size().to_dict() == {"extra": 6, "heldout": 8}
    robustness = pd.read_parquet(run_dir / "eval" / "robustness_seed0.parquet")
    assert list(robustness["alpha"]) == [1.0, 0.1, 0.01, 0.001]


def test_levels_prints_draws_and_saves(tmp_path, capsys):
    saved, picture = tmp_path / "set.npz", tmp_path / "set.png"
    command = ["levels", "maze", "--levels=perfect", "--n=4", "--split=test"]
    assert main([*command, f"--save={saved}", f"--picture={picture}"]) == 0
    shown = capsys.readouterr().out
    assert "path" in shown and "walls" in shown and "G" in shown
    assert picture.stat().st_size > 1000
    assert main(["levels", "maze", f"--load={saved}", "--picture="]) == 0
    again = capsys.readouterr().out
    drawing = [
        line for line in shown.splitlines() if set(line) <= set("#.G>v<^") and line
    ]
    assert all(line in again for line in drawing)


def test_levels_shows_named_ones(capsys):
    assert main(["levels", "maze", "--named=True", "--picture=", "--show=99"]) == 0
    assert "SixteenRooms" in capsys.readouterr().out


def test_ls_lists_algorithms_and_runs(run_dir, capsys):
    assert main(["ls", "--out", str(run_dir.parent)]) == 0
    shown = capsys.readouterr().out
    assert "robust-plr" in shown and str(run_dir) in shown and "done" in shown


@pytest.fixture
def files(tmp_path):
    """Bad files, by name."""
    (tmp_path / "nogoal.txt").write_text(">....\n.....\n.....\n.....\n.....\n")
    (tmp_path / "unsolvable.txt").write_text(UNSOLVABLE)
    (tmp_path / "broken.npz").write_bytes(b"not a zip file")
    (tmp_path / "settings.yaml").write_text("n_evns: 4\n")
    (tmp_path / "type.yaml").write_text("n_envs: many\n")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("trian", "Unknown command trian: did you mean train?"),
        ("train plrr", "Unknown algorithm plrr: did you mean plr?"),
        ("train --env cave", "Name what to train: accel, accel-d,"),
        ("train plr --second-support dataset --second-weight 0.5", "but none is given"),
        ("train plr --env mase", "Unknown environment mase: did you mean maze?"),
        ("train plr --preset quik", "Unknown preset quik of plr: choose quick, paper."),
        ("train plr --n-envs 6 --n-minibatches 4", "choose n_envs as a multiple of"),
        ("train plr --levels perfct", "Unknown levels 'perfct': choose uniform,"),
        ("train plr --levels rooms --max-walls 3", "max_walls has no effect on rooms"),
        ("train uniform --env cave --dataset test", "2048 of 2048 levels of set test"),
        ("train plr-d --env cave --n-envs 1024", "fewer than the 1024 of a batch"),
        ("train vae-dred --env cave --vae-file {files}", "is not a model of levels"),
        ("train sfl --scoring-rollouts 2", "2 scoring_rollouts of 256 steps see hardl"),
        (
            "train dr --replay-prob 0.5",
            "This is not dr any more (replay_prob is 0.0 in",
        ),
        ("train accel-d --env maze", "There is no level file train"),
        ("levels maze --dataset all", "There is no recipe for level set all: leave"),
        ("levels cave --dataset cubes", "no recipe for level set cubes: choose all or"),
        ("train plr --score regret", "Unknown score 'regret': choose l1,"),
        ("train plr --buffer-size 8", "buffer of 8 levels is smaller than a batch"),
        ("train plr --view-size 4", "choose an odd number from 3 to 31, or full."),
        ("train plr --max-walls 400", "do not fit a 13x13 maze"),
        ("train robust-plr --replay-prob 0", "nothing is ever learned"),
        ("train plr --auto-reset never", "choose replay or resample"),
        ("train plr --config {files}/none.yaml", "There is no settings file"),
        ("train plr --config {files}/settings.yaml", "did you mean n_envs?"),
        ("train plr --config {files}/type.yaml", "must be of type int"),
        ("eval {files}", "is neither a run directory nor a rule"),
        ("eval {run} --levels {files}/none.npz", "There is no level file"),
        ("eval {run} --levels {files}/broken.npz", "is not a level file of rlgen"),
        (
            "levels maze --height 5 --width 5 --max-walls 5 --load {files}/nogoal.txt",
            "0 goals",
        ),
        ("levels maze --named True --height 12", "No named maze is 12x13"),
        ("levels cave --named True", "no named"),
        ("levels maze --split best", "choose train, validation, test"),
        ("levels mase", "Unknown environment mase"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_2(
    command, sentence, files, run_dir, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    written = sorted(p for p in run_dir.rglob("*"))
    words = command.format(files=files, run=run_dir).split()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("rlgen: ") and error.count("\n") == 1
    assert sorted(p for p in run_dir.rglob("*")) == written
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("flag", ["--lrr=1", "--n-envs=ten"])
def test_unknown_flags_and_types_exit_with_2(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "plr", flag])
    assert stop.value.code == 2
    assert "--lr" in capsys.readouterr().err or flag == "--n-envs=ten"


def test_a_run_directory_of_other_settings_is_refused(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text('{"config_hash": "0123456789"}')
    assert main(["train", "dr", *TINY, f"--run-dir={tmp_path / 'mine'}"]) == 2
    assert "belongs to other settings" in capsys.readouterr().err


def test_an_unwritable_out_says_so(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["train", "dr", *TINY, f"--out={tmp_path / 'file'}"]) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_flags_stand_above_the_file_and_the_file_above_the_preset(tmp_path):
    settings = {"lr": 0.5, "n_epochs": 3}
    quick = training.make_config("plr", "maze", "quick")
    config = training.make_config("plr", "maze", "quick", settings)
    assert (config.algo.ppo.lr, config.algo.ppo.n_epochs) == (0.5, 3)
    assert config.algo.ppo.n_envs == quick.algo.ppo.n_envs
    parsed = configs.parse_flags({"algo": config.algo}, ["--lr", "0.25"], "test")
    assert (parsed["algo"].ppo.lr, parsed["algo"].ppo.n_epochs) == (0.25, 3)


@pytest.mark.parametrize(
    ("algorithm", "preset"),
    [
        (name, preset)
        for name in registry.names(registry.ALGORITHMS)
        for preset in ("", *registry.load(registry.ALGORITHMS, name).presets)
    ],
)
def test_every_setting_has_one_name_and_survives_yaml(algorithm, preset, tmp_path):
    config = training.make_config(algorithm, "", preset)
    path = tmp_path / "config.yaml"
    path.write_text(configs.to_yaml(config))
    values = configs.read_yaml(path)
    again = training.make_config(values.pop("algorithm"), values.pop("env"), "", values)
    assert again == config
    assert configs.config_hash(again) == configs.config_hash(config)


def test_the_hash_knows_results_from_logging():
    base = training.make_config("plr")
    digest = configs.config_hash(base)
    logging = (("out", "x"), ("wandb", "offline"), ("wandb_per_seed", True))
    for field, value in (*logging, ("log_every", 3)):
        assert (
            configs.config_hash(training.make_config("plr", settings={field: value}))
            == digest
        )
    for field, value in (("lr", 0.3), ("seed", 1), ("height", 9), ("staleness", 0.5)):
        assert (
            configs.config_hash(training.make_config("plr", settings={field: value}))
            != digest
        )


def test_two_settings_of_one_name_are_a_defect():
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Clash:
        seed: int = 0
        run: RunConfig = dataclasses.field(default_factory=RunConfig)

    with pytest.raises(TypeError, match="share the name seed"):
        configs.flatten(Clash())


def test_python_and_command_line_are_the_same(run_dir, tmp_path):
    import rlgen

    settings = {
        flag.split("=")[0].lstrip("-").replace("-", "_"): flag.split("=")[1]
        for flag in TINY
    }
    typed = {
        k: v == "True" if v in ("True", "False") else float(v) if "." in v else int(v)
        for k, v in settings.items()
    }
    store = rlgen.train("plr", preset="quick", out=str(tmp_path), **typed)
    assert store.path.name == run_dir.name
    mine = pd.read_parquet(store.path / "metrics.parquet")
    theirs = pd.read_parquet(run_dir / "metrics.parquet")
    np.testing.assert_array_equal(mine["loss"], theirs["loss"])


def test_unsolvable_named_levels_are_refused():
    from rlgen.envs.maze.levels import parse_maze
    from rlgen.envs.maze.named import check_solvable

    with pytest.raises(UserError, match="cannot be reached from its start: open a way"):
        check_solvable(parse_maze(UNSOLVABLE), "mine")


@pytest.mark.parametrize("settings", [{}, {"model_updates": 4}, {"n_updates": 33}])
def test_flags_and_python_give_the_same_settings(settings):
    """What settings imply is counted once, whoever says it."""
    flags = [f"--{name.replace('_', '-')}={v}" for name, v in settings.items()]
    ours = train_config(["mopo", "--env=hopper", "--preset=quick", *flags])
    assert ours == training.make_config("mopo", "hopper", "quick", settings)
    if "n_updates" not in settings:  # models are learned on top
        agent = training.make_config("td3-bc", "hopper", "quick").run.n_updates
        assert ours.run.n_updates == agent + ours.algo.dynamics.model_updates
