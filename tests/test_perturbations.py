"""Crafted shifts: noise and holes as often as said, levels as unlike as said."""

from __future__ import annotations

import dataclasses
import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Push
from scipy import sparse, stats
from scipy.sparse import csgraph
from tiny import assert_same_bits

from rlgen.env import Env, check_env, sample_action, take
from rlgen.envs.cave.config import CaveConfig
from rlgen.envs.grid.shifts import blocks_of_training
from rlgen.envs.maze.config import MazeConfig
from rlgen.envs.maze.env import Maze
from rlgen.envs.physics.config import InvertedPendulumConfig
from rlgen.envs.pointmaze.config import PointMazeConfig
from rlgen.errors import UserError
from rlgen.interop.starts import start
from rlgen.levels import LevelSet
from rlgen.perturbations import (
    ActionNoise,
    ObservationDropout,
    Shift,
    crafted_shifts,
    plain_validation,
)

N = 20_000
MAZE = MazeConfig(height=7, width=7, max_walls=14, view_size=3)
FULL = dataclasses.replace(MAZE, view_size="full")


def assert_binomial(hits, n, p):
    """So many of n by chance: a bound that a right program misses once in a million."""
    low, high = stats.binom.interval(1 - 1e-6, n, p)
    assert low <= hits <= high, (hits, n * p)


def keys(n=N, seed=0):
    return jax.random.split(jax.random.key(seed), n)


# Disturbances.


@pytest.mark.parametrize("strength", [0.1, 0.3, 1.0])
def test_discrete_actions_slip_as_often_as_said(strength):
    noise = ActionNoise(Maze(5, 5), strength=strength)
    done = np.asarray(jax.vmap(lambda k: noise.disturb(k, jnp.int32(1)))(keys()))
    # A uniform action is the meant one in a third of the cases.
    assert done.dtype == np.int32
    for other in (0, 2):
        assert_binomial(np.sum(done == other), N, strength / 3)


def test_boxed_actions_get_noise_of_a_share_of_their_range():
    noise = ActionNoise(Push(), strength=0.1)
    at = jnp.zeros(1, jnp.float32)
    done = np.asarray(jax.vmap(lambda k: noise.disturb(k, at))(keys()))[:, 0]
    # -1..1 is a range of 2; at 5 standard deviations clipping is out of sight.
    z = done / 0.2
    low, high = stats.chi2.interval(1 - 1e-6, N)
    assert low <= np.sum(z**2) <= high
    assert stats.kstest(z, "norm").pvalue > 1e-6


def test_boxed_actions_stay_in_the_box():
    noise = ActionNoise(Push(), strength=0.3)
    at = jnp.full(1, 5.0, jnp.float32)  # policies leave the box; what is done is 1
    done = np.asarray(jax.vmap(lambda k: noise.disturb(k, at))(keys()))
    assert done.min() >= -1.0 and done.max() == 1.0
    assert_binomial(np.sum(done == 1.0), N, 0.5)  # noise upwards is cut off


def test_the_disturbed_action_is_what_the_environment_does():
    env = ActionNoise(Maze(5, 5), strength=0.3)
    level = take(MazeConfig(height=5, width=5, max_walls=0).validation_set(1).levels, 0)
    state, _ = env.reset(jax.random.key(0), level)
    step = jax.vmap(lambda k: env.step(k, level, state, jnp.int32(0)).state.direction)
    turned_left = (int(state.direction) - 1) % 4
    assert_binomial(np.sum(np.asarray(step(keys())) != turned_left), N, 0.3 * 2 / 3)


@pytest.mark.parametrize("strength", [0.1, 0.3])
def test_observations_lose_as_many_numbers_as_said(strength):
    env = ObservationDropout(Maze(5, 5), strength=strength)
    obs = {"view": jnp.full((5, 5), 2, jnp.uint8), "direction": jnp.int32(3)}
    holed = jax.device_get(jax.vmap(lambda k: env.drop(k, obs))(keys()))
    assert holed["view"].dtype == np.uint8 and holed["direction"].dtype == np.int32
    assert set(np.unique(holed["view"])) == {0, 2}
    assert_binomial(np.sum(holed["view"] == 0), N * 25, strength)
    assert_binomial(np.sum(holed["direction"] == 0), N, strength)
    # Each number by itself: any two are lost together in p * p of the cases.
    lost = holed["view"].reshape(N, 25) == 0
    assert_binomial(np.sum(lost[:, 3] & lost[:, 17]), N, strength**2)
    assert_binomial(np.sum(lost[:, 0] & (holed["direction"] == 0)), N, strength**2)


def test_holes_are_elsewhere_at_every_step():
    env = ObservationDropout(Push(), strength=0.3)
    _, _, obs = episode(env, 400)
    lost = np.asarray(obs) == 0
    # The target is never 0 by itself; its losses are as if drawn anew each step.
    assert_binomial(lost[:, 1].sum(), 400, 0.3)
    both = lost[1:, 1] & lost[:-1, 1]
    assert_binomial(both.sum(), 399, 0.09)


@functools.cache
def level_of(env):
    return (
        start(123) if isinstance(env, Push) else take(MAZE.validation_set(1).levels, 0)
    )


def episode(env: Env, n_steps=60, seed=1):
    """First state and observation, and all steps, of random actions."""
    inner = env
    while hasattr(inner, "env"):
        inner = inner.env
    level = level_of(inner)

    @jax.jit
    def play(key):
        key_reset, key_play = jax.random.split(key)
        state, obs = env.reset(key_reset, level)

        def body(state, key):
            key_act, key_step = jax.random.split(key)
            action = sample_action(key_act, env.action_space)
            step = env.step(key_step, level, state, action)
            return step.state, step

        steps = jax.lax.scan(body, state, jax.random.split(key_play, n_steps))[1]
        return (state, obs), steps, steps.obs

    return jax.device_get(play(jax.random.key(seed)))


ENVS = [MAZE.make_env(), Push(noise=0.2)]


@pytest.mark.parametrize("env", ENVS, ids=["maze", "push"])
@pytest.mark.parametrize("disturb", [ActionNoise, ObservationDropout])
def test_a_shift_of_strength_0_is_the_environment_bit_for_bit(env, disturb):
    assert_same_bits(episode(disturb(env, strength=0.0)), episode(env))
    differs = episode(disturb(env, strength=0.3))
    assert not np.array_equal(
        np.concatenate([x.ravel() for x in jax.tree.leaves(differs[2])]),
        np.concatenate([x.ravel() for x in jax.tree.leaves(episode(env)[2])]),
    )


@pytest.mark.parametrize("env", ENVS, ids=["maze", "push"])
def test_holes_leave_the_world_as_it_is(env):
    """All that chance does inside the environment is drawn as without the holes."""
    (_, _), plain, _ = episode(env)
    (_, _), holed, _ = episode(ObservationDropout(env, strength=0.3))
    assert_same_bits(holed.replace(obs=None), plain.replace(obs=None))


@pytest.mark.parametrize("env", ENVS, ids=["maze", "push"])
@pytest.mark.parametrize("disturb", [ActionNoise, ObservationDropout])
def test_disturbed_environments_keep_the_contract(env, disturb):
    check_env(disturb(env, strength=0.3), level_of(env), jax.random.key(0), 16)


class Unbounded(Push):
    @property
    def action_space(self):
        return gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)


class ManyActions(Push):
    @property
    def action_space(self):
        return gymnasium.spaces.MultiBinary(3)


def test_what_cannot_be_disturbed_is_refused():
    with pytest.raises(UserError, match="bounds"):
        ActionNoise(Unbounded())
    with pytest.raises(UserError, match="MultiBinary"):
        ActionNoise(ManyActions())
    with pytest.raises(UserError, match="0 to 1"):
        ObservationDropout(Push(), strength=1.5)


# Levels.


@functools.cache
def shifts_of(config, n=8):
    return config.shifts(n, 0)


@functools.cache
def path_length(walls_bytes, shape, a, b):
    """Moves from a to b by SciPy's shortest paths; -1 without a way."""
    free = ~np.frombuffer(walls_bytes, bool).reshape(shape)
    number = np.arange(free.size).reshape(shape)
    edges = []
    for x, y, fx, fy in (
        (number[:, :-1], number[:, 1:], free[:, :-1], free[:, 1:]),
        (number[:-1], number[1:], free[:-1], free[1:]),
    ):
        edges.append(np.stack([x[fx & fy], y[fx & fy]]))
    row, col = np.concatenate(edges, axis=1)
    graph = sparse.coo_matrix((np.ones(len(row)), (row, col)), (free.size,) * 2)
    distances = csgraph.dijkstra(
        graph.tocsr(), directed=False, indices=a, unweighted=True
    )
    return int(distances[b]) if np.isfinite(distances[b]) else -1


def lengths(level_set):
    levels, out = level_set.levels, []
    for walls, goal, at in zip(levels.walls, levels.goal, levels.start, strict=True):
        cells = [int(c[0] * walls.shape[1] + c[1]) for c in (at, goal)]
        out.append(path_length(walls.tobytes(), walls.shape, *cells))
    return np.array(out)


def test_mazes_are_sparser_and_denser():
    shifts = shifts_of(MAZE)
    families = {name: family for name, (family, _, _) in shifts.items()}
    assert families == {
        "sparser": "wall density",
        "denser": "wall density",
        "nearer": "start-goal distance",
        "farther": "start-goal distance",
        "smaller": "size",
        "larger": "size",
    }
    walls = {name: s.levels.walls.sum((1, 2)) for name, (_, _, s) in shifts.items()}
    assert walls["sparser"].max() <= 1  # a tenth of 14
    assert walls["denser"].min() > MAZE.max_walls
    assert all(len(walls[name]) == 8 for name in families)
    assert all((lengths(s) > 0).all() for _, _, s in shifts.values())


def test_goals_are_nearer_and_farther():
    pool = lengths(MAZE.validation_set(24))
    shifts = shifts_of(MAZE)
    near, far = (lengths(shifts[name][2]) for name in ("nearer", "farther"))
    np.testing.assert_array_equal(np.sort(near), np.sort(pool)[:8])
    np.testing.assert_array_equal(np.sort(far), np.sort(pool)[-8:])
    assert near.max() <= far.min() and near.mean() < pool.mean() < far.mean()


@pytest.mark.slow
def test_sizes_differ_and_fit_the_same_network():
    env = MAZE.make_env()
    for name, side in (("smaller", 5), ("larger", 11)):
        _, other, level_set = shifts_of(MAZE)[name]
        assert level_set.levels.walls.shape[1:] == (side, side)
        assert (other.height, other.width) == (side, side)
        assert other.observation_space == env.observation_space
        assert other.max_episode_steps == round(250 * side * side / 169)
        # As dense as in training: up to 14 of 49.
        most = level_set.levels.walls.sum((1, 2)).max()
        assert 0.4 * 14 / 49 < most / side**2 <= 14 / 49 + 0.01
    assert {"smaller", "larger"}.isdisjoint(shifts_of(FULL, 4))
    small = MazeConfig(height=5, width=5, max_walls=5)
    assert "smaller" not in shifts_of(small, 3) and "larger" in shifts_of(small, 3)


@pytest.mark.slow
def test_families_without_a_number_of_walls_are_counted():
    rooms = MazeConfig(height=7, width=7, levels="rooms", rooms_per_side=2)
    levels = LevelSet.generate(rooms.heldout_space(), 64, seed=9, split="train")
    walls = levels.levels.walls.sum((1, 2))
    least, most = blocks_of_training(rooms)
    assert least <= walls.min() and walls.max() <= most
    shifts = shifts_of(rooms, 4)
    assert shifts["sparser"][2].levels.walls.sum((1, 2)).max() < least
    assert shifts["denser"][2].levels.walls.sum((1, 2)).min() > most


def test_physics_is_beyond_what_trains():
    config = InvertedPendulumConfig()
    shifts = config.shifts(8, 0)
    varied = config.make_env().varied
    assert set(shifts) == {"beyond in all", *(f"beyond in {name}" for name in varied)}
    for name, (family, env, level_set) in shifts.items():
        assert family == "physics" and env is None
        for parameter in varied:
            value = getattr(level_set.levels, parameter)
            inside = (value >= config.train_low) & (value <= config.train_high)
            beyond = name in ("beyond in all", f"beyond in {parameter}")
            assert (~inside if beyond else inside).all()
            assert ((value >= config.far_low) & (value <= config.far_high)).all()


CONFIGS = {
    "maze": MAZE,
    "cave": CaveConfig(),
    "small cave": CaveConfig(height=7, width=7, max_blocks=10, eval_split="test"),
    "pointmaze": PointMazeConfig(),
    "physics": InvertedPendulumConfig(),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_all_levels_are_of_the_validation_split(config):
    shifts = crafted_shifts(config, 4, 0)
    for shift in [*shifts, plain_validation(config, 8)]:
        # By the definition of splits: bucket 0 of 20 is validation, 1 is test.
        assert len(shift.level_set) and (shift.level_set.hashes[:, 1] % 20 == 0).all()
        key, level = jax.random.key(0), take(shift.level_set.levels, 0)
        obs = jax.eval_shape(shift.env.reset, key, level)[1]
        usual = config.make_env().observation_space.sample()
        assert jax.tree.map(np.shape, obs) == jax.tree.map(np.shape, usual)
    families = {shift.family for shift in shifts}
    assert {"action noise", "observation dropout"} < families
    assert len({shift.name for shift in shifts}) == len(shifts)


def test_hashes_of_shifts_are_those_of_their_levels():
    for name, (_, env, level_set) in shifts_of(MAZE).items():
        side = MAZE.height if env is None else env.height
        space = MazeConfig(height=side, width=side, max_walls=5).make_space()
        again = LevelSet.from_levels(space, level_set.levels, name=name)
        np.testing.assert_array_equal(again.hashes, level_set.hashes)


def test_a_shift_cannot_be_made_of_other_levels():
    space, env = MAZE.heldout_space(), MAZE.make_env()
    for split in ("test", "train"):
        levels = LevelSet.generate(space, 3, seed=0, split=split)
        with pytest.raises(ValueError, match=f"split {split}"):
            Shift("some", "family", env, levels)
        # What a set says of itself does not help.
        named = dataclasses.replace(levels, split="validation")
        with pytest.raises(ValueError, match="3 of them"):
            Shift("some", "family", env, named)


@pytest.mark.slow
def test_seeds_draw_other_levels_and_the_same_again():
    a = shifts_of(FULL, 4)["denser"][2].hashes
    b, again = (FULL.shifts(4, seed)["denser"][2].hashes for seed in (1, 0))
    np.testing.assert_array_equal(a, again)
    assert not np.array_equal(a, b)


def test_fewer_validation_levels_are_the_first_of_more():
    few, more = MAZE.validation_set(3), MAZE.validation_set(9)
    np.testing.assert_array_equal(few.hashes, more.hashes[:3])
