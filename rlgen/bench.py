"""`rlgen bench`: how fast this machine runs the lab, as JSON.

Warm, median of several repetitions, with compile seconds and peak memory beside each
number, and the machine's own matrix-product rate measured in the same run, because a
throughput means little without the limit it stands under. A benchmark, not a test.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rlgen import bench_offline, training
from rlgen.algos.meta.algorithms import SMALL_GRIDS
from rlgen.algos.ued import buffer as level_buffer
from rlgen.algos.ued import replay_distribution
from rlgen.algos.ued.curriculum import EDITED_LEVELS, NEW_LEVELS, REPLAYED
from rlgen.algos.ued.experiment import UED
from rlgen.algos.ued.level_replay import LevelReplay
from rlgen.env import Replay
from rlgen.envs.maze import Maze
from rlgen.envs.maze.levels import UniformWalls
from rlgen.files import write_atomically
from rlgen.runner import return_freed_memory
from rlgen.store import git_commit

Result = dict[str, Any]


def median_seconds(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median, smallest and largest seconds of a warm call, device work included."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - begin)
    return {
        "seconds": statistics.median(times),
        "seconds_min": min(times),
        "seconds_max": max(times),
    }


def compile_timed(function: Callable, *args: Any, **jit: Any) -> tuple[Any, float]:
    """Compiles ahead of time; returns the executable and the seconds it took."""
    begin = time.perf_counter()
    compiled = jax.jit(function, **jit).lower(*args).compile()
    return compiled, time.perf_counter() - begin


def matmul(size: int, repeats: int) -> Result:
    """Rate of float32 products of two square matrices."""
    a = jax.random.normal(jax.random.key(0), (size, size))
    product, compile_s = compile_timed(lambda a: a @ a, a)
    timing = median_seconds(lambda: product(a), repeats)
    gflops = 2 * size**3 / timing["seconds"] / 1e9
    return timing | {"size": size, "compile_s": compile_s, "gflop_per_s": gflops}


def environment(n_envs: int, repeats: int, n_steps: int = 256) -> Result:
    """The maze alone: random policy, auto-reset to the same level, one scan."""
    env = Replay(Maze())
    space = UniformWalls(solvable=True)
    keys = jax.random.split(jax.random.key(0), n_envs)
    levels = jax.jit(jax.vmap(space.sample))(keys)
    state, _ = jax.vmap(env.reset)(keys, levels)

    def rollout(key, state, levels):
        actions = jax.random.randint(key, (n_steps, n_envs), 0, 3, jnp.int32)
        step_keys = jax.random.split(key, (n_steps,))

        def step(state, inputs):
            action, key = inputs
            # The maze needs no randomness: every environment may share the key.
            out = jax.vmap(env.step, in_axes=(None, 0, 0, 0))(
                key, levels, state, action
            )
            return out.state, (out.obs, out.reward, out.done)

        return jax.lax.scan(step, state, (actions, step_keys))

    key = jax.random.key(1)
    run, compile_s = compile_timed(rollout, key, state, levels)
    inner = max(1, 4096 // n_envs)
    timing = median_seconds(
        lambda: [run(key, state, levels) for _ in range(inner)], repeats
    )
    rate = inner * n_envs * n_steps / timing["seconds"]
    return timing | {
        "n_envs": n_envs,
        "compile_s": compile_s,
        "env_steps_per_s": rate,
    }


def buffer_operations(capacity: int, batch: int, repeats: int) -> Result:
    """Insert a batch into a full level buffer, and sample one from it."""
    config = training.make_config("plr", "maze", "paper", {"buffer_size": capacity})
    experiment = config.build()
    assert isinstance(experiment, UED)
    curriculum = experiment.curriculum
    assert isinstance(curriculum, LevelReplay) and curriculum.n_levels == batch
    key = jax.random.key(0)
    keys = jax.random.split(key, capacity)
    levels = jax.jit(jax.vmap(curriculum.space.sample))(keys)
    hashes = jax.jit(jax.vmap(curriculum.space.hash))(levels)
    state = curriculum.init(key)
    full = level_buffer.empty(curriculum.space.example(), capacity)
    full = full.replace(
        batch=full.batch.replace(levels=levels, hash=hashes),
        score=jax.random.uniform(key, (capacity,)),
        last_seen=jax.random.randint(key, (capacity,), 0, 1000, jnp.int32),
        size=jnp.int32(capacity),
    )
    state = state.replace(buffer=full, clock=jnp.int32(1000))
    draw = jax.jit(curriculum._new_levels)(state, jax.random.key(7))
    feedback = level_buffer.Feedback(
        score=jnp.ones(batch),
        score2=jnp.ones(batch),
        max_return=jnp.ones(batch),
        n_episodes=jnp.ones(batch, jnp.int32),
        n_success=jnp.ones(batch, jnp.int32),
    )

    def insert(state, draw, feedback, key):
        # What an update runs: weights of all slots, duplicate check, insertion.
        weight = curriculum.probabilities(state, key)
        return level_buffer.record(state.buffer, draw, feedback, weight, state.clock)

    def sample(state, key):
        slots = replay_distribution.draw(
            key, curriculum.probabilities(state, key), batch
        )
        return jax.tree.map(lambda x: x[slots], state.buffer.batch)

    # The buffer is donated as in training, where it lives in the carry.
    insert_all, insert_compile_s = compile_timed(
        lambda s, d, f, k: s.replace(buffer=insert(s, d, f, k)[0]),
        state,
        draw,
        feedback,
        key,
        donate_argnums=0,
    )
    sample_all, sample_compile_s = compile_timed(sample, state, key)
    sample_timing = median_seconds(lambda: sample_all(state, key), 20 * repeats)
    carry = [jax.tree.map(jnp.copy, state)]

    def insert_once():
        carry[0] = insert_all(carry[0], draw, feedback, key)
        return carry[0].clock

    insert_timing = median_seconds(insert_once, 20 * repeats)
    return {
        "capacity": capacity,
        "batch": batch,
        "insert_ms": 1e3 * insert_timing["seconds"],
        "sample_ms": 1e3 * sample_timing["seconds"],
        "insert_compile_s": insert_compile_s,
        "sample_compile_s": sample_compile_s,
    }


def update_parts(algorithm: str, repeats: int, **settings: Any) -> Result:
    """One update at the published configuration, for each role of its batch.

    The buffer is filled first. Rates follow from the roles' times and how often each
    occurs, so they do not depend on the luck of a short run.
    """
    config = training.make_config(
        algorithm,
        "maze",
        "paper",
        {"n_heldout": 1, "min_fill": 0.002, "replay_prob": 0.8} | settings
        if algorithm != "dr"
        else {"n_heldout": 1} | settings,
    )
    experiment = config.build()
    state = jax.jit(experiment.init)(jax.random.key(0))
    begin = time.perf_counter()
    update = (
        jax.jit(experiment.update, donate_argnums=0)
        .lower(jax.eval_shape(lambda: state))
        .compile()
    )
    compile_s = time.perf_counter() - begin
    times: dict[int, list[float]] = {}
    wanted = {"dr": [NEW_LEVELS], "accel": [NEW_LEVELS, REPLAYED, EDITED_LEVELS]}
    roles = wanted.get(algorithm, [NEW_LEVELS, REPLAYED])
    for i in range(40 * repeats):
        begin = time.perf_counter()
        state, metrics = update(state)
        jax.block_until_ready(state)
        seconds = time.perf_counter() - begin
        if i > 0:
            times.setdefault(int(metrics["role"]), []).append(seconds)
        if all(len(times.get(role, [])) >= repeats for role in roles):
            break
    median = {role: statistics.median(times[role]) for role in roles}
    replay = config.algo.replay
    share = {NEW_LEVELS: 1.0}
    if algorithm != "dr":
        share = {NEW_LEVELS: 1 - replay.replay_prob, REPLAYED: replay.replay_prob}
        if algorithm == "accel":
            share[EDITED_LEVELS] = replay.replay_prob * replay.edit_prob
    seconds = sum(share[role] * median[role] for role in roles)
    steps = sum(share[role] for role in roles) * experiment.env_steps_per_update
    return {
        "algorithm": algorithm,
        "compile_s": compile_s,
        "seconds_by_role": {
            ("new", "replay", "edited")[role]: median[role] for role in roles
        },
        "env_steps_per_s": steps / seconds,
        "peak_memory_mib": peak_memory_mib(),
    }


def in_fresh_process(function: Callable[..., Result], *args: Any) -> Result:
    """Runs a measurement alone in a new process, so that peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


def update_gflop(n_envs: int = 32, n_steps: int = 256, n_epochs: int = 5) -> float:
    """Arithmetic of one DR update at the published configuration, in GFLOP.

    Matrix products alone: two operations per parameter and step forward, twice that
    backward.
    """
    config = training.make_config("dr", "maze", "paper", {"n_heldout": 1})
    network = config.build().network
    sizes = jax.eval_shape(network.init, jax.random.key(0))
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(sizes))
    return 2e-9 * n_parameters * n_envs * n_steps * (1 + 3 * n_epochs)


def peak_memory_mib() -> float:
    """Largest resident set of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform != "darwin" else 1024**2)


def seed_axis(repeats: int, seeds: int = 4, n_updates: int = 2) -> Result:
    """Several seeds in one process against one seed at a time."""
    from rlgen.runner import Program

    def seconds(n_seeds: int) -> float:
        config = training.make_config(
            "dr", "maze", "paper", {"n_heldout": 1, "seeds": n_seeds, "n_updates": 100}
        )
        program = Program(config.build(), config.run)
        states = program.initialise()
        states, _ = program.chunk(states, 1)
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            states, _ = program.chunk(states, n_updates)
            jax.block_until_ready(states)
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    alone, together = seconds(1), seconds(seeds)
    return {
        "seeds": seeds,
        "seconds_one": alone,
        "seconds_all": together,
        "all_over_sequential": together / (seeds * alone),
    }


#: Meta-gradients of LPG: the published small setting, and one of small grids.
META_SETTINGS: dict[str, dict[str, Any]] = {
    "published": {"n_envs": 64, "rule_size": 256},
    "small": {**SMALL_GRIDS, "n_envs": 16, "part_size": 8, "rule_size": 64},
}


def meta_gradient(name: str, repeats: int) -> Result:
    """Meta-steps of LPG: 16 agents, 5 updates of 20 steps each, see `META_SETTINGS`."""
    settings = META_SETTINGS[name] | {"n_agents": 16, "n_heldout": 1}
    config = training.make_config("lpg", settings=settings)
    experiment = config.build()
    return_freed_memory()
    state = jax.jit(experiment.init)(jax.random.key(0))
    return_freed_memory()
    update, compile_s = compile_timed(experiment.update, state, donate_argnums=0)
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
    return {
        "setting": name,
        "compile_s": compile_s,
        "seconds_per_meta_step": seconds,
        "agent_updates_per_s": n_agent_updates / seconds,
        "env_steps_per_s": experiment.env_steps_per_update / seconds,
        "gflop_per_s": 6e-9 * weights * steps * n_agent_updates / seconds,
        "peak_memory_mib": peak_memory_mib(),
    }


PARTS = ("matmul", "env", "buffer", "train", "meta", "offline", "seeds")


def main(args: Sequence[str]) -> int:
    """Parses flags, measures, prints progress and writes JSON."""
    parser = argparse.ArgumentParser(prog="rlgen bench", description=__doc__)
    parser.add_argument(
        "--parts", nargs="+", default=list(PARTS), choices=PARTS, help="what to measure"
    )
    parser.add_argument("--repeats", type=int, default=5, help="repetitions")
    parser.add_argument("--json", default="bench.json", help="file to write")
    options = parser.parse_args(args)
    parts, repeats = options.parts, options.repeats
    results: Result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(Path(__file__).parent),
        "device": str(jax.devices()[0]),
        "machine": f"{platform.machine()} {platform.processor()}".strip(),
        "jax": jax.__version__,
        "repeats": repeats,
    }

    def show(name: str, result: Any) -> None:
        results[name] = result
        print(name, json.dumps(result), flush=True)

    if {"matmul", "train", "meta"} & set(parts):
        show("matmul", matmul(1024, repeats))
    if "env" in parts:
        show("env", [environment(n, repeats) for n in (32, 256, 2048)])
    if "buffer" in parts:
        show("buffer", buffer_operations(4000, 32, repeats))
    if "train" in parts:
        limit = results["matmul"]["gflop_per_s"]
        gflop = update_gflop()
        for algorithm in ("dr", "robust-plr", "accel"):
            result = in_fresh_process(update_parts, algorithm, repeats)
            if algorithm == "dr":
                rate = gflop / result["seconds_by_role"]["new"]
                result |= {
                    "gflop_per_update": gflop,
                    "gflop_per_s": rate,
                    "share_of_matmul_rate": rate / limit,
                }
            show(f"train_{algorithm}", result)
    if "meta" in parts:
        for name in META_SETTINGS:
            result = in_fresh_process(meta_gradient, name, repeats)
            limit = results["matmul"]["gflop_per_s"]
            result["share_of_matmul_rate"] = result["gflop_per_s"] / limit
            show(f"meta_{name}", result)
    if "offline" in parts:
        limit = bench_offline.product_rate(repeats)
        show("offline_products", {"gflop_per_s": limit})
        for name in bench_offline.LEARNERS:
            result = in_fresh_process(bench_offline.gradient_steps, name, repeats)
            result["share_of_product_rate"] = result["gflop_per_s"] / limit
            show(f"offline_{name}", result)
    if "seeds" in parts:
        show("seeds", seed_axis(min(repeats, 3)))
    with write_atomically(options.json, "w") as file:
        json.dump(results, file, indent=2)
        file.write("\n")
    print("wrote", options.json)
    return 0
