"""Models of dynamics, rollouts in them, and the ring that keeps what they imagine."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from offline_data import A, B, linear_episodes
from probes import Push

from rlgen.algos.offline import dynamics as dyn
from rlgen.algos.offline.dynamics import Dynamics, DynamicsConfig, DynamicsStage
from rlgen.algos.offline.encoder import Scaler, Statistics
from rlgen.algos.offline.functions import Factory, NetsConfig
from rlgen.algos.offline.model_based import (
    DYNAMICS,
    ModelAgentStage,
    ModelBasedConfig,
    bare,
)
from rlgen.algos.offline.replay import ReplayBuffer
from rlgen.algos.offline.sac import SAC, SACConfig
from rlgen.errors import UserError
from rlgen.transitions import from_episodes

KEY = jax.random.key(0)
CONFIG = DynamicsConfig(
    n_members=3, n_elites=2, model_layers=2, model_units=32, n_held_back=40
)


@functools.cache
def linear_data():
    return jax.tree.map(jnp.asarray, from_episodes(linear_episodes(60, 12)))


@functools.cache
def trained(backwards):
    """An ensemble that has learned the linear world, and all its updates' metrics."""
    stage = DynamicsStage(Dynamics(CONFIG, 2, 1, backwards), 400, 4)
    state = stage.init(KEY, linear_data())
    update = jax.jit(stage.update)
    history = []
    for i in range(4):
        state, metrics = update(state, {}, linear_data(), jax.random.fold_in(KEY, i))
        history.append({k: float(v) for k, v in metrics.items()})
    return stage, state, history


def some(n=200, seed=9):
    rng = np.random.default_rng(seed)
    obs = rng.uniform(-0.8, 0.8, (n, 2)).astype(np.float32)
    return obs, rng.uniform(-1, 1, (n, 1)).astype(np.float32)


def test_a_linear_world_is_learned():
    stage, state, history = trained(False)
    obs, action = some()
    said = stage.dynamics.predict(stage.best(state), obs, action)
    exact = obs @ A.T + action @ B.T
    np.testing.assert_allclose(obs + said.mean[0, :, :2], exact, atol=0.06)
    np.testing.assert_allclose(said.mean[0, :, 2], obs.sum(axis=1), atol=0.12)
    assert (
        history[-1]["model_held_back_error"] < 0.05 * history[0]["model_error"] + 0.01
    )
    ends = exact[:, 0] > 1.0
    inside = exact[:, 0] < 0.9
    assert (said.termination[0][inside] < 0).mean() > 0.98
    assert not ends.any() or (said.termination[0][ends] > -2).any()


def test_backwards_it_is_the_inverse():
    stage, state, _ = trained(True)
    obs, action = some()
    after = (obs @ A.T + action @ B.T).astype(np.float32)
    said = stage.dynamics.predict(stage.best(state), after, action)
    inverse = (after - action @ B.T) @ np.linalg.inv(A).T
    assert said.mean.shape == (3, 200, 2)
    near = (np.abs(after) < 0.9).all(axis=1)
    np.testing.assert_allclose((after + said.mean[0])[near], inverse[near], atol=0.15)


def test_elites_stand_first_and_each_member_is_kept_at_its_best():
    stage, state, _ = trained(False)
    params = stage.best(state)
    held_back = stage.order(state, linear_data())[-40:]
    rows = jax.tree.map(lambda x: x[held_back], linear_data().rows)
    errors = np.asarray(stage.errors(params, rows))
    np.testing.assert_allclose(errors, np.sort(np.asarray(state.best_error)), rtol=1e-4)
    worse = state.replace(best_error=jnp.zeros(3))
    after, _ = jax.jit(stage.update)(worse, {}, linear_data(), KEY)
    # None was better than 0: what is used stayed, what is trained went on.
    for a, b in zip(
        jax.tree.leaves(after.best), jax.tree.leaves(worse.best), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(
        after.params.layers[0]["kernel"], worse.params.layers[0]["kernel"]
    )


def test_the_best_of_seeds_in_front_are_those_of_each():
    """As the policies of a whole run are asked for."""
    stage = DynamicsStage(
        Dynamics(DynamicsConfig(n_members=3, n_elites=1), 2, 1, False), 1, 1, "m"
    )
    data = linear_data()
    keys = jax.random.split(KEY, 2)
    states = jax.vmap(lambda k: stage.init(k, data))(keys)
    errors = jnp.array([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0]])
    states = states.replace(best_error=errors)
    both = stage.best(states)
    for seed in range(2):
        own = jax.tree.map(lambda x, s=seed: x[s], states)
        chex.assert_trees_all_equal(
            jax.tree.map(lambda x, s=seed: x[s], both.layers), stage.best(own).layers
        )
        first = int(np.argmin(errors[seed]))
        chex.assert_trees_all_equal(
            jax.tree.map(lambda x, s=seed: x[s, 0], both.layers),
            jax.tree.map(lambda x, s=seed, f=first: x[s, f], states.best.layers),
        )


def test_members_learn_from_samples_of_their_own_without_what_is_held_back():
    stage, state, _ = trained(False)
    n_train = len(linear_data().rows) - 40
    keys = jax.random.split(KEY, 64)
    places = np.asarray(
        jax.jit(jax.vmap(lambda k: stage.places(state, n_train, k)))(keys)
    )
    assert places.min() >= 0 and places.max() < n_train
    shares = [len(np.unique(places[:, i])) / n_train for i in range(3)]
    # A bootstrap sample holds 63 % of the steps, however often it is drawn from.
    np.testing.assert_allclose(shares, 1 - np.exp(-1), atol=0.06)
    both = np.intersect1d(places[:, 0], places[:, 1])
    assert len(both) < 0.6 * n_train
    order = np.asarray(stage.order(state, linear_data()))
    assert sorted(order) == list(range(len(linear_data().rows)))


def test_the_likelihood_is_that_of_a_gaussian():
    model = Dynamics(CONFIG, 2, 1)
    params = model.init(KEY, linear_data())
    rows = jax.tree.map(
        lambda x: x[: 3 * 5].reshape(3, 5, *x.shape[1:]), linear_data().rows
    )
    mean, log_var, logit = model.raw(params, model.inputs(rows))
    assert (log_var <= 0.5).all() and (log_var >= -10.0).all()
    target = params.targets.normalize(model.targets(rows))
    nll = (np.square(mean - target) / np.exp(log_var) + log_var).mean(axis=(1, 2)).sum()
    decay = sum(
        0.5 * d * np.square(np.asarray(layer["kernel"])).sum()
        for d, layer in zip((2.5e-5, 5e-5, 7.5e-5), params.layers, strict=True)
    )
    ends = (
        np.log1p(np.exp(-np.where(rows.terminated, logit, -logit))).mean(axis=1).sum()
    )
    bounds = 0.01 * 3 * 3 * 10.5
    loss, _ = model.loss(params, rows)
    assert float(loss) == pytest.approx(float(nll + decay + bounds + ends), rel=1e-4)


# --- the ring -------------------------------------------------------------------------


def steps(values):
    values = jnp.asarray(values, jnp.float32)
    rows = bare(jax.tree.map(lambda x: x[: len(values)], linear_data().rows))
    return rows.replace(reward=values)


def test_the_ring_turns_and_has_no_holes():
    buffer = ReplayBuffer.empty(steps([0.0]), 5)
    insert = jax.jit(lambda b, r, k: b.insert(r, k))
    plain = []
    value = 0
    rng = np.random.default_rng(0)
    for _ in range(7):
        new = np.arange(value, value + 3) + 1.0
        keep = rng.random(3) < 0.6
        value += 3
        buffer = insert(buffer, steps(new), jnp.asarray(keep))
        plain = (plain + list(new[keep]))[-5:]
        assert int(buffer.size) == len(plain)
        stored = np.asarray(buffer.rows.reward)[: len(plain)]
        assert sorted(stored) == sorted(plain)
    drawn = np.asarray(buffer.sample(KEY, (500,)).reward)
    assert set(drawn) == set(plain)


def test_only_what_was_written_is_drawn():
    buffer = ReplayBuffer.empty(steps([0.0]), 100).insert(steps([7.0, 8.0]))
    assert set(np.asarray(buffer.sample(KEY, (200,)).reward)) == {7.0, 8.0}
    full = ReplayBuffer.empty(steps([0.0]), 2).insert(steps([7.0, 8.0]))
    assert set(np.asarray(full.sample(KEY, (200,)).reward)) == {7.0, 8.0}
    with pytest.raises(ValueError, match="do not fit"):
        ReplayBuffer.empty(steps([0.0]), 1).insert(steps([1.0, 2.0]))


# --- rollouts -------------------------------------------------------------------------


def stage_of(penalty, **kwargs):
    model, model_state, _ = trained(False)
    config = ModelBasedConfig(
        penalty=penalty, n_rollouts=64, rollout_length=6, penalty_weight=0.5, **kwargs
    )
    nets = NetsConfig(actor_units=16, critic_units=16)
    agent = SAC(Factory(nets, 2, 1), SACConfig(batch_size=32))
    stage = ModelAgentStage(
        agent,
        Scaler(False),
        model.dynamics,
        model,
        config,
        Push(),
        n_steps=4,
        n_updates=1,
    )
    encoding = Statistics.neutral(2)
    stages = {DYNAMICS: model_state, "encoder": encoding}
    return stage, stage.init(KEY, linear_data()), stages, model.best(model_state)


@functools.cache
def imagined(penalty):
    stage, state, stages, model = stage_of(penalty)
    run = jax.jit(stage.imagine)
    return run(state.agent, model, stages["encoder"], linear_data(), KEY)


def test_model_rollouts_follow_the_world_and_stop_at_its_end():
    rows, reached, _ = imagined("values")
    reached = np.asarray(reached)
    obs, action = np.asarray(rows.obs), np.asarray(rows.action)
    exact = obs @ A.T + action @ B.T
    near = reached & (np.abs(obs) < 1.0).all(axis=1)
    np.testing.assert_allclose(rows.next_obs[near], exact[near], atol=0.2)
    # Step t + 1 of a rollout begins where step t led, unless that was an end.
    rows = jax.tree.map(lambda x: np.asarray(x).reshape(6, 64, *x.shape[1:]), rows)
    reached = reached.reshape(6, 64)
    np.testing.assert_allclose(
        rows.obs[1:][reached[1:]], rows.next_obs[:-1][reached[1:]]
    )
    assert (reached[1:] == (reached[:-1] & ~rows.terminated[:-1])).all()
    assert reached[0].all()
    assert not rows.truncated.any()


def test_endings_may_be_the_environments_own():
    """Beyond 1 in the first number, whatever the model has learned of it."""
    stage, state, stages, model = stage_of("values")
    known = dataclasses.replace(stage.dynamics.config, termination="analytic")
    analytic = dataclasses.replace(
        stage, dynamics=dataclasses.replace(stage.dynamics, config=known)
    )
    wild = model.replace(targets=model.targets.replace(std=model.targets.std * 20))
    rows, reached, _ = jax.jit(analytic.imagine)(
        state.agent, wild, stages["encoder"], linear_data(), KEY
    )
    over = np.abs(rows.next_obs[:, 0]) > 1.0
    assert (over & reached).any() and (~over & reached).any()
    np.testing.assert_array_equal(rows.terminated[reached], over[reached])


def test_uncertain_steps_pay_less():
    plain, lowered = imagined("values"), imagined("noise")
    stage, _, _, model = stage_of("noise")
    said = stage.dynamics.predict(model, plain.rows.obs[:64], plain.rows.action[:64])
    penalty = np.linalg.norm(np.asarray(said.std), axis=-1).max(axis=0)
    np.testing.assert_allclose(
        plain.rows.reward[:64] - lowered.rows.reward[:64], 0.5 * penalty, atol=1e-5
    )
    np.testing.assert_allclose(lowered.uncertainty[:64], penalty, rtol=1e-4)
    other, _, _, _ = stage_of("disagreement")
    mean = np.asarray(said.mean)
    spread = np.linalg.norm(mean - mean.mean(axis=0), axis=-1).max(axis=0)
    np.testing.assert_allclose(other.uncertainty(said), spread, rtol=1e-4)


def test_the_spread_of_values_is_over_elites_of_means_over_samples():
    stage, state, stages, model = stage_of("values")
    batch = bare(jax.tree.map(lambda x: x[:10], linear_data().rows))
    # Values that are known: the sum of the state, whatever the action.
    stage.agent.next_value = lambda agent, obs, key: obs.sum(axis=-1)
    many = ModelAgentStage(
        stage.agent,
        stage.encoder,
        stage.dynamics,
        stage.model,
        ModelBasedConfig(penalty="values", value_samples=100_000),
        Push(),
        4,
        1,
    )
    spread = many.value_spread(state.agent, model, stages["encoder"], batch, KEY)
    said = stage.dynamics.predict(model, batch.obs, batch.action)
    means = np.asarray(said.mean)[:2, :, :2].sum(axis=-1)  # two elites of three
    expected = means.std(axis=0, ddof=1)
    # Two elites: over n in place of n - 1 it would be 0.7 of this.
    assert expected.max() > 5e-4
    np.testing.assert_allclose(spread, expected, atol=5e-5)


def test_mobile_takes_its_penalty_off_the_rewards_of_imagined_steps():
    """Off those alone, and by its weight: the mean of a batch tells."""
    stage, state, stages, _ = stage_of("values", real_share=0.25)
    stage = dataclasses.replace(stage, n_steps=1)
    state, _ = jax.jit(stage.update)(state, stages, linear_data(), KEY)

    def seen(agent, batches, key):
        return agent, {"reward": batches.reward}

    stage.agent.update = seen
    rewards = []
    for weight in (0.0, 0.5):
        numbers = state.agent.numbers | {"penalty_weight": jnp.float32(weight)}
        given = state.replace(agent=state.agent.replace(numbers=numbers))
        _, metrics = jax.jit(stage.learn)(given, stages, linear_data(), KEY)
        rewards.append(float(metrics["reward"]))
    lowered = 0.5 * float(metrics["penalty"]) * 0.75  # of 32 steps 24 are imagined
    assert lowered > 1e-5
    assert rewards[0] - rewards[1] == pytest.approx(lowered, rel=1e-2)


@pytest.mark.parametrize("penalty", ["noise", "values"])
def test_an_update_learns_from_both_kinds_of_steps(penalty):
    stage, state, stages, _ = stage_of(penalty, real_share=0.25)
    after, metrics = jax.jit(stage.update)(state, stages, linear_data(), KEY)
    assert set(metrics) == set(stage.metrics)
    assert all(np.isfinite(v) for v in metrics.values())
    assert int(after.buffer.n_written) == float(metrics["rollout_steps"]) <= 64 * 6
    assert int(after.agent.n_updates) == 4
    changed = jax.tree.map(
        lambda a, b: bool(jnp.any(a != b)),
        stage.actor({"agent": after}),
        stage.actor({"agent": state}),
    )
    assert all(jax.tree.leaves(changed))
    assert float(metrics["penalty"]) > 0


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DynamicsConfig(n_elites=8), "choose n_elites <= n_members"),
        (
            lambda: DynamicsConfig(termination="maybe"),
            "learned, analytic, never",
        ),
        (
            lambda: ModelBasedConfig(penalty="fear"),
            "choose noise, disagreement, values",
        ),
    ],
)
def test_settings_that_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


def test_one_member_for_each_row():
    values = jnp.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(
        dyn.pick(values, jnp.array([2, 0, 1, 0])), [8, 1, 6, 3]
    )
