"""Level buffers, PPO's update, curricula and seeds, at published configurations."""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from rlgen import training
from rlgen.algos.ued import buffer as level_buffer
from rlgen.algos.ued import replay_distribution
from rlgen.algos.ued.assembly import PairedConfig
from rlgen.algos.ued.curriculum import (
    EDITED_LEVELS,
    GENERATED_LEVELS,
    NEW_LEVELS,
    REPLAYED,
)
from rlgen.algos.ued.experiment import UED
from rlgen.algos.ued.level_replay import LevelReplay, ReplayConfig
from rlgen.algos.ued.sfl import SFLConfig
from rlgen.bench.measure import (
    Case,
    Result,
    check,
    compile_timed,
    peak_memory_mib,
    products_gflop,
    program,
    rated,
    timed,
)
from rlgen.programs import Plan, Program

PyTree = Any
ROLE_NAMES = {
    NEW_LEVELS: "new",
    REPLAYED: "replay",
    EDITED_LEVELS: "edited",
    GENERATED_LEVELS: "generated",
}
#: Settings by which each role comes soon, whatever its share is.
_SOON: dict[str, dict[str, Any]] = {
    "plr": {"min_fill": 0.002},
    "robust-plr": {"min_fill": 0.002},
    "accel": {"min_fill": 0.002},
    "repaired": {"min_fill": 0.002, "replay_prob": 0.5},
    "sfl": {"scoring_batches": 2, "training_batches": 2},
}


def _full_buffer(capacity: int, batch: int) -> tuple[LevelReplay, PyTree]:
    """Level replay whose buffer is full of levels that were seen at some time."""
    config = training.make_config(
        "plr",
        "maze",
        "paper",
        {"buffer_size": capacity, "n_envs": batch, "n_heldout": 1},
    )
    experiment = config.build()
    assert isinstance(experiment, UED)
    curriculum = experiment.curriculum
    assert isinstance(curriculum, LevelReplay)
    key = jax.random.key(0)
    keys = jax.random.split(key, capacity)
    levels = jax.jit(jax.vmap(curriculum.space.sample))(keys)
    hashes = jax.jit(jax.vmap(curriculum.space.hash))(levels)
    full = level_buffer.empty(curriculum.space.example(), capacity)
    full = full.replace(
        batch=full.batch.replace(levels=levels, hash=hashes),
        score=jax.random.uniform(key, (capacity,)),
        last_seen=jax.random.randint(key, (capacity,), 0, 1000, jnp.int32),
        size=jnp.int32(capacity),
    )
    state = curriculum.init(key)
    return curriculum, state.replace(buffer=full, clock=jnp.int32(1000))


def insert(capacity: int, batch: int, repeats: int) -> Result:
    """What an update runs: weights of all slots, duplicate check, insertion."""
    curriculum, state = _full_buffer(capacity, batch)
    key = jax.random.key(0)
    draw = jax.jit(curriculum._new_levels)(state, jax.random.key(7))
    feedback = level_buffer.Feedback(
        score=jnp.ones(batch),
        score2=jnp.ones(batch),
        max_return=jnp.ones(batch),
        n_episodes=jnp.ones(batch, jnp.int32),
        n_success=jnp.ones(batch, jnp.int32),
    )

    def record(state, draw, feedback, key):
        weight = curriculum.probabilities(state, key)
        return state.replace(
            buffer=level_buffer.record(
                state.buffer, draw, feedback, weight, state.clock
            )[0]
        )

    # The buffer is donated as in training, where it lives in the carry.
    return program(
        record,
        state,
        draw,
        feedback,
        key,
        items=1,
        unit="operations",
        repeats=repeats,
        carries=True,
    )


def sample(capacity: int, batch: int, repeats: int) -> Result:
    """Draws a batch of levels by their scores and staleness."""
    curriculum, state = _full_buffer(capacity, batch)

    def draw(state, key):
        slots = replay_distribution.draw(
            key, curriculum.probabilities(state, key), batch
        )
        return jax.tree.map(lambda x: x[slots], state.buffer.batch)

    return program(
        draw,
        state,
        jax.random.key(0),
        items=1,
        unit="operations",
        repeats=repeats,
    )


def update(algorithm: str, settings: dict[str, Any], repeats: int) -> Result:
    """One update at the published configuration, for each role of its batch.

    Rates follow from the roles' times and how often each occurs, so they do not depend
    on the luck of a short run.
    """
    fixed = {"n_heldout": 1} | settings
    published = training.make_config(algorithm, "", "paper", fixed)
    share = share_of_roles(published.algo)
    fixed |= _SOON.get(algorithm, {})
    config = training.make_config(algorithm, "", "paper", fixed)
    experiment = config.build()
    state = jax.jit(experiment.init)(jax.random.key(0))
    traced, step, compile_s = compile_timed(experiment.update, state, donates=True)
    times: dict[int, list[float]] = {}
    for i in range(40 * repeats):
        begin = time.perf_counter()
        state, metrics = step(state)
        jax.block_until_ready(state)
        seconds = time.perf_counter() - begin
        role = int(metrics["role"])
        if i > 0:
            times.setdefault(role, []).append(seconds)
        if all(len(times.get(role, [])) >= repeats for role in share):
            break
    median = {role: statistics.median(times[role]) for role in share}
    seconds = sum(share[role] * median[role] for role in share)
    steps = sum(share.values()) * experiment.env_steps_per_update
    return rated({"seconds": seconds}, steps, "environment steps") | {
        "seconds_by_role": {ROLE_NAMES[role]: median[role] for role in share},
        "compile_s": compile_s,
        # Of a batch that trains, which every update of DR is.
        "gflop": products_gflop(traced.jaxpr.jaxpr) if algorithm == "dr" else 0.0,
        "peak_memory_mib": peak_memory_mib(),
    }


def share_of_roles(config: Any) -> dict[int, float]:
    """How many batches of each role go with one that is new or replayed."""
    if isinstance(curriculum := getattr(config, "curriculum", None), SFLConfig):
        scoring, training = curriculum.scoring_batches, curriculum.training_batches
        share = scoring / (scoring + training)
        return {NEW_LEVELS: share, REPLAYED: 1 - share}
    replay = getattr(config, "replay", ReplayConfig(replay_prob=0.0))
    new = GENERATED_LEVELS if isinstance(config, PairedConfig) else NEW_LEVELS
    share = {
        new: 1 - replay.replay_prob,
        REPLAYED: replay.replay_prob,
        EDITED_LEVELS: replay.replay_prob * replay.edit_prob,
    }
    if replay.generate_prob:
        share[GENERATED_LEVELS] = replay.replay_prob * replay.generate_prob
    return {role: part for role, part in share.items() if part > 0}


def seeds(
    algorithm: str, settings: dict[str, Any], n_seeds: int, n_updates: int, repeats: int
) -> Result:
    """Updates of several seeds in one process, by the program that trains.

    Args:
      n_updates: of a call: of several roles, on average, where levels are replayed.
    """
    fixed = {"n_heldout": 1, "eval_episodes": 1, "log_every": n_updates}
    config = training.make_config(
        algorithm, "maze", "paper", fixed | {"seeds": n_seeds} | settings
    )
    experiment = config.build()
    plan = Plan(experiment, config.run)
    check(plan.estimate)
    made = Program(plan)
    carry = [made.initialise()]
    carry[0], _ = made.chunk(carry[0], n_updates)

    def call():
        carry[0], table = made.chunk(carry[0], n_updates)
        return table

    timing = timed(call, repeats)
    steps = n_seeds * n_updates * experiment.env_steps_per_update
    return rated(timing, steps, "environment steps") | {
        "compile_s": made.compile_s,
        "seed_axis": plan.seed_axis,
        "peak_memory_mib": peak_memory_mib(),
    }


def buffer_cases(full: bool) -> list[Case]:
    """Against the capacity of the buffer, and the number of levels in a batch."""
    capacities = (1_000, 4_000, 16_000, 64_000) if full else (1_000, 4_000)
    batches = (32, 256, 2_048) if full else ()
    found = []
    for name, operation in (("insert", insert), ("sample", sample)):
        found += [
            Case("buffer", f"{name} 32", "capacity", n, operation, (n, 32))
            for n in capacities
        ]
        found += [
            Case("buffer", f"{name} into 4,000", "levels", n, operation, (4_000, n))
            for n in batches
        ]
    return found


def ppo_cases(full: bool) -> list[Case]:
    """A whole update of DR: against the environments, and by the network's memory."""
    sizes = (32, 256, 2_048, 16_384, 65_536) if full else (32,)
    found = [
        Case("ppo", "dr", "environments", n, update, ("dr", {"n_envs": n}), alone=True)
        for n in sizes
    ]
    for core in ("none", "gru", "lstm", "lru") if full else ():
        for n in (32, 256, 2_048):
            settings = {"core": core, "n_envs": n}
            found.append(
                Case("ppo", f"core {core}", "environments", n, update, ("dr", settings))
            )
    return found


def curriculum_cases(full: bool) -> list[Case]:
    """Every curriculum at its published configuration."""
    names = ("robust-plr", "accel")
    if full:
        on_sets = ("uniform", "plr-d", "accel-d", "el-dred", "vae-dred")
        names = ("plr", *names, "sfl", "paired", "repaired", *on_sets)
    return [
        Case("train", name, "", 0, update, (name, {}), alone=True) for name in names
    ]


def seed_cases(full: bool) -> list[Case]:
    """Against the number of seeds in a process."""
    sizes = (1, 2, 4, 8, 16, 32, 64) if full else (1, 4)
    return [Case("seeds", "dr", "seeds", n, seeds, ("dr", {}, n, 1)) for n in sizes]


def target_cases() -> list[Case]:
    """Robust PLR with the published network, for an accelerator."""
    # Replay begins within the call that warms up.
    sizes = {"8 x 256": (8, 256), "1 x 32": (1, 32), "8 x 32": (8, 32)}
    return [
        Case(
            "targets",
            f"robust-plr {name}",
            "",
            0,
            seeds,
            ("robust-plr", {"n_envs": n_envs, "min_fill": 0.03}, n_seeds, 10),
        )
        for name, (n_seeds, n_envs) in sizes.items()
    ]
