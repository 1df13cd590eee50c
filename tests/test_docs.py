"""The documentation: it builds, its code runs, and its guides are followed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from rlgen import cli
from rlgen.store import RunStore

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GUIDES = DOCS / "guides"

#: Lines of Python that a guide may have one write, docstrings included.
LIMITS = {
    "environment": 150,
    "curriculum": 60,
    "update-rule": 80,
    "offline-algorithm": 120,
}
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md"]


class Block(NamedTuple):
    """A fenced block: its language, the file it is (if any) and its text."""

    language: str
    file: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = []
    fence = re.compile(r"^```(\S*)[ ]?(\S*)\n(.*?)^```$", re.M | re.S)
    for first, second, text in fence.findall(page.read_text()):
        language = second if first == "{code-block}" else first
        caption = re.match(r":caption: (.+)\n\n", text)
        file = caption.group(1) if caption else ""
        found.append(Block(language, file, text[caption.end() :] if caption else text))
    return found


def commands(page: Path) -> list[str]:
    """What the page types: after `$` in consoles; in README, lines of plain blocks."""
    lines = []
    for block in blocks(page):
        if block.language == "console":
            typed = block.text.splitlines()
            assert all(line.startswith("$ ") for line in typed), page
            lines += [line[2:] for line in typed]
        elif block.language == "":
            lines += re.findall(
                r"^(?:uv run )?(rlgen .*?)(?:  +#.*)?$", block.text, re.M
            )
    return lines


def files(page: Path) -> dict[str, str]:
    return {block.file: block.text for block in blocks(page) if block.file}


def test_the_site_builds_without_warnings(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", DOCS, tmp_path / "html"],
        check=True,
        cwd=ROOT,
    )
    contracts = (tmp_path / "html" / "api" / "contracts.html").read_text()
    assert 'id="rlgen.env.check_env"' in contracts
    for name in LIMITS:
        assert (tmp_path / "html" / "guides" / f"{name}.html").exists()


@pytest.mark.parametrize("name", LIMITS)
def test_what_a_guide_has_one_write_is_short(name):
    python = [t for f, t in files(GUIDES / f"{name}.md").items() if f.endswith(".py")]
    assert 10 < sum(len(text.splitlines()) for text in python) <= LIMITS[name]


@pytest.mark.parametrize("name", LIMITS)
def test_what_a_guide_has_one_write_is_in_the_house_style(name, tmp_path):
    for file, text in files(GUIDES / f"{name}.md").items():
        (tmp_path / file).write_text(text)
    ruff = [sys.executable, "-m", "ruff"]
    config = ["--config", str(ROOT / "pyproject.toml")]
    subprocess.run([*ruff, "format", "--check", *config, tmp_path], check=True)
    # Scripts that print have no readers of docstrings.
    ignored = ["--ignore", "D100,D103,I001"]
    subprocess.run([*ruff, "check", *config, *ignored, tmp_path], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.stem not in LIMITS], ids=lambda p: p.stem
)
def test_python_on_other_pages_runs(page, tmp_path):
    code = "".join(b.text for b in blocks(page) if b.language == "python")
    if not code:
        assert page.stem in ("index", "cluster", *(p.stem for p in DOCS.glob("api/*")))
        return
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=env())


TRAININGS = [
    pytest.param(command, id=f"{page.stem}-{i}")
    for page in PAGES
    if page.stem not in LIMITS
    for i, command in enumerate(commands(page))
    if re.match(r"(uv run )?rlgen train [a-z]", command) and "--help" not in command
]


@pytest.mark.parametrize("command", TRAININGS)
def test_commands_that_are_shown_name_what_exists(command, tmp_path, monkeypatch):
    """Algorithms, environments, presets and flags; nothing is trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("lr: 0.001\n")
    args = shlex.split(command.removeprefix("uv run "), comments=True)[2:]
    config = cli.train_config(args)
    assert config.algorithm == args[0]


def test_the_sweep_of_the_guide_has_the_cells_that_it_says(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for file, text in files(GUIDES / "cluster.md").items():
        Path(file).write_text(text)
    runs = [c for c in commands(GUIDES / "cluster.md") if "--dry-run" in c]
    assert len(runs) == 2
    for command in runs:
        assert cli.main(shlex.split(command)[1:]) == 0
        listed = capsys.readouterr().out
        assert len(listed.splitlines()) == 4
        assert ("elsewhere" in listed) == ("elsewhere" in command)


def env() -> dict[str, str]:
    """Of processes that import this checkout, wherever they are."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A fresh environment, to which this checkout and what it needs are lent."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    # Some venvs bring a setuptools too old for us, which would hide the lent one.
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "uninstall", "--yes", "setuptools"], check=True)
    within = {"base": str(folder), "platbase": str(folder)}
    lent = dict.fromkeys([str(ROOT), *map(sysconfig.get_path, ("purelib", "platlib"))])
    target = Path(sysconfig.get_path("purelib", vars=within)) / "lent.pth"
    target.write_text("\n".join(lent))
    return python


def follow(command: str, project: Path, python: Path) -> None:
    """Types one command of a guide. Installing needs no network here."""
    words = shlex.split(command)
    if words[:2] == ["pip", "install"]:
        options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
        words = ["-m", "pip", *words[1:], *options]
    elif words[0] == "rlgen":
        words = ["-m", "rlgen.cli", *words[1:]]
    else:
        assert words.pop(0) == "python", command
    subprocess.run([python, *words], check=True, cwd=project, env=dict(os.environ))


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITS)
def test_a_guide_followed_to_the_letter_trains(name, tmp_path, python):
    page = GUIDES / f"{name}.md"
    for file, text in files(page).items():
        (tmp_path / file).write_text(text)
    typed = commands(page)
    for command in typed:
        follow(command, tmp_path, python)
    trained = [shlex.split(c) for c in typed if c.startswith("rlgen train ")]
    assert trained
    for words in trained:
        store = RunStore(tmp_path / words[words.index("--run-dir") + 1])
        assert store.is_done
        tables = sorted(store.eval_dir.glob("*.parquet"))
        episodes = pd.read_parquet(tables[-1])
        assert "heldout" in set(episodes["level_set"])
        assert episodes["return"].notna().all()
        metrics = store.read_metrics()
        assert metrics["update"].max() == int(words[words.index("--n-updates") + 1])
        finite = metrics["finite"].dropna()  # evaluations have rows of their own
        assert len(finite) > 0
        assert (finite == 1).all()
        assert any(store.figures_dir.iterdir())
    shutil.rmtree(tmp_path)
