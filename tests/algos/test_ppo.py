"""PPO on probe environments with known answers, and its parts against hand sums."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe, train

from rlgen import distributions
from rlgen import rollout as rollouts
from rlgen.algos import ppo
from rlgen.algos.drift import DRIFTS
from rlgen.env import Replay
from rlgen.errors import UserError
from rlgen.networks import ActorCritic, NetworkConfig


def values(network, params, observations):
    obs = jnp.asarray(observations, jnp.float32)
    carry = network.initial_carry(len(obs))
    return np.asarray(network.step(params, carry, obs, jnp.ones(len(obs), bool))[2])


@pytest.mark.parametrize("core", ["none", "gru", "lstm"])
def test_value_of_a_constant_reward_is_one(core):
    network, params, _ = train(Probe(), core=core)
    assert values(network, params, [[1, 0], [-1, 0]]) == pytest.approx(1.0, abs=0.1)


def test_value_follows_the_observation():
    network, params, _ = train(Probe(reward_for="obs"))
    assert values(network, params, [[1, 0], [-1, 0]]) == pytest.approx(
        [1.0, -1.0], abs=0.15
    )


def test_value_is_discounted_once_per_step():
    network, params, _ = train(
        Probe(horizon=2, reward_for="last"), gae_lambda=1.0, n_updates=100
    )
    assert values(network, params, [[1, 0], [1, 1]]) == pytest.approx(
        [0.5, 1.0], abs=0.1
    )


@pytest.mark.parametrize("core", ["none", "gru", "lstm"])
def test_the_rewarded_action_is_learned(core):
    *_, trajectory = train(Probe(reward_for="action"), core=core)
    assert np.mean(trajectory.action) > 0.9


def test_the_action_follows_the_observation():
    *_, trajectory = train(Probe(reward_for="match"))
    assert np.mean(trajectory.reward) > 0.9


@pytest.mark.parametrize(
    ("core", "least", "most"), [("none", 0.3, 0.7), ("gru", 0.9, 1), ("lstm", 0.9, 1)]
)
def test_only_a_memory_recalls_what_is_hidden(core, least, most):
    *_, trajectory = train(
        Probe(horizon=3, reward_for="match", hide=True),
        core=core,
        n_updates=150,
        n_steps=15,
        discount=0.9,
    )
    rate = np.sum(trajectory.reward) / np.sum(trajectory.done)
    assert least <= rate <= most


def test_a_continuous_policy_finds_the_best_action():
    network, params, trajectory = train(
        Probe(reward_for="target"), n_updates=150, lr=3e-3
    )
    obs = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    raw = network.step(params, None, obs, jnp.ones(2, bool))[1]
    assert np.asarray(raw[:, 0]) == pytest.approx(0.5, abs=0.15)
    assert trajectory.action.shape == (16, 16, 1)


@pytest.mark.parametrize(
    ("time_limit", "value"), [("bootstrap", 2.0), ("terminate", 1.0)]
)
def test_time_limits_count_as_asked(time_limit, value):
    """One step of reward 1, then the clock: 1/(1 - 0.5) if it is no ending, else 1."""
    env = Probe(horizon=1, truncates=True)
    network, params, _ = train(env, time_limit=time_limit, n_updates=150)
    found = values(network, params, [[1, 0], [-1, 0]])
    assert found == pytest.approx(value, abs=0.2)


def test_final_values_see_the_true_last_observation_and_memory():
    """One batched call equals going on by hand from the memory after each step."""
    env = Replay(Probe(horizon=2, truncates=True), keep_final_obs=True)
    network = ActorCritic(
        env.observation_space,
        env.action_space,
        NetworkConfig(core="lstm", core_size=8, head_size=8),
    )
    params = network.init(jax.random.key(0))
    start = rollouts.start(env, network, jax.random.key(1), jnp.zeros(3), 3)
    _, trajectory, _ = jax.jit(
        lambda params, start: rollouts.rollout(
            env,
            network,
            params,
            jax.random.key(2),
            jnp.zeros(3),
            start,
            5,
            keep_memory=True,
        )
    )(params, start)
    found = jax.jit(lambda x: rollouts.final_values(network, params, x))(trajectory)
    memory, step = start.memory, jax.jit(network.step)
    for t in range(5):
        obs = trajectory.obs[t]
        memory, _, _ = step(params, memory, obs, trajectory.reset[t])
        last = trajectory.info["final_obs"][t]
        _, _, value = step(params, memory, last, jnp.zeros(3, bool))
        np.testing.assert_allclose(found[t], value, atol=1e-5)
        # The episode's bit is still the old one, not that of the next episode.
        np.testing.assert_array_equal(last[:, 0], obs[:, 0])


def test_memory_is_reset_in_the_update_as_it_was_when_acting():
    """Replaying a trajectory gives the log-probabilities and values of acting.

    Two published implementations reset the memory at other steps in the update than
    in the rollout, also when an episode ends exactly at the end of a rollout.
    """
    env = Replay(Probe(horizon=3, hide=True))
    network = ActorCritic(
        env.observation_space,
        env.action_space,
        NetworkConfig(core="lstm", core_size=8, head_size=8),
    )
    params = network.init(jax.random.key(0))
    levels = jnp.zeros(4)
    state = rollouts.start(env, network, jax.random.key(1), levels, 4)
    play = jax.jit(
        lambda key, state, n_steps: rollouts.rollout(
            env, network, params, key, levels, state, n_steps
        ),
        static_argnums=2,
    )
    unroll = jax.jit(network.unroll)
    # 6 steps end with an episode's end, 4 in the middle of one.
    for n_steps in (6, 4, 5):
        start = state
        state, trajectory, _ = play(jax.random.key(n_steps), start, n_steps)
        raw, value = unroll(params, start.memory, trajectory.obs, trajectory.reset)
        log_prob = jax.nn.log_softmax(raw)
        taken = jnp.take_along_axis(log_prob, trajectory.action[..., None], -1)[..., 0]
        np.testing.assert_allclose(value, trajectory.value, atol=1e-5)
        np.testing.assert_allclose(taken, trajectory.log_prob, atol=1e-5)
        np.testing.assert_array_equal(trajectory.reset[1:], trajectory.done[:-1])
        np.testing.assert_array_equal(state.reset, trajectory.done[-1])
        # A reset means a fresh memory: the same observation has the same value.
        fresh = values(network, params, trajectory.obs[0])
        same = np.asarray(trajectory.reset[0])
        np.testing.assert_allclose(fresh[same], trajectory.value[0][same], atol=1e-5)


def test_loss_by_hand():
    """Clipped surrogate, clipped value loss and entropy of two examples."""
    config = ppo.PPOConfig(n_envs=2, n_steps=1, clip=0.2, entropy_coef=0.1)
    hyper = ppo.Hyperparameters.from_config(config)

    class Fixed:
        action_space = Probe().action_space

        def policy(self, raw):
            return distributions.distribution(self.action_space, raw)

        def unroll(self, params, memory, obs, reset):
            del memory, obs, reset
            return params["raw"], params["value"]

    p = np.array([[0.9, 0.1], [0.3, 0.7]])
    params = {
        "raw": jnp.log(jnp.asarray(p))[None],
        "value": jnp.array([[1.0, 3.0]]),
    }
    batch = ppo.Minibatch(
        obs=None,
        action=jnp.array([[0, 1]]),
        log_prob=jnp.log(jnp.array([[0.5, 0.8]])),
        value=jnp.array([[0.9, 2.0]]),
        reset=jnp.zeros((1, 2), bool),
        advantage=jnp.array([[2.0, 4.0]]),
        target=jnp.array([[2.0, 2.5]]),
    )
    total, metrics = ppo.loss(
        config, Fixed(), hyper, params, None, batch, DRIFTS[config.drift]
    )
    ratio = np.array([0.9 / 0.5, 0.7 / 0.8])
    advantage = np.array([-1.0, 1.0])  # normalised: mean 3, deviation 1
    surrogate = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
    near = np.array([0.9 + 0.1, 2.0 + 0.2])
    error = np.maximum((np.array([1.0, 3.0]) - [2.0, 2.5]) ** 2, (near - [2, 2.5]) ** 2)
    entropy = -np.sum(p * np.log(p), axis=1).mean()
    expected = -surrogate.mean() + 0.5 * 0.5 * error.mean() - 0.1 * entropy
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["clip_fraction"]) == 0.5
    kl = np.mean(ratio - 1 - np.log(ratio))
    assert float(metrics["approx_kl"]) == pytest.approx(kl, rel=1e-5)


def test_numbers_are_traced_leaves_so_a_population_vmaps():
    """Learning rates differ along a vmapped axis; shapes come from the config."""
    config = ppo.PPOConfig(n_envs=2, n_steps=2)
    network = ActorCritic(
        Probe().observation_space, Probe().action_space, NetworkConfig(core="none")
    )
    env = Replay(Probe())
    base = ppo.Hyperparameters.from_config(config)
    population = jax.tree.map(lambda x: jnp.stack([x, x]), base).replace(
        lr=jnp.array([0.0, 1e-2])
    )

    learner = ppo.init(config, jax.random.key(0), network, base)

    def one(hyper):
        levels = jnp.zeros(2)
        start = rollouts.start(env, network, jax.random.key(1), levels, 2)
        _, trajectory, last = rollouts.rollout(
            env, network, learner.params, jax.random.key(2), levels, start, 2
        )
        advantage, target = ppo.advantages(
            config, network, learner.params, hyper, trajectory, last
        )
        new, _ = ppo.update(
            config, network, hyper, learner, start, trajectory, advantage, target,
            jax.random.key(3),
        )  # fmt: skip
        return new.params

    new = jax.jit(jax.vmap(one))(population)
    pairs = list(
        zip(jax.tree.leaves(learner.params), jax.tree.leaves(new), strict=True)
    )
    assert all(np.array_equal(old, both[0]) for old, both in pairs)
    assert not any(np.array_equal(old, both[1]) for old, both in pairs)


def test_minibatches_split_environments_for_a_memory():
    """Every environment is learned from exactly once in each pass."""
    config = ppo.PPOConfig(n_envs=4, n_steps=3, n_epochs=1, n_minibatches=2)
    seen = []

    class Spy(ActorCritic):
        def unroll(self, params, carry, obs, reset):
            jax.debug.callback(lambda o: seen.append(np.asarray(o)), obs[:, :, 0])
            return super().unroll(params, carry, obs, reset)

    probe = Probe()
    network = Spy(
        probe.observation_space,
        probe.action_space,
        NetworkConfig(core="gru", core_size=4, head_size=4),
    )
    hyper = ppo.Hyperparameters.from_config(config)
    learner = ppo.init(config, jax.random.key(0), network, hyper)
    ids = jnp.arange(12.0).reshape(3, 4)
    trajectory = rollouts.Trajectory(
        obs=jnp.stack([ids, ids], -1),
        action=jnp.zeros((3, 4), jnp.int32),
        log_prob=jnp.zeros((3, 4)),
        value=jnp.zeros((3, 4)),
        reward=jnp.zeros((3, 4)),
        terminated=jnp.zeros((3, 4), bool),
        truncated=jnp.zeros((3, 4), bool),
        reset=jnp.zeros((3, 4), bool),
        info={},
        memory=None,
    )
    start = rollouts.RolloutState(None, None, network.initial_carry(4), None)
    ppo.update(
        config, network, hyper, learner, start, trajectory, ids, ids, jax.random.key(1)
    )
    jax.effects_barrier()
    assert len(seen) == 2 and all(part.shape == (3, 2) for part in seen)
    columns = sorted(tuple(part[:, i]) for part in seen for i in range(2))
    assert columns == sorted(tuple(column) for column in np.asarray(ids).T)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_envs": 10, "n_minibatches": 4}, "multiple of n_minibatches"),
        ({"time_limit": "ignore"}, "choose terminate or bootstrap"),
    ],
)
def test_bad_settings_say_what_to_do(change, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(ppo.PPOConfig(), **change)
