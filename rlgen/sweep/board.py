"""What is shown while a sweep runs: counts, and how far each worker's cell is."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from rlgen.sweep.cells import Cell

# Bytes at the end of metrics.jsonl that hold its last row.
_TAIL = 64 * 1024


def progress(cell: Cell) -> tuple[int, int]:
    """Updates done, by the last row that its run wrote, and updates in all."""
    total = cell.config.run.n_updates
    try:
        with cell.store.metrics_path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            lines = file.read().splitlines()
        return int(json.loads(lines[-1])["update"]), total
    except (OSError, IndexError, ValueError, KeyError):  # none yet, or half a row
        return 0, total


class Board:
    """A table that is redrawn on a terminal; elsewhere a line for every cell."""

    def __init__(self, n_cells: int | None):
        self._n_cells = n_cells
        self._console = Console(stderr=True)
        self._live: Live | None = None

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def line(self, text: str) -> None:
        """Says something that stays."""
        if self._live:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def show(self, running: Sequence[tuple[int, Cell]], counts: dict[str, int]) -> None:
        """Redraws: cells that run with their numbers, and counts by status."""
        if not self._live:
            return
        table = Table(
            title=", ".join(f"{n} {status}" for status, n in counts.items() if n)
            + (f", of {self._n_cells}" if self._n_cells else ""),
            title_justify="left",
        )
        for column in ("cell", "run", "update"):
            table.add_column(column)
        for number, cell in running:
            done, total = progress(cell)
            table.add_row(str(number), cell.store.path.name, f"{done:,} of {total:,}")
        self._live.update(table, refresh=True)
