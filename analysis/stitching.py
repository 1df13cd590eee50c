"""Stitching on point mazes (Ghugare et al. 2024): pairs of start and goal that no
episode connects, with and without temporal data augmentation.

python analysis/stitching.py make                    # recordings, in datasets/pointmaze
rlgen sweep sweeps/papers/stitching/cpu.yaml         # both, 5 seeds on each
python analysis/stitching.py figure runs/stitching   # table and figure
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from rlgen import reports, training
from rlgen.errors import UserError, exit_code
from rlgen.evaluation import pictures, statistics
from rlgen.sweep import process

MAZES = ("umaze", "medium", "large", "levels")
#: Where several layouts are recorded, the agent must see which one it is in.
SETTINGS = {"levels": ("--view", "all")}
PAIRS = ("seen pairs", "unseen pairs")


def make(transitions: int, out: str) -> None:
    """Records every maze that is not recorded yet."""
    for maze in MAZES:
        if (Path(out) / "pointmaze" / f"stitch-{maze}-v0").exists():
            continue
        command = ["collect", "pointmaze", "--recording", f"stitch-{maze}"]
        command += ["--out", out, "--transitions", str(transitions)]
        process.require([*command, *SETTINGS.get(maze, ())])


def read(folder: str | Path) -> pd.DataFrame:
    """Success of the finished runs in a folder, one row per run and kind of pairs.

    Raises:
      UserError: no run is finished.
    """
    rows = []
    for config, store in training.finished_runs(folder):
        episodes = reports.last_evaluation(store)
        for pairs in PAIRS:
            part = episodes[episodes["level_set"] == pairs]
            if part.empty:
                raise UserError(f"{store.path} was not evaluated on {pairs}.")
            rates = reports.solve_rates(part)
            mean = statistics.interval_on_set(rates, pairs, np.mean)
            rows.append(
                {
                    "maze": Path(config.algo.data).name.split("-")[1],
                    "algorithm": config.algorithm,
                    "pairs": pairs,
                    "n_pairs": rates.shape[1],
                    "seeds": rates.shape[0],
                    "episodes": len(part),
                    "point": mean.point,
                    "low": mean.low,
                    "high": mean.high,
                    "gradient_steps": config.run.n_updates
                    * config.algo.steps_per_update,
                }
                | reports.cost_and_commit(store)
            )
    return pd.DataFrame(rows)


def figure(folder: str, out: str) -> None:
    """Writes the table and the figure; prints the table."""
    table = read(folder)
    order = {maze: i for i, maze in enumerate(MAZES)}
    table = table.sort_values(
        ["maze", "pairs", "algorithm"],
        key=lambda c: c.map(order) if c.name == "maze" else c,
    )
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    table.to_csv(place / "stitching.csv", index=False, float_format="%.4g")
    path = draw(table, place / "stitching.png")
    print(table.to_string(index=False))
    print(path)


def draw(table: pd.DataFrame, path: Path) -> Path:
    """The figure of a table of `read`."""
    panels = {
        f"{maze}, {pairs} ({int(part['n_pairs'].iloc[0])})": part
        for pairs in PAIRS
        for maze in MAZES
        if len(part := table[(table["maze"] == maze) & (table["pairs"] == pairs)])
    }
    title = "Pairs that share an episode, and none"
    note = f"Success; mean over pairs, 95 % over {table['seeds'].max()} seeds."
    return pictures.interval_panels(panels, path, title, note, share=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("make")
    making.add_argument("--transitions", type=int, default=100_000)
    making.add_argument("--out", default="datasets")
    drawing = verbs.add_parser("figure")
    drawing.add_argument("folder")
    drawing.add_argument("--out", default="analysis/stitching")
    options = parser.parse_args()
    if options.verb == "make":
        make(options.transitions, options.out)
    else:
        figure(options.folder, options.out)


if __name__ == "__main__":
    sys.exit(exit_code(main))
