"""How out of distribution level sets are for the policies of a trained run.

Three measures of a level, each a mean over the steps that a policy meets on it: the
Mahalanobis score of what the policy's head reads, the policy's entropy, and how far the
seeds' values of the same observations are apart. How well each tells a set from train
levels is an AUROC.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import stats

from rlgen import reports, training
from rlgen.algos import rule_library
from rlgen.env import take
from rlgen.errors import UserError
from rlgen.evaluation import level_sets, pictures, statistics, zero_shot
from rlgen.evaluation import out_of_distribution as ood
from rlgen.experiment import Experiment
from rlgen.levels import LevelSet
from rlgen.ranges import Count, Seed, Settings
from rlgen.training import TrainConfig

PyTree = Any

# Columns of the measures, and what tables call them.
MEASURES = {
    "mahalanobis": "score",
    "entropy": "entropy",
    "value_spread": "value\nspread",
}
TRAIN, FITTING, CURRICULUM = "train", "train (fitting)", "curriculum"


@dataclasses.dataclass(frozen=True)
class OODOptions(Settings):
    """What is measured.

    Attributes:
      n_levels: levels of each set, at most; of train levels twice as many, one half of
        which the statistics are fitted to.
      n_steps: first steps of an episode on each level.
      episodes: episodes on each level, for its return.
      levels: level files (.npz) to measure too.
      seed: seed of train levels and of play.
    """

    n_levels: Count = 64
    n_steps: Count = 64
    episodes: Count = 4
    levels: tuple[str, ...] = ()
    seed: Seed = 0


def run(path: str | Path, options: OODOptions) -> pd.DataFrame:
    """Measures a run by its newest checkpoint; writes a table and a picture.

    Returns:
      what was written to `eval/ood_seed{seed}.parquet`: one row per seed, level set and
      level, see `measure`.

    Raises:
      UserError: not a run that trains policies, no checkpoint, level files that do not
        fit, or fewer than two train levels.
    """
    config, store = training.load_run(path)
    if rule_library.is_rule(str(path)):
        raise UserError(
            f"{path} learns an update rule and has no policy of its own: name a run "
            "that trains one."
        )
    space = config.levels_config.make_space()
    files = [(name, LevelSet.load(name, space)) for name in options.levels]
    experiment, update, states = training.restore(config, store)
    level_sets = sets_of(experiment, config, files, options)
    with Console(stderr=True).status("playing the level sets"):
        table = measure(experiment, states, level_sets, config.run.seed, options)
    table.insert(0, "update", update)
    written = store.write_table(
        store.eval_dir / f"ood_seed{options.seed}.parquet", table
    )
    _print(summarize(table), left_out(table), store.path.name, update)
    picture = pictures.score_strips(
        table.assign(score=table["mahalanobis"]),
        store.figures_dir / f"ood_seed{options.seed}.png",
        f"How out of distribution levels are: {store.path.name}",
        "squared Mahalanobis distance of features / dimensions (1: like train levels)",
    )
    print(written)
    print(picture)
    return table


def sets_of(
    experiment: Experiment,
    config: TrainConfig,
    files: list[tuple[str, LevelSet]],
    options: OODOptions,
) -> dict[str, LevelSet]:
    """Level sets by name: both halves of the train levels, held-out ones, and files.

    Train levels are those that the run was given, else fresh ones of its distribution:
    where a curriculum makes its own (ACCEL, PAIRED), of what it starts from.

    Raises:
      UserError: fewer than two train levels, or two sets of one name.
    """
    given = experiment.eval_sets.get(TRAIN)
    if given is None and experiment.data is not None:
        raise UserError(
            "The dataset of this run has no train levels to compare with: measure a "
            "run whose dataset has some."
        )
    if given is None:
        given = LevelSet.generate(
            config.levels_config.make_space(),
            2 * options.n_levels,
            seed=options.seed,
            split="train",
            solvable=config.levels_config.solvable,
        )
    if len(given) < 2:
        raise UserError(
            "The run was trained on 1 level, and it takes 2 to tell held-out levels "
            "from others like those of training: measure a run with more levels."
        )
    sets = dict(
        zip((FITTING, TRAIN), ood.halves(given.thin(2 * options.n_levels)), strict=True)
    )
    heldout = {n: s for n, s in experiment.eval_sets.items() if n != TRAIN}
    sets |= {name: s.thin(options.n_levels) for name, s in heldout.items()}
    for path, level_set in files:
        name = level_set.name
        if name in sets or name == CURRICULUM:
            raise UserError(
                f"The levels of {path} are called {name}, as a set of this run is: "
                "save them under another --name."
            )
        sets[name] = level_set.thin(options.n_levels)
    return sets


def curriculum_levels(
    experiment: Experiment, states: PyTree, n_seeds: int, n: int, seed: int
) -> list[PyTree] | None:
    """At most n levels of each seed's curriculum, drawn by its probabilities.

    Returns:
      stacked levels, as many for every seed, none of them twice; None if the curriculum
      remembers none.
    """
    hold = jax.jit(experiment.curriculum_levels)
    held = []
    for s in range(n_seeds):
        found = hold(take(states, s), jax.random.fold_in(jax.random.key(seed), s))
        if found is None:
            return None
        held.append(jax.device_get(found))
    n = min(n, *(int(np.sum(p > 0)) for _, p in held))
    if n == 0:
        return None
    rng, drawn = np.random.default_rng(seed), []
    for levels, p in held:
        p = p.astype(np.float64)
        rows = rng.choice(len(p), n, replace=False, p=p / p.sum())
        drawn.append(take(levels, rows))
    return drawn


def measure(
    experiment: Experiment,
    states: PyTree,
    level_sets: dict[str, LevelSet],
    first_seed: int,
    options: OODOptions,
) -> pd.DataFrame:
    """Every measure of every level, by every seed's policy.

    Args:
      states: of S seeds, stacked.
      level_sets: see `sets_of`; what the curriculum holds is added here.

    Returns:
      one row per seed, set and level: `steps` met, `MEASURES` (NaN where there is none:
      entropy without a closed form, values of one seed or of a network without them)
      and the mean `return` of `episodes` whole episodes.
    """
    ensemble = experiment.policy_params(states)
    n_seeds = ood.n_levels(ensemble)
    own = curriculum_levels(experiment, states, n_seeds, options.n_levels, options.seed)
    labels = {name: level_set.labels for name, level_set in level_sets.items()}
    if own is not None:
        labels[CURRICULUM] = tuple(
            f"{CURRICULUM}-{i}" for i in range(ood.n_levels(own[0]))
        )
    play = _player(experiment, n_seeds, options)
    tables = []
    for s in range(n_seeds):
        levels = {name: level_set.levels for name, level_set in level_sets.items()}
        if own is not None:
            levels[CURRICULUM] = own[s]
        key = jax.random.fold_in(jax.random.key(options.seed), s)
        met, spread, returns = jax.device_get(
            play(take(ensemble, s), ensemble, key, levels)
        )
        fitting = met.pop(FITTING)
        sizes = {name: len(labels[name]) for name in met}
        scores = ood.level_scores(fitting, met, sizes)
        for name, one in met.items():
            valid, size = one.valid, sizes[name]
            tables.append(
                pd.DataFrame(
                    {
                        "seed": first_seed + s,
                        "level_set": name,
                        "level": labels[name],
                        "steps": np.bincount(
                            ood.level_of(valid.shape[1], size), valid.sum(axis=0)
                        ).astype(int),
                        "mahalanobis": scores[name],
                        "entropy": ood.level_means(one.entropy, valid, size),
                        "value_spread": ood.level_means(spread[name], valid, size),
                        "return": returns[name],
                    }
                )
            )
    table = pd.concat(tables, ignore_index=True)
    # In the order that sets were named in: train, held out, files, curriculum.
    order = table["level_set"].map(list(labels).index)
    return table.iloc[np.lexsort((order, table["seed"]))].reset_index(drop=True)


def _player(experiment: Experiment, n_seeds: int, options: OODOptions) -> Callable:
    """(params, ensemble, key, levels by set) to visits, spreads and returns by set."""
    env, network = experiment.env, experiment.network
    has_spread = network.has_value and n_seeds > 1
    n_steps = min(options.n_steps, env.max_episode_steps)

    @jax.jit
    def play(params, ensemble, key, levels):
        key_visit, key_episodes = jax.random.split(key)
        met = ood.visit(
            env, network, params, key_visit, levels, options.n_levels, n_steps,
            greedy=experiment.greedy,
        )  # fmt: skip
        spread = {
            name: ood.value_spread(network, ensemble, one)
            if has_spread
            else jnp.full(one.valid.shape, jnp.nan)
            for name, one in met.items()
        }
        every = jax.tree.map(
            lambda *x: jnp.concatenate([jnp.asarray(each) for each in x]),
            *levels.values(),
        )
        played = zero_shot.evaluate(
            env, network, params, key_episodes, every, options.episodes,
            greedy=experiment.greedy,
        )  # fmt: skip
        ends = np.cumsum([ood.n_levels(one) for one in levels.values()])[:-1]
        returns = jnp.split(played.returns.mean(axis=1), ends)
        met = {name: one.replace(obs=None) for name, one in met.items()}  # not needed
        return met, spread, dict(zip(levels, returns, strict=True))

    return play


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """One row per level set, of a table of `measure`.

    Scores and AUROCs with 95 % intervals over seeds and sampled levels: `mahalanobis`,
    `_low` and `_high`; `auroc_{measure}` and the same against the set `train` (NaN of
    itself and of a measure that was left out); `rank_correlation`, Spearman's of score
    and return over levels, mean over seeds.
    """
    known = {
        measure: {
            str(name): reports.level_means(part, measure)
            for name, part in table.groupby("level_set", sort=False)
        }
        for measure in (*MEASURES, "return")
        if measure not in left_out(table)
    }
    rows = []
    for name, scores in known["mahalanobis"].items():
        row = {"level_set": name, "levels": scores.shape[1], "seeds": len(scores)}
        row |= _columns(
            "mahalanobis",
            statistics.interval_on_set(scores, name, np.mean),
        )
        for measure in MEASURES:
            interval = statistics.Interval(np.nan, np.nan, np.nan)
            if name != TRAIN and measure in known:
                interval = statistics.unpaired_bootstrap(
                    known[measure][TRAIN],
                    known[measure][name],
                    ood.auroc,
                    resample_tasks=(True, level_sets.is_sample(name)),
                )
            row |= _columns(f"auroc_{measure}", interval)
        pairs = zip(scores, known["return"][name], strict=True)
        row["rank_correlation"] = np.mean([_rank_correlation(*pair) for pair in pairs])
        rows.append(row)
    return pd.DataFrame(rows)


def left_out(table: pd.DataFrame) -> list[str]:
    """Measures that a table of `measure` has not."""
    return [name for name in MEASURES if np.isnan(table[name].to_numpy()).any()]


def _columns(name: str, interval: statistics.Interval) -> dict[str, Any]:
    ends = {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {name: interval.point} | ends


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's; NaN where there is nothing to rank."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def _print(summary: pd.DataFrame, left_out: list[str], title: str, update: int) -> None:
    """The table for people."""
    caption = (
        f"checkpoint of update {update}; score: Mahalanobis, 1 is like train levels; "
        "AUROC: chance that a level has a higher value "
        "than a train level has; intervals of 95 % over seeds and sampled levels; rank "
        "correlation of score and return over levels"
    )
    if "entropy" in left_out:
        caption += "; no entropy: these policies have none in closed form"
    if "value_spread" in left_out:
        caption += "; no value spread: it takes two seeds that estimate values"
    table = Table(title=title, caption=caption, caption_justify="left")
    table.add_column("level set")
    shown = {m: label for m, label in MEASURES.items() if m not in left_out}
    aurocs = (f"AUROC\n{label}" for label in shown.values())
    columns = ("levels", "score", *aurocs, "rank\ncorr.")
    for column in columns:
        table.add_column(column, justify="right")
    for row in summary.to_dict("records"):
        correlation = row["rank_correlation"]
        table.add_row(
            row["level_set"],
            f"{row['levels']:,}",
            _text(row, "mahalanobis"),
            *(_text(row, f"auroc_{measure}") for measure in shown),
            f"{correlation:.2f}" if np.isfinite(correlation) else "-",
        )
    Console().print(table)


def _text(row: dict[Any, Any], name: str) -> str:
    point, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if not np.isfinite(point):
        return "-"
    # The interval on a line of its own: the table fits a terminal of 80 columns.
    interval = f"\n{low:.2f}-{high:.2f}" if np.isfinite(low) else ""
    return f"{point:.2f}{interval}"
