"""Presets and the advice of environments: what stands above what."""

import dataclasses

import pytest

from rlgen import config as configs
from rlgen import registry, training
from rlgen.errors import UserError

PHYSICS = ("inverted_pendulum", "reacher", "hopper", "ant")
PRESETS = [
    (name, preset)
    for name in registry.names(registry.ALGORITHMS)
    for preset in registry.load(registry.ALGORITHMS, name).presets
]


def flat(*args, **kwargs):
    return configs.flatten(training.make_config(*args, **kwargs))


@pytest.mark.parametrize(("algorithm", "preset"), PRESETS)
def test_a_preset_holds_wholly_in_the_algorithms_own_environment(algorithm, preset):
    entry = registry.load(registry.ALGORITHMS, algorithm)
    values = flat(algorithm, entry.env, preset)
    implied = entry.implied(entry.settings | entry.presets[preset])
    for name, value in entry.presets[preset].items():
        if name not in implied:
            assert values[name] == value, name


@pytest.mark.parametrize("algorithm", ["dr", "plr", "robust-plr", "sfl", "agent"])
@pytest.mark.parametrize("env", PHYSICS)
def test_a_preset_leaves_out_what_the_environment_does_not_have(algorithm, env):
    entry = registry.load(registry.ALGORITHMS, algorithm)
    advice = registry.load(registry.ENVS, env).ADVICE
    assert "view_size" in entry.presets["quick"] or algorithm == "agent"
    values = flat(algorithm, env, "quick")
    assert "view_size" not in values
    for name, value in entry.presets["quick"].items():
        if name in values:
            assert values[name] == advice.get(name, value), name


def misspelt(monkeypatch, **settings):
    """PLR with further settings in its quick preset."""
    plr = registry.load(registry.ALGORITHMS, "plr")
    presets = {"quick": plr.presets["quick"] | settings}
    changed = dataclasses.replace(plr, presets=presets)
    load = registry.load
    monkeypatch.setattr(
        registry,
        "load",
        lambda group, name: (
            changed
            if (group, name) == (registry.ALGORITHMS, "plr")
            else load(group, name)
        ),
    )


@pytest.mark.parametrize("env", ["", "maze", "hopper"])
def test_a_misspelt_preset_is_an_error_everywhere(monkeypatch, env):
    misspelt(monkeypatch, view_sise=7)
    with pytest.raises(UserError, match="Unknown setting view_sise in preset quick"):
        training.make_config("plr", env, "quick")


def test_asked_for_settings_are_never_left_out():
    with pytest.raises(UserError, match="Unknown setting view_size"):
        training.make_config("plr", "hopper", "quick", {"view_size": 7})


def test_advice_stands_above_a_preset_and_beneath_what_is_asked_for():
    advice = registry.load(registry.ENVS, "reacher").ADVICE
    quick = registry.load(registry.ALGORITHMS, "plr").presets["quick"]
    assert (advice["core"], quick["core"]) == ("none", "gru")
    assert flat("plr", "reacher", "quick")["core"] == "none"
    assert flat("plr", "reacher")["core"] == "none"
    asked = flat("plr", "reacher", "quick", {"core": "lstm", "lr": 0.5})
    assert (asked["core"], asked["lr"]) == ("lstm", 0.5)
    assert asked["time_limit"] == "bootstrap"


def test_what_a_rule_needs_stands_above_advice():
    """A2C learns once from the whole of each rollout."""
    assert flat("agent", "reacher")["n_minibatches"] > 1
    values = flat("agent", "reacher", settings={"rule": "a2c"})
    assert (values["n_minibatches"], values["n_epochs"]) == (1, 1)
    assert values["core"] == "none" and values["time_limit"] == "bootstrap"


def test_advice_skips_what_an_algorithm_does_not_have():
    values = flat("level-vae", "reacher")
    assert "time_limit" not in values and "core" not in values


@pytest.mark.parametrize("env", registry.names(registry.ENVS))
def test_advice_names_settings_that_exist(env):
    # What PPO is told, and what learns in models.
    values = flat("mopo", env) | flat("agent", env)
    for name, value in registry.load(registry.ENVS, env).ADVICE.items():
        assert values[name] == value, name


@pytest.mark.parametrize("env", ["maze", "cave", "brax", "grid_tasks"])
def test_other_environments_advise_nothing(env):
    assert not registry.load(registry.ENVS, env).ADVICE
