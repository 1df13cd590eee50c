"""Level sets, splits by hash, rejection sampling, and files written whole or not."""

import contextlib
import dataclasses
import os
import shutil
import stat
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from tiny import operations

from rlgen.env import take
from rlgen.envs.maze.levels import Empty, UniformWalls
from rlgen.errors import UserError
from rlgen.files import make_folder_atomically, write_atomically
from rlgen.levels import (
    SPLITS,
    LevelFileError,
    LevelSet,
    LevelSpace,
    assert_disjoint,
    hash_text,
    mutate_split,
    resample_until,
    sample_split,
    split_of,
    stack,
)

SPACE = UniformWalls(6, 6, max_walls=14)


def splits_of(levels, space=SPACE):
    return np.asarray(jax.jit(jax.vmap(lambda v: split_of(space.hash(v))))(levels))


class TestSplits:
    def test_a_hash_keeps_its_split_for_ever(self):
        # Level files and papers rely on this table: 1/20, 1/20, the rest.
        words = np.arange(40, dtype=np.uint32)
        for first_word in (0, 7, 2**32 - 1):
            hashes = np.stack([np.full_like(words, first_word), words], axis=-1)
            wanted = [1, 2, *[0] * 18] * 2
            assert split_of(hashes).tolist() == wanted
        # The remainder of an unsigned word, not of a negative number.
        assert int(split_of(np.array([0, 2**32 - 1], np.uint32))) == 0
        assert int(split_of(np.array([0, 2**32 - 16], np.uint32))) == 1
        assert SPLITS == ("train", "validation", "test")
        assert split_of(hashes).dtype == jnp.int32

    def test_random_levels_fall_into_the_splits_by_their_shares(self):
        n = 20_000
        keys = jax.random.split(jax.random.key(0), n)
        levels = jax.jit(jax.vmap(SPACE.sample))(keys)
        share = np.bincount(splits_of(levels), minlength=3) / n
        wanted = np.array([0.9, 0.05, 0.05])
        assert (abs(share - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / n)).all()

    @pytest.mark.parametrize("split", SPLITS[1:])
    def test_samples_and_edits_stay_in_their_split(self, split):
        # The rare splits only: nine draws in ten are of train anyway.
        n = 64

        @jax.jit
        def draw(keys):
            levels = jax.vmap(lambda key: sample_split(SPACE, key, split))(keys)
            edit = jax.vmap(lambda key, v: mutate_split(SPACE, key, v, split))
            children = edit(keys, levels)
            hashes = jax.vmap(jax.vmap(SPACE.hash))
            stacked = jax.tree.map(lambda *x: jnp.stack(x), levels, children)
            return hashes(stacked)

        hashes = np.asarray(draw(jax.random.split(jax.random.key(1), n)))
        assert (np.asarray(split_of(hashes)) == SPLITS.index(split)).all()
        # All levels differ, each child from its parent too.
        assert len(set(map(bytes, hashes.reshape(-1, 2)))) == 2 * n

    def test_rejection_returns_the_first_accepted_draw(self):
        draw = jax.random.uniform
        accepted, is_accepted = jax.jit(
            jax.vmap(lambda key: resample_until(draw, lambda x: x < 0.25, key))
        )(jax.random.split(jax.random.key(2), 2000))
        assert is_accepted.all()
        assert accepted.max() < 0.25
        # Uniform below the bound: neither the smallest nor the last draw.
        assert abs(accepted.mean() - 0.125) < 5 * 0.25 / np.sqrt(12 * 2000)

    def test_a_generator_stands_in_the_program_once(self):
        """Of draws that reject draws too: it is most of a small program."""

        def draw(key):
            return jnp.sort(jax.random.uniform(key, (3,)))

        def draw_again(key):
            return resample_until(draw, lambda x: x[0] > 0.1, key)[0]

        twice = jax.make_jaxpr(
            lambda key: resample_until(draw_again, lambda x: x[2] < 0.9, key)
        )(jax.random.key(0))
        # Counted where they stand: text prints what is repeated once.
        assert list(operations(twice.jaxpr)).count("sort") == 1

    def test_rejection_gives_up_after_so_many_tries(self):
        tries = []

        def draw(key):
            jax.debug.callback(lambda: tries.append(1))
            return jax.random.uniform(key)

        last, accepted = resample_until(
            draw, lambda x: x < 0, jax.random.key(0), max_tries=7
        )
        jax.effects_barrier()
        assert float(last) >= 0 and not accepted
        assert len(tries) == 7


class TestLevelSet:
    @pytest.fixture(scope="class")
    def sets(self):
        return {
            split: LevelSet.generate(SPACE, 40, seed=3, split=split) for split in SPLITS
        }

    @pytest.mark.parametrize("split", SPLITS)
    def test_generated_levels_are_distinct_solvable_and_of_the_split(self, sets, split):
        level_set = sets[split]
        assert len(level_set) == 40
        assert (level_set.name, level_set.split) == (split, split)
        assert len(set(map(bytes, level_set.hashes))) == 40
        assert len(set(level_set.labels)) == 40
        assert jax.vmap(SPACE.valid)(level_set.levels).all()
        assert (splits_of(level_set.levels) == SPLITS.index(split)).all()
        assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(level_set.levels))
        assert level_set.provenance["seed"] == 3

    def test_hashes_belong_to_their_levels(self, sets):
        level_set = sets["test"]
        for i in (0, 39):
            np.testing.assert_array_equal(SPACE.hash(level_set[i]), level_set.hashes[i])

    def test_the_seed_decides(self, sets):
        again = LevelSet.generate(SPACE, 40, seed=3, split="test")
        np.testing.assert_array_equal(again.hashes, sets["test"].hashes)

    def test_unsolvable_levels_are_kept_only_when_asked(self, sets):
        loose = LevelSet.generate(SPACE, 80, seed=4, split="train", solvable=False)
        assert not jax.vmap(SPACE.valid)(loose.levels).all()
        # Another seed, other levels.
        assert_disjoint(loose, sets["train"])

    def test_a_small_family_gives_each_level_once(self):
        # 2 x 3 cells hold 6 * 5 * 4 empty levels, so draws repeat themselves.
        level_set = LevelSet.generate(Empty(2, 3), 80, seed=0, split="train")
        assert len(level_set) == len(set(map(bytes, level_set.hashes))) == 80

    def test_a_family_too_small_is_told(self):
        # 2 x 2 cells hold 4 * 3 * 4 empty levels, over all splits.
        with pytest.raises(UserError, match="of 49 distinct solvable levels") as error:
            LevelSet.generate(Empty(2, 2), 49, seed=0, split="train")
        assert str(error.value).endswith(".") and "\n" not in str(error.value)

    def test_the_splits_are_disjoint(self, sets):
        assert_disjoint(*sets.values())

    def test_an_overlap_is_told(self, sets):
        held_out = take(sets["test"].levels, slice(0, 3))
        both = jax.tree.map(
            lambda a, b: np.concatenate([a, b]), sets["train"].levels, held_out
        )
        leaky = LevelSet.from_levels(SPACE, both, name="leaky")
        with pytest.raises(UserError, match="test and leaky share 3 levels"):
            assert_disjoint(sets["validation"], sets["test"], leaky)

    def test_hashes_as_text(self):
        text = hash_text(np.array([10, 2**32 - 1], np.uint32))
        assert text == "0000000affffffff"


class TestWriteAtomically:
    def test_a_file_takes_its_place(self, tmp_path):
        path = tmp_path / "new" / "folder" / "file"
        for content in (b"first", b"second"):
            with write_atomically(path) as file:
                file.write(content)
            assert path.read_bytes() == content
        assert os.listdir(path.parent) == ["file"]

    def test_nothing_is_seen_before_the_end(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("old")
        with write_atomically(path, "w") as file:
            file.write("new")
            file.flush()
            assert path.read_text() == "old"
        assert path.read_text() == "new"

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    @pytest.mark.parametrize("existed", [True, False])
    def test_a_failing_writer_leaves_all_as_it_was(self, tmp_path, error, existed):
        path = tmp_path / "file"
        if existed:
            path.write_text("old")
        with pytest.raises(error), write_atomically(path) as file:
            file.write(b"half of the")
            raise error
        assert os.listdir(tmp_path) == (["file"] if existed else [])
        assert not existed or path.read_text() == "old"

    def test_a_failing_save_keeps_the_old_level_set(self, tmp_path, monkeypatch):
        space = Empty(2, 3)
        levels = stack([space.example()])
        level_set = LevelSet.from_levels(space, levels, name="one")
        path = level_set.save(tmp_path / "set.npz")
        before = path.read_bytes()

        def full(file, **arrays):
            file.write(b"PK")
            raise OSError("No space left on device")

        monkeypatch.setattr(np, "savez_compressed", full)
        with pytest.raises(OSError, match="No space"):
            level_set.save(path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["set.npz"]

    def test_what_a_killed_write_left_is_taken_over(self, tmp_path):
        """Copied while it is written: so a killed process leaves it."""
        path, left = tmp_path / "file", tmp_path / "left"
        with write_atomically(path) as file:
            file.write(b"half of what is long")
            file.flush()
            shutil.copytree(tmp_path, left, ignore=lambda *_: ["left"])
        assert len(os.listdir(left)) == 1 and not (left / "file").exists()
        with write_atomically(left / "file") as file:
            file.write(b"whole")
        assert os.listdir(left) == ["file"]
        assert (left / "file").read_bytes() == b"whole"

    def test_a_folder_takes_its_place_and_what_a_killed_process_left(self, tmp_path):
        path = tmp_path / "folder"
        left = tmp_path / ".folder.part"
        (left / "inner").mkdir(parents=True)
        for name in ("file", "inner/file"):
            (left / name).write_text("half")
        with pytest.raises(KeyError), make_folder_atomically(path) as place:
            assert place == left and not os.listdir(place)
            (place / "other").write_text("half")
            raise KeyError
        assert not os.listdir(tmp_path)
        with make_folder_atomically(path) as place:
            (place / "whole").write_text("")
        assert os.listdir(tmp_path) == ["folder"] and os.listdir(path) == ["whole"]

    @pytest.mark.parametrize("fails", [False, True])
    def test_two_that_write_at_once_take_turns(self, tmp_path, fails):
        path, begun = tmp_path / "file", threading.Event()

        def second():
            begun.set()
            with write_atomically(path, "w") as file:
                file.write("second")

        other = threading.Thread(target=second)
        with (
            contextlib.suppress(InterruptedError),
            write_atomically(path, "w") as file,
        ):
            file.write("the first one")
            other.start()
            assert begun.wait(10)
            other.join(0.1)  # it waits; if it had not begun to, nothing is different
            assert other.is_alive()
            if fails:
                raise InterruptedError
        other.join(10)
        assert path.read_text() == "second" and os.listdir(tmp_path) == ["file"]

    def test_files_are_as_readable_as_others(self, tmp_path):
        ordinary, ours = tmp_path / "ordinary", tmp_path / "ours"
        ordinary.write_text("")
        with write_atomically(ours, "w"):
            pass
        assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(
            ordinary.stat().st_mode
        )


class Pair(struct.PyTreeNode):
    """A level of two leaves."""

    count: jax.Array  # () int32
    place: jax.Array  # (2,) float32


@dataclasses.dataclass(frozen=True)
class Pairs(LevelSpace[Pair]):
    """A family that says nothing but how its levels are drawn."""

    def sample(self, key):
        return Pair(
            jax.random.randint(key, (), 0, 9, jnp.int32), jax.random.normal(key, (2,))
        )


class TestAFamilyThatOnlySamples:
    space = Pairs()

    def test_its_levels_are_told_apart_and_split_by_their_hash(self):
        level_set = LevelSet.generate(self.space, 20, seed=0, split="validation")
        assert len({h.tobytes() for h in level_set.hashes}) == 20
        assert set(np.asarray(split_of(level_set.hashes))) == {1}
        level = level_set[0]
        other = level.replace(place=level.place + np.float32([0, 1e-6]))
        assert np.any(self.space.hash(level) != self.space.hash(other))
        assert bool(self.space.valid(level))
        assert self.space.features(level) == {}

    def test_its_example_is_of_the_host_wherever_it_is_asked_for(self):
        inside = []
        jax.eval_shape(lambda: inside.append(self.space.example()))
        chex.assert_trees_all_equal(inside[0], self.space.example())
        assert all(type(x) is np.ndarray for x in jax.tree.leaves(inside[0]))

    def test_text_round_trips_to_the_same_bits(self):
        level_set = LevelSet.generate(self.space, 5, seed=0, split="train")
        for i in range(5):
            again = self.space.from_str(self.space.to_str(level_set[i]))
            chex.assert_trees_all_equal(again, level_set[i])
            assert again.place.dtype == np.float32

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            '{"count": 1}',
            '{"count": 1.5, "place": [0, 0]}',
            '{"count": 1, "place": [0]}',
            '{"count": 1, "place": [0, "x"]}',
            '{"count": 1, "place": [0, 0], "more": 2}',
        ],
    )
    def test_what_is_no_level_is_refused_with_an_example(self, text):
        with pytest.raises(LevelFileError, match=r"no level of Pairs .*place"):
            self.space.from_str(text)

    def test_it_has_no_edits(self):
        with pytest.raises(UserError, match="Pairs has no edits"):
            self.space.mutate(jax.random.key(0), self.space.example())
