"""Lives of agents: what they earned, and how their rate of learning falls."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe

from rlgen.algos.meta.gallery import Returns
from rlgen.algos.meta.lifetime import Lifetime
from rlgen.algos.meta.tasks import Task
from rlgen.algos.ppo import PPOConfig
from rlgen.algos.rules import ONE_STEP, ActorCriticRule
from rlgen.algos.student import Student
from rlgen.networks import NetworkConfig

KEY = jax.random.key(0)


def test_returns_are_of_the_episode_that_ended_last_or_goes_on():
    """Of three environments: two episodes ended, one did, none did."""
    reward = np.array([[1.0, 2.0, 4.0], [8.0, -16.0, 0.5], [-32.0, 64.0, 0.25]])
    done = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], bool)
    returns = Returns.none(3)
    for t in (slice(0, 2), slice(2, 3)):  # as two rollouts
        steps = types.SimpleNamespace(reward=reward[t], done=done[t])
        returns = returns.after(steps)
    np.testing.assert_array_equal(returns.last[:2], [8.0, -14.0])
    np.testing.assert_array_equal(returns.total, [-32.0, 64.0, 4.75])
    np.testing.assert_array_equal(returns.n_ended, [2, 1, 0])
    assert float(returns.mean) == pytest.approx((8.0 - 14.0 + 4.75) / 3)


@pytest.mark.parametrize("anneal_lr", [True, False])
def test_the_rate_of_an_agent_falls_over_its_own_life(anneal_lr):
    """One step of gradient descent from the same agent, told another age."""
    config = PPOConfig(
        n_envs=4,
        n_steps=3,
        optimizer="sgd",
        lr=1.0,
        anneal_lr=anneal_lr,
        **ONE_STEP,
    )
    env = Probe(horizon=2, reward_for="action")
    network = NetworkConfig(core="none", head_size=4)
    student = Student.create(env, network, ActorCriticRule(config), one_level=True)
    lifetime, task = Lifetime(student), Task(jnp.zeros(()), jnp.int32(8))
    life, advance = lifetime.begin(KEY, task), jax.jit(lifetime.advance)

    def moved(age):
        learner = life.learner.replace(n_updates=jnp.int32(age))
        after, _, _ = advance(life.replace(learner=learner), task, None, KEY)
        assert int(after.learner.n_updates) == min(age + 1, 8)
        params = jax.tree.leaves(after.learner.params)
        pairs = zip(params, jax.tree.leaves(learner.params), strict=True)
        return np.concatenate([np.ravel(a - b) for a, b in pairs])

    first = moved(0)
    assert np.abs(first).max() > 1e-2
    for age, share in ((2, 0.75), (6, 0.25)):
        expected = first * (share if anneal_lr else 1.0)
        np.testing.assert_allclose(moved(age), expected, atol=1e-6)
    assert not moved(8).any()  # it is dead
