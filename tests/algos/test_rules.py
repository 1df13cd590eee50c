"""Update rules by name and file: one student for all of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlgen
from rlgen import registry, trees
from rlgen.algos import drift, ppo
from rlgen.algos.meta import lpo
from rlgen.algos.ppo import Hyperparameters, PPOConfig
from rlgen.algos.rule_library import (
    PRETRAINED,
    RuleConfig,
    find,
    hand_written,
    load_rule,
    names,
    save_rule,
)
from rlgen.algos.rules import ONE_STEP, ActorCriticRule
from rlgen.errors import UserError
from rlgen.training import make_config

AGENT = PPOConfig(**ONE_STEP)
SHAPE = RuleConfig(rule_size=4, n_predictions=3)
SMALL = {
    "levels": "chains",
    "min_length": 2,
    "max_length": 30,
    "eval_split": "test",
    "n_envs": 4,
    "n_steps": 6,
    "channels": 8,
    "head_size": 8,
    "eval_episodes": 1,
    "n_updates": 2,
    "log_every": 1,
    "progress": False,
    "pictures": False,
}


@pytest.fixture(scope="module")
def lpg_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rules") / "rule-0.npz"
    save_rule(path, SHAPE.make(AGENT).init(jax.random.key(0)), SHAPE, AGENT)
    return path


def test_a_rule_round_trips_through_its_file_or_its_folder(lpg_file):
    params = SHAPE.make(AGENT).init(jax.random.key(0))
    for path in (lpg_file, lpg_file.parent):
        again = find(str(path))
        assert again.shape == SHAPE
        assert again.is_lpg
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(again.params), strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a[None], b)


@pytest.mark.parametrize("name", ["lpg", "ta-lpg", "lpo", "ta-lpo"])
def test_rules_that_ship_say_where_they_are_from(name):
    rule = find(name)
    assert rule.is_lpg == name.endswith("lpg")
    assert rule.shape is not None
    assert rule.shape.time_aware == name.startswith("ta")
    arrays, about = trees.read(PRETRAINED / f"{name}.npz", "a rule")
    assert about["command"] == f"rlgen train {name} --preset quick"
    assert len(about["commit"]) == 12
    assert all(np.isfinite(x).all() for x in arrays.values())
    assert any(np.any(x != 0) for x in arrays.values())


def test_settings_of_another_kind_of_rule_are_refused():
    with pytest.raises(UserError, match="drift_size has no effect on lpg"):
        RuleConfig(drift_size=4)
    with pytest.raises(UserError, match="rule_size has no effect on lpo"):
        RuleConfig(rule="lpo", rule_size=4)


def test_rules_of_several_shapes_are_no_rule(lpg_file, tmp_path):
    for i, shape in enumerate((SHAPE, RuleConfig(rule_size=5))):
        params = shape.make(AGENT).init(jax.random.key(0))
        save_rule(tmp_path / f"rule-{i}.npz", params, shape, AGENT)
    with pytest.raises(UserError, match="are of several shapes"):
        find(str(tmp_path))


def test_a_rule_file_with_other_shapes_is_refused(lpg_file, tmp_path):
    params, *_ = load_rule(lpg_file)
    save_rule(tmp_path / "other.npz", params, RuleConfig(rule_size=5), AGENT)
    with pytest.raises(UserError, match="use the size and settings that it was train"):
        load_rule(tmp_path / "other.npz")
    with pytest.raises(UserError, match="is not a rule"):
        load_rule(tmp_path / "none.npz")


def test_names_and_settings_that_contradict_a_rule():
    with pytest.raises(
        UserError, match="There is no rule nothing: choose a2c, dpo, lpg"
    ):
        find("nothing")
    with pytest.raises(UserError, match="a2c needs n_epochs=1"):
        find("a2c").make(PPOConfig(n_epochs=4))
    with pytest.raises(UserError, match="one step of its own: n_epochs must be 1"):
        SHAPE.make(PPOConfig())


@pytest.mark.parametrize("rule", ["a2c", "ppo", "dpo", "lpg"])
def test_an_agent_learns_by_any_rule(rule, lpg_file, tmp_path):
    name = str(lpg_file) if rule == "lpg" else rule
    store = rlgen.train("agent", "delayed_chain", rule=name, out=str(tmp_path), **SMALL)
    assert store.is_done
    rows = store.read_metrics()
    assert np.isfinite(rows["loss"].dropna()).all()


def test_a_rule_for_discrete_actions_refuses_others(lpg_file):
    from probes import Probe

    rule = find(str(lpg_file)).make(AGENT)
    with pytest.raises(UserError, match="it needs discrete ones"):
        rule.check(Probe(reward_for="target").action_space)


def test_what_a_flag_implies_stands_below_what_it_says():
    config = make_config("agent", "maze", "", {}, flags={"rule": "a2c"})
    assert config.algo.ppo.n_epochs == 1
    assert config.algo.ppo.drift == "none"
    assert make_config("agent", "maze").algo.ppo.n_epochs == 4
    assert make_config("lpg").env == "grid_tasks"


def test_a_learned_drift_without_weights_is_ppo():
    """From the clip on, a network of zeros changes nothing but its margin."""
    shape = RuleConfig(rule="lpo", from_clip=True, drift_size=4)
    rule = shape.make(PPOConfig())
    assert isinstance(rule, ActorCriticRule)
    params = jax.tree.map(jnp.zeros_like, rule.init(jax.random.key(0)))
    hyper = Hyperparameters.from_config(PPOConfig(), 10, params)
    log_ratio = jnp.linspace(-1.0, 1.0, 9)
    advantage = jnp.linspace(2.0, -2.0, 9)
    found = lpo.drift(hyper.rule, rule.lpo, log_ratio, advantage, 0.2)
    expected = drift.clip(log_ratio, advantage, jnp.float32(0.2))
    np.testing.assert_allclose(found, expected, atol=1.1e-4)
    assert rule.metrics == ppo.METRICS


def test_every_rule_that_ships_is_registered():
    learned = {file.stem for file in PRETRAINED.glob("*.npz")}
    assert len(learned) == 4
    assert set(names()) == learned | {"a2c", "ppo", "dpo"}
    assert set(hand_written()) == {"a2c", "ppo", "dpo"}
    assert {name for name in learned if find(name).shape is not None} == learned


def test_a_file_can_be_registered_as_a_rule(lpg_file, monkeypatch):
    monkeypatch.setattr(registry, "names", lambda group: ["ours"])
    monkeypatch.setattr(registry, "load", lambda group, name: lpg_file)
    found = find("ours")
    assert (found.name, found.shape) == ("ours", SHAPE)
    assert hand_written() == []
