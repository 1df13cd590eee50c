"""The out-of-distribution meter on tiny runs: what it writes, says and refuses."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from rlgen import ood_meter, training
from rlgen.cli import main
from rlgen.envs.maze.levels import UniformWalls
from rlgen.errors import UserError
from rlgen.levels import LevelSet
from rlgen.ood_meter import OODOptions

TINY = {
    "n_envs": 4, "n_steps": 8, "n_minibatches": 2, "n_epochs": 1, "core_size": 8,
    "channels": 4, "buffer_size": 16, "min_fill": 0.1, "height": 5, "width": 5,
    "max_steps": 8, "max_walls": 5, "n_heldout": 5, "eval_episodes": 1,
    "n_updates": 4, "log_every": 2, "progress": False, "pictures": False,
}  # fmt: skip
SMALL = ["--n-levels=6", "--n-steps=8", "--episodes=2", "--seed=3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Domain randomisation with two seeds; a file of levels of another kind."""
    out = tmp_path_factory.mktemp("runs")
    store = training.train("dr", preset="quick", seeds=2, seed=5, out=str(out), **TINY)
    space = UniformWalls(5, 5, solvable=True, max_walls=12, min_walls=9)
    full = LevelSet.generate(space, 9, seed=0, split="test", name="full")
    return store, full.save(out / "full.npz")


@pytest.fixture(scope="module")
def measured(run):
    store, path = run
    command = ["ood", str(store.path), *SMALL, "--levels", str(path)]
    assert main(command) == 0
    return pd.read_parquet(store.eval_dir / "ood_seed3.parquet")


def test_there_is_a_row_for_every_seed_set_and_level(measured, run):
    sizes = measured.groupby(["level_set", "seed"]).size()
    # Never more levels than asked for; a smaller set as it is.
    expected = {"train": 6, "heldout": 5, "full": 6}
    assert sizes.to_dict() == {
        (name, seed): n for name, n in expected.items() for seed in (5, 6)
    }
    assert list(measured["level_set"].unique()) == list(expected)
    assert (measured["update"] == 4).all()
    assert (measured[["mahalanobis", "value_spread"]] > 0).all(axis=None)
    assert measured["entropy"].between(0, np.log(3) + 1e-5).all()
    assert measured["return"].between(0, 1).all()
    # Six environments on five levels: the first is played twice.
    assert measured["steps"].between(1, 16).all()
    assert measured["steps"].max() > 8
    assert (run[0].figures_dir / "ood_seed3.png").stat().st_size > 1000


def test_the_table_says_what_others_compute(measured):
    summary = ood_meter.summarize(measured).set_index("level_set")
    assert ood_meter.left_out(measured) == []
    for name in ("heldout", "full"):
        for measure in ood_meter.MEASURES:
            expected = []
            for _, own in measured.groupby("seed"):
                two = own[own["level_set"].isin(["train", name])]
                expected.append(roc_auc_score(two["level_set"] == name, two[measure]))
            row = summary.loc[name]
            assert row[f"auroc_{measure}"] == pytest.approx(np.mean(expected))
            low, high = row[f"auroc_{measure}_low"], row[f"auroc_{measure}_high"]
            assert low <= row[f"auroc_{measure}"] <= high and low < high
    part = measured[measured["level_set"] == "heldout"]
    row = summary.loc["heldout"]
    assert row["mahalanobis"] == pytest.approx(part["mahalanobis"].mean())
    assert row["mahalanobis_low"] < row["mahalanobis"] < row["mahalanobis_high"]
    assert summary.loc["train"].filter(like="auroc").isna().all()


def test_the_rank_correlation_is_scipy_s():
    rng = np.random.default_rng(0)
    table = random_table(rng, n_seeds=2)
    summary = ood_meter.summarize(table).set_index("level_set")
    for name in ("train", "other"):
        part = table[table["level_set"] == name]
        each = [
            spearmanr(own["mahalanobis"], own["return"]).statistic
            for _, own in part.groupby("seed")
        ]
        assert summary.loc[name, "rank_correlation"] == pytest.approx(np.mean(each))
    flat = ood_meter.summarize(table.assign(**{"return": 1.0}))
    assert flat["rank_correlation"].isna().all()  # nothing to rank


def random_table(rng, n_seeds, n_levels=12):
    seed, name, level = np.meshgrid(
        np.arange(n_seeds), ["train", "other"], np.arange(n_levels), indexing="ij"
    )
    n = seed.size
    columns = {m: rng.exponential(size=n) for m in ood_meter.MEASURES}
    return pd.DataFrame(
        {"seed": seed.ravel(), "level_set": name.ravel(), "level": level.ravel()}
        | columns
        | {"return": rng.integers(0, 4, n) / 4}
    )


def test_train_levels_that_fit_are_not_those_compared_with(run):
    store, _ = run
    config, _ = training.load_run(store.path)
    sets = ood_meter.sets_of(config.build(), config, [], OODOptions(n_levels=6))
    assert list(sets) == ["train (fitting)", "train", "heldout"]
    own = {name: {h.tobytes() for h in s.hashes} for name, s in sets.items()}
    assert not own["train"] & own["train (fitting)"]
    assert {len(own[name]) for name in ("train", "train (fitting)")} == {6}
    assert not own["heldout"] & (own["train"] | own["train (fitting)"])


def test_one_seed_has_no_spread_and_a_curriculum_shows_its_levels(tmp_path, capsys):
    store = training.train("plr", preset="quick", out=str(tmp_path), **TINY)
    assert main(["ood", str(store.path), *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "no value spread: it takes two seeds" in " ".join(shown.split())
    assert "no entropy" not in shown
    table = pd.read_parquet(store.eval_dir / "ood_seed3.parquet")
    assert table["value_spread"].isna().all() and not table["entropy"].isna().any()
    assert list(table["level_set"].unique()) == ["train", "heldout", "curriculum"]
    config, _ = training.load_run(store.path)
    experiment, _, states = training.restore(config, store)
    (drawn,) = ood_meter.curriculum_levels(experiment, states, 1, 6, seed=3)
    buffer = jax.tree.map(lambda x: x[0], states).curriculum.buffer
    held = {h.tobytes() for h in np.asarray(buffer.batch.hash)[: int(buffer.size)]}
    hashes = np.asarray(jax.vmap(experiment.space.hash)(drawn))
    assert 0 < len(hashes) <= 6
    assert len({h.tobytes() for h in hashes} & held) == len(hashes)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("{tmp}", "is not a run directory: it has no config.yaml"),
        ("{empty}", "has no checkpoint yet: train it first"),
        ("{run} --levels {seven}", "set its size to match the file"),
        ("{run} --levels {tmp}/none.npz", "There is no level file"),
        ("{run} --levels {namesake}", "are called heldout, as a set of this run is"),
        ("{run} --n-levels 0", "n_levels is 0: choose at least 1"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_2(
    command, sentence, run, tmp_path, capsys
):
    store, _ = run
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(store.path / "config.yaml", empty)
    seven = LevelSet.generate(UniformWalls(7, 7, max_walls=5), 2, seed=0, split="test")
    five = LevelSet.generate(
        UniformWalls(5, 5, max_walls=5), 2, seed=0, split="test", name="heldout"
    )
    words = command.format(
        tmp=tmp_path,
        empty=empty,
        run=store.path,
        seven=seven.save(tmp_path / "seven.npz"),
        namesake=five.save(tmp_path / "five.npz"),
    ).split()
    before = sorted(store.path.rglob("*"))
    assert main(["ood", *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.startswith("rlgen: ")
    assert sorted(store.path.rglob("*")) == before


def test_a_run_of_one_level_is_refused(run):
    store, _ = run
    config, _ = training.load_run(store.path)
    experiment = config.build()
    one = dataclasses.replace(experiment.eval_sets["heldout"].thin(1), name="train")
    experiment.eval_sets["train"] = one
    with pytest.raises(UserError, match="was trained on 1 level, and it takes 2"):
        ood_meter.sets_of(experiment, config, [], OODOptions())


def test_a_run_that_learns_a_rule_is_refused(run, tmp_path):
    store, _ = run
    shutil.copy(store.path / "config.yaml", tmp_path)
    (tmp_path / "rule-0.npz").write_bytes(b"")
    with pytest.raises(UserError, match="learns an update rule"):
        ood_meter.run(tmp_path, OODOptions())
