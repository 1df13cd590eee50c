"""Caves: the sets that ship, how they are made, and what is refused."""

import dataclasses
import hashlib
import itertools
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlgen.env import check_env, take
from rlgen.envs.cave import datasets, objects, wfc
from rlgen.envs.cave.config import CaveConfig
from rlgen.envs.cave.env import Cave
from rlgen.envs.cave.levels import FAMILIES, Blocks, Empty, parse_cave
from rlgen.envs.grid.tiles import Tile
from rlgen.errors import UserError
from rlgen.levels import SPLITS, LevelSet, assert_disjoint, split_of

SETS = {name: datasets.shipped(name) for name in datasets.names()}
SIZES = {
    "train": 512,
    "validation": 512,
    "test": 2048,
    "structures": 108,
    "lava": 108,
    "hints": 108,
    "large": 96,
}


class TestShippedSets:
    def test_sizes(self):
        assert {name: len(level_set) for name, level_set in SETS.items()} == SIZES

    def test_no_level_stands_in_two_sets(self):
        assert_disjoint(*SETS.values())

    @pytest.mark.parametrize("name", SETS)
    def test_hashes_are_distinct_and_of_the_split(self, name):
        level_set = SETS[name]
        assert len({h.tobytes() for h in level_set.hashes}) == len(level_set)
        split = np.asarray(split_of(jnp.asarray(level_set.hashes)))
        assert (split == SPLITS.index(datasets.RECIPES[name].split)).all()

    def test_layouts_are_distinct_too(self):
        """New objects on a layout of the train set would be half a held-out level."""
        iid = [SETS[name].levels for name in ("train", "validation", "test")]
        walls = [
            np.isin(cells, [Tile.WALL, Tile.LAVA]).tobytes()
            for levels in iid
            for cells in levels.cells
        ]
        assert len(set(walls)) == len(walls)

    @pytest.mark.parametrize("name", SETS)
    def test_all_can_be_solved(self, name):
        size = datasets.RECIPES[name].size
        valid = jax.jit(jax.vmap(Empty(size, size).valid))(SETS[name].levels)
        assert bool(jnp.all(valid))

    def test_files_are_those_that_the_sums_name(self):
        folder = resources.files("rlgen.envs.cave") / "data"
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        assert len(lines) == len(SETS)
        for line in lines:
            digest, name = line.split()
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest

    def test_edge_sets_differ_in_their_objects(self):
        def share(name, tile):
            return np.mean(SETS[name].levels.cells == tile)

        assert share("lava", Tile.LAVA) > 2 * share("structures", Tile.LAVA)
        assert share("lava", Tile.MOSS) < 0.5 * share("structures", Tile.MOSS)
        assert share("hints", Tile.MOSS) < 0.5 * share("structures", Tile.MOSS)
        assert share("hints", Tile.LAVA) == pytest.approx(
            share("structures", Tile.LAVA), rel=0.15
        )

    def test_moss_is_near_the_goal_and_lava_far(self):
        space = Empty()
        levels = SETS["train"].levels
        near, far, middle = [], [], []
        for i in range(0, 512, 16):
            level = take(levels, i)
            free = ~np.asarray(space.LEVEL.blocked.fget(level))
            dist = objects.distances(free, tuple(level.goal))
            # Lava was put on walls: behind it counts, not on the way.
            depth, reach = objects.wall_distances(np.where(free, dist, -1))
            assert (depth[level.cells == Tile.LAVA] <= 3).all()
            near.append(np.mean(dist[level.cells == Tile.MOSS]))
            far.append(np.mean(reach[level.cells == Tile.LAVA]))
            middle.append(np.mean(dist[dist > 0]))
        assert np.mean(near) < 0.8 * np.mean(middle)
        assert np.mean(far) > np.mean(middle)


class TestObjects:
    def test_wall_distances_equal_brute_force(self):
        rng = np.random.default_rng(0)
        free = objects.largest_area(rng.random((7, 9)) < 0.6)
        source = tuple(np.argwhere(free)[3])
        dist = np.where(free, objects.distances(free, source), -1)
        depth, reach = objects.wall_distances(dist)
        cells = np.argwhere(free)
        for row, col in np.argwhere(~free):
            steps = np.abs(cells - [row, col]).sum(axis=1)
            nearest = steps.min()
            assert depth[row, col] == nearest
            at_nearest = dist[tuple(cells[steps == nearest].T)]
            assert reach[row, col] == at_nearest.min() + nearest

    def test_weights_are_inverse_ranks(self):
        rng = np.random.default_rng(1)
        candidates = np.array([[0, 0], [0, 1], [0, 2], [0, 3]])
        rank_by = np.array([5.0, 1.0, 3.0, 3.0])
        counts = np.zeros(4)
        for _ in range(4000):
            (chosen,) = objects.choose(rng, candidates, rank_by, 0.25, 1.0)
            counts[chosen[1]] += 1
        weights = 1 / np.array([4, 1, 2.5, 2.5])
        expected = 4000 * weights / weights.sum()
        assert stats.chisquare(counts, expected).pvalue > 1e-3

    def test_start_lies_at_the_median_distance(self):
        area = np.zeros((3, 9), bool)
        area[1] = True
        for seed in range(20):
            tiles, goal, start = objects.place(
                area, np.random.default_rng(seed), objects.Objects()
            )
            dist = np.abs(np.arange(9) - goal[1])
            median = max(1, int(np.median(dist[dist > 0])))
            assert abs(start[1] - goal[1]) == median
            assert tiles[tuple(start)] == tiles[tuple(goal)] == Tile.EMPTY
            assert not (tiles == Tile.WALL)[1].any()


class TestLayouts:
    def test_families(self):
        names = wfc.structures()
        families = {name.split("_")[0] for name in names}
        assert len(names) >= 12
        assert families == {"obstacles", "rooms", "maze", "dungeon", "caves"}
        assert set(datasets.TRAIN_STRUCTURES) < set(names)

    @pytest.mark.parametrize("structure", ["rooms_office", "maze_walls"])
    @pytest.mark.parametrize("size", [9, 20])
    def test_every_window_stands_in_the_pattern(self, structure, size):
        """Small layouts are solved at once, large ones block by block."""
        drawing = np.pad(wfc.pattern(structure), 2, mode="wrap")
        known = set()
        for turn, flip in itertools.product(range(4), (False, True)):
            image = np.rot90(drawing[:, ::-1] if flip else drawing, turn)
            for row, col in np.ndindex(image.shape[0] - 2, image.shape[1] - 2):
                known.add(image[row : row + 3, col : col + 3].tobytes())
        layout = None
        rng = np.random.default_rng(0)
        while layout is None:
            layout = wfc.layout(structure, size, size, rng)
        # The windows of the last two rows and columns reach over the border.
        for row, col in np.ndindex(size - 2, size - 2):
            assert layout[row : row + 3, col : col + 3].tobytes() in known

    def test_a_second_call_makes_what_is_missing_bit_for_bit(
        self, tmp_path, monkeypatch
    ):
        recipe = datasets.Recipe("train", 3)
        monkeypatch.setattr(datasets, "RECIPES", {"train": recipe})
        monkeypatch.setattr(datasets, "TRAIN_STRUCTURES", ("rooms_office",))
        monkeypatch.setattr(datasets, "_CHUNK_CELLS", 2 * 169)
        (path,) = datasets.make(["train"], tmp_path / "a", 1).values()
        whole = path.read_bytes()
        chunks = sorted((tmp_path / "a" / "layouts").iterdir())
        kept = {chunk.name: chunk.stat().st_mtime_ns for chunk in chunks[:-1]}
        chunks[-1].unlink()
        path.unlink()
        datasets.make(["train"], tmp_path / "a", 1)
        assert path.read_bytes() == whole
        for chunk in chunks[:-1]:
            assert chunk.stat().st_mtime_ns == kept[chunk.name]

    def test_unknown_names_are_refused(self, tmp_path):
        with pytest.raises(UserError, match="There is no structure cubes: choose"):
            wfc.layout("cubes", 9, 9, np.random.default_rng(0))
        with pytest.raises(UserError, match="There is no recipe cubes: choose all or"):
            datasets.make(["cubes"], tmp_path, 1)


class TestEnvironment:
    def test_keeps_the_contract(self):
        level = take(SETS["train"].levels, 0)
        check_env(Cave(), jax.tree.map(jnp.asarray, level), jax.random.key(0))

    def test_time_limits_are_the_published_ones(self):
        assert Cave().max_episode_steps == 250
        assert Cave(43, 43).max_episode_steps == 2250

    def test_first_directions_are_uniform(self):
        level = jax.tree.map(jnp.asarray, Empty().example())
        keys = jax.random.split(jax.random.key(0), 400)
        state, _ = jax.vmap(lambda key: Cave().reset(key, level))(keys)
        counts = np.bincount(np.asarray(state.direction), minlength=4)
        assert stats.chisquare(counts).pvalue > 1e-3

    def test_best_return_is_a_mean_over_directions(self):
        env = Cave(2, 4, max_steps=10)
        level = parse_cave("S~.G\n....\n")
        # Around the lava: from facing down three turns in all, else four or five.
        moves, turns = 5, {0: 1 + 1 + 1, 1: 0 + 1 + 1, 2: 1 + 1 + 1, 3: 2 + 1 + 1}
        best = np.mean([1 - 0.9 * (moves + n) / 10 for n in turns.values()])
        assert float(env.optimal_return(level)) == pytest.approx(best)

    @pytest.mark.parametrize("name", FAMILIES)
    def test_families_sample_edit_and_print(self, name):
        space = FAMILIES[name](7, 9, solvable=True)
        keys = jax.random.split(jax.random.key(0), 32)
        levels = jax.jit(jax.vmap(space.sample))(keys)
        assert bool(jnp.all(jax.vmap(space.valid)(levels)))
        children = jax.jit(jax.vmap(space.mutate))(keys, levels)
        hash_all = jax.jit(jax.vmap(space.hash))
        assert not np.any(np.all(hash_all(levels) == hash_all(children), axis=1))
        for i in range(4):
            level = jax.tree.map(np.asarray, take(children, i))
            again = space.from_str(space.to_str(level))
            for a, b in zip(
                jax.tree.leaves(level), jax.tree.leaves(again), strict=True
            ):
                np.testing.assert_array_equal(a, b)

    def test_grids_round_trip(self):
        space = Blocks()
        level = space.sample(jax.random.key(3))
        again = space.from_grid(jax.random.key(0), space.to_grid(level))
        np.testing.assert_array_equal(space.hash(level), space.hash(again))


class TestConfig:
    def save(self, tmp_path, rows, name="given", **changes):
        level_set = SETS["train"]
        levels = take(level_set.levels, np.asarray(rows))
        levels = dataclasses.replace(levels, **changes)
        made = LevelSet.from_levels(Empty(), levels, name=name)
        return CaveConfig(dataset=str(made.save(tmp_path / name)))

    def test_a_dataset_is_loaded_and_evaluated_on(self):
        config = CaveConfig(dataset="train", n_heldout=16)
        assert len(config.training_set()) == 512
        sets = config.eval_sets()
        assert list(sets) == ["train", "heldout", "structures", "lava", "hints"]
        assert {len(s) for s in sets.values()} == {16}
        # Evenly spread: every structure is there.
        families = {label.rsplit("-", 1)[0] for label in sets["heldout"].labels}
        assert families == set(datasets.TRAIN_STRUCTURES)

    def test_validation_never_shows_the_test_sets(self):
        assert list(CaveConfig(eval_split="validation").eval_sets()) == ["validation"]

    def test_repeated_levels_are_refused(self, tmp_path):
        with pytest.raises(UserError, match="holds 1 levels twice"):
            self.save(tmp_path, [0, 1, 1]).training_set()

    def test_unsolvable_levels_are_refused(self, tmp_path):
        cells = np.full((2, 13, 13), Tile.WALL, np.uint8)
        with pytest.raises(
            UserError, match="2 of 2 levels of set given cannot be solv"
        ):
            self.save(tmp_path, [0, 1], cells=cells).training_set()

    def test_held_out_levels_are_refused(self):
        with pytest.raises(UserError, match=r"2048 of 2048 .* are held out"):
            CaveConfig(dataset="test").training_set()

    def test_levels_of_another_size_are_refused(self, tmp_path):
        config = dataclasses.replace(self.save(tmp_path, [0, 1]), height=9, width=9)
        with pytest.raises(UserError, match=r"needs \(9, 9\): set its size"):
            config.training_set()

    def test_unknown_sets_are_refused(self):
        with pytest.raises(UserError, match="There is no level file nothing"):
            CaveConfig(dataset="nothing").training_set()
