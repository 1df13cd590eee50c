"""Notebooks run from the first cell to the last, and are committed without output."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ANALYSIS = Path(__file__).parents[1] / "analysis"
NOTEBOOKS = sorted(ANALYSIS.glob("*.ipynb"))


def test_there_are_four():
    assert len(NOTEBOOKS) >= 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path):
    book = nbformat.read(path, as_version=4)
    NotebookClient(
        book, timeout=600, resources={"metadata": {"path": str(ANALYSIS)}}
    ).execute()
    shown = [out for cell in book.cells for out in cell.get("outputs", [])]
    assert shown and not any(out.output_type == "error" for out in shown)
