"""Pytrees of arrays as one small file each: data, never unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlgen.errors import UserError
from rlgen.files import write_atomically
from rlgen.levels import leaf_name

PyTree = Any
_ABOUT = "about"


def save(path: str | Path, tree: PyTree, about: Mapping[str, Any]) -> None:
    """Writes a pytree as one `.npz`, whole or not at all.

    Args:
      about: what it is and where it is from, as JSON.
    """
    leaves: dict[str, Any] = {
        f"leaf/{leaf_name(at)}": np.asarray(leaf)
        for at, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    with write_atomically(path) as file:
        leaves[_ABOUT] = np.array(json.dumps(dict(about)))
        np.savez_compressed(file, **leaves)


def read(path: str | Path, what: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file by their names, and what was said about them.

    Args:
      what: what it should be and how to get one, for the message: "a rule: make one
        with ...".

    Raises:
      UserError: no such file, or not one that `save` wrote.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file[_ABOUT]))
            if not isinstance(about, dict):
                raise TypeError(f"{about!r} says nothing of it")
            arrays = {
                name.removeprefix("leaf/"): file[name]
                for name in file.files
                if name != _ABOUT
            }
    except Exception as error:
        raise UserError(f"{path} ({error}) is not {what}.") from error
    return arrays, about


def fit(arrays: Mapping[str, np.ndarray], shapes: PyTree, path: str | Path) -> PyTree:
    """The arrays in the structure of `shapes`.

    Raises:
      UserError: one is missing, or of another shape.
    """

    def take(at, shape):
        name = leaf_name(at)
        if name not in arrays or arrays[name].shape != shape.shape:
            found = arrays[name].shape if name in arrays else "nothing"
            raise UserError(
                f"{path} holds {found} for {name}, but these settings need "
                f"{shape.shape}: use the size and settings that it was trained with."
            )
        if arrays[name].dtype.kind not in "biuf" or not np.isfinite(arrays[name]).all():
            raise UserError(
                f"{path} holds no finite numbers for {name}: it was damaged, or its "
                "training diverged."
            )
        return arrays[name].astype(shape.dtype)

    return jax.tree_util.tree_map_with_path(take, shapes)
