"""Families, text, named mazes, settings, held-out sets, and the scripted agent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen.cli import main
from rlgen.env import take
from rlgen.envs.maze.levels import FAMILIES, Empty
from rlgen.envs.pointmaze import (
    PointMaze,
    PointMazeLevel,
    PointMazeLevels,
    PointMazeState,
    Waypoints,
    named,
    parse_point_maze,
)
from rlgen.envs.pointmaze.config import PointMazeConfig
from rlgen.envs.pointmaze.levels import empty, point_maze
from rlgen.errors import UserError
from rlgen.levels import LevelFileError, split_of

KEY = jax.random.key(0)
# Compiling takes most of the time here: it need not be thorough.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
N_EACH = 64
SPACE = PointMazeConfig().make_space()


@functools.cache
def sampled():
    """Levels of every family, if they can be solved, and mazes by the same keys."""
    spaces = [PointMazeConfig(levels=name).make_space() for name in FAMILIES]

    def draw(key):
        keys = jax.random.split(key, N_EACH)
        levels = together([jax.vmap(space.sample)(keys) for space in spaces])
        mazes = together([jax.vmap(space.mazes.sample)(keys) for space in spaces])
        return levels, jax.vmap(SPACE.valid)(levels), mazes

    return jax.tree.map(np.asarray, jit(draw)(KEY))


def together(batches):
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)


def drawn():
    return sampled()[:2]


def test_levels_are_those_of_the_maze_families():
    levels, _, mazes = sampled()
    for leaf in ("walls", "start", "goal"):
        np.testing.assert_array_equal(getattr(levels, leaf), getattr(mazes, leaf))
    for name in FAMILIES:
        space = PointMazeConfig(levels=name).make_space()
        assert type(space.mazes) is FAMILIES[name]


def test_levels_have_an_identity_a_text_and_neighbours():
    levels, _ = drawn()
    chosen = [take(levels, i) for i in range(0, len(levels.walls), 40)]
    hash_of = jit(SPACE.hash)
    hashes = {np.asarray(hash_of(level)).tobytes() for level in chosen}
    assert len(hashes) == len(chosen)
    for level in chosen:
        again = SPACE.from_str(SPACE.to_str(level))
        for a, b in zip(jax.tree.leaves(level), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    mutate = jit(SPACE.mutate)
    for i, level in enumerate(chosen):
        child = mutate(jax.random.key(i), level)
        assert isinstance(child, PointMazeLevel)
        assert np.asarray(hash_of(child)).tobytes() not in hashes


def test_a_teacher_builds_point_mazes():
    editor = PointMazeConfig(height=3, width=3).make_editor(4, 2)
    state, _ = jax.eval_shape(editor.reset, KEY, None)
    assert isinstance(jax.eval_shape(editor.finish, KEY, state), PointMazeLevel)


@functools.cache
def arrivals(noise):
    """When the scripted agent reaches each of the levels: bool and int, [L]."""
    env, agent = PointMaze(), Waypoints(noise)

    @jax.jit
    @jax.vmap
    def play(key, level):
        key_reset, key_play = jax.random.split(key)
        state, _ = env.reset(key_reset, level)

        def step(state, key):
            action = agent(key, level, state)
            after = env.step(key, level, state, action)
            return after.state, (after.info["success"], action)

        keys = jax.random.split(key_play, env.max_episode_steps)
        _, (success, action) = jax.lax.scan(step, state, keys)
        return success.any(), success.argmax() + 1, action[:60]

    levels, _ = drawn()
    keys = jax.random.split(KEY, len(levels.walls))
    return jax.tree.map(np.asarray, play(keys, levels))


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_scripted_agent_reaches_every_goal_that_can_be_reached(noise):
    levels, valid = drawn()
    arrives, steps, actions = arrivals(noise)
    assert 10 < (~valid).sum() < 100  # where there is no way it must fail
    best = jit(jax.vmap(PointMaze().optimal_return))(levels)
    np.testing.assert_array_equal(arrives, np.asarray(best) == 1.0)
    np.testing.assert_array_equal(arrives, valid)
    lengths = np.asarray(jit(jax.vmap(SPACE.features))(levels)["path_length"])
    per_cell = (steps / lengths)[valid]
    assert per_cell.max() <= 10 and 5 < per_cell.mean() < 7
    assert np.abs(actions).max() == 1.0


def test_the_scripted_agent_heads_for_the_next_cell_and_then_for_the_goal():
    level = parse_point_maze("S.#\n#.#\n#.G\n")
    act = jit(Waypoints(noise=0.0))
    goal = jnp.array([2.7, 2.4])

    def action(x, y, v_x, v_y):
        state = PointMazeState(
            position=jnp.array([x, y]),
            velocity=jnp.array([v_x, v_y]),
            goal=goal,
            time=jnp.int32(0),
        )
        return np.asarray(act(KEY, level, state))

    # 4 times the way to (1.5, 0.5), (1.5, 1.5), the goal, less the velocity.
    np.testing.assert_allclose(action(0.9, 0.6, 0.3, 0.2), [1.0, -0.6], atol=1e-5)
    np.testing.assert_allclose(action(1.4, 0.6, 0.1, 1.0), [0.3, 1.0], atol=1e-5)
    np.testing.assert_allclose(action(2.6, 2.5, 0.1, 0.5), [0.3, -0.9], atol=1e-5)


def test_noise_is_what_the_two_scripted_agents_differ_in():
    agents = PointMazeConfig().controllers()
    assert agents == {"waypoints": Waypoints(0.5), "waypoints-exact": Waypoints(0.0)}
    level = take(drawn()[0], -1)
    env = PointMaze()
    state, _ = jit(env.reset)(KEY, level)
    # At rest in the goal's centre nothing pulls, so what is left is the noise.
    state = state.replace(position=state.goal)
    act = jit(jax.vmap(agents["waypoints"], (0, None, None)))
    noise = act(jax.random.split(KEY, 4000), level, state)
    inner = np.asarray(noise)[np.abs(noise) < 1]
    assert np.std(np.asarray(noise)) == pytest.approx(0.48, abs=0.02)  # clipped
    assert len(inner) / noise.size == pytest.approx(0.954, abs=0.01)  # 2 sigma
    exact = agents["waypoints-exact"](KEY, level, state)
    np.testing.assert_array_equal(exact, 0.0)


def test_named_mazes_are_the_published_ones():
    free = np.argwhere(~named.named_level("umaze").walls) + 1  # with the border
    published = [(1, 1), (1, 2), (1, 3), (2, 3), (3, 1), (3, 2), (3, 3)]
    assert [tuple(cell) for cell in free] == published
    sizes = {name: named.named_level(name).walls.shape for name in named.TEXTS}
    assert sizes == {"umaze": (3, 3), "medium": (6, 6), "large": (7, 10)}
    for name, n_free in (("umaze", 7), ("medium", 26), ("large", 46)):
        level = named.named_level(name)
        assert (~level.walls).sum() == n_free
        assert empty(*level.walls.shape).valid(level)
    for height, width in named.sizes():
        level_set = named.named_levels(height, width)
        assert level_set.split == "named" and len(level_set) == 1
    with pytest.raises(LevelFileError, match="choose umaze, medium, large"):
        named.named_level("giant")


def test_held_out_mazes_are_of_their_split():
    config = PointMazeConfig(height=5, width=5, n_heldout=8, eval_split="validation")
    sets = config.eval_sets()
    assert list(sets) == ["heldout", "perfect", "rooms"]
    valid = jit(jax.vmap(config.heldout_space().valid))
    for level_set in sets.values():
        assert isinstance(level_set[0], PointMazeLevel) and len(level_set) == 8
        assert (np.asarray(split_of(level_set.hashes)) == 1).all()
        assert np.asarray(valid(level_set.levels)).all()


def test_named_sets_come_with_an_environment_of_their_size():
    config = PointMazeConfig(height=3, width=3, n_heldout=2, max_steps=50, view="near")
    sets = config.eval_sets()
    assert sets["named"].labels == ("umaze",)
    assert (np.asarray(split_of(sets["heldout"].hashes)) == 2).all()
    others = config.other_named()
    assert list(others) == ["named 6x6", "named 7x10"]
    env, level_set = others["named 7x10"]
    assert env == PointMaze(7, 10, "near") and level_set.labels == ("large",)
    assert env.observation_space.shape == config.make_env().observation_space.shape
    # Where the whole maze is seen, mazes of other sizes do not fit the network.
    assert PointMazeConfig(view="all").other_named() == {}


def test_walls_scale_with_the_maze():
    def most(**settings):
        return PointMazeConfig(**settings).make_space().mazes.max_walls

    assert most(height=13, width=13) == 60 and most() == 17 and most(height=3) == 7
    assert most(max_walls=9) == 9 and most(min_walls=20) == 20


def test_levels_are_looked_at_from_the_command_line(tmp_path, capsys):
    picture = tmp_path / "levels.png"
    small = ["--height=3", "--width=3"]
    named_ones = ["levels", "pointmaze", "--named=True", f"--picture={picture}"]
    assert main([*named_ones, *small]) == 0
    assert picture.stat().st_size > 1000
    assert "S..\n##.\nG.." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": "dungeon"}, "choose uniform, perfect, rooms, caves, empty"),
        ({"heldout": "dungeon"}, "Unknown heldout"),
        ({"levels": "perfect", "height": 6}, "choose an odd height and width"),
        ({"levels": "perfect", "max_walls": 3}, "max_walls has no effect"),
        ({"max_walls": 48}, "choose 0 <= min_walls <= max_walls <= 47"),
        ({"view": "far"}, "Unknown view"),
        ({"height": 1}, "too small"),
    ],
)
def test_bad_settings_get_one_sentence(settings, message):
    with pytest.raises(UserError, match=message):
        PointMazeConfig(**settings)


def test_bad_levels_get_one_sentence():
    with pytest.raises(LevelFileError, match="3x3, but this environment needs 7x7"):
        SPACE.from_str("S..\n...\n..G\n")
    with pytest.raises(LevelFileError, match="0 goals"):
        SPACE.from_str("S..\n...\n...\n")
    with pytest.raises(UserError, match=r"PointMazeLevels\.of"):
        PointMazeLevels(5, 5, mazes=Empty(7, 7))
    assert PointMazeLevels.of(Empty(4, 5)).height == 4
    assert point_maze([[0, 1]], (0, 0), (0, 0)).walls.dtype == bool
