"""Recorded episodes: played again by hand, whole, in equal shares of levels."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import Push, PushConfig

from rlgen import players, recording
from rlgen.errors import UserError
from rlgen.interop.starts import Starts
from rlgen.levels import LevelSet
from rlgen.networks import ActorCritic, NetworkConfig
from rlgen.players import Policy
from rlgen.recording import Recorder, Stage

KEY = jax.random.key(0)


@functools.cache
def levels(n=5):
    return LevelSet.generate(Starts(), n, seed=0, split="train")


@functools.cache
def stage(env):
    return Stage(env)


@functools.cache
def uniform(env):
    return players.uniform(env.action_space)


def recorder(env, n_levels=5, **settings):
    return Recorder(stage(env), levels(n_levels).levels, KEY, **settings)


def random(env):
    return Policy("random", uniform(env))


def items(n_levels, n_episodes):
    return [(i, j) for i in range(n_levels) for j in range(n_episodes)]


def test_played_again_by_hand_the_steps_are_the_same():
    """The oracle is the environment alone, one step after another."""
    env = Push()
    step = jax.jit(env.step)
    lengths = set()
    for recorded in recorder(env).play(random(env), items(5, 8)):
        episode = recorded.episode
        lengths.add(len(episode))
        level = levels()[episode.level_id]
        assert episode.observations[0, 1] == Push.target(
            jax.tree.map(jnp.asarray, level)
        )
        state = {"at": jnp.asarray(episode.observations[0, 0]), "time": jnp.int32(0)}
        for t, action in enumerate(episode.actions):
            after = step(KEY, level, state, action)
            np.testing.assert_allclose(
                episode.observations[t + 1], after.obs, rtol=1e-6, atol=1e-6
            )
            np.testing.assert_allclose(episode.rewards[t], after.reward, atol=1e-6)
            assert episode.terminations[t] == after.terminated
            assert episode.truncations[t] == after.truncated
            assert bool(after.done) == (t == len(episode) - 1)
            state = after.state
        assert recorded.success == after.info["success"]
    assert len(lengths) > 3 and max(lengths) == 12


def test_the_last_observation_is_the_one_that_ended_it():
    env = Push()
    fallen = [
        r.episode
        for r in recorder(env).play(random(env), items(5, 20))
        if r.episode.terminations[-1]
    ]
    assert len(fallen) > 10
    for episode in fallen:
        assert len(episode.observations) == len(episode) + 1
        assert abs(episode.observations[-1, 0]) > 1.0  # beyond the cliff, no reset
        assert (np.abs(episode.observations[:-1, 0]) <= 1.0).all()


def test_an_episode_is_the_same_whatever_is_played_beside_it():
    env = Push(noise=0.3)
    many = recorder(env).play(random(env), items(5, 40))  # two batches
    few = recorder(env, 3).play(random(env), [(2, 39), (0, 0)])
    for again, index in zip(few, (2 * 40 + 39, 0), strict=True):
        for a, b in zip(
            dataclasses.astuple(again.episode),
            dataclasses.astuple(many[index].episode),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
    firsts = [tuple(r.episode.actions[0]) for r in many]
    assert len(set(firsts)) == len(firsts)


def test_long_episodes_are_played_in_pieces(monkeypatch):
    env = Push(max_steps=23)
    whole = recorder(env).play(random(env), items(5, 4))
    monkeypatch.setattr(recording, "_SEGMENT", 5)
    pieces = Recorder(Stage(env), levels().levels, KEY).play(random(env), items(5, 4))
    assert max(len(r.episode) for r in whole) > 15
    for a, b in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(
            a.episode.observations, b.episode.observations, atol=1e-6
        )
        assert a.success == b.success


def test_cut_episodes_are_truncated_and_have_no_success():
    env = Push(max_steps=6)
    homing = Policy("homing", players.scripted(PushConfig().controllers()["homing"]))
    whole = recorder(env).play(homing, items(5, 1))
    short = recorder(env, max_steps=4).play(homing, items(5, 1))
    for a, b in zip(whole, short, strict=True):
        assert len(a.episode) == 6 and a.success
        assert len(b.episode) == 4 and not b.success
        by_hand = recording.cut(a, 4)
        np.testing.assert_array_equal(b.episode.truncations, [0, 0, 0, 1])
        for x, y in zip(
            dataclasses.astuple(by_hand.episode),
            dataclasses.astuple(b.episode),
            strict=True,
        ):
            np.testing.assert_allclose(x, y, atol=1e-6)
        assert not by_hand.success and recording.cut(a, 6) is a


def test_actions_stand_in_the_box_as_they_were_done():
    env = Push()
    network, params = policy_network("none")
    params["heads"]["params"]["Dense_1"]["bias"] = jnp.array([0.0, 1.5])
    played = recorder(env).play(
        Policy("wild", players.learned(network), params), items(5, 8)
    )
    actions = np.concatenate([r.episode.actions for r in played])
    assert np.abs(actions).max() == 1.0 and (np.abs(actions) == 1.0).mean() > 0.3
    for r in played:
        moved = np.diff(r.episode.observations[:, 0])
        np.testing.assert_allclose(moved, 0.3 * r.episode.actions[:, 0], atol=1e-6)


def policy_network(core):
    env = Push()
    shape = NetworkConfig(torso="mlp", channels=8, core=core, core_size=8, head_size=8)
    network = ActorCritic(env.observation_space, env.action_space, shape)
    # Actions that depend on what was seen.
    params = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(KEY, x.shape), network.init(KEY)
    )
    return network, params


@pytest.mark.parametrize("core", ["none", "gru"])
def test_a_policy_acts_on_what_it_has_seen_in_this_episode(core):
    """The oracle replays whole episodes at once, each from an empty memory."""
    network, params = policy_network(core)
    played = recorder(Push()).play(
        Policy("p", players.learned(network, greedy=True), params), items(5, 30)
    )
    unroll = jax.jit(network.unroll)
    for r in played[::17]:
        obs = r.episode.observations[:-1, None]
        first = np.arange(len(obs))[:, None] == 0
        raw, _ = unroll(params, network.initial_carry(1), obs, first)
        mode = np.clip(network.policy(raw).mode()[:, 0], -1.0, 1.0)
        np.testing.assert_allclose(r.episode.actions, mode, atol=1e-5)
    spread = np.concatenate([r.episode.actions for r in played]).std()
    assert spread > 0.01


def test_samples_have_the_spread_of_the_policy():
    network, params = policy_network("none")
    params = jax.tree.map(jnp.zeros_like, params)
    params["heads"]["params"]["Dense_1"]["bias"] = jnp.array([0.1, np.log(0.2)])
    played = recorder(Push(max_steps=3)).play(
        Policy("p", players.learned(network), params), items(5, 80)
    )
    actions = np.concatenate([r.episode.actions for r in played])
    assert actions.mean() == pytest.approx(0.1, abs=0.03)
    assert actions.std() == pytest.approx(0.2, abs=0.02)


def test_what_is_not_finite_is_left_out_and_counted():
    env = Push(fragile=True)
    played = recorder(env).play(random(env), items(5, 30))
    kept = [r for r in played if r is not None]
    assert 20 < len(kept) < 130
    for r in kept:
        assert (np.abs(r.episode.observations[:, 0]) <= 0.5).all()
        assert not r.episode.terminations.any()
    some, dropped = recording.record(recorder(env), [random(env)], 60)
    assert sum(len(r.episode) for r in some) == 60 and dropped > 0


def test_where_nothing_stays_finite_it_gives_up():
    env = Push(max_steps=200, fragile=True)
    with pytest.raises(UserError, match=r"on level 0 were not finite: choose other"):
        recording.record(recorder(env), [random(env)], 1000)


@settings(deadline=None)
@given(
    n_levels=st.integers(1, 12),
    share=st.floats(1.0, 9.0),
    longest=st.integers(1, 40),
    seed=st.integers(0, 999),
)
def test_levels_have_equal_shares_as_near_as_episodes_allow(
    n_levels, share, longest, seed
):
    """Against the definition, whatever lengths episodes have."""
    n_steps = int(n_levels * share)
    longest = min(longest, n_steps // n_levels)
    rng = np.random.default_rng(seed)
    lengths = [[] for _ in range(n_levels)]
    while True:
        counts, missing = recording.allot(lengths, n_steps)
        if not missing:
            break
        for level, steps in missing.items():
            assert steps > 0
            more = rng.integers(1, longest, 1 + steps // 3, endpoint=True)
            lengths[level] += more.tolist()
    total = 0
    for level, count in enumerate(counts[:-1]):
        target = (level + 1) * n_steps // n_levels
        own = lengths[level]
        nearest = min(
            abs(total + sum(own[:k]) - target) for k in range(1, len(own) + 1)
        )
        total += sum(own[:count])
        assert count >= 1 and abs(total - target) == nearest
        assert abs(total - target) <= (longest + 1) / 2
    last = lengths[-1][: counts[-1]]
    assert total + sum(last[:-1]) < n_steps <= total + sum(last)


def test_the_number_of_steps_is_exact_and_policies_take_turns():
    env = Push()
    policies = [random(env)._replace(name=name) for name in "abc"]
    recorded, dropped = recording.record(recorder(env), policies, 701)
    assert dropped == 0 and sum(len(r.episode) for r in recorded) == 701
    last = recorded[-1].episode
    assert last.truncations[-1] or last.terminations[-1]
    by_level = [[r for r in recorded if r.episode.level_id == i] for i in range(5)]
    for i, own in enumerate(by_level):
        assert abs(sum(len(r.episode) for r in own) - 701 / 5) <= 12
        turns = ["abc"[(i + j) % 3] for j in range(len(own))]
        assert [r.policy for r in own] == turns
    assert [r.episode.level_id for r in recorded] == sorted(
        r.episode.level_id for r in recorded
    )
