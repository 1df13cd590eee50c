"""The maze against MiniGrid itself: same levels, same actions, step by step.

Both sides continue after an ending, ours through `Replay`, MiniGrid through its
`reset`, so that the observation at an ending and the next first one are compared too.
"""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Floor, Goal, Lava
from minigrid.minigrid_env import MiniGridEnv
from minigrid.wrappers import FullyObsWrapper

from rlgen.env import Replay, take
from rlgen.envs.cave.env import Cave, CaveLevel
from rlgen.envs.grid.tiles import N_TILES, Tile
from rlgen.envs.maze import FAMILIES, Maze, MazeLevel
from rlgen.levels import stack

N_LEVELS = 20
MIN_STEPS = 200

# Forward is drawn more often than turns, else random walks hardly leave the start.
ACTION_ODDS = {3: (1, 1, 3), 7: (2, 2, 6, 1, 1, 1, 1)}

# One configuration per trace. Small grids and short limits make successes,
# truncations and their coincidence frequent; large views reach over the border.
CONFIGS = (
    Maze(13, 13, 5, True),
    Maze(13, 13, 5, False, actions="minigrid"),
    Maze(4, 9, 3, True, max_steps=23, actions="minigrid"),
    Maze(9, 5, 3, False, max_steps=17),
    Maze(6, 11, 7, True, max_steps=31),
    Maze(11, 7, 7, False, max_steps=41, actions="minigrid"),
    Maze(7, 8, 7, False, max_steps=29),
    Maze(5, 5, 9, True, max_steps=13, actions="minigrid"),
    Maze(8, 6, 9, False, max_steps=19),
    Maze(3, 12, 9, False, max_steps=11, actions="minigrid"),
    Maze(5, 8, "full", True, max_steps=21),
    Cave(13, 13, 5, True, max_steps=61, actions="minigrid"),
    Cave(6, 9, 7, False, max_steps=31),
    Cave(5, 7, "full", True, max_steps=23),
)

IMAGE_OF_TILE = np.zeros((N_TILES, 3), np.uint8)
IMAGE_OF_TILE[Tile.UNSEEN] = OBJECT_TO_IDX["unseen"], 0, 0
IMAGE_OF_TILE[Tile.EMPTY] = OBJECT_TO_IDX["empty"], 0, 0
IMAGE_OF_TILE[Tile.WALL] = OBJECT_TO_IDX["wall"], COLOR_TO_IDX["grey"], 0
IMAGE_OF_TILE[Tile.GOAL] = OBJECT_TO_IDX["goal"], COLOR_TO_IDX["green"], 0
IMAGE_OF_TILE[Tile.LAVA] = OBJECT_TO_IDX["lava"], COLOR_TO_IDX["red"], 0
IMAGE_OF_TILE[Tile.MOSS] = OBJECT_TO_IDX["floor"], COLOR_TO_IDX["green"], 0
IMAGE_OF_TILE[Tile.AGENT] = OBJECT_TO_IDX["agent"], COLOR_TO_IDX["red"], 0


def name(env):
    """A short name of a configuration for pytest."""
    sight = "open" if env.see_through_walls else "hidden"
    family = type(env).__name__.lower()
    return f"{family}-{env.height}x{env.width}-{env.view_size}-{sight}-{env.actions}"


class MiniGridLevel(MiniGridEnv):
    """MiniGrid playing one of our levels inside a border of walls."""

    def __init__(self, env, level):
        self.level = level
        self.first_direction = 0
        is_full = env.view_size == "full"
        super().__init__(
            mission_space=MissionSpace(mission_func=lambda: ""),
            width=env.width + 2,
            height=env.height + 2,
            max_steps=env.max_episode_steps,
            see_through_walls=env.see_through_walls,
            agent_view_size=3 if is_full else env.view_size,
            render_mode=None,
        )

    def _gen_grid(self, width, height):
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        tiles = np.asarray(self.level.tiles)
        for row, col in np.argwhere(tiles == Tile.WALL):
            self.grid.horz_wall(col + 1, row + 1, 1)
        for row, col in np.argwhere(tiles == Tile.LAVA):
            self.put_obj(Lava(), col + 1, row + 1)
        for row, col in np.argwhere(tiles == Tile.MOSS):
            self.put_obj(Floor("green"), col + 1, row + 1)
        self.put_obj(Goal(), self.level.goal[1] + 1, self.level.goal[0] + 1)
        self.agent_pos = (self.level.start[1] + 1, self.level.start[0] + 1)
        self.agent_dir = self.first_direction


def make_minigrid(env, level):
    minigrid = MiniGridLevel(env, level)
    return FullyObsWrapper(minigrid) if env.view_size == "full" else minigrid


def reset_minigrid(minigrid, direction):
    """Starts an episode in the direction that our side has drawn."""
    minigrid.unwrapped.first_direction = int(direction)
    return minigrid.reset()


def as_image(env, obs):
    """Our observation as MiniGrid's image: indexed [x, y], with triples as cells."""
    image = IMAGE_OF_TILE[obs["view"]]
    if env.view_size == "full":
        image[obs["view"] == Tile.AGENT, 2] = obs["direction"]
        border = np.empty((env.height + 2, env.width + 2, 3), np.uint8)
        border[:] = IMAGE_OF_TILE[Tile.WALL]
        border[1:-1, 1:-1] = image
        image = border
    return image.transpose(1, 0, 2)


def assert_same_obs(env, ours, theirs, where):
    np.testing.assert_array_equal(as_image(env, ours), theirs["image"], where)
    assert ours["direction"] == theirs["direction"], where


def draw_levels(env, seed):
    """Levels from empty to crowded; every fourth has the goal right ahead."""
    rng = np.random.default_rng(seed)
    levels = []
    for i in range(N_LEVELS):
        walls = rng.random((env.height, env.width)) < rng.uniform(0, 0.6)
        start = rng.integers((env.height, env.width))
        goal = start
        while (goal == start).all():
            goal = rng.integers((env.height, env.width))
        direction = rng.integers(4)
        if i % 4 == 0:
            steps = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])
            inside = [
                d
                for d in range(4)
                if ((start + steps[d] >= 0) & (start + steps[d] < walls.shape)).all()
            ]
            direction = rng.choice(inside)
            goal = start + steps[direction]
        walls[tuple(start)] = walls[tuple(goal)] = False
        ends = {"goal": goal.astype(np.int32), "start": start.astype(np.int32)}
        if isinstance(env, Cave):
            kinds = rng.choice([Tile.WALL, Tile.LAVA, Tile.MOSS], walls.shape)
            cells = np.where(walls, kinds, Tile.EMPTY).astype(np.uint8)
            levels.append(CaveLevel(cells=cells, **ends))
        else:
            level = MazeLevel(walls=walls, direction=np.int32(direction), **ends)
            levels.append(level)
    return stack(levels)


def roll(env, levels, actions):
    """Our side: first observations, then steps stacked as [T, B, ...], on the host."""
    wrapped = Replay(env, keep_final_obs=True)
    n_steps, n_levels = actions.shape
    keys = jax.random.split(jax.random.key(0), (n_steps + 1, n_levels))

    @jax.jit
    def run(levels, actions):
        state, obs = jax.vmap(wrapped.reset)(keys[0], levels)

        def advance(state, inputs):
            keys, actions = inputs
            step = jax.vmap(wrapped.step)(keys, levels, state, actions)
            return step.state, step.replace(state=None)

        return obs, jax.lax.scan(advance, state, (keys[1:], actions))[1]

    return jax.tree.map(np.asarray, run(levels, jnp.asarray(actions)))


def compare(env, levels, actions):
    """Steps both sides and asserts equality; counts what the comparison has met."""
    first, steps = roll(env, levels, actions)
    met = collections.Counter()
    for b in range(actions.shape[1]):
        level = take(levels, b)
        minigrid = make_minigrid(env, level)
        ours = take(first, b)
        theirs, _ = reset_minigrid(minigrid, ours["direction"])
        assert_same_obs(env, ours, theirs, f"level {b}, first observation")
        met["goal in first view"] += bool((ours["view"] == Tile.GOAL).any())
        for t in range(actions.shape[0]):
            where = f"level {b}, step {t}"
            at, heading = minigrid.unwrapped.agent_pos, minigrid.unwrapped.agent_dir
            theirs, reward, terminated, truncated, _ = minigrid.step(actions[t, b])
            step = take(steps, (t, b))
            final_obs = step.info["final_obs"]
            assert_same_obs(env, final_obs, theirs, where)
            assert step.reward == pytest.approx(reward, abs=1e-6), where
            assert step.terminated == terminated, where
            assert step.truncated == truncated, where
            success = terminated and reward > 0
            assert step.info["success"] == success, where
            if terminated or truncated:
                theirs, _ = reset_minigrid(minigrid, step.obs["direction"])
                where += ", first observation of the next episode"
            assert_same_obs(env, step.obs, theirs, where)
            stood = minigrid.unwrapped.agent_pos == at
            met["goals"] += bool((final_obs["view"] == Tile.GOAL).any())
            met["unseen"] += bool((final_obs["view"] == Tile.UNSEEN).any())
            met["collisions"] += bool(actions[t, b] == 2 and stood)
            met["idle"] += bool(
                actions[t, b] > 2 and stood and final_obs["direction"] == heading
            )
            met["successes"] += success
            met["burnt"] += terminated and not success
            met["truncations"] += truncated
            met["both"] += terminated and truncated
    return met


@pytest.mark.parametrize("env", CONFIGS, ids=name)
def test_random_walks_equal_minigrid(env):
    n_actions = int(env.action_space.n)
    odds = np.array(ACTION_ODDS[n_actions]) / sum(ACTION_ODDS[n_actions])
    seed = CONFIGS.index(env)
    rng = np.random.default_rng(seed)
    n_steps = max(MIN_STEPS, env.max_episode_steps + 10)
    actions = rng.choice(n_actions, (n_steps, N_LEVELS), p=odds).astype(np.int32)
    met = compare(env, draw_levels(env, seed), actions)
    # The comparison is worth what it has met.
    assert met["goals"] > 100
    assert met["goal in first view"] >= N_LEVELS // 4
    assert met["collisions"] > 100
    assert met["successes"] > 5
    assert (met["burnt"] > 20) == isinstance(env, Cave)
    assert met["truncations"] > 5
    hides = env.view_size != "full" and not env.see_through_walls
    assert (met["unseen"] > 100) == hides
    assert (met["idle"] > 100) == (env.actions == "minigrid")


@pytest.mark.parametrize("max_steps", [4, 5, 6])
def test_goal_at_the_time_limit_equals_minigrid(max_steps):
    env = Maze(2, 6, 3, max_steps=max_steps)
    level = FAMILIES["empty"](2, 6).from_str(">....G\n......\n")
    actions = np.full((12, 1), 2, np.int32)
    met = compare(env, stack([level]), actions)
    # Five moves reach the goal: too late, just in time, with a step to spare.
    assert met["both"] == (2 if max_steps == 5 else 0)
    assert met["successes"] == (0 if max_steps == 4 else 2)
    assert met["truncations"] == {4: 3, 5: 2, 6: 0}[max_steps]


def test_the_comparison_notices_one_wrong_cell():
    env = Maze(5, 5, 5)
    levels = draw_levels(env, 0)
    right = take(levels, 0)
    other = right.replace(walls=~right.walls)
    ours, _ = roll(env, stack([other]), np.zeros((1, 1), np.int32))
    theirs, _ = reset_minigrid(make_minigrid(env, right), right.direction)
    with pytest.raises(AssertionError):
        assert_same_obs(env, take(ours, 0), theirs, "inverted walls")


def test_configurations_cover_every_kind():
    """At least 200 levels, and both vision rules for every size of view."""
    assert len(CONFIGS) * N_LEVELS >= 200
    kinds = {(env.view_size, env.see_through_walls) for env in CONFIGS}
    wanted = {(size, see) for size in (3, 5, 7, 9) for see in (True, False)}
    assert kinds >= wanted
    assert {env.actions for env in CONFIGS} == {"minimal", "minigrid"}
    assert any(env.height != env.width for env in CONFIGS)
