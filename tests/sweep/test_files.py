"""Sweep files: what they say, the runs they ask for, and what is wrong with them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from rlgen import cli, registry
from rlgen.errors import UserError
from rlgen.store import RunStore
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
    made = local.plan([write(tmp_path, GRID)], {"out": ["x"]})
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
        ("1: 2\n", "must hold"),
        (GRID + "project: a\nproject: b\n", "project stands there twice"),
        (GRID.replace("program: rlgen", "program: my_train.py"), "my_train.py, but"),
        (GRID + "entity: us\n", "set WANDB_ENTITY=us"),
        (GRID + "command: [rlgen, train]\n", "the parameters on once"),
        (GRID + "command: rlgen train ${args}\n", "must be a list"),
        (GRID + 'command: [rlgen, eval, "${args}"]\n', "is not `rlgen train`"),
        (GRID + 'command: ["${program}", "${args}"]\n', "is not `rlgen train`"),
        (GRID + 'command: [rlgen, train, "${args}", "${args_json}"]\n', "args_json"),
        (GRID + 'command: [rlgen, train, "--lrr=1", "${args}"]\n', "mean lr?"),
        (GRID.replace("[0.1, 0.2]", "[null, 0.2]"), "lr .* has the value null"),
        (GRID + "  preset: {value: null}\n", "preset .* has the value null"),
        (GRID + "  preset: {values: [null, quick]}\n", "preset .* the value null"),
        (GRID + "  wandb: {value: off}\n", "wandb .* is False, .* in quotes"),
        (GRID + "  seed: {value: 010}\n", "010 is another number"),
        (GRID + "  seed: {value: 1:30}\n", "1:30 is another number"),
        (GRID.replace("0.2]", "0.2], min: 1"), "lr .* has min, which means nothing"),
        (GRID.replace("0.2]", "0.2], probabilities: [1, 0]"), "lr .* has prob"),
        (GRID + "metric: eval_heldout_return\n", "has no name"),
        (GRID + "metric: {goal: maximize}\n", "has no name"),
        (GRID + "metric: {name: eval_heldout_retrun}\n", "retrun, which no run has"),
        (GRID + "metric: {name: loss, goal: max}\n", "by a goal"),
        (GRID + "metric: {name: loss, goal: }\n", "by a goal"),
        (GRID + "metric: {name: loss, target: 0.9}\n", "has a target"),
        (SEARCH.replace("bayes", "random").replace("maximize", "max"), "by a goal"),
        (SEARCH.replace(", goal: maximize", ""), "by a goal"),
        (SEARCH.replace("min: 0.0001", "min: 0"), "begins above 0, as at 1e-05"),
        (SEARCH.replace("min: 0.0001", "min: fast"), "min fast: .* needs a number"),
        (SEARCH.replace("min: 0.0001", "min: .nan"), "min nan: .* needs a number"),
        (SEARCH.replace("min: 0.0001", "min: 1"), "min must be below max"),
        (SEARCH.replace("_values", ""), "write log_uniform_values"),
        (SEARCH.replace("log_uniform_values", "loguniform"), "choose uniform, "),
        (SEARCH.replace("0.01,", "0.01, q: 2,"), "q, which log_uniform_values has not"),
        (SEARCH.replace("[8, 16]", "[8, 16], probabilities: [1, 1]"), "1 in all"),
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
    flags = cells.parse_flags(["--seeds", "3", "--lr=1e-4", "--out", "a b"])
    assert flags == {"seeds": ["3"], "lr": ["1e-4"], "out": ["a b"]}
    with pytest.raises(UserError, match="no flag"):
        cells.parse_flags(["5"])
    for cell in local.plan([write(tmp_path, GRID)], {"seeds": ["3"]}):
        assert cell.config.run.seeds == 3
    with pytest.raises(UserError, match="--seeds needs a value"):
        local.plan([write(tmp_path, GRID)], {"seeds": []})
    with pytest.raises(UserError, match="in the flags: did you mean seeds"):
        local.plan([write(tmp_path, GRID)], {"seedss": ["1"]})


ONE = """
method: grid
parameters:
  algorithm: {value: agent}
"""


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("", "--out 2026-11-29 --wandb off --wandb-project 2026"),
        ("", "--seed 010"),
        ("", "--seed 1_0"),
        ("", "--out 'runs #2'"),
        ("", "--out '[x]'"),
        ("", "--out 'x: y' --run-dir runs/a:b"),
        ("", "--lr 1e-5 --pictures False"),
        ("", "--env reacher --vary gear damping"),
        ("", "--env reacher --vary"),
        ("  env: {value: push}\n", "--env reacher --vary gear"),
        ("  env: {value: reacher}\n  vary: {value: [gear, damping]}\n", ""),
        ("  env: {value: reacher}\n  vary: {values: [[]]}\n", ""),
        ("  env: {value: reacher}\n  vary: {values: [gear]}\n", ""),
        ("  wandb: {value: 'off'}\n  lr: {value: 1e-5}\n", ""),
        ("  preset: {value: ''}\n", "--preset quick"),
        ("  preset: {value: quick}\n", "--preset="),
        ("  seeds: {value: 2}\n  wandb_project: {value: x}\n", "--seeds 3"),
    ],
)
def test_a_cell_is_what_its_command_trains(tmp_path, parameters, words):
    """As typed behind --, as the file says it, and as the agent of wandb passes it."""
    typed = shlex.split(words)
    (cell,) = local.plan([write(tmp_path, ONE + parameters)], cells.parse_flags(typed))
    assert cli.train_config(cell.command[1:]) == cell.config
    assert shlex.split(cell.shown) == ["rlgen", *cell.command]
    # wandb's `create_sweep_command_args`: Python's text of each value.
    given = yaml.safe_load(ONE + parameters)["parameters"].items()
    passed = [f"--{k}={v.get('value', *v.get('values', []))}" for k, v in given]
    assert cli.train_config([*passed, *typed]) == cell.config


def test_constant_arguments_of_the_command_belong_to_every_cell(tmp_path):
    """Before the parameters they stand below them, behind them above, as in wandb's."""
    before = '--preset, quick, --n_updates, 4, "--seed=1"'
    command = (
        f'command: ["${{env}}", rlgen, train, {before}, "${{args}}", --clip=0.3]\n'
    )
    made = local.plan([write(tmp_path, GRID + command + "project: mazes\n")], {})
    assert len(made) == 4
    for cell in made:
        run = cell.config.run
        assert (run.n_updates, run.seed, run.wandb_project) == (1, 1, "mazes")
        assert cell.config.algo.ppo.clip == 0.3
        assert cell.settings["preset"] == ["quick"]
        assert cli.train_config(cell.command[1:]) == cell.config


def test_cells_are_counted_before_they_are_made(tmp_path, monkeypatch):
    many = "".join(f"  x{i}: {{values: {list(range(20))}}}\n" for i in range(6))
    path = write(tmp_path, GRID + many)
    monkeypatch.setattr(cells, "make", None)
    with pytest.raises(UserError, match="256,000,000 cells, more than 100,000"):
        local.list_cells([str(path)], {})
    capped = schema.read(write(tmp_path, GRID + many + "run_cap: 5\n"))
    assert [c["x5"] for c in schema.combinations(capped)] == [0, 1, 2, 3, 4]


def test_every_value_of_a_search_is_checked_before_it_begins(tmp_path):
    text = SEARCH.replace("bayes", "random").replace("[8, 16]", "[8, many]")
    with pytest.raises(UserError, match=r"n_envs .* is 'many'"):
        local.list_cells([str(write(tmp_path, text))], {})


@pytest.mark.parametrize("method", ["grid", "random\nrun_cap: 2"])
@pytest.mark.parametrize(
    ("goal", "said"),
    [
        (", goal: maximize", "best eval_heldout_return: 0.9 of"),
        (", goal: minimize", "best eval_heldout_return: 0.2 of"),
        ("", "says no goal"),
    ],
)
def test_the_best_is_named_where_the_file_says_what_is_better(
    tmp_path, capsys, monkeypatch, method, goal, said
):
    """Of runs that are finished before."""
    text = f"method: {method}\nmetric: {{name: eval_heldout_return{goal}}}\n"
    text += """parameters:
      algorithm: {value: dr}
      eval_split: {value: validation}
      lr: {values: [0.1, 0.2]}
    """
    monkeypatch.setattr(search, "result", lambda sweep, store: results[store.path])
    monkeypatch.setattr(RunStore, "is_done", True)
    (tmp_path / "s").mkdir()
    path, flags = write(tmp_path / "s", text), {"out": [str(tmp_path)]}
    rates = (0.1, 0.2)
    one = {"algorithm": "dr", "eval_split": "validation"}
    made = [cells.make(one | {"lr": rate}, "", flags) for rate in rates]
    results = {cell.store.path: r for cell, r in zip(made, (0.9, 0.2), strict=True)}
    proposals = iter([one | {"lr": rate} for rate in (rates[0], *rates)])
    monkeypatch.setattr(search, "propose", lambda *_: next(proposals))
    assert local.run([str(path)], flags, 1, ()) == 0
    assert said in capsys.readouterr().out


def test_a_dry_run_prints_cells_and_hashes(tmp_path, capsys):
    path = write(tmp_path, GRID)
    assert cli.main(["sweep", str(path), "--dry-run", "--", "--seeds", "2"]) == 0
    out = capsys.readouterr().out.splitlines()
    made = local.plan([path], {"seeds": ["2"]})
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
        local.run([str(write(tmp_path, text))], {"out": [str(tmp_path)]}, 1, ())
    with pytest.raises(UserError, match="run it alone"):
        local.run([str(write(tmp_path, text, f)) for f in "ab"], {}, 1, ())
