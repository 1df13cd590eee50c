"""Trains tiny runs on several of eight CPU devices and saves what they learned.

A process of its own: the number of devices is fixed once jax has looked for any.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from tiny import as_data

from rlgen import mesh, runner, training
from rlgen.errors import UserError
from rlgen.store import RunStore

SETTINGS = {
    "n_steps": 8,
    "n_minibatches": 2,
    "core_size": 8,
    "buffer_size": 32,
    "min_fill": 0.1,
    "height": 5,
    "width": 5,
    "max_walls": 5,
    "max_steps": 8,
    "n_heldout": 4,
    "eval_episodes": 1,
    "n_updates": 6,
    "log_every": 2,
    "progress": False,
    "pictures": False,
}


def configure(algorithm: str = "plr", env: str = "maze", **settings):
    return training.make_config(algorithm, env, "quick", SETTINGS | settings)


def train(folder: Path, name: str, stop_after: int = 0, **settings) -> None:
    """Leaves `<name>.npz`: all leaves of the final states, by their path.

    Args:
      stop_after: stop as by a signal after so many rows; only the run directory is
        left.
    """
    config = configure(**settings)
    store = RunStore.open(folder, name, config, str(folder / f"{name}-run"))
    sinks = [_Stop(stop_after)] if stop_after else []
    try:
        states = runner.run(config.build(), config.run, store, sinks)
    except runner.Preempted:
        return
    leaves = jax.tree_util.tree_leaves_with_path(states)
    np.savez(
        folder / f"{name}.npz",
        **{jax.tree_util.keystr(path): as_data(leaf) for path, leaf in leaves},
    )


class _Stop:
    """Sends this process SIGTERM after a number of rows."""

    def __init__(self, n_rows: int):
        self._left = n_rows

    def log(self, rows):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    def complete(self, store):
        pass

    def close(self, status):
        pass


def compiled_update(n_devices: int, **settings) -> str:
    """The program of one update of one seed."""
    experiment = configure(**settings).build()
    devices = mesh.make(n_devices, 1)
    update = mesh.over_devices(jax.vmap(experiment.update), devices, False)
    states = jax.eval_shape(
        jax.vmap(experiment.init), jax.random.split(jax.random.key(0), 1)
    )
    sharding = mesh.of_seeds(devices)
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
            runner.Program(config.build(), config.run)
        except UserError as error:
            said.append(str(error))
    return said


def main(folder: Path) -> None:
    mesh.provide(8)
    (folder / "refused.txt").write_text("\n".join(refusals()))
    (folder / "update.txt").write_text(compiled_update(8, n_envs=16))
    four = {"seeds": 4, "n_envs": 8, "eval_every": 2, "checkpoint_every_s": 0.0}
    train(folder, "seeds-1", devices=1, **four)
    train(folder, "seeds-resumed", stop_after=1, devices=4, **four)
    train(folder, "seeds-resumed", devices=1, **four)
    for devices in (1, 8):
        # Of eight, four for each seed.
        train(folder, f"envs-{devices}", devices=devices, seeds=2, n_envs=16)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
