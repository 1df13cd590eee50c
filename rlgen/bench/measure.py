"""How anything is measured here: warm, several times, beside the limit it stands under.

The limit of a program is the larger of two times: what its matrix products take at the
machine's rate of products, and what reading its arguments and writing its results takes
at the machine's rate of memory. Nothing that computes the same can be faster.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import numpy as np

from rlgen import memory
from rlgen.programs import return_freed_memory

PyTree = Any
Result = dict[str, Any]

#: A measurement lasts at least so long, by calling several times where a call is short.
_AT_LEAST_S = 0.02


@dataclasses.dataclass(frozen=True)
class Case:
    """One point of one curve.

    Attributes:
      part: of the suite.
      name: of the curve.
      axis: what is varied; empty for a single number.
      size: along the axis.
      measure: a function of a module, called with `args` and the repetitions.
      alone: in a process of its own, so that peak memory is its own.
    """

    part: str
    name: str
    axis: str
    size: int
    measure: Callable[..., Result]
    args: tuple[Any, ...] = ()
    alone: bool = False

    def run(self, repeats: int) -> Result:
        """Measures it.

        Raises:
          TooLarge: it would need more memory than there is.
        """
        call = in_fresh_process if self.alone else _here
        return call(self.measure, *self.args, repeats)


def _here(function: Callable[..., Any], *args: Any) -> Any:
    return_freed_memory()
    return function(*args)


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function in a new process, so that peak memory is its own.

    Here if there is an accelerator: its memory belongs to this process already.
    """
    if jax.default_backend() != "cpu":
        return _here(function, *args)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


def timed(call: Callable[[], Any], repeats: int) -> Result:
    """Seconds of a warm call, device work included: median, smallest and largest."""
    jax.block_until_ready(call())
    begin = time.perf_counter()
    jax.block_until_ready(call())
    n_calls = max(1, math.ceil(_AT_LEAST_S / (time.perf_counter() - begin)))
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        out = [call() for _ in range(n_calls)][-1]
        jax.block_until_ready(out)
        times.append((time.perf_counter() - begin) / n_calls)
    return {
        "seconds": statistics.median(times),
        "seconds_min": min(times),
        "seconds_max": max(times),
    }


def program(
    function: Callable,
    *args: PyTree,
    items: float,
    unit: str,
    repeats: int,
    carries: bool = False,
) -> Result:
    """Compiles a function and times it.

    Args:
      items: what one call makes, in `unit`.
      carries: its result takes the place of its first argument, as in training: that
        one is donated.

    Raises:
      TooLarge: it would need more memory than there is.
    """
    traced, compiled, compile_s = compile_timed(function, *args, donates=carries)
    if carries:
        carry = [jax.tree.map(lambda x: x.copy(), args[0])]

        def call():
            carry[0] = compiled(carry[0], *args[1:])
            return carry[0]
    else:

        def call():
            return compiled(*args)

    timing = timed(call, repeats)
    moved = memory.tree_bytes(args) + memory.tree_bytes(traced.out_info)
    return rated(timing, items, unit) | {
        "compile_s": compile_s,
        "gflop": products_gflop(traced.jaxpr.jaxpr),
        "moved_bytes": moved,
    }


def rated(timing: Result, items: float, unit: str) -> Result:
    """Seconds of a call with what it makes, and how much of that a second."""
    per_s = items / timing["seconds"]
    return timing | {"items": items, "unit": unit, "per_s": per_s}


def compile_timed(
    function: Callable, *args: PyTree, donates: bool = False
) -> tuple[Any, Callable, float]:
    """The traced program, the compiled one, and the seconds that both took.

    Args:
      donates: its first argument.

    Raises:
      TooLarge: it would need more memory than there is.
    """
    begin = time.perf_counter()
    traced = jax.jit(function, donate_argnums=(0,) if donates else ()).trace(*args)
    check(
        memory.Estimate(
            states=memory.tree_bytes(args),
            data=0,
            working=memory.working_bytes(traced.jaxpr),
            limit=memory.limit_of(jax.local_devices()[0]),
            per_step={},
        )
    )
    compiled = traced.lower().compile()
    return traced, compiled, time.perf_counter() - begin


def check(estimate: memory.Estimate) -> None:
    """Raises `TooLarge` if there is less memory here."""
    if not estimate.fits:
        raise memory.refuse(estimate, "this size is left out.")


def products_gflop(jaxpr: Any) -> float:
    """Arithmetic of the matrix products of a traced program, in GFLOP.

    A loop whose length is not known counts once, and of branches all are counted.
    """
    return float(_products(jaxpr) / 1e9)


def _products(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        times = 1
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            depth = np.prod([shape[i] for i in contracted])
            total += 2.0 * depth * np.prod(equation.outvars[0].aval.shape)
        elif equation.primitive.name == "scan":
            times = equation.params["length"]
        for inner in memory.jaxprs_of(equation.params):
            total += times * _products(inner)
    return total


def peak_memory_mib() -> float:
    """Most memory so far, MiB: of the device, or of this process on a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 1024**2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform != "darwin" else 1024**2)
