"""Pictures of a suite: what one thing costs against the size of each axis."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlgen.evaluation import pictures

Record = Mapping[str, Any]


def draw(records: Sequence[Record], folder: Path, machine: str) -> list[Path]:
    """Draws one picture for each part and axis that has a curve; returns the files.

    Args:
      records: of a suite, with `limit_s` where the machine's rates say one.
      machine: for the title of each picture.
    """
    panels: dict[tuple[str, str], dict[str, list[Record]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for record in records:
        if record["axis"] and "seconds" in record:
            panels[record["part"], record["axis"]][record["name"]].append(record)
    files = []
    for (part, axis), by_name in panels.items():
        if max(len(points) for points in by_name.values()) < 2:
            continue
        unit = next(iter(by_name.values()))[0]["unit"].removesuffix("s")
        name = f"{part}-{axis}".replace(" ", "-")
        files.append(
            pictures.growth_curves(
                {name: _curve(points) for name, points in by_name.items()},
                folder / f"{name}.png",
                x_label=axis,
                y_label=f"microseconds per {unit}",
                title=f"{part}, {machine} (dotted: the machine's limit)",
            )
        )
    return files


def _curve(points: Sequence[Record]) -> tuple[list[int], list[float], list[float]]:
    """Sizes, and microseconds for each thing with its limit."""
    return (
        [point["size"] for point in points],
        [1e6 * point["seconds"] / point["items"] for point in points],
        [1e6 * point.get("limit_s", math.nan) / point["items"] for point in points],
    )
