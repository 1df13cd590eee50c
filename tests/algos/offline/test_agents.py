"""Offline agents against NumPy, SciPy, and problems whose answer is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from offline_data import episodes_of
from oracles import offline as oracle

from rlgen import distributions, mlp, transitions
from rlgen.algos.offline.agent import descend, follow
from rlgen.algos.offline.bc import BC, BCConfig
from rlgen.algos.offline.functions import Factory, NetsConfig
from rlgen.algos.offline.iql import IQL, IQLConfig, expectile_loss
from rlgen.algos.offline.sac import SAC, SACConfig, conservative_gap, slopes_alike
from rlgen.algos.offline.sampling import Uniform, best_episodes
from rlgen.algos.offline.td3_bc import TD3BC, TD3BCConfig
from rlgen.errors import UserError
from rlgen.transitions import Episode, from_episodes

KEY = jax.random.key(0)
FAST = {"actor_lr": 3e-3, "critic_lr": 3e-3, "batch_size": 64, "target_rate": 0.05}
SMALL = NetsConfig(actor_units=32, critic_units=32)


def batch_of(n=2, length=4, **kwargs):
    rows = from_episodes(episodes_of(n, length, **kwargs)).rows
    return jax.tree.map(jnp.asarray, rows)


def test_a_perceptron_is_that_of_numpy():
    x, y = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    for norm in (False, True):
        net = mlp.MLP(2, 8, 2, layer_norm=norm)
        params = net.init(KEY, 6)
        expected = oracle.mlp(params, np.concatenate([x, y], axis=1), 2)
        np.testing.assert_allclose(net(params, x, y), expected, rtol=2e-4, atol=1e-5)
        # A part that others share: its share of the first layer is computed once.
        many = net(params, x, jnp.stack([y, 2 * y, 3 * y]))
        for i in range(3):
            np.testing.assert_allclose(
                many[i], net(params, x, (i + 1) * y), rtol=2e-4, atol=1e-5
            )


def test_members_of_an_ensemble_start_apart():
    params = mlp.init_ensemble(lambda k: mlp.MLP(1, 4, 1).init(k, 2), KEY, 3)
    kernels = np.asarray(params[0]["kernel"])
    assert kernels.shape == (3, 2, 4)
    assert len(np.unique(kernels)) == kernels.size
    assert (np.abs(kernels) <= 2**-0.5).all()


def test_densities_of_squashed_gaussians_are_those_of_a_change_of_variables():
    raw = jnp.array([[0.3, -1.0, 0.1, -0.7]])
    policy = distributions.SquashedGaussian(raw)
    action, log_prob = policy.sample_and_log_prob(seed=KEY, sample_shape=(50,))
    mean, std = np.array([0.3, -1.0]), np.exp([0.1, -0.7])
    a = np.asarray(action, np.float64)
    expected = scipy.stats.norm.logpdf(np.arctanh(a), mean, std) - np.log(1 - a**2)
    np.testing.assert_allclose(log_prob, expected.sum(-1), rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(policy.log_prob(action), log_prob, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(policy.mode()[0], np.tanh(mean), rtol=1e-6)
    # Recorded actions on the edge of the box have a finite density with a gradient.
    edge = jnp.array([[1.0, -1.0]])
    slope = jax.grad(lambda r: distributions.SquashedGaussian(r).log_prob(edge).sum())(
        raw
    )
    assert np.isfinite(policy.log_prob(edge)).all() and np.isfinite(slope).all()


def test_expectiles_are_those_of_scipy():
    x = np.random.default_rng(0).normal(size=500)
    for tau in (0.5, 0.7, 0.9):
        v = jnp.float32(0.0)
        slope = jax.jit(
            jax.grad(lambda v: expectile_loss(jnp.asarray(x) - v, tau).mean())
        )
        for _ in range(200):
            v -= 0.5 * slope(v)
        assert float(v) == pytest.approx(scipy.stats.expectile(x, alpha=tau), abs=1e-4)


@pytest.mark.parametrize("importance", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_conservative_gap_is_one_sum_per_critic(importance, temperature):
    rng = np.random.default_rng(1)
    q, density = rng.normal(size=(2, 30, 4)), rng.normal(size=(30, 4))
    data = rng.normal(size=(2, 4))
    ours = conservative_gap(q, density, data, temperature, importance)
    theirs = oracle.conservative_gap(q, density, data, temperature, importance)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_the_conservative_gap_of_equal_values_is_known():
    """30 actions of one value: log of the sum of the densities' reciprocals."""
    log_density = jnp.log(jnp.linspace(0.2, 2.0, 30))[:, None]
    gap = conservative_gap(
        jnp.full((1, 30, 1), 7.0), log_density, jnp.full((1, 1), 7.0), 1.0, True
    )
    expected = np.log(np.sum(1 / np.linspace(0.2, 2.0, 30)))
    assert float(gap[0, 0]) == pytest.approx(expected, rel=1e-5)


def test_slopes_are_compared_in_pairs():
    slopes = np.random.default_rng(2).normal(size=(4, 5, 3))
    assert float(slopes_alike(jnp.asarray(slopes))) == pytest.approx(
        oracle.slopes_alike(slopes), rel=1e-4
    )
    assert float(slopes_alike(jnp.ones((3, 2, 2)))) == pytest.approx(3.0, rel=1e-5)


def test_edac_differentiates_each_critic_by_itself():
    agent = SAC(Factory(SMALL, 3, 2), SACConfig(n_critics=3, diversity=1.0))
    state, batch = jax.jit(agent.init)(KEY), batch_of()
    slopes = agent._slopes(state.params["critic"], batch)
    eps = 1e-5  # the oracle computes in float64
    for i in range(3):
        layers = oracle.member(state.params["critic"], i)
        for k in range(2):
            step = eps * np.eye(2)[k]
            up, down = (
                oracle.mlp(
                    layers, np.concatenate([batch.obs, batch.action + s], axis=1), 2
                )[:, 0]
                for s in (step, -step)
            )
            np.testing.assert_allclose(
                slopes[i, :, k], (up - down) / (2 * eps), rtol=1e-3, atol=1e-6
            )


def values_of(critics, obs, action, n_hidden=2):
    """What each of an ensemble's critics says, in float64. [N, B]."""
    x = np.concatenate([obs, action], axis=1)
    n = len(critics[0]["kernel"])
    members = (oracle.member(critics, i) for i in range(n))
    return np.array([oracle.mlp(layers, x, n_hidden)[:, 0] for layers in members])


def apart(tree, scale=0.2):
    """Parameters that are no longer those of the start, whose outputs are small."""
    rng = np.random.default_rng(7)
    return jax.tree.map(
        lambda x: x + rng.normal(scale=scale, size=x.shape).astype(x.dtype), tree
    )


def with_bold_actor(state):
    """Actions that the tangent bends."""
    actor = apart(state.params["actor"], scale=0.5)
    return state.replace(params=state.params | {"actor": actor})


def with_slow_copies_apart(state):
    """Slow copies that differ from their networks, as they do after the first step."""
    return state.replace(targets=apart(state.targets))


def test_edac_differentiates_the_cosines_of_its_critics_slopes():
    """Along one direction of all parameters, as the quotient of differences says."""
    agent = SAC(Factory(SMALL, 3, 2), SACConfig(n_critics=3, diversity=1.0))
    state, batch = jax.jit(agent.init)(KEY), batch_of()

    @jax.jit
    @jax.grad
    def slope(params, diversity):
        learner = state.replace(numbers=state.numbers | {"diversity": diversity})
        target = jnp.zeros(len(batch))
        return agent._critic_loss(learner, params, batch, target, None)[0]

    params = state.params["critic"]
    of_term = jax.tree.map(jnp.subtract, slope(params, 1.0), slope(params, 0.0))
    rng = np.random.default_rng(6)
    way = jax.tree.map(lambda x: rng.normal(size=x.shape), params)

    def alike(shift):
        moved = jax.tree.map(lambda p, w: np.asarray(p, float) + shift * w, params, way)
        values = functools.partial(values_of, moved, batch.obs)
        action, eps = np.asarray(batch.action, float), 1e-6
        slopes = [
            (values(action + step) - values(action - step)) / (2 * eps)
            for step in eps * np.eye(2)
        ]
        return oracle.slopes_alike(np.stack(slopes, axis=-1))

    expected = (alike(1e-5) - alike(-1e-5)) / 2e-5
    along = sum(
        np.sum(np.asarray(g) * w)
        for g, w in zip(jax.tree.leaves(of_term), jax.tree.leaves(way), strict=True)
    )
    assert abs(expected) > 0.1
    np.testing.assert_allclose(along, expected, rtol=1e-2)


@pytest.mark.parametrize("entropy_backup", [True, False])
def test_the_targets_of_sac_are_the_least_of_its_slow_critics(entropy_backup):
    config = SACConfig(
        n_critics=3,
        entropy_backup=entropy_backup,
        temperature=0.3,
        floor_target=True,
        target_floor=0.1,
    )
    agent = SAC(Factory(SMALL, 3, 2), config)
    state = with_slow_copies_apart(jax.jit(agent.init)(KEY))
    batch = batch_of(n=4, ends="terminated")
    policy = agent.policy(agent.act(state.params["actor"], batch.next_obs))
    action, log_prob = policy.sample_and_log_prob(seed=KEY)
    value = values_of(state.targets["critic"], batch.next_obs, action).min(axis=0)
    if entropy_backup:
        value -= 0.3 * np.asarray(log_prob)
    plain = batch.reward + 0.99 * value * ~np.asarray(batch.terminated)
    assert (plain < 0.1).any() and (plain > 0.1).any()
    expected = np.maximum(plain, 0.1)
    np.testing.assert_allclose(agent.target(state, batch, KEY), expected, atol=1e-5)


def test_iql_learns_its_three_parts_as_the_paper_says():
    config = IQLConfig(inverse_temperature=3.0, max_weight=1.2, expectile=0.8)
    agent = IQL(Factory(SMALL, 3, 2), config, 100)
    state = with_bold_actor(with_slow_copies_apart(jax.jit(agent.init)(KEY)))
    # A value in the midst of the critics', so that actions are better and worse.
    params = state.params | {"value": jax.tree.map(jnp.copy, state.params["value"])}
    params["value"][-1]["bias"] -= 0.4
    state = state.replace(params=params)
    batch = batch_of(n=4, ends="terminated")
    batches = jax.tree.map(lambda x: x[None], batch)
    after, metrics = jax.jit(agent.update)(state, batches, KEY)

    def value(params, obs):
        return oracle.mlp(oracle.member(params, 0), obs, 2)[:, 0]

    q = values_of(state.targets["critic"], batch.obs, batch.action).min(axis=0)
    error = q - value(state.params["value"], batch.obs)
    assert (error > 0).any() and (error < 0).any()
    weight_of = np.where(error < 0, 0.2, 0.8)
    # Actor and critics learn from the value that was just updated.
    v = value(after.params["value"], batch.obs)
    free = np.exp(3.0 * (q - v))
    assert (free > 1.2).any() and (free < 1.2).any()
    weight = np.minimum(free, 1.2)
    actor = state.params["actor"]
    mean = np.tanh(oracle.mlp(actor["mean"], batch.obs, 2))
    std = np.exp(actor["log_std"])
    density = scipy.stats.norm.logpdf(batch.action, mean, std).sum(axis=1)
    following = value(after.params["value"], batch.next_obs)
    target = batch.reward + 0.99 * following * ~np.asarray(batch.terminated)
    online = values_of(state.params["critic"], batch.obs, batch.action)
    expected = {
        "value_loss": np.mean(weight_of * error**2),
        "advantage": error.mean(),
        "weight": weight.mean(),
        "actor_loss": -np.mean(weight * density),
        "critic_loss": ((online - np.asarray(target)) ** 2).mean(axis=1).sum(),
        "q": online.mean(),
    }
    assert set(expected) == set(metrics)
    for name, number in expected.items():
        assert float(metrics[name]) == pytest.approx(number, rel=2e-3, abs=1e-5), name


def test_td3_targets_hold_to_the_next_action_within_an_episode():
    config = TD3BCConfig(critic_bc=0.5, bc_distance="sum", target_noise=0.0)
    agent = TD3BC(Factory(SMALL, 3, 2), config)
    assert agent.needs == ("next_action",)
    state, batch = jax.jit(agent.init)(KEY), batch_of(ends="terminated")
    target = agent.target(state, batch, KEY)
    actor = state.params["actor"]
    for i in range(len(batch)):
        action = np.tanh(oracle.mlp(actor, batch.next_obs[i], 2))
        x = np.concatenate([batch.next_obs[i], action])
        value = min(
            oracle.mlp(oracle.member(state.params["critic"], j), x, 2)[0]
            for j in range(2)
        )
        is_last = i % 4 == 3
        if not is_last:
            value -= 0.5 * np.sum((action - np.asarray(batch.action[i + 1])) ** 2)
        expected = batch.reward[i] + 0.99 * value * (not is_last)
        assert float(target[i]) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


def test_td3_smooths_the_action_and_clips_it():
    config = TD3BCConfig(target_noise=100.0, target_noise_clip=0.5)
    agent = TD3BC(Factory(SMALL, 3, 2), config)
    state, seen = jax.jit(agent.init)(KEY), []

    def critic(params, inputs, action):
        seen.append(action)
        return jnp.zeros((2, len(action)))

    agent._critic = critic
    batch = batch_of()
    agent.target(state, batch, KEY)
    mode = np.tanh(oracle.mlp(state.params["actor"], batch.next_obs, 2))
    moved = np.abs(np.asarray(seen[0]) - mode)
    np.testing.assert_allclose(moved, 0.5, atol=1e-5)


def test_the_actor_of_td3_bc_is_weighed_by_the_size_of_values():
    agent = TD3BC(Factory(SMALL, 3, 2), TD3BCConfig())
    state, batch = with_bold_actor(jax.jit(agent.init)(KEY)), batch_of()
    loss, _ = agent._actor_loss(state, state.params["actor"], batch)
    action = np.tanh(oracle.mlp(state.params["actor"], batch.obs, 2))
    x = np.concatenate([batch.obs, action], axis=1)
    q = oracle.mlp(oracle.member(state.params["critic"], 0), x, 2)[:, 0]
    expected = -2.5 * q.mean() / np.abs(q).mean() + np.mean(
        (action - np.asarray(batch.action)) ** 2
    )
    assert float(loss) == pytest.approx(expected, rel=1e-3)


def test_adam_steps_and_slow_copies_follow():
    agent = BC(Factory(SMALL, 3, 2), BCConfig())
    state = jax.jit(agent.init)(KEY)
    state = state.replace(targets={"actor": state.params["actor"]})
    first, _ = descend(state, "actor", lambda p: (_sum(p), None), 0.1)
    # The first step of Adam is the learning rate in the gradient's direction.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b - 0.1, atol=1e-5),
        first.params["actor"],
        state.params["actor"],
    )
    # A gradient of ones, scaled down to a norm of 1/4: a tenth of it is remembered.
    short, _ = descend(state, "actor", lambda p: (_sum(p), None), 0.1, 0.25)
    mean = short.optimizers["actor"].mu
    assert float(_sum(jax.tree.map(jnp.square, mean))) ** 0.5 == pytest.approx(
        0.1 * 0.25, rel=1e-3
    )
    moved = follow(first)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b - 0.1 * 0.005, atol=1e-5),
        moved.targets["actor"],
        state.params["actor"],
    )


def _sum(tree):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))


# What each agent makes of two recorded actions per state: -0.5, which was often taken
# and pays 0, and 0.5, which was seldom taken and pays 4. Cloning ends in between.
def two_actions(n=256):
    rng = np.random.default_rng(3)
    obs = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    good = rng.random(n) < 0.3
    action = (np.where(good, 0.5, -0.5) + 0.05 * rng.normal(size=n)).astype(np.float32)
    return from_episodes(
        [
            Episode(
                observations=np.stack([obs[i], obs[i]]),
                actions=action[i, None, None],
                rewards=np.array([4.0 * good[i]], np.float32),
                terminations=np.ones(1, bool),
                truncations=np.zeros(1, bool),
            )
            for i in range(n)
        ]
    )


@functools.cache
def trainer(agent, n_steps):
    def run(state, data, key):
        def step(state, key):
            key_batch, key_update = jax.random.split(key)
            shape = (agent.batches_per_update, agent.config.batch_size)
            batch = Uniform()(data, key_batch, shape)
            return agent.update(state, batch, key_update)

        return jax.lax.scan(step, state, jax.random.split(key, n_steps))

    return jax.jit(run)


def trained(agent, data, n_steps):
    data = jax.tree.map(jnp.asarray, data)
    state, metrics = trainer(agent, n_steps)(agent.init(KEY), data, KEY)
    assert set(metrics) == set(agent.metrics)
    assert all(np.isfinite(v).all() for v in metrics.values())
    return state


def modes(agent, state, obs):
    return np.asarray(agent.policy(agent.act(state.params["actor"], obs)).mode())


REBRAC = {"q_weight": 1.0, "actor_bc": 1.0, "critic_bc": 0.1, "bc_distance": "sum"}
AGENTS = {
    "td3-bc": lambda f: TD3BC(f, TD3BCConfig(**FAST)),
    "rebrac": lambda f: TD3BC(f, TD3BCConfig(actor_critic="min", **REBRAC, **FAST)),
    "iql": lambda f: IQL(f, IQLConfig(inverse_temperature=10.0, **FAST), 10**6),
    "cql": lambda f: SAC(f, SACConfig(cql_weight=0.5, cql_actions=4, **FAST)),
    "cql without densities": lambda f: SAC(
        f, SACConfig(cql_weight=0.5, cql_actions=4, cql_importance=False, **FAST)
    ),
    "cql with a multiplier": lambda f: SAC(
        f, SACConfig(cql_weight=0.5, cql_actions=4, cql_gap=1.0, **FAST)
    ),
    "cal-ql": lambda f: SAC(
        f, SACConfig(cql_weight=0.5, cql_actions=4, calibrated=True, **FAST)
    ),
    "edac": lambda f: SAC(f, SACConfig(n_critics=4, diversity=1.0, **FAST)),
}


@pytest.mark.parametrize("name", [*AGENTS, "bc"])
def test_slow_copies_follow_once_in_an_update(name):
    """However many steps of the critics it has; the actor's step comes before."""
    make = AGENTS.get(name, lambda factory: BC(factory, BCConfig(**FAST)))
    agent = make(Factory(SMALL, 3, 2))
    state = with_slow_copies_apart(jax.jit(agent.init)(KEY))
    n = agent.batches_per_update
    batches = jax.tree.map(lambda x: jnp.stack([x] * n), batch_of())
    after, _ = jax.jit(agent.update)(state, batches, KEY)
    assert int(after.n_updates) == n
    assert set(after.targets) == set(agent.with_targets)
    for part, slow in after.targets.items():
        expected = jax.tree.map(
            lambda old, fast: 0.95 * old + 0.05 * fast,
            state.targets[part],
            after.params[part],
        )
        for a, b in zip(jax.tree.leaves(slow), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", AGENTS)
def test_the_better_of_two_recorded_actions_is_learned(name):
    agent = AGENTS[name](Factory(SMALL, 2, 1))
    state = trained(agent, two_actions(), 600)
    obs = np.random.default_rng(4).uniform(-1, 1, (64, 2)).astype(np.float32)
    action = modes(agent, state, obs)
    assert action.mean() > 0.25, action.mean()
    if name not in ("edac", "rebrac"):  # little or nothing holds these to the data
        assert action.mean() < 0.85, action.mean()


def test_cloning_ends_between_them_and_clones_of_the_best_do_not():
    agent = BC(Factory(SMALL, 2, 1), BCConfig(**FAST))
    obs = np.random.default_rng(4).uniform(-1, 1, (64, 2)).astype(np.float32)
    data = two_actions()
    assert -0.4 < modes(agent, trained(agent, data, 600), obs).mean() < 0.1
    best = best_episodes(data, 0.2)
    assert modes(agent, trained(agent, best, 600), obs).mean() == pytest.approx(
        0.5, abs=0.1
    )


def test_the_best_episodes_are_kept_whole_and_in_order():
    episodes = episodes_of(6, 3)
    for i, total in enumerate([0, 5, 1, 9, 2, 3]):
        episodes[i].rewards[:] = total / 3
    best = best_episodes(from_episodes(episodes), 0.5)
    expected = from_episodes([episodes[i] for i in (1, 3, 5)])
    for a, b in zip(jax.tree.leaves(best), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    assert best_episodes(from_episodes(episodes), 1e-9).n_episodes == 1


@pytest.mark.parametrize("name", ["td3-bc", "iql", "cql"])
@pytest.mark.parametrize("ends", ["truncated", "terminated"])
def test_a_time_limit_is_not_an_ending(name, ends):
    """One state, reward 1, one step: worth 1 if it ends, 1 / (1 - gamma) if cut off."""
    n = 64
    data = from_episodes(
        [
            Episode(
                observations=np.ones((2, 2), np.float32),
                actions=np.zeros((1, 1), np.float32),
                rewards=np.ones(1, np.float32),
                terminations=np.array([ends == "terminated"]),
                truncations=np.array([ends == "truncated"]),
            )
            for _ in range(n)
        ]
    )
    factory = Factory(SMALL, 2, 1)
    fast = FAST | {"discount": 0.5}
    agent = {
        "td3-bc": lambda: TD3BC(factory, TD3BCConfig(**fast)),
        "iql": lambda: IQL(factory, IQLConfig(**fast), 10**6),
        # Held to the data so hard that the policy's action is the recorded one.
        "cql": lambda: SAC(factory, SACConfig(entropy_backup=False, **fast)),
    }[name]()
    state = trained(agent, data, 400)
    q = agent._critic(state.params["critic"], jnp.ones((1, 2)), jnp.zeros((1, 1)))
    expected = 1.0 if ends == "terminated" else 2.0
    tolerance = 0.15 if name != "cql" else 0.6
    np.testing.assert_allclose(q, expected, atol=tolerance)


def test_conservatism_lowers_what_is_no_data():
    """Recorded actions are near 0; what CQL says of the edges is less than SAC does."""
    rng = np.random.default_rng(5)
    action = 0.1 * rng.normal(size=(256, 1)).astype(np.float32)
    data = from_episodes(
        [
            Episode(
                observations=np.zeros((2, 2), np.float32),
                actions=a[None],
                rewards=np.float32(a),
                terminations=np.ones(1, bool),
                truncations=np.zeros(1, bool),
            )
            for a in action
        ]
    )
    edge = jnp.array([[1.0]])
    factory = Factory(SMALL, 2, 1)
    values = {}
    for weight in (0.0, 1.0):
        agent = SAC(factory, SACConfig(cql_weight=weight, cql_actions=4, **FAST))
        state = trained(agent, data, 300)
        values[weight] = float(
            agent._critic(state.params["critic"], jnp.zeros((1, 2)), edge).max()
        )
    assert values[1.0] < 0.2 < values[0.0]


def test_calibration_never_counts_a_value_below_the_return():
    config = SACConfig(cql_weight=1.0, cql_actions=3, calibrated=True)
    agent = SAC(Factory(SMALL, 3, 2), config)
    assert agent.needs == ("return_to_go",)
    state, batch = jax.jit(agent.init)(KEY), batch_of()
    sampled = agent._sample(state, batch, KEY)
    data_q = agent._critic(state.params["critic"], batch.obs, batch.action)
    gap, extras = agent._gap(state.params["critic"], batch, sampled, data_q, 1.0)
    q = np.asarray(agent._critic(state.params["critic"], batch.obs, sampled.action))
    assert q.shape == (2, 9, 8)
    raised = q.copy()
    for m in range(3, 9):  # uniform actions stay as they are
        raised[:, m] = np.maximum(q[:, m], np.asarray(batch.return_to_go))
    theirs = oracle.conservative_gap(
        raised, np.asarray(sampled.log_density), np.asarray(data_q), 1.0, True
    )
    np.testing.assert_allclose(gap, theirs.mean(axis=1), rtol=1e-4)
    assert float(extras["calibrated_share"]) == pytest.approx(
        np.mean(q[:, 3:] < np.asarray(batch.return_to_go))
    )
    assert 0 < extras["calibrated_share"] < 1


def test_sampled_actions_come_with_the_densities_they_were_drawn_with():
    agent = SAC(Factory(SMALL, 3, 2), SACConfig(cql_weight=1.0, cql_actions=5))
    state, batch = jax.jit(agent.init)(KEY), batch_of()
    action, log_density = agent._sample(state, batch, KEY)
    assert action.shape == (15, 8, 2)
    np.testing.assert_allclose(log_density[:5], -2 * np.log(2.0), rtol=1e-6)
    for part, obs in ((slice(5, 10), batch.obs), (slice(10, 15), batch.next_obs)):
        policy = agent.policy(agent.act(state.params["actor"], obs))
        np.testing.assert_allclose(
            policy.log_prob(action[part]), log_density[part], rtol=1e-3, atol=2e-3
        )


def test_the_multiplier_rises_while_the_gap_is_too_wide():
    factory, batch = Factory(SMALL, 3, 2), batch_of()
    batches = jax.tree.map(lambda x: x[None], batch)
    for gap, rises in ((0.0, True), (100.0, False)):
        agent = SAC(factory, SACConfig(cql_weight=1.0, cql_actions=2, cql_gap=gap))
        state = jax.jit(agent.init)(KEY)
        after, _ = jax.jit(agent.update)(state, batches, KEY)
        assert (float(after.params["log_multiplier"]) > 0) == rises


def test_the_temperature_steers_the_entropy():
    """Rewards that are all 0: the policy's entropy becomes the wanted one."""
    data = from_episodes(episodes_of(16, 4, obs_size=2, action_size=1))
    rows = data.rows.replace(reward=np.zeros(len(data.rows), np.float32))
    config = SACConfig(**FAST, temperature_lr=1e-2)
    agent = SAC(Factory(SMALL, 2, 1), config)
    _, metrics = trainer(agent, 800)(
        jax.jit(agent.init)(KEY),
        jax.tree.map(jnp.asarray, data.replace(rows=rows)),
        KEY,
    )
    assert float(metrics["entropy"][-50:].mean()) == pytest.approx(-1.0, abs=0.25)


def test_iql_anneals_over_the_planned_run():
    agent = IQL(Factory(SMALL, 2, 1), IQLConfig(), 100)
    state = jax.jit(agent.init)(KEY)
    lrs = [
        float(agent.actor_lr(state.replace(n_updates=jnp.int32(n))))
        for n in (0, 50, 100, 150)
    ]
    np.testing.assert_allclose(lrs, [3e-4, 1.5e-4, 0.0, 0.0], atol=1e-9)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SACConfig(diversity=1.0, n_critics=1), "diversity needs n_critics"),
        (lambda: SACConfig(calibrated=True), "have no effect without cql_weight"),
        (lambda: TD3BCConfig(bc_distance="max"), "choose mean or sum"),
    ],
)
def test_settings_that_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


def test_the_least_of_settings_will_do():
    assert BCConfig(batch_size=1, discount=0.0)
    assert SACConfig(n_critics=1, cql_actions=1, cql_weight=1.0, cql_gap=0.0)
    assert SACConfig(n_critics=2, diversity=1.0)
    assert TD3BCConfig(policy_delay=1)


def test_what_the_data_lacks_is_said():
    data = from_episodes(episodes_of(2, 3))
    without = data.replace(rows=data.rows.replace(next_action=None))
    with pytest.raises(UserError, match="ReBRAC needs next_action"):
        transitions.require(without, "next_action", "ReBRAC")
