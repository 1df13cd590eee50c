"""Optimizers that one can differentiate through: optax's numbers, finite slopes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlgen.algos import optimizers
from rlgen.algos.meta.meta_gradient import MetaGradientConfig
from rlgen.errors import UserError


def tree(scale, seed=0):
    a, b = jax.random.split(jax.random.key(seed))
    return {
        "a": scale * jax.random.normal(a, (3, 2)),
        "b": scale * jax.random.normal(b, (4,)),
    }


@pytest.mark.parametrize("scale", [0.0, 1e-3, 10.0])
def test_one_vector_steps_as_optax_does_leaf_by_leaf(scale):
    leaves = optax.chain(
        optax.clip_by_global_norm(0.5), optax.scale_by_adam(0.9, 0.999, eps=1e-5)
    )
    vector = optimizers.make("adam", 0.5, 1e-5)
    params = tree(1.0)
    state, state_of_vector = leaves.init(params), vector.init(params)
    # Moments of all parameters side by side, and a counter.
    assert [x.ndim for x in jax.tree.leaves(state_of_vector)] == [0, 1, 1]
    for seed in range(3):
        grads = tree(scale, seed)
        step, state = leaves.update(grads, state)
        step_of_vector, state_of_vector = vector.update(grads, state_of_vector)
        for name in params:
            np.testing.assert_allclose(step[name], step_of_vector[name], rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 10.0])
def test_differentiable_steps_are_those_of_optax(name, scale):
    plain = optimizers.make(name, 0.5, 1e-5)
    other = optimizers.make(name, 0.5, 1e-5, differentiable=True)
    params = tree(1.0)
    state, state_other = plain.init(params), other.init(params)
    for seed in range(3):
        grads = tree(scale, seed)
        step, state = plain.update(grads, state)
        step_other, state_other = other.update(grads, state_other)
        for x, y in zip(
            jax.tree.leaves((step, state)),
            jax.tree.leaves((step_other, state_other)),
            strict=True,
        ):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_what_is_clipped_apart_steps_as_by_two_optimizers(name, differentiable):
    """One column of a leaf and a whole other leaf, beside the rest."""
    own = {"a": np.array([False, True]), "b": True}
    params = tree(1.0)
    kinds = {"adam": optax.scale_by_adam(0.9, 0.999, eps=1e-5), "sgd": optax.identity()}
    alone = optax.chain(optax.clip_by_global_norm(0.5), kinds[name])
    parts = [(params["a"][:, 1], params["b"]), params["a"][:, 0]]
    states = [alone.init(part) for part in parts]
    joint = optimizers.make(name, 0.5, 1e-5, differentiable=differentiable, apart=own)
    state = joint.init(params)
    # What it remembers is not of another structure.
    plain = optimizers.make(name, 0.5, 1e-5).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(plain)
    for seed in range(3):
        grads = tree(10.0, seed)
        # Of which one part alone is too long.
        grads["a"] = grads["a"].at[:, 0].multiply(1e-3)
        step, state = joint.update(grads, state)
        (one, whole), states[0] = alone.update(
            (grads["a"][:, 1], grads["b"]), states[0]
        )
        rest, states[1] = alone.update(grads["a"][:, 0], states[1])
        np.testing.assert_allclose(step["a"][:, 1], one, rtol=1e-5)
        np.testing.assert_allclose(step["b"], whole, rtol=1e-5)
        np.testing.assert_allclose(step["a"][:, 0], rest, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_slopes_stay_finite_where_gradients_vanish(name):
    """Adam's root of a second moment near 0, and the norm of nothing."""
    descent = optimizers.make(name, 0.5, 1e-5, differentiable=True)
    params = tree(1.0)

    def moved(scale):
        grads = jax.tree.map(lambda x: scale * x, tree(1.0, 1))
        step, _ = descent.update(grads, descent.init(params))
        return sum(jnp.sum(x) for x in jax.tree.leaves(step))

    for scale in (0.0, 1e-20, 1.0):
        assert np.isfinite(jax.grad(moved)(scale))


def test_slopes_of_plain_descent_are_those_of_the_clipping():
    descent = optimizers.make("sgd", 0.5, 1e-5, differentiable=True)
    weights = jnp.array([3.0, 4.0])

    def moved(scale):
        return descent.update(scale * weights, descent.init(weights))[0][0]

    # Below the norm a step is the gradient; above, its direction alone.
    assert jax.grad(moved)(0.01) == pytest.approx(3.0)
    assert jax.grad(moved)(10.0) == pytest.approx(0.0, abs=1e-6)
    assert moved(10.0) == pytest.approx(0.5 * 3 / 5)


def test_adam_clips_too():
    """Published code ignored the norm of the meta-gradient where it chose Adam."""
    config = MetaGradientConfig(meta_grad_norm=0.1)
    descent = optimizers.make("adam", config.meta_grad_norm, 1e-8)
    state = descent.update(tree(1e3), descent.init(tree(0.0)))[1]
    assert float(optax.global_norm(state[1].mu)) == pytest.approx(0.1 * (1 - 0.9))


def test_an_unknown_optimizer():
    with pytest.raises(UserError, match="choose adam, sgd"):
        optimizers.check("adagrad")
