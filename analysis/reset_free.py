"""Practice without resets, rewarded by a learned success classifier (after RoboFuME,
Yang et al. 2023), and its ablations.

rlgen collect tabletop --recording demonstrations
rlgen sweep sweeps/papers/robofume/cpu-*.yaml
python analysis/reset_free.py runs/robofume       # tables and figures
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlgen import reports, training
from rlgen.errors import exit_code
from rlgen.evaluation import pictures, statistics

OUT = Path("analysis/reset_free")
SETS = ("target", "target back", "heldout", "heldout back")
#: How often the classifier is wrong: on recorded states that it never saw, and on those
#: that practice meets.
WRONG = {
    "adapted_false_positives": "recorded states: false positives",
    "adapted_false_negatives": "recorded states: false negatives",
    "adapted_target_false_positives": "of the target: false positives",
    "adapted_target_false_negatives": "of the target: false negatives",
    "online_false_positives": "in practice: false positives",
    "online_false_negatives": "in practice: false negatives",
    "false_claims": "in practice: claims that are false",
}
FULL = "classifier"


def variant(config: Any) -> str:
    """What distinguishes a run from others."""
    algo = config.algo
    if config.algorithm == "bc":
        return "cloning" if algo.best_share == 1.0 else "cloning of successes"
    if algo.reward == "truth":
        return "the truth"
    if algo.practice.episodic:
        return "resets each time"
    if not algo.agent.calibrated:
        return "CQL"
    if not algo.prior_data:
        return "no prior tasks"
    if not algo.classifier.classifier_prior:
        return "classifier: target only"
    if algo.classifier.max_false_positives > 0.1:
        return "classifier: unbounded"
    return FULL


def read(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Success before and after practice, errors of classifiers, and success by seed.

    Raises:
      UserError: no run is finished, or two are alike.
    """
    rows, wrong, means = [], [], []
    seen: dict[str, Path] = {}
    for config, store in training.finished_runs(folder):
        name = variant(config)
        training.once(name, seen, store.path)
        practice = getattr(config.algo, "practice", None)
        start = config.run.n_updates - (practice.online_updates if practice else 0)
        episodes, metrics = reports.evaluations(store), store.read_metrics()
        env_steps = store.read_run()["env_steps"]
        own = metrics[metrics["kind"] == "train"]
        last = own[own["update"] == own["update"].max()]
        for when, update in (("before", start), ("after", config.run.n_updates)):
            if when == "after" and practice is None:
                continue
            at = episodes[episodes["update"] == update]
            for level_set in SETS:
                part = at[at["level_set"] == level_set]
                if part.empty:  # cloning is evaluated on the target alone
                    continue
                rates = reports.solve_rates(part)
                mean = statistics.interval_on_set(rates, level_set, np.mean)
                rows.append(
                    {"algorithm": name, "practice": when, "level_set": level_set}
                    | {**mean._asdict(), "seeds": len(rates), "levels": rates.shape[1]}
                    | {"env_steps_a_seed": env_steps / len(rates)}
                    | reports.cost_and_commit(store)
                )
        part = episodes.groupby(["update", "level_set", "seed"])["success"].mean()
        means.append(
            part.reset_index().assign(
                algorithm=name, practised=lambda t, start=start: t["update"] - start
            )
        )
        if practice is None:
            continue
        row: dict[str, Any] = {"algorithm": name}
        row |= {column: own[column].mean() for column in WRONG if column in own}
        row |= {name: last[name].mean() for name in ("manual_resets", "played_steps")}
        wrong.append(row)
    return pd.DataFrame(rows), pd.DataFrame(wrong), pd.concat(means)


def main() -> None:
    """Writes tables and figures; prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    rows, wrong, means = read(parser.parse_args().folder)
    OUT.mkdir(parents=True, exist_ok=True)
    rows.to_csv(OUT / "success.csv", index=False, float_format="%.4g")
    wrong.to_csv(OUT / "classifier.csv", index=False, float_format="%.4g")
    wide = rows.pivot_table(
        index=["algorithm"], columns=["level_set", "practice"], values="point"
    )
    print(wide.round(2).to_string())
    print(wrong.rename(columns=WRONG).set_index("algorithm").T.round(3).to_string())
    print(draw_success(rows))
    practised = means[means["practised"] >= 0]
    lines = {}
    for level_set in SETS:
        own = practised[practised["level_set"] == level_set]
        wide = own.pivot_table(
            index=["algorithm", "seed"], columns="practised", values="success"
        )
        lines[level_set] = {
            str(name): line
            for name, part in wide.groupby(level=0)
            # Cloning does not practise.
            if len((line := pictures.over_rows(part)).x) > 1
        }
    path = pictures.line_panels(
        lines,
        OUT / "practice.png",
        "Success while practising",
        x_label=dict.fromkeys(lines, "updates of practice, 25 attempts each"),
        note="mean and range of seeds",
        among=list(rows["algorithm"].unique()),
    )
    print(path)


def draw_success(rows: pd.DataFrame) -> Path:
    """The figure of the table of success."""
    note = f"mean of {rows['seeds'].max()} seeds; 95 % over seeds, and tasks held out"
    panels = {
        f"{level_set}: {when}": rows[
            (rows["level_set"] == level_set) & (rows["practice"] == when)
        ]
        for when in ("before", "after")
        for level_set in SETS
    }
    return pictures.interval_panels(
        panels,
        OUT / "success.png",
        "Success before and after practice without resets",
        note,
        among=list(rows["algorithm"].unique()),
        share=True,
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
