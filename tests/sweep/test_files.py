"""Sweep files: what they say, the runs they ask for, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlgen import cli, registry
from rlgen.errors import UserError
from rlgen.sweep import cells, local, schema, search
from rlgen.sweep.search import Trial

SWEEPS = Path(__file__).parents[2] / "sweeps"
GRID = """
program: rlgen
method: grid
parameters:
  algorithm: {values: [dr, plr]}
  lr: {values: [0.1, 0.2]}
  n_updates: {value: 1}
"""
SEARCH = """
method: bayes
run_cap: 4
metric: {name: eval_heldout_return, goal: maximize}
parameters:
  algorithm: {value: dr}
  lr: {min: 0.0001, max: 0.01, distribution: log_uniform_values}
  n_envs: {values: [8, 16]}
  eval_split: {value: validation}
"""


def write(tmp_path, text, name="sweep.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_cells_are_all_combinations(tmp_path):
    made = local.plan([write(tmp_path, GRID)], {"out": "x"})
    assert [(c.settings["algorithm"], c.settings["lr"]) for c in made] == [
        ("dr", 0.1),
        ("dr", 0.2),
        ("plr", 0.1),
        ("plr", 0.2),
    ]
    assert made[0].command == [
        "train",
        "--algorithm=dr",
        "--lr=0.1",
        "--n-updates=1",
        "--out=x",
    ]


def test_a_grid_stops_at_its_cap(tmp_path):
    assert len(local.plan([write(tmp_path, GRID + "run_cap: 3\n")], {})) == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (GRID.replace("grid", "walk"), "method walk: choose grid, random, bayes"),
        (GRID.replace("algorithm:", "alg:"), "names no algorithm"),
        (GRID.replace("{value: 1}", "3"), "needs a value"),
        (GRID.replace("[0.1, 0.2]", "[]"), "lr .* has no values"),
        (GRID.replace("lr:", "learning_rat:"), "Unknown setting learning_rat"),
        (GRID.replace("values: [0.1", "valeus: [0.1"), "unknown key valeus"),
        (GRID.replace("0.2", "fast"), "lr .* must be of type float"),
        (GRID + "cap: 3\n", "unknown key cap"),
        (GRID + "run_cap: 0\n", "run_cap 0"),
        (GRID + "early_terminate: {type: hyperband}\n", "early_terminate"),
        ("method: grid\n", "has no parameters"),
        ("- a\n", "must hold"),
        (GRID.replace("lr: {values: [0.1, 0.2]}", "lr: {values: [0.1, 0.1]}"), "Two c"),
        (GRID.replace("n_updates:", "run_dir:").replace("1}", "r}"), "directory r:"),
        (SEARCH.replace("run_cap: 4\n", ""), "add run_cap"),
        (SEARCH.replace("maximize", "more"), "what to improve"),
        (SEARCH.replace("eval_heldout_return", "eval_solve_rate"),
         "no run logs: choose eval_heldout_solve_rate"),
        (SEARCH.replace("min: 0.0001, max: 0.01, ", "").replace(
            "distribution: log_uniform_values", ""), "min and max"),
    ],
)  # fmt: skip
def test_bad_files_end_with_one_sentence(tmp_path, text, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        local.plan([write(tmp_path, text)], {})
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path, capsys):
    assert cli.main(["sweep", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_files_share_runs_but_not_directories(tmp_path):
    """A baseline that two files ask for runs once; one directory for two is refused."""
    one = write(tmp_path, GRID)
    two = write(tmp_path, GRID.replace("[dr, plr]", "[dr, accel]"), "two.yaml")
    assert len(local.plan([one, two], {})) == 6
    text = GRID.replace("[dr, plr]", "[dr]").replace("[0.1, 0.2]", "[0.1]")
    one = write(tmp_path, text + "  run_dir: {value: r}\n")
    two = write(tmp_path, text.replace("0.1", "0.2") + "  run_dir: {value: r}\n", "b")
    with pytest.raises(UserError, match="have the run directory r"):
        local.plan([one, two], {})


def shipped():
    grids = [p for p in sorted(SWEEPS.rglob("*.yaml")) if p.name != "reproduce.yaml"]
    assert len(grids) > 20
    return grids


@pytest.mark.parametrize("path", shipped(), ids=lambda p: f"{p.parent.name}-{p.name}")
def test_shipped_cells_have_the_directory_that_the_command_line_gives_them(path):
    """What the sweep looks for is where `rlgen train` will be, for wandb too."""
    made = local.plan([path], {})
    for cell in (made[0], made[-1]):
        assert cell.settings["algorithm"] in registry.names(registry.ALGORITHMS)
        config = cli.train_config(cell.command[1:])
        assert config == cell.config
    (command,) = [line for line in path.read_text().split("\n") if "command:" in line]
    assert command.split()[1:] in (
        ['["${env}",', "rlgen,", "train,", '"${args}"]'],
        ["['${env}',", "rlgen,", "train,", "'${args}']"],
    )


def test_flags_stand_above_the_file(tmp_path):
    flags = cells.parse_flags(["--seeds", "2", "--lr=1e-4", "--vary", "a", "b"])
    assert flags == {"seeds": 2, "lr": "1e-4", "vary": ["a", "b"]}
    assert cells.parse_flags(["--cocoa", "True", "--offset=-3"]) == {
        "cocoa": True,
        "offset": -3,
    }
    for bad, complaint in (["5"], "no flag"), (["--lr"], "needs a value"):
        with pytest.raises(UserError, match=complaint):
            cells.parse_flags(bad)
    assert all(
        cell.config.run.seeds == 3
        for cell in local.plan([write(tmp_path, GRID)], {"seeds": 3})
    )


def test_a_dry_run_prints_cells_and_hashes(tmp_path, capsys):
    path = write(tmp_path, GRID)
    assert cli.main(["sweep", str(path), "--dry-run", "--", "--seeds", "2"]) == 0
    out = capsys.readouterr().out.splitlines()
    made = local.plan([path], {"seeds": 2})
    assert len(out) == 4 and len({cell.digest for cell in made}) == 4
    for line, cell in zip(out, made, strict=True):
        assert line.startswith(f"{cell.digest}  new    {cell.store.path}  rlgen train ")
        assert line.endswith("--seeds=2")
        assert cell.digest in cell.store.path.name


def test_searches_repeat_and_use_what_they_have_seen(tmp_path):
    """Proposals follow from results alone; random ones cover their distribution."""
    bayes = schema.read(write(tmp_path, SEARCH))
    trials = [
        Trial({"algorithm": "dr", "lr": lr, "n_envs": 8, "eval_split": "validation"}, r)
        for lr, r in ((0.0001, 0.1), (0.001, 0.9), (0.01, 0.2), (0.002, None))
    ]
    first = search.propose(bayes, trials)
    assert first == search.propose(bayes, trials)
    assert first != search.propose(bayes, trials[:2])
    text = SEARCH.replace("bayes", "random").replace("metric:", "metric: {} #")
    drawn = schema.read(write(tmp_path, text))
    rates = []
    for i in range(60):
        settings = search.propose(drawn, trials[:1] * i)
        assert settings["algorithm"] == "dr" and settings["n_envs"] in (8, 16)
        assert type(settings["lr"]) is float
        rates.append(settings["lr"])
    # Log-uniform: half of them below the geometric mean.
    assert 18 <= sum(rate < 0.001 for rate in rates) <= 42
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)


def test_a_search_does_not_choose_by_test_levels(tmp_path):
    text = SEARCH.replace("value: validation", "value: test")
    with pytest.raises(UserError, match="levels of the test split"):
        local.run([str(write(tmp_path, text))], {"out": str(tmp_path)}, 1, ())
    with pytest.raises(UserError, match="run it alone"):
        local.run([str(write(tmp_path, text, f)) for f in "ab"], {}, 1, ())
