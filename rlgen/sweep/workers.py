"""Several commands of `rlgen` side by side, each on cores or a GPU of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Generic, TypeVar

from rlgen.errors import UserError
from rlgen.sweep.process import PROGRAM

JobT = TypeVar("JobT")
_POLL_S = 0.05


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one worker runs.

    Attributes:
      cores: the CPU cores that it may use.
      gpu: the GPU that it sees; empty for all that there are.
    """

    cores: frozenset[int]
    gpu: str = ""


def places(n_workers: int, gpus: Sequence[str] = ()) -> list[Place]:
    """Divides the cores of this process, and GPUs if named, among workers.

    Raises:
      UserError: more workers than cores, or than GPUs.
    """
    cores = sorted(_own_cores())
    n_workers = n_workers or max(1, len(gpus))
    if gpus and n_workers > len(gpus):
        raise UserError(
            f"{n_workers} workers need as many GPUs, but --gpus names {len(gpus)}."
        )
    if n_workers > len(cores):
        raise UserError(
            f"{n_workers} workers are more than {len(cores)} cores: lower --workers."
        )
    # Neighbouring cores share caches: groups are of neighbours.
    ends = [len(cores) * i // n_workers for i in range(n_workers + 1)]
    return [
        Place(frozenset(cores[a:b]), gpus[i] if gpus else "")
        for i, (a, b) in enumerate(itertools.pairwise(ends))
    ]


def _own_cores() -> set[int]:
    try:
        return set(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return set(range(os.cpu_count() or 1))


@dataclasses.dataclass
class _Running(Generic[JobT]):
    job: JobT
    process: subprocess.Popen
    log: IO
    started: float


@dataclasses.dataclass(frozen=True)
class Ended(Generic[JobT]):
    """A job that ended.

    Attributes:
      job: what was started.
      code: its exit code; minus the number of a signal that killed it.
      wall_s: how long it ran.
    """

    job: JobT
    code: int
    wall_s: float


class Workers(Generic[JobT]):
    """As many processes as places. The caller starts jobs and asks which ended."""

    def __init__(self, of: Sequence[Place]):
        self._places = list(of)
        self._running: dict[int, _Running[JobT]] = {}

    @property
    def n_free(self) -> int:
        """How many jobs can start now."""
        return len(self._places) - len(self._running)

    @property
    def running(self) -> list[JobT]:
        """What runs, by place."""
        return [self._running[i].job for i in sorted(self._running)]

    def start(self, job: JobT, args: Sequence[str], log: Path) -> None:
        """Starts `rlgen *args` in the first free place; its output goes to a file."""
        index = next(i for i in range(len(self._places)) if i not in self._running)
        place = self._places[index]
        env = dict(os.environ)
        if place.gpu:
            env["CUDA_VISIBLE_DEVICES"] = place.gpu
        log.parent.mkdir(parents=True, exist_ok=True)
        file = log.open("wb")
        process = subprocess.Popen(
            [*PROGRAM, *args],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=env,
            # Ctrl-C reaches the whole terminal; only we pass it on, once.
            start_new_session=True,
        )
        if len(self._places) > 1 and hasattr(os, "sched_setaffinity"):
            # Threads inherit it: Python has not started any yet.
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, place.cores)
        self._running[index] = _Running(job, process, file, time.monotonic())

    def wait(self, timeout_s: float) -> list[Ended[JobT]]:
        """The jobs that ended, as soon as there is one, or when the time is over."""
        deadline = time.monotonic() + timeout_s
        while True:
            ended = []
            for index, each in list(self._running.items()):
                code = each.process.poll()
                if code is not None:
                    each.log.close()
                    del self._running[index]
                    wall_s = time.monotonic() - each.started
                    ended.append(Ended(each.job, code, wall_s))
            if ended or time.monotonic() >= deadline:
                return ended
            time.sleep(_POLL_S)

    def signal(self, signum: int) -> None:
        """Sends a signal to all that runs."""
        for each in self._running.values():
            if each.process.poll() is None:
                each.process.send_signal(signum)

    def stop(self, patience_s: float) -> None:
        """Asks all to save and end; kills those that have not after a while."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + patience_s
        while self._running and time.monotonic() < deadline:
            self.wait(0.5)
        self.signal(signal.SIGKILL)
        while self._running:
            self.wait(1.0)
