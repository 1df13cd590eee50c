"""The tables, the figures and the claims of Garcin et al. 2024 from finished runs.

rlgen sweep sweeps/papers/dred/cpu.yaml
python analysis/dred.py runs/dred
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from rlgen import cli, comparison
from rlgen.comparison import Claim
from rlgen.errors import UserError
from rlgen.evaluation import pictures

TITLES = {
    "heldout": "held-out levels (IID)",
    "structures": "held-out structures",
    "lava": "much lava",
    "hints": "few hints",
    "large": "45x45",
    "train": "the given levels",
}
HELD_OUT = tuple(name for name in TITLES if name != "train")
CLAIMS = (
    *(
        Claim(
            f"DRED's return exceeds that of {other}: {TITLES[level_set]}",
            "vae-dred",
            other,
            level_set,
        )
        for other in ("uniform", "plr-d", "robust-plr", "accel")
        for level_set in HELD_OUT
    ),
    Claim(
        "value-loss prioritisation lowers mutual information against uniform",
        "uniform",
        "plr-d",
        "mutual_information",
    ),
    Claim(
        "ACCEL's levels are further from the data than DRED's (divergence of tiles)",
        "accel",
        "vae-dred",
        "tile_divergence",
    ),
)

COSTS = {
    "student_updates": "student updates",
    "env_steps": "environment steps, scoring included",
    "wall_s": "wall time of a seed (s)",
}


def main(folder: str) -> None:
    for done in sorted(Path(folder).glob("*/DONE")):
        # Levels of other sizes are too long to play during training.
        if not list(done.parent.glob("eval/final_seed*.parquet")):
            cli.main(["eval", str(done.parent), "--episodes", "2"])
    runs = comparison.load(folder)
    out = Path(folder) / "figures"
    out.mkdir(exist_ok=True)
    returns = comparison.score_table(runs, "return")
    solved = comparison.score_table(runs, "success")
    measures = comparison.measure_table(runs)
    claims = comparison.check(runs, CLAIMS)
    tables = {
        "return": returns,
        "solve_rate": solved,
        "measures": measures,
        "claims": claims,
    }
    for name, table in tables.items():
        table.to_csv(out / f"{name}.csv", index=False)
        print(f"\n{name}")
        print(table.to_string(index=False, float_format=lambda x: f"{x:.3f}"))

    seeds = min(run.seeds for run in runs.values())
    print(*draw(returns, solved, measures, seeds, out), sep="\n")
    curves = pictures.cost_curves(
        {
            f"mean return: {TITLES[name]}": comparison.curve_table(runs, name)
            for name in HELD_OUT
            if name != "large"
        },
        COSTS,
        out / "curves.png",
        "Cave Escape: zero-shot return against what one seed cost",
        f"{seeds} seeds: mean, and its 95 % interval over seeds",
    )
    print(curves)


def draw(
    returns: pd.DataFrame,
    solved: pd.DataFrame,
    measures: pd.DataFrame,
    seeds: int,
    out: Path,
) -> list[Path]:
    """Figures of the tables: what the claims are about, and all the rest."""

    def on_sets(table: pd.DataFrame, column: str) -> dict[str, pd.DataFrame]:
        of = table.groupby("level_set")
        return {TITLES[n]: _intervals(of.get_group(n), column) for n in HELD_OUT}

    names = list(returns["algorithm"].unique())
    note = f"{seeds} seeds; 95 % intervals over seeds and levels"
    figures = {
        "dred.png": (on_sets(returns, "mean"), "mean return", note),
        "dred-iqm.png": (on_sets(returns, "iqm"), "IQM of returns", note),
        "dred-solved.png": (on_sets(solved, "mean"), "solve rate", note),
        "dred-measures.png": (
            {n.replace("_", " "): _intervals(measures, n) for n in comparison.MEASURES},
            "measures",
            f"{seeds} seeds; 95 % intervals over seeds",
        ),
    }
    return [
        pictures.interval_panels(
            panels,
            out / name,
            f"Cave Escape, zero-shot: {what}",
            note,
            among=names,
            share=what != "measures",
        )
        for name, (panels, what, note) in figures.items()
    ]


def _intervals(table: pd.DataFrame, column: str) -> pd.DataFrame:
    low, high = f"{column}_low", f"{column}_high"
    part = table.reindex(columns=["algorithm", column, low, high])
    part = part.rename(columns={column: "point", low: "low", high: "high"})
    return part.dropna(subset=["point"])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python analysis/dred.py FOLDER_OF_RUNS")
    try:
        main(sys.argv[1])
    except UserError as error:
        sys.exit(str(error))
