"""Meta-tests: equal budgets, rates chosen on validation levels, known answers."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest
from probes import Probe

from rlgen import meta_suite
from rlgen.algos import rule_library
from rlgen.algos.meta import meta_test
from rlgen.algos.meta.meta_test import MetaTest
from rlgen.algos.rule_library import NamedRule, RuleConfig
from rlgen.algos.rules import ONE_STEP
from rlgen.cli import main
from rlgen.envs.delayed_chain.config import DelayedChainConfig
from rlgen.errors import UserError
from rlgen.levels import SPLITS, LevelSet, split_of
from rlgen.networks import NetworkConfig

A2C = rule_library.find("a2c")
SHAPE = RuleConfig(rule_size=4, n_predictions=3)


def lpg_rule(n=2) -> NamedRule:
    blank = NamedRule("lpg", ONE_STEP, SHAPE, {"x": np.zeros(n)})
    return dataclasses.replace(meta_suite.untrained(blank), name="lpg")


def chains(n_updates=20, **changes) -> MetaTest:
    config = DelayedChainConfig(min_length=1, max_length=40)
    test = meta_suite.alone("chains", config, meta_suite.TABLES, n_updates, 4)
    labels = tuple(f"validation-{i}" for i in range(len(test.tuning)))
    tuning = dataclasses.replace(test.tuning, labels=labels)
    return dataclasses.replace(test, **{"tuning": tuning} | changes)


def with_rates(test: MetaTest, *lrs: float) -> MetaTest:
    return dataclasses.replace(
        test, agents=dataclasses.replace(test.agents, lrs=lrs, lpg_lrs=lrs)
    )


@pytest.fixture(scope="module")
def table():
    """A2C that may learn or not, LPG that knows nothing, and chance."""
    test = with_rates(chains(n_updates=60), 0.0, 0.3)
    return test, meta_test.run(test, [A2C, lpg_rule()], seed=0, n_runs=2)


def test_the_rate_that_learns_is_chosen_and_learns(table):
    _, rows = table
    a2c = rows[rows["rule"] == "a2c"]
    assert set(a2c["lr"]) == {0.3}
    by_chance = rows[rows["rule"] == "random"]
    assert a2c["return"].mean() > 0.6 > 0.4 > abs(by_chance["return"].mean())
    assert set(rows["optimal"]) == {1.0}


def test_levels_of_the_test_split_alone_are_reported(table):
    test, rows = table
    assert set(rows["level"]) == set(test.test.labels)
    assert not set(rows["level"]) & set(test.tuning.labels)
    for level_set, split in ((test.test, "test"), (test.tuning, "validation")):
        assert set(np.asarray(split_of(level_set.hashes))) == {SPLITS.index(split)}


def test_every_step_of_training_and_tuning_is_counted(table):
    test, rows = table
    # Each test level has an agent, each validation level one for both rates.
    assert (len(test.test), len(test.tuning)) == (3, 5)
    one = (3 + 2 * 5) * 60 * 16 * 20
    for rule, runs in (("a2c", 2), ("lpg", 2)):
        part = rows[rows["rule"] == rule]
        assert set(part["run"]) == set(range(runs))
        assert set(part["env_steps"]) == {one * runs}
    assert set(rows[rows["rule"] == "random"]["env_steps"]) == {0}
    assert set(rows[rows["rule"] == "random"]["updates"]) == {0}


def test_algorithmic_regret_is_what_a2c_earns_more():
    test = with_rates(chains(n_updates=60), 0.3)
    found = meta_test.algorithmic_regret(test, lpg_rule(), A2C, seed=0, n_runs=2)
    assert found.shape == (len(test.test),)
    # A2C finds the good action of short chains, a rule that learned nothing does not.
    assert found.mean() > 0.3


def test_agents_may_learn_on_a_pool_of_training_levels():
    config = DelayedChainConfig(min_length=1, max_length=40)
    test = meta_suite.pooled(
        "chains",
        config,
        NetworkConfig(torso="mlp", channels=4, core="none", head_size=4),
        dataclasses.replace(
            meta_suite.NETWORKS,
            ppo=dataclasses.replace(meta_suite.NETWORKS.ppo, n_envs=8, n_steps=8),
        ),
        n_updates=2,
        n_levels=8,
    )
    assert test.pool is not None
    assert set(np.asarray(split_of(test.pool.hashes))) == {0}
    # One agent to be measured, one for each of four rates.
    assert test.env_steps(A2C) == 5 * 2 * 8 * 8
    assert with_rates(test, 1e-3).env_steps(A2C) == 2 * 8 * 8
    rows = meta_test.run(with_rates(test, 1e-3), [A2C], seed=0, n_runs=1)
    assert len(rows[rows["rule"] == "a2c"]) == len(test.test) * 4
    assert np.isfinite(rows["return"]).all()


def test_a_rule_that_does_not_suit_the_actions_is_left_out():
    test = chains(env=Probe(reward_for="target"))
    console = meta_suite.Console(quiet=True)
    rules = [A2C, lpg_rule()]
    assert meta_suite._fitting(rules, test, console) == [A2C]
    with pytest.raises(UserError, match="it needs discrete ones"):
        meta_suite._fitting(rules[::-1], test, console)


def episodes(test, rule, returns, optimal):
    """Rows of returns [runs, levels], one episode each."""
    run, level = np.indices(np.shape(returns))
    return pd.DataFrame(
        {
            "test": test,
            "rule": rule,
            "run": run.reshape(-1),
            "level": [f"l{i}" for i in level.reshape(-1)],
            "episode": 0,
            "return": np.asarray(returns, float).reshape(-1),
            "success": True,
            "length": 1,
            "optimal": np.asarray(optimal, float)[level.reshape(-1)],
            "lr": 0.1,
            "lr_at_edge": False,
            "updates": 5,
            "env_steps": 10,
            "seconds": 1.0,
        }
    )


def test_shares_are_of_means_over_the_same_levels():
    rows = pd.concat(
        [
            episodes("t", "mine", [[1.0, 3.0], [2.0, 2.0]], [4.0, 4.0]),
            episodes("t", "a2c", [[2.0, 4.0], [3.0, 3.0]], [4.0, 4.0]),
            episodes("t", "ppo", [[-1.0, 0.0], [0.0, -1.0]], [4.0, 4.0]),
        ]
    )
    table = meta_suite.summary(rows).set_index("rule")
    mine = table.loc["mine"]
    assert mine["return"] == 2.0
    assert mine["of_a2c"] == pytest.approx(2 / 3)
    assert mine["of_a2c_low"] <= 2 / 3 <= mine["of_a2c_high"]
    assert mine["of_oracle"] == 0.5
    # A share of nothing, or of less, says nothing.
    assert np.isnan(mine["of_ppo"])


def test_tables_learn_by_lpg_with_the_optimizer_that_the_rule_was_learned_with():
    """Rules that ship were learned with one for policy and prediction, as ever."""
    test = {"lpg": {"separate_clip": False, "value_lr_ratio": 1.0}}
    test["ta-lpg"] = test["lpg"]
    for name, settings in test.items():
        rule = rule_library.find(name)
        agent = dataclasses.asdict(meta_suite.TABLES.config(rule))
        assert agent == agent | settings
        assert rule.learned_on["lr"] == 40.0
    two = {"separate_clip": True, "value_lr_ratio": 0.1, "n_envs": 99}
    rule = dataclasses.replace(lpg_rule(), learned_on=two)
    agent = meta_suite.TABLES.config(rule)
    assert (agent.separate_clip, agent.value_lr_ratio, agent.n_envs) == (True, 0.1, 16)
    # Networks share what comes before their heads, and have an optimizer of their own.
    assert not meta_suite.NETWORKS.config(rule).separate_clip
    assert not meta_suite.TABLES.config(A2C).separate_clip


def test_kinds_of_levels_have_rows_of_their_own():
    rows = episodes("classic", "a2c", [[1.0, 3.0]], [4.0, 4.0])
    rows["level"] = ["dense/0", "long/0"]
    table = meta_suite.summary(rows)
    assert list(table["test"]) == ["classic dense", "classic long"]
    assert list(table["return"]) == [1.0, 3.0]


def test_the_command_writes_tables_and_a_figure(tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine.npz"
    params = SHAPE.make(meta_suite.PPOConfig(**ONE_STEP)).init(jax.random.key(0))
    rule_library.save_rule(path, params, SHAPE, meta_suite.PPOConfig(**ONE_STEP))
    monkeypatch.setattr(
        meta_suite, "TESTS", {"chains": lambda: with_rates(chains(n_updates=2), 0.1)}
    )
    out = tmp_path / "out"
    flags = ["--tests", "chains", "--runs", "1", "--out", str(out)]
    assert main(["eval", str(path), *flags]) == 0
    printed = capsys.readouterr().out
    table = pd.read_csv(out / "meta_test.csv")
    assert list(table["rule"]) == ["mine", "untrained", "a2c", "ppo", "random"]
    assert (out / "meta_test.png").stat().st_size > 5000
    assert len(pd.read_parquet(out / "meta_test.parquet")) > 0
    for rule in table["rule"]:
        assert rule in printed


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--tests", "nowhere"], "Unknown test 'nowhere': choose all"),
        (["--runs", "0"], "runs is 0: choose at least 1"),
        (["--against", "nobody"], "There is no rule nobody"),
        (["--against", "a2c"], "a2c stands there twice"),
        (["--tests", "maze", "--lifetimes", "5"], "add grids to tests"),
    ],
)
def test_bad_flags_end_with_one_sentence(flags, sentence, capsys):
    assert main(["eval", "a2c", *flags]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nonsense", "runs"])
def test_what_is_no_rule_and_no_run(name, capsys, tmp_path):
    assert main(["eval", str(tmp_path / name), "--tests", "grids"]) == 2
    assert "is neither a run directory nor a rule" in capsys.readouterr().err


def test_a_file_cannot_pass_for_a_hand_written_rule(tmp_path):
    path = tmp_path / "a2c.npz"
    agent = meta_suite.PPOConfig(**ONE_STEP)
    rule_library.save_rule(
        path, SHAPE.make(agent).init(jax.random.key(0)), SHAPE, agent
    )
    options = meta_suite.RuleEvalOptions()
    names = [rule.name for rule in meta_suite._contestants(str(path), options)]
    assert names == [str(path), "untrained", "a2c", "ppo"]


def test_every_test_of_the_suite_can_be_made():
    for name, make in meta_suite.TESTS.items():
        test = make()
        assert isinstance(test.test, LevelSet)
        assert test.name == name
        assert test.n_updates >= 50
        # As many rates for every rule.
        assert len(test.agents.lrs) == len(test.agents.lpg_lrs)
