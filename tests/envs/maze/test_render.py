"""Pictures of mazes, pixel by pixel where it matters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen.envs.grid.render import default_cell, render
from rlgen.envs.grid.tiles import TILE_COLOURS, Tile
from rlgen.envs.maze import Maze, parse_maze

MAZES = {
    "square": """
        >..#.
        .#...
        .###.
        ...#.
        .#..G
        """,
    "wide": """
        ..#....#
        .##.^.G.
        """,
    "high": """
        #.#
        .G.
        .##
        .<.
        ...
        ##.
        """,
    "full": "v#\n#G",
}


def centres(image, cell):
    """The pixel in the middle of every cell, [H + 2, W + 2, 3]."""
    return np.asarray(image)[cell // 2 :: cell, cell // 2 :: cell]


def picture(level, cell=None, position=None, direction=None):
    return np.asarray(
        render(
            level,
            jnp.asarray(level.start if position is None else position),
            jnp.asarray(level.direction if direction is None else direction),
            cell,
        )
    )


def agent_pixels(image):
    """Which pixels are the agent's, for free floor beneath it."""
    return np.abs(image.astype(int) - TILE_COLOURS[Tile.AGENT]).sum(axis=-1) < 60


@pytest.mark.parametrize("cell", [8, 21])
@pytest.mark.parametrize("name", MAZES)
def test_centres_of_cells_have_the_colours_of_their_tiles(name, cell):
    level = parse_maze(MAZES[name])
    image = picture(level, cell)
    height, width = level.walls.shape
    assert image.shape == ((height + 2) * cell, (width + 2) * cell, 3)
    assert image.dtype == np.uint8
    tiles = np.where(level.walls, Tile.WALL, Tile.EMPTY)
    tiles[tuple(level.goal)] = Tile.GOAL
    tiles[tuple(level.start)] = Tile.AGENT
    tiles = np.pad(tiles, 1, constant_values=Tile.WALL)
    np.testing.assert_array_equal(centres(image, cell), TILE_COLOURS[tiles])


def test_small_cells_tint_only_the_neighbours_of_goal_and_agent():
    level = parse_maze(MAZES["square"])
    shown = centres(picture(level, cell=5), 5)
    tiles = np.where(level.walls, Tile.WALL, Tile.EMPTY)
    tiles[tuple(level.goal)], tiles[tuple(level.start)] = Tile.GOAL, Tile.AGENT
    tiles = np.pad(tiles, 1, constant_values=Tile.WALL)
    differs = (shown != TILE_COLOURS[tiles]).any(axis=-1)
    expected = np.zeros_like(differs)
    expected[:3, :3] = expected[4:, 4:] = True
    expected[1, 1] = expected[5, 5] = False
    np.testing.assert_array_equal(differs, expected)


@pytest.mark.parametrize("cell", [7, 16])
def test_the_agent_points_where_it_looks(cell):
    level = parse_maze(".....\n.....\n..>..\n.....\nG....")
    ahead = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])  # right, down, left, up
    for direction in range(4):
        image = picture(level, cell, direction=np.int32(direction))
        inside = agent_pixels(image[3 * cell : 4 * cell, 3 * cell : 4 * cell])
        rows, cols = np.nonzero(inside)
        assert len(rows) > cell
        # The tip is thin and the base wide: mass lies behind the middle of the extent.
        middle = np.array([rows.min() + rows.max(), cols.min() + cols.max()]) / 2
        mass = np.array([rows.mean(), cols.mean()])
        along = (middle - mass) @ ahead[direction]
        across = (middle - mass) @ ahead[direction][::-1]
        assert along > 0.04 * cell
        assert abs(across) < 0.01 * cell
        # Nothing of it is outside its cell.
        assert agent_pixels(image).sum() == inside.sum() or cell < 8


def test_the_agent_shows_on_the_goal():
    level = parse_maze(MAZES["square"])
    image = picture(level, 16, position=level.goal)
    row, col = (np.asarray(level.goal) + 1) * 16
    inside = image[row : row + 16, col : col + 16]
    np.testing.assert_array_equal(inside[8, 8], TILE_COLOURS[Tile.AGENT])
    np.testing.assert_array_equal(inside[2, 14], TILE_COLOURS[Tile.GOAL])


def test_jit_and_vmap_equal_a_loop():
    levels = [parse_maze(text) for text in (MAZES["square"], MAZES["square"][::-1])]
    levels[1] = levels[1].replace(
        direction=np.int32(3), goal=np.array([0, 1], np.int32)
    )
    batch = jax.tree.map(lambda *x: jnp.stack(x), *levels)
    together = jax.jit(jax.vmap(render))(batch, batch.start, batch.direction)
    for i, level in enumerate(levels):
        np.testing.assert_array_equal(together[i], picture(level))


def test_the_environment_draws_its_state():
    level = jax.tree.map(jnp.asarray, parse_maze(MAZES["wide"]))
    env = Maze(height=2, width=8)
    state, _ = env.reset(jax.random.key(0), level)
    image = jax.jit(env.render)(level, state)
    np.testing.assert_array_equal(image, picture(level))
    moved = env.step(jax.random.key(0), level, state, 2).state
    assert (np.asarray(env.render(level, moved)) != np.asarray(image)).any()


@pytest.mark.parametrize(
    ("size", "pixels"), [((13, 13), 240), ((101, 101), 515), ((2, 2), 192)]
)
def test_default_sizes(size, pixels):
    assert default_cell(*size) * (max(size) + 2) == pixels
