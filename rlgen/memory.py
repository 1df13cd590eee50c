"""How much memory a program will need, from its shapes: before anything compiles.

A program is a list of operations in order. What it needs at most is what lives at its
worst moment: results that something later still reads. Results that XLA computes where
they are read (sums, masks, one-hot planes on their way into a product) are taken for
free if only one operation reads them. This is an estimate: XLA orders operations anew
and shares buffers in ways of its own (the tests say how close it comes).
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import psutil
from jax.extend.core import Jaxpr, Literal, Var

from rlgen.errors import UserError

PyTree = Any

# fmt: off
#: Operations that XLA computes where their result is read, element by element.
_FUSED = frozenset({
    "abs", "add", "add_any", "and", "atan2", "bitcast_convert_type", "broadcast_in_dim",
    "ceil", "clamp", "convert_element_type", "copy", "copy_p", "cos", "div", "eq",
    "erf", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "iota",
    "is_finite", "le", "le_to", "log", "log1p", "logistic", "lt", "lt_to", "max", "min",
    "mul", "ne", "neg", "not", "or", "pad", "pow", "real", "imag", "rem", "reshape",
    "reduce_precision", "rev", "round", "rsqrt", "select_n", "shift_left",
    "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "slice", "split",
    "sqrt", "square", "squeeze", "stop_gradient", "sub", "tan", "tanh", "transpose",
    "xor", "expand_dims", "random_wrap", "random_unwrap",
})

#: Operations that read element by element, too: what they read need not be written.
_READS_FUSED = _FUSED | frozenset({
    "reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_prod",
    "argmax", "argmin",
})
# fmt: on


class TooLarge(UserError):
    """A program needs more memory than there is."""


def tree_bytes(tree: PyTree) -> int:
    """Bytes of all arrays (or their shapes) in a pytree."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _bytes(aval: Any) -> int:
    dtype = getattr(aval, "dtype", None)
    if dtype is None:
        return 0
    return math.prod(aval.shape) * dtype.itemsize


def transient_bytes(jaxpr: Jaxpr) -> int:
    """Bytes that a program needs at most beside its arguments, results included."""
    last_read: dict[Var, int] = {}
    readers: Counter[Var] = Counter()
    written_anyway: set[Var] = set()  # read by something that wants all of it
    for i, equation in enumerate(jaxpr.eqns):
        for var in equation.invars:
            if isinstance(var, Literal):
                continue
            last_read[var] = i
            readers[var] += 1
            if equation.primitive.name not in _READS_FUSED:
                written_anyway.add(var)
    results = {var for var in jaxpr.outvars if not isinstance(var, Literal)}
    live, peak = 0, 0
    sizes: dict[Var, int] = {}
    for i, equation in enumerate(jaxpr.eqns):
        fused = equation.primitive.name in _FUSED
        for var in equation.outvars:
            is_free = (
                fused
                and readers[var] < 2
                and var not in written_anyway
                and var not in results
            )
            sizes[var] = 0 if is_free else _bytes(var.aval)
            live += sizes[var]
        peak = max(peak, live + _inside(equation))
        for var in {v for v in equation.invars if not isinstance(v, Literal)}:
            if last_read[var] == i and var not in results:
                live -= sizes.pop(var, 0)
        for var in equation.outvars:
            if readers[var] == 0 and var not in results:
                live -= sizes.pop(var, 0)
    return peak


def working_bytes(program: Any) -> int:
    """What one device needs to run a traced program, beside its arguments.

    Args:
      program: its `ClosedJaxpr`. Of seeds that are spread over devices, each has its
        share.
    """
    jaxpr = program.jaxpr
    for equation in jaxpr.eqns:
        if equation.primitive.name == "shard_map":
            jaxpr = next(jaxprs_of(equation.params))
    return transient_bytes(jaxpr) + tree_bytes(program.consts)


def _inside(equation: Any) -> int:
    """What an operation needs while it runs, beside what it reads and writes."""
    needs = [transient_bytes(inner) for inner in jaxprs_of(equation.params)]
    if not needs:
        return 0
    inner = max(needs)
    if equation.primitive.name in ("scan", "while", "cond"):
        return inner
    # Its results are the caller's, who has counted them.
    return max(0, inner - sum(_bytes(var.aval) for var in equation.outvars))


def jaxprs_of(params: PyTree) -> Iterator[Jaxpr]:
    """The programs inside an operation, by its parameters."""
    leaves = jax.tree.leaves(
        list(params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    )
    for value in leaves:
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
            yield inner


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What one device will hold at the worst moment, in bytes.

    Attributes:
      states: what is carried from update to update, of all seeds there.
      data: what seeds share (a dataset).
      working: the largest of what the programs need beside both.
      limit: what there is; 0 if nobody knows.
      per_step: bytes that are kept of each environment step, by name.
    """

    states: int
    data: int
    working: int
    limit: int
    per_step: Mapping[str, int]

    @property
    def needed(self) -> int:
        """All of it."""
        return self.states + self.data + self.working

    @property
    def fits(self) -> bool:
        """Whether there is so much, as far as anyone knows."""
        return not self.limit or self.needed <= self.limit

    def __str__(self) -> str:
        of = f" of {readable(self.limit)}" if self.limit else ""
        lines = [
            f"memory, estimated: {readable(self.needed)}{of} "
            f"(states {readable(self.states)}, data {readable(self.data)}, at work "
            f"{readable(self.working)})"
        ]
        if self.per_step:
            parts = ", ".join(f"{name} {size}" for name, size in self.per_step.items())
            lines.append(
                f"each environment step keeps {sum(self.per_step.values())} bytes: "
                f"{parts}"
            )
        return "\n".join(lines)


def readable(n_bytes: float) -> str:
    """Bytes as people read them."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = min(int(math.log2(max(n_bytes, 1)) // 10), len(units) - 1)
    return f"{n_bytes / 1024**power:.4g} {units[power]}"


def per_step(trajectory: PyTree, n_steps: int) -> dict[str, int]:
    """Bytes of each leaf of a trajectory for one of its `n_steps` steps, by name."""
    sizes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(trajectory):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        sizes[name] = _bytes(leaf) // n_steps
    return sizes


def limit_of(device: Any, n_devices: int = 1) -> int:
    """Bytes that a device can hold; 0 if it does not say.

    Args:
      n_devices: devices that share the memory of a CPU.
    """
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    if device.platform != "cpu":
        return 0
    return min(psutil.virtual_memory().available, _of_group()) // n_devices


def _of_group() -> int:
    """What the system's control group lets this process have, if it says so."""
    group = Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            free = int((group / limit).read_text()) - int((group / used).read_text())
        except (OSError, ValueError):  # "max": there is none
            continue
        return max(free, 0)
    return 2**62


def refuse(estimate: Estimate, advice: str) -> TooLarge:
    """The sentence for what does not fit.

    Args:
      advice: what to do, with its full stop.
    """
    return TooLarge(
        f"This run needs about {readable(estimate.needed)} and there are "
        f"{readable(estimate.limit)}: {advice}"
    )


#: Sizes to try, downwards from the one that should fit.
_TRIES = 256


def largest(
    estimate: Callable[[int], Estimate], size: int, whole: Estimate
) -> int | None:
    """The largest size that fits, where one does not; None if none is found.

    Args:
      estimate: of another size. It may refuse sizes by `UserError`.
      size: what does not fit.
      whole: its estimate.
    """
    if size < 2:
        return None
    try:
        half = estimate(size // 2)
    except UserError:
        return None
    # Beside a constant, memory grows as the size does.
    slope = max(1.0, (whole.needed - half.needed) / (size - size // 2))
    there_is = whole.limit - (whole.needed - slope * size)
    candidate = min(size - 1, int(there_is / slope))
    for smaller in range(candidate, max(0, candidate - _TRIES), -1):
        try:
            if estimate(smaller).fits:
                return smaller
        except UserError:  # minibatches or devices do not divide it
            continue
    return None
