"""Advantages against sums over episodes, closed forms and one case by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracles import gae as oracle

from rlgen.returns import gae

T, B = 9, 3
jitted = jax.jit(gae)

numbers = st.floats(-4, 4, width=32)
steps = arrays(np.float32, (T, B), elements=numbers)
flags = arrays(np.bool_, (T, B))


@st.composite
def rollouts(draw):
    return {
        "reward": draw(steps),
        "value": draw(steps),
        "terminated": draw(flags),
        "truncated": draw(flags),
        "last_value": draw(arrays(np.float32, (B,), elements=numbers)),
        "final_value": draw(st.none() | steps),
    }


def fixed_rollout(seed=0, end_rate=0.2):
    rng = np.random.default_rng(seed)
    return {
        "reward": rng.normal(size=(T, B)).astype(np.float32),
        "value": rng.normal(size=(T, B)).astype(np.float32),
        "terminated": rng.random((T, B)) < end_rate,
        "truncated": rng.random((T, B)) < end_rate,
        "last_value": rng.normal(size=B).astype(np.float32),
        "final_value": rng.normal(size=(T, B)).astype(np.float32),
    }


@settings(max_examples=60, deadline=None)
@given(rollouts(), st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_advantages_equal_sums_over_the_rest_of_the_episode(
    rollout, discount, gae_lambda
):
    advantage, target = jitted(**rollout, discount=discount, gae_lambda=gae_lambda)
    expected = oracle.advantages(**rollout, discount=discount, gae_lambda=gae_lambda)
    np.testing.assert_allclose(advantage, expected, rtol=2e-5, atol=2e-4)
    np.testing.assert_allclose(
        target, expected + rollout["value"], rtol=2e-5, atol=2e-4
    )


@pytest.mark.parametrize("time_limit", ["terminate", "bootstrap"])
def test_time_limits_equal_a_hand_computation(time_limit):
    """One published library stores the value after a time limit, then masks it away.

    Rewards 1, 2, 4 and values 10, 20, 40 with discount 1/2 and lambda 1/2; the second
    step hits the time limit, the last observation of its episode is worth 8, and the
    observation after the rollout 16.
      step 3: 4 + 8 - 40 = -28
      step 2: 2 + 0 - 20 = -18, or 2 + 4 - 20 = -14 with bootstrapping
      step 1: 1 + 10 - 10 + 1/4 (step 2) = -3.5, or -2.5
    """
    column = np.array([[1.0], [2.0], [4.0]], np.float32)
    no = np.zeros((3, 1), bool)
    advantage, target = gae(
        reward=column,
        value=10 * column,
        terminated=no,
        truncated=np.array([[False], [True], [False]]),
        last_value=np.float32([16]),
        final_value=np.float32([[np.nan], [8], [np.nan]])
        if time_limit == "bootstrap"
        else None,
        discount=0.5,
        gae_lambda=0.5,
    )
    expected = {"terminate": [-3.5, -18, -28], "bootstrap": [-2.5, -14, -28]}
    np.testing.assert_array_equal(advantage[:, 0], expected[time_limit])
    np.testing.assert_array_equal(target, advantage + 10 * column)


def test_a_termination_at_the_time_limit_is_a_termination():
    """A final step that both ends and times out is followed by nothing."""
    yes = np.ones((1, 1), bool)
    advantage, _ = gae(
        reward=np.float32([[3]]),
        value=np.float32([[1]]),
        terminated=yes,
        truncated=yes,
        last_value=np.float32([100]),
        final_value=np.float32([[100]]),
        discount=0.9,
        gae_lambda=0.9,
    )
    np.testing.assert_allclose(advantage, [[2.0]], rtol=1e-6)


@pytest.mark.parametrize("flag", ["terminated", "truncated"])
@pytest.mark.parametrize("time_limit", ["terminate", "bootstrap"])
def test_no_advantage_leaks_across_the_end_of_an_episode(flag, time_limit):
    """Bootstrapping a truncation must not let the next episode's rewards through."""
    rollout = fixed_rollout(end_rate=0.0)
    rollout[flag][4] = True
    if time_limit == "terminate":
        rollout["final_value"] = None
    before, _ = jitted(**rollout, discount=0.99, gae_lambda=0.95)
    rollout["reward"][5:] += 1000
    rollout["value"][5:] -= 1000
    rollout["last_value"] += 1000
    after, _ = jitted(**rollout, discount=0.99, gae_lambda=0.95)
    np.testing.assert_array_equal(before[:5], after[:5])
    assert np.all(before[5:] != after[5:])


def test_lambda_one_equals_monte_carlo_returns():
    """With lambda 1 the targets are discounted returns, whatever the critic says."""
    rollout = fixed_rollout(end_rate=0.15)
    discount = 0.9
    _, target = jitted(**rollout, discount=discount, gae_lambda=1.0)
    for env in range(B):
        total = rollout["last_value"][env]
        for t in reversed(range(T)):
            if rollout["terminated"][t, env]:
                total = 0.0
            elif rollout["truncated"][t, env]:
                total = rollout["final_value"][t, env]
            total = rollout["reward"][t, env] + discount * total
            np.testing.assert_allclose(target[t, env], total, rtol=1e-4, atol=1e-5)


def test_lambda_zero_equals_temporal_differences():
    """With lambda 0 nothing but the next value is seen."""
    rollout = fixed_rollout(end_rate=0.0)
    advantage, _ = jitted(**rollout, discount=0.9, gae_lambda=0.0)
    following = np.concatenate([rollout["value"][1:], rollout["last_value"][None]])
    expected = rollout["reward"] + 0.9 * following - rollout["value"]
    np.testing.assert_allclose(advantage, expected, rtol=1e-4, atol=1e-5)


def test_final_values_are_read_only_where_an_episode_was_truncated():
    """What a network says about observations that are no last ones must not matter."""
    rollout = fixed_rollout(3)
    hidden = rollout["final_value"].copy()
    hidden[~rollout["truncated"] | rollout["terminated"]] = np.nan
    advantage, target = jitted(
        **rollout | {"final_value": hidden}, discount=0.9, gae_lambda=0.8
    )
    expected, _ = jitted(**rollout, discount=0.9, gae_lambda=0.8)
    np.testing.assert_array_equal(advantage, expected)
    assert jnp.all(jnp.isfinite(target))
