"""Settings of all tests: compile little, on the CPU, and nothing twice on a machine."""

from __future__ import annotations

import gc
import os
import resource
from pathlib import Path

import psutil
import pytest

# Before jax looks: tests compile much and run little. Without the newer emitters of
# fusions XLA takes a third of the time; users' programs have them.
_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false"
)
_given = os.environ.get("XLA_FLAGS", "")
if _FLAGS not in _given:  # workers are given what their parent has, and so said once
    os.environ["XLA_FLAGS"] = f"{_given} {_FLAGS}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["WANDB_MODE"] = "offline"

# A user's cache of compiled programs is none of the tests' business: theirs is beside
# it, for all workers and processes that they start.
os.environ["RLGEN_COMPILE_CACHE"] = "off"
_CACHE = os.environ.get(
    "RLGEN_TEST_CACHE",
    str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "rlgen" / "tests"),
)
if _CACHE != "off":
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(_CACHE).expanduser())
    # The smallest too: tests run thousands of them, and loading one takes a third of
    # the time of compiling it. JAX's own bound would look at all files at each write.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# How large the cache may be when tests begin.
_CACHE_BYTES = 2 * 1024**3

# One worker has all tests of a file, so those that take minutes begin first, and short
# ones fill what is left at the end.
_LONGEST = (
    "test_docs.py",
    "test_workers.py",
    "test_processes.py",
    "test_mesh.py",
    "test_cluster.py",
    "test_runner.py",
    "test_model_selection.py",
    "test_brax_env.py",
    "test_perturbations.py",
    "test_notebooks.py",
)

# Tracing makes many objects that stay: to search all of them for garbage as often as
# Python does is a seventh of the time. They are searched when programs are forgotten.
gc.set_threshold(100_000, 50, 1_000)

# What a worker may hold before it forgets what it has compiled: between two files,
# whose programs hardly ever meet again, and between two tests.
_KEPT_BETWEEN_FILES, _KEPT_BETWEEN_TESTS = 1.25 * 1024**3, 1.45 * 1024**3


def pytest_configure(config: pytest.Config) -> None:
    """Bounds the cache, once for all workers: what was written first goes first."""
    if _CACHE == "off" or hasattr(config, "workerinput"):
        return
    written = {path: path.stat() for path in Path(_CACHE).expanduser().glob("*")}
    size = sum(stat.st_size for stat in written.values())
    for path in sorted(written, key=lambda path: written[path].st_mtime):
        if size <= _CACHE_BYTES:
            break
        path.unlink(missing_ok=True)
        size -= written[path].st_size


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first, all else in the order of files."""
    place = {name: i for i, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None):
    """Compiled programs go where they are many.

    They would stay to the end, 5 GiB a worker, and Python would search all that belongs
    to them for garbage, again and again.
    """
    result = yield
    goes_on = nextitem is not None and nextitem.path == item.path
    kept = _KEPT_BETWEEN_TESTS if goes_on else _KEPT_BETWEEN_FILES
    if psutil.Process().memory_info().rss > kept:
        _forget_programs()
    return result


def _forget_programs() -> None:
    import chex
    import jax

    from rlgen.programs import return_freed_memory

    jax.clear_caches()
    chex.clear_trace_counter()  # what is used again is traced again
    return_freed_memory()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells what it held at most."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["peak_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    """The controller collects what workers tell."""
    _PEAKS[node.gateway.id] = getattr(node, "workeroutput", {}).get("peak_kib", 0)


_PEAKS: dict[str, int] = {}


def pytest_terminal_summary(terminalreporter) -> None:
    """Memory of the workers, beside the slowest tests."""
    for worker, peak_kib in sorted(_PEAKS.items()):
        terminalreporter.write_line(
            f"{worker} held {peak_kib / 1024**2:.2f} GiB at most"
        )
