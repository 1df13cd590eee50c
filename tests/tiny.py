"""Settings so small that compiling takes longer than running."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen import memory, programs, runner

#: Of students on 5x5 mazes, for a few updates.
TINY_MAZE: dict[str, Any] = {
    "n_steps": 8,
    "n_minibatches": 2,
    "core_size": 8,
    "height": 5,
    "width": 5,
    "max_walls": 5,
    "max_steps": 8,
    "n_heldout": 4,
    "eval_episodes": 1,
    "n_updates": 6,
    "log_every": 2,
}

#: Of meta-learning on 3x3 grids with one object.
TINY_TASKS: dict[str, Any] = {
    "height": 3,
    "width": 3,
    "n_objects": 1,
    "min_size": 3,
    "max_size": 3,
    "n_walls": 1,
    "min_steps": 3,
    "max_steps": 6,
    "n_heldout": 3,
    "n_envs": 4,
    "n_steps": 5,
    "n_agents": 4,
    "min_lifetime": 4,
    "max_lifetime": 6,
    "rule_size": 6,
    "n_predictions": 3,
    "eval_episodes": 2,
}


def without_lpg(settings: dict[str, Any]) -> dict[str, Any]:
    """Less what means something for LPG alone."""
    ours = ("rule_size", "n_predictions")
    return {name: value for name, value in settings.items() if name not in ours}


def as_data(x):
    """A leaf that NumPy understands."""
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if is_key else x


def operations(jaxpr) -> Iterator[str]:
    """Names of all operations of a program, those inside others too."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in memory.jaxprs_of(equation.params):
            yield from operations(inner)


def assert_same_bits(a, b):
    """Two trees of arrays are equal, bit for bit."""
    chex.assert_trees_all_equal_structs(a, b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(as_data(x), as_data(y), strict=True)


@contextlib.contextmanager
def preempted(at_chunk: int = 2) -> Iterator[Any]:
    """What runs in the block is sent SIGTERM as a chunk begins, and must stop by it."""
    chunk, number = programs.Program.chunk, itertools.count(1)

    def chunk_then_signal(self, states, n_updates):
        if next(number) == at_chunk:
            os.kill(os.getpid(), signal.SIGTERM)
        return chunk(self, states, n_updates)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs.Program, "chunk", chunk_then_signal)
        with pytest.raises(runner.Preempted) as stop:
            yield stop
