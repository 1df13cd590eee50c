"""Seconds to compile a `paper` preset: anew, and from the cache."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from rlgen import registry, runner, training
from rlgen.algos.offline.assembly import OfflineAlgorithm
from rlgen.algos.offline.variants import OnlineAlgorithm
from rlgen.bench.measure import Case, Result, peak_memory_mib, rated
from rlgen.programs import Plan, Program

#: Without levels to evaluate on more than these, which are drawn before anything
#: compiles.
_SETTINGS: dict[str, Any] = {"n_heldout": 4}
#: One algorithm of each kind.
_QUICK = ("robust-plr", "lpg")
#: What learns from a dataset: a recording that takes a second to make.
_RECORDING = ("pointmaze", "stitch-umaze")


def preset(name: str, repeats: int) -> Result:
    """Traces and compiles all programs of an algorithm, twice.

    Once anew, and once as another process would that finds them in the cache.
    """
    del repeats  # what is compiled twice is cached
    with _own_cache(), _dataset(name) as settings:
        config = training.make_config(name, "", "paper", _SETTINGS | settings)
        first = _compile_s(config)
        jax.clear_caches()
        second = _compile_s(config)
    return rated({"seconds": first}, 1, "programs") | {
        "compile_s": first,
        "cached_s": second,
        "peak_memory_mib": peak_memory_mib(),
    }


def _compile_s(config: training.TrainConfig) -> float:
    return Program(Plan(config.build(), config.run)).compile_s


@contextlib.contextmanager
def _own_cache() -> Iterator[None]:
    """An empty compile cache, which is removed; the one of before comes back."""
    old = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    with tempfile.TemporaryDirectory() as folder:
        # What jax has opened is not let go of by naming another.
        compilation_cache.reset_cache()
        runner.use_compile_cache(folder)
        try:
            yield
        finally:
            compilation_cache.reset_cache()
            jax.config.update("jax_compilation_cache_dir", old)


@contextlib.contextmanager
def _dataset(name: str) -> Iterator[dict[str, Any]]:
    """The setting that names a small dataset, for algorithms that need one."""
    entry = registry.load(registry.ALGORITHMS, name)
    if not isinstance(entry, OfflineAlgorithm) or isinstance(entry, OnlineAlgorithm):
        yield {}
        return
    from rlgen import collect

    env, recording = _RECORDING
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--recording", recording, "--transitions", "2000"]
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
        Case("compile", name, "", 0, preset, (name,), alone=True)
        for name in (names if full else _QUICK)
    ]
