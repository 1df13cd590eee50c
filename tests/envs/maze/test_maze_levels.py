"""Maze families, mutators, text, hashes, files and named levels."""

import collections
import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlgen.env import take
from rlgen.envs.maze import FAMILIES, MazeLevel, Mutator, named, parse_maze, paths
from rlgen.envs.maze.levels import Caves, Empty, PerfectMaze, Rooms, UniformWalls
from rlgen.levels import LevelFileError, LevelSet, stack

N_LEVELS = 256

# Every family as it comes, and shapes and settings that strain it.
SPACES = (
    *(family() for family in FAMILIES.values()),
    UniformWalls(9, 13, min_walls=40, max_walls=40),
    UniformWalls(4, 3, max_walls=10),
    PerfectMaze(5, 9),
    PerfectMaze(3, 3),
    Rooms(8, 11, rooms_per_side=4, door_probability=0.3),
    Rooms(5, 5, rooms_per_side=1),
    Caves(6, 9, fill=0.9),
    Caves(2, 2, fill=1.0),
    Empty(2, 3),
)

# Families in which most draws cannot be solved, so that the carving must help.
TIGHT_SPACES = (
    UniformWalls(solvable=True, min_walls=100, max_walls=100),
    UniformWalls(solvable=True, min_walls=167, max_walls=167),
    Rooms(solvable=True, door_probability=0.0),
    Caves(solvable=True, fill=0.6),
)

path_length = jax.jit(paths.path_length)
fewest_actions = jax.jit(paths.fewest_actions)

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


def sample(space, n=N_LEVELS, seed=0):
    keys = jax.random.split(jax.random.key(seed), n)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(space.sample))(keys))


def at(grids, positions):
    """The cells of grids [L, H, W] at positions [L, 2]."""
    return grids[np.arange(len(grids)), positions[:, 0], positions[:, 1]]


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


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


class TestFamilies:
    @pytest.mark.parametrize("space", SPACES, ids=repr)
    def test_levels_are_well_formed(self, space):
        levels = sample(space)
        chex.assert_shape(levels.walls, (N_LEVELS, space.height, space.width))
        chex.assert_shape([levels.goal, levels.start], (N_LEVELS, 2))
        chex.assert_type(
            [levels.walls, levels.goal, levels.start, levels.direction],
            [bool, jnp.int32, jnp.int32, jnp.int32],
        )
        for position in (levels.goal, levels.start):
            assert (position >= 0).all()
            assert (position < [space.height, space.width]).all()
            assert not at(levels.walls, position).any()
        assert (levels.goal != levels.start).any(axis=1).all()
        assert set(levels.direction) == {0, 1, 2, 3}
        chex.assert_trees_all_equal_shapes_and_dtypes(take(levels, 0), space.example())

    @pytest.mark.parametrize("space", TIGHT_SPACES, ids=repr)
    def test_solvable_means_solvable(self, space):
        levels = sample(space)
        assert all(solvable(take(levels, i)) for i in range(N_LEVELS))
        assert (levels.goal != levels.start).any(axis=1).all()
        # The same family without the promise must fail, else nothing was tested.
        loose = sample(dataclasses.replace(space, solvable=False))
        assert not all(solvable(take(loose, i)) for i in range(N_LEVELS))

    def test_the_carved_way_is_used_when_no_draw_can_be_solved(self):
        # 167 of 169 cells are walls: only neighbours are solvable as drawn.
        n_walls = sample(TIGHT_SPACES[1]).walls.sum(axis=(1, 2))
        assert (n_walls < 167).any() and (n_walls <= 167).all()

    @pytest.mark.parametrize("space", SPACES, ids=repr)
    def test_valid_and_features_describe_the_level(self, space):
        levels = sample(space, 64)
        valid = jax.jit(jax.vmap(space.valid))(levels)
        features = jax.jit(jax.vmap(space.features))(levels)
        for i in range(64):
            level = take(levels, i)
            assert bool(valid[i]) == solvable(level)
            assert features["solvable"][i] == valid[i]
            assert features["n_walls"][i] == level.walls.sum()
            assert np.isnan(features["path_length"][i]) == (not valid[i])

    @pytest.mark.parametrize("space", SPACES, ids=repr)
    def test_vmap_equals_a_loop_and_traces_once(self, space):
        levels = sample(space, 8)
        chex.clear_trace_counter()
        draw = jax.jit(chex.assert_max_traces(space.sample, n=1))
        for i, key in enumerate(jax.random.split(jax.random.key(0), 8)):
            assert same(draw(key), take(levels, i))

    @pytest.mark.parametrize("bounds", [(0, 60), (40, 40), (25, 31), (0, 0)])
    def test_uniform_walls_are_as_many_as_asked(self, bounds):
        space = UniformWalls(min_walls=bounds[0], max_walls=bounds[1])
        n_walls = sample(space, 1024).walls.sum(axis=(1, 2))
        # Both ends of a range of n are missed by 1024 draws with p < 2e-7 if n < 64.
        assert (n_walls.min(), n_walls.max()) == bounds
        assert len(set(n_walls.tolist())) == bounds[1] - bounds[0] + 1

    def test_uniform_walls_stand_everywhere_alike(self):
        space = UniformWalls(5, 5, min_walls=5, max_walls=5)
        levels = sample(space, 4096)
        share = levels.walls.mean(axis=0)
        # Five standard deviations of a share of 4096 draws.
        np.testing.assert_allclose(share, 0.2, atol=5 * np.sqrt(0.2 * 0.8 / 4096))

    @pytest.mark.parametrize("space", [PerfectMaze(), PerfectMaze(5, 9)], ids=repr)
    def test_perfect_mazes_are_spanning_trees(self, space):
        levels = sample(space, 64)
        rooms = [
            (r, c) for r in range(0, space.height, 2) for c in range(0, space.width, 2)
        ]
        for walls in levels.walls:
            assert not walls[::2, ::2].any()
            assert walls[1::2, 1::2].all()
            parent = {room: room for room in rooms}

            def root(room, parent=parent):
                while parent[room] != room:
                    room = parent[room]
                return room

            n_edges = 0
            for row, col in rooms:
                for wall, other in (
                    ((row, col + 1), (row, col + 2)),
                    ((row + 1, col), (row + 2, col)),
                ):
                    if other in parent and not walls[wall]:
                        n_edges += 1
                        parent[root((row, col))] = root(other)
            assert n_edges == len(rooms) - 1
            assert len({root(room) for room in rooms}) == 1
        # The tree must vary in every wall, not only in the start.
        opens = ~levels.walls.all(axis=0) & ~(~levels.walls).all(axis=0)
        assert opens[::2, 1::2].all() and opens[1::2, ::2].all()

    @pytest.mark.parametrize("door_probability", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("shape", [(13, 13), (9, 12)], ids=str)
    def test_rooms_have_at_most_one_door_per_segment(self, shape, door_probability):
        space = Rooms(*shape, door_probability=door_probability)
        levels = sample(space, 64)
        closed = Rooms(*shape, door_probability=0.0).layout(jax.random.key(0))
        lines = [
            [i for i, line in enumerate(np.asarray(grid)) if line.all()]
            for grid in (closed, closed.T)
        ]
        assert [len(found) for found in lines] == [2, 2]
        doors = ~levels.walls & np.asarray(closed)
        per_segment = []
        for axis, grid in enumerate((doors, doors.transpose(0, 2, 1))):
            cuts = [0, *lines[1 - axis], grid.shape[2]]
            for line in lines[axis]:
                for low, high in zip(cuts[:-1], cuts[1:], strict=True):
                    per_segment.append(grid[:, line, low:high].sum(axis=1))
                # A door where two walls cross would join four rooms.
                assert not grid[:, line, lines[1 - axis]].any()
        per_segment = np.stack(per_segment)
        assert per_segment.shape == (12, 64) and per_segment.max() <= 1
        assert not (levels.walls & ~np.asarray(closed)).any()
        assert abs(per_segment.mean() - door_probability) <= 0.1
        if door_probability in (0.0, 1.0):
            assert per_segment.mean() == door_probability

    def test_caves_follow_the_majority_rule(self):
        key = jax.random.key(3)
        before, after = (
            np.asarray(Caves(smoothing_steps=n).layout(key)) for n in (1, 2)
        )
        padded = np.pad(before, 1, constant_values=True)
        around = sum(
            padded[r : r + 13, c : c + 13].astype(int)
            for r in range(3)
            for c in range(3)
        )
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
            lambda: Mutator(flip_wall=-1.0),
            lambda: Mutator(flip_wall=0.0, move_goal=0.0, no_op=1.0),
        ],
    )
    def test_impossible_settings_are_told_in_one_sentence(self, make):
        with pytest.raises(ValueError) as error:
            make()
        assert_one_sentence(error)


def assert_one_sentence(error):
    message = str(error.value)
    assert "\n" not in message and message.endswith(".") and ". " not in message[:-1]


# One trace each for all of hypothesis's examples.
ONE_EDIT = jax.jit(Mutator(1, move_start=1.0))
FIVE_EDITS = jax.jit(Mutator(5, move_start=1.0))

PARENT = parse_maze("#...G\n..#..\n>.##.\n")


def mutate_often(mutator, parent=PARENT, n=512):
    keys = jax.random.split(jax.random.key(1), n)
    children = jax.jit(jax.vmap(mutator, (0, None)))(keys, parent)
    return parent, jax.tree.map(np.asarray, children)


class TestMutator:
    @given(parent=mazes(), seed=seeds, n_edits=st.sampled_from([1, 5]))
    @quick
    def test_children_differ_and_stay_well_formed(self, parent, seed, n_edits):
        mutator = {1: ONE_EDIT, 5: FIVE_EDITS}[n_edits]
        child = mutator(jax.random.key(seed), parent)
        assert not same(child, parent)
        assert int((child.walls != parent.walls).sum()) <= n_edits
        for position in (child.goal, child.start):
            assert not child.walls[tuple(position)]
        assert not np.array_equal(child.goal, child.start)
        assert child.direction == parent.direction
        chex.assert_trees_all_equal_shapes_and_dtypes(child, parent)

    @pytest.mark.parametrize(
        ("weights", "changes"),
        [
            ({"move_goal": 0.0}, {"walls"}),
            ({"flip_wall": 0.0}, {"goal"}),
            ({"flip_wall": 0.0, "move_goal": 0.0, "move_start": 1.0}, {"start"}),
            ({"move_start": 1.0}, {"walls", "goal", "start"}),
        ],
        ids=["flip_wall", "move_goal", "move_start", "all"],
    )
    def test_a_weight_of_zero_excludes_its_edit(self, weights, changes):
        parent, children = mutate_often(Mutator(**weights))
        changed = {
            name
            for name in ("walls", "goal", "start", "direction")
            if (getattr(children, name) != getattr(parent, name)).any()
        }
        assert changed == changes

    @pytest.mark.parametrize("kind", ["goal", "start"])
    def test_moves_never_return(self, kind):
        weights = {"flip_wall": 0.0, "move_goal": 0.0, f"move_{kind}": 1.0}
        # Three free cells: a move that could return would do so half of the time.
        parent = parse_maze(">.#\n##G\n")
        for n_edits in range(1, 7):
            _, children = mutate_often(Mutator(n_edits, **weights), parent, 64)
            moved = (getattr(children, kind) != getattr(parent, kind)).any(axis=1)
            assert moved.all()

    def test_walls_flip_at_most_once(self):
        mutator = Mutator(6, move_goal=0.0)
        parent = parse_maze(">...\n..#G\n")
        _, children = mutate_often(mutator, parent, 64)
        # Six edits of the six cells beside goal and start flip each exactly once.
        flips = (children.walls != parent.walls).sum(axis=(1, 2))
        assert set(flips.tolist()) == {6}

    def test_edits_without_a_cell_left_do_nothing(self):
        parent = parse_maze(">#\nG#\n")
        _, children = mutate_often(Mutator(flip_wall=0.0), parent, 8)
        assert (children.goal == parent.goal).all()

    @pytest.mark.parametrize("no_op", [0.0, 1.0, 3.0])
    def test_no_op_is_drawn_by_its_weight(self, no_op):
        n = 4096
        mutator = Mutator(1, flip_wall=1.0, move_goal=0.0, no_op=no_op)
        parent, children = mutate_often(mutator, n=n)
        idle = (children.walls == parent.walls).all(axis=(1, 2)).mean()
        wanted = no_op / (1 + no_op)
        assert abs(idle - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / n)

    def test_edits_reach_every_cell_alike(self):
        n = 4096
        parent, children = mutate_often(Mutator(1, move_goal=0.0), n=n)
        share = (children.walls != parent.walls).mean(axis=0)
        cells = np.ones(parent.walls.shape, bool)
        cells[tuple(parent.goal)] = cells[tuple(parent.start)] = False
        assert (share[~cells] == 0).all()
        wanted = 1 / cells.sum()
        np.testing.assert_allclose(share[cells], wanted, atol=5 * np.sqrt(wanted / n))

    def test_a_space_edits_with_its_mutator(self):
        space = UniformWalls(mutator=Mutator(2, move_goal=0.0))
        parent = take(sample(space, 1), 0)
        child = space.mutate(jax.random.key(0), parent)
        assert (np.asarray(child.walls) != parent.walls).sum() == 2


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
    @pytest.mark.parametrize("space", [UniformWalls(), PerfectMaze(5, 5)], ids=repr)
    def test_hashes_are_equal_iff_levels_are(self, space):
        levels = sample(space, 8192)
        hashes = np.asarray(jax.jit(jax.vmap(space.hash))(levels))
        assert hashes.dtype == np.uint32 and hashes.shape == (8192, 2)
        flat = np.concatenate(
            [np.reshape(leaf, (8192, -1)) for leaf in jax.tree.leaves(levels)], axis=1
        ).astype(np.uint8)
        by_level, by_hash = collections.defaultdict(set), collections.defaultdict(set)
        for content, word in zip(map(bytes, flat), map(bytes, hashes), strict=True):
            by_level[content].add(word)
            by_hash[word].add(content)
        assert max(map(len, by_level.values())) == 1
        assert max(map(len, by_hash.values())) == 1
        # The small family repeats itself, so equality was seen too.
        assert (len(by_level) < 8192) == (space.height == 5)

    def test_one_changed_cell_changes_the_hash(self):
        space = Empty(3, 5)
        variants = [PARENT]
        cells = [np.array(cell, np.int32) for cell in np.ndindex(3, 5)]
        for cell in cells:
            walls = PARENT.walls.copy()
            walls[tuple(cell)] ^= True
            variants.append(PARENT.replace(walls=walls))
            if not np.array_equal(cell, PARENT.goal):
                variants.append(PARENT.replace(goal=cell))
            if not np.array_equal(cell, PARENT.start):
                variants.append(PARENT.replace(start=cell))
        variants += [PARENT.replace(direction=np.int32(d)) for d in (1, 2, 3)]
        hashes = np.asarray(jax.vmap(space.hash)(stack(variants)))
        assert len({h.tobytes() for h in hashes}) == len(variants) == 1 + 3 * 15 - 2 + 3

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
        assert np.asarray(Empty(size, size).hash(level)).tolist() == golden


class TestFiles:
    space = UniformWalls(6, 7, max_walls=20)

    @pytest.fixture
    def level_set(self):
        return LevelSet.from_levels(
            self.space, sample(self.space, 5), name="five", provenance={"seed": 0}
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

    def test_pickles_are_refused(self, path):
        ran = []

        class Trap:
            def __reduce__(self):
                return ran.append, (1,)

        self.edited(path, meta=np.array([Trap()], dtype=object))
        self.refused(path, "is not a level file")
        assert not ran

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


class TestNamed:
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

    def test_sets_hold_the_pinned_levels(self):
        sizes = {size for size, *_ in self.PINNED.values()}
        assert named.sizes() == tuple(sorted(sizes))
        assert set(named.names()) == set(self.PINNED)
        for size in sizes:
            level_set = named.named_levels(*size)
            wanted = sorted(n for n, pin in self.PINNED.items() if pin[0] == size)
            assert (list(level_set.labels), level_set.split) == (wanted, "named")
            for i, label in enumerate(level_set.labels):
                assert same(level_set[i], named.named_level(label))

    @pytest.mark.parametrize("name", PINNED)
    def test_lengths_are_pinned(self, name):
        level = named.named_level(name)
        size, length, actions = self.PINNED[name]
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
        with pytest.raises(LevelFileError, match="no maze named Maze9.*Maze1") as error:
            named.named_level("Maze9")
        assert_one_sentence(error)
        with pytest.raises(LevelFileError, match="No named maze is 7x7.*9x9") as error:
            named.named_levels(7, 7)
        assert_one_sentence(error)
        with pytest.raises(LevelFileError, match="cannot be reached") as error:
            named.check_solvable(parse_maze(">#G\n.#.\n"), "Wall")
        assert_one_sentence(error)
