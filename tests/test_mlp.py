"""MLPs against plain NumPy, and their slopes against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen.mlp import MLP, init_ensemble


def plain(params, x, *, norm):
    for i, layer in enumerate(params):
        x = x @ layer["kernel"] + layer["bias"]
        if i < len(params) - 1:
            x = np.maximum(x, 0)
            if norm:
                mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
                x = (x - mean) / np.sqrt(var + 1e-5) * layer["scale"] + layer["offset"]
    return x


@pytest.mark.parametrize("norm", [False, True])
def test_outputs_are_those_of_plain_layers(norm):
    mlp = MLP(2, 8, 3, layer_norm=norm)
    params = mlp.init(jax.random.key(0), 5)
    x = np.random.default_rng(0).normal(size=(4, 7, 5)).astype(np.float32)
    expected = plain(jax.tree.map(np.asarray, params), x, norm=norm)
    np.testing.assert_allclose(mlp(params, x), expected, rtol=1e-5, atol=1e-6)


def test_parts_are_joined_and_shared():
    mlp = MLP(1, 8, 3)
    params = mlp.init(jax.random.key(0), 5)
    rng = np.random.default_rng(0)
    shared = jnp.asarray(rng.normal(size=(4, 2)))
    own = jnp.asarray(rng.normal(size=(6, 4, 3)))
    whole = jnp.concatenate([jnp.broadcast_to(shared, (6, 4, 2)), own], axis=-1)
    np.testing.assert_array_equal(mlp(params, shared, own), mlp(params, whole))


def test_slopes_are_finite_differences_in_an_ensemble():
    """Of parameters and inputs, for a stack of inputs, as critics are asked."""
    mlp = MLP(3, 6, 1, "tanh")  # smooth
    with jax.enable_x64(True):
        params = init_ensemble(lambda k: mlp.init(k, 5), jax.random.key(0), 2)
        params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(3, 4, 5)))

        def loss(params, x):
            return jnp.sin(jax.vmap(lambda p: mlp(p, x))(params)).sum()

        def moved(step):
            way = jax.tree.map(
                lambda p: jnp.asarray(np.random.default_rng(1).normal(size=p.shape)),
                (params, x),
            )
            there = jax.tree.map(lambda a, b: a + step * b, (params, x), way)
            return loss(*there), way

        slopes = jax.grad(loss, argnums=(0, 1))(params, x)
        ahead, way = moved(1e-6)
        expected = (ahead - moved(-1e-6)[0]) / 2e-6
        along = jax.tree.map(lambda a, b: (a * b).sum(), slopes, way)
        np.testing.assert_allclose(
            sum(jax.tree.leaves(along)), expected, rtol=1e-6, atol=1e-9
        )


def test_slopes_of_slopes():
    """As EDAC needs them."""
    mlp = MLP(2, 6, 1, "tanh")
    params = mlp.init(jax.random.key(0), 3)
    x = jax.random.normal(jax.random.key(1), (4, 3))

    def steepness(params, product):
        def value(x):
            for i, layer in enumerate(params):
                x = product(x, layer["kernel"]) + layer["bias"]
                x = jnp.tanh(x) if i < 2 else x
            return x.sum()

        return jnp.square(jax.grad(value)(x)).sum()

    def own(params):
        return jnp.square(jax.grad(lambda x: mlp(params, x).sum())(x)).sum()

    expected = jax.grad(lambda p: steepness(p, jnp.matmul))(params)
    for a, b in zip(
        jax.tree.leaves(jax.grad(own)(params)), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
