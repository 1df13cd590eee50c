"""Settings of all tests: compile fast, run on the CPU, leave no trace."""

from __future__ import annotations

import os

# Before jax looks: tests compile much and run little, and a user's cache of compiled
# programs is none of their business.
_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["RLGEN_COMPILE_CACHE"] = "off"
os.environ["WANDB_MODE"] = "offline"
