"""What a run leaves for people: a table, pictures, a full evaluation."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from rlgen import datasets, runner
from rlgen.datasets import Dataset
from rlgen.evaluation import pictures, statistics, zero_shot
from rlgen.experiment import EvalResult, Experiment
from rlgen.levels import LevelSet, LevelSpace
from rlgen.store import RunStore

PyTree = Any


def draw(experiment: Experiment, store: RunStore, states: PyTree) -> list[Path]:
    """Learning curves, and whatever pictures the experiment makes of its end."""
    curves = pictures.learning_curves(
        store.read_metrics(), store.figures_dir / "curves.png"
    )
    return [
        curves,
        *experiment.draw(states, store.figures_dir, last_evaluation(store)),
    ]


def last_evaluation(store: RunStore) -> pd.DataFrame:
    """Per-episode table of the newest evaluation during training."""
    files = store.evaluation_files()
    return pd.read_parquet(files[-1]) if files else pd.DataFrame()


def evaluations(store: RunStore) -> pd.DataFrame:
    """Per-episode table of all evaluations during training."""
    tables = map(pd.read_parquet, store.evaluation_files())
    return pd.concat(tables, ignore_index=True)


def cost_and_commit(store: RunStore) -> dict[str, Any]:
    """What stands beside the figures of a run in a table."""
    facts = store.read_run()
    return {
        "wall_s_all_seeds": facts.get("wall_s"),
        "commit": str(facts.get("commit", ""))[:7],
    }


def solve_rates(episodes: pd.DataFrame) -> np.ndarray:
    """Mean success per seed and level of one set: float64[S, L]."""
    return level_means(episodes, "success")


def level_means(episodes: pd.DataFrame, column: str) -> np.ndarray:
    """Mean of a column per seed and level of one set: float64[S, L]."""
    means = episodes.pivot_table(
        index="seed", columns="level", values=column, aggfunc="mean", sort=False
    )
    return means.to_numpy(float)


@functools.cache
def _dataset(path: str, space: LevelSpace) -> Dataset:
    # Read once: the runs of a comparison share few datasets.
    return datasets.load(path, space)


def with_scores(episodes: pd.DataFrame, config: Any) -> pd.DataFrame:
    """Episodes of an offline run with their `score`.

    It is 0 for the return of uniform actions and 1 for that of the expert, as the run's
    dataset has them.

    Args:
      config: the run's settings.
    """
    dataset = _dataset(config.algo.data, config.levels_config.make_space())
    return episodes.assign(score=dataset.normalized(episodes["return"]))


def summary_table(episodes: pd.DataFrame) -> pd.DataFrame:
    """One row per level set: IQM and mean of solve rates with 95 % intervals.

    Intervals are over seeds, and over levels where these are a sample
    (`level_sets.is_sample`); with one seed they are over levels alone.
    """
    rows = []
    for name, part in episodes.groupby("level_set", sort=False):
        rates = solve_rates(part)
        iqm = statistics.interval_on_set(rates, str(name))
        mean = statistics.interval_on_set(rates, str(name), np.mean)
        rows.append(
            {
                "level_set": name,
                "levels": rates.shape[1],
                "seeds": rates.shape[0],
                "episodes": len(part),
                "mean": mean.point,
                "mean_low": mean.low,
                "mean_high": mean.high,
                "iqm": iqm.point,
                "iqm_low": iqm.low,
                "iqm_high": iqm.high,
                "return": float(np.mean(part["return"])),
            }
        )
    return pd.DataFrame(rows)


def print_table(summary: pd.DataFrame, title: str, caption: str) -> None:
    """Shows a summary in the terminal."""
    table = Table(title=title, caption=caption, caption_justify="left")
    table.add_column("level set")
    for column in ("levels", "seeds", "episodes", "solved", "IQM", "95 % (IQM)"):
        table.add_column(column, justify="right")
    for row in summary.to_dict("records"):
        table.add_row(
            row["level_set"],
            f"{row['levels']:,}",
            str(row["seeds"]),
            f"{row['episodes']:,}",
            f"{row['mean']:.3f}",
            f"{row['iqm']:.3f}",
            # One seed on one level has no interval.
            f"{row['iqm_low']:.3f}-{row['iqm_high']:.3f}"
            if np.isfinite(row["iqm_low"])
            else "-",
        )
    Console().print(table)


def print_summary(config: Any, store: RunStore) -> None:
    """The table that ends `rlgen train`, with the paths of pictures."""
    run = store.read_run()
    episodes = last_evaluation(store)
    last_seed = config.run.seed + config.run.seeds - 1
    caption = (
        f"{run.get('env_steps', 0):,} environment steps in all, "
        f"{run.get('wall_s', 0):.0f} s of training, {run.get('compile_s', 0):.0f} s of "
        f"compilation, seeds {config.run.seed} to {last_seed}"
    )
    if len(episodes):
        print_table(summary_table(episodes), store.path.name, caption)
    for path in sorted(store.figures_dir.iterdir()):
        print(path)
    print(store.path)


def evaluate_seeds(
    env: Any,
    network: Any,
    params: PyTree,
    key: jax.Array,
    level_set: LevelSet,
    n: int,
    *,
    greedy: bool = False,
) -> EvalResult:
    """Plays a level set with every seed's policy: results [S, L, E] on the host."""

    def one(each):
        params, key = each
        return zero_shot.evaluate(
            env, network, params, key, level_set.levels, n, greedy=greedy
        )

    n_seeds = jax.tree.leaves(params)[0].shape[0]
    run = jax.jit(lambda params, keys: jax.lax.map(one, (params, keys)))
    return jax.device_get(run(params, jax.random.split(key, n_seeds)))


def evaluate_run(
    experiment: Experiment,
    update: int,
    states: PyTree,
    config: Any,
    store: RunStore,
    *,
    episodes: int,
    levels: tuple[str, ...],
    named: bool,
    robustness: int,
    seed: int,
) -> pd.DataFrame:
    """The full evaluation of a trained run, by its last checkpoint.

    Held-out levels of the training size, named levels of every size, level files, and
    the robustness protocol of Rutherford et al. 2024: mean and CVaR over solvable
    random levels, ranked on one set of rollouts and reported on another.

    Args:
      experiment, update, states: the run at its last checkpoint.
      config, store: its settings and directory.
      episodes, levels, named, robustness, seed: see `rlgen eval --help`.

    Returns:
      per-episode results, as stored in `eval/`.
    """
    params = experiment.policy_params(states)
    env, network = experiment.env, experiment.network
    sets = {name: (env, s) for name, s in experiment.eval_sets.items()}
    if named:
        sets |= config.levels_config.other_named()
    for path in levels:
        set_env, _, level_set = config.levels_config.read_levels(path)
        sets[level_set.name] = (set_env, level_set)
    key = jax.random.key(seed)
    results, labels = {}, {}
    console = Console(stderr=True)
    for i, (name, (set_env, level_set)) in enumerate(sets.items()):
        with console.status(f"{name}: {len(level_set)} levels x {episodes} episodes"):
            results[name] = evaluate_seeds(
                set_env,
                network,
                params,
                jax.random.fold_in(key, i),
                level_set,
                episodes,
                greedy=experiment.greedy,
            )
        labels[name] = level_set.labels
    table = runner.episode_table(results, labels, config.run.seed)
    table.insert(0, "update", update)
    path = store.write_table(store.eval_dir / f"final_seed{seed}.parquet", table)
    print_table(summary_table(table), store.path.name, f"checkpoint of update {update}")
    print(path)
    if robustness:
        _robustness(config, store, experiment, params, robustness, episodes, seed)
    return table


def _robustness(
    config, store, experiment, params, n_levels: int, episodes: int, seed: int
) -> None:
    env, network = experiment.env, experiment.network
    console = Console(stderr=True)
    with console.status("robustness: making levels") as status:
        level_set = LevelSet.generate(
            config.levels_config.heldout_space(),
            n_levels,
            seed=seed,
            split="test",
            name="robustness",
            on_progress=lambda k: status.update(
                f"robustness: {k:,} of {n_levels:,} levels made"
            ),
        )
    results = []
    for i, key in enumerate(jax.random.split(jax.random.key(seed))):
        purpose = ("ranks", "reports")[i]
        with console.status(
            f"robustness: {n_levels:,} levels x {episodes} episodes, the set that "
            f"{purpose}"
        ):
            results.append(
                evaluate_seeds(
                    env,
                    network,
                    params,
                    key,
                    level_set,
                    episodes,
                    greedy=experiment.greedy,
                )
            )
    rank, report = results
    by_alpha = statistics.robustness(
        rank.success.mean(axis=2), report.success.mean(axis=2)
    )
    rows = []
    for alpha, values in by_alpha.items():
        values = np.atleast_1d(values)
        interval = statistics.stratified_bootstrap(values[:, None], np.mean)
        rows.append(
            {
                "alpha": alpha,
                "solve_rate": interval.point,
                "low": interval.low,
                "high": interval.high,
                "seeds": len(values),
                "levels": n_levels,
                "episodes_rank": episodes,
                "episodes_report": episodes,
            }
        )
    table = pd.DataFrame(rows)
    path = store.write_table(store.eval_dir / f"robustness_seed{seed}.parquet", table)
    shown = Table(
        title=f"{n_levels:,} solvable random levels, {episodes} + {episodes} episodes"
    )
    for column in ("worst share of levels", "solve rate", "95 % over seeds"):
        shown.add_column(column, justify="right")
    for row in rows:
        low, high = row["low"], row["high"]
        shown.add_row(
            "all (mean)" if row["alpha"] == 1.0 else f"{row['alpha']:.1%}",
            f"{row['solve_rate']:.3f}",
            f"{low:.3f}-{high:.3f}" if row["seeds"] > 1 else "one seed",
        )
    Console().print(shown)
    print(path)
