"""Reading runs: groups, names, and what is wrong in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import run_dirs

from rlgen import runs
from rlgen.errors import UserError

SCORES = {"heldout": np.array([[0.2, 0.8], [0.4, 1.0]])}


def test_a_run_says_what_it_holds(tmp_path):
    run = runs.read(run_dirs.write(tmp_path, "a", SCORES, seed=3))
    assert (run.algorithm, run.env, run.n_seeds) == ("dr", "maze", 2)
    means = run.episodes.groupby(["seed", "level"])["return"].mean()
    np.testing.assert_allclose(means.to_numpy(), [0.2, 0.8, 0.4, 1.0])
    assert set(run.metrics["kind"]) == {"train", "eval"}


def test_sets_that_only_a_later_evaluation_played_are_added(tmp_path):
    path = run_dirs.write(tmp_path, "a", SCORES)
    later = pd.read_parquet(path / "eval" / "update_00000010.parquet")
    named = later.assign(level_set="named")
    pd.concat([later.assign(**{"return": 9.0}), named]).to_parquet(
        path / "eval" / "final_seed0.parquet"
    )
    episodes = runs.read(path).episodes
    assert set(episodes["level_set"]) == {"heldout", "named"}
    assert episodes["return"].max() < 2.0  # what training evaluated stays


def damage(path, how):
    if how == "half-written":
        (path / "DONE").unlink()
        (path / "run.json").write_text('{"status": "preempted", "update": 4}')
    elif how == "cut":
        (path / "run.json").write_text('{"status": ')
    elif how == "version":
        facts = json.loads((path / "run.json").read_text())
        (path / "run.json").write_text(json.dumps(facts | {"format": 99}))
    elif how == "no config":
        (path / "config.yaml").unlink()
    elif how == "not yaml":
        (path / "config.yaml").write_text("a: [")
    elif how == "old settings":
        (path / "config.yaml").write_text("seed: 0\nseeds: 1\n")
    elif how == "damaged table":
        (path / "eval" / "update_00000010.parquet").write_bytes(b"PAR1 and no more")
    elif how == "other table":
        table = pd.DataFrame({"seed": [0], "score": [1.0]})
        table.to_parquet(path / "eval" / "update_00000010.parquet")
    elif how == "other metrics":
        pd.DataFrame({"step": [0]}).to_parquet(path / "metrics.parquet")


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("half-written", "is not finished .preempted, update 4."),
        ("cut", "cannot be read"),
        ("version", "is of another version .format 99"),
        ("no config", "has no config.yaml"),
        ("not yaml", "is not valid YAML"),
        ("old settings", "is of another version: it has no algorithm"),
        ("damaged table", "has a damaged table"),
        ("other table", "is of another version: no column"),
        ("other metrics", "is of another version: metrics"),
    ],
)
def test_what_cannot_be_read_is_named_and_left_out(tmp_path, how, sentence):
    good = run_dirs.write(tmp_path, "good", SCORES)
    bad = run_dirs.write(tmp_path, "bad", SCORES, lr=0.5)
    damage(bad, how)
    found, left_out = runs.find([good, bad, tmp_path / "none"])
    assert [run.path for run in found] == [good]
    assert len(left_out) == 2 and "There is no run" in left_out[1]
    with pytest.raises(UserError, match=sentence):
        runs.check_tables(runs.read(bad))
    assert "\n" not in left_out[0] and str(bad) in left_out[0]


def test_a_folder_stands_for_its_runs_each_once(tmp_path):
    for i in range(3):
        run_dirs.write(tmp_path, f"r{i}", SCORES, lr=0.1 * i)
    found, left_out = runs.find([tmp_path, tmp_path / "r1"])
    assert len(found) == 3 and not left_out
    (tmp_path / "empty").mkdir()
    assert "holds no run" in runs.find([tmp_path / "empty"])[1][0]
    assert len(runs.finished(tmp_path)) == 3
    with pytest.raises(UserError, match="is finished"):
        runs.finished(tmp_path / "empty")


def test_groups_are_named_by_what_tells_them_apart(tmp_path):
    kinds = [
        {"algorithm": "plr", "seed": 0},
        {"algorithm": "plr", "seed": 2, "out": "elsewhere"},
        {"algorithm": "dr", "lr": 0.001, "data": "x/a-v0"},
        {"algorithm": "dr", "lr": 0.01, "data": "x/b-v0"},
    ]
    for i, settings in enumerate(kinds):
        run_dirs.write(tmp_path, f"r{i}", SCORES, **settings)
    groups = runs.group(runs.find([tmp_path])[0])
    assert {name: len(members) for name, members in groups.items()} == {
        "dr data=a-v0 lr=0.001": 1,
        "dr data=b-v0 lr=0.01": 1,
        "plr": 2,
    }
    long = {"clip_value": False, "entropy_coef": 0.001}
    for i, more in enumerate([long, long | {"lr": 0.1}]):
        run_dirs.write(tmp_path, f"long{i}", SCORES, **{"algorithm": "plr"} | more)
    groups = runs.group(runs.find([tmp_path])[0])
    assert list(groups)[2:] == ["plr #1", "plr #2", "plr #3"]
    assert len(groups["plr #3"]) == 2  # by their settings, in order
    run_dirs.write(tmp_path, "same", SCORES, algorithm="dr", lr=0.001, data="y/a-v0")
    groups = runs.group(runs.find([tmp_path])[0])
    assert list(groups)[:3] == ["dr #1", "dr #2", "dr #3"]
    run_dirs.write(tmp_path, "twin", SCORES, algorithm="plr", seed=1)
    with pytest.raises(UserError, match="are alike and share seed 1"):
        runs.group(runs.find([tmp_path])[0])
