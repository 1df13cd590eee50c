"""Initial states as levels: seeds, splits, text, held-out sets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen.errors import UserError
from rlgen.interop.brax_env import BraxConfig
from rlgen.interop.starts import Starts, start
from rlgen.levels import LevelFileError, LevelSet, assert_disjoint, split_of

SPACE = Starts()
N = 4000


@pytest.fixture(scope="module")
def levels():
    return jax.vmap(SPACE.sample)(jax.random.split(jax.random.key(0), N))


def test_seeds_are_uniform_over_all_32_bits(levels):
    seeds = np.asarray(levels.seed)
    assert seeds.dtype == np.uint32
    counts, _ = np.histogram(seeds, bins=8, range=(0, 2**32))
    # Four standard deviations of a binomial.
    assert np.abs(counts - N / 8).max() < 4 * np.sqrt(N * (1 / 8) * (7 / 8))
    assert (np.bitwise_and(seeds, 1).mean() - 0.5) ** 2 < 16 / 4 / N


def test_hashes_tell_seeds_apart_and_fill_the_splits(levels):
    hashes = jax.jit(jax.vmap(SPACE.hash))(levels)
    assert hashes.shape == (N, 2) and hashes.dtype == jnp.uint32
    n_seeds = len(np.unique(np.asarray(levels.seed)))
    assert len({row.tobytes() for row in np.asarray(hashes)}) == n_seeds
    # Seeds that people count up by hand are spread as well as random ones.
    counted = jax.vmap(lambda i: SPACE.hash(start(0).replace(seed=i)))(
        jnp.arange(N, dtype=jnp.uint32)
    )
    for some in (hashes, counted):
        shares = np.bincount(np.asarray(split_of(some)), minlength=3) / N
        np.testing.assert_allclose(shares, [0.9, 0.05, 0.05], atol=0.015)


def test_an_edit_is_always_another_seed(levels):
    keys = jax.random.split(jax.random.key(1), N)
    edited = jax.vmap(SPACE.mutate)(keys, levels)
    assert edited.seed.dtype == jnp.uint32
    assert (edited.seed != levels.seed).all()
    last = levels.replace(seed=jnp.full(N, 2**32 - 1, jnp.uint32))
    assert (jax.vmap(SPACE.mutate)(keys, last).seed != last.seed).all()
    assert len(np.unique(np.asarray(edited.seed))) > 0.99 * N


def test_every_level_is_valid_and_featureless(levels):
    assert jax.vmap(SPACE.valid)(levels).all()
    assert jax.vmap(SPACE.features)(levels) == {}


def test_levels_as_text():
    for seed in (0, 7, 2**32 - 1):
        level = SPACE.from_str(SPACE.to_str(start(seed)))
        assert level.seed == seed and level.seed.dtype == np.uint32
    for text in ("5", "{}", '{"seed": -1}', '{"seed": 4294967296}', '{"seed": true}'):
        with pytest.raises(LevelFileError, match="no initial state"):
            SPACE.from_str(text)


def test_held_out_starts_are_not_trained_on():
    (test,) = BraxConfig().eval_sets().values()
    config = BraxConfig(n_heldout=8, eval_split="validation")
    (validation,) = config.eval_sets().values()
    assert len(test) == 16 and len(validation) == 8
    assert (np.asarray(split_of(test.hashes)) == 2).all()
    assert (np.asarray(split_of(validation.hashes)) == 1).all()
    train = LevelSet.generate(SPACE, 500, seed=0, split="train")
    assert_disjoint(train, test, validation)


def test_a_level_set_survives_its_file(tmp_path):
    level_set = LevelSet.generate(SPACE, 20, seed=0, split="train")
    path = level_set.save(tmp_path / "starts")
    config = dataclasses.replace(BraxConfig(), dataset=str(path))
    again = config.training_set()
    assert again is not None
    np.testing.assert_array_equal(again.levels.seed, level_set.levels.seed)
    held_out = BraxConfig().eval_sets()["heldout"].save(tmp_path / "heldout")
    with pytest.raises(UserError, match="held out"):
        dataclasses.replace(config, dataset=str(held_out)).training_set()
