"""Levels are data: families that sample them, sets that hold them, splits that keep.

A `LevelSpace` samples, checks, describes, edits, hashes and prints the levels of one
family, all jittable with fixed shapes. A `LevelSet` is a stacked batch of levels
with hashes, split and provenance that travels through `.npz` files.

Splits are by hash: a level belongs to train, validation or test for ever, whoever
samples it, so held-out levels stay unseen however long a generator runs.
"""

from __future__ import annotations

import abc
import codecs
import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen import draws
from rlgen.env import take
from rlgen.errors import UserError
from rlgen.files import check_name, write_atomically

LevelT = TypeVar("LevelT")
PyTree = Any

# Twentieths of the hash space: 1/20 validation, 1/20 test, the rest train.
SPLITS = ("train", "validation", "test")
_N_BUCKETS = 20
_BUCKETS = {"validation": 0, "test": 1}

# A share 1/20 to 19/20 of samples falls into a split, so this many tries miss it
# with a probability below 1e-20.
_MAX_TRIES = 1000

# `LevelSet.generate` draws so many levels at a time, and gives up after so many
# batches without a new one.
_BATCH = 1024
_VALID_BATCH = 64
_MAX_FRUITLESS = 64


class Grid(struct.PyTreeNode):
    """A grid level as generative models see it, whatever its family."""

    kinds: jax.Array  # (H, W) uint8, index into the space's kinds of cells
    goal: jax.Array  # (2,) int32, row and column
    start: jax.Array  # (2,) int32, row and column

    @property
    def is_goal(self) -> jax.Array:
        """The goal's cell. bool[H, W]."""
        return mark(self.kinds.shape, self.goal)

    @property
    def is_start(self) -> jax.Array:
        """The start's cell. bool[H, W]."""
        return mark(self.kinds.shape, self.start)


def mark(shape: tuple[int, ...], position: jax.Array) -> jax.Array:
    """The one cell at `position` int32[2] of a grid of this shape. bool[H, W]."""
    rows = jnp.arange(shape[0])[:, None] == position[0]
    cols = jnp.arange(shape[1])[None, :] == position[1]
    return rows & cols


def hash_leaves(level: PyTree) -> jax.Array:
    """64 bits of all leaves of a level, for families without a hash of their own.

    Every 32-bit word is mixed with a constant of its place and summed (the finaliser of
    MurmurHash3), so that what differs anywhere hashes differently. uint32[2].
    """
    words = []
    for leaf in jax.tree.leaves(level):
        leaf = jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            # 0.0 and -0.0 are one level.
            leaf = jax.lax.bitcast_convert_type(
                leaf.astype(jnp.float32) + 0.0, jnp.uint32
            )
        words.append(leaf.astype(jnp.uint32).reshape(-1))
    word = jnp.concatenate(words)
    salts = np.random.default_rng(0x5EED).integers(
        2**32, size=(2, len(word)), dtype=np.uint32
    )
    x = word ^ jnp.asarray(salts)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return jnp.sum(x, axis=1, dtype=jnp.uint32)


class LevelFileError(UserError):
    """A level file that cannot be used; the message says what to do."""


class LevelSpace(abc.ABC, Generic[LevelT]):
    """A family of levels. Implementations are frozen dataclasses, all jittable.

    Only `sample` has to be written; what else there is has a default that holds for
    any pytree of arrays.
    """

    @abc.abstractmethod
    def sample(self, key: jax.Array) -> LevelT:
        """Generates one level."""

    def valid(self, level: LevelT) -> jax.Array:
        """Whether the level can be solved: always, unless told. () bool."""
        del level
        return jnp.bool_(True)

    def features(self, level: LevelT) -> dict[str, jax.Array]:
        """Scalars that describe a level, for logs: none unless told. float32[] each."""
        del level
        return {}

    def mutate(self, key: jax.Array, level: LevelT) -> LevelT:
        """Edits a level; the result differs from it.

        Raises:
          UserError: the family has no edits.
        """
        del key, level
        raise UserError(
            f"{type(self).__name__} has no edits of levels: choose edit_prob 0 or an "
            "algorithm that does not edit."
        )

    def hash(self, level: LevelT) -> jax.Array:
        """64 bits that identify the level, by default of all its leaves: uint32[2]."""
        return hash_leaves(level)

    def to_str(self, level: LevelT) -> str:
        """The level as text that `from_str` reads back: by default a line of JSON."""
        leaves = jax.tree_util.tree_leaves_with_path(level)
        return json.dumps({leaf_name(at): np.asarray(x).tolist() for at, x in leaves})

    def from_str(self, text: str) -> LevelT:
        """Reads a level from text; raises `LevelFileError` on what it cannot read."""
        names = []

        def read(at, leaf):
            names.append(leaf_name(at))
            given = np.asarray(values[names[-1]])
            array = given.astype(leaf.dtype)
            is_whole = not np.issubdtype(leaf.dtype, np.floating)
            if array.shape != leaf.shape or (is_whole and np.any(array != given)):
                raise ValueError(f"{names[-1]} is {values[names[-1]]!r}")
            return array

        try:
            values = dict(json.loads(text))
            level = jax.tree_util.tree_map_with_path(read, self.example())
            if unknown := values.keys() - set(names):
                raise ValueError(f"there is no {min(unknown)}")
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise LevelFileError(
                f"This is no level of {type(self).__name__} ({error}): write it as "
                f"{self.to_str(self.example())}."
            ) from None
        return level

    def example(self) -> LevelT:
        """Any level of the right shapes (host arrays), for templates and checks."""
        # Asked for while programs are traced, too.
        with jax.ensure_compile_time_eval():
            level = jax.jit(self.sample)(jax.random.key(0))
            return jax.tree.map(np.asarray, level)


@jax.jit
def split_of(level_hash: jax.typing.ArrayLike) -> jax.Array:
    """Index into `SPLITS` of hashes uint32[..., 2]. int32[...]."""
    bucket = jnp.asarray(level_hash)[..., 1] % _N_BUCKETS
    return jnp.where(
        bucket == _BUCKETS["validation"], 1, jnp.where(bucket == _BUCKETS["test"], 2, 0)
    ).astype(jnp.int32)


def resample_until(
    draw: Callable[[jax.Array], LevelT],
    accept: Callable[[LevelT], jax.Array],
    key: jax.Array,
    max_tries: int = _MAX_TRIES,
) -> tuple[LevelT, jax.Array]:
    """Rejection sampling under jit: the first draw that `accept` takes.

    Returns:
      the draw and whether it was accepted, () bool; after `max_tries` the last draw is
      returned as it is.
    """
    # Traced once, for its shapes and for the loop. The first draw is made in the loop
    # too: a program that draws before it holds the whole generator twice, and four
    # times where draws reject draws.
    draw = jax.jit(draw, inline=True)

    def attempt(carry):
        key, _, _, tries = carry
        key, key_draw = jax.random.split(key)
        level = draw(key_draw)
        return key, level, accept(level), tries + 1

    def goes_on(carry):
        _, _, accepted, tries = carry
        return ~accepted & (tries < max_tries)

    nothing = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(draw, key)
    )
    begin = (key, nothing, jnp.bool_(False), jnp.int32(0))
    _, level, accepted, _ = jax.lax.while_loop(goes_on, attempt, begin)
    return level, accepted


def sample_split(space: LevelSpace[LevelT], key: jax.Array, split: str) -> LevelT:
    """Samples one level of a split; training uses `split="train"` alone."""
    wanted = SPLITS.index(split)
    return resample_until(
        space.sample, lambda level: split_of(space.hash(level)) == wanted, key
    )[0]


def mutate_split(
    space: LevelSpace[LevelT], key: jax.Array, level: LevelT, split: str
) -> LevelT:
    """Edits one level such that the result is of a split too."""
    wanted = SPLITS.index(split)
    return resample_until(
        lambda key: space.mutate(key, level),
        lambda child: split_of(space.hash(child)) == wanted,
        key,
    )[0]


def stack(levels: list[LevelT]) -> LevelT:
    """Stacks levels of one shape along a new leading axis L."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *levels)


def leaf_name(path: Any) -> str:
    """The name of a pytree's leaf in a file, from its key path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def hash_text(level_hash: np.ndarray) -> str:
    """A hash uint32[2] as 16 hexadecimal digits."""
    return f"{int(level_hash[0]):08x}{int(level_hash[1]):08x}"


def _batched(space: LevelSpace, method: str) -> Callable[[PyTree], Any]:
    """A method of a space over a leading axis, compiled once for equal spaces."""
    try:
        return _batched_once(space, method)
    except TypeError:  # a space of another project that holds arrays has no hash
        return jax.jit(jax.vmap(getattr(space, method)))


@functools.lru_cache(maxsize=32)
def _batched_once(space: LevelSpace, method: str) -> Callable[[PyTree], Any]:
    return jax.jit(jax.vmap(getattr(space, method)))


@jax.jit
def _batch_keys(base: jax.Array, number: jax.typing.ArrayLike) -> jax.Array:
    return jax.random.split(jax.random.fold_in(base, number), _BATCH)


@dataclasses.dataclass(frozen=True)
class LevelSet(Generic[LevelT]):
    """Levels stacked on a leading axis L, with who they are and where they are from.

    Attributes:
      name: how tables call the set.
      split: one of `SPLITS`, "named", or "mixed".
      levels: pytree of host arrays [L, ...].
      hashes: uint32[L, 2].
      labels: one short name per level.
      provenance: how the set was made (family, seed, version, ...), plain data.
    """

    name: str
    split: str
    levels: LevelT
    hashes: np.ndarray
    labels: tuple[str, ...]
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        # It becomes the name of files, wherever it was read from.
        check_name(self.name, "level set")
        if self.split not in (*SPLITS, "named", "mixed"):
            raise LevelFileError(
                f"Level set {self.name} is of split {self.split!r}, which does not "
                f"exist: make it again as one of {', '.join(SPLITS)}, named or mixed."
            )

    def __len__(self) -> int:
        return len(self.hashes)

    def __getitem__(self, index: int) -> LevelT:
        return take(self.levels, index)

    @classmethod
    def from_levels(
        cls,
        space: LevelSpace[LevelT],
        levels: LevelT,
        *,
        name: str,
        split: str = "mixed",
        labels: tuple[str, ...] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> LevelSet[LevelT]:
        """Wraps stacked levels; their hashes are computed here."""
        levels = jax.tree.map(np.asarray, levels)
        hashes = np.asarray(_batched(space, "hash")(levels))
        labels = labels or tuple(f"{name}-{i}" for i in range(len(hashes)))
        return cls(name, split, levels, hashes, labels, dict(provenance or {}))

    @classmethod
    def generate(
        cls,
        space: LevelSpace[LevelT],
        n: int,
        *,
        seed: int,
        split: str,
        name: str | None = None,
        solvable: bool = True,
        on_progress: Callable[[int], None] | None = None,
    ) -> LevelSet[LevelT]:
        """Samples `n` distinct levels of a split, solvable ones unless told.

        Unsolvable levels are dropped here, so `space` need not (and for speed should
        not) reject them too.

        Args:
          on_progress: called with the number of levels found so far.

        Raises:
          UserError: the family is too small to hold `n` distinct levels.
        """
        draws.settle()
        # Small batches: under vmap a rejection loop lasts as long as its unluckiest
        # level. Levels of other splits are dropped by their hash, before the costly
        # check of whether they can be solved.
        draw, is_valid = _batched(space, "sample"), _batched(space, "valid")
        hash_of = _batched(space, "hash")
        base = jax.random.key(seed)
        wanted = SPLITS.index(split)
        seen: set[bytes] = set()
        kept: list[LevelT] = []
        fruitless = 0
        n_batches = 0
        while len(seen) < n and fruitless < _MAX_FRUITLESS:
            batch = draw(_batch_keys(base, n_batches))
            hashes = np.asarray(hash_of(batch))
            # Picked on the host: every number of levels would be a program of its own.
            batch = jax.device_get(batch)
            rows = np.flatnonzero(np.asarray(split_of(hashes)) == wanted)
            if solvable and len(rows):
                # Padded to a multiple, so that few shapes are ever compiled.
                padded = np.resize(rows, -(-len(rows) // _VALID_BATCH) * _VALID_BATCH)
                valid = np.asarray(is_valid(take(batch, padded)))[: len(rows)]
                rows = rows[valid]
            fresh = []
            for row in rows:
                if len(seen) < n and hashes[row].tobytes() not in seen:
                    seen.add(hashes[row].tobytes())
                    fresh.append(row)
            if fresh:
                kept.append(take(batch, np.asarray(fresh)))
            fruitless = 0 if fresh else fruitless + 1
            n_batches += 1
            if on_progress is not None:
                on_progress(len(seen))
        if len(seen) < n:
            raise UserError(
                f"Only {len(seen)} of {n} distinct "
                f"{'solvable ' if solvable else ''}levels of split {split} were found "
                f"in {space}: ask for fewer or choose another family."
            )
        levels = jax.tree.map(lambda *leaves: np.concatenate(leaves), *kept)
        return cls.from_levels(
            space,
            levels,
            name=name or split,
            split=split,
            provenance={"space": repr(space), "seed": seed, "solvable": solvable},
        )

    def thin(self, n: int) -> LevelSet[LevelT]:
        """At most `n` of the levels, evenly spread over the set."""
        if n >= len(self):
            return self
        rows = np.linspace(0, len(self) - 1, n).round().astype(int)
        return dataclasses.replace(
            self,
            levels=take(self.levels, rows),
            hashes=self.hashes[rows],
            labels=tuple(self.labels[row] for row in rows),
        )

    def save(self, path: str | Path) -> Path:
        """Writes the set as `.npz`, whole or not at all; returns the path."""
        path = Path(path)
        if path.suffix != ".npz":
            # Added, not swapped: `seed.1` and `seed.2` are two files.
            path = path.with_name(f"{path.name}.npz")
        leaves = {
            f"level/{leaf_name(at)}": leaf
            for at, leaf in jax.tree_util.tree_leaves_with_path(self.levels)
        }
        meta = {
            "name": self.name,
            "split": self.split,
            "labels": list(self.labels),
            "provenance": dict(self.provenance),
        }
        with write_atomically(path) as file:
            np.savez_compressed(
                file,
                hashes=self.hashes,
                meta=np.frombuffer(json.dumps(meta).encode(), np.uint8),
                **leaves,
            )
        return path

    def is_in(self, path: str | Path) -> bool:
        """Whether a file that `save` wrote holds these levels, in this order."""
        # What is wrong with a file is said when it is loaded.
        with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as file:
            return np.array_equal(file["hashes"], self.hashes)
        return False

    @classmethod
    def load(cls, path: str | Path, space: LevelSpace[LevelT]) -> LevelSet[LevelT]:
        """Reads a set written by `save`, as data: nothing is unpickled.

        A text file (.txt) holds one level, as `LevelSpace.to_str` draws it.

        Raises:
          LevelFileError: not a level file, levels of another shape, or hashes that
            do not belong to the levels.
        """
        path = Path(path)
        if path.suffix == ".txt":
            return cls.from_levels(
                space,
                stack([space.from_str(read_text(path))]),
                name=path.stem,
                labels=(path.stem,),
                provenance={"source": str(path)},
            )
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            meta = json.loads(bytes(arrays["meta"]))
            hashes = arrays["hashes"]
            labels = tuple(str(label) for label in meta["labels"])
            about = {k: meta[k] for k in ("name", "split", "provenance")}
            if len(labels) != len(hashes):
                raise KeyError("labels")
            if not isinstance(about["provenance"], dict):
                raise KeyError("provenance")
        except FileNotFoundError:
            raise LevelFileError(f"There is no level file {path}.") from None
        except Exception as error:
            raise LevelFileError(
                f"{path} is not a level file of rlgen ({error}): make one with "
                "`rlgen levels ENV --save FILE`."
            ) from error
        template = space.example()

        def read(at, leaf):
            name = f"level/{leaf_name(at)}"
            if name not in arrays:
                raise LevelFileError(
                    f"{path} has no field {name}: it holds levels of another family."
                )
            array = arrays[name]
            if array.shape[1:] != np.shape(leaf) or len(array) != len(hashes):
                raise LevelFileError(
                    f"{path} holds levels with {name} of shape {array.shape[1:]}, but "
                    f"this environment needs {np.shape(leaf)}: set its size to match "
                    "the file or choose another file."
                )
            return array.astype(np.asarray(leaf).dtype)

        levels = jax.tree_util.tree_map_with_path(read, template)
        level_set = cls.from_levels(
            space,
            levels,
            labels=labels,
            **about,
        )
        if not np.array_equal(level_set.hashes, hashes):
            raise LevelFileError(
                f"The hashes in {path} do not belong to its levels: the file was "
                "damaged or edited, make it again."
            )
        return level_set


def read_text(path: str | Path) -> str:
    """The text of a file, without the mark that editors put before it.

    Raises:
      LevelFileError: there is no such file, or it is no text.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise LevelFileError(f"Cannot read {path}: {error.strerror}.") from None
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise LevelFileError(f"{path} is no text in UTF-8: save it as that.") from None


def check_dataset(level_set: LevelSet, space: LevelSpace) -> None:
    """Checks that a set can be trained on: distinct, solvable, not held out.

    Raises:
      UserError: it cannot; says how many levels are to blame.
    """
    n = len(level_set)
    repeated = n - len({h.tobytes() for h in level_set.hashes})
    if repeated:
        raise UserError(
            f"Level set {level_set.name} holds {repeated} levels twice: drop the "
            "repeated ones."
        )
    unsolvable = n - int(np.sum(jax.jit(jax.vmap(space.valid))(level_set.levels)))
    if unsolvable:
        raise UserError(
            f"{unsolvable} of {n} levels of set {level_set.name} cannot be solved: "
            "drop them."
        )
    held_out = int(np.sum(np.asarray(split_of(jnp.asarray(level_set.hashes))) != 0))
    if held_out:
        raise UserError(
            f"{held_out} of {n} levels of set {level_set.name} are held out by their "
            "hash (validation or test): train on a set of split train."
        )


def assert_disjoint(*level_sets: LevelSet) -> None:
    """Checks that no level stands in two sets.

    Raises:
      UserError: names the two sets and how many levels they share.
    """
    for i, a in enumerate(level_sets):
        for b in level_sets[i + 1 :]:
            shared = {h.tobytes() for h in a.hashes} & {h.tobytes() for h in b.hashes}
            if shared:
                raise UserError(
                    f"Level sets {a.name} and {b.name} share {len(shared)} levels: "
                    "held-out levels must not be trained on."
                )
