"""GROOVE with static sets (Jackson et al. 2023, figure 3): a rule learned on the k
levels of highest algorithmic regret, against k random ones.

rlgen train lpg --preset quick --run-dir runs/lpg       # the rule that ranks levels
python analysis/static_sets.py make runs/lpg           # level sets, in runs/static-sets
rlgen sweep sweeps/papers/groove/static-cpu.yaml       # a rule on each
python analysis/static_sets.py figure runs/static      # table and figure
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from rlgen import meta_suite, runs
from rlgen.algos import rule_library
from rlgen.algos.meta import meta_test
from rlgen.env import take
from rlgen.errors import UserError
from rlgen.evaluation import pictures
from rlgen.levels import LevelSet

SIZES = (4, 16, 64)
POOLS = ("a", "b")
N_LEVELS = 1024
FOLDER = Path("runs/static-sets")


def make(rule_name: str) -> None:
    """Ranks two pools of training levels by regret; saves the first and random ones."""
    grids = meta_suite.TESTS["grids"]()
    rule, a2c = rule_library.find(rule_name), rule_library.find("a2c")
    space = meta_suite.small_grids().make_space()
    for seed, pool in enumerate(POOLS):
        levels = LevelSet.generate(space, N_LEVELS, seed=100 + seed, split="train")
        test = dataclasses.replace(grids, test=levels)
        regret = meta_test.algorithmic_regret(test, rule, a2c, seed, n_runs=3)
        order = {
            "top": np.argsort(-regret, kind="stable"),
            "random": np.arange(N_LEVELS),  # as they were drawn
        }
        # What chose levels flatters them: what is reported is measured anew.
        again = meta_test.algorithmic_regret(test, rule, a2c, 10 + seed, n_runs=3)
        print(f"pool {pool}: regret {again.mean():.3f} on average")
        for kind, rows in order.items():
            for size in SIZES:
                kept = rows[:size]
                chosen = LevelSet.from_levels(
                    space,
                    take(jax.tree.map(np.asarray, levels.levels), kept),
                    name=f"{kind}-{size}-{pool}",
                    split="train",
                    provenance={
                        "rule": rule_name,
                        "mean_regret": float(again[kept].mean()),
                        "pool": dict(levels.provenance),
                    },
                )
                path = chosen.save(FOLDER / chosen.name)
                print(f"{path}: regret {again[kept].mean():.3f}, measured anew")


def figure(folder: str) -> None:
    """Held-out return of rules by the set that they were learned on."""
    rows = []
    for run in runs.finished(folder):
        kind, size, pool = Path(run.settings["dataset"]).stem.split("-")
        part = run.episodes[run.episodes["level_set"] == "heldout"]
        for seed, own in part.groupby("seed"):
            rows.append(
                {
                    "kind": kind,
                    "size": int(size),
                    "pool": pool,
                    "seed": seed,
                    "return": own["return"].mean(),
                }
            )
    table = pd.DataFrame(rows)
    # Meta-seeds of a set share its levels: a set is one run of the comparison.
    by_set = table.groupby(["kind", "size", "pool"], as_index=False).agg(
        mean=("return", "mean"),
        low=("return", "min"),
        high=("return", "max"),
        seeds=("return", "size"),
    )
    print(by_set.to_string(index=False, float_format="%.3f"))
    out = Path("analysis/static_sets")
    out.mkdir(parents=True, exist_ok=True)
    by_set.to_csv(out / "return.csv", index=False, float_format="%.6g")
    print(draw(by_set, out))


def draw(by_set: pd.DataFrame, out: Path) -> Path:
    """The figure of the table: a set of each pool counts as much as its meta-seeds."""
    total = by_set.assign(total=by_set["mean"] * by_set["seeds"])
    over = total.groupby(["kind", "size"]).agg(
        total=("total", "sum"), n=("seeds", "sum"), low=("low", "min"),
        high=("high", "max"),
    )  # fmt: skip
    lines = {}
    for kind, own in over.reset_index("size").groupby("kind"):
        ends = own["low"].to_numpy(), own["high"].to_numpy()
        point = (own["total"] / own["n"]).to_numpy()
        lines[str(kind)] = pictures.Line(own["size"].to_numpy(float), point, *ends)
    title = "Held-out return"
    return pictures.line_panels(
        {title: lines},
        out / "static_sets.png",
        "LPG learned on static sets of levels",
        x_label={title: "number of levels"},
        note="mean and range over pools of levels and meta-seeds",
        sizes=True,
    )


def main() -> int:
    """Parses the command."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("make", "figure"):
        raise UserError("Say `make RULE` or `figure RUNS`.")
    (make if sys.argv[1] == "make" else figure)(sys.argv[2])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"static_sets: {error}", file=sys.stderr)
        sys.exit(2)
