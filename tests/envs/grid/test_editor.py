"""The teacher's environment: what an episode builds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen.env import check_env
from rlgen.envs.cave.config import CaveConfig
from rlgen.envs.grid.tiles import Tile
from rlgen.envs.maze.config import MazeConfig
from rlgen.errors import UserError
from rlgen.levels import SPLITS, split_of

CONFIGS = {
    "maze": MazeConfig(height=5, width=6, max_walls=20),
    "cave": CaveConfig(height=5, width=6, max_blocks=20),
}
N_CELLS = 30


def build(editor, actions, key=0):
    """The editor's states after each of the actions."""
    key = jax.random.key(key)
    state, _ = editor.reset(key, None)
    states = []
    for i, action in enumerate(actions):
        step = editor.step(jax.random.fold_in(key, i), None, state, jnp.int32(action))
        state = step.state
        states.append(step)
    return states


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_an_environment(name):
    editor = CONFIGS[name].make_editor(6, 3)
    check_env(editor, None, jax.random.key(0), n_steps=20)


def test_actions_place_goal_start_and_blocks():
    editor = CONFIGS["cave"].make_editor(4, 2)
    # Goal at 7, start at 8, a wall at 0, lava at 1, moss on the goal: nothing, and moss
    # over the lava.
    actions = [7, 8, 0, 1 + N_CELLS, 7 + 2 * N_CELLS, 1 + 2 * N_CELLS]
    steps = build(editor, actions)
    grid = steps[-1].state.grid
    expected = np.zeros((5, 6), int)
    expected[0, 0], expected[0, 1] = 1, 3
    np.testing.assert_array_equal(grid.kinds, expected)
    assert grid.goal.tolist() == [1, 1]
    assert grid.start.tolist() == [1, 2]
    view = np.asarray(steps[-1].obs["view"])
    assert view[1, 1] == Tile.GOAL and view[1, 2] == Tile.AGENT
    assert view[0, 0] == Tile.WALL and view[0, 1] == Tile.MOSS
    assert [bool(step.done) for step in steps] == [False] * 5 + [True]


@pytest.mark.parametrize("seed", range(5))
def test_a_start_on_the_goal_goes_elsewhere(seed):
    editor = CONFIGS["maze"].make_editor(1, 2)
    grid = build(editor, [7, 7, 0], seed)[-1].state.grid
    assert grid.start.tolist() != grid.goal.tolist()


def test_noise_differs_between_episodes_and_stays_within_one():
    editor = CONFIGS["maze"].make_editor(2, 8)
    one, other = build(editor, [1, 2, 3, 4], 0), build(editor, [1, 2, 3, 4], 1)
    for step in one:
        np.testing.assert_array_equal(step.obs["noise"], one[0].obs["noise"])
    assert np.all(np.asarray(one[0].obs["noise"]) != np.asarray(other[0].obs["noise"]))


@pytest.mark.parametrize("name", CONFIGS)
def test_finished_levels_are_of_the_train_split(name):
    config = CONFIGS[name]
    editor, space = config.make_editor(10, 2), config.make_space()
    n = 200

    @jax.vmap
    def one(key):
        key, key_reset = jax.random.split(key)
        state, _ = editor.reset(key_reset, None)
        for i in range(editor.max_episode_steps):
            k = jax.random.fold_in(key, i)
            action = jax.random.randint(k, (), 0, editor.action_space.n)
            state = editor.step(k, None, state, action).state
        own = space.from_grid(key, state.grid)
        return state, own, editor.finish(key, state)

    states, own, levels = jax.jit(one)(jax.random.split(jax.random.key(0), n))
    train = SPLITS.index("train")
    assert np.any(split_of(jax.vmap(space.hash)(own)) != train)
    assert np.all(split_of(jax.vmap(space.hash)(levels)) == train)
    # Blocks and goals are as they were built; a start only ever moved to a free cell.
    grids = jax.vmap(space.to_grid)(levels)
    np.testing.assert_array_equal(grids.kinds, states.grid.kinds)
    np.testing.assert_array_equal(grids.goal, states.grid.goal)
    assert not np.any(np.all(grids.start == grids.goal, axis=1))
    kinds = np.asarray(grids.kinds)
    rows, cols = np.asarray(grids.start).T
    assert np.all(kinds[np.arange(n), rows, cols] == 0)
    moved = np.any(np.asarray(grids.start != states.grid.start), axis=1)
    assert 0 < moved.mean() < 0.5


def test_impossible_settings():
    with pytest.raises(UserError, match="n_blocks"):
        CONFIGS["maze"].make_editor(-1, 3)
