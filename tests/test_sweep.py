"""Sweep files: cells, commands, and what happens when one fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlgen import registry, sweep, training
from rlgen.errors import UserError

SWEEPS = Path(__file__).parents[1] / "sweeps"
GRID = """
program: rlgen
method: grid
parameters:
  algorithm: {values: [dr, plr]}
  lr: {values: [0.1, 0.2]}
  n_updates: {value: 1}
"""


def write(tmp_path, text):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return path


def test_cells_are_all_combinations(tmp_path):
    cells = sweep.cells(write(tmp_path, GRID))
    assert [(c["algorithm"], c["lr"]) for c in cells] == [
        ("dr", 0.1),
        ("dr", 0.2),
        ("plr", 0.1),
        ("plr", 0.2),
    ]
    assert sweep.command(cells[0], ["--out", "x"]) == [
        "train",
        "--algorithm=dr",
        "--lr=0.1",
        "--n-updates=1",
        "--out",
        "x",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (GRID.replace("grid", "bayes"), "only grid"),
        (GRID.replace("algorithm:", "alg:"), "names no algorithm"),
        (GRID.replace("{value: 1}", "3"), "needs a value"),
        (GRID + "cap: 3\n", "unknown key cap"),
    ],
)
def test_bad_files_end_with_one_sentence(tmp_path, text, complaint):
    with pytest.raises(UserError, match=complaint):
        sweep.cells(write(tmp_path, text))


@pytest.mark.parametrize("path", sorted(SWEEPS.rglob("*.yaml")), ids=lambda p: p.name)
def test_every_cell_of_the_shipped_sweeps_is_a_valid_run(path):
    for cell in sweep.cells(path):
        assert cell["algorithm"] in registry.names(registry.ALGORITHMS)
        settings = {
            k: v for k, v in cell.items() if k not in ("algorithm", "env", "preset")
        }
        env = cell.get("env", "")
        training.make_config(cell["algorithm"], env, cell["preset"], settings)


def test_a_failed_cell_does_not_stop_the_others(tmp_path, capfd):
    text = """
method: grid
parameters:
  algorithm: {values: [nonsense, dr]}
  lr: {value: -word}
"""
    assert sweep.run(write(tmp_path, text)) == 1
    err = capfd.readouterr().err
    assert "Unknown algorithm nonsense" in err
    assert err.count("failed: rlgen train") == 2


def test_a_dry_run_only_lists(tmp_path, capfd):
    assert sweep.run(write(tmp_path, GRID), ["--seeds", "2"], dry_run=True) == 0
    out = capfd.readouterr().out.splitlines()
    assert len(out) == 4 and out[0].startswith("[1/4] rlgen train --algorithm=dr")
    assert out[0].endswith("--seeds 2")
