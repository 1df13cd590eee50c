"""MinAtar behind the lab's contracts: the same games, honest ends."""

import functools
import subprocess
import sys

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen import training
from rlgen.env import check_env
from rlgen.errors import UserError
from rlgen.interop import minatar
from rlgen.interop.minatar import GAMES, MinAtar, MinAtarConfig
from rlgen.interop.starts import start

KEY = jax.random.key(0)
NAMES = {
    "breakout": "Breakout-MinAtar",
    "asterix": "Asterix-MinAtar",
    "freeway": "Freeway-MinAtar",
    "space_invaders": "SpaceInvaders-MinAtar",
    "seaquest": "Seaquest-MinAtar",
}
LEFT, RIGHT = 1, 2


LIMIT = 1000


@functools.cache
def compiled(game):
    env = MinAtar(game, step_limit=LIMIT)
    return jax.jit(env.reset), jax.jit(env.step)


def play(game, policy, seed=0, time=0):
    """The steps of an episode whose clock starts at `time`, or its first 50."""
    reset, step = compiled(game)
    state, _ = reset(KEY, start(seed))
    state = state.replace(time=jnp.int32(time))
    steps = []
    for i in range(50):
        key = jax.random.fold_in(KEY, i)
        steps.append(step(key, start(seed), state, jnp.int32(policy(state))))
        state = steps[-1].state
        if bool(steps[-1].done):
            break
    return steps


def follow_the_ball(state):
    """Keeps the paddle where the ball will be."""
    game = state.game
    ahead = 1 if int(game.ball_dir) in (1, 2) else -1
    x = int(game.ball_x) + ahead
    x = 1 if x < 0 else 8 if x > 9 else x
    return LEFT if x < int(game.pos) else RIGHT if x > int(game.pos) else 0


@pytest.mark.parametrize("game", ["breakout", "space_invaders"])
def test_it_keeps_the_contract(game):
    check_env(MinAtar(game, step_limit=20), start(1), KEY)


@pytest.mark.parametrize("game", GAMES)
def test_every_game_keeps_its_types(game):
    """What `check_env` asserts of types, without compiling every game for it."""
    env = MinAtar(game)
    state, obs = jax.eval_shape(env.reset, KEY, start(0))
    step = jax.eval_shape(env.step, KEY, start(0), state, jnp.int32(0))
    assert types_of(state) == types_of(step.state)
    assert types_of(obs) == types_of(step.obs)
    assert (obs.shape, obs.dtype) == (env.observation_space.shape, np.uint8)


def types_of(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves]


@pytest.mark.parametrize("game", GAMES)
def test_it_steps_as_gymnax_does(game):
    """By its public `step`, which resets by itself and keeps the last picture."""
    foreign, params = gymnax.make(NAMES[game])
    env = MinAtar(game)
    reset, step = compiled(game)
    rng = np.random.default_rng(0)
    seed, rewards, done = 0, 0.0, True
    for i in range(60):
        if done:
            seed += 1
            state, obs = reset(KEY, start(seed))
            their_obs, theirs = foreign.reset(jax.random.PRNGKey(seed), params)
            np.testing.assert_array_equal(obs, 255 * np.asarray(their_obs))
        key = jax.random.fold_in(KEY, i)
        action = jnp.int32(rng.integers(env.action_space.n))
        _, theirs, reward, terminated, truncated, info = foreign.step(
            key, theirs, action, params
        )
        ours = step(jax.random.split(key)[0], start(seed), state, action)
        state = ours.state
        their_obs = np.asarray(info["final_observation"])
        assert set(np.unique(their_obs)) == {0.0, 1.0}
        np.testing.assert_array_equal(ours.obs, 255 * their_obs)
        assert float(ours.reward) == float(reward)
        assert bool(ours.terminated) == bool(terminated)
        assert not bool(truncated)
        rewards += float(reward)
        done = bool(ours.terminated)
    assert env.observation_space.shape == foreign.observation_space(params).shape
    if game in ("breakout", "space_invaders"):
        assert rewards > 0 and seed > 1  # rewards and ends were among what agreed


def test_time_cuts_off_and_losing_ends():
    steps = play("freeway", lambda state: 0, time=LIMIT - 5)
    assert [bool(s.truncated) for s in steps] == [False] * 4 + [True]
    assert not any(bool(s.terminated) for s in steps)
    lost = play("breakout", lambda state: 0)
    assert bool(lost[-1].terminated) and not bool(lost[-1].truncated)
    # Losing with the last step that there is time for is losing.
    last = play("breakout", lambda state: 0, time=LIMIT - len(lost))[-1]
    assert bool(last.terminated) and not bool(last.truncated)


def test_gymnax_sets_no_other_time_limit():
    reset, step_fn = compiled("freeway")
    state, _ = reset(KEY, start(0))
    state = state.replace(game=state.game.replace(time=jnp.int32(5000)))
    assert not bool(step_fn(KEY, start(0), state, jnp.int32(0)).done)


def test_success_is_a_return_above_zero_at_the_end():
    steps = play("breakout", follow_the_ball, time=LIMIT - 40)
    assert len(steps) == 40 and bool(steps[-1].truncated)
    total = sum(float(s.reward) for s in steps)
    assert total >= 1 and float(steps[-1].state.total_return) == total
    assert [bool(s.info["success"]) for s in steps] == [False] * 39 + [True]
    lost = play("breakout", lambda state: LEFT, seed=2)
    assert sum(float(s.reward) for s in lost) == 0
    assert not any(bool(s.info["success"]) for s in lost)


def test_a_level_fixes_the_start_and_a_key_does_not():
    def first(game, seed, key=KEY):
        return np.asarray(compiled(game)[0](key, start(seed))[1])

    same = first("freeway", 3, jax.random.key(1))
    np.testing.assert_array_equal(first("freeway", 3), same)
    assert len({first("freeway", seed).tobytes() for seed in range(8)}) == 8
    # What the docstring says of the others.
    assert len({first("breakout", seed).tobytes() for seed in range(16)}) == 2
    for game in ("asterix", "space_invaders", "seaquest"):
        assert len({first(game, seed).tobytes() for seed in range(4)}) == 1


def test_the_picture_shows_the_player_on_top():
    for game in GAMES:
        env = MinAtar(game)
        state, obs = compiled(game)[0](KEY, start(0))
        picture = np.asarray(jax.jit(env.render)(start(0), state))
        assert picture.shape == (120, 120, 3) and picture.dtype == np.uint8
        cells = picture[6::12, 6::12]
        is_player = (cells == [244, 243, 238]).all(axis=2)
        np.testing.assert_array_equal(is_player, np.asarray(obs)[..., 0] == 255)
        is_empty = (cells == [43, 48, 64]).all(axis=2)
        np.testing.assert_array_equal(is_empty, (np.asarray(obs) == 0).all(axis=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"game": "pong"}, "choose breakout, asterix, freeway"),
        ({"step_limit": 0}, "step_limit is 0"),
    ],
)
def test_bad_settings_get_one_sentence(settings, message):
    with pytest.raises(UserError, match=message):
        MinAtarConfig(**settings)


def test_without_gymnax_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax.environments", None)
    minatar.make_game.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'rlgen\[minatar\]'"):
        MinAtarConfig()


def test_gymnax_is_imported_only_where_it_is_played():
    code = "import rlgen.interop.minatar, sys; assert 'gymnax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_first_use_may_be_inside_a_trace():
    env = MinAtar("breakout")
    minatar.make_game.cache_clear()
    jax.eval_shape(env.reset, KEY, start(0))
    assert not isinstance(minatar.make_game("breakout").action_set, jax.core.Tracer)


@pytest.mark.slow
def test_an_agent_trains_on_it(tmp_path):
    store = training.train(
        "agent",
        "minatar",
        out=str(tmp_path),
        n_updates=2,
        n_envs=4,
        n_steps=4,
        step_limit=6,
        n_heldout=2,
        eval_episodes=1,
        torso="conv",
        channels=4,
        progress=False,
        pictures=False,
    )
    assert store.is_done
