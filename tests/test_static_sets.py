"""The script of the static sets: a sweep that is not complete yet has a table too."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

from rlgen.errors import UserError
from rlgen.store import RunStore

SCRIPT = Path(__file__).parents[1] / "analysis" / "static_sets.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("static_sets", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def finished(folder, dataset, returns):
    """A run with one held-out level and one episode for each meta-seed."""
    store = RunStore(folder / dataset)
    store.eval_dir.mkdir(parents=True)
    settings = f"algorithm: lpg\nseeds: {len(returns)}\n"
    settings += f"dataset: runs/static-sets/{dataset}.npz\n"
    store.write_text("config.yaml", settings)
    table = pd.DataFrame(
        {
            "seed": range(len(returns)),
            "level_set": "heldout",
            "level": "a",
            "return": returns,
        }
    )
    # What the rule earns on its own levels is none of the comparison's.
    own = table.assign(**{"level_set": "train", "return": 9.0})
    path = store.eval_dir / "update_00000001.parquet"
    store.write_table(path, pd.concat([table, own]))
    store.write_text("DONE", "")


def test_means_are_of_held_out_levels_by_set(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    for dataset, returns in {
        "top-4-a": [0.8, 0.6],
        "top-16-a": [0.9, 0.9],
        "random-4-a": [0.5, 0.3],
        "random-4-b": [0.2, 0.2],
    }.items():
        finished(runs, dataset, returns)
    script.figure(str(runs))
    out = tmp_path / "analysis" / "static_sets"
    table = pd.read_csv(out / "return.csv").set_index(["kind", "size", "pool"])
    assert len(table) == 4
    assert table.loc[("top", 4, "a"), "mean"] == pytest.approx(0.7)
    assert table.loc[("random", 4, "a"), "low"] == 0.3
    assert table.loc[("random", 4, "b"), "seeds"] == 2
    assert (out / "static_sets.png").stat().st_size > 3000


def test_no_runs_yet(script, tmp_path):
    with pytest.raises(UserError, match="run the sweep first"):
        script.figure(str(tmp_path))
