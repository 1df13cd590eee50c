"""Compositional conservatism (COCOA, Song et al. 2024) and its ablations, on levels
that the dataset lacks.

python analysis/offline_gap.py make       # behaviour and datasets
rlgen sweep sweeps/papers/cocoa/cpu-*.yaml
python analysis/cocoa.py runs/cocoa       # tables and figures
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlgen import reports, training
from rlgen.errors import UserError, exit_code
from rlgen.evaluation import pictures, statistics

OUT = Path("analysis/cocoa")
SETS = ("train", "heldout", "extrapolated")
PARTS = ("state", "anchor", "difference")
HOST = "host alone"
#: What figures show, from the host to the furthest from it.
ORDER = (
    HOST,
    *(f"horizon {horizon}" for horizon in (0, 1, 3, 5)),
    "horizon 1, concatenated",
    *(f"{anchors} anchors" for anchors in ("random", "nearest", "nearest-difference")),
)


def variant(config: Any) -> str:
    """What distinguishes a run from others of its host."""
    algo = config.algo
    if not algo.cocoa:
        return HOST
    if algo.transduction.product == "concat":
        return "horizon 1, concatenated"
    if algo.anchor.anchors != "seeker":
        return f"{algo.anchor.anchors} anchors"
    return f"horizon {algo.anchor.horizon}"


def read(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores, and squared Mahalanobis distances over dimensions, by run and level set.

    Raises:
      UserError: no run is finished.
    """
    scores, distances, data = [], [], None
    for config, store in training.finished_runs(folder):
        data = data or config.algo.data
        last = reports.with_scores(reports.last_evaluation(store), config)
        about = {"host": config.algorithm, "algorithm": variant(config)}
        if config.algo.data != data:
            raise UserError(f"Runs in {folder} are of several datasets: keep one.")
        metrics = store.read_metrics()
        metrics = metrics[metrics["kind"] == "eval"]
        metrics = metrics[metrics["update"] == metrics["update"].max()]
        for name in SETS:
            x = reports.level_means(last[last["level_set"] == name], "score")
            mean = statistics.interval_on_set(x, name, np.mean)
            scores.append(
                about
                | {"level_set": name, **mean._asdict()}
                | {"seeds": x.shape[0], "levels": x.shape[1]}
                | reports.cost_and_commit(store)
            )
            for part in PARTS:
                column = f"mahalanobis_{part}_{name}"
                if column in metrics:
                    value = metrics[column].mean()
                    row = {"level_set": name, "part": part, "distance": value}
                    distances.append(about | row)
    return pd.DataFrame(scores), pd.DataFrame(distances)


def main() -> None:
    """Writes tables and figures; prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    scores, distances = read(parser.parse_args().folder)
    scores = _in_order(scores)
    OUT.mkdir(parents=True, exist_ok=True)
    scores.to_csv(OUT / "scores.csv", index=False, float_format="%.4g")
    print(scores.drop(columns="commit").round(3).to_string(index=False))
    print(draw_scores(scores))
    if distances.empty:
        return
    wide = distances.pivot_table(
        index=["host", "algorithm", "level_set"], columns="part", values="distance"
    )[list(PARTS)]
    wide.to_csv(OUT / "distances.csv", float_format="%.4g")
    print(wide.round(2).to_string())
    print(draw_distances(wide.reset_index()))


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of what is varied, which names alone do not have."""
    rank = {name: i for i, name in enumerate(ORDER)}
    return table.sort_values(
        [c for c in ("host", "level_set", "algorithm") if c in table],
        key=lambda c: c.map(rank).fillna(len(rank)) if c.name == "algorithm" else c,
        kind="stable",
    )


def draw_scores(scores: pd.DataFrame) -> Path:
    """The figure of the table of scores."""
    panels = {
        f"{host}: {name}": _in_order(part)
        for host in scores["host"].unique()
        for name in SETS
        if len(part := scores[(scores[["host", "level_set"]] == [host, name]).all(1)])
    }
    n_seeds = int(scores["seeds"].max())
    note = f"0 is random actions, 1 the behaviour; 95 % over {n_seeds} seeds and levels"
    title = "Compositional conservatism and its ablations"
    path = OUT / "scores.png"
    return pictures.interval_panels(panels, path, title, note, among=ORDER, share=True)


def draw_distances(distances: pd.DataFrame) -> Path:
    """The figure of the table of distances, on extrapolated levels."""
    met = _in_order(distances[distances["level_set"] == "extrapolated"])
    panels = {
        f"{host}: {part}": own.assign(point=own[part], low=np.nan, high=np.nan).dropna(
            subset=["point"]
        )
        for host in met["host"].unique()
        for part in PARTS
        if len(own := met[met["host"] == host])
    }
    note = "squared, over dimensions: 1 is like the data; as met on extrapolated levels"
    title = "Mahalanobis distance to the dataset"
    path = OUT / "distances.png"
    return pictures.interval_panels(panels, path, title, note, among=ORDER)


if __name__ == "__main__":
    sys.exit(exit_code(main))
