"""Replay probabilities against loops, SciPy and figures computed by hand."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracles import level_replay as oracle
from scipy import stats

from rlgen.algos.ued import buffer as level_buffer
from rlgen.algos.ued import replay_distribution
from rlgen.algos.ued.buffer import DATASET, EDITED, GENERATED, NEW
from rlgen.algos.ued.replay_distribution import Channel
from rlgen.errors import UserError

C = 9
KEY = jax.random.key(0)

probabilities = jax.jit(
    replay_distribution.channel_probabilities, static_argnames="channel"
)
ranks = jax.jit(replay_distribution.ranks, static_argnames="ties")
staleness = jax.jit(replay_distribution.staleness_probabilities)
draw = jax.jit(replay_distribution.draw, static_argnames="n")

# Few values, so that ties are common; both zeros, so that their sign does not matter;
# and neighbours that differ in their last bit alone.
NEIGHBOURS = np.nextafter(np.float32([-2, 0.5]), np.float32([-9, 9]))
VALUES = [-2.0, -0.5, -0.0, 0.0, 0.5, 1.0, 3.0, *NEIGHBOURS]
scores = arrays(np.float32, (C,), elements=st.sampled_from([float(v) for v in VALUES]))
supports = arrays(np.bool_, (C,))


def effective_number(p):
    return float(replay_distribution.effective_number(p))


@settings(max_examples=60, deadline=None)
@given(scores, supports)
def test_shared_ranks_equal_scipy(scores, support):
    """Equal scores share their mean rank; levels outside the support come last."""
    result = np.asarray(ranks(scores, support, "shared", KEY))
    expected = stats.rankdata(-scores[support], method="average")
    np.testing.assert_array_equal(result[support], expected)
    assert np.all(result[~support] > support.sum())
    assert dict(enumerate(result)) | oracle.shared_ranks(scores, support) == dict(
        enumerate(result)
    )


@settings(max_examples=60, deadline=None)
@given(scores, supports, st.integers(0, 2**31 - 1))
def test_random_ranks_are_an_order_of_the_support(scores, support, seed):
    """Random ties still put every higher score before every lower one."""
    result = np.asarray(ranks(scores, support, "random", jax.random.key(seed)))
    inside = result[support]
    assert sorted(inside) == list(range(1, support.sum() + 1))
    ordered = scores[support][np.argsort(inside)]
    assert np.all(np.diff(ordered) <= 0)


def test_random_ties_take_every_order_equally_often():
    """An order by index gives one arbitrary level all the mass, so ties are drawn."""
    tied = np.float32([1, 5, 1, 0, 1])
    keys = jax.random.split(jax.random.key(1), 3000)
    orders = jax.jit(
        jax.vmap(lambda key: ranks(tied, np.ones(5, bool), "random", key))
    )(keys)
    np.testing.assert_array_equal(orders[:, 1], 1)
    np.testing.assert_array_equal(orders[:, 3], 5)
    counts = collections.Counter(tuple(o) for o in np.asarray(orders)[:, [0, 2, 4]])
    assert set(counts) == set(itertools.permutations([2.0, 3.0, 4.0]))
    assert stats.chisquare(list(counts.values())).pvalue > 1e-5


@pytest.mark.parametrize(
    "channel",
    [
        Channel("rank", 0.3),
        Channel("rank", 0.02),
        Channel("proportional", 0.5),
        Channel("proportional", 0.02),
        Channel("topk", 0.5, k=1),
        Channel("topk", 1.0, k=4),
        Channel("topk", 0.1, k=50),
    ],
    ids=lambda c: f"{c.prioritization}-{c.temperature}-{c.k}",
)
def test_probabilities_equal_the_formulas(channel):
    """Also where scores are negative or tied and where few or no levels are there."""

    @settings(max_examples=40, deadline=None)
    @given(scores, supports)
    def check(scores, support):
        p = np.asarray(probabilities(channel, scores, support, KEY))
        expected = oracle.probabilities(
            scores, support, channel.prioritization, channel.temperature, channel.k
        )
        np.testing.assert_allclose(p, expected, rtol=1e-3, atol=1e-6)
        assert np.all(p[~support] == 0)
        np.testing.assert_allclose(p.sum(), float(support.any()), atol=1e-6)

    check()


@pytest.mark.parametrize("score", [0.0, -3.0, 0.7])
@pytest.mark.parametrize("temperature", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("prioritization", ["rank", "proportional", "topk"])
def test_equal_scores_have_equal_probabilities(prioritization, temperature, score):
    """Ties broken by index put 90 % of the mass on one arbitrary level."""
    support = np.arange(40) < 30
    p = probabilities(
        Channel(prioritization, temperature),
        np.full(40, score, np.float32),
        support,
        KEY,
    )
    np.testing.assert_allclose(p, support / 30, rtol=1e-5)


@pytest.mark.parametrize("n_best", [1, 3900])
def test_sharp_temperatures_do_not_underflow(n_best):
    """Many ties for the best at T = 0.05 have weights too small for float32."""
    scores = np.zeros(4000, np.float32)
    scores[:n_best] = 1.0
    p = np.asarray(probabilities(Channel("rank", 0.05), scores, scores >= 0, KEY))
    np.testing.assert_allclose(p[:n_best].sum(), 1.0, atol=1e-4)
    np.testing.assert_allclose(p[0], p[n_best - 1])


@pytest.mark.parametrize(
    ("temperature", "top_share", "effective"),
    [(0.1, 0.999, 1.0), (0.3, 0.87, 1.3), (0.5, 0.61, 2.5), (1.0, 0.113, 48.0)],
)
def test_how_sharp_ranks_are_among_4000_levels(temperature, top_share, effective):
    """With the published temperature of 0.3 seven of eight draws are one level."""
    scores = np.random.default_rng(0).permutation(4000).astype(np.float32)
    p = probabilities(Channel("rank", temperature), scores, scores >= 0, KEY)
    assert int(jnp.argmax(p)) == int(np.argmax(scores))
    np.testing.assert_allclose(jnp.max(p), top_share, rtol=6e-3)
    np.testing.assert_allclose(effective_number(p), effective, rtol=2.5e-2)
    np.testing.assert_allclose(jnp.sum(p), 1.0, atol=1e-5)


def test_four_best_of_4000_levels_at_the_published_temperature():
    """Rank prioritization at T = 0.3 leaves 1 % to 3996 levels."""
    scores = np.arange(4000, dtype=np.float32)
    p = np.asarray(probabilities(Channel("rank", 0.3), scores, scores >= 0, KEY))
    np.testing.assert_allclose(np.sort(p)[-4:].sum(), 0.989, atol=1e-3)


@pytest.mark.parametrize("low", [0.0, -5.0, -1e30])
def test_proportional_never_gives_nan(low):
    """Empty slots at -inf times 0 are NaN, and powers of negative scores too."""
    channel = Channel("proportional", 0.3)
    stored = np.float32([low, 2.0, 1.0, -np.inf, np.nan])
    partly = np.array([True, True, True, False, False])
    p = np.asarray(probabilities(channel, stored, partly, KEY))
    assert np.all(np.isfinite(p))
    np.testing.assert_allclose(p[1] / p[2], 2 ** (1 / 0.3), rtol=1e-4)
    assert p[0] == p[3] == p[4] == 0
    # Without any positive score nothing is preferred.
    np.testing.assert_array_equal(
        probabilities(channel, np.full(5, low, np.float32), partly, KEY),
        np.float32([1 / 3, 1 / 3, 1 / 3, 0, 0]),
    )
    empty = probabilities(channel, stored, np.zeros(5, bool), KEY)
    np.testing.assert_array_equal(empty, np.zeros(5))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_proportional_does_not_depend_on_the_scale_of_scores(scale):
    """Powers of tiny scores vanish and those of huge ones overflow, unless scaled."""
    channel = Channel("proportional", 0.1)
    plain = np.float32([1.0, 0.5, 0.9])
    yes = np.ones(3, bool)
    np.testing.assert_allclose(
        probabilities(channel, plain * np.float32(scale), yes, KEY),
        probabilities(channel, plain, yes, KEY),
        rtol=1e-4,
    )


def test_topk_keeps_all_that_tie_with_the_last():
    """A cut by index would drop one of two equal levels."""
    channel = Channel("topk", 1.0, k=2)
    stored = np.float32([1, 3, 1, 0, 1])
    p = np.asarray(probabilities(channel, stored, np.ones(5, bool), KEY))
    assert p[0] == p[2] == p[4] > 0
    assert p[3] == 0
    np.testing.assert_allclose(p[1] / p[0], np.exp(2.0), rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(arrays(np.int32, (C,), elements=st.integers(0, 6)), supports, st.integers(6, 9))
def test_staleness_equals_the_time_since_last_played(last_seen, support, clock):
    """Levels of which all were just played are equally stale."""
    p = np.asarray(staleness(last_seen, np.int32(clock), support))
    expected = oracle.staleness(last_seen, clock, support)
    np.testing.assert_allclose(p, expected, rtol=1e-5)
    np.testing.assert_allclose(p.sum(), float(support.any()), atol=1e-6)


def buffer_of(origins, capacity=8):
    example = {"id": np.int32(0)}
    buffer = level_buffer.empty(example, capacity)
    origin = np.zeros(capacity, np.int32)
    origin[: len(origins)] = origins
    return buffer.replace(
        batch=buffer.batch.replace(origin=jnp.asarray(origin)),
        size=jnp.int32(len(origins)),
    )


def test_supports_cover_their_origins_and_no_empty_slot():
    """Empty slots hold zeros, which is the origin of dataset levels."""
    buffer = buffer_of([DATASET, NEW, EDITED, GENERATED, DATASET])
    expected = {
        "all": [1, 1, 1, 1, 1, 0, 0, 0],
        "dataset": [1, 0, 0, 0, 1, 0, 0, 0],
        "generated": [0, 1, 1, 1, 0, 0, 0, 0],
    }
    assert set(expected) == set(replay_distribution.SUPPORTS)
    for support, mask in expected.items():
        np.testing.assert_array_equal(
            replay_distribution.supported(buffer, support), np.array(mask, bool)
        )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([DATASET, NEW, GENERATED]), min_size=1, max_size=C),
    scores,
    scores,
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.4, 1.0]),
)
def test_channels_on_their_own_supports_mix_to_one_distribution(
    origins, first, second, rho, eta
):
    """P = (1 - rho) ((1 - eta) P_S + eta P_S') + rho P_C, each part on its support."""
    buffer = buffer_of(origins, C)
    data = np.asarray(replay_distribution.supported(buffer, "dataset"))
    generated = np.asarray(replay_distribution.supported(buffer, "generated"))
    last_seen = np.arange(C, dtype=np.int32)
    p_first = probabilities(Channel("rank", 0.3), first, data, KEY)
    p_second = probabilities(Channel("rank", 0.3), second, generated, KEY)
    p_stale = staleness(last_seen, np.int32(20), data)
    p = (1 - rho) * ((1 - eta) * p_first + eta * p_second) + rho * p_stale
    expected = (1 - rho) * (
        (1 - eta) * oracle.probabilities(first, data)
        + eta * oracle.probabilities(second, generated)
    ) + rho * oracle.staleness(last_seen, 20, data)
    np.testing.assert_allclose(p, expected, rtol=1e-3, atol=1e-6)
    assert np.all(np.asarray(p)[len(origins) :] == 0)
    if data.any() and generated.any():
        np.testing.assert_allclose(jnp.sum(p), 1.0, atol=1e-5)
    # Even where a part has no support, what is drawn is a level of another part.
    if expected.sum() > 0:
        slots = np.asarray(draw(KEY, p, 64))
        assert np.all(np.asarray(p)[slots] > 0)


def test_draws_are_as_frequent_as_their_probabilities():
    p = np.float32([0, 0.05, 0.2, 0, 0.4, 0.3, 0.05, 0])
    slots = np.asarray(draw(jax.random.key(4), p, 50000))
    counts = np.bincount(slots, minlength=8)
    assert counts[p == 0].sum() == 0
    expected = 50000 * p[p > 0].astype(np.float64)
    expected *= 50000 / expected.sum()
    assert stats.chisquare(counts[p > 0], expected).pvalue > 1e-5


def test_draws_need_no_normalisation():
    """Weights that sum to 0.6, as with an empty support, keep their proportions."""
    p = np.float32([0.45, 0, 0.15])
    slots = np.asarray(draw(jax.random.key(5), p, 4000))
    assert stats.binomtest(int((slots == 0).sum()), 4000, 0.75).pvalue > 1e-5
    assert not np.any(slots == 1)


def test_draws_never_hit_a_level_without_mass(monkeypatch):
    """Parallel sums round differently from slot to slot, past the end included.

    Random numbers are set onto every edge between two slots, where rounding decides.
    """
    rng = np.random.default_rng(0)
    n = 1500
    p = rng.random(n).astype(np.float32) * (rng.random(n) < 0.5)
    p[:3] = 0
    p[-3:] = 0
    p /= p.sum()
    edges = np.asarray(jax.jit(jnp.cumsum)(p)) / np.float32(jax.jit(jnp.cumsum)(p)[-1])
    luck = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1)])
    luck = np.clip(luck, 0, np.nextafter(np.float32(1), np.float32(0)))
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.asarray(luck))
    slots = jax.jit(replay_distribution.draw, static_argnums=2)(KEY, p, len(luck))
    np.testing.assert_array_equal(p[np.asarray(slots)] > 0, True)


def test_a_single_level_is_always_drawn():
    """The last slot, where the largest random number may round up to the total."""
    for at in (0, 4, 8):
        p = np.zeros(C, np.float32)
        p[at] = 1e-30
        np.testing.assert_array_equal(draw(KEY, p, 100), at)


def test_effective_number_counts_equally_likely_levels():
    """It is 1 for one level, n for n equal ones, and less than n otherwise."""
    assert effective_number(np.float32([0, 1, 0])) == 1.0
    np.testing.assert_allclose(effective_number(np.full(50, 0.02)), 50.0, rtol=1e-5)
    np.testing.assert_allclose(
        effective_number(np.float32([0.5, 0.25, 0.25])), 1 / 0.375, rtol=1e-6
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"prioritization": "ranks"},
        {"ties": "index"},
        {"support": "both"},
        {"temperature": 0.0},
        {"k": 0},
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings):
    """Bad input gets one sentence that says what to choose."""
    with pytest.raises(UserError, match="choose"):
        Channel(**settings)
