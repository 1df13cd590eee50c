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
    order = [HOST, *(f"horizon {h}" for h in (0, 1, 3, 5)), "horizon 1, concatenated"]
    rank = {name: i for i, name in enumerate(order)}
    scores = scores.sort_values(
        ["host", "level_set", "algorithm"],
        key=lambda c: c.map(rank).fillna(len(order)) if c.name == "algorithm" else c,
    )
    OUT.mkdir(parents=True, exist_ok=True)
    scores.to_csv(OUT / "scores.csv", index=False, float_format="%.4g")
    print(scores.drop(columns="commit").round(3).to_string(index=False))
    panels = {
        f"{host}: {name}": scores[
            (scores["host"] == host) & (scores["level_set"] == name)
        ]
        for host in scores["host"].unique()
        for name in SETS
    }
    n_seeds = int(scores["seeds"].max())
    note = f"0 is random actions, 1 the expert; 95 % over {n_seeds} seeds and levels"
    title = "Compositional conservatism and its ablations"
    print(pictures.interval_panels(panels, OUT / "scores.png", title, note))
    if distances.empty:
        return
    wide = distances.pivot_table(
        index=["host", "algorithm", "level_set"], columns="part", values="distance"
    )[list(PARTS)]
    wide.to_csv(OUT / "distances.csv", float_format="%.4g")
    print(wide.round(2).to_string())
    panels = {
        f"{host}: {part}": pd.DataFrame(
            {"algorithm": own["algorithm"], "point": own["distance"], "low": np.nan}
        )
        for host in distances["host"].unique()
        for part in PARTS
        if len(own := _of(distances, host, part, "extrapolated"))
    }
    note = "squared, over dimensions: 1 is like the data; as met on extrapolated levels"
    title = "Mahalanobis distance to the dataset"
    print(pictures.interval_panels(panels, OUT / "distances.png", title, note))


def _of(distances: pd.DataFrame, host: str, part: str, name: str) -> pd.DataFrame:
    return distances[
        (distances["host"] == host)
        & (distances["part"] == part)
        & (distances["level_set"] == name)
    ]


if __name__ == "__main__":
    sys.exit(exit_code(main))
