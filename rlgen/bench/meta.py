"""Meta-steps of LPG, against the number of lifetimes that run side by side."""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax

from rlgen import training
from rlgen.algos.meta.algorithms import SMALL_GRIDS
from rlgen.bench.measure import Case, Result, compile_timed, peak_memory_mib, rated
from rlgen.programs import return_freed_memory

#: Meta-gradients of LPG: the published small setting, and one of small grids.
SETTINGS: dict[str, dict[str, Any]] = {
    "published": {"n_envs": 64, "rule_size": 256},
    "small": {**SMALL_GRIDS, "n_envs": 16, "part_size": 8, "rule_size": 64},
}


def meta_gradient(name: str, n_agents: int, repeats: int) -> Result:
    """Meta-steps: each agent makes 5 updates of 20 steps; see `SETTINGS`."""
    settings = SETTINGS[name] | {"n_agents": n_agents, "n_heldout": 1}
    config = training.make_config("lpg", settings=settings)
    experiment = config.build()
    return_freed_memory()
    state = jax.jit(experiment.init)(jax.random.key(0))
    return_freed_memory()
    _, update, compile_s = compile_timed(experiment.update, state, donates=True)
    return_freed_memory()
    times = []
    for i in range(2 * repeats + 1):
        begin = time.perf_counter()
        state, _ = update(state)
        jax.block_until_ready(state)
        if i > 0:
            times.append(time.perf_counter() - begin)
    seconds = statistics.median(times)
    algo = config.algo
    n_agent_updates = algo.n_agents * algo.gradient.n_inner
    # Of the rule's recurrent pass alone: forward once, backward twice.
    shape = algo.shape.shapes()
    parts = [shape[name] for name in ("core", "policy", "prediction")]
    weights = sum(leaf.size for leaf in jax.tree.leaves(parts))
    steps = algo.ppo.n_envs * algo.ppo.n_steps
    timing = {
        "seconds": seconds,
        "seconds_min": min(times),
        "seconds_max": max(times),
    }
    return rated(timing, n_agent_updates, "agent updates") | {
        "env_steps_per_s": experiment.env_steps_per_update / seconds,
        "compile_s": compile_s,
        "gflop": 6e-9 * weights * steps * n_agent_updates,
        "peak_memory_mib": peak_memory_mib(),
    }


def cases(full: bool) -> list[Case]:
    """Against the number of lifetimes."""
    sizes = (8, 16, 64, 256, 512) if full else (16,)
    return [
        Case("meta", name, "lifetimes", n, meta_gradient, (name, n), alone=True)
        for name in SETTINGS
        for n in sizes
    ]


def target_cases() -> list[Case]:
    """The published number of lifetimes."""
    return [Case("targets", "lpg 512 x 64", "", 0, meta_gradient, ("published", 512))]
