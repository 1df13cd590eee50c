"""Settings of physics: held-out sets, splits, what training does with them."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen import programs, registry, runner, training
from rlgen.envs.physics.config import (
    HopperConfig,
    InvertedPendulumConfig,
    PhysicsConfig,
    ReacherConfig,
)
from rlgen.envs.physics.physics import TASKS, acting
from rlgen.errors import UserError
from rlgen.levels import LevelSet, assert_disjoint, split_of
from rlgen.store import RunStore

TINY = {
    "n_envs": 4,
    "n_steps": 8,
    "n_epochs": 1,
    "n_minibatches": 2,
    "head_size": 8,
    "buffer_size": 8,
    "min_fill": 0.1,
    "episode_length": 6,
    "n_heldout": 2,
    "eval_episodes": 1,
    "n_updates": 3,
    "eval_every": 0,
    "log_every": 1,
    "progress": False,
    "pictures": False,
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_registered(task):
    config = registry.load(registry.ENVS, task)()
    assert isinstance(config, PhysicsConfig)
    env = config.make_env()
    assert (env.task, env.episode_length) == (task, config.episode_length)
    assert config.make_space().vary == acting(task, config.backend)


def test_held_out_sets_are_what_they_are_called():
    config = HopperConfig(n_heldout=8)
    sets = config.eval_sets() | {k: s for k, (_, s) in config.other_named().items()}
    assert list(sets) == [
        "heldout",
        "extrapolated",
        "named",
        "extrapolated gravity",
        "extrapolated mass",
        "extrapolated gear",
        "extrapolated damping",
        "extrapolated friction",
    ]
    assert sets["named"].labels == ("nominal",)
    assert all(np.all(x == 1) for x in jax.tree.leaves(sets.pop("named").levels))
    for name, level_set in sets.items():
        assert len(level_set) == 8 and level_set.name == name
        assert (np.asarray(split_of(jnp.asarray(level_set.hashes))) == 2).all()
        outside = {
            parameter
            for parameter, x in vars(level_set.levels).items()
            if np.all((x < 0.75) | (x > 1.5))
        }
        inside = {
            parameter
            for parameter, x in vars(level_set.levels).items()
            if np.all((x >= 0.75) & (x <= 1.5))
        }
        expected = {
            "heldout": set(),
            "extrapolated": set(vars(level_set.levels)),
        }.get(name, {name.split()[-1]})
        assert outside == expected and inside == set(vars(level_set.levels)) - expected
    validation = HopperConfig(n_heldout=8, eval_split="validation").eval_sets()
    train = LevelSet.generate(config.make_space(), 64, seed=0, split="train")
    assert_disjoint(train, *sets.values(), *validation.values())


def test_one_multiplier_alone_needs_no_further_sets():
    config = ReacherConfig(vary=("gear",), n_heldout=3)
    assert list(config.other_named()) == ["named"]
    levels = config.eval_sets()["extrapolated"].levels
    assert (levels.mass == 1).all() and (levels.gear != 1).all()


@pytest.mark.parametrize("family", ["nominal", "extrapolated"])
def test_held_out_levels_do_not_depend_on_what_is_trained_on(family):
    sets = ReacherConfig(n_heldout=3).eval_sets()
    others = ReacherConfig(n_heldout=3, levels=family).eval_sets()
    for name, level_set in sets.items():
        np.testing.assert_array_equal(level_set.hashes, others[name].hashes)


def test_given_levels_train_if_they_are_in_range_and_not_held_out(tmp_path):
    config = ReacherConfig(n_heldout=3)
    space = config.make_space()
    train = LevelSet.generate(space, 8, seed=1, split="train", name="train")
    path = str(train.save(tmp_path / "train"))
    again = dataclasses.replace(config, dataset=path).training_set()
    assert again is not None
    np.testing.assert_array_equal(again.hashes, train.hashes)
    test = config.eval_sets()["heldout"].save(tmp_path / "test")
    with pytest.raises(UserError, match="held out"):
        dataclasses.replace(config, dataset=str(test)).training_set()
    with pytest.raises(UserError, match="cannot be solved"):
        dataclasses.replace(config, dataset=path, train_high=1.0).training_set()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": "mild"}, "choose train, extrapolated, nominal"),
        ({"vary": ("gravity",)}, "gravity has no effect on reacher with backend gen"),
        ({"backend": "bullet"}, "choose spring, positional, generalized, mjx"),
        ({"episode_length": 0}, "episode_length is 0: choose"),
        ({"train_high": 0.5}, "choose 0 < far_low < train_low"),
        ({"n_heldout": 0}, "n_heldout is 0"),
    ],
)
def test_bad_settings_get_one_sentence(settings, message):
    with pytest.raises(UserError, match=message):
        ReacherConfig(**settings)


def test_a_backend_changes_what_varies():
    assert "damping" in InvertedPendulumConfig().make_space().vary
    config = InvertedPendulumConfig(backend="spring")
    assert "damping" not in config.make_space().vary


def test_plr_trains_is_stopped_and_goes_on(tmp_path, monkeypatch):
    """The level buffer holds physics; it and the simulations come back."""
    config = training.make_config("plr", "inverted_pendulum", "quick", TINY)
    experiment = config.build()
    program = programs.Program(programs.Plan(experiment, config.run))
    chunk = programs.Program.chunk
    calls = []

    def chunk_then_signal(self, states, n_updates):
        calls.append(n_updates)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return chunk(self, states, n_updates)

    monkeypatch.setattr(programs.Program, "chunk", chunk_then_signal)

    def run():
        store = RunStore.open(tmp_path, config.name, config)
        return store, runner.run(experiment, config.run, store, [], program)

    with pytest.raises(runner.Preempted):
        run()
    store, states = run()
    assert len(calls) == 3
    metrics = store.read_metrics()
    losses = metrics[metrics.kind == "train"].set_index("update")["finite"]
    assert list(losses.index) == [1, 2, 3] and (losses == 1).all()
    space = config.levels_config.make_space()
    buffer = states.curriculum.buffer
    size = int(buffer.size[0])
    kept = jax.tree.map(lambda x: x[0, :size], buffer.batch.levels)
    assert size >= 4 and jax.vmap(space.valid)(kept).all()
    assert len(np.unique(kept.gravity)) == size
