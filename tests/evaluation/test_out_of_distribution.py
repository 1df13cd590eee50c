"""Scores of what is met: against SciPy, scikit-learn, and play step by step."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import OAS
from sklearn.metrics import roc_auc_score

from rlgen import distributions
from rlgen.env import take
from rlgen.envs.maze import Maze, MazeLevel
from rlgen.envs.maze.levels import UniformWalls
from rlgen.evaluation import out_of_distribution as ood
from rlgen.evaluation.out_of_distribution import Gaussian, Visit
from rlgen.levels import LevelSet
from rlgen.networks import ActorCritic, NetworkConfig, make_network

KEY = jax.random.key(0)


class TestGaussian:
    @pytest.mark.parametrize(("n", "size"), [(400, 5), (60, 20), (10, 30)])
    def test_the_covariance_equals_scikit_learn_s(self, n, size):
        """Many rows, few, and fewer than features."""
        rng = np.random.default_rng(n)
        rows = rng.normal(size=(n, size)) @ rng.normal(size=(size, size)) + 3.0
        peer = OAS().fit(rows)
        covariance, share = ood.shrunk(rows)
        np.testing.assert_allclose(covariance, peer.covariance_, rtol=1e-9, atol=1e-12)
        assert float(share) == pytest.approx(peer.shrinkage_)
        assert 0 < share < 1
        ours = Gaussian.fit(rows).score(rows) * size
        np.testing.assert_allclose(ours, peer.mahalanobis(rows), rtol=1e-4)

    def test_what_is_like_the_data_has_a_score_of_one(self):
        rng = np.random.default_rng(0)
        data = rng.normal(size=(4000, 3)) @ rng.normal(size=(3, 3)) + 2.0
        x = rng.normal(size=(50, 3)) * 3
        gaussian = Gaussian.fit(data)
        inverse = np.linalg.inv(np.cov(data.T, bias=True))
        theirs = [mahalanobis(row, data.mean(axis=0), inverse) ** 2 / 3 for row in x]
        np.testing.assert_allclose(gaussian.score(x), theirs, rtol=2e-2)
        assert gaussian.score(data).mean() == pytest.approx(1.0, abs=1e-2)

    def test_compiled_it_is_the_same(self):
        rng = np.random.default_rng(1)
        rows = rng.normal(size=(300, 8)) @ rng.normal(size=(8, 8))
        x = rng.normal(size=(2, 7, 8))
        score = jax.jit(lambda rows, x: Gaussian.fit(rows).score(x))(rows, x)
        np.testing.assert_allclose(score, Gaussian.fit(rows).score(x), rtol=1e-2)

    @pytest.mark.parametrize("spread", [0.0, 1.0])
    def test_features_that_never_change_divide_by_nothing(self, spread):
        """All of them, or half."""
        rows = np.random.default_rng(0).normal(size=(50, 6)) * spread
        rows[:, 3:] = 2.0
        gaussian = Gaussian.fit(rows)
        assert np.isfinite(gaussian.score(rows)).all()
        changed = gaussian.score(rows + np.array([0, 0, 0, 0, 0, 1.0]))
        assert (changed > gaussian.score(rows) + 1).all()


class TestAuroc:
    def test_it_equals_scikit_learn_s_with_ties(self):
        rng = np.random.default_rng(0)
        inside = rng.integers(0, 6, 40) / 2
        outside = rng.integers(1, 8, 25) / 2
        labels = np.repeat([0, 1], [40, 25])
        expected = roc_auc_score(labels, np.concatenate([inside, outside]))
        assert expected != 0.5 and len(set(inside) & set(outside)) > 3
        assert ood.auroc(inside, outside) == pytest.approx(expected)
        assert ood.auroc(outside, inside) == pytest.approx(1 - expected)

    def test_each_seed_compares_its_own(self):
        rng = np.random.default_rng(1)
        # The second seed's scores are larger throughout, of train levels too.
        inside = rng.normal(size=(2, 30)) + np.array([[0], [100]])
        outside = rng.normal(size=(2, 20)) + np.array([[1], [101]])
        labels = np.repeat([0, 1], [30, 20])
        expected = [
            roc_auc_score(labels, np.concatenate(pair))
            for pair in zip(inside, outside, strict=True)
        ]
        assert ood.auroc(inside, outside) == pytest.approx(np.mean(expected))


def met(rng, n_levels, n_steps=8, size=24):
    """Features of levels of one kind: each has a centre, steps lie around it."""
    centre = rng.normal(size=(1, n_levels, size))
    features = centre + 0.5 * rng.normal(size=(n_steps, n_levels, size))
    # Whatever is not of the first episode must count for nothing.
    valid = rng.random((n_steps, n_levels)) < 0.8
    valid[0] = True
    features[~valid] = 1e3
    nothing = np.zeros((n_steps, n_levels))
    return Visit(None, nothing, valid, features, nothing, nothing)


def test_levels_of_one_kind_are_told_apart_by_nothing():
    """The protocol has no bias, and the one that it takes the place of has much."""
    n, rng = 24, np.random.default_rng(0)
    fair, biased = [], []
    for _ in range(120):
        fitting = met(rng, n)
        sizes = dict.fromkeys(("inside", "outside", "fitting"), n)
        visits = {"inside": met(rng, n), "outside": met(rng, n), "fitting": fitting}
        scores = ood.level_scores(fitting, visits, sizes)
        fair.append(ood.auroc(scores["inside"], scores["outside"]))
        biased.append(ood.auroc(scores["fitting"], scores["outside"]))
    # The deviation of one AUROC under the null (Mann and Whitney 1947).
    deviation = np.sqrt((2 * n + 1) / (12 * n * n))
    assert abs(np.mean(fair) - 0.5) < 4 * deviation / np.sqrt(120)
    assert np.std(fair) == pytest.approx(deviation, rel=0.3)
    assert np.mean(biased) > 0.75


def test_levels_of_another_kind_are():
    rng = np.random.default_rng(3)
    visits = {"inside": met(rng, 24), "outside": met(rng, 24)}
    other = visits["outside"]
    visits["outside"] = other.replace(features=other.features * 2)
    sizes = dict.fromkeys(visits, 24)
    scores = ood.level_scores(met(rng, 24), visits, sizes)
    assert ood.auroc(scores["inside"], scores["outside"]) > 0.95


def test_means_of_levels_by_hand():
    """Three environments on two levels: the third plays the first level again."""
    x = np.array([[1.0, 2.0, 3.0], [5.0, 7.0, np.nan]])
    valid = np.array([[True, True, True], [True, False, False]])
    np.testing.assert_array_equal(ood.level_of(3, 2), [0, 1, 0])
    np.testing.assert_allclose(ood.level_means(x, valid, 2), [(1 + 5 + 3) / 3, 2.0])
    # More levels than environments: those that were played.
    np.testing.assert_allclose(ood.level_means(x, valid, 9), [3.0, 2.0, 3.0])


def test_halves_share_nothing_and_lose_nothing():
    whole = mazes(7)
    first, second = ood.halves(whole)
    assert first.labels == whole.labels[::2] and second.labels == whole.labels[1::2]
    for part, rows in ((first, slice(0, None, 2)), (second, slice(1, None, 2))):
        np.testing.assert_array_equal(part.hashes, whole.hashes[rows])
        np.testing.assert_array_equal(part.levels.walls, whole.levels.walls[rows])


@functools.cache
def mazes(n, seed=0):
    space = UniformWalls(5, 5, max_walls=8, solvable=True)
    return LevelSet.generate(space, n, seed=seed, split="train")


ENV = Maze(5, 5, max_steps=12)


@functools.cache
def learner(core="gru", torso="mlp"):
    network = ActorCritic(
        ENV.observation_space,
        ENV.action_space,
        NetworkConfig(torso=torso, channels=8, core=core, core_size=8, head_size=8),
    )
    return network, network.init(KEY)


class TestVisit:
    def test_it_is_play_step_by_step(self):
        """The oracle is the environment alone, with the same policy."""
        network, params = learner()
        # One that knows what it wants, mostly forward: equal actions would flip.
        params = jax.tree.map(
            lambda x: x + 0.2 * jax.random.normal(jax.random.key(3), x.shape), params
        )
        bias = jnp.array([0.0, 0.5, 3.0])
        params["heads"]["params"]["Dense_1"]["bias"] = bias
        levels = jax.tree.map(
            lambda *x: np.concatenate(x), mazes(4).levels, corridors([3, 0], 5, 5)
        )
        n_levels, n_steps = 6, 30
        (one,) = ood.visit(
            ENV, network, params, KEY, {"a": levels}, n_levels, n_steps, greedy=True
        ).values()
        step, act = jax.jit(ENV.step), jax.jit(network.step)
        represent = jax.jit(network.represent)
        ends = []
        for i in range(n_levels):
            level = jax.tree.map(jnp.asarray, take(levels, i))
            state, obs = ENV.reset(KEY, level)
            memory, t, done = network.initial_carry(1), 0, False
            while not done:
                now = jax.tree.map(lambda x: jnp.asarray(x)[None], obs)
                for ours, theirs in zip(
                    jax.tree.leaves(one.obs), jax.tree.leaves(now), strict=True
                ):
                    np.testing.assert_array_equal(ours[t, i], theirs[0])
                reset = jnp.array([t == 0])
                _, features = represent(params, memory, now, reset)
                memory, raw, value = act(params, memory, now, reset)
                np.testing.assert_allclose(one.features[t, i], features[0], atol=1e-5)
                np.testing.assert_allclose(one.value[t, i], value[0], atol=1e-5)
                p = np.exp(raw[0] - jax.nn.logsumexp(raw[0]))
                assert one.entropy[t, i] == pytest.approx(stats.entropy(p), abs=1e-4)
                assert one.valid[t, i] and one.reset[t, i] == (t == 0)
                out = step(KEY, level, state, network.policy(raw[0]).mode())
                state, obs, done, t = out.state, out.obs, bool(out.done), t + 1
            assert one.reset[t, i] and not one.valid[t:, i].any()
            ends.append(t)
        assert min(ends) < ENV.max_episode_steps == max(ends)

    def test_sets_keep_their_levels_and_small_ones_are_played_again(self):
        """Straight corridors: the first episode is as long as its goal is far."""
        distances = {"two": [4, 2], "five": [1, 2, 3, 5, 0]}
        met = ood.visit(
            Maze(2, 9, max_steps=7),
            Forward(),
            None,
            KEY,
            {name: corridors(d) for name, d in distances.items()},
            4,
            6,
        )
        assert list(met) == ["five", "two"]
        lengths = {name: one.valid.sum(axis=0).tolist() for name, one in met.items()}
        # Of five the first four; two are played twice; six steps at most.
        assert lengths == {"five": [1, 2, 3, 5], "two": [4, 2, 4, 2]}
        np.testing.assert_array_equal(met["two"].reset[:, 1], [1, 0, 1, 0, 1, 0])
        assert met["two"].features.shape == (6, 4, 1)

    def test_samples_follow_the_key(self):
        network, params = learner()
        levels = {"a": mazes(6).levels}

        @functools.partial(jax.jit, static_argnums=1)
        def features(key, greedy):
            return ood.visit(
                ENV, network, params, key, levels, 6, 12, greedy=greedy
            )["a"].features  # fmt: skip

        other = jax.random.key(1)
        assert not np.allclose(features(KEY, False), features(other, False))
        np.testing.assert_array_equal(features(KEY, True), features(other, True))

    def test_without_a_closed_form_there_is_no_entropy(self):
        class Sure(Forward):
            def policy(self, raw):
                policy = distributions.Deterministic(raw)
                policy.mode = lambda: raw.argmax(axis=-1)
                return policy

        env, levels = Maze(2, 9, max_steps=7), {"a": corridors([3])}
        one = ood.visit(env, Sure(), None, KEY, levels, 1, 4, greedy=True)["a"]
        assert np.isnan(one.entropy).all() and one.valid.sum() == 3


@pytest.mark.parametrize("core", ["none", "lstm"])
def test_an_ensemble_judges_what_one_has_met(core):
    """Its own values come back, past the end of episodes; the spread is NumPy's."""
    network, params = learner(core)
    others = [network.init(jax.random.key(i)) for i in (1, 2)]
    ensemble = jax.tree.map(lambda *x: jnp.stack(x), params, *others)
    levels = {"a": mazes(4).levels}
    one = ood.visit(ENV, network, params, KEY, levels, 4, 30)["a"]
    assert one.reset[1:].any()
    said = [ood.values(network, take(ensemble, i), one) for i in range(3)]
    np.testing.assert_allclose(said[0], one.value, atol=1e-5)
    assert np.abs(said[1] - one.value).max() > 1e-3
    spread = ood.value_spread(network, ensemble, one)
    np.testing.assert_allclose(spread, np.std(said, axis=0), atol=1e-5)
    same = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    np.testing.assert_allclose(ood.value_spread(network, same, one), 0.0, atol=1e-6)


@pytest.mark.parametrize("kind", ["none", "gru", "table"])
def test_features_are_what_the_policy_s_head_reads(kind):
    """Acting depends on nothing else: from them the heads say what `step` says."""
    if kind == "table":
        import gymnasium

        space = gymnasium.spaces.Discrete(5)
        config = NetworkConfig(torso="table", core="none")
        network = make_network(space, ENV.action_space, config)
        params = {"table": jax.random.normal(KEY, (5, 4))}
        obs = jnp.array([3, 0, 4])
    else:
        network, params = learner(kind)
        _, obs = jax.vmap(ENV.reset)(jax.random.split(KEY, 3), mazes(3).levels)
    memory, reset = network.initial_carry(3), jnp.ones(3, bool)
    features = network.features(params, memory, obs, reset)
    _, raw, value = network.step(params, memory, obs, reset)
    assert features.ndim == 2 and len(features) == 3
    ours = network.heads(params, features)
    np.testing.assert_allclose(ours[0], raw, atol=1e-6)
    np.testing.assert_allclose(ours[1], value, atol=1e-6)


class Forward:
    """A policy that walks straight on; its one feature is the number of its steps."""

    def initial_carry(self, n):
        return jnp.zeros(n, jnp.int32)

    def features(self, params, carry, obs, reset):
        return (jnp.where(reset, 0, carry) + 1.0)[:, None]

    def step(self, params, carry, obs, reset):
        carry = jnp.where(reset, 0, carry) + 1
        forward = jnp.array([-99.0, -99.0, 99.0])
        raw = jnp.broadcast_to(forward, (len(carry), 3))
        return carry, raw, jnp.zeros(len(carry))

    def policy(self, raw):
        return distributions.distribution(ENV.action_space, raw)


def corridors(distances, height=2, width=9):
    """Levels whose goal lies straight ahead, `d` cells away; 0 is behind the agent."""
    n = len(distances)
    goal = np.array([[0, 1 + d if d else 0] for d in distances], np.int32)
    return MazeLevel(
        walls=np.zeros((n, height, width), bool),
        goal=goal,
        start=np.tile(np.array([0, 1], np.int32), (n, 1)),
        direction=np.zeros(n, np.int32),
    )
