"""The decision transformer against one written token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from offline_data import episodes_of
from oracles import offline as oracle

from rlgen.algos.offline.decision_transformer import (
    DecisionTransformer,
    TransformerConfig,
)
from rlgen.algos.offline.functions import Factory, NetsConfig
from rlgen.transitions import from_episodes

KEY = jax.random.key(0)
OBS, ACTION, CONTEXT = 3, 2, 4


@pytest.fixture(scope="module")
def agent():
    config = TransformerConfig(
        context=CONTEXT, n_blocks=2, token_size=8, n_heads=2, warmup=10, actor_lr=1e-2
    )
    return DecisionTransformer(Factory(NetsConfig(), OBS + 1 + ACTION, ACTION), config)


@pytest.fixture(scope="module")
def state(agent):
    """Parameters of a size at which every part tells."""
    state, rng = jax.jit(agent.init)(KEY), np.random.default_rng(0)
    apart = jax.tree.map(
        lambda x: x + rng.normal(scale=0.5, size=x.shape).astype(x.dtype), state.params
    )
    return state.replace(params=apart)


def windows(n=5):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, CONTEXT, OBS + 1 + ACTION)).astype(np.float32)


def expected(state, steps):
    """Actions at given steps [T, ...], by the oracle."""
    obs, to_go, action = np.split(np.float64(steps), [OBS, OBS + 1], axis=-1)
    return oracle.transformer(state.params["actor"], obs, to_go, action, 2)


def test_actions_are_those_of_the_steps_there_were_and_of_no_later_ones(agent, state):
    window, n_real = windows(), np.array([1, 2, 3, 4, 4])
    said = jax.jit(agent.actions)(state.params["actor"], window, n_real)
    for i, n in enumerate(n_real):
        theirs = expected(state, window[i, -n:])
        np.testing.assert_allclose(said[i, -n:], theirs, rtol=2e-3, atol=2e-4)


def test_its_memory_is_the_last_steps_of_the_episode(agent, state):
    """Seven steps of two environments, of which one begins anew at the fifth."""
    inputs = np.random.default_rng(2).normal(size=(7, 2, OBS + 1 + ACTION))
    inputs = inputs.astype(np.float32)
    carry, step = agent.initial_carry(2), jax.jit(agent.step)
    for t in range(7):
        reset = np.array([t == 0, t in (0, 4)])
        carry, said = step(state.params["actor"], carry, inputs[t], reset)
        for b, begun in enumerate((0, 4 if t >= 4 else 0)):
            seen = inputs[max(begun, t + 1 - CONTEXT) : t + 1, b]
            theirs = expected(state, seen)[-1]
            np.testing.assert_allclose(said[b], theirs, rtol=2e-3, atol=2e-4)


def test_it_learns_the_actions_of_real_steps_at_a_rate_that_rises(agent, state):
    window, n_real = windows(), np.array([1, 2, 3, 4, 4])
    rows = from_episodes(episodes_of(5, CONTEXT, obs_size=OBS, action_size=ACTION)).rows
    shape = (5, CONTEXT)
    batch = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), rows)
    time = n_real[:, None] - CONTEXT + np.arange(CONTEXT)
    batch = batch.replace(obs=window, time=time)
    error = [
        np.square(np.tanh(expected(state, w[-n:])) - a[-n:]).mean(axis=-1)
        for w, a, n in zip(window, batch.action, n_real, strict=True)
    ]
    batches = jax.tree.map(lambda x: jnp.asarray(x)[None], batch)
    update = jax.jit(agent.update)
    for n_updates, share in ((0, 0.1), (4, 0.5), (9, 1.0), (99, 1.0)):
        given = state.replace(n_updates=jnp.int32(n_updates))
        after, metrics = update(given, batches, KEY)
        assert float(metrics["actor_loss"]) == pytest.approx(
            np.concatenate(error).mean(), rel=1e-3
        )
        assert int(after.n_updates) == n_updates + 1
        # The first step of Adam is as long as its rate.
        moved = jax.tree.map(
            lambda a, b: float(jnp.abs(a - b).max()), after.params, state.params
        )
        longest = max(jax.tree.leaves(moved))
        assert longest == pytest.approx(1e-2 * share, rel=1e-2)
