"""What a seed draws is the same in every process, whatever JAX is set to there."""

from __future__ import annotations

import jax

from rlgen.errors import UserError

# Whatever decides the bits of random numbers; each can be an environment variable.
_SETTINGS = {
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_high_dynamic_range_gumbel": False,
}


def settle() -> None:
    """Sets JAX to draw what every other process draws; before anything is drawn.

    Held-out levels are the same for every run because of it, and so are results.

    Raises:
      UserError: JAX computes with 64 bits, in which levels and programs are others.
    """
    if jax.dtypes.canonicalize_dtype(float).itemsize > 4:
        raise UserError(
            "JAX is set to 64 bits, in which levels and results would be others: leave "
            "JAX_ENABLE_X64 (jax_enable_x64) off."
        )
    for name, value in _SETTINGS.items():
        if getattr(jax.config, name) != value:
            jax.config.update(name, value)
