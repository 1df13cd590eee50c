"""Seconds to compile a preset, anew and from the cache, and its instructions."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from rlgen import registry, runner, training
from rlgen.algos.offline.assembly import OfflineAlgorithm
from rlgen.algos.offline.variants import OnlineAlgorithm
from rlgen.bench.measure import (
    Case,
    Result,
    in_fresh_process,
    peak_memory_mib,
    rated,
)
from rlgen.programs import Plan, Program

#: Without levels to evaluate on more than these, which are drawn before anything
#: compiles.
_SETTINGS: dict[str, Any] = {"n_heldout": 4}
#: As tests train: what is left is what no size makes smaller.
_TINY = _SETTINGS | {
    "n_envs": 4,
    "n_steps": 8,
    "n_epochs": 2,
    "n_minibatches": 2,
    "core_size": 8,
    "buffer_size": 16,
    "height": 5,
    "width": 5,
    "max_walls": 5,
    "max_steps": 8,
    "eval_episodes": 1,
}
#: Algorithms and presets that are always measured: the smallest program, what a new
#: user waits for, and one algorithm of each kind.
_QUICK = (
    ("dr", "tiny"),
    ("accel", "tiny"),
    ("plr", "quick"),
    ("robust-plr", "paper"),
    ("lpg", "paper"),
)
#: What learners from a dataset are given: so many uniform actions in one environment,
#: or, if they need goals, a recording of their own environment.
_N_TRANSITIONS, _PLAYED = 2_000, "inverted_pendulum"
_RECORDINGS = {"pointmaze": "stitch-umaze"}


def preset(name: str, size: str, repeats: int) -> Result:
    """Traces and compiles all programs of an algorithm, twice.

    Once anew, and once as another process would that finds them in the cache.

    Args:
      size: "paper" or "quick", the presets; "tiny" for the smallest maze.
    """
    del repeats  # what is compiled twice is cached
    settings = _TINY if size == "tiny" else _SETTINGS
    with tempfile.TemporaryDirectory() as cache, _dataset(name) as data:
        config = training.make_config(
            name, "", "quick" if size == "tiny" else size, settings | data
        )
        first = in_fresh_process(_compile, config, cache)
        second = in_fresh_process(_compile, config, cache)
    return rated({"seconds": first["compile_s"]}, 1, "programs") | {
        "compile_s": first["compile_s"],
        "cached_s": second["compile_s"],
        "instructions": first["instructions"],
        "peak_memory_mib": first["peak_memory_mib"],
    }


def n_instructions(program: str) -> int:
    """How many instructions the text of an optimised program (HLO) has, fused ones too.

    Those of every computation once, however often a loop runs it.
    """
    return len(re.findall(r"^ +(?:ROOT )?%?[\w.\-]+ = ", program, re.MULTILINE))


def _compile(config: training.TrainConfig, cache: str) -> Result:
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    jax.clear_caches()
    # What jax has opened is not let go of by naming another.
    compilation_cache.reset_cache()
    runner.use_compile_cache(cache)
    try:
        plan = Plan(config.build(), config.run)
        compile_s = Program(plan).compile_s
        # The program that trains, from the cache.
        update = plan.traced["chunk"].lower().compile().as_text()
    finally:
        compilation_cache.reset_cache()
        jax.config.update("jax_compilation_cache_dir", before)
    return {
        "compile_s": compile_s,
        "instructions": n_instructions(update),
        "peak_memory_mib": peak_memory_mib(),
    }


@contextlib.contextmanager
def _dataset(name: str) -> Iterator[dict[str, Any]]:
    """The setting that names a small dataset, for algorithms that need one."""
    entry = registry.load(registry.ALGORITHMS, name)
    if not isinstance(entry, OfflineAlgorithm) or isinstance(entry, OnlineAlgorithm):
        yield {}
        return
    from rlgen import collect

    env, flags = _PLAYED, ["--transitions", str(_N_TRANSITIONS)]
    if recording := _RECORDINGS.get(entry.env):
        env, flags = entry.env, [*flags, "--recording", recording]
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            path = collect.run(env, [*flags, "--out", str(Path(folder) / "datasets")])
        yield {"data": str(path)}


def cases(full: bool) -> list[Case]:
    """The smallest and the quick programs; with `full` every `paper` preset too."""
    pairs = list(_QUICK)
    if full:
        pairs += [
            (name, "paper")
            for name in registry.names(registry.ALGORITHMS)
            if "paper" in registry.load(registry.ALGORITHMS, name).presets
            and (name, "paper") not in pairs
        ]
    return [
        Case("compile", f"{name} {size}", "", 0, preset, (name, size))
        for name, size in pairs
    ]
