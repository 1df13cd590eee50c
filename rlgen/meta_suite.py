"""`rlgen eval RULE`: the environments that update rules are meta-tested on, and tables.

A rule is tried where it was not learned: on held-out grid-world tasks, LPG's classic
ones, delayed chains, mazes, MinAtar and a brax task, always beside A2C and PPO.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from rlgen import config as configs
from rlgen import registry
from rlgen.algos import rule_library
from rlgen.algos.meta import meta_test
from rlgen.algos.meta.algorithms import SMALL_GRIDS
from rlgen.algos.meta.meta_test import Agents, MetaTest
from rlgen.algos.ppo import PPOConfig
from rlgen.algos.rule_library import NamedRule
from rlgen.envs.config import EnvConfig
from rlgen.errors import UserError
from rlgen.evaluation import pictures, statistics
from rlgen.files import unwritable, write_atomically
from rlgen.levels import LevelSet
from rlgen.networks import NetworkConfig
from rlgen.ranges import Count, Positive, Seed, Settings

_POOL_SEED = 7
# What is tried unless asked: one game of MinAtar stands for all.
_USUAL = ("grids", "classic", "chains", "maze", "brax", "minatar-breakout")
_CLASSIC = ("dense", "sparse", "long", "longer", "long_dense")

# Agents that are tables: LPG's by plain gradient descent, as their rule was learned.
TABLES = Agents(
    ppo=PPOConfig(
        n_envs=16,
        n_steps=20,
        discount=0.99,
        gae_lambda=0.95,
        entropy_coef=1e-2,
        clip_value=False,
    ),
    passes={"n_epochs": 4, "n_minibatches": 1},
    lpg={"optimizer": "sgd"},
    lpg_as_learned=("separate_clip", "value_lr_ratio"),
    lrs=(0.03, 0.1, 0.3, 1.0),
    lpg_lrs=(10.0, 40.0, 160.0, 640.0),
)
TABLE = NetworkConfig(torso="table", core="none")

# Agents that are networks; an agent trains on a pool of levels.
NETWORKS = Agents(
    ppo=dataclasses.replace(TABLES.ppo, n_envs=64, n_steps=32),
    passes={"n_epochs": 4, "n_minibatches": 4},
    lpg={},
    lrs=(3e-4, 1e-3, 3e-3, 1e-2),
    lpg_lrs=(3e-4, 1e-3, 3e-3, 1e-2),
)


@dataclasses.dataclass(frozen=True)
class RuleEvalOptions(Settings):
    """How a learned rule is meta-tested.

    Attributes:
      tests: which of the tests; "all" adds three more games of MinAtar.
      against: further rules (names, files or runs) to stand beside.
      lifetimes: try the grid worlds at these numbers of updates too.
      runs: how often hand-written rules learn, each time with other luck.
      scale: length of agents' training, as a factor on that of the tests.
      seed: of the evaluation.
      out: folder for tables and figure; empty for the run's own, or meta-test.
    """

    tests: tuple[str, ...] = _USUAL
    against: tuple[str, ...] = ()
    lifetimes: tuple[Count, ...] = ()
    runs: Count = 3
    scale: Positive = 1.0
    seed: Seed = 0
    out: str = ""

    def __post_init__(self):
        super().__post_init__()
        for name in self.tests:
            if name not in (*TESTS, "all"):
                raise UserError(
                    f"Unknown test {name!r}: choose all, or some of {', '.join(TESTS)}."
                )
        if self.lifetimes and not {"all", "grids"} & set(self.tests):
            raise UserError("lifetimes are tried at the grids: add grids to tests.")


def _config(env: str, **settings: Any) -> EnvConfig:
    return registry.load(registry.ENVS, env)(**settings)


def _heldout(config: EnvConfig, split: str) -> LevelSet:
    return dataclasses.replace(config, eval_split=split).heldout_sets()["heldout"]


def alone(
    name: str, config: EnvConfig, agents: Agents, n_updates: int, n_episodes: int = 16
) -> MetaTest:
    """A test in which each held-out level has an agent of its own, a table."""
    return MetaTest(
        name=name,
        env=config.make_env(),
        test=_heldout(config, "test"),
        tuning=_heldout(config, "validation"),
        pool=None,
        network=TABLE,
        agents=agents,
        n_updates=n_updates,
        n_episodes=n_episodes,
    )


def pooled(
    name: str,
    config: EnvConfig,
    network: NetworkConfig,
    agents: Agents,
    n_updates: int,
    n_levels: int,
    n_episodes: int = 4,
) -> MetaTest:
    """A test in which one agent trains on a pool and is measured on held-out levels."""
    pool = LevelSet.generate(
        config.heldout_space(), n_levels, seed=_POOL_SEED, split="train"
    )
    test = alone(name, config, agents, n_updates, n_episodes)
    return dataclasses.replace(test, pool=pool, network=network)


def small_grids() -> EnvConfig:
    """What the quick presets of meta-learners train on."""
    return _config("grid_tasks", **SMALL_GRIDS)


def _grids() -> MetaTest:
    return alone("grids", small_grids(), TABLES, 50)


def _classic() -> MetaTest:
    """LPG's own tabular tasks, some of each; labels begin with the kind."""
    per_kind = [
        _config(
            "grid_tasks",
            levels="classic",
            kinds=(kind,),
            height=13,
            width=13,
            n_objects=5,
            n_heldout=2,
        )
        for kind in _CLASSIC
    ]
    sets = {
        split: _joined([_heldout(config, split) for config in per_kind])
        for split in ("test", "validation")
    }
    every = _config(
        "grid_tasks", levels="classic", kinds=_CLASSIC, height=13, width=13, n_objects=5
    )
    agents = dataclasses.replace(TABLES, ppo=dataclasses.replace(TABLES.ppo, n_envs=64))
    return MetaTest(
        name="classic",
        env=every.make_env(),
        test=sets["test"],
        tuning=sets["validation"],
        pool=None,
        network=TABLE,
        agents=agents,
        n_updates=250,
        n_episodes=4,
    )


def _joined(sets: Sequence[LevelSet]) -> LevelSet:
    """One set of several, labelled by kind."""
    pairs = zip(_CLASSIC, sets, strict=True)
    labels = [f"{kind}/{i}" for kind, own in pairs for i in range(len(own))]
    return dataclasses.replace(
        sets[0],
        name="classic",
        levels=jax.tree.map(
            lambda *leaves: np.concatenate(leaves), *(s.levels for s in sets)
        ),
        hashes=np.concatenate([s.hashes for s in sets]),
        labels=tuple(labels),
    )


def _chains() -> MetaTest:
    return alone("chains", _config("delayed_chain", max_length=50), TABLES, 100)


def _maze() -> MetaTest:
    config = _config("maze", view_size=7, n_heldout=64)
    network = NetworkConfig(torso="mlp", channels=64, core="none")
    return pooled("maze", config, network, NETWORKS, 600, 1024)


def _minatar(game: str) -> Callable[[], MetaTest]:
    def make() -> MetaTest:
        network = NetworkConfig(torso="conv", channels=16, core="none", head_size=64)
        config = _config("minatar", game=game)
        return pooled(f"minatar-{game}", config, network, NETWORKS, 300, 256)

    return make


def _brax() -> MetaTest:
    network = NetworkConfig(torso="mlp", core="none", head_size=64)
    config = _config("brax", task="inverted_pendulum", episode_length=500)
    return pooled("brax", config, network, NETWORKS, 150, 256, n_episodes=1)


#: The tests by name.
TESTS: Mapping[str, Callable[[], MetaTest]] = {
    "grids": _grids,
    "classic": _classic,
    "chains": _chains,
    "maze": _maze,
    "brax": _brax,
    "minatar-breakout": _minatar("breakout"),
    "minatar-asterix": _minatar("asterix"),
    "minatar-freeway": _minatar("freeway"),
    "minatar-space_invaders": _minatar("space_invaders"),
}


def evaluate(name: str, options: RuleEvalOptions) -> pd.DataFrame:
    """Meta-tests a rule beside untrained ones, A2C, PPO and `options.against`.

    Prints a table for each test as soon as it is done, and writes
    `meta_test.parquet` (one row per episode), `meta_test.csv` and `meta_test.png`.

    Returns:
      the summary, one row per test and rule.
    """
    rules = _contestants(name, options)
    names = list(TESTS) if "all" in options.tests else list(options.tests)
    folder = Path(options.out) if options.out else _folder(name)
    try:  # before hours of work, not after
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    console = Console(stderr=True)
    tables: list[pd.DataFrame] = []
    for test_name in names:
        try:
            test = TESTS[test_name]()
            fitting = _fitting(rules, test, console)
        except UserError as error:
            console.print(f"{test_name} is left out: {error}")
            continue
        for one in _variants(test, test_name, options):
            with console.status(one.name) as status:
                episodes = meta_test.run(
                    one, fitting, options.seed, options.runs, status.update
                )
            tables.append(episodes)
            print_summary(summary(episodes), one)
            # Whatever comes next, what is done is kept.
            _write(pd.concat(tables, ignore_index=True), folder)
    if not tables:
        raise UserError("None of the tests suits this rule: choose others with tests.")
    for file in sorted(folder.glob("meta_test.*")):
        print(file)
    return summary(pd.concat(tables, ignore_index=True))


def _contestants(name: str, options: RuleEvalOptions) -> list[NamedRule]:
    rules = [rule_library.find(n) for n in (name, *options.against)]
    named = [dataclasses.replace(rule, name=_short(rule.name, rules)) for rule in rules]
    first = named[0]
    if first.shape is not None:
        named.append(untrained(first))
    known = [rule.name for rule in named]
    for twice in (n for n in known if known.count(n) > 1):
        raise UserError(f"{twice} stands there twice: name it once.")
    return named + [rule_library.find(n) for n in ("a2c", "ppo") if n not in known]


def _short(name: str, rules: Sequence[NamedRule]) -> str:
    """The algorithm of a run or the stem of a file, unless that is another's name."""

    def short(name: str) -> str:
        settings = Path(name) / "config.yaml"
        if settings.exists():
            return configs.read_yaml(settings)["algorithm"]
        return Path(name).stem

    by_hand = rule_library.hand_written()
    if name in by_hand:
        return name
    others = [*by_hand, "untrained", "random"]
    others += [short(rule.name) for rule in rules if rule.name != name]
    return name if short(name) in others else short(name)


def untrained(rule: NamedRule) -> NamedRule:
    """As many rules of the same shape that learned nothing."""
    assert rule.shape is not None
    n = len(jax.tree.leaves(rule.params)[0])
    init = rule.make(PPOConfig(**rule.settings)).init
    params = jax.vmap(init)(jax.random.split(jax.random.key(0), n))
    return dataclasses.replace(rule, name="untrained", params=params)


def _folder(name: str) -> Path:
    return Path(name) / "eval" if Path(name).is_dir() else Path("meta-test")


def _fitting(
    rules: Sequence[NamedRule], test: MetaTest, console: Console
) -> list[NamedRule]:
    """Rules that suit the test's actions; an error if a learned first one does not."""
    fitting = []
    for rule in rules:
        made = rule.make(test.agents.config(rule))
        try:
            made.check(test.env.action_space)
        except UserError as error:
            if rule is rules[0]:
                raise
            console.print(f"{rule.name} is left out of {test.name}: {error}")
            continue
        fitting.append(rule)
    return fitting


def _variants(test: MetaTest, name: str, options: RuleEvalOptions) -> list[MetaTest]:
    """The test, and the grid worlds at other lifetimes."""
    n_updates = max(1, round(test.n_updates * options.scale))
    variants = [dataclasses.replace(test, n_updates=n_updates)]
    if name == "grids":
        variants += [
            dataclasses.replace(test, name=f"grids, {n} updates", n_updates=n)
            for n in options.lifetimes
        ]
    return variants


def summary(episodes: pd.DataFrame) -> pd.DataFrame:
    """One row per test (or kind of level) and rule.

    `return` is the mean over runs and levels; `of_a2c`, `of_ppo` and `of_oracle` are
    that over the mean return of these on the same levels (NaN where that is not above
    0), all with 95 % intervals that redraw runs and levels.
    """
    rows = []
    kind = episodes["level"].astype(str).str.split("/").str[0]
    has_kind = episodes["level"].astype(str).str.contains("/")
    groups = episodes["test"].where(~has_kind, episodes["test"] + " " + kind)
    for group, part in episodes.groupby(groups, sort=False):
        scores = {
            name: own.pivot_table(
                index="run", columns="level", values="return", aggfunc="mean"
            ).to_numpy(float)
            for name, own in part.groupby("rule", sort=False)
        }
        optimal = part.groupby("level")["optimal"].first().to_numpy(float)[None]
        for name, own in part.groupby("rule", sort=False):
            mean = statistics.stratified_bootstrap(
                scores[name], np.mean, resample_tasks=True
            )
            row: dict[str, Any] = {
                "test": group,
                "rule": name,
                "runs": scores[name].shape[0],
                "levels": scores[name].shape[1],
                "lr": own["lr"].iloc[0],
                "lr_at_edge": own["lr_at_edge"].iloc[0],
                "updates": own["updates"].iloc[0],
                "env_steps": own["env_steps"].iloc[0],
                "seconds": own["seconds"].iloc[0],
                "return": mean.point,
                "return_low": mean.low,
                "return_high": mean.high,
                "solved": own["success"].mean(),
            }
            references = {"a2c": scores.get("a2c"), "ppo": scores.get("ppo")}
            for reference, values in (*references.items(), ("oracle", optimal)):
                row |= _share(scores[name], values, f"of_{reference}")
            rows.append(row)
    return pd.DataFrame(rows)


def _share(x: np.ndarray, y: np.ndarray | None, name: str) -> dict[str, float]:
    """Mean of x over mean of y, with its interval; NaN where that means nothing."""
    columns = (name, f"{name}_low", f"{name}_high")
    if y is None or not np.isfinite(y).all() or y.mean() <= 0:
        return dict.fromkeys(columns, np.nan)

    def share(a: np.ndarray, b: np.ndarray) -> float:
        # Redrawn levels may leave nothing to compare with: then there is no interval.
        return a.mean() / b.mean() if b.mean() > 0 else np.nan

    interval = statistics.paired_bootstrap(x, y, share)
    return {name: float(x) for name, x in zip(columns, interval, strict=True)}


def print_summary(table: pd.DataFrame, test: MetaTest) -> None:
    """Shows one test in the terminal."""
    lives = "an agent for each level" if test.pool is None else "one agent for all"
    config, n_rates = test.agents.ppo, len(test.agents.lrs)
    runs = sorted({str(n) for n in table["runs"]})
    shown = Table(
        title=test.name,
        caption=f"{len(test.test)} levels, {' or '.join(runs)} runs, {lives}; "
        f"{test.n_updates:,} updates of {config.n_envs} x {config.n_steps} steps; "
        f"learning rates (lr) chosen from {n_rates} on validation levels, * the lowest "
        "or highest of them; 95 % over runs and levels",
        caption_justify="left",
    )
    shown.add_column("rule", min_width=9, max_width=16)
    for column in ("return", "A2C = 1", "95 %", "PPO = 1", "best = 1", "lr"):
        shown.add_column(column, justify="right", no_wrap=True)
    for group, part in table.groupby("test", sort=False):
        if group != test.name:
            shown.add_section()
            shown.add_row(f"[i]{str(group).removeprefix(test.name).strip()}[/i]")
        for row in part.to_dict("records"):
            shown.add_row(
                row["rule"],
                f"{row['return']:.3g}",
                _number(row["of_a2c"]),
                _range(row["of_a2c_low"], row["of_a2c_high"]),
                _number(row["of_ppo"]),
                _number(row["of_oracle"]),
                f"{row['lr']:g}{'*' * row['lr_at_edge']}"
                if np.isfinite(row["lr"])
                else "-",
            )
    Console().print(shown)


def _number(x: float) -> str:
    return f"{x:.2f}" if np.isfinite(x) else "-"


def _range(low: float, high: float) -> str:
    return f"{low:.2f}, {high:.2f}" if np.isfinite(low) else "-"


def _write(episodes: pd.DataFrame, folder: Path) -> None:
    with write_atomically(folder / "meta_test.parquet") as file:
        episodes.to_parquet(file, index=False)
    table = summary(episodes)
    with write_atomically(folder / "meta_test.csv", "w") as file:
        table.to_csv(file, index=False, float_format="%.6g")
    panels = {
        str(group): part.rename(
            columns={
                "rule": "algorithm",
                "return": "point",
                "return_low": "low",
                "return_high": "high",
            }
        )
        for group, part in table.groupby("test", sort=False)
    }
    pictures.interval_panels(
        panels,
        folder / "meta_test.png",
        "Return on test levels of agents that learned by each rule",
        "95 % intervals over runs and levels",
    )
