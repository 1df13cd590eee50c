"""Settings do something, and flags that texts name are there."""

from __future__ import annotations

import ast
import dataclasses
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_dirs
from tiny import TINY_TASKS, without_lpg

from rlgen import (
    cli,
    collect,
    level_tool,
    meta_suite,
    model_selection,
    ood_meter,
    registry,
    runner,
    training,
)
from rlgen import config as configs
from rlgen.algos import rule_library
from rlgen.algos.meta import algorithms
from rlgen.store import RunStore

ROOT = Path(__file__).parents[1]
OPTIONS = (
    cli.EvalOptions,
    collect.EnvOptions,
    collect.RunOptions,
    level_tool.LevelsOptions,
    meta_suite.RuleEvalOptions,
    model_selection.SelectOptions,
    ood_meter.OODOptions,
)


def settings_of_all():
    """Every setting of every algorithm and environment: name -> its classes."""
    found: dict[str, set[str]] = {}

    def note(config):
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if dataclasses.is_dataclass(value):
                note(value)
            else:
                found.setdefault(field.name, set()).add(type(config).__name__)

    for name in registry.names(registry.ALGORITHMS):
        config = training.make_config(name)
        for part in (config.run, config.levels_config, config.algo):
            note(part)
    for name in registry.names(registry.ENVS):
        note(registry.load(registry.ENVS, name)())
    return found


def test_every_setting_is_read_by_something_beside_its_checks():
    read = set()
    for path in (ROOT / "rlgen").rglob("*.py"):
        tree = ast.parse(path.read_text())
        checks = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name == "__post_init__"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and id(node) not in checks:
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)  # by its name: `getattr`, tables of names
    assert not {n: classes for n, classes in settings_of_all().items() if n not in read}


def test_flags_that_texts_name_exist():
    """Of docstrings, messages, README and guides; a help once named --only-files."""
    known = {name.replace("_", "-") for name in settings_of_all()}
    for options in OPTIONS:
        known |= {f.name.replace("_", "-") for f in dataclasses.fields(options)}
    known |= {"algorithm", "env", "preset", "config", "help"}
    sources = sorted((ROOT / "rlgen").rglob("*.py"))
    for path in sources:  # of argparse
        known |= set(re.findall(r'add_argument\(\s*"--([a-z-]+)"', path.read_text()))
    texts = [*sources, ROOT / "README.md", *(ROOT / "docs" / "guides").glob("*.md")]
    named = {
        (flag, path.name)
        for path in texts
        for flag in re.findall(r"(?<![\w-])--([a-z][a-z0-9-]*)", path.read_text())
    }
    # Of pip, srun, git and XLA.
    foreign = {"editable", "ntasks", "porcelain", "short", "target", "xla"}
    assert not {each for each in named if each[0] not in known | foreign}


RULES = [
    name
    for name in registry.names(registry.ALGORITHMS)
    if isinstance(
        registry.load(registry.ALGORITHMS, name),
        algorithms.MetaGradientAlgorithm | algorithms.EvolutionAlgorithm,
    )
]


def zeros(shape):
    """An array of a shape; keys have no zero."""
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), shape.shape)
    return jnp.zeros(shape.shape, shape.dtype)


@pytest.mark.parametrize("algorithm", RULES)
def test_a_run_that_learns_a_rule_keeps_rules(algorithm, tmp_path):
    """With --keep-policies, at every evaluation, for `rlgen eval`."""
    known = configs.flatten(training.make_config(algorithm))
    tiny = TINY_TASKS | {"n_inner": 2, "keep_policies": True, "seeds": 2}
    tiny = {name: value for name, value in tiny.items() if name in known}
    if "lpo" in algorithm:
        tiny = without_lpg(tiny)
    config = training.make_config(algorithm, settings=tiny)
    experiment = config.build()
    one = jax.eval_shape(experiment.init, jax.random.key(0))
    states = jax.tree.map(lambda x: jnp.stack([zeros(x)] * 2), one)
    program = types.SimpleNamespace(experiment=experiment, gathered=lambda x: x)
    loop = object.__new__(runner._Loop)
    loop.program, loop.config, loop.store = program, config.run, RunStore(tmp_path)
    loop._keep_policy(states, 3)
    folder = runner.policy_file(tmp_path, 3).with_suffix("")
    assert rule_library.is_rule(str(folder)) and len(list(folder.iterdir())) == 2
    _, shape, _ = rule_library.load_rule(folder / "rule-1.npz")
    assert shape == experiment.rule


def test_what_wraps_others_is_listed_where_it_works(capsys):
    assert cli.main(["ls", "--out", "none"]) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x[2:7] == "cocoa")
    named = set(line.partition("--cocoa True with ")[2].split(", "))
    has = {
        name
        for name in registry.names(registry.ALGORITHMS)
        if "cocoa" in configs.flatten(training.make_config(name))
    }
    assert named == has - {"sac", "decision-transformer"}  # which refuse it


def test_ls_names_a_damaged_run_and_goes_on(tmp_path, capsys):
    for name, text in {
        "empty": "",
        "cut": '{"status": ',
        "list": "[]",
        "words": '{"status": "done", "env_steps": "many"}',
        "whole": '{"status": "done", "env_steps": 7}',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    assert cli.main(["ls", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.partition("runs:\n")[2].splitlines()
    said = {Path(line.split()[0]).name: line for line in lines}
    assert "done  7 steps" in said.pop("whole") and len(said) == 4
    assert all("damaged: " in line for line in said.values())


PLACES = ("{folder}", "{file}/x.{kind}", "/proc/x/y.{kind}", "{folder}/" + "n" * 300)
_LEVELS = "levels maze --height 5 --width 5 --max-walls 8 --n 2"
# Where things are written or read, and whether a folder belongs there.
COMMANDS = {
    f"{_LEVELS} --picture= --save PLACE": True,
    f"{_LEVELS} --picture PLACE": False,
    "report {run} --out PLACE": True,
    "train dr --out PLACE": True,
    "train dr --run-dir PLACE": True,
    "train dr --config PLACE": False,
    "sweep PLACE --dry-run": False,
    "sweep {sweep} -- --out PLACE": True,
    "eval PLACE": False,
    "eval {run} --levels PLACE": False,
    "ls --out PLACE": True,
}


@pytest.mark.parametrize(
    ("command", "place"),
    [
        (command, place)
        for command, takes_folders in COMMANDS.items()
        for place in PLACES
        if place != "{folder}" or not takes_folders
    ],
)
def test_places_that_cannot_be_used_are_said_in_one_sentence(
    tmp_path, capsys, monkeypatch, command, place
):
    monkeypatch.setattr(training, "planned", lambda *_: None)  # nothing is built
    run = run_dirs.write(tmp_path, "run", {"heldout": np.zeros((1, 2))})
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("method: grid\nparameters:\n  algorithm: {value: dr}\n")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    kind = "png" if "--picture PLACE" in command else "npz"
    place = place.format(folder=tmp_path / "folder", file=tmp_path / "file", kind=kind)
    words = command.format(run=run, sweep=sweep).split()
    code = cli.main([word.replace("PLACE", place) for word in words])
    error = capsys.readouterr().err
    if not command.startswith("ls"):  # where no run lies, none is listed
        assert code == 2 and len(error.strip().splitlines()) == 1, error
