"""Trains tiny runs on several of eight CPU devices and saves what they learned.

A process of its own: the number of devices is fixed once jax has looked for any.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np
from tiny import TINY_MAZE, TINY_TASKS, as_data, preempted

from rlgen import mesh, programs, runner, training
from rlgen.errors import UserError
from rlgen.store import RunStore

SETTINGS = TINY_MAZE | {
    "buffer_size": 32,
    "min_fill": 0.1,
    "progress": False,
    "pictures": False,
}


def configure(algorithm: str = "plr", env: str = "maze", **settings):
    return training.make_config(algorithm, env, "quick", SETTINGS | settings)


def train(folder: Path, name: str, config=None, **settings) -> None:
    """Leaves `<name>.npz`: all leaves of the final states, by their path."""
    config = config or configure(**settings)
    store = RunStore.open(folder, name, config, str(folder / f"{name}-run"))
    states = runner.run(config.build(), config.run, store)
    leaves = jax.tree_util.tree_leaves_with_path(states)
    np.savez(
        folder / f"{name}.npz",
        **{jax.tree_util.keystr(path): as_data(leaf) for path, leaf in leaves},
    )


def compiled_update(n_devices: int, **settings) -> str:
    """The program of one update of one seed."""
    experiment = configure(**settings).build()
    devices = mesh.make(n_devices, 1)
    states = jax.eval_shape(
        jax.vmap(experiment.init), jax.random.split(jax.random.key(0), 1)
    )
    sharding = mesh.of_seeds(devices)
    update = mesh.over_devices(jax.vmap(experiment.update), [sharding])
    program = jax.jit(update, in_shardings=sharding, out_shardings=sharding)
    return program.lower(states).compile().as_text()


def refusals() -> list[str]:
    """What is said of settings that cannot be spread."""
    said = []
    for config in (
        configure(n_envs=6, n_minibatches=1, devices=8),
        training.make_config("level-vae", "cave", "quick", {"devices": 8}),
        configure(n_envs=8, devices=9),
    ):
        try:
            programs.Program(programs.Plan(config.build(), config.run))
        except UserError as error:
            said.append(str(error))
    return said


def n_threads() -> int:
    """Those that XLA's programs may wait in."""
    tasks = Path("/proc/self/task").glob("*/comm")
    return sum(task.read_text().strip() == "tf_XLAEigen" for task in tasks)


def main(folder: Path) -> None:
    mesh.provide(8)
    jax.devices()
    (folder / "threads.txt").write_text(str(n_threads()))
    (folder / "refused.txt").write_text("\n".join(refusals()))
    (folder / "update.txt").write_text(compiled_update(8, n_envs=16))
    four = {"seeds": 4, "n_envs": 8, "eval_every": 2, "checkpoint_every_s": 0.0}
    train(folder, "seeds-1", devices=1, **four)
    with preempted():
        train(folder, "seeds-resumed", devices=4, **four)
    train(folder, "seeds-resumed", devices=1, **four)
    for devices in (1, 8):
        # Of eight, four for each seed.
        train(folder, f"envs-{devices}", devices=devices, seeds=2, n_envs=16)
        settings = TINY_TASKS | {"n_envs": 8, "n_updates": 4, "devices": devices}
        quiet = {"progress": False, "pictures": False, "log_every": 2, "part_size": 0}
        quiet["n_inner"] = 2
        lpg = training.make_config("lpg", settings=settings | quiet)
        train(folder, f"lpg-{devices}", lpg)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
