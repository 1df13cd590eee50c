"""Levels from files: what is read, and one sentence for what is not."""

from __future__ import annotations

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rlgen import draws, training, trees
from rlgen.envs.cave.config import CaveConfig
from rlgen.envs.maze.config import MazeConfig
from rlgen.envs.pointmaze.config import PointMazeConfig
from rlgen.errors import UserError
from rlgen.interop.starts import Starts
from rlgen.levels import LevelSet, read_text

MAZE = ">....\n.###.\n.#G#.\n.#.#.\n.....\n"
SMALL = MazeConfig(height=5, width=5, max_walls=8, n_heldout=4)


@pytest.mark.parametrize(
    "data",
    [
        MAZE.encode(),
        MAZE.encode("utf-8-sig"),
        MAZE.encode("utf-16"),
        MAZE.encode("utf-16-le").join([b"\xff\xfe", b""]),
        MAZE.replace("\n", "\r\n").encode(),
        MAZE.rstrip().encode(),
        ("\n  " + MAZE.replace("\n", "\n  ")).encode(),
    ],
    ids=["plain", "mark", "utf-16", "utf-16-le", "crlf", "no-end", "indented"],
)
def test_a_text_is_the_same_level_however_it_was_saved(data, tmp_path):
    (tmp_path / "mine.txt").write_bytes(data)
    env, space, level_set = SMALL.read_levels(str(tmp_path / "mine.txt"))
    assert space.to_str(level_set[0]) == MAZE
    assert (env.height, env.width, level_set.labels) == (5, 5, ("mine",))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"....\xe9\n", "is no text in UTF-8: save it as that"),
        (b"", "The level is empty"),
        (b" \n\n", "The level is empty"),
        (b">..\n...\n.#\n", "differ in length"),
        (b">   \n .  \n  G \n", "with '.', not with blanks"),
        (b">  .\n.  .\n.  G\n", "the unknown character ' '"),
        (b">..\n   \n..G\n", "Row 2 of the level is blank"),
        (b">..\n\n..G\n", "Row 2 of the level is blank"),
        (b">\t.\n..G\n", r"the unknown character '\\t'"),
        (b"S..\n..G\n", "the unknown character 'S'"),
    ],
)
def test_texts_that_are_no_levels_get_one_sentence(data, sentence, tmp_path):
    (tmp_path / "mine.txt").write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        SMALL.read_levels(str(tmp_path / "mine.txt"))


def test_what_is_no_file_gets_one_sentence(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(UserError, match="Cannot read"):
            read_text(path)


@pytest.mark.parametrize(
    ("config", "start"),
    [(MazeConfig(), ">"), (PointMazeConfig(), "S"), (CaveConfig(), "S")],
    ids=["maze", "pointmaze", "cave"],
)
@pytest.mark.parametrize("suffix", [".txt", ".npz"])
def test_a_file_says_its_size(config, start, suffix, tmp_path):
    """As named levels of other sizes do: of 5x9, where 13x13 are trained on."""
    start = config.family("empty").START_CHARS[0]
    text = f"{start}........\n....#....\n....#....\n....#...G\n.........\n"
    (tmp_path / "wide.txt").write_text(text)
    env, space, level_set = config.read_levels(str(tmp_path / "wide.txt"))
    path = level_set.save(tmp_path / "wide")
    if suffix == ".npz":
        env, space, level_set = config.read_levels(str(path))
    assert (env.height, env.width) == (5, 9)
    assert space.to_str(level_set[0]) == text
    key = jax.random.key(0)
    shapes = jax.eval_shape(env.reset, key, level_set[0])[1]
    wanted = jax.eval_shape(config.make_env().reset, key, config.make_space().example())
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, wanted[1])


def test_where_whole_grids_are_seen_other_sizes_are_refused(tmp_path):
    (tmp_path / "m.txt").write_text(MAZE)
    config = MazeConfig(view_size="full", levels="empty")
    with pytest.raises(UserError, match="are 5x5, but whole grids of 13x13"):
        config.read_levels(str(tmp_path / "m.txt"))


def with_meta(path, **changes):
    """A level file that says something else of itself."""
    with np.load(path) as file:
        arrays = dict(file)
    meta = json.loads(bytes(arrays["meta"])) | changes
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "name",
    ["../../x", "/x", "a/b", "a\\b", "a\0b", ".", "..", ".x", "", 3, "x" * 300],
)
def test_a_name_of_levels_is_a_name(name, tmp_path):
    """Files were written outside of the run directory."""
    level_set = LevelSet.generate(Starts(), 3, seed=0, split="test")
    path = with_meta(level_set.save(tmp_path / "set"), name=name)
    with pytest.raises(UserError, match="is no name for a level set"):
        LevelSet.load(path, Starts())


def test_a_split_that_does_not_exist_is_refused(tmp_path):
    level_set = LevelSet.generate(Starts(), 3, seed=0, split="test")
    path = with_meta(level_set.save(tmp_path / "set"), split="held-out")
    with pytest.raises(UserError, match="is of split 'held-out', which does not exist"):
        LevelSet.load(path, Starts())


def test_a_run_is_evaluated_on_the_levels_that_it_saved(tmp_path):
    """Another version, or another setting of JAX, would draw others."""
    now = {
        "heldout": LevelSet.generate(SMALL.make_space(), 4, seed=0, split="test"),
        "train": LevelSet.generate(SMALL.make_space(), 4, seed=0, split="train"),
    }
    then = LevelSet.generate(
        SMALL.make_space(), 4, seed=1, split="test", name="heldout"
    )
    run = SimpleNamespace(eval_sets=now)
    config, store = (
        SimpleNamespace(levels_config=SMALL), SimpleNamespace(levels_dir=tmp_path),
    )  # fmt: skip
    assert training._saved_levels(run, config, store) == {}
    for name in now:
        then.save(tmp_path / f"{name}.npz")
    saved = training._saved_levels(run, config, store)
    assert list(saved) == ["heldout"]
    np.testing.assert_array_equal(saved["heldout"].hashes, then.hashes)
    now["heldout"].save(tmp_path / "heldout.npz")
    assert training._saved_levels(run, config, store) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_default_prng_impl", "rbg"),
        ("jax_threefry_partitionable", False),
        ("jax_random_seed_offset", 7),
        ("jax_high_dynamic_range_gumbel", True),
    ],
)
def test_levels_do_not_depend_on_what_jax_is_set_to(name, value):
    wanted = LevelSet.generate(Starts(), 3, seed=0, split="test").hashes
    before = getattr(jax.config, name)
    try:
        jax.config.update(name, value)
        got = LevelSet.generate(Starts(), 3, seed=0, split="test").hashes
        assert getattr(jax.config, name) == before
    finally:
        jax.config.update(name, before)
    np.testing.assert_array_equal(got, wanted)


def test_64_bits_are_refused():
    draws.settle()
    with jax.enable_x64(True), pytest.raises(UserError, match="JAX is set to 64 bits"):
        MazeConfig()


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (np.array([1.0, np.nan]), "holds no finite numbers for w"),
        (np.array([1.0, np.inf]), "holds no finite numbers for w"),
        (np.array(["a", "b"]), "holds no finite numbers for w"),
        (np.zeros(3), "holds (3,) for w"),
        (None, "holds nothing for w"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(weights, sentence, tmp_path):
    tree = {} if weights is None else {"w": weights}
    trees.save(tmp_path / "rule.npz", tree, {})
    arrays, _ = trees.read(tmp_path / "rule.npz", "a rule")
    with pytest.raises(UserError) as refusal:
        trees.fit(arrays, {"w": jax.ShapeDtypeStruct((2,), np.float32)}, "rule.npz")
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("about", ["[]", "3", "null", "{", '"rule"'])
def test_files_that_say_nothing_of_themselves_are_refused(about, tmp_path):
    np.savez(tmp_path / "rule.npz", about=np.array(about))
    with pytest.raises(UserError, match="is not a rule: make one"):
        trees.read(tmp_path / "rule.npz", "a rule: make one")
