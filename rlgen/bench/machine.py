"""The two rates that everything else stands under: products and memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlgen.bench.measure import Case, Result, program


def matmul(size: int, dtype: str, repeats: int) -> Result:
    """Products of two square matrices; float32 at jax's default precision."""
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    # Several in one program: a launch costs as much as a small product.
    n_products = 16

    def chain(a):
        return jax.lax.fori_loop(0, n_products, lambda _, x: (x @ a) / size, a)

    gflop = n_products * 2e-9 * size**3
    return program(chain, a, items=gflop, unit="GFLOP", repeats=repeats)


def copying(mebibytes: int, repeats: int) -> Result:
    """Reads two arrays and writes a third (the triad of STREAM), in GB/s."""
    n = mebibytes * 1024**2 // 4
    a, b = jnp.ones(n), jnp.full(n, 2.0)
    # In place, as what a run carries: new pages would be measured too.
    return program(
        lambda a, b: 0.5 * a + b,
        a,
        b,
        items=3e-9 * 4 * n,
        unit="GB",
        repeats=repeats,
        carries=True,
    )


def cases(full: bool) -> list[Case]:
    """Rates against the size of the matrices and arrays."""
    on_cpu = jax.default_backend() == "cpu"
    sizes = (256, 1024, 4096) if full or not on_cpu else (1024,)
    found = [Case("machine", "memory", "MiB", 256, copying, (256,))]
    for dtype in ("float32",) if on_cpu else ("float32", "bfloat16"):
        found += [
            Case("machine", f"product {dtype}", "matrix size", n, matmul, (n, dtype))
            for n in sizes
        ]
    return found
