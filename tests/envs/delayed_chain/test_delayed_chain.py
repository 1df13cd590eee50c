"""Delayed chains: rules, levels, held-out sets."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen import training
from rlgen.env import check_env
from rlgen.envs.delayed_chain.config import DelayedChainConfig
from rlgen.envs.delayed_chain.env import DelayedChain
from rlgen.envs.delayed_chain.levels import Chains
from rlgen.errors import UserError
from rlgen.levels import LevelFileError, split_of

SPACE = Chains(3, 8)


def chain(length, good_action, noisy=False):
    level = SPACE.from_str(
        f'{{"length": {length}, "good_action": {good_action}, "noisy": '
        f"{str(noisy).lower()}}}"
    )
    return jax.tree.map(jnp.asarray, level)


def play(env, level, actions, seed=0):
    state, obs = env.reset(jax.random.key(seed), level)
    steps = []
    for i, action in enumerate(actions):
        step = env.step(jax.random.key(1000 * seed + i), level, state, action)
        state = step.state
        steps.append(step)
    return obs, steps


def test_it_keeps_the_contract():
    for env in (DelayedChain(8), DelayedChain(8, 3)):
        check_env(env, chain(4, 1), jax.random.key(0))


def test_the_first_action_alone_decides_and_pays_at_the_end():
    env = DelayedChain(8)
    for actions in itertools.product((0, 1), repeat=3):
        _, steps = play(env, chain(3, 1), actions)
        pay = 1.0 if actions[0] == 1 else -1.0
        assert [float(s.reward) for s in steps] == [0.0, 0.0, pay]
        assert [bool(s.terminated) for s in steps] == [False, False, True]
        assert bool(steps[-1].info["success"]) == (actions[0] == 1)
    returns = [
        sum(float(s.reward) for s in play(env, chain(3, 1), actions)[1])
        for actions in itertools.product((0, 1), repeat=3)
    ]
    assert max(returns) == float(env.optimal_return(chain(3, 1)))


def test_states_tell_time_and_first_action():
    env = DelayedChain(8)
    seen = set()
    for first in (0, 1):
        obs, steps = play(env, chain(8, 0), [first] + [0] * 7)
        assert int(obs) == 0
        seen |= {int(s.obs) for s in steps}
    assert seen == set(range(1, env.n_states))


def test_noise_is_fair_and_leaves_the_end_alone():
    env = DelayedChain(8)
    rewards = np.array(
        [
            [float(s.reward) for s in play(env, chain(8, 0, True), [0] * 8, seed)[1]]
            for seed in range(40)
        ]
    )
    assert set(rewards[:, :-1].ravel()) == {-1.0, 1.0}
    assert abs(rewards[:, :-1].mean()) < 4 / np.sqrt(40 * 7)
    assert (rewards[:, -1] == 1).all()


def test_distractors_are_coins_beside_the_state():
    env = DelayedChain(8, 20)
    observed = np.stack(
        [play(env, chain(4, 0), [0, 0, 0], seed)[1][0].obs for seed in range(50)]
    )
    assert (observed[:, : env.n_states].argmax(axis=1) == 2).all()
    coins = observed[:, env.n_states :]
    assert abs(coins.mean() - 0.5) < 4 * 0.5 / np.sqrt(coins.size)


def test_levels_edits_and_text():
    keys = jax.random.split(jax.random.key(0), 600)
    levels = jax.vmap(SPACE.sample)(keys)
    counts = np.bincount(np.asarray(levels.length), minlength=9)[3:]
    np.testing.assert_allclose(counts / 600, 1 / 6, atol=0.06)
    edited = jax.vmap(SPACE.mutate)(keys, levels)
    step = np.asarray(edited.length - levels.length)
    assert set(step) == {-1, 1}
    assert edited.length.min() == 3 and edited.length.max() == 8
    hashes = np.asarray(jax.vmap(SPACE.hash)(SPACE.all_levels()))
    assert len({row.tobytes() for row in hashes}) == 12
    level = chain(5, 1, True)
    again = SPACE.from_str(SPACE.to_str(level))
    jax.tree.map(np.testing.assert_array_equal, level, again)
    with pytest.raises(LevelFileError, match="no chain"):
        SPACE.from_str("5")


def test_held_out_chains_are_of_their_split():
    (held_out,) = DelayedChainConfig(max_length=50).eval_sets().values()
    assert len(held_out) > 0
    assert (np.asarray(split_of(held_out.hashes)) == 2).all()
    with pytest.raises(UserError, match="min_length < max_length"):
        DelayedChainConfig(min_length=9, max_length=9)


def test_a_student_trains_on_chains(tmp_path):
    settings = {
        "n_updates": 2,
        "n_envs": 8,
        "n_steps": 50,
        "core": "none",
        "eval_every": 0,
        "max_length": 50,
        "progress": False,
    }
    store = training.train("dr", "delayed_chain", out=str(tmp_path), **settings)
    assert store.is_done
