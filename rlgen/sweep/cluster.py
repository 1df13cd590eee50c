"""Sweeps on a cluster through submitit: one job per cell, requeued until it is done."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from rlgen.errors import UserError
from rlgen.sweep import local, schema
from rlgen.sweep.cells import Flags
from rlgen.sweep.process import PROGRAM

_POLL_S = 0.5
# What submitit allows itself, when nothing else is said.
_DEFAULTS: dict[str, Any] = {"timeout_min": 240, "cpus_per_task": 8}
# How often a job may reach its time limit and go on: as often as it takes.
_MAX_TIMEOUTS = 1000


class TrainCell:
    """What a job runs: `rlgen train` in a process of its own.

    Before a job is preempted or reaches its time limit the cluster warns it: the cell
    saves a checkpoint, and the job is queued again and goes on from there.
    """

    def __init__(self, args: Sequence[str]):
        self.args = list(args)
        self._process: subprocess.Popen | None = None

    def __call__(self) -> None:
        """Trains to the end.

        Raises:
          RuntimeError: it failed; what it said is in the job's output.
        """
        self._process = subprocess.Popen([sys.executable, *PROGRAM[1:], *self.args])
        # Not `wait`: a signal may come while that holds its lock.
        while (code := self._process.poll()) is None:
            time.sleep(_POLL_S)
        if code:
            shown = f"rlgen {shlex.join(self.args)}"
            raise RuntimeError(f"`{shown}` ended with exit code {code}.")

    def checkpoint(self) -> Any:
        """Called by submitit in the signal handler: saves, then asks to be requeued."""
        import submitit

        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            # Waits without taking the exit code away from `poll`.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(TrainCell(self.args))


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Options of the cluster, `name=value`: numbers become numbers.

    Raises:
      UserError: a word without `=`.
    """
    options: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word} is no option of a cluster: write NAME=VALUE.")
        options[name] = int(value) if value.isdecimal() else value
    return options


def submit(
    paths: Sequence[str],
    flags: Flags,
    options: dict[str, Any] | None = None,
    cluster: str = "slurm",
) -> list[Any]:
    """Submits a job for every cell that is not finished; returns submitit's jobs.

    Args:
      flags: settings above those of the files.
      options: of submitit's executor: timeout_min, gpus_per_node, slurm_partition, ...
      cluster: "slurm", or "local" to try without one.

    Raises:
      UserError: submitit or the cluster is missing, an unknown option, or a search.
    """
    try:
        import submitit
    except ImportError:
        raise UserError("Clusters need submitit: install rlgen[sweeps].") from None
    sweeps = [schema.read(path) for path in paths]
    for sweep in sweeps:
        if sweep.method != "grid":
            raise UserError(
                f"{sweep.path} is a search: run it here, or by `wandb agent` in jobs."
            )
    cells = local.plan(paths, flags)
    folder = local.folder_of(cells[0].config.run.out, sweeps, flags) / "jobs"
    try:
        executor = submitit.AutoExecutor(
            folder=folder, cluster=cluster, slurm_max_num_timeout=_MAX_TIMEOUTS
        )
        executor.update_parameters(**_DEFAULTS | {"name": "rlgen"} | (options or {}))
    except (RuntimeError, NameError, ValueError, TypeError) as error:
        line = str(error).splitlines()[0]
        raise UserError(f"Cannot submit to {cluster}: {line}") from None
    waiting = [cell for cell in cells if not cell.store.is_done]
    print(f"{len(cells) - len(waiting)} of {len(cells)} cells are finished")
    if not waiting:
        return []
    commands = [[*cell.command, "--progress=False"] for cell in waiting]
    with executor.batch():
        jobs = [executor.submit(TrainCell(command)) for command in commands]
    for job, cell in zip(jobs, waiting, strict=True):
        print(f"job {job.job_id}  {cell.store.path}")
    print(f"what they say is in {folder}; the same command submits what is left")
    return jobs
