"""A paper's claim in one command: sweeps, then tables and figures.

What it takes stands in `sweeps/papers/<paper>/reproduce.yaml`:

    claim: what the paper says
    figure: the table or figure that says it
    sizes:
      cpu:
        cost: 45 minutes on two cores
        steps:
          - rlgen: collect pointmaze --recording stitch-umaze
            makes: datasets/pointmaze/stitch-umaze-v0   # left out where this exists
          - sweep: [cpu.yaml]                           # files beside it
          - script: analysis/dred.py runs/dred

Every step can be run again: sweeps return at once for what is finished, so a paper that
was interrupted goes on from where it was.
"""

from __future__ import annotations

import dataclasses
import glob
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlgen.config import read_yaml
from rlgen.errors import UserError
from rlgen.sweep import process

FOLDER = Path("sweeps/papers")
_KINDS = ("rlgen", "sweep", "script")


@dataclasses.dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
      kind: "rlgen", "sweep" or "script".
      words: its arguments; of a sweep, its files.
      makes: a path; the step is left out where it exists.
    """

    kind: str
    words: tuple[str, ...]
    makes: str = ""

    @property
    def shown(self) -> str:
        """As one would type it."""
        first = {"rlgen": "rlgen", "sweep": "rlgen sweep", "script": "python"}
        return f"{first[self.kind]} {shlex.join(self.words)}"


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of a paper is run: its cost in words, and its steps."""

    cost: str
    steps: tuple[Step, ...]


@dataclasses.dataclass(frozen=True)
class Paper:
    """What a paper claims, and how that is checked here.

    Attributes:
      name: its folder.
      claim, figure: what it says, and where.
      sizes: by name, "cpu" and "paper".
    """

    name: str
    claim: str
    figure: str
    sizes: dict[str, Size]


def papers(folder: Path = FOLDER) -> list[Paper]:
    """All papers in a folder, by name.

    Raises:
      UserError: there is none here, or a file that does not fit.
    """
    found = sorted(folder.glob("*/reproduce.yaml"))
    if not found:
        raise UserError(
            f"There is no {folder}/*/reproduce.yaml here: run this in a checkout of "
            "rlgen."
        )
    return [read(path) for path in found]


def read(path: Path) -> Paper:
    """What one file says.

    Raises:
      UserError: it lacks something, or names a file that does not exist.
    """
    raw = read_yaml(path)
    for name in ("claim", "figure", "sizes"):
        if not raw.get(name):
            raise UserError(f"{path} says nothing of {name}: add it.")
    sizes = {}
    for name, size in raw["sizes"].items():
        if not isinstance(size, dict) or not {"cost", "steps"} <= set(size):
            raise UserError(f"Size {name} of {path} needs cost and steps.")
        steps = tuple(_step(each, path) for each in size["steps"])
        sizes[str(name)] = Size(str(size["cost"]), steps)
    return Paper(path.parent.name, str(raw["claim"]), str(raw["figure"]), sizes)


def _step(raw: Any, path: Path) -> Step:
    kinds = [kind for kind in _KINDS if isinstance(raw, dict) and kind in raw]
    if len(kinds) != 1 or set(raw) - {*kinds, "makes"}:
        raise UserError(f"A step of {path} must be one of {', '.join(_KINDS)}.")
    (kind,) = kinds
    if kind != "sweep":
        return Step(kind, tuple(shlex.split(raw[kind])), str(raw.get("makes", "")))
    files: list[str] = []
    for pattern in raw[kind]:
        matching = sorted(glob.glob(str(path.parent / pattern)))
        if not matching:
            raise UserError(f"{path} names {pattern}, which is not beside it.")
        files += matching
    return Step(kind, tuple(files))


def show(folder: Path = FOLDER) -> None:
    """Prints every paper with its claim, sizes and costs."""
    for paper in papers(folder):
        print(f"{paper.name}: {paper.claim} ({paper.figure})")
        for name, size in paper.sizes.items():
            print(f"  --size {name:5}  {size.cost}")


def run(
    name: str,
    size: str,
    *,
    sweep_flags: Sequence[str] = (),
    dry_run: bool = False,
    folder: Path = FOLDER,
) -> int:
    """Runs a paper's steps, each in a process of its own; stops at one that fails.

    Args:
      sweep_flags: of `rlgen sweep`, as `--workers 2`.
      dry_run: only print the commands.

    Returns:
      the exit code of the step that failed, or 0.

    Raises:
      UserError: no such paper or size.
    """
    known = {paper.name: paper for paper in papers(folder)}
    if name not in known:
        raise UserError(f"Unknown paper {name}: choose {', '.join(known)}.")
    paper = known[name]
    if size not in paper.sizes:
        raise UserError(f"{name} has no size {size}: choose {', '.join(paper.sizes)}.")
    print(f"{paper.claim} ({paper.figure}); {paper.sizes[size].cost}", flush=True)
    for step in paper.sizes[size].steps:
        if step.makes and Path(step.makes).exists():
            print(f"# {step.makes} exists: {step.shown} is left out", flush=True)
            continue
        print(f"$ {step.shown}", flush=True)
        if dry_run:
            continue
        code = _call(step, sweep_flags)
        if code:
            print(f"rlgen: `{step.shown}` failed; the rest waits.", file=sys.stderr)
            return code
    return 0


def _call(step: Step, sweep_flags: Sequence[str]) -> int:
    if step.kind == "script":
        return subprocess.run([sys.executable, *step.words]).returncode
    if step.kind == "sweep":
        return process.call(["sweep", *step.words, *sweep_flags])
    return process.call(step.words)
