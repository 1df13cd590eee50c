"""Figures of committed tables show every row of them, and names in one order."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest

from rlgen import comparison
from rlgen.evaluation import pictures

ANALYSIS = Path(__file__).parents[1] / "analysis"


@pytest.fixture
def script(monkeypatch):
    """Loads a script by its name."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, ANALYSIS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses look there
        spec.loader.exec_module(module)
        return module

    return load


def table(path):
    return pd.read_csv(ANALYSIS / path)


@pytest.fixture
def drawn(monkeypatch):
    """The panels of each figure that is asked for, and what else is said of it."""
    figures = []

    def draw(panels, path, *texts, **options):
        figures.append((panels, options))
        return path

    monkeypatch.setattr(pictures, "interval_panels", draw)
    monkeypatch.setattr(pictures, "line_panels", draw)
    return figures


def rows_of(figure):
    return sum(len(panel) for panel in figure[0].values())


def test_cocoa(script, drawn):
    module = script("cocoa")
    scores, distances = table("cocoa/scores.csv"), table("cocoa/distances.csv")
    module.draw_scores(scores)
    module.draw_distances(distances)
    assert rows_of(drawn[0]) == len(scores)
    met = distances[distances["level_set"] == "extrapolated"]
    assert rows_of(drawn[1]) == met[list(module.PARTS)].notna().to_numpy().sum()
    for panels, options in drawn:
        assert options["among"] == module.ORDER
        for panel in panels.values():  # horizons by their length
            places = [module.ORDER.index(name) for name in panel["algorithm"]]
            assert places == sorted(places)


def test_dred(script, drawn, tmp_path):
    tables = [table(f"dred/{n}.csv") for n in ("return", "solve_rate", "measures")]
    script("dred").draw(*tables, 5, tmp_path)
    returns, _, measures = tables
    held_out = (returns["level_set"] != "train").sum()
    measured = measures[list(comparison.MEASURES)].notna().to_numpy().sum()
    assert [rows_of(f) for f in drawn] == [held_out, held_out, held_out, measured]
    names = list(returns["algorithm"].unique())
    assert all(options["among"] == names for _, options in drawn)


def test_reset_free(script, drawn):
    rows = table("reset_free/success.csv")
    script("reset_free").draw_success(rows)
    assert rows_of(drawn[0]) == len(rows) and drawn[0][1]["share"]


def test_offline_gap(script, drawn):
    module = script("offline_gap")
    scores, budget = table("offline_gap/scores.csv"), table("offline_gap/budget.csv")
    module.draw_gap(scores)
    module.draw_budget(budget)
    (gap, _), (chosen, _) = drawn
    points = [line.x for lines in gap.values() for line in lines.values()]
    assert sum(map(len, points)) == scores["level_set"].isin(module.SETS).sum()
    assert all(list(x) == sorted(x) for x in points)
    (lines,) = chosen.values()
    assert sum(len(line.x) for line in lines.values()) == len(budget)


def test_static_sets(script, drawn, tmp_path):
    by_set = table("static_sets/return.csv")
    script("static_sets").draw(by_set, tmp_path)
    (lines,) = drawn[0][0].values()
    for kind, line in lines.items():
        own = by_set[by_set["kind"] == kind].groupby("size")
        assert line.x.tolist() == sorted(set(by_set["size"]))
        assert line.point == pytest.approx(own["mean"].mean())  # as many meta-seeds
        assert line.high == pytest.approx(own["high"].max())
