"""Offline learning and levels (after Mediratta et al. 2024): how a policy's return on
levels it never saw depends on the number of levels in its dataset.

python analysis/offline_gap.py make                          # behaviour and datasets
rlgen sweep sweeps/papers/offline-gap/tune/*.yaml
python analysis/offline_gap.py choose runs/offline-gap-tune  # writes final/*.yaml
rlgen sweep sweeps/papers/offline-gap/final/*.yaml
python analysis/offline_gap.py figure runs/offline-gap       # tables and figures
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from rlgen import reports, training
from rlgen.config import flatten, read_yaml
from rlgen.errors import UserError, exit_code
from rlgen.evaluation import pictures, selection, statistics
from rlgen.store import RunStore
from rlgen.sweep import process

N_LEVELS = (1, 16, 64, 1024)
#: Two halves of whole episodes of 96 steps on each of 1,024 levels.
N_STEPS = 2 * 96 * 1024
SWEEPS = Path("sweeps/papers/offline-gap")
OUT = Path("analysis/offline_gap")
BEHAVIOUR = Path("runs/gap-behaviour")
# Poles and carts whose physics varies by a factor of six, and is not observed.
ENV = (
    *("--env", "inverted_pendulum", "--episode-length", "96"),
    *("--train-low", "0.4", "--train-high", "2.5", "--far-low", "0.2", "--far-high"),
    "5",
)
#: Episodes on validation levels that may be played to choose a learner's setting.
BUDGET = 100
SETS = ("train", "heldout", "extrapolated")
_SEEDS = 5
#: What scores stand for: the expert of a dataset is the last behaviour policy.
SCALE = "0 is random actions, 1 the behaviour's last policy"


def make() -> None:
    """Trains the behaviour and collects a dataset for each number of levels."""
    if not (BEHAVIOUR / "DONE").exists():
        keep = ("--eval-every", "2", "--keep-policies", "True")
        size = ("--preset", "quick", "--n-updates", "40")
        place = ("--run-dir", str(BEHAVIOUR))
        process.require(["train", "sac", *ENV, *size, *keep, *place])
    for n in N_LEVELS:
        name = f"gap/mixed-{n}-v0"
        if not Path("datasets", name).exists():
            size = ("--n-levels", str(n), "--transitions", str(N_STEPS))
            kind = ("--quality", "mixed", "--name", name)
            process.require(["collect", str(BEHAVIOUR), *kind, *size])


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      learner: its algorithm, and whether COCOA wraps it.
      config: its settings.
      store: its directory.
    """

    learner: str
    config: Any
    store: RunStore

    @property
    def n_levels(self) -> int:
        """Levels in its dataset."""
        return int(Path(self.config.algo.data).name.split("-")[1])

    def episodes(self) -> pd.DataFrame:
        """All of its evaluations, with scores: 0 as random actions, 1 as the expert."""
        return reports.with_scores(reports.evaluations(self.store), self.config)


def runs(folder: str | Path) -> Iterator[Run]:
    """The finished runs in a folder, in order of their names."""
    for config, store in training.finished_runs(folder):
        cocoa = "cocoa-" if getattr(config.algo, "cocoa", False) else ""
        yield Run(cocoa + config.algorithm, config, store)


def varied(path: Path) -> tuple[str, list[Any]]:
    """The setting that a tuning sweep varies, and its values."""
    parameters = read_yaml(str(path))["parameters"]
    (name,) = [n for n, spec in parameters.items() if len(spec.get("values", [])) > 1]
    return name, parameters[name]["values"]


def choose(folder: str, budget: int = BUDGET) -> None:
    """Chooses each learner's setting by a bandit on validation levels.

    Its arms are the trained policies, settings times seeds. Writes the sweeps of the
    comparison, the table of what was chosen from, and the figure of budgets.
    """
    arms: dict[str, list[tuple[Any, np.ndarray]]] = {}
    seen: dict[Any, Path] = {}
    for run in runs(folder):
        if run.config.levels_config.eval_split != "validation":
            raise UserError(f"{run.store.path} was not evaluated on validation levels.")
        name, _ = varied(SWEEPS / "tune" / f"{run.learner}.yaml")
        table = run.episodes()
        last = table[table["update"] == table["update"].max()]
        part = last[last["level_set"] == "heldout"]
        value = flatten(run.config.algo)[name]
        training.once((run.learner, value), seen, run.store.path)
        for _, own in part.groupby("seed"):
            arms.setdefault(run.learner, []).append((value, own["score"].to_numpy()))
    rows, curves = [], {}
    for learner, own in arms.items():
        returns = [scores for _, scores in own]
        means = [scores.mean() for scores in returns]
        rng = np.random.default_rng(0)
        best = selection.ucb(returns, budget, rng).chosen[0, -1]
        curve = selection.budget_curve(returns, means, 2 * budget)
        curves[learner] = curve
        name, values = varied(SWEEPS / "tune" / f"{learner}.yaml")
        for value in values:
            scores = [m for m, (v, _) in zip(means, own, strict=True) if v == value]
            rows.append(
                {
                    "learner": learner,
                    "setting": name,
                    "value": value,
                    "seeds": len(scores),
                    "validation_score": np.mean(scores),
                    "chosen": own[best][0] == value,
                    "episodes_to_choose": budget,
                }
            )
        _write_final(learner, name, own[best][0], budget)
    pooled = [scores for own in arms.values() for _, scores in own]
    curve = selection.budget_curve(pooled, [x.mean() for x in pooled], 2 * budget)
    curves["all of them"] = curve
    OUT.mkdir(parents=True, exist_ok=True)
    pulls = np.arange(1, 2 * budget + 1)
    tables = [
        pd.DataFrame({"learner": name, "episodes": pulls, **curve._asdict()})
        for name, curve in curves.items()
    ]
    pd.concat(tables).to_csv(OUT / "budget.csv", index=False, float_format="%.4g")
    table = pd.DataFrame(rows)
    table.to_csv(OUT / "choice.csv", index=False, float_format="%.4g")
    print(table.to_string(index=False))
    print(draw_budget(pd.concat(tables)))


def draw_budget(table: pd.DataFrame) -> Path:
    """The figure of the table of budgets: one line per learner."""
    title = "Score on validation levels"
    lines = {
        str(name): pictures.over_runs(own["episodes"], own["mean"])
        for name, own in table.groupby("learner", sort=False)
    }
    return pictures.line_panels(
        {title: lines},
        OUT / "budget.png",
        "What a bandit has chosen",
        x_label={title: "episodes played to choose"},
        note="mean of 1,000 bandits; arms are settings times seeds",
    )


def _write_final(learner: str, name: str, value: Any, budget: int) -> None:
    spec = read_yaml(str(SWEEPS / "tune" / f"{learner}.yaml"))
    # Learners of models take more updates, and evaluating COCOA's policy costs more.
    learns_models = "model_updates" in spec["parameters"]
    changes = {
        name: {"value": value},
        "data": {"values": [f"datasets/gap/mixed-{n}-v0" for n in N_LEVELS]},
        "eval_split": {"value": "test"},
        "n_heldout": {"value": 256},
        "eval_episodes": {"value": 1},
        "min_eval_episodes": {"value": 64},
        "eval_every": {"value": 4 if learns_models else 2},
        "seeds": {"value": _SEEDS},
        "out": {"value": "runs/offline-gap"},
    }
    spec["parameters"] = spec["parameters"] | changes
    text = yaml.safe_dump(spec, sort_keys=False, default_flow_style=None, width=88)
    path = SWEEPS / "final" / f"{learner}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"# Written by `python analysis/offline_gap.py choose`: {name} was chosen\n"
        f"# by a bandit that played {budget} episodes on validation levels.\n{text}"
    )
    print(path)


def figure(folder: str) -> None:
    """Writes the tables and the figures; prints the tables."""
    rows, means = [], []
    seen: dict[Any, Path] = {}
    scores: dict[tuple[str, int, str], np.ndarray] = {}
    for run in runs(folder):
        training.once((run.learner, run.n_levels), seen, run.store.path)
        episodes, config = run.episodes(), run.config
        about = {"learner": run.learner, "train_levels": run.n_levels}
        last = episodes[episodes["update"] == episodes["update"].max()]
        cost, n_steps = reports.cost_and_commit(run.store), config.algo.steps_per_update
        # The named set is the task's own physics alone: one level.
        for name in SETS:
            x = scores[run.learner, run.n_levels, name] = _scores(last, name)
            mean = statistics.interval_on_set(x, name, np.mean)
            rows.append(
                about
                | {
                    "level_set": name,
                    "score": mean.point,
                    "low": mean.low,
                    "high": mean.high,
                    "seeds": x.shape[0],
                    "levels": x.shape[1],
                    "gradient_steps": config.run.n_updates * n_steps,
                }
                | cost
            )
        by_seed = episodes.groupby(["update", "level_set", "seed"])["score"].mean()
        # Models come first: the agent begins to learn later.
        part = by_seed.reset_index().assign(
            **about, steps=lambda t, n=n_steps: t["update"] * n
        )
        means.append(part)
    OUT.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows).sort_values(["level_set", "learner", "train_levels"])
    table.to_csv(OUT / "scores.csv", index=False, float_format="%.4g")
    wide = table.pivot_table(
        index=["level_set", "learner"], columns="train_levels", values="score"
    )
    print(wide.round(3).to_string())
    claims = differences(scores)
    claims.to_csv(OUT / "claims.csv", index=False, float_format="%.4g")
    print(claims.round(3).to_string(index=False))
    print(draw_gap(table))
    _draw(pd.concat(means, ignore_index=True))


def differences(scores: dict[tuple[str, int, str], np.ndarray]) -> pd.DataFrame:
    """What the claims are about: is a learner better with all levels than with one, and
    is it better than cloning? On the same test levels.

    Args:
      scores: [S, L] by learner, number of levels and level set.
    """
    pairs = []
    few, many = N_LEVELS[0], N_LEVELS[-1]
    for (learner, n, level_set), x in scores.items():
        others = {
            f"{few} level": scores.get((learner, few, level_set))
            if n == many
            else None,
            "bc": scores.get(("bc", n, level_set)) if learner != "bc" else None,
        }
        for against, y in others.items():
            if level_set == "train" or y is None:
                continue
            about = {"learner": learner, "train_levels": n, "level_set": level_set}
            pairs.append((about | {"minus": against}, x, y))
    # All claims together are right in 19 studies of 20.
    level = statistics.level_of_each(0.95, len(pairs))
    rows = [
        about | statistics.difference_of_means(x, y, level)._asdict()
        for about, x, y in pairs
    ]
    order = ["minus", "level_set", "learner", "train_levels"]
    return pd.DataFrame(rows).sort_values(order)[[*order, "point", "low", "high"]]


def draw_gap(scores: pd.DataFrame) -> Path:
    """The figure of the table of scores: a panel per learner, a line per level set."""
    scores = scores.sort_values("train_levels")
    panels = {
        str(learner): {
            name: pictures.Line(
                *(
                    part[column].to_numpy(float)
                    for column in ("train_levels", "score", "low", "high")
                )
            )
            for name in SETS
            if len(part := own[own["level_set"] == name])
        }
        for learner, own in scores.groupby("learner")
    }
    return pictures.line_panels(
        panels,
        OUT / "gap.png",
        "What was learned from a dataset, by the number of its levels",
        x_label=dict.fromkeys(panels, "train levels in the dataset"),
        note=f"{SCALE}; 95 % over {_SEEDS} seeds and levels",
        sizes=True,
        share_y=True,
    )


def _draw(means: pd.DataFrame) -> None:
    """Figures of mean scores, one row per run, update, level set and seed."""
    note = f"{SCALE}; mean and range of {_SEEDS} seeds"
    heldout = means[means["level_set"] == "heldout"]
    for n, part in heldout.groupby("train_levels"):
        curves = {
            str(learner): own.pivot_table(
                index=["learner", "seed"], columns="steps", values="score"
            )
            for learner, own in part.groupby("learner")
        }
        path = pictures.line_panels(
            {
                learner: {learner: pictures.over_rows(frame)}
                for learner, frame in curves.items()
            },
            OUT / f"curves-{n}.png",
            f"Held-out score while learning, number of levels: {n:,}",
            x_label=dict.fromkeys(curves, "gradient steps, of models too"),
            note=note,
        )
        print(path)


def _scores(episodes: pd.DataFrame, name: str) -> np.ndarray:
    """Mean scores [S, L] of one level set."""
    part = episodes[episodes["level_set"] == name]
    if part.empty:
        raise UserError(f"Some run was not evaluated on {name}: run the sweep again.")
    return reports.level_means(part, "score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("make")
    choosing = verbs.add_parser("choose")
    choosing.add_argument("folder")
    choosing.add_argument("--budget", type=int, default=BUDGET)
    drawing = verbs.add_parser("figure")
    drawing.add_argument("folder")
    options = parser.parse_args()
    if options.verb == "make":
        make()
    elif options.verb == "choose":
        choose(options.folder, options.budget)
    else:
        figure(options.folder)


if __name__ == "__main__":
    sys.exit(exit_code(main))
