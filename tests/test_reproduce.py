"""Papers: what their files say, what would run, and where it stops."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from rlgen import cli, reproduce
from rlgen.errors import UserError

ROOT = Path(__file__).parents[1]
ASKED = ("dred", "plr-accel", "sfl", "groove", "time-aware", "cocoa", "stitching")

FILE = """
claim: it works
figure: the first
sizes:
  cpu:
    cost: nothing
    steps:
      - rlgen: ls --out {here}
        makes: {here}/made
      - script: {here}/draw.py {here}/drawn
  paper: {{cost: much, steps: [{{sweep: ["*.yaml"]}}]}}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "p").mkdir()
    path = tmp_path / "p" / "reproduce.yaml"
    path.write_text(FILE.format(here=tmp_path))
    script = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()"
    (tmp_path / "draw.py").write_text(script)
    return tmp_path


def test_steps_run_in_order_and_are_left_out_where_they_are_done(folder, capfd):
    assert reproduce.run("p", "cpu", folder=folder) == 0
    assert (folder / "drawn").exists()
    out = capfd.readouterr().out
    assert f"$ rlgen ls --out {folder}" in out and "it works (the first)" in out
    (folder / "made").touch()
    assert reproduce.run("p", "cpu", folder=folder) == 0
    assert "made exists" in capfd.readouterr().out


def test_a_failed_step_stops_the_rest(folder, capfd):
    (folder / "draw.py").write_text("raise SystemExit(3)")
    assert reproduce.run("p", "cpu", folder=folder) == 3
    assert "failed; the rest waits" in capfd.readouterr().err


def test_a_dry_run_runs_nothing(folder, capfd):
    assert reproduce.run("p", "paper", folder=folder, dry_run=True) == 0
    assert f"$ rlgen sweep {folder}/p/reproduce.yaml" in capfd.readouterr().out
    assert reproduce.run("p", "cpu", folder=folder, dry_run=True) == 0
    assert not (folder / "drawn").exists()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("claim: it works", "", "says nothing of claim"),
        ("cost: nothing", "price: 3", "needs cost and steps"),
        ("rlgen: ls", "shell: ls", "must be one of rlgen, sweep, script"),
        ("makes:", "made_by:", "must be one of"),
        ('"*.yaml"', '"none.yaml"', "names none.yaml"),
    ],
)
def test_bad_files_end_with_one_sentence(folder, old, new, sentence):
    path = folder / "p" / "reproduce.yaml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=sentence):
        reproduce.papers(folder)


def test_unknown_papers_and_sizes(folder, tmp_path):
    with pytest.raises(UserError, match="choose p"):
        reproduce.run("q", "cpu", folder=folder)
    with pytest.raises(UserError, match="choose cpu, paper"):
        reproduce.run("p", "huge", folder=folder)
    with pytest.raises(UserError, match="in a checkout of rlgen"):
        reproduce.papers(tmp_path / "none")


def test_every_paper_can_be_run_at_its_size(monkeypatch):
    """Scripts exist, verbs parse, and each paper has a README that says how."""
    monkeypatch.chdir(ROOT)
    known = {paper.name: paper for paper in reproduce.papers()}
    assert set(ASKED) <= set(known)
    for paper in known.values():
        readme = (reproduce.FOLDER / paper.name / "README.md").read_text()
        assert f"rlgen reproduce {paper.name}" in readme
        assert "cpu" in paper.sizes
        for size in paper.sizes.values():
            assert size.steps
            for step in size.steps:
                words = shlex.split(step.shown)
                if step.kind == "script":
                    assert Path(words[1]).exists(), step.shown
                elif words[1] == "train":
                    cli.train_config(words[2:])
                else:
                    assert words[1] in cli.VERBS
