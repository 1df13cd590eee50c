"""Checkpoints: the whole carry, by orbax, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from rlgen import processes
from rlgen.errors import UserError
from rlgen.files import unwritable, write_atomically

PyTree = Any
# A disk with less than this is full: orbax says so by errors of many kinds.
_FULL_BYTES = 1 << 20
# What the files of a checkpoint hold stands beside it.
_SUMS = "sums-{}.json"
_CHUNK_BYTES = 1 << 20
_KEPT = 2


class Checkpoints:
    """The whole carry, by orbax, with what the host must remember beside it.

    Args:
      sweeps: remove what killed writes left, halves of new checkpoints and of old ones;
        for the one run that writes here.

    Raises:
      Unwritable: the folder cannot be made.
    """

    def __init__(self, folder: Path, *, sweeps: bool = False):
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
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
            if processes.is_writer():
                self._forget()

    def save(self, update: int, states: PyTree, host: dict[str, Any]) -> None:
        """Writes a checkpoint, whole or not at all; older ones stay if it fails.

        Raises:
          Unwritable: the disk is full, or not to be written.
        """
        if update in self._manager.all_steps():
            return
        parts = {
            "state": ocp.args.StandardSave(states),
            "host": ocp.args.JsonSave(host),
        }
        try:
            with _raised_not_logged():
                self._manager.save(update, args=ocp.args.Composite(**parts))
                self._manager.wait_until_finished()
            if processes.is_writer():
                self._note(update)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        except Exception as error:
            # tensorstore's ValueError, among others.
            free = shutil.disk_usage(self._folder).free
            if free > _FULL_BYTES and "No space left" not in str(error):
                raise
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise unwritable(self._folder, full) from error
        finally:
            if processes.count() == 1:  # what is left of a failure takes space
                for path in self._folder.glob(f"{update}.orbax-checkpoint-tmp*"):
                    shutil.rmtree(path, ignore_errors=True)

    def restore(
        self,
        template: PyTree,
        sharding: jax.sharding.Sharding | None = None,
        *,
        set_aside: bool = False,
    ) -> tuple[int, PyTree, dict[str, Any]] | None:
        """The newest whole checkpoint as (update, states, host), or None.

        One that cannot be read is left out with a warning, if there is an older one.

        Args:
          template: of the states, for structure and shapes.
          sharding: where they are to lie, wherever they lay when they were saved; None
            for the first device.
          set_aside: rename those that cannot be read: a run that goes on from an older
            one will save in their place.

        Raises:
          UserError: none can be read.
        """
        updates = sorted(self._manager.all_steps(), reverse=True)
        damaged: dict[int, Exception] = {}
        for update in updates:
            try:
                with _raised_not_logged():
                    found = self._read(update, template, sharding)
            except Exception as error:  # JSON's, orbax's, tensorstore's
                damaged[update] = error
                continue
            for bad, error in damaged.items():
                warnings.warn(
                    f"{self._folder / str(bad)} is damaged ({_line(error)}): going on "
                    f"from update {update}.",
                    stacklevel=2,
                )
                if set_aside and processes.is_writer():
                    to = self._folder / f"damaged-{bad}"
                    shutil.rmtree(to, ignore_errors=True)
                    (self._folder / str(bad)).rename(to)
                    (self._folder / _SUMS.format(bad)).unlink(missing_ok=True)
            if damaged and set_aside:
                processes.meet()
                self._manager.reload()
            return update, *found
        if damaged:
            error = damaged[updates[0]]
            raise UserError(
                f"No checkpoint in {self._folder} can be read ({_line(error)}): put "
                f"one back, or remove {self._folder.parent} and train it again."
            ) from error
        return None

    def _read(
        self, update: int, template: PyTree, sharding: jax.sharding.Sharding | None
    ) -> tuple[PyTree, dict[str, Any]]:
        self._check(update)
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
        host = restored["host"]
        if not {"metrics_size", "wall_s"} <= host.keys():
            raise ValueError("no host part")
        return restored["state"], host

    def _note(self, update: int) -> None:
        """Writes what a checkpoint's files hold: orbax misses a flipped bit."""
        found = _sums(self._folder / str(update))
        with write_atomically(self._folder / _SUMS.format(update), "w") as file:
            json.dump(found, file)
        self._forget()

    def _forget(self) -> None:
        """Removes sums of what is gone, and halves that killed writes left."""
        kept = {_SUMS.format(each) for each in self._manager.all_steps()}
        for path in self._folder.glob("*" + _SUMS.format("*") + "*"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _check(self, update: int) -> None:
        """Raises ValueError if files are not what was written; older ones say nothing.

        Before orbax looks at them, whose threads print what they stumble over.
        """
        path = self._folder / _SUMS.format(update)
        if not path.exists():
            return
        written = json.loads(path.read_bytes())
        found = _sums(self._folder / str(update))
        for name, value in written.items():
            if name not in found:
                raise ValueError(f"{name} is missing")
            if found[name] != value:
                raise ValueError(f"{name} is not what was written")

    def close(self) -> None:
        """Waits for writes and lets go of the folder."""
        self._manager.close()


@contextlib.contextmanager
def _raised_not_logged() -> Iterator[None]:
    """Orbax's threads log the traceback of what it raises anyway: quiet meanwhile."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _sums(folder: Path) -> dict[str, int]:
    """The CRC-32 of each file in a folder, by its path there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            value = 0
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    value = zlib.crc32(chunk, value)
            found[path.relative_to(folder).as_posix()] = value
    return found


def _line(error: Exception) -> str:
    """What went wrong, without the rest of a long message."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}".rstrip(": ")
