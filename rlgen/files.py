"""Files are written whole or not at all, and folders by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import IO

from rlgen.errors import Busy


@contextlib.contextmanager
def write_atomically(path: str | Path, mode: str = "wb") -> Iterator[IO]:
    """Opens a file that takes `path`'s place only when the block ends well.

    The bytes are flushed to disk before the rename, so a crash leaves either the
    old file or the new one. Until then they are in a file of one name, so that the
    next write of the same file takes over what a killed one left; two that write at
    once take turns.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    handle = _claim(
        temporary, lambda: os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
    )
    with os.fdopen(handle, mode) as file:
        try:
            file.truncate(0)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


@contextlib.contextmanager
def make_folder_atomically(path: str | Path) -> Iterator[Path]:
    """An empty folder that becomes `path` only when the block ends well.

    As with files, a killed process leaves one that the next takes over.
    """
    path = Path(path)
    temporary = _temporary(path)

    def open_folder() -> int:
        temporary.mkdir(parents=True, exist_ok=True)
        return os.open(temporary, os.O_RDONLY)

    handle = _claim(temporary, open_folder)
    try:
        for left in temporary.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(handle)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _claim(path: Path, open_it: Callable[[], int]) -> int:
    """Opens what no other process writes, once those that do are done."""
    while True:
        handle = open_it()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # The one waited for has put it in its place, or has thrown it away.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


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
