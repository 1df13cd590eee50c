"""The linear recurrent core against a plain loop, and against itself step by step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rlgen import linear_recurrent as lru

D, H, B, T = 5, 6, 3, 19


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    params = jax.device_get(lru.init(jax.random.key(0), D, H))
    params |= {k: rng.normal(size=H).astype(np.float32) for k in ("shift", "bg")}
    carry = tuple(rng.normal(size=(2, B, H)).astype(np.float32))
    x = rng.normal(size=(T, B, D)).astype(np.float32)
    return params, carry, x, rng.random((T, B)) < 0.2


def oracle(params, carry, x, reset):
    """Orvieto et al. 2023, in double precision, one step and environment at a time."""
    p = {name: value.astype(np.float64) for name, value in params.items()}
    eigenvalue = np.exp(-np.exp(p["nu"]) + 1j * np.exp(p["theta"]))
    b, c = p["b_re"] + 1j * p["b_im"], p["c_re"] + 1j * p["c_im"]
    out = np.zeros((T, B, H))
    state = carry[0].astype(np.float64) + 1j * carry[1]
    for t in range(T):
        for i in range(B):
            beside = x[t, i].astype(np.float64) @ p["wi"]
            u = (beside - beside.mean()) / np.sqrt(beside.var() + 1e-6)
            u = u * p["scale"] + p["shift"]
            before = 0.0 if reset[t, i] else state[i]
            state[i] = eigenvalue * before + np.exp(p["gamma"]) * (u @ b)
            y = (state[i] @ c).real + p["d"] * u
            y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
            out[t, i] = beside + y / (1 + np.exp(-(y @ p["wg"] + p["bg"])))
    return (state.real, state.imag), out


def assert_close(a, b, rtol=1e-5):
    for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(u, v, rtol=0, atol=rtol * np.abs(v).max())


@pytest.fixture(params=["all_at_once", "one_after_another"])
def way(request, monkeypatch):
    """Both ways to take the steps, whatever the backend would choose."""
    chosen = getattr(lru, request.param)
    for name in ("all_at_once", "one_after_another"):
        monkeypatch.setattr(lru, name, chosen)


@pytest.mark.usefixtures("way")
def test_all_steps_are_those_of_a_plain_loop(problem):
    assert problem[3].any() and not problem[3].all()
    # Traced anew: what one way compiled is not the other's.
    assert_close(jax.jit(lambda *args: lru.run(*args))(*problem), oracle(*problem))


def test_acting_step_by_step_equals_the_sequence(problem):
    params, carry, x, reset = problem
    step, features = jax.jit(lru.step), []
    for t in range(T):
        carry, y = step(params, carry, x[t], reset[t])
        features.append(y)
    assert_close((carry, np.stack(features)), jax.jit(lru.run)(*problem))


def test_nothing_passes_a_reset(problem):
    params, carry, x, reset = problem
    reset = reset.copy()
    reset[10] = True
    other = x.copy()
    other[:10] += 1.0
    ours, theirs = (jax.jit(lru.run)(params, carry, y, reset)[1] for y in (x, other))
    assert np.abs(ours[:10] - theirs[:10]).max() > 0.1
    np.testing.assert_array_equal(ours[10:], theirs[10:])


@pytest.mark.usefixtures("way")
def test_derivatives_are_those_of_finite_differences(problem):
    params, carry, x, reset = problem
    wave = jnp.sin(jnp.arange(T * B * H, dtype=jnp.float32)).reshape(T, B, H)

    def objective(params, carry, x):
        end, features = lru.run(params, carry, x, reset)
        return (features * wave).mean() + sum(jnp.sin(a).mean() for a in end)

    check_grads(jax.jit(objective), (params, carry, x), 1, ["rev"], rtol=2e-2)


def test_memories_begin_long_and_never_grow():
    params = lru.init(jax.random.key(1), D, 512)
    eigenvalue = np.abs(lru._eigenvalues(params))
    assert 0.9 <= eigenvalue.min() < 0.92 and 0.99 < eigenvalue.max() < 0.9991
    # Uniform over the ring's area.
    assert np.mean(eigenvalue**2) == pytest.approx((0.9**2 + 0.999**2) / 2, abs=0.01)
    grown = params | {"nu": params["nu"] + 10.0, "theta": params["theta"] + 3.0}
    assert (np.abs(lru._eigenvalues(grown)) < 1).all()


def test_a_long_noise_keeps_the_size_that_it_begins_with():
    """The factor gamma makes the state's variance that of its inputs."""
    params = lru.init(jax.random.key(2), D, 64)
    x = jax.random.normal(jax.random.key(3), (4000, 1, D))
    carry = lru.initial_carry(1, 64)
    (re, im), _ = jax.jit(lru.run)(params, carry, x, jnp.zeros((4000, 1), bool))
    assert 0.2 < float(jnp.mean(re**2 + im**2)) < 5.0
