"""Recurrent cores against flax's cells, JAX's own derivative and finite differences."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen import recurrent

KINDS = ("lstm", "gru")
INIT = {kind: core.init for kind, core in recurrent.CORES.items()}
STEP = {kind: core.step for kind, core in recurrent.CORES.items()}
RUN = {kind: jax.jit(core.run) for kind, core in recurrent.CORES.items()}
D, H, B = 5, 6, 3
# Shorter than a block; two blocks and a ragged tail.
LENGTHS = (7, 37)


def problem(kind, n_steps, seed=0, reset_rate=0.2):
    """Arrays of NumPy: making them with JAX would compile for longer than the test."""
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    shapes = jax.eval_shape(lambda key: INIT[kind](key, D, H), jax.random.key(0))
    # Biases of zero, which `init` gives, would hide a bias in the wrong place.
    params = {k: normal(*v.shape, scale=0.5) for k, v in shapes.items()}
    carry = (normal(B, H), normal(B, H)) if kind == "lstm" else normal(B, H)
    reset = rng.random((n_steps, B)) < reset_rate
    return params, carry, normal(n_steps, B, D), reset, normal(n_steps, B, H)


def flax_cell(kind, params):
    """The cell of flax with our parameters in its own tree."""
    if kind == "lstm":
        cell, gates = nn.OptimizedLSTMCell(H), "ifgo"
    else:
        cell, gates = nn.GRUCell(H), "rzn"
    tree = {}
    n = len(gates)
    split = np.split if isinstance(params["b"], np.ndarray) else jnp.split
    wi, wh, biases = (split(params[k], n, axis=-1) for k in ("wi", "wh", "b"))
    for gate, kernel_i, kernel_h, b in zip(gates, wi, wh, biases, strict=True):
        tree[f"i{gate}"] = {"kernel": kernel_i}
        tree[f"h{gate}"] = {"kernel": kernel_h}
        tree[("h" if kind == "lstm" else "i") + gate]["bias"] = b
    if kind == "gru":
        tree["hn"]["bias"] = params["bn"]
    return cell, {"params": tree}


def peer(kind, params, carry, x, reset):
    """flax's cell, stepped by a scan with masking; derivatives are JAX's own."""
    cell, variables = flax_cell(kind, params)

    def step(carry, inputs):
        x, reset = inputs
        carry = jax.tree.map(lambda a: jnp.where(reset[:, None], 0.0, a), carry)
        return cell.apply(variables, carry, x)

    return jax.lax.scan(step, carry, (x, reset))


def objective(run, reset, weight):
    """Uses all steps and the last carry, each leaf with another weight."""

    def f(params, carry, x):
        carry, hs = run(params, carry, x, reset)
        ends = [
            (k + 1) * jnp.sin(a).sum() for k, a in enumerate(jax.tree.leaves(carry))
        ]
        return (hs * weight).sum() + sum(ends)

    return f


def assert_close(a, b, rtol=2e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert u.shape == v.shape and u.dtype == v.dtype == jnp.float32
        assert np.abs(v).max() > 0
        np.testing.assert_allclose(u, v, rtol=0, atol=rtol * np.abs(v).max())


@pytest.mark.parametrize("kind", KINDS)
def test_init_has_the_structure_and_scales_of_the_flax_cell(kind):
    params = jax.device_get(INIT[kind](jax.random.key(0), 64, H))
    n = 4 if kind == "lstm" else 3
    shapes = {"wi": (64, n * H), "wh": (H, n * H), "b": (n * H,)}
    if kind == "gru":
        shapes["bn"] = (H,)
    assert {k: v.shape for k, v in params.items()} == shapes
    gates = np.split(params["wh"], n, axis=1)
    for gate in gates:
        np.testing.assert_allclose(gate @ gate.T, np.eye(H), atol=1e-5)
    assert np.abs(gates[0] - gates[1]).max() > 0.1
    assert 0.8 < float(params["wi"].std() * 8) < 1.2
    assert not params["b"].any()
    cell, variables = flax_cell(kind, problem(kind, 1)[0])
    zeros = recurrent.CORES[kind].initial_carry(B, H)
    theirs = jax.eval_shape(cell.init, jax.random.key(1), zeros, jnp.zeros((B, D)))
    assert jax.tree.map(np.shape, theirs) == jax.tree.map(np.shape, variables)


@pytest.mark.parametrize("kind", KINDS)
def test_initial_carry_is_that_of_the_flax_cell(kind):
    cell, _ = flax_cell(kind, problem(kind, 1)[0])
    theirs = cell.initialize_carry(jax.random.key(0), (B, D))
    ours = recurrent.CORES[kind].initial_carry(B, H)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_sequence_equals_flax_stepped_with_masking(kind):
    params, carry, x, reset, _ = problem(kind, 37)
    assert 0 < reset.mean() < 0.5
    ours = RUN[kind](params, carry, x, reset)
    theirs = jax.jit(peer, static_argnums=0)(kind, params, carry, x, reset)
    assert_close(ours, theirs, rtol=3e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_acting_step_by_step_equals_the_sequence(kind):
    params, carry, x, reset, _ = problem(kind, 9)
    expected = RUN[kind](params, carry, x, reset)
    step = jax.jit(STEP[kind])
    hs = []
    for t in range(9):
        carry, h = step(params, carry, x[t], reset[t])
        hs.append(h)
    assert_close((carry, np.stack(hs)), expected, rtol=3e-6)


@pytest.mark.parametrize("n_steps", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_that_jax_derives_for_flax(kind, n_steps):
    params, carry, x, reset, weight = problem(kind, n_steps, seed=1)

    def gradients(run):
        f = objective(run, reset, weight)
        return jax.jit(jax.grad(f, argnums=(0, 1, 2)))(params, carry, x)

    ours = gradients(getattr(recurrent, kind))
    assert_close(ours, gradients(lambda *args: peer(kind, *args)))


@pytest.mark.parametrize("kind", KINDS)
def test_wide_inputs_change_nothing(kind, monkeypatch):
    params, carry, x, reset, weight = problem(kind, 7)

    def value_and_grad(run):
        f = objective(run, reset, weight)
        return jax.value_and_grad(f, argnums=(0, 1, 2))(params, carry, x)

    run = getattr(recurrent, kind)
    narrow = value_and_grad(run)
    monkeypatch.setattr(recurrent, "_WIDE", D - 1)
    assert recurrent._project_wide(params, x)[1].shape[-1] == params["wi"].shape[1]
    wide = value_and_grad(run)
    for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_finite_differences(kind):
    params, carry, x, reset, weight = problem(kind, 6, seed=2)
    f = jax.jit(objective(getattr(recurrent, kind), reset, weight))
    args = (params, carry, x)
    gradient = jax.jit(jax.grad(f, argnums=(0, 1, 2)))(*args)
    leaves, treedef = jax.tree.flatten(args)
    slopes = jax.tree.leaves(jax.device_get(gradient))
    for which, (leaf, slope) in enumerate(zip(leaves, slopes, strict=True)):
        rng = np.random.default_rng(which)
        direction = rng.choice(np.array([-1, 1], np.float32), leaf.shape)

        def along(epsilon):  # moves one leaf
            moved = [*leaves]
            moved[which] = leaf + np.float32(epsilon) * direction
            return float(f(*treedef.unflatten(moved)))

        e = 4e-3
        numeric = (along(e) - along(-e)) / (2 * e)
        exact = float((slope * direction).sum())
        assert abs(exact) > 0.02
        assert abs(numeric - exact) < 0.02 * max(1.0, abs(exact))


@pytest.mark.parametrize("kind", KINDS)
def test_reset_at_the_first_step_ignores_the_carry(kind):
    params, carry, x, reset, weight = problem(kind, 5)
    reset[0] = [True, False, True]
    other = jax.tree.map(lambda a: a + np.float32(1), carry)
    _, hs = RUN[kind](params, carry, x, reset)
    _, hs_other = RUN[kind](params, other, x, reset)
    np.testing.assert_array_equal(hs[:, ::2], hs_other[:, ::2])
    assert np.abs(hs[0, 1] - hs_other[0, 1]).max() > 1e-3
    f = objective(getattr(recurrent, kind), reset, weight)
    slopes = jax.jit(jax.grad(f, argnums=1))(params, carry, x)
    for slope in jax.tree.leaves(slopes):
        assert not slope[::2].any()
        assert np.abs(slope[1]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_blocks_the_gradient_through_time(kind):
    n_steps, at = 20, 11
    params, carry, x, _, _ = problem(kind, n_steps)
    reset = np.zeros((n_steps, B), bool)
    reset[at, 0] = True

    def later(x):
        return getattr(recurrent, kind)(params, carry, x, reset)[1][at:].sum()

    slope = jax.jit(jax.grad(later))(x)
    assert not slope[:at, 0].any()
    assert np.abs(slope[at - 1, 1:]).max(-1).min() > 1e-4
    assert np.abs(slope[at, 0]).max() > 1e-4


@pytest.mark.parametrize(
    ("kind", "over"), [("lstm", "vmap"), ("gru", "vmap"), ("lstm", "lax.map")]
)
def test_a_seed_axis_equals_a_loop(kind, over):
    problems = [problem(kind, 18, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *a: np.stack(a), *problems)

    def gradients(params, carry, x, reset, weight):
        f = objective(getattr(recurrent, kind), reset, weight)
        return jax.grad(f, argnums=(0, 1, 2))(params, carry, x)

    if over == "vmap":
        together = jax.jit(jax.vmap(gradients))(*stacked)
    else:
        together = jax.jit(lambda p: jax.lax.map(lambda a: gradients(*a), p))(stacked)
    gradients = jax.jit(gradients)
    alone = [gradients(*p) for p in problems]
    assert_close(together, jax.tree.map(lambda *a: np.stack(a), *alone))


@pytest.mark.parametrize("kind", KINDS)
def test_shared_weights_under_vmap_equal_a_loop(kind):
    problems = [problem(kind, 7, seed) for seed in range(3)]
    params = problems[0][0]
    data = jax.tree.map(lambda *a: np.stack(a), *(p[1:] for p in problems))

    def loss(params, carry, x, reset, weight):
        return objective(getattr(recurrent, kind), reset, weight)(params, carry, x)

    def total(params):
        return jax.vmap(loss, in_axes=(None, 0, 0, 0, 0))(params, *data).sum()

    gradient = jax.jit(jax.grad(loss))
    alone = [gradient(params, *p[1:]) for p in problems]
    expected = jax.tree.map(lambda *a: sum(a), *alone)
    assert_close(jax.jit(jax.grad(total))(params), expected)
