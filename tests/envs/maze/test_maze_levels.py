"""Maze families, mutators, text, hashes, files and named levels."""

import collections
import dataclasses
import functools
import itertools
import os

import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlgen.env import take
from rlgen.envs.grid import Mutator, paths
from rlgen.envs.maze import FAMILIES, MazeLevel, named, parse_maze
from rlgen.envs.maze.levels import Caves, Empty, PerfectMaze, Rooms, UniformWalls
from rlgen.errors import UserError
from rlgen.levels import LevelFileError, LevelSet, stack

N_LEVELS = 256

# Compiling takes most of the time here: it need not be thorough.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
path_length = jit(paths.path_length)
fewest_actions = jit(paths.fewest_actions)

DEFAULTS = tuple(family() for family in FAMILIES.values())

# Every family as it comes, and shapes and settings that strain it.
SPACES = (
    *DEFAULTS,
    UniformWalls(4, 3, min_walls=10, max_walls=10),
    PerfectMaze(5, 9),
    Rooms(8, 11, rooms_per_side=4, door_probability=0.3),
    Caves(2, 3, fill=1.0),
    Empty(2, 3),
)

# Families in which most draws cannot be solved, so that the carving must help.
TIGHT_SPACES = (
    UniformWalls(solvable=True, min_walls=100, max_walls=100),
    UniformWalls(solvable=True, min_walls=167, max_walls=167),
    Rooms(solvable=True, door_probability=0.0),
)

quick = settings(deadline=None, max_examples=60, derandomize=True)
seeds = st.integers(0, 2**31 - 1)


@st.composite
def mazes(draw, shape=(5, 6)):
    """Mazes of one shape, the walls arbitrary; one more cell than two is free."""
    walls = draw(arrays(bool, shape))
    cells = draw(st.permutations(range(walls.size)))
    goal, start, spare = (np.divmod(cell, shape[1]) for cell in cells[:3])
    walls[goal] = walls[start] = walls[spare] = False
    return MazeLevel(
        walls=walls,
        goal=np.array(goal, np.int32),
        start=np.array(start, np.int32),
        direction=np.int32(draw(st.integers(0, 3))),
    )


def each(function, n, *args, seed=0):
    """`function(key, *args)` for `n` keys in one batch, on the host."""
    keys = jax.random.split(jax.random.key(seed), n)
    batched = jax.vmap(function, (0, *(None for _ in args)))
    return jax.tree.map(np.asarray, jit(batched)(keys, *args))


def name(space):
    """A short name of a family for pytest."""
    return f"{type(space).__name__}{space.height}x{space.width}"


def at(grids, positions):
    """The cells of grids [L, H, W] at positions [L, 2]."""
    return grids[np.arange(len(grids)), positions[:, 0], positions[:, 1]]


def reachable(walls, start):
    """Free cells connected to `start`, by growing a set: a check apart from `paths`."""
    cells, new = set(), {tuple(map(int, start))}
    while new:
        cells |= new
        new = {
            (row + d_row, col + d_col)
            for row, col in new
            for d_row, d_col in ((0, 1), (1, 0), (0, -1), (-1, 0))
            if 0 <= row + d_row < walls.shape[0] and 0 <= col + d_col < walls.shape[1]
        }
        new = {cell for cell in new - cells if not walls[cell]}
    return cells


def solvable(level):
    return tuple(map(int, level.goal)) in reachable(level.walls, level.start)


@pytest.fixture(scope="module")
def drawn():
    """Levels of a family with what it says about them; each is compiled once."""

    @functools.cache
    def draw(space):
        def sample_and_describe(key):
            level = space.sample(key)
            return level, space.valid(level), space.features(level)

        return each(sample_and_describe, N_LEVELS)

    return draw


class TestFamilies:
    @pytest.mark.parametrize("space", SPACES, ids=name)
    def test_levels_are_well_formed(self, space, drawn):
        levels, _, _ = drawn(space)
        chex.assert_shape(levels.walls, (N_LEVELS, space.height, space.width))
        chex.assert_shape([levels.goal, levels.start], (N_LEVELS, 2))
        for position in (levels.goal, levels.start):
            assert (position >= 0).all()
            assert (position < [space.height, space.width]).all()
            assert not at(levels.walls, position).any()
        assert (levels.goal != levels.start).any(axis=1).all()
        assert set(levels.direction) == {0, 1, 2, 3}
        chex.assert_trees_all_equal_shapes_and_dtypes(take(levels, 0), space.example())

    @pytest.mark.parametrize("space", SPACES, ids=name)
    def test_valid_and_features_describe_the_level(self, space, drawn):
        levels, valid, features = drawn(space)
        for i in range(64):
            level = take(levels, i)
            assert valid[i] == features["solvable"][i] == solvable(level)
            assert features["n_walls"][i] == level.walls.sum()
            assert np.isnan(features["path_length"][i]) == (not valid[i])

    @pytest.mark.parametrize("space", DEFAULTS, ids=name)
    def test_vmap_equals_a_loop_and_traces_once(self, space, drawn):
        levels, _, _ = drawn(space)
        chex.clear_trace_counter()
        draw = jit(chex.assert_max_traces(space.sample, n=1))
        for i, key in enumerate(jax.random.split(jax.random.key(0), N_LEVELS)[:5]):
            chex.assert_trees_all_equal(draw(key), take(levels, i))

    @pytest.mark.parametrize("space", TIGHT_SPACES, ids=name)
    def test_solvable_means_solvable(self, space):
        # The same family without the promise must fail, else nothing was tested.
        loose = dataclasses.replace(space, solvable=False)
        kept, raw = each(lambda key: (space.sample(key), loose.sample(key)), 128)
        assert all(solvable(take(kept, i)) for i in range(128))
        assert not all(solvable(take(raw, i)) for i in range(128))
        assert (kept.goal != kept.start).any(axis=1).all()
        if space == TIGHT_SPACES[1]:
            # Two free cells among 169 are rarely neighbours, so ways were carved.
            assert (kept.walls.sum(axis=(1, 2)) < 167).mean() > 0.1

    @pytest.mark.parametrize("bounds", [(0, 20), (9, 9), (5, 8)], ids=str)
    def test_uniform_walls_are_as_many_as_asked(self, bounds):
        space = UniformWalls(5, 5, min_walls=bounds[0], max_walls=bounds[1])
        levels = each(space.sample, 4096)
        # One of 21 equally likely counts is missed with a probability below 1e-80.
        counts = set(levels.walls.sum(axis=(1, 2)).tolist())
        assert counts == set(range(bounds[0], bounds[1] + 1))
        share = levels.walls.mean(axis=0)
        # The count varies too, which widens five standard deviations a little.
        np.testing.assert_allclose(share, np.mean(bounds) / 25, atol=0.045)

    @pytest.mark.parametrize("bounds", [(25, 25), (0, 8)], ids=str)
    def test_walls_drawn_with_replacement_are_a_few_fewer(self, bounds):
        """Of N cells N (1 - (1 - 1/N)^k) are hit by k draws."""
        space = UniformWalls(
            6, 6, min_walls=bounds[0], max_walls=bounds[1], distinct_walls=False
        )
        draws = np.arange(bounds[0], bounds[1] + 1)
        expected = np.mean(36 * (1 - (35 / 36) ** draws))
        counts = each(space.sample, 4096).walls.sum(axis=(1, 2))
        deviation = counts.std() / np.sqrt(len(counts))
        assert abs(counts.mean() - expected) < 5 * deviation
        assert counts.max() <= bounds[1] and counts.min() < expected < counts.max()

    @pytest.mark.parametrize("space", [PerfectMaze(), PerfectMaze(5, 9)], ids=name)
    def test_perfect_mazes_are_spanning_trees(self, space, drawn):
        levels, _, _ = drawn(space)
        rooms = [
            (row, col)
            for row in range(0, space.height, 2)
            for col in range(0, space.width, 2)
        ]
        for walls in levels.walls[:64]:
            assert not walls[::2, ::2].any()
            assert walls[1::2, 1::2].all()
            group = {room: {room} for room in rooms}
            n_edges = 0
            for row, col in rooms:
                for d_row, d_col in ((0, 1), (1, 0)):
                    other = row + 2 * d_row, col + 2 * d_col
                    if other in group and not walls[row + d_row, col + d_col]:
                        n_edges += 1
                        joined = group[row, col] | group[other]
                        group.update(dict.fromkeys(joined, joined))
            assert n_edges == len(rooms) - 1
            assert group[0, 0] == set(rooms)
        # Every wall between two rooms stands in some mazes and not in others.
        varies = levels.walls.any(axis=0) & ~levels.walls.all(axis=0)
        assert varies[::2, 1::2].all() and varies[1::2, ::2].all()

    @pytest.mark.parametrize(
        ("shape", "door_probability"),
        [((13, 13), 0.5), ((9, 12), 1.0), ((9, 12), 0.0)],
        ids=str,
    )
    def test_rooms_have_at_most_one_door_per_segment(self, shape, door_probability):
        space = Rooms(*shape, door_probability=door_probability)
        walls = each(space.sample, N_LEVELS).walls
        # A wall cell is no door in most of the levels.
        closed = walls.any(axis=0)
        lines = [
            np.flatnonzero(grid.all(axis=1)).tolist() for grid in (closed, closed.T)
        ]
        assert [len(found) for found in lines] == [2, 2]
        wanted = np.zeros(shape, bool)
        wanted[lines[0]] = True
        wanted[:, lines[1]] = True
        np.testing.assert_array_equal(closed, wanted)
        doors = ~walls & closed
        n_doors = []
        for axis, grid in enumerate((doors, doors.transpose(0, 2, 1))):
            cuts = [0, *lines[1 - axis], grid.shape[2]]
            for line in lines[axis]:
                # A door where two walls cross would join four rooms.
                assert not grid[:, line, lines[1 - axis]].any()
                for low, high in itertools.pairwise(cuts):
                    n_doors.append(grid[:, line, low:high].sum(axis=1))
        assert len(n_doors) == 12 and np.max(n_doors) <= 1
        tolerance = 0.05 if door_probability == 0.5 else 0
        assert abs(np.mean(n_doors) - door_probability) <= tolerance

    def test_caves_follow_the_majority_rule(self):
        before, after = map(
            np.asarray,
            jit(lambda key: [Caves(smoothing_steps=n).layout(key) for n in (1, 2)])(
                jax.random.key(3)
            ),
        )
        padded = np.pad(before, 1, constant_values=True)
        around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).sum((2, 3))
        np.testing.assert_array_equal(after, around >= 5)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: UniformWalls(max_walls=168),
            lambda: UniformWalls(min_walls=9, max_walls=8),
            lambda: UniformWalls(min_walls=-1),
            lambda: UniformWalls(1, 1),
            lambda: PerfectMaze(12, 13),
            lambda: PerfectMaze(13, 12),
            lambda: Rooms(4, 13, rooms_per_side=3),
            lambda: Rooms(door_probability=1.1),
            lambda: Caves(fill=-0.1),
            lambda: Mutator(n_edits=0),
            lambda: Mutator(change_cell=-1.0),
            lambda: Mutator(change_cell=0.0, move_goal=0.0, no_op=1.0),
        ],
    )
    def test_impossible_settings_are_told_in_one_sentence(self, make):
        with pytest.raises(UserError) as error:
            make()
        assert_one_sentence(error)


def assert_one_sentence(error):
    message = str(error.value)
    assert "\n" not in message and message.endswith(".") and ". " not in message[:-1]


# One trace each for all of hypothesis's examples.
ONE_EDIT = jit(Mutator(1, move_start=1.0))
FIVE_EDITS = jit(Mutator(5, move_start=1.0))


class TestMutator:
    @given(parent=mazes(), seed=seeds, mutate=st.sampled_from([ONE_EDIT, FIVE_EDITS]))
    @quick
    def test_children_differ_and_stay_well_formed(self, parent, seed, mutate):
        child = jax.tree.map(np.asarray, mutate(jax.random.key(seed), parent))
        n_flips = (child.walls != parent.walls).sum()
        goal_moved = not np.array_equal(child.goal, parent.goal)
        start_moved = not np.array_equal(child.start, parent.start)
        assert n_flips + goal_moved + start_moved > 0
        assert n_flips + goal_moved + start_moved <= (1 if mutate is ONE_EDIT else 5)
        assert not child.walls[tuple(child.goal)]
        assert not child.walls[tuple(child.start)]
        assert not np.array_equal(child.goal, child.start)
        assert child.direction == parent.direction
        chex.assert_trees_all_equal_shapes_and_dtypes(child, parent)

    def test_kinds_are_drawn_by_their_weights(self):
        n = 4096
        mutator = Mutator(1, change_cell=1.0, move_goal=0.0, move_start=1.0, no_op=3.0)
        parent = parse_maze("#...G\n..#..\n>.##.\n")
        children = each(mutator, n, parent)
        flips = children.walls != parent.walls
        moves = (children.start != parent.start).any(axis=1)
        idle = ~flips.any(axis=(1, 2)) & ~moves
        # Five standard deviations of a share of n draws.
        five = 5 * np.sqrt(0.25 / n)
        assert abs(idle.mean() - 0.6) <= five
        assert abs(moves.mean() - 0.2) <= five
        assert (children.goal == parent.goal).all()
        # Flips fall on every cell alike, but never on the goal or the start.
        wanted = np.full(parent.walls.shape, 0.2 / 13)
        wanted[tuple(parent.goal)] = wanted[tuple(parent.start)] = 0
        share = flips.mean(axis=0)
        assert (share[wanted == 0] == 0).all()
        np.testing.assert_allclose(share, wanted, atol=5 * np.sqrt(0.2 / 13 / n))

    @pytest.mark.parametrize("kind", ["goal", "start"])
    def test_moves_never_return(self, kind):
        weights = {"change_cell": 0.0, "move_goal": 0.0, f"move_{kind}": 1.0}
        parent = parse_maze(">..#\n##.G\n")
        # Four moves that could return would do so in about a third of the children.
        children = each(Mutator(4, **weights), 128, parent)
        where = getattr(children, kind)
        assert (where != getattr(parent, kind)).any(axis=1).all()
        assert len({tuple(cell) for cell in where.tolist()}) > 1
        unchanged = parent.replace(**{kind: None})
        for child in (take(children, i).replace(**{kind: None}) for i in range(128)):
            chex.assert_trees_all_equal(child, unchanged)

    def test_walls_flip_at_most_once(self):
        # Six edits of the six cells beside goal and start flip each exactly once.
        parent = parse_maze(">...\n..#G\n")
        children = each(Mutator(8, move_goal=0.0), 64, parent)
        assert ((children.walls != parent.walls).sum(axis=(1, 2)) == 6).all()

    def test_edits_without_a_cell_left_do_nothing(self):
        parent = parse_maze(">#\nG#\n")
        children = each(Mutator(change_cell=0.0), 8, parent)
        for i in range(8):
            chex.assert_trees_all_equal(take(children, i), parent)

    def test_a_space_edits_with_its_mutator(self):
        space = Empty(3, 4, mutator=Mutator(2, move_goal=0.0))
        children = each(space.mutate, 8, space.example())
        assert (children.walls.sum(axis=(1, 2)) == 2).all()


class TestText:
    space = Empty(5, 6)

    @given(level=mazes())
    @quick
    def test_text_reads_back(self, level):
        text = self.space.to_str(level)
        back = self.space.from_str(text)
        chex.assert_trees_all_equal(back, level)
        chex.assert_trees_all_equal_shapes_and_dtypes(back, level)
        assert self.space.to_str(back) == text

    def test_text_shows_rows_then_columns(self):
        level = self.space.from_str("......\n.....#\n^.....\n......\n...G..\n")
        np.testing.assert_array_equal(np.argwhere(level.walls), [[1, 5]])
        assert (level.goal.tolist(), level.start.tolist()) == ([4, 3], [2, 0])
        assert level.direction == 3

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "empty"),
            (">..\n...\n", "0 goals"),
            (">G.\n..G\n", "2 goals"),
            ("..G\n...\n", "0 agents"),
            (">G.\n..<\n", "2 agents"),
            (">G.\n..\n", "differ in length"),
            (">G.\n.x.\n", "'x'"),
            (">G.\n...\n", "is 2x3, but this environment needs 5x6"),
        ],
    )
    def test_bad_text_is_told_in_one_sentence(self, text, says):
        with pytest.raises(LevelFileError, match=says) as error:
            self.space.from_str(text)
        assert "\n" not in str(error.value) and str(error.value).endswith(".")


class TestHash:
    @pytest.mark.parametrize("space", [UniformWalls(), Empty(2, 3)], ids=name)
    def test_hashes_are_equal_iff_levels_are(self, space):
        n = 8192
        levels = each(space.sample, n)
        hashes = np.asarray(jit(jax.vmap(space.hash))(levels))
        assert hashes.dtype == np.uint32 and hashes.shape == (n, 2)
        content = np.concatenate(
            [np.reshape(leaf, (n, -1)) for leaf in jax.tree.leaves(levels)], axis=1
        ).astype(np.uint8)
        by_level, by_hash = collections.defaultdict(set), collections.defaultdict(set)
        for text, word in zip(map(bytes, content), map(bytes, hashes), strict=True):
            by_level[text].add(word)
            by_hash[word].add(text)
        assert max(map(len, by_level.values())) == 1
        assert max(map(len, by_hash.values())) == 1
        # Goal, start and direction are all that varies in the empty family.
        assert len(by_hash) == (6 * 5 * 4 if space.height == 2 else n)

    def test_one_changed_cell_changes_the_hash(self):
        level = parse_maze("#...G\n..#..\n>.##.\n")
        variants = [level.replace(direction=np.int32(d)) for d in range(4)]
        for cell in np.ndindex(3, 5):
            walls = level.walls.copy()
            walls[cell] ^= True
            variants.append(level.replace(walls=walls))
            position = np.array(cell, np.int32)
            if not np.array_equal(position, level.goal):
                variants.append(level.replace(goal=position))
            if not np.array_equal(position, level.start):
                variants.append(level.replace(start=position))
        hashes = np.asarray(jit(jax.vmap(Empty(3, 5).hash))(stack(variants)))
        assert len(set(map(bytes, hashes))) == len(variants) == 4 + 15 + 14 + 14

    @pytest.mark.parametrize(
        ("size", "golden"), [(9, [99286185, 2767742919]), (13, [2958385379, 473821657])]
    )
    def test_hashes_never_change(self, size, golden):
        # Stored level sets and splits depend on these words, which were computed
        # with Python's integers: they must stay.
        rows, cols = np.indices((size, size))
        level = MazeLevel(
            walls=(rows * 3 + cols * 5) % 7 == 1,
            goal=np.array([size - 1, 2], np.int32),
            start=np.array([0, 1], np.int32),
            direction=np.int32(2),
        )
        assert np.asarray(jit(Empty(size, size).hash)(level)).tolist() == golden


class TestFiles:
    space = UniformWalls(6, 7, max_walls=20)

    @pytest.fixture(scope="class")
    def level_set(self):
        levels = each(self.space.sample, 5)
        return LevelSet.from_levels(
            self.space, levels, name="five", provenance={"seed": 0}
        )

    @pytest.fixture
    def path(self, level_set, tmp_path):
        return level_set.save(tmp_path / "five.npz")

    def test_a_set_reads_back(self, level_set, path):
        back = LevelSet.load(path, self.space)
        chex.assert_trees_all_equal(back.levels, level_set.levels)
        chex.assert_trees_all_equal_shapes_and_dtypes(back.levels, level_set.levels)
        np.testing.assert_array_equal(back.hashes, level_set.hashes)
        for field in ("name", "split", "labels", "provenance"):
            assert getattr(back, field) == getattr(level_set, field)

    def test_the_suffix_is_added_not_swapped(self, level_set, tmp_path):
        for name in ("five", "seed.1", "seed.2"):
            assert level_set.save(tmp_path / name) == tmp_path / f"{name}.npz"
            assert len(LevelSet.load(tmp_path / f"{name}.npz", self.space)) == 5

    def refused(self, path, says, space=space):
        with pytest.raises(LevelFileError, match=says) as error:
            LevelSet.load(path, space)
        assert "\n" not in str(error.value) and str(error.value).endswith(".")

    def edited(self, path, **changes):
        """Rewrites a file with some of its arrays changed (None: left out)."""
        with np.load(path) as file:
            arrays = dict(file)
        for name, array in changes.items():
            arrays[name] = array
        arrays = {name: x for name, x in arrays.items() if x is not None}
        np.savez(path, **arrays)
        return path

    def test_another_grid_size_is_refused(self, path):
        self.refused(path, "needs", dataclasses.replace(self.space, width=8))

    def test_another_size_of_equal_area_is_refused(self, path):
        self.refused(path, "needs", dataclasses.replace(self.space, height=7, width=6))

    def test_a_missing_file_is_told(self, tmp_path):
        self.refused(tmp_path / "none.npz", "There is no level file")

    @pytest.mark.parametrize("content", [b"", b">..G\n", b"PK\x03\x04broken"])
    def test_other_files_are_refused(self, tmp_path, content):
        path = tmp_path / "other.npz"
        path.write_bytes(content)
        self.refused(path, "is not a level file")

    def test_other_arrays_are_refused(self, tmp_path):
        path = tmp_path / "weights.npz"
        np.savez(path, weights=np.zeros(3))
        self.refused(path, "is not a level file")
        np.save(tmp_path / "weights.npy", np.zeros(3))
        self.refused(tmp_path / "weights.npy", "is not a level file")

    def test_pickles_are_refused(self, path, tmp_path):
        trap = tmp_path / "trap"

        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(trap),)

        self.edited(path, meta=np.array([Trap()], dtype=object))
        self.refused(path, "is not a level file")
        assert not trap.exists()

    @pytest.mark.parametrize("name", ["walls", "goal", "start", "direction"])
    def test_changed_levels_are_refused(self, path, name):
        with np.load(path) as file:
            array = file[f"level/{name}"].copy()
        array[3] = ~array[3] if name == "walls" else (array[3] + 1) % 4
        self.edited(path, **{f"level/{name}": array})
        self.refused(path, "do not belong")

    def test_changed_hashes_are_refused(self, path, level_set):
        self.edited(path, hashes=level_set.hashes[::-1])
        self.refused(path, "do not belong")

    def test_missing_or_cut_fields_are_refused(self, path, level_set):
        self.edited(path, **{"level/goal": level_set.levels.goal[:3]})
        self.refused(path, "level/goal")
        self.edited(path, **{"level/goal": None})
        self.refused(path, "has no field level/goal")


# Size, moves on the shortest path, fewest actions.
PINNED = {
    "Crossing": ((9, 9), 16, 20),
    "FourRooms": ((13, 13), 20, 23),
    "Labyrinth": ((13, 13), 48, 59),
    "Labyrinth2": ((13, 13), 96, 108),
    "LabyrinthFlipped": ((13, 13), 48, 59),
    "LargeCorridor": ((19, 19), 20, 21),
    "Maze1": ((13, 13), 24, 27),
    "Maze2": ((13, 13), 48, 60),
    "Maze3": ((13, 13), 32, 41),
    "PerfectMaze101": ((101, 101), 1224, 1624),
    "PerfectMaze13": ((13, 13), 28, 33),
    "PerfectMaze19": ((19, 19), 52, 66),
    "PerfectMaze51": ((51, 51), 204, 265),
    "SixteenRooms": ((13, 13), 20, 21),
    "SixteenRoomsFewerDoors": ((13, 13), 20, 25),
    "SmallCorridor": ((13, 13), 11, 12),
}


class TestNamed:
    def test_sets_hold_the_pinned_levels(self):
        sizes = {size for size, *_ in PINNED.values()}
        assert named.sizes() == tuple(sorted(sizes))
        assert set(named.names()) == set(PINNED)
        for size in sizes:
            level_set = named.named_levels(*size)
            wanted = sorted(n for n, pin in PINNED.items() if pin[0] == size)
            assert (list(level_set.labels), level_set.split) == (wanted, "named")
            for i, label in enumerate(level_set.labels):
                chex.assert_trees_all_equal(level_set[i], named.named_level(label))

    @pytest.mark.parametrize("name", PINNED)
    def test_lengths_are_pinned(self, name):
        level = named.named_level(name)
        size, length, actions = PINNED[name]
        assert level.walls.shape == size
        assert not level.walls[tuple(level.start)]
        assert path_length(level.walls, level.start, level.goal) == length
        ends = level.walls, level.start, level.direction, level.goal
        assert fewest_actions(*ends) == actions

    def test_levels_differ(self):
        for size in named.sizes():
            hashes = named.named_levels(*size).hashes
            assert len({h.tobytes() for h in hashes}) == len(hashes)

    def test_mistakes_are_told_in_one_sentence(self):
        with pytest.raises(
            LevelFileError, match=r"no maze named Maze9.*Maze1"
        ) as error:
            named.named_level("Maze9")
        assert_one_sentence(error)
        with pytest.raises(LevelFileError, match=r"No named maze is 7x7.*9x9") as error:
            named.named_levels(7, 7)
        assert_one_sentence(error)
        with pytest.raises(LevelFileError, match="cannot be reached") as error:
            named.check_solvable(parse_maze(">#G\n.#.\n"), "Wall")
        assert_one_sentence(error)
