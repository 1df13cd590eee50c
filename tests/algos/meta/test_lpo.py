"""The drift network is a drift for any parameters, and is what the paper says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen.algos import drift as drifts
from rlgen.algos.meta import lpo
from rlgen.algos.meta.lpo import LPOConfig
from rlgen.errors import UserError

LOG_RATIO = np.linspace(-3, 3, 121).astype(np.float32)
ADVANTAGE = np.linspace(-4, 4, 17).astype(np.float32)
X, A = (x.reshape(-1) for x in np.meshgrid(LOG_RATIO, ADVANTAGE))
CONFIGS = [
    LPOConfig(),
    LPOConfig(time_aware=True),
    LPOConfig(from_clip=True),
    LPOConfig(time_aware=True, from_clip=True),
]


def wild(config, seed):
    """Parameters far from where training begins."""
    params = lpo.init(jax.random.key(seed), config)
    return jax.tree.map(lambda x: 5.0 * x, params)


@pytest.mark.parametrize("config", CONFIGS)
def test_it_is_a_drift_whatever_its_parameters(config):
    slope_of = jax.jit(
        jax.vmap(
            jax.value_and_grad(
                lambda x, a, params, share: lpo.drift(params, config, x, a, 0.2, share)
            ),
            (None, 0, None, None),
        )
    )
    for seed in range(20):
        params = wild(config, seed)
        for share in (0.0, 0.3, 1.0):
            assert np.all(np.asarray(lpo.drift(params, config, X, A, 0.2, share)) >= 0)
            value, slope = slope_of(
                jnp.float32(0), jnp.asarray(ADVANTAGE), params, share
            )
            np.testing.assert_array_equal(value, 0)
            np.testing.assert_array_equal(slope, 0)


def test_it_equals_the_formula():
    config = LPOConfig(drift_size=6)
    params = wild(config, 0)
    hidden, out = (np.asarray(params[k], np.float64) for k in ("hidden", "out"))
    found = np.asarray(lpo.drift(params, config, X, A, 0.2))
    for x, a, d in zip(X.astype(float), A.astype(float), found, strict=True):
        u = np.array([x, x**2, 1 - np.exp(x), (1 - np.exp(x)) ** 2])
        net = np.tanh(np.concatenate([u, a * u]) @ hidden) @ out
        assert d == pytest.approx(max(0.0, net[0] - 1e-4), rel=2e-3, abs=2e-4)
    assert found.max() > 0.1


def test_no_network_on_the_clip_is_ppo():
    config = LPOConfig(from_clip=True)
    params = jax.tree.map(jnp.zeros_like, lpo.init(jax.random.key(0), config))
    found = lpo.drift(params, config, X, A, 0.2)
    clipped = drifts.clip(jnp.asarray(X), jnp.asarray(A), jnp.float32(0.2))
    np.testing.assert_allclose(found, np.maximum(clipped - 1e-4, 0), atol=1e-6)


def test_time_matters_where_it_is_read_and_nowhere_else():
    timed, plain = LPOConfig(time_aware=True), LPOConfig()
    params = wild(timed, 0)
    at_start = lpo.drift(params, timed, X, A, 0.2, 0.0)
    at_end = lpo.drift(params, timed, X, A, 0.2, 1.0)
    assert np.abs(np.asarray(at_start - at_end)).max() > 0.1
    without = {"hidden": params["hidden"][:8], "out": params["out"]}
    np.testing.assert_allclose(
        at_start, lpo.drift(without, plain, X, A, 0.2, 0.7), atol=1e-6
    )


def test_shapes_sizes_and_extremes():
    params = lpo.init(jax.random.key(0), LPOConfig())
    assert sum(x.size for x in jax.tree.leaves(params)) == 1152
    shaped = lpo.drift(
        params, LPOConfig(), X[:6].reshape(2, 3), A[:6].reshape(2, 3), 0.2
    )
    assert shaped.shape == (2, 3)

    def total(params, x):
        return jnp.sum(lpo.drift(params, LPOConfig(from_clip=True), x, x, 0.2))

    far = jnp.array([-1e4, -80.0, 80.0, 1e4], jnp.float32)
    for gradient in jax.tree.leaves(jax.grad(total, argnums=(0, 1))(params, far)):
        assert np.all(np.isfinite(gradient))
    with pytest.raises(UserError, match="drift_size is 0"):
        LPOConfig(drift_size=0)
