"""The evolution strategy: signs, ties, NaN, pairs that see the same luck."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import TINY_TASKS

from rlgen.algos.meta import evolution
from rlgen.algos.meta.evolution import Evolution, EvolutionConfig
from rlgen.errors import UserError
from rlgen.evaluation import zero_shot
from rlgen.training import make_config


def build(**settings) -> Evolution:
    experiment = make_config("ta-lpg", "grid_tasks", "", TINY_TASKS | settings).build()
    assert isinstance(experiment, Evolution)
    return experiment


def test_the_mean_climbs_a_quadratic():
    """Published ports went the other way: to -1.9 for an optimum at 1."""
    config = EvolutionConfig(sigma=0.1, es_lr=0.05, es_b1=0.9)
    mean = {"x": jnp.zeros(3)}
    opt_state = config.optimizer.init(mean)

    def fitness(x):
        return -jnp.sum(jnp.square(x["x"] - 1.0), axis=-1)

    @jax.jit
    def generation(mean, opt_state, key):
        noise = evolution.perturbations(key, mean, 16)
        plus, minus = (
            fitness(evolution.perturbed(mean, noise, scale)) for scale in (0.1, -0.1)
        )
        direction = evolution.gradient(noise, plus, minus)
        updates, opt_state = config.optimizer.update(direction, opt_state)
        return optax.apply_updates(mean, updates), opt_state

    for i in range(60):
        mean, opt_state = generation(mean, opt_state, jax.random.key(i))
    np.testing.assert_allclose(mean["x"], 1.0, atol=0.15)


def test_steps_and_perturbations_shrink_as_those_of_evosax():
    """OpenES of evosax 0.1.4 in NumPy: Adam with 0.99 and 0.999, rates with floors."""
    config = EvolutionConfig(
        sigma=0.04, sigma_decay=0.9, sigma_end=0.03, es_lr_decay=0.5, es_lr_end=4e-3
    )
    found = [float(config.sigma_at(jnp.int32(t))) for t in range(4)]
    np.testing.assert_allclose(found, [0.04, 0.036, 0.0324, 0.03], rtol=1e-6)
    rng, mean, m, v = np.random.default_rng(0), np.zeros(3), 0.0, 0.0
    params, state = jnp.zeros(3), config.optimizer.init(jnp.zeros(3))
    for t, lr in enumerate((1e-2, 5e-3, 4e-3, 4e-3), 1):
        g = rng.standard_normal(3)
        m, v = 0.01 * g + 0.99 * m, 0.001 * g**2 + 0.999 * v
        m_hat, v_hat = m / (1 - 0.99**t), v / (1 - 0.999**t)
        mean = mean - lr * m_hat / (np.sqrt(v_hat) + 1e-8)
        updates, state = config.optimizer.update(jnp.asarray(g), state)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, mean, rtol=1e-4)


def test_ties_and_nan_say_nothing():
    noise = {"x": jnp.arange(8.0).reshape(4, 2) + 1.0}
    plus = jnp.array([1.0, 2.0, jnp.nan, 0.0])
    minus = jnp.array([1.0, 0.0, 1.0, 5.0])
    found = evolution.gradient(noise, plus, minus)["x"]
    # Only the second pair (for) and the last (against) count.
    np.testing.assert_allclose(found, -(noise["x"][1] - noise["x"][3]) / 4)


def test_both_of_a_pair_live_the_same_life_where_their_rules_are_the_same():
    """With other luck, the two of a pair would hardly ever earn the same."""
    experiment = build(sigma=1e-12, n_agents=16)
    state = jax.jit(experiment.init)(jax.random.key(0))
    _, metrics = jax.jit(experiment.update)(state)
    assert float(metrics["ties"]) == 1.0
    assert float(metrics["life_return"]) != 0.0


def test_generations_move_the_rule_and_count_their_work():
    experiment = build(n_agents=8, max_lifetime=6)
    state = jax.jit(experiment.init)(jax.random.key(0))
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(state.rule))
    update, lifetimes = jax.jit(experiment.update), []
    for _ in range(3):
        state, metrics = update(state)
        lifetimes.append(float(metrics["lifetime"]))
        assert float(metrics["agent_updates"]) == 8 * lifetimes[-1]
    assert 4 <= min(lifetimes) <= max(lifetimes) <= 6
    assert float(metrics["rule_norm"]) > 0
    assert float(metrics["nan_fitness"]) == 0
    # Lifetimes 4, 5 and 6, log-uniform; 4 x 5 steps for each of 8 agents.
    p = np.log([5 / 4, 6 / 5, 7 / 6]) / np.log(7 / 4)
    mean = p @ np.array([4, 5, 6])
    # And an episode of up to 6 steps in each of 4 environments.
    assert experiment.env_steps_per_update == round(8 * (mean * 20 + 4 * 6))


def test_fitness_is_what_the_last_policy_earns_from_a_fresh_start():
    """A life of one rollout, in which no episode ends: a running total would be less.

    A rule of zeros changes nothing, so the last policy is the newborn agent's.
    """
    settings = {"n_envs": 256, "n_agents": 8, "min_steps": 6, "n_steps": 3}
    experiment = build(**settings, min_lifetime=1, max_lifetime=1)
    state = jax.jit(experiment.init)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 8)
    tasks = jax.jit(jax.vmap(experiment.tasks.sample))(keys)
    rules = jax.tree.map(lambda x: jnp.zeros((8, *x.shape)), state.rule)
    fitness = jax.jit(experiment.fitness)(rules, tasks, 1, jax.random.key(2))

    @jax.jit
    @jax.vmap
    def newborn(key, task):
        life = experiment.lifetime.begin(key, task)
        env, network = experiment.env, experiment.network
        levels = jax.tree.map(lambda x: x[None], task.level)
        params = life.learner.params
        return zero_shot.evaluate(env, network, params, key, levels, 4000).returns

    earned = np.asarray(newborn(keys, tasks))[:, 0]
    error = earned.std(axis=1) / np.sqrt(256)
    assert np.all(np.abs(fitness - earned.mean(axis=1)) < 4.5 * error + 1e-6)
    assert np.any(np.abs(earned.mean(axis=1)) > 9 * error)


def test_a_population_that_is_odd_is_refused():
    with pytest.raises(UserError, match="choose an even n_agents"):
        build(n_agents=5)
