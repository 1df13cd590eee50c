"""Networks: the convolution against flax's, and observations by what spaces declare."""

from __future__ import annotations

import flax.linen as nn
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen import distributions
from rlgen.errors import UserError
from rlgen.networks import (
    ActorCritic,
    NetworkConfig,
    SmallConv,
    make_network,
    zero_obs,
)


@pytest.mark.parametrize("size", [(3, 3), (5, 5), (5, 7), (9, 9), (13, 11)])
def test_convolution_equals_flax(size):
    """Both forms, dense for small images and patches for large ones."""
    image = jax.random.normal(jax.random.key(0), (4, *size, 3))
    ours, peer = SmallConv(6), nn.Conv(6, (3, 3), padding="VALID")
    params = ours.init(jax.random.key(1), image)
    params["params"]["bias"] = jnp.arange(6.0)

    def loss(module):
        return lambda p: jnp.sum(jnp.sin(module.apply(p, image)))

    np.testing.assert_allclose(
        ours.apply(params, image), peer.apply(params, image), atol=1e-5
    )
    for a, b in zip(
        jax.tree.leaves(jax.grad(loss(ours))(params)),
        jax.tree.leaves(jax.grad(loss(peer))(params)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("core", ["none", "gru", "lstm", "lru"])
@pytest.mark.parametrize("torso", ["conv", "mlp"])
def test_acting_equals_replaying(core, torso):
    """Step by step or as one trajectory, resets included, outputs are the same."""
    space = gymnasium.spaces.Dict(
        {
            "view": gymnasium.spaces.Box(0, 4, (5, 5), np.uint8),
            "direction": gymnasium.spaces.Discrete(4),
            "picture": gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8),
            "speed": gymnasium.spaces.Box(-1, 1, (2,), np.float32),
        }
    )
    network = ActorCritic(
        space, gymnasium.spaces.Discrete(3), NetworkConfig(torso, 4, core, 8, 8)
    )
    params = network.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    obs = {
        "view": rng.integers(0, 5, (6, 2, 5, 5)).astype(np.uint8),
        "direction": rng.integers(0, 4, (6, 2)).astype(np.int32),
        "picture": rng.integers(0, 256, (6, 2, 4, 4, 3)).astype(np.uint8),
        "speed": rng.normal(size=(6, 2, 2)).astype(np.float32),
    }
    reset = jnp.asarray(rng.random((6, 2)) < 0.3)
    carry = network.initial_carry(2)
    unroll, step = jax.jit(network.unroll), jax.jit(network.step)
    raw, value = unroll(params, carry, obs, reset)
    for t in range(6):
        step_obs = jax.tree.map(lambda x, t=t: x[t], obs)
        carry, step_raw, step_value = step(params, carry, step_obs, reset[t])
        np.testing.assert_allclose(step_raw, raw[t], atol=1e-5)
        np.testing.assert_allclose(step_value, value[t], atol=1e-5)
    # Every part of the observation reaches the output.
    for name in obs:
        other = obs | {name: np.zeros_like(obs[name])}
        changed, _ = unroll(params, network.initial_carry(2), other, reset)
        assert not np.allclose(changed, raw)


@pytest.mark.parametrize("n_values", [1, 3])
@pytest.mark.parametrize("torso", ["table", "mlp"])
def test_the_values_own_parameters_are_those_that_no_action_depends_on(torso, n_values):
    network = make_network(
        gymnasium.spaces.Discrete(3),
        gymnasium.spaces.Discrete(2),
        NetworkConfig(torso, 4, "none", 8, 8),
        n_values,
    )
    params = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape),
        network.init(jax.random.key(0)),
    )

    def output(which):
        def total(params):
            obs, reset = jnp.arange(3), jnp.ones(3, bool)
            return jnp.sum(jnp.sin(network.step(params, None, obs, reset)[which]))

        return jax.jit(jax.grad(total))(params)

    def check(own, raw, value):
        own = np.broadcast_to(own, raw.shape)
        assert not np.any(raw[own])
        # Whatever moves the value alone is marked.
        assert np.all(own[(raw == 0) & (value != 0)])
        return np.any(value[own])

    part = network.value_part(params)
    moves = jax.tree.map(check, part, output(1), output(2))
    assert any(jax.tree.leaves(moves))


def test_gaussian_policy_by_hand():
    space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    raw = jnp.array([0.5, -1.0, 0.1, 0.2])
    policy = distributions.distribution(space, raw)
    x = np.array([0.0, 0.3])
    std = np.exp([0.1, 0.2])
    density = -0.5 * ((x - [0.5, -1.0]) / std) ** 2 - np.log(std * np.sqrt(2 * np.pi))
    assert float(policy.log_prob(jnp.asarray(x))) == pytest.approx(density.sum(), 1e-5)
    assert distributions.parameter_size(space) == 4


def test_a_huge_deviation_stays_finite():
    space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    policy = distributions.distribution(space, jnp.array([0.0, 1000.0]))
    assert np.isfinite(policy.log_prob(jnp.zeros(1)))


def test_unsupported_actions_say_so():
    with pytest.raises(TypeError, match="use Discrete or a one-dimensional Box"):
        distributions.parameter_size(gymnasium.spaces.MultiBinary(3))


@pytest.mark.parametrize(
    "settings", [{"torso": "vit"}, {"core": "s5"}, {"core_size": 0}, {"channels": 0}]
)
def test_bad_shapes_say_what_to_do(settings):
    with pytest.raises(UserError):
        NetworkConfig(**settings)


def test_zero_obs_has_the_declared_types():
    space = gymnasium.spaces.Dict({"a": gymnasium.spaces.Box(0, 4, (2, 2), np.uint8)})
    assert zero_obs(space)["a"].dtype == np.uint8


@pytest.mark.parametrize("core", ["none", "gru", "lstm", "lru"])
@pytest.mark.parametrize("torso", ["conv", "mlp"])
def test_narrow_products_give_nearly_the_same_in_full_numbers(core, torso):
    space = gymnasium.spaces.Box(0, 4, (7, 7), np.uint8)
    actions = gymnasium.spaces.Discrete(3)
    wide, narrow = (
        ActorCritic(space, actions, NetworkConfig(torso, 8, core, 32, 16, precision))
        for precision in ("float32", "bfloat16")
    )
    params = narrow.init(jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    obs = jax.random.randint(jax.random.key(1), (6, 4, 7, 7), 0, 5).astype(jnp.uint8)
    reset = jnp.zeros((6, 4), bool).at[3, 1].set(True)

    def outputs(network):
        def loss(params):
            carry = network.initial_carry(4)
            raw, value = network.unroll(params, carry, obs, reset)
            return (100 * jnp.square(raw)).mean() + jnp.square(value).mean(), value

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    ((loss, value), grads), ((near, near_value), near_grads) = map(
        outputs, (wide, narrow)
    )
    assert near_value.dtype == jnp.float32
    np.testing.assert_allclose(
        near_value, value, atol=0.03 * float(jnp.abs(value).max())
    )
    assert not np.array_equal(near_value, value)
    assert near == pytest.approx(float(loss), rel=0.05)
    for a, b in zip(jax.tree.leaves(near_grads), jax.tree.leaves(grads), strict=True):
        assert a.dtype == jnp.float32
        assert np.linalg.norm(a - b) <= 0.2 * np.linalg.norm(b)


def test_an_unknown_precision():
    with pytest.raises(UserError, match="Unknown precision 'half': choose float32, b"):
        NetworkConfig(precision="half")
