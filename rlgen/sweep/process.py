"""One command of `rlgen` in a process of its own."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence

from rlgen.errors import UserError

#: What runs a command of `rlgen` with the Python of this process.
PROGRAM = (sys.executable, "-m", "rlgen.cli")


def call(args: Sequence[str]) -> int:
    """Runs one command of `rlgen`; its exit code."""
    return subprocess.run([*PROGRAM, *args]).returncode


def require(args: Sequence[str]) -> None:
    """Shows and runs one command that what follows needs.

    Raises:
      UserError: it failed.
    """
    shown = f"rlgen {shlex.join(args)}"
    print("$", shown, flush=True)
    if call(args):
        raise UserError(f"`{shown}` failed: mend what it says above and start again.")
