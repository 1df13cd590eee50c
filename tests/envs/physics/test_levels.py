"""Families of physics: ranges, splits, edits, text."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen.env import take
from rlgen.envs.physics.levels import (
    FAMILIES,
    ExtrapolatedLevels,
    NominalLevels,
    PhysicsLevels,
)
from rlgen.envs.physics.physics import PARAMETERS, physics
from rlgen.errors import UserError
from rlgen.levels import LevelFileError, LevelSet, assert_disjoint, split_of

VARY = ("gravity", "gear", "friction")
TRAIN, FAR = PhysicsLevels(VARY), ExtrapolatedLevels(VARY)
ONE_FAR = ExtrapolatedLevels(VARY, beyond=("gear",))
N = 4000


def sample(space, n=N, seed=0):
    return jax.jit(jax.vmap(space.sample))(jax.random.split(jax.random.key(seed), n))


def uniform(values, low, high):
    """Whether values fill a range evenly, by eight bins of a binomial each."""
    assert values.min() >= low and values.max() <= high
    counts, _ = np.histogram(values, bins=8, range=(low, high))
    n = len(values)
    return np.abs(counts - n / 8).max() < 4 * np.sqrt(n * (1 / 8) * (7 / 8))


def test_training_is_log_uniform_in_what_varies():
    levels = sample(TRAIN)
    for name in PARAMETERS:
        values = np.asarray(getattr(levels, name))
        assert values.dtype == np.float32
        if name in VARY:
            assert uniform(np.log(values), np.log(0.75) - 1e-6, np.log(1.5) + 1e-6)
        else:
            assert (values == 1).all()
    logs = np.log([getattr(levels, name) for name in VARY])
    assert np.abs(np.corrcoef(logs)[np.triu_indices(3, 1)]).max() < 0.08


@pytest.mark.parametrize(("space", "beyond"), [(FAR, VARY), (ONE_FAR, ("gear",))])
def test_extrapolation_leaves_the_range_by_either_side(space, beyond):
    levels = sample(space)
    for name in VARY:
        values = np.asarray(getattr(levels, name))
        if name not in beyond:
            assert values.min() >= 0.75 and values.max() <= 1.5
            continue
        below, above = values[values < 0.75], values[values > 1.5]
        assert len(below) + len(above) == N
        assert abs(len(below) - N / 2) < 4 * np.sqrt(N / 4)
        assert uniform(below, 0.5, 0.75) and uniform(above, 1.5, 2.0)
    assert (levels.mass == 1).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_family_draws_is_valid_in_it(name):
    space = FAMILIES[name](VARY)
    assert jax.vmap(space.valid)(sample(space)).all()


@pytest.mark.parametrize(
    ("space", "multipliers", "valid"),
    [
        (TRAIN, {"gravity": 0.75, "gear": 1.5}, True),
        (TRAIN, {"gravity": 0.7499}, False),
        (TRAIN, {"friction": 1.5001}, False),
        (TRAIN, {"mass": 1.1}, False),  # which does not vary
        (FAR, {"gravity": 0.5, "gear": 2.0, "friction": 1.6}, True),
        (FAR, {"gravity": 0.75, "gear": 2.0, "friction": 1.6}, False),
        (FAR, {"gravity": 0.6, "gear": 2.1, "friction": 1.6}, False),
        (FAR, {"gravity": 0.6, "gear": 0.49, "friction": 1.6}, False),
        (ONE_FAR, {"gear": 1.6, "gravity": 1.4}, True),
        (ONE_FAR, {"gear": 1.6, "gravity": 1.6}, False),
        (NominalLevels(VARY), {"gear": 1.2}, True),  # where edits lead
    ],
)
def test_the_ends_of_the_ranges(space, multipliers, valid):
    assert bool(space.valid(physics(**multipliers))) == valid


@pytest.mark.parametrize("space", [TRAIN, FAR, ONE_FAR, NominalLevels(VARY)])
def test_an_edit_moves_one_multiplier_and_stays_in_its_range(space):
    levels = sample(space, 1000)
    for name in VARY:  # the ends, where an edit may be clipped
        ends = (0.5, 2.0) if space in (FAR, ONE_FAR) else (0.75, 1.5)
        if space is ONE_FAR and name != "gear":
            ends = (0.75, 1.5)
        at = np.arange(100)
        values = getattr(levels, name).at[at].set(np.tile(ends, 50))
        levels = levels.replace(**{name: values})
    keys = jax.random.split(jax.random.key(1), 1000)
    edited = jax.vmap(space.mutate)(keys, levels)
    before, after = (
        np.stack([getattr(x, name) for name in PARAMETERS], axis=1)
        for x in (levels, edited)
    )
    assert ((before != after).sum(axis=1) == 1).all()
    assert jax.vmap(space.valid)(edited).all()
    varying = [PARAMETERS.index(name) for name in VARY]
    times = (before != after).sum(axis=0)
    assert times.sum() == times[varying].sum() and times[varying].min() > 250
    step = np.abs(np.log(after / before)).max(axis=1)
    assert 0.05 < np.median(step) < 0.2


def test_nominal_is_one_level_and_of_the_train_split():
    levels = sample(NominalLevels(VARY), 3)
    assert all((getattr(levels, name) == 1).all() for name in PARAMETERS)
    # So that training on it alone needs no level that is held out.
    assert int(split_of(TRAIN.hash(physics()))) == 0


def test_features_are_the_multipliers():
    features = TRAIN.features(physics(gravity=1.25))
    assert tuple(features) == PARAMETERS
    assert float(features["gravity"]) == 1.25 and float(features["mass"]) == 1.0


def test_levels_as_text_keep_every_bit():
    levels = jax.device_get(sample(FAR, 200))
    for i in range(200):
        level = take(levels, i)
        again = TRAIN.from_str(TRAIN.to_str(level))
        assert vars(again) == vars(level)
        assert again.gravity.dtype == np.float32
    assert json.loads(TRAIN.to_str(physics(mass=1.1)))["mass"] == 1.1
    assert vars(TRAIN.from_str('{"gear": 2}')) == vars(physics(gear=2.0))


@pytest.mark.parametrize(
    "text", ["1.5", "x", "[1]", '{"wind": 1}', '{"mass": 0}', '{"mass": "a"}']
)
def test_other_text_gets_one_sentence(text):
    with pytest.raises(LevelFileError, match=r"no physics .*: give"):
        TRAIN.from_str(text)


def test_a_thousand_levels_and_the_other_splits(tmp_path):
    sets = [
        LevelSet.generate(TRAIN, n, seed=0, split=split, name=split)
        for split, n in (("train", 1024), ("validation", 60), ("test", 60))
    ]
    assert_disjoint(*sets)
    for i, level_set in enumerate(sets):
        assert (np.asarray(split_of(jnp.asarray(level_set.hashes))) == i).all()
    again = LevelSet.load(sets[1].save(tmp_path / "set"), TRAIN)
    np.testing.assert_array_equal(again.levels.gear, sets[1].levels.gear)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vary": ()}, "vary is empty: choose one or more of gravity"),
        ({"vary": ("gear", "gear")}, "vary is gear,gear"),
        ({"vary": ("wind",)}, "vary is wind"),
        ({"train_low": 1.5}, "choose 0 < far_low < train_low < train_high < far_high"),
        ({"far_low": 0.0}, "choose 0 < far_low"),
        ({"far_high": 1.2}, "choose 0 < far_low"),
    ],
)
def test_bad_ranges_get_one_sentence(settings, message):
    with pytest.raises(UserError, match=message):
        PhysicsLevels(**settings)
    with pytest.raises(UserError, match="beyond is mass: choose"):
        ExtrapolatedLevels(VARY, beyond=("mass",))
