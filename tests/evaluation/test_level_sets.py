"""Which levels stand for others: one rule, in every table and interval."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import run_dirs

from rlgen import comparison, ood_meter, registry, reports, runs
from rlgen.comparison import Claim, Compared
from rlgen.envs.pointmaze import stitching
from rlgen.evaluation import level_sets
from rlgen.report import tables

SAMPLED = ("heldout", "structures", "classic rooms", "extrapolated")
FIXED = ("named", "named 9x9", "seen pairs", "unseen pairs")


@pytest.mark.parametrize("env", ["maze", "pointmaze", "inverted_pendulum"])
def test_sets_that_stand_for_themselves_are_called_so(env):
    config = registry.load(registry.ENVS, env)()
    sets = {name: each for name, (_, each) in config.other_named().items()}
    assert any(not level_sets.is_sample(name) for name in sets)
    for name, level_set in sets.items():
        assert level_sets.is_sample(name) == (level_set.split != "named"), name
        assert level_sets.is_sample(level_set.name) == level_sets.is_sample(name)


def test_pairs_of_stitching_are_called_so():
    for which in ("seen", "unseen"):
        pairs = stitching.pair_levels(stitching.umaze_regions(), which, 2)
        assert pairs.split == "named" and not level_sets.is_sample(pairs.name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two methods whose seeds are all alike, on levels that differ."""
    folder = tmp_path_factory.mktemp("alike")
    levels = np.linspace(0.45, 1.0, 11)  # one is not solved: it may not be drawn
    for name, power in (("one", 1.0), ("other", 3.0)):
        scores = {s: np.tile(levels**power, (5, 1)) for s in (*SAMPLED, *FIXED)}
        scores["train"] = np.ones((5, 12))
        run_dirs.write(folder, name, scores, algorithm=name)
    return folder


def summary_of_a_run(folder):
    table = reports.summary_table(runs.read(folder / "one").episodes)
    return intervals(table, ["mean", "iqm"])


def scores_of_a_report(folder):
    return intervals(tables.scores(compared(folder)), ["return", "solved"])


def tails_of_a_report(folder):
    return intervals(tables.tails(compared(folder)), ["worst_tenth"])


def gaps_of_a_report(folder):
    return intervals(tables.gaps(compared(folder)), ["gap"])


def differences_of_a_report(folder):
    found = [tables.differences(compared(folder), s) for s in (*SAMPLED, *FIXED)]
    return intervals(pd.concat(found), ["difference"])


def scores_of_a_comparison(folder):
    return intervals(comparison.score_table(compared(folder), "return"), ["mean"])


def claims_of_a_comparison(folder):
    sets = (*SAMPLED, *FIXED)
    claims = [Claim("larger", "one", "other", level_set) for level_set in sets]
    table = comparison.check(compared(folder), claims)
    return dict(zip(sets, table["high"] - table["low"], strict=True))


def distances_of_levels(folder):
    table = runs.read(folder / "one").episodes
    table = table[table["level_set"].isin(["train", SAMPLED[0], FIXED[0]])]
    table = table.assign(**dict.fromkeys(ood_meter.MEASURES, np.nan))
    table = table.assign(
        mahalanobis=table["return"], level_set=table["level_set"].astype(str)
    )
    columns = ["mahalanobis", "auroc_mahalanobis"]
    return intervals(ood_meter.summarize(table), columns)


def compared(folder):
    groups = runs.group(runs.finished(folder))
    return {name: Compared(name, members) for name, members in groups.items()}


def intervals(table, columns):
    """Widths of the intervals by level set, the widest of columns and methods."""
    widths = pd.concat([table[f"{c}_high"] - table[f"{c}_low"] for c in columns])
    by_set = widths.groupby(pd.concat([table["level_set"].astype(str)] * len(columns)))
    return by_set.max().to_dict()


@pytest.mark.parametrize(
    "table",
    [
        summary_of_a_run,
        scores_of_a_report,
        tails_of_a_report,
        gaps_of_a_report,
        differences_of_a_report,
        scores_of_a_comparison,
        claims_of_a_comparison,
        distances_of_levels,
    ],
    ids=lambda f: f.__name__,
)
def test_levels_are_redrawn_where_they_are_a_sample_and_nowhere_else(folder, table):
    """Seeds are alike, so nothing but redrawn levels can make an interval wide."""
    widths = table(folder)
    assert widths[SAMPLED[0]] > 0.01 and widths[FIXED[0]] < 1e-9
    for name in widths.keys() - {"train"}:
        assert (widths[name] > 0.01) == (name in SAMPLED), name
