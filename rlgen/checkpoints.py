"""Checkpoints: the whole carry, by orbax, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

PyTree = Any


_KEPT = 2


class Checkpoints:
    """The whole carry, by orbax, with what the host must remember beside it.

    Args:
      sweeps: remove what killed writes left, halves of new checkpoints and of old ones;
        for the one run that writes here.
    """

    def __init__(self, folder: Path, *, sweeps: bool = False):
        self._manager = ocp.CheckpointManager(
            folder.resolve(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=_KEPT,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=sweeps,
            ),
        )
        if sweeps:
            for update in sorted(self._manager.all_steps())[:-_KEPT]:
                self._manager.delete(update)

    def save(self, update: int, states: PyTree, host: dict[str, Any]) -> None:
        """Writes a checkpoint, whole or not at all."""
        if update in self._manager.all_steps():
            return
        self._manager.save(
            update,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(states), host=ocp.args.JsonSave(host)
            ),
        )
        self._manager.wait_until_finished()

    def restore(
        self, template: PyTree, sharding: jax.sharding.Sharding | None = None
    ) -> tuple[int, PyTree, dict[str, Any]] | None:
        """The newest checkpoint as (update, states, host), or None.

        Args:
          template: of the states, for structure and shapes.
          sharding: where they are to lie, wherever they lay when they were saved; None
            for the first device.
        """
        update = self._manager.latest_step()
        if update is None:
            return None
        sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        template = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            template,
        )
        restored = self._manager.restore(
            update,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(template), host=ocp.args.JsonRestore()
            ),
        )
        return update, restored["state"], restored["host"]

    def close(self) -> None:
        """Waits for writes and lets go of the folder."""
        self._manager.close()
