"""Drifts: what mirror learning asks of them, and what each is by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen.algos.drift import DRIFTS
from rlgen.algos.ppo import PPOConfig
from rlgen.errors import UserError

RATIO = np.exp(np.linspace(-3, 3, 301)).astype(np.float32)
ADVANTAGE = np.linspace(-4, 4, 17).astype(np.float32)
R, A = (x.reshape(-1) for x in np.meshgrid(RATIO, ADVANTAGE))
CLIP = np.float32(0.2)


@pytest.mark.parametrize("name", DRIFTS)
def test_a_drift_is_never_negative_and_flat_where_the_policy_is(name):
    drift = DRIFTS[name]
    assert np.all(np.asarray(drift(np.log(R), A, CLIP)) >= 0)
    at_one = jax.vmap(jax.value_and_grad(lambda x, a: drift(x, a, CLIP)), (None, 0))
    value, slope = at_one(jnp.float32(0.0), jnp.asarray(ADVANTAGE))
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(slope, 0)


def test_the_clip_is_ppos():
    drift = np.asarray(DRIFTS["clip"](np.log(R), A, CLIP))
    clipped = np.clip(R, 0.8, 1.2)
    np.testing.assert_allclose(
        R * A - drift, np.minimum(R * A, clipped * A), rtol=1e-5, atol=1e-5
    )


def test_dpo_is_its_closed_form():
    found = np.asarray(DRIFTS["dpo"](np.log(R), A, CLIP))
    for r, a, d in zip(R.astype(float), A.astype(float), found, strict=True):
        x, scale = ((r - 1) * a, 2.0) if a >= 0 else (np.log(r) * a, 0.6)
        expected = max(0.0, x - scale * np.tanh(x / scale))
        assert d == pytest.approx(expected, rel=1e-4, abs=2e-5)


def test_dpo_rolls_back_where_the_clip_stands_still():
    """Bad actions that became rarer still: the clip's slope is 0, DPO pushes back."""

    def slope(name, ratio):
        def objective(log_ratio):
            drift = DRIFTS[name](log_ratio, jnp.float32(-1.0), CLIP)
            return -jnp.exp(log_ratio) - drift

        return float(jax.grad(objective)(jnp.log(jnp.float32(ratio))))

    assert slope("clip", 0.3) == pytest.approx(0.0)
    assert slope("dpo", 0.3) > 0.1


def test_an_unknown_drift():
    with pytest.raises(UserError, match="choose clip, dpo, none"):
        PPOConfig(drift="kl")
