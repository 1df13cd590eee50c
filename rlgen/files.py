"""Files are written whole or not at all, and folders by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import IO

from rlgen.errors import Busy


@contextlib.contextmanager
def write_atomically(path: str | Path, mode: str = "wb") -> Iterator[IO]:
    """Opens a file that takes `path`'s place only when the block ends well.

    The bytes are flushed to disk before the rename, so a crash leaves either the
    old file or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a result is as readable as any other file.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


class Lock:
    """Held by one process at a time; the system lets go of it when that one dies.

    Args:
      path: a file that is made for it, with the number of the process inside.
      what: what it guards, for the message.

    Raises:
      Busy: on entry, if another process holds it.
    """

    def __init__(self, path: str | Path, what: str):
        self._path = Path(path)
        self._what = what

    def __enter__(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise Busy(
                f"{self._what} is being worked on by process {holder}: wait until it "
                "ends, or stop it."
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def __exit__(self, *error: object) -> None:
        self._file.close()


@functools.cache
def package_texts(package: str, folder: str) -> dict[str, str]:
    """The text files (.txt) in a folder of a package, by name, in that order."""
    entries = (resources.files(package) / folder).iterdir()
    return {
        entry.name.removesuffix(".txt"): entry.read_text()
        for entry in sorted(entries, key=lambda entry: entry.name)
        if entry.name.endswith(".txt")
    }


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
