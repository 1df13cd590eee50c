"""Sweeps on this machine: all cells, several side by side, on from where they were."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlgen import config as configs
from rlgen import runner
from rlgen.errors import BUSY, UserError
from rlgen.files import Lock
from rlgen.sweep import cells, schema, search, workers
from rlgen.sweep.board import Board
from rlgen.sweep.cells import Cell, Flags
from rlgen.sweep.schema import Sweep

# How often the table is redrawn and signals are looked at, and how long cells that
# another process trains are left alone.
_TICK_S, _BUSY_S = 1.0, 5.0
# What a cell that was asked to stop may take to save.
_PATIENCE_S = 120.0


def plan(paths: Sequence[str | Path], flags: Flags) -> list[Cell]:
    """The cells of grids, in order; a run that two files share appears once.

    Raises:
      UserError: a file that does not fit, or two cells with one run directory.
    """
    found = []
    for path in paths:
        sweep = schema.read(path)
        for settings in schema.combinations(sweep):
            found.append((str(path), _cell(sweep, settings, flags)))
    return cells.distinct(found)


def _cell(sweep: Sweep, settings: dict[str, Any], flags: Flags) -> Cell:
    """The cell of some of a sweep's parameters: command line, file, its command."""
    below = {name: v for name, v in sweep.flags.items() if name not in settings}
    above = {**below, **sweep.last_flags, **flags}
    return cells.make(settings, str(sweep.path), above)


def _proposal(sweep: Sweep, flags: Flags) -> Cell:
    """The first cell of a search, all of whose values fit, each on its own.

    Raises:
      UserError: one does not.
    """
    first = search.propose(sweep, [])
    for name, spec in sweep.parameters.items():
        values = spec.get("values", [spec[at] for at in ("min", "max") if at in spec])
        if spec.get("distribution") in schema.LOG_OF_EXPONENTS:
            continue  # they are of e
        for value in values:
            _cell(sweep, first | {name: value}, flags)
    return _cell(sweep, first, flags)


def list_cells(paths: Sequence[str], flags: Flags) -> None:
    """Prints what would run: hash, whether it is finished, directory and command."""
    sweeps = [schema.read(path) for path in paths]
    grids = [sweep.path for sweep in sweeps if sweep.method == "grid"]
    for cell in plan(grids, flags):
        path = cell.store.path
        status = "done" if cell.store.is_done else "begun" if path.exists() else "new"
        print(f"{cell.digest}  {status:5}  {path}  {cell.shown}")
    for sweep in sweeps:
        if sweep.method != "grid":
            first = _proposal(sweep, flags)
            print(
                f"{sweep.path}: {sweep.run_cap} cells by {sweep.method} search, the "
                f"first of them\n{first.digest}  {first.shown}"
            )


def run(paths: Sequence[str], flags: Flags, n_workers: int, gpus: Sequence[str]) -> int:
    """Runs all cells; one that fails does not stop the others.

    Args:
      flags: settings above those of the files.
      n_workers: processes side by side, each on its share of the cores; 0 for one, or
        one per GPU.
      gpus: GPUs, one for each worker.

    Returns:
      0 if every cell is finished, 1 if one failed, 128 + the signal that stopped it.

    Raises:
      UserError: a file that does not fit, or the sweep runs elsewhere already.
    """
    places = workers.places(n_workers, gpus)
    sweeps = [schema.read(path) for path in paths]
    searches = [sweep for sweep in sweeps if sweep.method != "grid"]
    if searches and len(sweeps) > 1:
        raise UserError(f"{searches[0].path} is a search: run it alone.")
    if searches:
        return _search(searches[0], flags, places)
    grid = plan(paths, flags)
    folder = folder_of(grid[0].config.run.out, sweeps, flags)
    with Lock(folder / "lock", f"The sweep {folder}"):
        code = _Sweep(iter(grid), len(grid), folder, places).run()
    if code in (0, 1):
        for sweep in sweeps:
            _print_best(sweep, plan([sweep.path], flags) if sweep.metric else [])
    return code


def folder_of(out: str, sweeps: Sequence[Sweep], flags: Flags) -> Path:
    """Where what a sweep says is kept: named after what it asks for."""
    asked = [[s.method, s.parameters, s.metric, s.flags, s.last_flags] for s in sweeps]
    text = json.dumps([asked, flags], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return Path(out) / "sweeps" / f"{sweeps[0].name}-{digest}"


def _search(sweep: Sweep, flags: Flags, places: list[workers.Place]) -> int:
    first = _proposal(sweep, flags)
    if split := _test_split(sweep, first):
        raise UserError(
            f"{sweep.path} would choose by levels of the {split} split: add "
            "`eval_split: {value: validation}`."
        )
    folder = folder_of(first.config.run.out, [sweep], flags)
    with Lock(folder / "lock", f"The sweep {folder}"):
        proposals = search.Proposals(folder / "proposals.json")
        made = _proposed(sweep, flags, proposals)
        code = _Sweep(made, sweep.run_cap, folder, places).run()
    if code in (0, 1):
        _print_best(sweep, [cell for cell, _ in _trials(sweep, flags, proposals)])
    return code


def _test_split(sweep: Sweep, cell: Cell) -> str:
    """The split that a sweep would choose by, if it is not validation.

    What is chosen by levels of the test split says nothing about unseen levels.
    """
    split = configs.flatten(cell.config).get("eval_split", "validation")
    by_levels = sweep.metric.get("name", "").startswith("eval_")
    return split if by_levels and split != "validation" else ""


def _trials(
    sweep: Sweep, flags: Flags, proposals: search.Proposals
) -> list[tuple[Cell, search.Trial]]:
    made = [_cell(sweep, each, flags) for each in proposals.settings]
    return [
        (cell, search.Trial(settings, search.result(sweep, cell.store)))
        for cell, settings in zip(made, proposals.settings, strict=True)
    ]


def _proposed(
    sweep: Sweep, flags: Flags, proposals: search.Proposals
) -> Iterator[Cell]:
    """The cells of a search, those of earlier calls first, each once."""
    assert sweep.run_cap is not None
    seen = set()
    for i in range(sweep.run_cap):
        if i == len(proposals.settings):
            trials = [trial for _, trial in _trials(sweep, flags, proposals)]
            proposals.add(search.propose(sweep, trials))
        cell = _cell(sweep, proposals.settings[i], flags)
        if cell.store.path not in seen:  # few values: a search may come back to one
            seen.add(cell.store.path)
            yield cell


def _print_best(sweep: Sweep, made: Sequence[Cell]) -> None:
    """Names the best of a sweep's cells, if it says what is better."""
    if not sweep.metric:
        return
    name, goal = sweep.metric["name"], sweep.metric.get("goal")
    if goal is None:
        print(f"{sweep.path} says no goal of {name}: no cell is called the best.")
        return
    if split := _test_split(sweep, made[0]):
        print(f"{sweep.path} plays levels of the {split} split: no cell is chosen.")
        return
    sign = -1.0 if goal == "maximize" else 1.0
    results = [search.result(sweep, cell.store) for cell in made]
    known = [(sign * r, i, r) for i, r in enumerate(results) if r is not None]
    if known:
        _, i, best = min(known)
        print(f"best {name}: {best:.4g} of {made[i].store.path}")
        print(made[i].shown)


@dataclasses.dataclass(frozen=True)
class _Job:
    number: int
    cell: Cell


class _Sweep:
    """The host's side of one call."""

    def __init__(
        self,
        made: Iterator[Cell],
        n_cells: int | None,
        folder: Path,
        places: Sequence[workers.Place],
    ):
        self.waiting = (_Job(i, cell) for i, cell in enumerate(made, 1))
        self.n_cells = n_cells
        self.folder = folder
        self.workers: workers.Workers[_Job] = workers.Workers(places)
        self.busy: deque[_Job] = deque()
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def run(self) -> int:
        with runner.catch_signals() as stop_signal, Board(self.n_cells) as board:
            try:
                signum = self._loop(board, stop_signal)
            except BaseException:
                self.workers.stop(_PATIENCE_S)
                raise
            if signum:
                board.line("saving what runs; the same command goes on from there")
                self.workers.stop(_PATIENCE_S)
        if signum:
            return 128 + signum
        for text in self.failures:
            print(text, file=sys.stderr)
        summary = ", ".join(f"{n} {status}" for status, n in self.counts.items())
        print(
            f"{summary}; what they said is in {self.folder / 'logs'}", file=sys.stderr
        )
        return 1 if self.failures else 0

    def _loop(self, board: Board, stop_signal: Any) -> int | None:
        more = True
        while True:
            if signum := stop_signal():
                return signum
            while more and self.workers.n_free:
                job = next(self.waiting, None)
                more = job is not None
                if job is None:
                    break
                if job.cell.store.is_done:
                    self._end(board, job, "finished before")
                else:
                    self._start(board, job)
            if not more and self.busy and self.workers.n_free:
                self._start(board, self.busy.popleft())
            if not more and not self.workers.running and not self.busy:
                return None
            board.show([(j.number, j.cell) for j in self.workers.running], self.counts)
            for ended in self.workers.wait(_TICK_S):
                self._ended(board, ended)

    def _start(self, board: Board, job: _Job) -> None:
        command = [*job.cell.command, "--progress=False"]
        self.workers.start(job, command, self._log(job))
        of = f"/{self.n_cells}" if self.n_cells else ""
        board.line(f"[{job.number}{of}] {job.cell.shown}")

    def _log(self, job: _Job) -> Path:
        return self.folder / "logs" / f"{job.cell.store.path.name}.log"

    def _ended(self, board: Board, ended: workers.Ended[_Job]) -> None:
        job, code = ended.job, ended.code
        if code == BUSY:
            # Another process trains it; when that one ends, so will this.
            if job not in self.busy:
                board.line(f"[{job.number}] is being trained elsewhere: waiting for it")
            time.sleep(_BUSY_S)
            self.busy.append(job)
        elif code == 0 and job.cell.store.is_done:
            self._end(board, job, "finished", f" in {ended.wall_s:.0f} s")
        else:
            how = f"ended with exit code {code}"
            if code < 0 or code > 128:
                signum = -code if code < 0 else code - 128
                how = f"was stopped by {signal.Signals(signum).name}"
            text = f"failed: {job.cell.store.path} {how}: {self._last_line(job)}"
            self.failures.append(text)
            self._end(board, job, "failed", f": {text}")

    def _end(self, board: Board, job: _Job, status: str, more: str = "") -> None:
        self.counts[status] += 1
        of = f"/{self.n_cells}" if self.n_cells else ""
        board.line(f"[{job.number}{of}] {status}{more}")

    def _last_line(self, job: _Job) -> str:
        lines = self._log(job).read_text(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1] if said else "it said nothing"
