"""Seconds to compile a `paper` preset: anew, and from the cache."""

from __future__ import annotations

import contextlib
import io
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
#: One algorithm of each kind.
_QUICK = ("robust-plr", "lpg")
#: What learners from a dataset are given: so many uniform actions in one environment,
#: or, if they need goals, a recording of their own environment.
_N_TRANSITIONS, _PLAYED = 2_000, "inverted_pendulum"
_RECORDINGS = {"pointmaze": "stitch-umaze"}


def preset(name: str, repeats: int) -> Result:
    """Traces and compiles all programs of an algorithm, twice.

    Once anew, and once as another process would that finds them in the cache.
    """
    del repeats  # what is compiled twice is cached
    with tempfile.TemporaryDirectory() as cache, _dataset(name) as settings:
        config = training.make_config(name, "", "paper", _SETTINGS | settings)
        first = in_fresh_process(_compile, config, cache)
        second = in_fresh_process(_compile, config, cache)
    return rated({"seconds": first["compile_s"]}, 1, "programs") | {
        "compile_s": first["compile_s"],
        "cached_s": second["compile_s"],
        "peak_memory_mib": first["peak_memory_mib"],
    }


def _compile(config: training.TrainConfig, cache: str) -> Result:
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    jax.clear_caches()
    # What jax has opened is not let go of by naming another.
    compilation_cache.reset_cache()
    runner.use_compile_cache(cache)
    try:
        compile_s = Program(Plan(config.build(), config.run)).compile_s
    finally:
        compilation_cache.reset_cache()
        jax.config.update("jax_compilation_cache_dir", before)
    return {"compile_s": compile_s, "peak_memory_mib": peak_memory_mib()}


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
    """Every algorithm that has the preset."""
    names = [
        name
        for name in registry.names(registry.ALGORITHMS)
        if "paper" in registry.load(registry.ALGORITHMS, name).presets
    ]
    return [
        Case("compile", name, "", 0, preset, (name,))
        for name in (names if full else _QUICK)
    ]
