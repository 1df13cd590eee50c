"""`rlgen select`: which run, at which checkpoint, without a look at test levels.

Candidates are runs at checkpoints; seeds of a run are averaged. They are scored on
validation levels only, plain and shifted (`rlgen.perturbations`), and the choices are
written before any test level exists. What test levels then say is a report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from rlgen import candidates
from rlgen import config as configs
from rlgen.candidates import Candidates
from rlgen.env import Env
from rlgen.errors import UserError
from rlgen.evaluation import shifted_validation as validation
from rlgen.files import unwritable, write_atomically
from rlgen.levels import LevelSet
from rlgen.perturbations import Shift, crafted_shifts, plain_validation
from rlgen.ranges import Count, CountOrZero, Seed, Settings

FloatArray = NDArray[np.float64]

# Above any number of validation environments: see `_play`.
_TEST = 1000

# Columns of `EvalResult` by what `--measure` calls them.
MEASURES = {"success": "success", "return": "returns"}


@dataclasses.dataclass(frozen=True)
class SelectOptions(Settings):
    """How candidates are scored, and what is reported.

    Attributes:
      episodes: on each level.
      n_levels: validation levels of each shift, and test levels of a set, at most.
        Plain validation has as many levels as all shifts together, where there are so
        many, so that criteria differ in what they play and not in how much.
      last: only the last so many kept policies of each run; 0 for all.
      measure: what counts, success or return.
      report_test: play test levels once choices are made.
      other_sizes: in that report, named levels of other sizes too, if there are any.
      seed: of shifted levels and episodes.
      out: folder of the tables and the picture.
    """

    episodes: Count = 2
    n_levels: Count = 64
    last: CountOrZero = 0
    measure: str = "success"
    report_test: bool = True
    other_sizes: bool = False
    seed: Seed = 0
    out: str = "selection"

    def __post_init__(self):
        super().__post_init__()
        if self.measure not in MEASURES:
            raise UserError(
                f"Unknown measure {self.measure!r}: choose {', '.join(MEASURES)}."
            )


class Scores(NamedTuple):
    """Validation scores of C candidates, means over seeds, levels and episodes."""

    plain: FloatArray  # [C]
    families: dict[str, FloatArray]  # [C] each: the mean of the family's shifts
    shifts: dict[str, FloatArray]  # [C] each

    @property
    def criteria(self) -> dict[str, FloatArray]:
        """What each criterion, plain or crafted, gives every candidate, [C] each."""
        return {"plain": self.plain, "crafted": validation.crafted(self.families)}


def run(args: Sequence[str]) -> pd.DataFrame:
    """Parses `rlgen select RUNS... FLAGS`, chooses and reports; one row per candidate.

    Raises:
      UserError: bad input; nothing is written.
    """
    n_runs = next((i for i, a in enumerate(args) if a.startswith("-")), len(args))
    groups = {"options": SelectOptions()}
    parsed = configs.parse_flags(groups, args[n_runs:], "rlgen select RUN...")
    return select(args[:n_runs], parsed["options"])


def select(paths: Sequence[str | Path], options: SelectOptions) -> pd.DataFrame:
    """Chooses among the candidates of runs, writes tables and a picture, prints.

    Files in `options.out`: `selection.csv` (one row per candidate; choices stand in it
    before test levels are played), `folds.csv`, `agreement.csv`, `selection.png`.

    Raises:
      UserError: runs that cannot be compared, or nothing to choose from.
    """
    status = Console(stderr=True).status("reading runs")
    with status:
        env_config = candidates.check_comparable(paths, options.n_levels)
        runs = [candidates.load(path, options.last) for path in paths]
        if candidates.count(runs) < 2:
            raise UserError(
                "There is one candidate only: name more runs, or one that was trained "
                "with --keep-policies True and --eval-every."
            )
        status.update("making validation levels")
        shifts = crafted_shifts(env_config, options.n_levels, options.seed)
        plain = plain_validation(env_config, options.n_levels * len(shifts))
        status.update(f"{candidates.count(runs)} candidates on {len(shifts)} shifts")
        scores = score(runs, plain, shifts, options)
        _check_scores(scores, options)
        chosen = {name: validation.best(x) for name, x in scores.criteria.items()}
        table = candidate_table(runs, scores, chosen)
        out = Path(options.out)
        _write(table, out / "selection.csv")
        folds = pd.DataFrame(validation.folds(scores.families, scores.plain))
        folds["chosen"] = [_name(table, i) for i in folds["chosen"]]
        _write(folds, out / "folds.csv")
        agreement = None
        if options.report_test:
            status.update("test levels, now that choices are made")
            tests = held_out_scores(runs, env_config, options)
            table = pd.concat([table, pd.DataFrame(tests)], axis=1)
            _write(table, out / "selection.csv")
            agreement = agreement_table(scores.criteria, tests)
            _write(agreement, out / "agreement.csv")
        picture = _draw(table, scores.criteria, agreement, out, options)
    _print(table, folds, agreement, options)
    print(picture)
    print(out)
    return table


def score(
    runs: Sequence[Candidates],
    plain: Shift,
    shifts: Sequence[Shift],
    options: SelectOptions,
) -> Scores:
    """Scores every candidate for the choice.

    It is handed shifts alone, which cannot hold a test level, and policies whose
    experiments hold none.
    """
    everything = [plain, *shifts]
    by_env: dict[Env, list[int]] = {}
    for i, shift in enumerate(everything):
        by_env.setdefault(shift.env, []).append(i)
    columns = np.empty((candidates.count(runs), len(everything)))
    for purpose, (env, which) in enumerate(by_env.items()):
        level_sets = [everything[i].level_set for i in which]
        columns[:, which] = _play(runs, env, level_sets, options, purpose)
    by_name = {s.name: columns[:, i + 1] for i, s in enumerate(shifts)}
    families: dict[str, FloatArray] = {}
    for family in dict.fromkeys(s.family for s in shifts):
        members = [by_name[s.name] for s in shifts if s.family == family]
        families[family] = np.mean(members, axis=0)
    return Scores(columns[:, 0], families, by_name)


def held_out_scores(
    runs: Sequence[Candidates], env_config: Any, options: SelectOptions
) -> dict[str, FloatArray]:
    """Scores on each set of test levels, [C] each, and "test", the mean of them."""
    settings = dataclasses.replace(
        env_config, eval_split="test", n_heldout=options.n_levels
    )
    env = settings.make_env()
    sets = {name: (env, s) for name, s in settings.heldout_sets().items()}
    if options.other_sizes:
        sets |= settings.other_named()
    scores = {}
    for i, (name, (where, level_set)) in enumerate(sets.items()):
        columns = _play(runs, where, [level_set], options, _TEST + i)
        scores[f"test: {name}"] = columns[:, 0]
    return scores | {"test": np.mean(list(scores.values()), axis=0)}


def _play(
    runs: Sequence[Candidates],
    env: Env,
    level_sets: Sequence[LevelSet],
    options: SelectOptions,
    purpose: int,
) -> FloatArray:
    # Chance is another one in every world, and when it is the test that is played.
    key = jax.random.fold_in(jax.random.key(options.seed), purpose)
    field = MEASURES[options.measure]
    return candidates.play(runs, env, level_sets, key, field, options.episodes)


def _check_scores(scores: Scores, options: SelectOptions) -> None:
    other = "return" if options.measure == "success" else "success"
    if all(np.ptp(x) == 0 for x in (scores.plain, *scores.families.values())):
        raise UserError(
            f"All candidates have the same {options.measure} everywhere: choose "
            f"--measure {other}, or runs that differ."
        )


def candidate_table(
    runs: Sequence[Candidates], scores: Scores, chosen: Mapping[str, int]
) -> pd.DataFrame:
    """One row per candidate: who it is, its validation scores, and what chose it."""
    table = pd.DataFrame(
        [
            {
                "run": each.path.name,
                "algorithm": each.config.algorithm,
                "update": update,
                "seeds": each.config.run.seeds,
            }
            for each in runs
            for update in each.policies
        ]
    )
    table["chosen_by"] = [
        " ".join(name for name, i in chosen.items() if i == row)
        for row in range(len(table))
    ]
    columns = scores.criteria
    columns |= {f"family: {name}": x for name, x in scores.families.items()}
    columns |= {f"shift: {name}": x for name, x in scores.shifts.items()}
    return table.assign(**columns)


def agreement_table(
    criteria: Mapping[str, FloatArray], tests: Mapping[str, FloatArray]
) -> pd.DataFrame:
    """Rank correlations with 95 % intervals and regrets, per test column and criterion.

    The rows "crafted - plain" are the differences of the two Spearman correlations.
    """
    rows = []
    for target, values in tests.items():
        for found in validation.agreement(criteria, values):
            row = {"target": target, "criterion": found.criterion}
            for name in validation.CORRELATIONS:
                row |= _interval(name, getattr(found, name))
            rows.append(row | {"regret": found.regret})
        gain = validation.advantage(criteria["crafted"], criteria["plain"], values)
        row = {"target": target, "criterion": "crafted - plain"}
        rows.append(row | _interval("spearman", gain))
    return pd.DataFrame(rows)


def _interval(name: str, interval: Any) -> dict[str, Any]:
    return {
        name: interval.point,
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
    }


def _write(table: pd.DataFrame, path: Path) -> None:
    try:
        with write_atomically(path, "w") as file:
            table.to_csv(file, index=False)
    except OSError as error:
        raise unwritable(path.parent, error) from error


def _name(table: pd.DataFrame, row: int) -> str:
    return f"{table['run'][row]} @ {table['update'][row]}"


def _draw(
    table: pd.DataFrame,
    criteria: Mapping[str, FloatArray],
    agreement: pd.DataFrame | None,
    out: Path,
    options: SelectOptions,
) -> Path:
    from rlgen.evaluation.pictures import agreement_panels

    headings = {"plain": "plain validation", "crafted": "crafted shifts, mean rank"}
    panels, target, name = dict(criteria), table["crafted"], "crafted shifts, mean rank"
    if agreement is None:
        panels.pop("crafted")
    else:
        target, name = table["test"], f"test {options.measure}"
        rows = agreement[agreement["target"] == "test"].set_index("criterion")
        for criterion in criteria:
            row = rows.loc[criterion]
            headings[criterion] += (
                f"\nSpearman {row['spearman']:.2f} "
                f"({row['spearman_low']:.2f} to {row['spearman_high']:.2f})"
            )
    return agreement_panels(
        {headings[criterion]: x for criterion, x in panels.items()},
        target.to_numpy(float),
        list(table["run"]),
        out / "selection.png",
        target_name=name,
        title=f"{len(table)} candidates; a ring is what the criterion chooses",
    )


def _print(
    table: pd.DataFrame,
    folds: pd.DataFrame,
    agreement: pd.DataFrame | None,
    options: SelectOptions,
) -> None:
    console = Console()
    shown = ["plain", "crafted"] + (["test"] if agreement is not None else [])
    grid = Table(title=f"{len(table)} candidates by {options.measure}")
    for column in ("run @ update", *shown, "chosen by"):
        grid.add_column(column, justify="right" if column in shown else "left")
    for i, row in enumerate(table.to_dict("records")):
        numbers = [f"{row[column]:.3f}" for column in shown]
        grid.add_row(_name(table, i), *numbers, row["chosen_by"])
    console.print(grid)
    grid = Table(title="each family left out in turn")
    for column in ("left out", "chosen by the others", "regret", "Spearman", "plain's"):
        grid.add_column(column)
    for row in folds.to_dict("records"):
        grid.add_row(
            row["family"],
            row["chosen"],
            f"{row['regret']:.3f}",
            f"{row['spearman']:.2f}",
            f"{row['plain_regret']:.3f}, {row['plain_spearman']:.2f}",
        )
    console.print(grid)
    if agreement is None:
        return
    grid = Table(title="agreement with test levels, 95 % over candidates")
    for column in ("test levels", "criterion", "Spearman", "Kendall", "regret"):
        grid.add_column(column)
    for row in agreement.to_dict("records"):
        cells = [
            f"{row[name]:.2f} ({row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f})"
            if np.isfinite(row[name])
            else ""
            for name in validation.CORRELATIONS
        ]
        lost = f"{row['regret']:.3f}" if np.isfinite(row["regret"]) else ""
        target = row["target"].removeprefix("test: ")
        grid.add_row(
            "all" if target == "test" else target, row["criterion"], *cells, lost
        )
    console.print(grid)
