"""Imports point one way, and the links at the root are links."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rlgen"

# What each part may not import. Everything may import what stands below it.
TOP = (
    "cli",
    "training",
    "reports",
    "bench",
    "candidates",
    "level_tool",
    "collect",
    "collection",
    "comparison",
    "meta_suite",
    "sinks",
    "ood_meter",
    "report",
    "reproduce",
    "model_selection",
    "sweep",
)
ENVIRONMENTS = ("rlgen.envs", "rlgen.interop")
ABOVE_ENVIRONMENTS = (
    "rlgen.algos",
    "rlgen.evaluation",
    "rlgen.runner",
    "rlgen.programs",
    "rlgen.checkpoints",
    "rlgen.networks",
)
FORBIDDEN = {
    "envs": (*ABOVE_ENVIRONMENTS, "rlgen.interop"),
    "interop": ABOVE_ENVIRONMENTS,
    "algos": ENVIRONMENTS,
    "evaluation": (
        "rlgen.algos",
        "rlgen.runner",
        "rlgen.programs",
        "rlgen.checkpoints",
        *ENVIRONMENTS,
    ),
    "core": ("rlgen.algos", "rlgen.evaluation", *ENVIRONMENTS),
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[0] in ("envs", "interop", "algos", "evaluation"):
        return parts[0]
    return "top" if parts[0] in (*TOP, "__init__") else "core"


def files():
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    part = part_of(path)
    above = [f"rlgen.{name}" for name in TOP] if part != "top" else []
    for name in imports(path):
        assert name.split(".")[0] not in ("envs", "algos"), name
        for banned in [*FORBIDDEN.get(part, ()), *above]:
            assert name != banned and not name.startswith(banned + "."), (
                f"{path} imports {name}"
            )


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("flax.linen", {"networks.py", "level_vae.py"}),
        ("distrax", {"distributions.py"}),
    ],
)
def test_libraries_that_may_go_have_few_homes(library, homes):
    users = {p.name for p in files() if library in set(imports(p))}
    assert users == homes


@pytest.mark.parametrize("name", ["envs", "algos"])
def test_root_folders_are_links(name):
    assert os.readlink(ROOT / name) == f"rlgen/{name}"


def test_configuration_imports_no_jax():
    code = "import rlgen, rlgen.config, rlgen.cli, sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_unpickles():
    for path in files():
        text = path.read_text()
        assert "import pickle" not in text and "allow_pickle=True" not in text, path
