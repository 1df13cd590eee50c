"""Zero-shot evaluation against answers known in closed form."""

from __future__ import annotations

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen import distributions
from rlgen.envs.maze import Maze, MazeLevel
from rlgen.envs.maze.levels import Empty
from rlgen.evaluation import zero_shot
from rlgen.levels import LevelSet

WIDTH, LIMIT = 9, 12


class Forward:
    """A policy that walks straight on; with `memory` it counts its steps."""

    action_space = gymnasium.spaces.Discrete(3)

    def policy(self, raw):
        return distributions.distribution(self.action_space, raw)

    def __init__(self, gives_up_after=1000):
        self.gives_up_after = gives_up_after

    def initial_carry(self, n):
        return jnp.zeros(n, jnp.int32)

    def step(self, params, carry, obs, reset):
        carry = jnp.where(reset, 0, carry) + 1
        walks = (carry <= self.gives_up_after)[:, None]
        forward = jnp.array([-99.0, -99.0, 99.0])
        left = jnp.array([99.0, -99.0, -99.0])
        return carry, jnp.where(walks, forward, left), jnp.zeros(len(carry))


def corridors(distances):
    """Levels whose goal lies straight ahead, `d` cells away; 0 is behind the agent."""
    n = len(distances)
    goal = np.array([[0, 1 + d if d else 0] for d in distances], np.int32)
    return MazeLevel(
        walls=np.zeros((n, 2, WIDTH), bool),
        goal=goal,
        start=np.tile(np.array([0, 1], np.int32), (n, 1)),
        direction=np.zeros(n, np.int32),
    )


@pytest.mark.parametrize("n_slots", [1, 4, 100])
@pytest.mark.parametrize("greedy", [True, False])
def test_every_episode_is_counted_once_on_its_level(n_slots, greedy):
    """Whatever the queue, length is the distance and return 1 - 0.9 d / T."""
    distances = [3, 0, 7, 1, 5, 0, 2]
    env = Maze(2, WIDTH, max_steps=LIMIT)
    result = jax.jit(
        lambda key: zero_shot.evaluate(
            env,
            Forward(),
            None,
            key,
            corridors(distances),
            3,
            n_slots=n_slots,
            greedy=greedy,
        )
    )(jax.random.key(0))
    d = np.array(distances)[:, None].repeat(3, axis=1)
    np.testing.assert_array_equal(result.success, d > 0)
    np.testing.assert_array_equal(result.length, np.where(d > 0, d, LIMIT))
    expected = np.where(d > 0, 1 - 0.9 * d / LIMIT, 0.0)
    np.testing.assert_allclose(result.returns, expected, atol=1e-6)


def test_memory_is_emptied_between_episodes():
    """A policy that gives up after four steps does so in every episode anew."""
    env = Maze(2, WIDTH, max_steps=LIMIT)
    result = zero_shot.evaluate(
        env, Forward(4), None, jax.random.key(0), corridors([4, 5, 4]), 4, n_slots=2
    )
    np.testing.assert_array_equal(result.success.all(axis=1), [True, False, True])
    assert not result.success[1].any()


def test_success_is_the_environment_s_word_not_a_positive_return():
    """On the last step the reward is small but the goal was reached."""
    env = Maze(2, WIDTH, max_steps=7)
    result = zero_shot.evaluate(
        env, Forward(), None, jax.random.key(0), corridors([7]), 1
    )
    assert bool(result.success[0, 0]) and float(result.returns[0, 0]) < 0.11


def test_stochastic_episodes_differ_and_keys_repeat():
    class Random(Forward):
        def step(self, params, carry, obs, reset):
            carry, raw, value = super().step(params, carry, obs, reset)
            return carry, jnp.zeros_like(raw), value

    env = Maze(2, WIDTH, max_steps=LIMIT)

    def run(seed):
        return zero_shot.evaluate(
            env, Random(), None, jax.random.key(seed), corridors([3] * 8), 8, n_slots=5
        )

    assert len(np.unique(run(0).length)) > 1
    np.testing.assert_array_equal(run(0).length, run(0).length)
    assert not np.array_equal(run(0).length, run(1).length)


def test_sets_played_together_keep_their_levels_and_numbers_of_episodes():
    """Names in order, small sets with more episodes, each episode its own level's."""
    env = Maze(2, WIDTH, max_steps=LIMIT)
    space = Empty(2, WIDTH)
    distances = {"two": [4, 0], "five": [1, 2, 3, 5, 0]}
    sets = {
        name: LevelSet.from_levels(space, corridors(d), name=name)
        for name, d in distances.items()
    }
    results = zero_shot.evaluate_sets(
        env, Forward(), None, jax.random.key(0), sets, 2, min_episodes=9, n_slots=3
    )
    assert list(results) == ["five", "two"]
    for name, n_episodes in (("five", 2), ("two", 5)):
        d = np.array(distances[name])[:, None].repeat(n_episodes, axis=1)
        np.testing.assert_array_equal(results[name].success, d > 0)
        np.testing.assert_array_equal(results[name].length, np.where(d > 0, d, LIMIT))
        expected = np.where(d > 0, 1 - 0.9 * d / LIMIT, 0.0)
        np.testing.assert_allclose(results[name].returns, expected, atol=1e-6)
