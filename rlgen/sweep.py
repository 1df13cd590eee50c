"""Sweeps in wandb's own schema, run here without any server: `rlgen sweep FILE`.

The same file runs under `wandb sweep FILE` and `wandb agent`. Every cell is one
`rlgen train` in a process of its own; a finished cell returns at once and a half
finished one goes on, because its run directory is named after its settings.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlgen import config as configs
from rlgen.errors import UserError

_KNOWN = {"name", "description", "program", "method", "metric", "parameters", "command"}


def cells(path: str | Path) -> list[dict[str, Any]]:
    """All combinations of a grid sweep's values, the last parameter varying fastest.

    Raises:
      UserError: no such file, not a grid, or a parameter without value or values.
    """
    sweep = configs.read_yaml(str(path))
    unknown = sorted(set(sweep) - _KNOWN)
    if unknown:
        raise UserError(f"{path} has the unknown key {unknown[0]}: leave it out.")
    if sweep.get("method") != "grid":
        raise UserError(
            f"{path} asks for method {sweep.get('method')}: only grid runs here, use "
            "`wandb agent` for others."
        )
    values = {}
    for name, spec in sweep.get("parameters", {}).items():
        if not isinstance(spec, dict) or not {"value", "values"} & set(spec):
            raise UserError(f"Parameter {name} of {path} needs a value or values.")
        values[name] = spec.get("values", [spec.get("value")])
    if "algorithm" not in values:
        raise UserError(f"{path} names no algorithm: add it to the parameters.")
    return [
        dict(zip(values, combination, strict=True))
        for combination in itertools.product(*values.values())
    ]


def command(cell: dict[str, Any], flags: Sequence[str] = ()) -> list[str]:
    """The arguments of `rlgen` that run one cell."""
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in cell.items()]
    return ["train", *settings, *flags]


def call(args: Sequence[str]) -> int:
    """Runs one command of `rlgen` in a process of its own; its exit code."""
    return subprocess.run([sys.executable, "-m", "rlgen.cli", *args]).returncode


def require(args: Sequence[str]) -> None:
    """Shows and runs one command that what follows needs.

    Raises:
      UserError: it failed.
    """
    shown = f"rlgen {' '.join(args)}"
    print("$", shown, flush=True)
    if call(args):
        raise UserError(f"`{shown}` failed: mend what it says above and start again.")


def run(path: str | Path, flags: Sequence[str] = (), *, dry_run: bool = False) -> int:
    """Runs all cells, one after another; a failed one does not stop the others.

    Args:
      flags: further flags of `rlgen train`, above those of the file.
      dry_run: only print the commands.

    Returns:
      0 if every cell finished, else 1.
    """
    commands = [command(cell, flags) for cell in cells(path)]
    failed = []
    for i, args in enumerate(commands):
        print(f"[{i + 1}/{len(commands)}] rlgen {' '.join(args)}", flush=True)
        if dry_run:
            continue
        code = call(args)
        if code < 0 or code > 128:  # a signal: whoever sent it means all of us
            return code if code > 0 else 128 - code
        if code:
            failed.append(args)
    for args in failed:
        print(f"failed: rlgen {' '.join(args)}", file=sys.stderr)
    return 1 if failed else 0
