"""Several runs side by side, on runs whose numbers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from rlgen import comparison
from rlgen.comparison import Claim
from rlgen.errors import UserError
from rlgen.evaluation import pictures


def write_run(folder, algorithm, returns, information, divergence=None, done=True):
    """A run directory with returns[seeds, levels] on one level set."""
    path = folder / f"{algorithm}-cave-0"
    (path / "eval").mkdir(parents=True)
    n_seeds = len(returns)
    settings = {"algorithm": algorithm, "env": "cave", "seeds": n_seeds}
    (path / "config.yaml").write_text(yaml.safe_dump(settings))
    (path / "run.json").write_text('{"status": "done", "wall_s": 60.0}')
    episodes = pd.DataFrame(
        [
            {
                "update": 10,
                "seed": seed,
                "level_set": "heldout",
                "level": f"level-{level}",
                "episode": episode,
                "return": value + shift,
                "success": value > 0.5,
                "length": 5,
            }
            for seed, row in enumerate(returns)
            for level, value in enumerate(row)
            for episode, shift in enumerate((-0.1, 0.1))
        ]
    )
    episodes.to_parquet(path / "eval" / "update_00000010.parquet")
    rows = [
        {
            "kind": kind,
            "seed": seed,
            "update": update,
            "env_steps": 100 * update,
            "wall_s": 6.0 * update,
        }
        | (
            {
                "mutual_information": information[seed] + 10 - update,
                "eval_heldout_return": np.mean(returns[seed]) - 0.1 * (10 - update),
            }
            | ({} if divergence is None else {"tile_divergence": divergence[seed]})
            if kind == "eval"
            else {"student_updates": update - 2}
        )
        for seed in range(n_seeds)
        for kind, update in (("train", 5), ("eval", 5), ("train", 10), ("eval", 10))
    ]
    pd.DataFrame(rows).to_json(path / "metrics.jsonl", orient="records", lines=True)
    if done:
        (path / "DONE").touch()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    difficulty = rng.random(30)
    for name, shift, bits in (("better", 0.3, 2.0), ("worse", 0.0, 1.0)):
        noise = 0.05 * rng.standard_normal((5, 30))
        write_run(
            tmp_path, name, difficulty + shift + noise, bits + 0.1 * rng.random(5)
        )
    return tmp_path


def test_tables_hold_what_the_runs_say(folder):
    runs = comparison.load(folder)
    table = comparison.score_table(runs, "return").set_index("algorithm")
    direct = runs["better"].episodes["return"].mean()
    assert table.loc["better", "mean"] == pytest.approx(direct)
    assert table.loc["better", "mean_low"] < direct < table.loc["better", "mean_high"]
    assert (table["levels"] == 30).all() and (table["seeds"] == 5).all()
    measures = comparison.measure_table(runs).set_index("algorithm")
    # The last evaluation counts, not the first.
    assert 2.0 < measures.loc["better", "mutual_information"] < 2.1
    assert np.isnan(measures.loc["better", "tile_divergence"])
    assert measures.loc["better", "student_updates"] == 8
    assert measures.loc["better", "env_steps"] == 1000
    assert measures.loc["better", "wall_s"] == 12  # of one of five seeds


def test_claims_hold_fail_or_stay_open(folder):
    runs = comparison.load(folder)
    claims = [
        Claim("true", "better", "worse", "heldout"),
        Claim("false", "worse", "better", "heldout"),
        Claim("the same", "worse", "worse", "heldout"),
        Claim("of a measure", "better", "worse", "mutual_information"),
        Claim("absent", "better", "third", "heldout"),
    ]
    table = comparison.check(runs, claims).set_index("claim")
    assert table["holds"].tolist() == ["yes", "no", "open", "yes", "not run"]
    assert table.loc["true", "difference"] == pytest.approx(0.3, abs=0.05)
    assert table.loc["true", "difference"] == -table.loc["false", "difference"]


def test_a_measure_that_a_run_lacks_decides_nothing(folder):
    runs = comparison.load(folder)
    claim = Claim("unmeasured", "better", "worse", "tile_divergence")
    assert comparison.check(runs, [claim])["holds"].tolist() == ["not measured"]


def test_what_cannot_be_compared(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    write_run(empty, "half", [[0.1]], [1.0], done=False)
    with pytest.raises(UserError, match="is finished"):
        comparison.load(empty)
    runs = comparison.load(folder)
    with pytest.raises(UserError, match="no level set lava"):
        runs["better"].scores("lava", "return")
    (folder / "better-cave-0").rename(folder / "better-cave-1")
    write_run(folder, "better", [[0.1]], [1.0])
    with pytest.raises(UserError, match="two runs of better"):
        comparison.load(folder)


def test_sets_that_only_rlgen_eval_played_count_too(folder):
    path = folder / "better-cave-0" / "eval"
    table = pd.read_parquet(path / "update_00000010.parquet")
    of_other_size = table.assign(level_set="large", **{"return": 0.25})
    again = table.assign(**{"return": 0.0})  # known from training: does not count
    both = pd.concat([again, of_other_size])
    both.to_parquet(path / "final_seed0.parquet")
    run = comparison.load(folder)["better"]
    assert (run.scores("large", "return") == 0.25).all()
    assert run.scores("heldout", "return").mean() == pytest.approx(
        table["return"].mean()
    )


def test_curves_hold_every_evaluation_and_what_it_cost(folder):
    runs = comparison.load(folder)
    table = comparison.curve_table(runs, "heldout").set_index("algorithm")
    curve = table.loc["better"]
    assert curve["student_updates"].tolist() == [3, 8]  # of the batches that trained
    assert curve["env_steps"].tolist() == [500, 1000]
    assert curve["wall_s"].tolist() == [6, 12]  # of one of five seeds
    end = runs["better"].scores("heldout", "return").mean()
    assert curve["point"].to_numpy() == pytest.approx([end - 0.5, end])
    assert (curve["low"] < curve["point"]).all()
    assert comparison.curve_table(runs, "lava").empty


def test_the_pictures_are_drawn(folder):
    runs = comparison.load(folder)
    table = comparison.score_table(runs, "return")
    table = table.rename(columns={"mean": "point", "mean_low": "low"})
    table = table.rename(columns={"mean_high": "high"})
    path = pictures.interval_panels({"return": table}, folder / "a.png", "title", "n")
    assert path.stat().st_size > 5_000
    curves = {"return": comparison.curve_table(runs, "heldout")}
    costs = {"student_updates": "student updates", "env_steps": "environment steps"}
    path = pictures.cost_curves(curves, costs, folder / "b.png", "title", "n")
    assert path.stat().st_size > 10_000
