"""The family of tasks, its splits, its settings, and what is recorded on it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen import datasets
from rlgen.env import take
from rlgen.envs.tabletop import Tabletop, Tasks, demonstrations
from rlgen.envs.tabletop.config import TabletopConfig
from rlgen.envs.tabletop.demonstrations import Amounts
from rlgen.errors import UserError
from rlgen.levels import LevelFileError, assert_disjoint, split_of

KEY = jax.random.key(0)
SPACE = Tasks()
FEW = Amounts(n_prior=3, n_demos=4, n_target_demos=5, n_failures=6, n_prior_failures=2)


@functools.cache
def sampled():
    return jax.device_get(jax.jit(jax.vmap(SPACE.sample))(jax.random.split(KEY, 256)))


def test_tasks_are_in_their_ranges_and_wide():
    tasks = sampled()
    assert np.asarray(jax.vmap(SPACE.valid)(tasks)).all()
    assert np.abs(tasks.goal).max() <= 0.8 and np.abs(tasks.home).max() > 0.75
    apart = np.hypot(*(tasks.goal - tasks.home).T)
    assert apart.min() >= 0.5 and apart.min() < 0.6
    assert 0.4 < tasks.backward.mean() < 0.6
    for direction in ("forward", "backward"):
        level = Tasks(direction).sample(jax.random.fold_in(KEY, 3))
        assert bool(level.backward) == (direction == "backward")
        np.testing.assert_array_equal(level.goal, SPACE.sample(
            jax.random.fold_in(KEY, 3)
        ).goal)  # fmt: skip


def test_what_is_out_of_range_is_no_task():
    level = SPACE.example()
    for change in (
        {"goal": np.array([0.9, 0.0], np.float32)},
        {"goal": np.array([-0.3, 0.0], np.float32)},  # too near home
        {"spread": np.float32(0.3)},
        {"mass": np.float32(0.1)},
        {"friction": np.float32(11.0)},
    ):
        assert not SPACE.valid(level.replace(**change)), change
    assert SPACE.valid(level)


def test_a_task_is_of_one_split_in_both_directions():
    tasks = sampled()
    turned = tasks.replace(backward=~tasks.backward, number=tasks.number + 1)
    hash_of = jax.jit(jax.vmap(SPACE.hash))
    one, other = hash_of(tasks), hash_of(turned)
    np.testing.assert_array_equal(split_of(one), split_of(other))
    assert len({h.tobytes() for h in np.concatenate([one, other])}) == 512
    assert set(np.asarray(split_of(one))) == {0, 1, 2}


def test_tasks_have_a_text_and_neighbours():
    tasks, mutate = sampled(), jax.jit(SPACE.mutate)
    for i in range(0, 256, 40):
        level = take(tasks, i)
        again = SPACE.from_str(SPACE.to_str(level))
        for a, b in zip(jax.tree.leaves(level), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.asarray(a).dtype == np.asarray(b).dtype
        child = mutate(jax.random.key(i), level)
        moved = np.abs(child.goal - level.goal) + np.abs(child.home - level.home)
        assert SPACE.valid(child) and moved.max() > 1e-3
        assert child.mass == level.mass and child.backward == level.backward


@pytest.mark.parametrize(
    "text",
    [
        "a task",
        "[1, 2]",
        '{"goal": [0.5, 0.0]}',
        SPACE.to_str(SPACE.example()).replace("[0.5, 0.0]", "[0.5]"),
        SPACE.to_str(SPACE.example()).replace("[0.5, 0.0]", "[5.0, 0.0]"),
    ],
)
def test_what_is_no_task_is_said(text):
    with pytest.raises(LevelFileError, match="This is no task"):
        SPACE.from_str(text)


def test_the_same_tasks_are_held_out_in_both_directions():
    sets = TabletopConfig(n_heldout=5).eval_sets()
    forward, back = sets["heldout"], sets["heldout back"]
    np.testing.assert_array_equal(forward.levels.goal, back.levels.goal)
    assert not forward.levels.backward.any() and back.levels.backward.all()
    assert_disjoint(forward, back)
    for level_set in sets.values():
        assert (np.asarray(split_of(jnp.asarray(level_set.hashes))) == 2).all()
    with pytest.raises(UserError, match="Unknown direction"):
        TabletopConfig(direction="sideways")


@functools.cache
def recorded():
    return demonstrations.record(Tabletop(), KEY, FEW)


def test_demonstrations_succeed_and_failures_fail():
    episodes, level_set = recorded()
    assert level_set.provenance["target_levels"] == [6, 7] and len(level_set) == 8
    assert level_set.labels[0] == "prior 0, forward"
    assert level_set.labels[7] == "target, backward"
    counted = {}
    for episode in episodes:
        total = float(episode.rewards.sum())
        key = (episode.level_id, total)
        counted[key] = counted.get(key, 0) + 1
        assert total in (0.0, 1.0) and episode.rewards[-1] == total
        assert episode.terminations[-1] == (total == 1)
        assert episode.truncations[-1] == (total == 0)
        assert len(episode) == 40 or total == 1
        # What is observed says the same: the object lies at the target, let go.
        last, level = episode.observations[-1], level_set[episode.level_id]
        there = np.hypot(*last[10:12]) < last[12] and last[5] == 0
        assert not (total == 1 and not there)
        assert last[13] == level.backward
    prior = {(i, total): n for i in range(6) for total, n in ((0.0, 1), (1.0, 2))}
    target = {(i, total): n for i in (6, 7) for total, n in ((0.0, 3), (1.0, 5))}
    assert counted == prior | target


def test_recorded_tasks_are_distinct_and_trained_on():
    _, level_set = recorded()
    assert (np.asarray(split_of(jnp.asarray(level_set.hashes))) == 0).all()
    np.testing.assert_array_equal(level_set.levels.number, np.repeat(range(4), 2))
    assert len(np.unique(level_set.levels.goal, axis=0)) == 4
    tests = demonstrations.target_sets(level_set)
    assert [len(s) for s in tests.values()] == [1, 1]
    np.testing.assert_array_equal(tests["target back"][0].goal, level_set[6].goal)
    assert tests["target back"][0].backward and not tests["target"][0].backward


def test_failures_are_of_two_kinds():
    """Aimless ones, and some that put the object down beside the target."""
    episodes, _ = recorded()
    fails = [e.observations for e in episodes if e.rewards.sum() == 0]
    carried = [obs for obs in fails if obs[:, 5].sum() > 5]
    assert len(fails) == 12 and len(carried) == 2  # every second one at the target
    for obs in carried:
        beside = np.hypot(*obs[-1, 10:12]) - obs[-1, 12]
        assert 0.0 < beside < 0.35 and not obs[-1, 5]


def test_the_same_key_records_the_same(tmp_path):
    episodes, level_set = recorded()
    again, _ = demonstrations.record(Tabletop(), KEY, FEW)
    for a, b in zip(episodes, again, strict=True):
        np.testing.assert_array_equal(a.observations, b.observations)
    other, _ = demonstrations.record(Tabletop(), jax.random.key(1), FEW)
    assert not np.array_equal(episodes[0].observations[0], other[0].observations[0])
    folder = datasets.save(
        tmp_path / "tabletop" / "few-v0",
        episodes,
        name="tabletop/few-v0",
        observation_space=Tabletop().observation_space,
        action_space=Tabletop().action_space,
        level_set=level_set,
    )
    loaded = datasets.load(folder, SPACE)
    assert loaded.level_set.provenance["target_levels"] == [6, 7]
    assert len(loaded.data.rows) == sum(map(len, episodes))


def test_what_cannot_be_recorded_is_said(monkeypatch):
    with pytest.raises(UserError, match="made a demonstration, 2 are wanted"):
        demonstrations.record(Tabletop(max_steps=3), KEY, FEW)
    with pytest.raises(UserError, match="at least 2"):
        Amounts(n_demos=1)
    record = functools.partial(demonstrations.record, amounts=FEW)
    monkeypatch.setattr(demonstrations, "record", record)
    recordings = TabletopConfig().recordings()
    with pytest.raises(UserError, match="The demonstrations take"):
        recordings["demonstrations"](100, 0)
    made = recordings["demonstrations"](100_000, 0)
    assert set(made.tests) == {"target", "target back"} and len(made.level_set) == 8
