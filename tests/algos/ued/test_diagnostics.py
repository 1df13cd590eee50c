"""Diagnostics against SciPy, hand computations and sources with known information."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import logsumexp
from scipy.stats import spearmanr

from rlgen import training
from rlgen.algos.ued.diagnostics import (
    conditional_divergence,
    information_bound,
    jensen_shannon,
)
from rlgen.envs.cave import datasets
from rlgen.envs.cave.levels import Blocks, parse_cave

L = 8


def test_divergence_equals_scipy():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5), (2, 6)).astype(np.float32)
    q[0] = p[0]
    p[1] = [1, 0, 0, 0, 0]
    q[1] = [0, 1, 0, 0, 0]
    expected = jensenshannon(p, q, axis=1, base=2) ** 2
    np.testing.assert_allclose(jensen_shannon(p, q), expected, atol=1e-6)


def test_conditional_divergence_by_hand():
    data = jnp.array([[4.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    np.testing.assert_allclose(conditional_divergence(data, 3 * data), 0.0, atol=1e-6)
    # Distance 0 agrees, distance 1 is opposite, distance 2 is only in the other.
    data = jnp.array([[4.0, 0.0], [4.0, 0.0], [0.0, 0.0]])
    other = jnp.array([[2.0, 0.0], [0.0, 4.0], [2.0, 0.0]])
    shares = 0.5 * (np.array([0.5, 0.5, 0.0]) + np.array([0.25, 0.5, 0.25]))
    expected = shares @ np.array([0.0, 1.0, 1.0])
    np.testing.assert_allclose(conditional_divergence(data, other), expected, rtol=1e-6)


def test_tiles_are_counted_by_distance():
    level = parse_cave('S"G\n##~\n###\n')
    histogram = Blocks(3, 3, max_blocks=4).tile_histogram(level)
    expected = np.zeros((10, 4))  # kinds: empty, wall, lava, moss
    expected[0, 0] = 1  # the goal
    expected[1, 3] = expected[2, 0] = 1  # moss, start
    expected[1, 2] = 1  # lava under the goal
    expected[2, 1] = expected[3, 1] = 1  # walls under moss and start
    expected[9, 1] = 3  # the last row of walls is beside nothing
    np.testing.assert_array_equal(histogram, expected)


bound_of = jax.jit(information_bound)


class TestInformation:
    def sample(self, seed, noise, mix=1):
        """Representations that tell L // mix groups of levels apart."""
        rng = np.random.default_rng(seed)
        codes = np.eye(L)[np.arange(L) // mix] * 4
        x = codes[None] + noise * rng.normal(size=(64, L, L))
        return jnp.asarray(x, jnp.float32)

    def bound(self, **kwargs):
        train, test = self.sample(0, **kwargs), self.sample(1, **kwargs)
        return float(bound_of(train, test))

    def test_what_tells_levels_apart_has_all_of_it(self):
        assert self.bound(noise=0.1) == pytest.approx(np.log(L), abs=0.1)

    def test_pairs_that_look_alike_cost_a_bit(self):
        assert self.bound(noise=0.1, mix=2) == pytest.approx(np.log(L / 2), abs=0.15)

    def test_noise_has_none(self):
        assert self.bound(noise=0.1, mix=L) == pytest.approx(0.0, abs=0.2)
        # Never above what there is, by chance or by overfitting.
        assert self.bound(noise=1e3) < 0.1


def test_the_meter_ranks_as_known_information_does():
    """Of normal sources, at the size of a run, spread over few features or many.

    The truth is the expectation of log p(i | x) by the densities themselves; the best
    that so many samples allow is that of who knows both covariances, but not the means.
    """
    n_levels, n_features, n_samples = 512, 128, 16
    own = np.tile(np.arange(n_levels), n_samples)
    truths, bests, bounds = [], [], []

    def information(x, means):
        x = x.reshape(-1, n_features)
        log_p = x @ means.T - 0.5 * (means**2).sum(axis=1)
        log_p = log_p[np.arange(len(x)), own] - logsumexp(log_p, axis=1)
        return np.log(n_levels) + log_p.mean()

    def best(seen, unseen, between):
        posterior = between / (1 + n_samples * between)
        scale = np.sqrt(1 + posterior)
        means = seen.mean(axis=0) * n_samples * posterior
        return information(unseen / scale, means / scale)

    for n_telling, spread in [
        (128, 0.0), (128, 0.1), (128, 0.2), (128, 0.29), (32, 0.3), (32, 0.65),
        (8, 1.0), (8, 2.2), (8, 3.0), (4, 0.5), (2, 1.0), (2, 4.0),
    ]:  # fmt: skip
        rng = np.random.default_rng(1)
        means = np.zeros((n_levels, n_features))
        means[:, :n_telling] = spread * rng.normal(size=(n_levels, n_telling))
        one, other = rng.normal(size=(2, n_samples, n_levels, n_features)) + means
        truths.append(information(other, means))
        between = np.where(np.arange(n_features) < n_telling, spread**2, 0.0)
        bests.append(0.5 * (best(one, other, between) + best(other, one, between)))
        # Whatever is linear in the representation is the same information.
        mixed = rng.normal(size=(n_features, n_features))
        bounds.append(bound_of(*(jnp.asarray(b @ mixed) for b in (one, other))))
    slack = np.array(truths) - np.array(bounds)
    assert spearmanr(truths, bounds).statistic > 0.95
    assert slack.min() > -0.02 and slack.max() < 2.2
    assert np.abs(np.array(bests) - bounds).max() < 0.45
    assert bounds[0] == pytest.approx(0.0, abs=0.01)


def test_a_run_measures_its_student():
    settings = {
        "n_envs": 8, "n_steps": 16, "core": "none", "n_heldout": 4, "max_steps": 16,
        "shift_levels": 8, "mi_steps": 16, "buffer_size": 512,
    }  # fmt: skip
    experiment = training.make_config("plr-d", "cave", settings=settings).build()
    state = jax.jit(experiment.init)(jax.random.key(0))
    measured = jax.jit(experiment.diagnose)(state, jax.random.key(1))
    assert set(measured) == {"shift_gap", "tile_divergence", "mutual_information"}
    assert all(np.isfinite(value) for value in measured.values())
    assert float(measured["mutual_information"]) < np.log(512)
    # Nothing was scored yet: the curriculum's levels are the given ones.
    np.testing.assert_allclose(measured["tile_divergence"], 0.0, atol=1e-4)
    assert len(datasets.shipped("train")) == 512
    without = training.make_config("dr", "cave", settings={"n_heldout": 4}).build()
    assert without.diagnose(None, jax.random.key(0)) == {}
