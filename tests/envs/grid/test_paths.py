"""Shortest paths against plain Python searches and against the environment itself."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen.envs.grid import paths
from rlgen.envs.grid.env import FORWARD, LEFT, RIGHT
from rlgen.envs.maze import Maze, MazeLevel
from rlgen.levels import stack

distances = jax.jit(paths.distances)
path_length = jax.jit(paths.path_length)
fewest_actions = jax.jit(paths.fewest_actions)

STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
SHAPES = ((2, 2), (2, 9), (7, 5), (13, 13))
N_MAZES = 60


def is_free(walls, row, col):
    return 0 <= row < len(walls) and 0 <= col < len(walls[0]) and not walls[row][col]


def oracle_distances(walls, source):
    """Moves from each free cell to `source` by a queue; -1 where there is no way."""
    dist = np.full(np.shape(walls), -1)
    dist[tuple(source)] = 0
    queue = collections.deque([tuple(source)])
    while queue:
        row, col = queue.popleft()
        for d_row, d_col in STEPS:
            there = row + d_row, col + d_col
            if is_free(walls, *there) and dist[there] < 0:
                dist[there] = dist[row, col] + 1
                queue.append(there)
    return dist


def oracle_actions(walls, start, direction, goal):
    """A shortest list of actions from start to goal, None if there is none."""
    first = (*map(int, start), int(direction))
    came_from = {first: None}
    queue = collections.deque([first])
    while queue:
        here = queue.popleft()
        row, col, looks = here
        if (row, col) == tuple(goal):
            actions = []
            while came_from[here] is not None:
                here, action = came_from[here]
                actions.append(action)
            return actions[::-1]
        d_row, d_col = STEPS[looks]
        outcomes = {
            LEFT: (row, col, (looks - 1) % 4),
            RIGHT: (row, col, (looks + 1) % 4),
        }
        if is_free(walls, row + d_row, col + d_col):
            outcomes[FORWARD] = (row + d_row, col + d_col, looks)
        for action, there in outcomes.items():
            if there not in came_from:
                came_from[there] = here, action
                queue.append(there)
    return None


def serpentine(size):
    """One corridor that sweeps the whole grid, from the top left to the bottom."""
    walls = np.zeros((size, size), bool)
    walls[1::2] = True
    for i, row in enumerate(range(1, size, 2)):
        walls[row, -1 if i % 2 == 0 else 0] = False
    goal = [size - 1, size - 1 if (size // 2) % 2 == 0 else 0]
    return MazeLevel(
        walls=walls,
        goal=np.array(goal, np.int32),
        start=np.zeros(2, np.int32),
        direction=np.int32(0),
    )


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def mazes(request):
    """Random mazes of one shape, stacked: from empty to so full that ways are rare."""
    height, width = request.param
    rng = np.random.default_rng(height * 100 + width)
    mazes = []
    for _ in range(N_MAZES):
        walls = rng.random((height, width)) < rng.uniform(0, 0.7)
        start, goal = (
            np.array(divmod(cell, width), np.int32)
            for cell in rng.choice(height * width, 2, replace=False)
        )
        walls[tuple(start)] = walls[tuple(goal)] = False
        direction = np.int32(rng.integers(4))
        mazes.append(
            MazeLevel(walls=walls, goal=goal, start=start, direction=direction)
        )
    return mazes


def test_distances_equal_a_queue(mazes):
    batch = stack(mazes)
    dist = jax.jit(jax.vmap(paths.distances))(batch.walls, batch.goal)
    length = jax.jit(jax.vmap(paths.path_length))(batch.walls, batch.start, batch.goal)
    reached = 0
    for i, maze in enumerate(mazes):
        wanted = oracle_distances(maze.walls, maze.goal)
        np.testing.assert_array_equal(dist[i], wanted)
        assert length[i] == wanted[tuple(maze.start)]
        reached += length[i] > 0
    # Both kinds of maze must be among them.
    assert 0 < reached < N_MAZES


def test_fewest_actions_reach_the_goal_and_no_fewer_do(mazes):
    batch = stack(mazes)
    height, width = mazes[0].walls.shape
    env = Maze(height, width, view_size=3, max_steps=4 * height * width)
    fewest = jax.jit(jax.vmap(paths.fewest_actions))(
        batch.walls, batch.start, batch.direction, batch.goal
    )
    plans = [oracle_actions(m.walls, m.start, m.direction, m.goal) for m in mazes]
    longest = max(len(plan) for plan in plans if plan)
    # Turning on the spot fills the time after a plan.
    actions = np.full((longest, len(mazes)), LEFT, np.int32)
    for i, plan in enumerate(plans):
        assert fewest[i] == (-1 if plan is None else len(plan))
        actions[: len(plan or ()), i] = plan or ()

    @jax.jit
    def play(levels, actions):
        key = jax.random.key(0)
        state, _ = jax.vmap(env.reset, (None, 0))(key, levels)

        def advance(state, actions):
            step = jax.vmap(env.step, (None, 0, 0, 0))(key, levels, state, actions)
            return step.state, (step.terminated, step.reward)

        return jax.lax.scan(advance, state, actions)[1]

    terminated, reward = map(np.asarray, play(batch, jnp.asarray(actions)))
    returns = jax.jit(jax.vmap(env.optimal_return))(batch)
    for i, plan in enumerate(plans):
        if plan is None:
            assert not terminated[:, i].any()
            assert returns[i] == 0
        else:
            assert terminated[:, i].argmax() + 1 == len(plan)
            assert returns[i] == pytest.approx(reward[len(plan) - 1, i], abs=1e-6)
            wanted = 1 - 0.9 * len(plan) / env.max_episode_steps
            assert returns[i] == pytest.approx(wanted, abs=1e-6)


def test_a_goal_behind_walls_is_unreached():
    walls = np.zeros((5, 5), bool)
    walls[:, 2] = True
    start, goal = jnp.array([0, 0]), jnp.array([4, 4])
    assert int(path_length(walls, start, goal)) == paths.UNREACHED
    assert int(fewest_actions(walls, start, 0, goal)) == paths.UNREACHED
    dist = np.asarray(distances(walls, goal))
    assert (dist[:, :3] == paths.UNREACHED).all() and (dist[:, 3:] >= 0).all()


def test_paths_do_not_wrap_around_the_border():
    walls = np.zeros((3, 5), bool)
    walls[:, 2] = True
    walls[1, :] = True
    corner = jnp.array([0, 0])
    reached = np.asarray(distances(walls, corner)) >= 0
    np.testing.assert_array_equal(np.argwhere(reached), [[0, 0], [0, 1]])
    for direction in range(4):
        for other in ([2, 0], [0, 4], [2, 4]):
            actions = fewest_actions(walls, corner, direction, jnp.array(other))
            assert int(actions) == paths.UNREACHED


def test_standing_on_the_goal_takes_no_action():
    walls, here = np.zeros((3, 3), bool), jnp.array([1, 1])
    assert int(path_length(walls, here, here)) == 0
    assert int(fewest_actions(walls, here, 2, here)) == 0


def test_a_serpentine_of_101_cells_a_side():
    level = serpentine(101)
    # 51 rows of 101 cells and the 50 openings between them; two turns at each end.
    moves, turns = 51 * 101 + 50 - 1, 2 * 50
    assert oracle_distances(level.walls, level.goal)[0, 0] == moves
    length = path_length(level.walls, level.start, level.goal)
    assert int(length) == moves
    fewest = fewest_actions(level.walls, level.start, level.direction, level.goal)
    assert int(fewest) == moves + turns


@pytest.mark.parametrize(
    ("max_steps", "wanted"),
    [(4, 0.0), (5, 0.1), (10, 0.55)],
    ids=["too short", "just enough", "ample"],
)
def test_optimal_return_respects_the_time_limit(max_steps, wanted):
    level = MazeLevel(
        walls=np.zeros((2, 6), bool),
        goal=np.array([0, 5], np.int32),
        start=np.array([0, 0], np.int32),
        direction=np.int32(0),
    )
    env = Maze(2, 6, max_steps=max_steps)
    assert float(env.optimal_return(level)) == pytest.approx(wanted, abs=1e-6)
