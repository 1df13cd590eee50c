"""One of the processes of a tiny run, for tests: dies or is told to stop if asked.

on_processes.py FOLDER COORDINATOR PROCESSES PROCESS [CHUNK SIGNAL]
"""

from __future__ import annotations

import itertools
import os
import sys

from tiny import TINY_MAZE

from rlgen import cli, programs

SETTINGS = TINY_MAZE | {
    "n_envs": 8,
    "buffer_size": 32,
    "min_fill": 0.1,
    "seeds": 2,
    "n_updates": 12,
    "eval_every": 4,
    "keep_policies": True,
    "checkpoint_every_s": 0.0,
    "progress": False,
    "pictures": False,
}


def flags(folder: str) -> list[str]:
    """Of `rlgen train`."""
    settings = SETTINGS | {"run_dir": folder}
    return ["plr", "--preset", "quick"] + [
        f"--{name.replace('_', '-')}={value}" for name, value in settings.items()
    ]


def signal_at(chunk: int, signum: int) -> None:
    """Sends this process a signal as a chunk begins."""
    original, number = programs.Program.chunk, itertools.count(1)

    def chunk_then_signal(self, states, n_updates):
        if next(number) == chunk:
            os.kill(os.getpid(), signum)
        return original(self, states, n_updates)

    programs.Program.chunk = chunk_then_signal


def main(folder: str, coordinator: str, processes: str, process: str, *signal: str):
    if signal:
        signal_at(*map(int, signal))
    joined = [f"--coordinator={coordinator}", "--devices=2"]
    joined += [f"--processes={processes}", f"--process={process}"]
    return cli.main(["train", *flags(folder), *(joined if int(processes) > 1 else [])])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
