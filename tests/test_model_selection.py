"""Choosing by crafted shifts: tables by hand, folds, and nothing of the test split."""

from __future__ import annotations

import shutil

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tiny import assert_same_bits

from rlgen import candidates, model_selection, reports, training
from rlgen.cli import main
from rlgen.env import take
from rlgen.errors import UserError
from rlgen.evaluation import shifted_validation as validation
from rlgen.evaluation import zero_shot
from rlgen.levels import LevelSet
from rlgen.model_selection import SelectOptions
from rlgen.perturbations import ActionNoise, Shift
from rlgen.store import RunStore

# Tables by hand.

FAMILIES = {
    "noise": [0.1, 0.2, 0.3],
    "walls": [30.0, 20.0, 10.0],
    "size": [-1.0, 0.5, 0.4],
}


def test_ranks_by_hand():
    np.testing.assert_allclose(validation.ranks([7, 1, 1, 2]), [1, 1 / 6, 1 / 6, 2 / 3])


def test_the_crafted_score_by_hand():
    score = validation.crafted(FAMILIES)
    np.testing.assert_allclose(score, [1 / 3, 2 / 3, 1 / 2])
    assert validation.best(score) == 1
    assert validation.best([0.5, 0.7, 0.7]) == 1  # the first of equals


def test_scales_and_outliers_do_not_matter():
    bent = {
        "noise": np.exp(FAMILIES["noise"]),
        "walls": [3000.0, -4.0, -1e9],
        "size": FAMILIES["size"],
    }
    np.testing.assert_array_equal(
        validation.crafted(bent), validation.crafted(FAMILIES)
    )


@pytest.mark.parametrize("bad", [[1.0], [1.0, np.nan], [[1.0, 2.0]]])
def test_what_cannot_be_ranked_is_refused(bad):
    with pytest.raises(ValueError, match="two or more"):
        validation.ranks(bad)


def test_folds_by_hand():
    plain = [1.0, 2.0, 3.0]
    folds = {fold.family: fold for fold in validation.folds(FAMILIES, plain)}
    # Without noise: ranks (1, .5, 0) and (0, 1, .5) make (.5, .75, .25).
    noise = folds["noise"]
    assert noise.chosen == 1
    assert noise.regret == pytest.approx(0.1) and noise.plain_regret == 0
    assert noise.spearman == pytest.approx(-0.5)
    assert noise.plain_spearman == pytest.approx(1)
    # Without walls: (0, .5, 1) and (0, 1, .5): candidates 1 and 2 are alike.
    walls = folds["walls"]
    assert (walls.chosen, walls.regret, walls.plain_regret) == (1, 10.0, 20.0)
    assert walls.spearman == pytest.approx(stats.spearmanr([0, 1, 1], [3, 2, 1])[0])
    # Without size: all are alike.
    assert (folds["size"].chosen, folds["size"].regret) == (0, 1.5)
    assert folds["size"].spearman == 0


def test_a_fold_does_not_see_the_family_that_it_leaves_out():
    rng = np.random.default_rng(0)
    families = {name: rng.normal(size=9) for name in "abcd"}
    plain = rng.normal(size=9)
    before = {f.family: f.chosen for f in validation.folds(families, plain)}
    for name in families:
        changed = families | {name: -families[name]}
        after = {f.family: f for f in validation.folds(changed, plain)}
        assert after[name].chosen == before[name]
        others = {k: v for k, v in families.items() if k != name}
        assert before[name] == validation.best(validation.crafted(others))
        chosen = before[name]
        best = (-families[name]).max()
        assert after[name].regret == pytest.approx(best + families[name][chosen])
    # Choices do depend on what is not left out.
    flipped = {name: -x for name, x in families.items()}
    assert {f.chosen for f in validation.folds(flipped, plain)} != set(before.values())


def test_the_final_score_is_the_mean_of_those_of_all_folds():
    rng = np.random.default_rng(1)
    families = {name: rng.normal(size=7) for name in "abc"}
    parts = [
        validation.crafted({k: v for k, v in families.items() if k != name})
        for name in families
    ]
    np.testing.assert_allclose(np.mean(parts, axis=0), validation.crafted(families))


def test_correlations_by_their_definitions():
    rng = np.random.default_rng(2)
    x, y = rng.permutation(12), rng.permutation(12)
    n, d = 12, np.sum((x - y) ** 2)
    assert validation.spearman(x, y) == pytest.approx(1 - 6 * d / (n * (n * n - 1)))
    pairs = [np.sign((x[i] - x[j]) * (y[i] - y[j])) for i in range(n) for j in range(i)]
    assert validation.kendall(x, y) == pytest.approx(np.mean(pairs))
    assert validation.spearman([1, 1, 1], [1, 2, 3]) == 0
    assert validation.kendall([1, 2, 3], [1, 1, 1]) == 0


def test_agreement_and_regret():
    test = np.array([0.1, 0.9, 0.4, 0.6, 0.2, 0.5])
    good, bad = validation.agreement({"good": test**2, "bad": -test}, test)
    assert good.criterion == "good" and good.regret == 0
    assert tuple(good.spearman) == pytest.approx((1, 1, 1))
    assert tuple(good.kendall) == pytest.approx((1, 1, 1))
    assert bad.spearman.point == pytest.approx(-1)
    assert bad.regret == pytest.approx(0.8)  # the worst is chosen
    gain = validation.advantage(test**2, -test, test)
    assert gain.point == pytest.approx(2) and gain.low > 1.9


def test_intervals_are_those_of_scipys_paired_bootstrap():
    rng = np.random.default_rng(3)
    x = rng.normal(size=30)
    y = x + rng.normal(size=30)
    (mine,) = validation.agreement({"x": x}, y)
    scipys = stats.bootstrap(
        (x, y),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(4),
    ).confidence_interval
    assert mine.spearman.low == pytest.approx(scipys.low, abs=0.05)
    assert mine.spearman.high == pytest.approx(scipys.high, abs=0.05)
    assert validation.agreement({"x": x}, y) == [mine]


# Two tiny runs.

TINY = {
    "env": "maze",
    "preset": "quick",
    "n_envs": 4,
    "n_steps": 8,
    "n_minibatches": 2,
    "n_epochs": 1,
    "channels": 4,
    "head_size": 8,
    "core_size": 8,
    "height": 5,
    "width": 5,
    "max_walls": 5,
    "n_heldout": 4,
    "eval_episodes": 1,
    "n_updates": 4,
    "eval_every": 2,
    "log_every": 2,
    "keep_policies": True,
    "progress": False,
    "pictures": False,
}
OPTIONS = {"episodes": 2, "n_levels": 4}
FLAGS = ["--episodes=2", "--n-levels=4"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of domain randomisation, of one and of two seeds."""
    out = str(tmp_path_factory.mktemp("runs"))
    return [
        training.train("dr", out=out, lr=lr, seeds=seeds, **TINY).path
        for lr, seeds in ((1e-3, 2), (3e-2, 1))
    ]


@pytest.fixture(scope="module")
def loaded(runs):
    return [candidates.load(path, 0) for path in runs]


@pytest.fixture(scope="module")
def selected(runs, tmp_path_factory):
    """`rlgen select` of both, with what was made and played, in that order."""
    out, events = tmp_path_factory.mktemp("selection") / "new", []
    generate, evaluate = LevelSet.generate.__func__, reports.evaluate_seeds

    def spy_generate(cls, space, n, *, split, **options):
        events.append(("makes", {split}, columns(out)))
        return generate(cls, space, n, split=split, **options)

    def spy_evaluate(env, network, params, key, level_set, n, **options):
        # By what hashes say, not by what the set is called.
        buckets = set((level_set.hashes[:, 1] % 20).tolist())
        splits = {{0: "validation", 1: "test"}.get(b, "train") for b in buckets}
        events.append(("plays", splits, columns(out)))
        return evaluate(env, network, params, key, level_set, n, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LevelSet, "generate", classmethod(spy_generate))
        patch.setattr(reports, "evaluate_seeds", spy_evaluate)
        assert main(["select", *map(str, runs), *FLAGS, f"--out={out}"]) == 0
    return out, events


def columns(out):
    path = out / "selection.csv"
    return list(pd.read_csv(path)) if path.exists() else None


@pytest.mark.slow
def test_no_test_level_is_made_or_played_before_the_choice(selected):
    _, events = selected
    before = [e for e in events if e[2] is None]
    after = [e for e in events if e[2] is not None]
    assert {e[0] for e in before} == {"makes", "plays"}
    assert all(splits == {"validation"} for _, splits, _ in before)
    # Choices stood in the file when the first test level was made, and no test score.
    assert {e[0] for e in after} == {"makes", "plays"}
    assert all(splits == {"test"} for _, splits, _ in after)
    assert "chosen_by" in after[0][2]
    assert not any(name.startswith("test") for name in after[0][2])


def test_what_scores_for_the_choice_cannot_be_given_test_levels(loaded):
    config = loaded[0].config.levels_config
    levels = LevelSet.generate(config.heldout_space(), 3, seed=0, split="test")
    with pytest.raises(ValueError, match="split test"):
        Shift("plain", "plain", config.make_env(), levels)
    # Nor do the runs bring any: their experiments were built with others.
    for each in loaded:
        for level_set in each.experiment.eval_sets.values():
            assert (level_set.hashes[:, 1] % 20 == 0).all()


@pytest.mark.slow
def test_all_is_written(selected, runs):
    out, _ = selected
    table = pd.read_csv(out / "selection.csv")
    assert list(table["run"]) == [path.name for path in runs for _ in range(2)]
    assert list(table["update"]) == [2, 4, 2, 4]  # never the untrained policy
    families = [c for c in table if c.startswith("family: ")]
    assert set(families) == {
        "family: action noise",
        "family: observation dropout",
        "family: wall density",
        "family: start-goal distance",
        "family: size",
    }
    for family in families:
        assert table[family].between(0, 1).all()
    ranks = [stats.rankdata(table[f]) for f in families]
    np.testing.assert_allclose(table["crafted"], (np.mean(ranks, axis=0) - 1) / 3)
    np.testing.assert_allclose(
        table["family: action noise"],
        (table["shift: action noise 0.1"] + table["shift: action noise 0.3"]) / 2,
    )
    chosen = " ".join(table["chosen_by"].fillna("")).split()
    assert sorted(chosen) == ["crafted", "plain"]
    for name in chosen:
        row = table["chosen_by"].fillna("").str.contains(name)
        assert table.loc[row, name].item() == table[name].max()
    np.testing.assert_allclose(table["test"], table["test: heldout"])
    agreement = pd.read_csv(out / "agreement.csv")
    assert set(agreement["target"]) == {"test", "test: heldout"}
    assert len(pd.read_csv(out / "folds.csv")) == 5
    assert (out / "selection.png").read_bytes().startswith(b"\x89PNG")
    rows = agreement[agreement["target"] == "test"].set_index("criterion")
    for name in ("plain", "crafted"):
        best = table["test"][int(table[name].argmax())]
        assert rows.loc[name, "regret"] == pytest.approx(table["test"].max() - best)


def test_kept_policies_are_those_of_their_update(loaded, runs):
    config, store = training.load_run(runs[0])
    experiment, newest, states = training.restore(config, store)
    assert list(loaded[0].policies) == [2, 4] and newest == 4
    final = experiment.policy_params(states)
    assert_same_bits(jax.device_get(loaded[0].policies[4]), jax.device_get(final))
    a, b = (jax.tree.leaves(loaded[0].policies[u]) for u in (2, 4))
    assert not all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert list(candidates.load(runs[0], 1).policies) == [4]


def test_scores_are_those_of_each_policy_played_by_itself(loaded):
    """Candidates and sets share a program; each is as if it had one of its own."""
    config = loaded[0].config.levels_config
    env = ActionNoise(config.make_env(), strength=0.3)
    sets = [config.validation_set(3), config.shifts(3, 0)["denser"][2]]
    key = jax.random.key(5)
    scores = candidates.play(loaded, env, sets, key, "returns", 2)
    seeds = ((0, 2), (1, 1))
    policies = [(r, u, s) for r, n in seeds for u in (2, 4) for s in range(n)]
    keys = jax.random.split(key, len(policies))
    levels = jax.tree.map(lambda *x: np.concatenate(x), *(s.levels for s in sets))
    play = jax.jit(
        lambda params, key: zero_shot.evaluate(
            env, loaded[0].experiment.network, params, key, levels, 2
        )
    )
    found = {}
    for (r, u, s), own in zip(policies, keys, strict=True):
        returns = play(take(loaded[r].policies[u], s), own).returns
        found.setdefault((r, u), []).append(np.asarray(returns).mean(1))
    means = [np.mean(x, axis=0) for x in found.values()]
    by_hand = [[mean[:3].mean(), mean[3:].mean()] for mean in means]
    np.testing.assert_allclose(scores, by_hand, rtol=1e-5)
    assert len(np.unique(scores)) > 2


def test_runs_of_other_networks_have_programs_of_their_own(loaded):
    wide = training.make_config("dr", "maze", "quick", {**_flat(), "channels": 5})
    twin = loaded[1]._replace(experiment=loaded[1].config.build())
    fat = loaded[1]._replace(experiment=wide.build())
    assert candidates.programs([loaded[0], fat, twin, loaded[1]]) == [[0, 2, 3], [1]]


def _flat():
    return {k: v for k, v in TINY.items() if k not in ("env", "preset")}


def test_without_a_report_no_test_level_is_played(loaded, runs, tmp_path, monkeypatch):
    def no_report(*_):
        raise AssertionError("test levels were played")

    def scores(runs, plain, shifts, options):
        rng = np.random.default_rng(0)
        families = {s.family: rng.random(4) for s in shifts}
        return model_selection.Scores(np.array([0.1, 0.3, 0.9, 0.2]), families, {})

    monkeypatch.setattr(model_selection, "held_out_scores", no_report)
    monkeypatch.setattr(model_selection, "score", scores)
    table = model_selection.select(
        runs, SelectOptions(report_test=False, out=str(tmp_path), **OPTIONS)
    )
    assert "plain" in table["chosen_by"][2] and "test" not in table
    assert not (tmp_path / "agreement.csv").exists()
    assert (tmp_path / "selection.png").exists()
    # What is the same everywhere is no ground for a choice.
    monkeypatch.setattr(
        model_selection,
        "score",
        lambda *_: model_selection.Scores(np.zeros(4), {"a": np.ones(4)}, {}),
    )
    with pytest.raises(UserError, match="--measure return"):
        model_selection.select(runs, SelectOptions(out=str(tmp_path), **OPTIONS))


# Bad input: one sentence, exit code 2, nothing written.


def fake_run(out, algorithm="dr", env="maze", checkpoint=True, **settings):
    """A run directory that says that it is done, and no more."""
    config = training.make_config(algorithm, env, "", settings)
    store = RunStore.open(out, config.name, config)
    if checkpoint:
        (store.checkpoint_dir / "1").mkdir(parents=True)
    store.write_text("DONE", "")
    return store.path


def refused(capsys, args):
    assert main(["select", *map(str, args)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("rlgen: ") and error.endswith(".")
    return error


def test_runs_that_do_not_compare_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    maze = fake_run(tmp_path / "runs")
    args = {
        "not a run directory": [tmp_path],
        "different environments": [maze, fake_run(tmp_path / "runs", env="cave")],
        "same settings of it": [maze, fake_run(tmp_path / "runs", view_size=7)],
        "different held-out": [maze, fake_run(tmp_path / "runs", max_walls=9)],
        "no checkpoint": [maze, fake_run(tmp_path / "bare", checkpoint=False)],
        "named twice": [maze, maze],
    }
    for what, names in args.items():
        message = refused(capsys, names)
        assert what in message, message
    unfinished = fake_run(tmp_path / "other", lr=0.5)
    (unfinished / "DONE").unlink()
    assert "not complete" in refused(capsys, [unfinished])
    assert not (tmp_path / "selection").exists()


def test_one_candidate_is_no_choice(runs, capsys):
    assert "one candidate" in refused(capsys, [runs[0], "--last=1"])


def test_options_are_checked(runs, capsys):
    assert "measure 'luck'" in refused(capsys, [runs[0], "--measure=luck"])
    with pytest.raises(UserError, match="choose success, return"):
        SelectOptions(measure="luck")
    assert main(["select"]) == 2 and main(["select", "--help"]) == 0


def test_a_run_without_kept_policies_has_its_last(runs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(runs[1], copy)
    shutil.rmtree(copy / "policies")
    assert list(candidates.load(copy, 0).policies) == [4]
