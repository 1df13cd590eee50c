"""Rewards by a judge, and an agent that learns by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reset_free_data import DISCOUNT, KEY, agent_of, examples, plain_returns, small

from rlgen.algos.offline import judged
from rlgen.algos.offline.classifier import (
    ADAPTED,
)
from rlgen.algos.offline.judged import Judge
from rlgen.transitions import some_of


def test_failures_are_worth_failing_for_ever():
    rng = np.random.default_rng(0)
    last = rng.random(200) < 0.1
    last[-1] = True
    success = (rng.random(200) < 0.3) & last
    success[[3, 50, 51]] = True  # a judge may see one in the middle
    got = judged.returns_to_go(success, last, DISCOUNT)
    np.testing.assert_allclose(got, plain_returns(success, last, DISCOUNT), rtol=1e-5)
    assert float(got.min()) == pytest.approx(-10.0) and float(got.max()) == 0.0


def test_recorded_steps_get_the_judges_rewards():
    data, (stages, states, _) = examples(), small()
    claims = np.asarray(stages[ADAPTED].claims(states[ADAPTED], data.rows.next_obs))
    truth = np.asarray(data.is_success)
    assert claims.sum() > 0 and (claims != truth).any()
    for judge, success in ((Judge(stages[ADAPTED]), claims), (Judge(None), truth)):
        rows = judged.relabelled(judge, states, data, jnp.float32(DISCOUNT)).rows
        last = np.asarray(data.rows.terminated | data.rows.truncated)
        np.testing.assert_array_equal(rows.reward, np.where(success, 0.0, -1.0))
        np.testing.assert_array_equal(rows.terminated, success)
        np.testing.assert_array_equal(rows.truncated, last & ~success)
        np.testing.assert_allclose(
            rows.return_to_go, plain_returns(success, last, DISCOUNT), rtol=1e-5
        )


def test_actions_that_led_to_success_are_cloned_and_no_others():
    agent = agent_of()
    state = jax.jit(agent.init)(KEY)
    fails = judged.failure(DISCOUNT)
    batch = some_of(
        {
            "action": jnp.array([[0.5], [0.0], [-0.5]]),
            "return_to_go": jnp.array([-3.0, fails, 0.0], jnp.float32),
        }
    )
    q, action = jnp.array([-4.0, -8.0, -6.0]), jnp.array([[0.0], [1.0], [0.5]])
    got = agent.regulariser(state, batch, action, q)
    assert float(got) == pytest.approx(2.0 * 6.0 * (0.25 + 0.0 + 1.0) / 3)
    assert agent_of(bc_weight=0.0).regulariser(state, batch, action, q) == 0.0


def test_nothing_is_worth_less_than_failing_for_ever():
    agent = agent_of()
    state = jax.jit(agent.init)(KEY)
    sunk = jax.tree.map(lambda x: x - 30.0, state.targets)
    batch = some_of(
        {
            "reward": jnp.array([-1.0, 0.0]),
            "next_obs": jnp.zeros((2, 2)),
            "terminated": jnp.array([False, True]),
        }
    )
    target = agent.target(state.replace(targets=sunk), batch, KEY)
    np.testing.assert_allclose(target, [-10.0, 0.0], rtol=1e-6)
