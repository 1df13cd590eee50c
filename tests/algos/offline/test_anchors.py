"""COCOA: anchors, what leads to them, and the networks that read them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from offline_data import A, B, linear_episodes

from rlgen.algos.offline.anchors import (
    REVERSE,
    SEEKER,
    AnchorConfig,
    AnchorEncoder,
    Seeker,
    SeekerStage,
)
from rlgen.algos.offline.dynamics import Dynamics, DynamicsConfig, DynamicsStage
from rlgen.algos.offline.functions import NetsConfig
from rlgen.algos.offline.model_based import DYNAMICS
from rlgen.algos.offline.transduction import (
    Pair,
    Transduction,
    TransductionConfig,
    TransductiveFactory,
    n_parameters,
)
from rlgen.errors import UserError
from rlgen.mlp import MLP
from rlgen.transitions import from_episodes

KEY = jax.random.key(0)
MODEL = DynamicsConfig(n_members=2, n_elites=2, model_layers=1, model_units=8)


@functools.cache
def linear_data():
    return jax.tree.map(jnp.asarray, from_episodes(linear_episodes(40, 12)))


def exact(backwards):
    """A stage whose members know the linear world, with almost no noise.

    A perceptron of one hidden layer is linear where its units are positive.
    """
    model = Dynamics(MODEL, 2, 1, backwards)
    stage = DynamicsStage(model, 1, 1)
    state = stage.init(KEY, linear_data())
    inverse = np.linalg.inv(A)
    if backwards:
        weights = np.concatenate([inverse - np.eye(2), -inverse @ B], axis=1)
    else:
        weights = np.concatenate([A - np.eye(2), B], axis=1)
        weights = np.concatenate([weights, np.ones((1, 3))])
    lift = 1e4  # silu(x + lift) - lift is x
    kernel = np.zeros((3, 8), np.float32)
    kernel[:3, :3] = np.eye(3)
    top = np.zeros((8, 2 * model.target_size + 1), np.float32)
    top[:3, : model.target_size] = weights.T
    bias = -lift * top[:3].sum(axis=0)
    bias[model.target_size : 2 * model.target_size] = -1e3

    def both(x):
        return jnp.stack([jnp.asarray(x, jnp.float32)] * 2)

    layers = [
        {"kernel": both(kernel), "bias": both(np.full(8, lift))},
        {"kernel": both(top), "bias": both(bias)},
    ]
    one = jax.tree.map(jnp.ones_like, state.params.inputs).replace(mean=jnp.zeros(3))
    size = model.target_size
    params = state.params.replace(
        layers=layers,
        inputs=one,
        targets=state.params.targets.replace(mean=jnp.zeros(size), std=jnp.ones(size)),
        min_log_var=jnp.full((2, size), -30.0),
    )
    return stage, state.replace(params=params, best=params)


def encoder_of(seeker_action, **kwargs):
    """An encoder whose seeker always takes one action, in the linear world."""
    forward, state = exact(False)
    config = AnchorConfig(**kwargs)

    class Fixed(Seeker):
        def __call__(self, params, x):
            return jnp.broadcast_to(jnp.float32(seeker_action), (*x.shape[:-1], 1))

    encoder = AnchorEncoder(config, Fixed(config, 1), forward)
    stages = {DYNAMICS: state, SEEKER: SeekerStageState(None)}
    return encoder, encoder.params(encoder.init(linear_data()), stages)


class SeekerStageState:
    def __init__(self, params):
        self.params = params


@pytest.mark.parametrize("horizon", [0, 1, 3])
def test_anchors_are_steps_of_the_seeker_in_the_model(horizon):
    encoder, params = encoder_of(0.5, horizon=horizon)
    obs = np.random.default_rng(0).uniform(-1, 1, (7, 2)).astype(np.float32)
    expected = obs
    for _ in range(horizon):
        expected = expected @ A.T + 0.5 * B.T
    np.testing.assert_allclose(encoder.anchor(params, obs), expected, atol=5e-3)
    pair = encoder(params, obs)
    mean, std = params.statistics.mean, params.statistics.std
    np.testing.assert_allclose(pair.anchor, (expected - mean) / std, atol=2e-2)
    # Both together are the state, whatever the anchor.
    np.testing.assert_allclose(
        pair.anchor + pair.difference, (obs - mean) / std, rtol=1e-4, atol=1e-5
    )
    if horizon == 0:
        np.testing.assert_array_equal(pair.difference, 0.0)


def test_no_gradient_goes_through_an_anchor():
    encoder, params = encoder_of(0.5, horizon=2)
    obs = jnp.ones((1, 2))
    slope = jax.jacobian(lambda o: encoder(params, o).anchor)(obs)
    np.testing.assert_array_equal(slope, 0.0)


def test_anchors_that_are_chosen_are_recorded_states():
    obs = np.random.default_rng(1).uniform(-1, 1, (40, 2)).astype(np.float32)
    candidates = None
    for kind in ("random", "nearest", "nearest-difference"):
        encoder = AnchorEncoder(AnchorConfig(anchors=kind, n_candidates=16))
        params = encoder.params(encoder.init(linear_data()), {})
        candidates = np.asarray(params.candidates)
        std = np.asarray(params.statistics.std)
        anchor = np.asarray(encoder.anchor(params, jnp.asarray(obs)))
        index = np.argmin(np.abs(anchor[:, None] - candidates).sum(-1), axis=1)
        np.testing.assert_array_equal(anchor, candidates[index])
        if kind == "random":
            assert len(np.unique(index)) > 8
            again = encoder.anchor(params, jnp.asarray(obs[:5]))
            np.testing.assert_array_equal(again, anchor[:5])  # the state's own
            continue
        for i, o in enumerate(obs):
            if kind == "nearest":
                far = [np.sum(((o - c) / std) ** 2) for c in candidates]
            else:
                far = [
                    min(
                        np.sum(((o - c - d) / std) ** 2)
                        for d in np.asarray(params.differences)
                    )
                    for c in candidates
                ]
            assert far[index[i]] == pytest.approx(min(far), abs=1e-3)


def test_reverse_rollouts_lead_back_and_keep_their_direction():
    reverse, state = exact(True)
    config = AnchorConfig(reverse_length=4, divergence_noise=0.01)
    stage = SeekerStage(Seeker(config, 1), reverse, config, 1, 1)
    obs, action = stage.diverge(reverse.best(state), linear_data(), KEY, 32)
    assert obs.shape == (4, 32, 2) and action.shape == (4, 32, 1)
    starts = np.asarray(linear_data().rows.next_obs)
    back = np.asarray(obs[0]) @ A.T + np.asarray(action[0]) @ B.T
    nearest = np.abs(starts[:, None] - back).sum(-1).min(axis=0)
    assert nearest.max() < 0.02  # one step forwards is a recorded state
    np.testing.assert_allclose(
        np.asarray(obs[1:]) @ A.T + np.asarray(action[1:]) @ B.T, obs[:-1], atol=0.02
    )
    # One direction for a rollout: actions differ by the noise alone.
    assert np.asarray(action).std(axis=0).max() < 0.05
    assert np.asarray(action).mean(axis=0).std() > 0.2
    assert np.abs(action).max() <= 0.8 + 0.05
    # They start all over the dataset, not at its end.
    far = np.abs(starts[:, None] - back).sum(-1).argmin(axis=0)
    assert far.min() < 0.3 * len(starts) and far.max() > 0.7 * len(starts)


def test_the_seeker_learns_the_way_back():
    reverse, state = exact(True)
    config = AnchorConfig(seeker_units=32, seeker_batch_size=64)
    stage = SeekerStage(Seeker(config, 1), reverse, config, 300, 1)
    update = jax.jit(stage.update)
    after, first = update(
        stage.init(KEY, linear_data()), {REVERSE: state}, linear_data(), KEY
    )
    _, second = update(after, {REVERSE: state}, linear_data(), KEY)
    assert float(second["seeker_loss"]) < float(first["seeker_loss"])


# --- networks -------------------------------------------------------------------------


def test_products_are_sums_over_d_of_features():
    config = TransductionConfig(embedding_layers=1, embedding_units=8, n_products=5)
    net = Transduction(config, MLP(1, 6, 2), 4)
    params = net.init(KEY)
    rng = np.random.default_rng(2)
    d, a, u = (rng.normal(size=(3, n)).astype(np.float32) for n in (3, 3, 1))
    out = net(params, Pair(d, a), u)
    f = np.asarray(net._embedding(params["f"], np.concatenate([d, u], 1)))
    g = np.asarray(net._embedding(params["g"], np.concatenate([a, u], 1)))
    assert f.shape == (3, 20)
    products = np.zeros((3, 5), np.float32)
    for b in range(3):
        for t in range(5):
            for k in range(4):
                products[b, t] += f[b, 4 * t + k] * g[b, 4 * t + k]
    np.testing.assert_allclose(
        out, net.head(params["head"], products), rtol=1e-4, atol=1e-5
    )
    # Normalised features: mean 0 and deviation 1 at first, for the last layer too.
    np.testing.assert_allclose(f.mean(axis=1), 0.0, atol=1e-5)
    np.testing.assert_allclose(f.std(axis=1), 1.0, atol=1e-3)


def test_it_is_bilinear_in_the_features():
    """Scaling f's features scales the products: a plain network would not do that."""
    config = TransductionConfig(embedding_layers=1, embedding_units=8, n_products=5)
    net = Transduction(config, MLP(1, 6, 2), 3)
    params = net.init(KEY)
    params["head"] = [
        {"kernel": jnp.eye(5, 6), "bias": jnp.full(6, 1e3)},
        {"kernel": jnp.eye(6, 2), "bias": jnp.full(2, -1e3)},
    ]
    doubled = params | {
        "f": [
            *params["f"][:-1],
            {
                name: 2 * x if name in ("scale", "offset") else x
                for name, x in params["f"][-1].items()
            },
        ]
    }
    pair = Pair(jnp.ones((1, 3)), jnp.array([[0.5, -1.0, 2.0]]))
    once, twice = net(params, pair), net(doubled, pair)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("which", ["actor", "critic"])
def test_concatenation_has_as_many_parameters(which):
    made = []
    for product in ("bilinear", "concat"):
        factory = TransductiveFactory(
            NetsConfig(), 11, 3, TransductionConfig(product=product)
        )
        made.append(factory.actor(6) if which == "actor" else factory.critics(2).member)
    ours, theirs = map(n_parameters, made)
    assert type(made[0]) is not type(made[1])
    assert 0.97 * ours < theirs <= ours


def test_an_agent_reads_pairs_as_it_reads_states():
    factory = TransductiveFactory(
        NetsConfig(critic_units=16), 3, 2, TransductionConfig()
    )
    critics = factory.critics(2)
    params = critics.init(KEY)
    pair = Pair(jnp.ones((4, 3)), jnp.zeros((4, 3)))
    assert critics(params, pair, jnp.zeros((4, 2))).shape == (2, 4)
    many = critics(params, pair, jnp.zeros((5, 4, 2)))  # sampled actions
    assert many.shape == (2, 5, 4)
    np.testing.assert_allclose(
        many[:, 0], critics(params, pair, jnp.zeros((4, 2))), rtol=1e-4, atol=1e-6
    )
    assert factory.value()(factory.value().init(KEY), pair).shape == (1, 4)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: AnchorConfig(anchors="far"), "choose seeker, random, nearest"),
        (lambda: TransductionConfig(product="sum"), "choose bilinear, concat"),
    ],
)
def test_settings_that_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
