"""The ball: physics against plain NumPy, the contract, goals, views and pictures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from rlgen.env import check_env
from rlgen.envs.grid.tiles import TILE_COLOURS, Tile
from rlgen.envs.pointmaze import PointMaze, PointMazeState, parse_point_maze, physics
from rlgen.envs.pointmaze.env import at_goal
from rlgen.errors import UserError

KEY = jax.random.key(0)
MAZE = parse_point_maze("""
S.#..
#.#.#
.....
.###.
...#G
""")
RADIUS, GAP = 0.1, 1e-3  # metres, as the documentation has them
N_BALLS = 512


def wall_cells(walls):
    """Lower corners (x, y) of all cells that are wall, the border too."""
    rows, columns = np.nonzero(np.pad(walls, 1, constant_values=True))
    return np.stack([columns, rows], axis=1) - 1.0


def oracle_step(walls, position, velocity, action):
    """One step in float64; every wall of the maze is asked whether it is in the way."""
    position = np.array(position, np.float64)
    velocity = 0.9 * np.array(velocity, np.float64) + 0.5 * np.clip(action, -1, 1)
    velocity = np.clip(velocity, -1.5, 1.5)
    corners = wall_cells(walls)
    for axis in (0, 1):
        there = position[axis] + 0.1 * velocity[axis]
        across = corners[:, 1 - axis] + 0.5
        beside = np.abs(position[1 - axis] - across) < 0.5 + RADIUS
        low = corners[beside, axis]
        if velocity[axis] > 0:
            limits = low[low >= position[axis]] - RADIUS - GAP
            stops = there > limits.min()
            there = min(there, limits.min())
        elif velocity[axis] < 0:
            limits = low[low + 1 <= position[axis]] + 1 + RADIUS + GAP
            stops = there < limits.max()
            there = max(there, limits.max())
        else:
            continue
        position[axis] = there
        velocity[axis] = 0.0 if stops else velocity[axis]
    return position, velocity


def touches_wall(walls, position):
    """Whether the square around a place reaches into a wall or out of the maze."""
    far = np.abs(wall_cells(walls) + 0.5 - np.asarray(position, np.float64))
    return (far < 0.5 + RADIUS).all(axis=1).any()


@functools.cache
def journeys():
    """Many balls in many mazes, 40 steps each: walls, positions, velocities, actions.

    Every second ball starts in a corner of its cell at full speed, and pushes in one
    direction for ten steps, diagonals and axes alike; the others act at random.
    """
    rng = np.random.default_rng(0)
    walls = rng.random((N_BALLS, 5, 6)) < 0.4
    walls[:, 0, 0] = False
    cells = np.array([rng.choice(np.argwhere(~w)) for w in walls])
    position = cells[:, ::-1] + rng.uniform(0.11, 0.89, (N_BALLS, 2))
    velocity = rng.uniform(-1.5, 1.5, (N_BALLS, 2))
    actions = rng.uniform(-1.5, 1.5, (40, N_BALLS, 2))
    corners = rng.choice([RADIUS + GAP, 1 - RADIUS - GAP], (N_BALLS, 2))
    position[::2] = (cells[:, ::-1] + corners)[::2]
    velocity[::2] = rng.choice([-1.5, 1.5], (N_BALLS, 2))[::2]
    pushes = rng.choice([-1.0, 0.0, 1.0], (4, N_BALLS, 2)).repeat(10, axis=0)
    actions[:, ::2] = pushes[:, ::2]
    state = position.astype(np.float32), velocity.astype(np.float32)

    @jax.jit
    def play(state, actions):
        def step(state, action):
            state = jax.vmap(physics.move)(walls, *state, action)
            return state, state

        return jax.lax.scan(step, state, actions.astype(np.float32))[1]

    after = play(state, actions)
    positions, velocities = (
        np.concatenate([first[None], np.asarray(rest)])
        for first, rest in zip(state, after, strict=True)
    )
    return walls, positions, velocities, actions


def test_a_step_is_that_of_the_oracle():
    walls, positions, velocities, actions = journeys()
    n_stops = 0
    for i in range(0, N_BALLS, 3):  # balls of both kinds
        for t in range(len(actions)):
            position, velocity = oracle_step(
                walls[i], positions[t, i], velocities[t, i], actions[t, i]
            )
            np.testing.assert_allclose(positions[t + 1, i], position, atol=1e-5)
            np.testing.assert_allclose(velocities[t + 1, i], velocity, atol=1e-5)
            n_stops += ((velocity == 0) & (velocities[t, i] != 0)).any()
    assert n_stops > 500  # walls were in the way


def test_the_ball_never_enters_a_wall_nor_tunnels():
    walls, positions, velocities, _ = journeys()
    moved = 0
    for i in range(N_BALLS):
        # Cells that hang together have one number; corners join nothing.
        rooms, _ = ndimage.label(~walls[i])
        cells = np.floor(positions[:, i, ::-1]).astype(int)
        assert (cells >= 0).all() and (cells < walls[i].shape).all()
        visited = rooms[cells[:, 0], cells[:, 1]]
        assert (visited == visited[0]).all() and visited[0] > 0
        moved += (np.diff(cells, axis=0) != 0).any()
        for position in positions[1:, i]:
            assert not touches_wall(walls[i], position)
    assert moved > N_BALLS / 2
    assert np.abs(velocities).max() == 1.5


def test_a_cell_takes_five_to_ten_steps():
    walls = np.zeros((1, 30), bool)
    move = jax.jit(physics.move)
    position, velocity = jnp.array([0.5, 0.5]), jnp.zeros(2)
    times = []
    for t in range(40):
        position, velocity = move(walls, position, velocity, jnp.array([1.0, 0.0]))
        if position[0] >= 1.5 + len(times):
            times.append(t + 1)
    assert times[0] == 8 and set(np.diff(times)) <= {6, 7}


@pytest.mark.parametrize(
    "env",
    [
        PointMaze(5, 5, view="near", max_steps=20),
        PointMaze(5, 5, view="all", reward="dense", max_steps=20),
    ],
    ids=str,
)
def test_it_keeps_the_contract(env):
    check_env(env, MAZE, KEY, n_steps=50)


def state_at(position, goal, time=0):
    return PointMazeState(
        position=jnp.array(position, jnp.float32),
        velocity=jnp.zeros(2, jnp.float32),
        goal=jnp.array(goal, jnp.float32),
        time=jnp.int32(time),
    )


@functools.cache
def compiled(**settings):
    env = PointMaze(5, 5, **settings)
    return env, jax.jit(env.step)


def test_start_and_goal_are_somewhere_in_their_cells():
    env = PointMaze(5, 5)
    state, obs = jax.jit(jax.vmap(env.reset, (0, None)))(
        jax.random.split(KEY, 2000), MAZE
    )
    shifts = np.stack(
        [state.position - np.array([0.5, 0.5]), state.goal - np.array([4.5, 4.5])]
    )
    for shift in shifts.reshape(2, -1, 2).transpose(0, 2, 1).reshape(4, -1):
        assert -0.25 <= shift.min() < -0.24 and 0.24 < shift.max() <= 0.25
        assert abs(shift.mean()) < 0.02  # six standard errors
    together = np.corrcoef(shifts.transpose(0, 2, 1).reshape(4, -1))
    assert np.abs(together - np.eye(4)).max() < 0.12  # none tells of another
    np.testing.assert_array_equal(obs[:, :2], state.position)
    np.testing.assert_array_equal(obs[:, 2:4], 0.0)
    np.testing.assert_array_equal(obs[:, 4:], state.goal)
    layout = env.goal_layout
    np.testing.assert_array_equal(obs[:, layout.achieved], state.position)
    np.testing.assert_array_equal(obs[:, layout.goal], state.goal)


def test_views_show_the_walls():
    state = state_at((4.5, 0.5), (4.5, 4.5))
    near = PointMaze(5, 5, view="near").observe(MAZE, state)[6:].reshape(5, 5)
    np.testing.assert_array_equal(
        near,
        [
            [1, 1, 1, 1, 1],  # the border is wall
            [1, 1, 1, 1, 1],
            [1, 0, 0, 1, 1],
            [1, 0, 1, 1, 1],
            [0, 0, 0, 1, 1],
        ],
    )
    everything = PointMaze(5, 5, view="all").observe(MAZE, state)[6:]
    np.testing.assert_array_equal(everything.reshape(5, 5), MAZE.walls)


def test_the_goal_ends_a_sparse_episode():
    env, step = compiled(max_steps=7)
    pull = jnp.array([0.0, 1.0])
    # One step from rest is 5 cm.
    far = step(KEY, MAZE, state_at((4.5, 3.94), (4.5, 4.5)), pull)
    assert not far.terminated and not far.truncated and not far.info["success"]
    assert float(far.reward) == 0.0 and int(far.state.time) == 1
    near = step(KEY, MAZE, state_at((4.5, 3.96), (4.5, 4.5)), pull)
    assert near.terminated and near.info["success"] and float(near.reward) == 1.0
    # With the last step both can happen: then it is an end.
    last = step(KEY, MAZE, state_at((4.5, 3.96), (4.5, 4.5), time=6), pull)
    assert last.terminated and not last.truncated
    late = step(KEY, MAZE, state_at((4.5, 3.0), (4.5, 4.5), time=6), pull)
    assert late.truncated and not late.terminated and not late.info["success"]
    assert env.max_episode_steps == 7 and PointMaze(5, 5).max_episode_steps == 250


def test_dense_rewards_fall_with_the_distance_and_nothing_ends():
    _, step = compiled(reward="dense")
    for y in (2.5, 3.5, 4.3):
        after = step(KEY, MAZE, state_at((4.5, y), (4.4, 4.5)), jnp.zeros(2))
        distance = np.hypot(0.1, 4.5 - y)
        np.testing.assert_allclose(after.reward, np.exp(-distance), rtol=1e-5)
        assert bool(after.info["success"]) == (distance < 0.5)
        assert not after.terminated and not after.truncated


def test_no_goal_is_reached_across_a_corner():
    """Both places are 0.496 m apart, but between (2, 0) and (3, 1) are only walls."""
    across = state_at((0.75, 2.75), (1.101, 3.101))
    assert not at_goal(across)
    beside = state_at((0.75, 2.75), (0.75, 3.2))
    assert at_goal(beside)


def test_the_best_return_is_that_of_a_way():
    env = PointMaze(5, 5)
    closed = MAZE.replace(walls=np.array(MAZE.walls) | (np.arange(5) == 1))
    closed.walls[0, 0] = False
    assert float(env.optimal_return(MAZE)) == 1.0
    assert float(env.optimal_return(closed)) == 0.0
    with pytest.raises(NotImplementedError, match="true_regret"):
        PointMaze(5, 5, reward="dense").optimal_return(MAZE)


def test_the_picture_shows_ball_and_goal_where_they_are():
    state = state_at((1.5, 2.5), (4.25, 4.5))
    picture = np.asarray(jax.jit(PointMaze(5, 5).render)(MAZE, state))
    cell = picture.shape[0] // 7
    assert picture.shape == (7 * cell, 7 * cell, 3) and picture.dtype == np.uint8

    def middle_of(tile):
        rows, columns = np.nonzero((picture == TILE_COLOURS[tile]).all(axis=2))
        return (columns.mean() + 0.5) / cell - 1, (rows.mean() + 0.5) / cell - 1

    assert middle_of(Tile.AGENT) == pytest.approx((1.5, 2.5), abs=0.02)
    assert middle_of(Tile.GOAL) == pytest.approx((4.25, 4.5), abs=0.02)
    walls = (picture == TILE_COLOURS[Tile.WALL]).all(axis=2)
    centres = walls[cell // 2 :: cell, cell // 2 :: cell]
    np.testing.assert_array_equal(centres, np.pad(MAZE.walls, 1, constant_values=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 1}, "1x7 is too small"),
        ({"view": "far"}, "Unknown view 'far': choose none, near, all"),
        ({"reward": "shaped"}, "Unknown reward 'shaped': choose sparse, dense"),
        ({"max_steps": 0}, "max_steps is 0"),
    ],
)
def test_bad_settings_get_one_sentence(settings, message):
    with pytest.raises(UserError, match=message):
        PointMaze(**settings)
