"""Files are written whole or not at all, and folders by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import IO, Any

from rlgen.errors import Busy, UserError

# What is wrong with a place, not with the program that writes there.
_OF_THE_PLACE = {
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.EISDIR,
    errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOSPC, errno.ENOTDIR,
    errno.EPERM, errno.EROFS,
}  # fmt: skip


# Bytes of a name that leave room for a mark of ours.
_LONG_NAME = 160


class Unwritable(UserError, OSError):
    """A place that cannot be written: full, read-only, or no folder."""


def unwritable(path: str | Path, error: OSError) -> Unwritable:
    """The sentence for a disk that is full or a folder that cannot be written."""
    if isinstance(error, Unwritable):
        return error
    reason = error.strerror or str(error)
    return Unwritable(
        f"Cannot write to {path} ({reason}): free some space, or choose another --out "
        "or file."
    )


@contextlib.contextmanager
def write_atomically(path: str | Path, mode: str = "wb") -> Iterator[IO]:
    """Opens a file that takes `path`'s place only when the block ends well.

    The bytes are flushed to disk before the rename, so a crash leaves either the
    old file or the new one. Until then they are in a file of one name, so that the
    next write of the same file takes over what a killed one left; two that write at
    once take turns.

    Raises:
      Unwritable: the place does not take it.
    """
    path = Path(path)

    def open_file(temporary: Path) -> int:
        return os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)

    with _of_the_place(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, handle = _claim(path, open_file)
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

    Raises:
      Unwritable: the place does not take it.
    """
    path = Path(path)

    def open_folder(temporary: Path) -> int:
        temporary.mkdir(parents=True, exist_ok=True)
        return os.open(temporary, os.O_RDONLY)

    with _of_the_place(path):
        temporary, handle = _claim(path, open_folder)
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


@contextlib.contextmanager
def _of_the_place(path: Path) -> Iterator[None]:
    """Says in a sentence what is wrong with a place."""
    try:
        yield
    except OSError as error:
        if error.errno in _OF_THE_PLACE:
            raise unwritable(path, error) from error
        raise


def _temporary(path: Path, mark: str = "") -> Path:
    name = path.name
    if len(name) > _LONG_NAME:  # a dot and an ending must fit into a name, too
        name = f"{name[:_LONG_NAME]}{zlib.crc32(name.encode()):08x}"
    return path.with_name(f".{name}{mark}.part")


def _claim(path: Path, open_it: Callable[[Path], int]) -> tuple[Path, int]:
    """What becomes `path`, open, and written by no other process while it is."""
    temporary = _temporary(path)
    while True:
        handle = open_it(temporary)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            # No locks here: a name of its own, which nobody sweeps up after a kill.
            os.close(handle)
            temporary = _temporary(path, f".{os.getpid()}")
            return temporary, open_it(temporary)
        except BaseException:
            os.close(handle)
            raise
        # The one waited for has put it in its place, or has thrown it away.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(temporary)):
                return temporary, handle
        os.close(handle)


class Lock:
    """Held by one process at a time; the system lets go of it when that one dies.

    Some file systems know no locks (Lustre mounted without `flock`, some NFS): there it
    warns, and guards nothing.

    Args:
      path: a file that is made for it, with the number of the process inside.
      what: what it guards, for the message.

    Raises:
      Busy: on entry, if another process holds it.
      Unwritable: on entry, if the file cannot be made.
    """

    def __init__(self, path: str | Path, what: str):
        self._path = Path(path)
        self._what = what

    def __enter__(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+")
        except OSError as error:
            raise unwritable(self._path, error) from error
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
        except OSError as error:
            warnings.warn(
                f"{self._path.parent} lies where files cannot be locked "
                f"({error.strerror}): see to it that no other process works on it.",
                stacklevel=2,
            )
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def __exit__(self, *error: object) -> None:
        self._file.close()


def check_name(name: Any, what: str) -> None:
    """Checks that a name from elsewhere can be a file's: no path, nothing hidden.

    Args:
      what: what it is the name of, for the message.

    Raises:
      UserError: it cannot.
    """
    is_text = isinstance(name, str) and name.isprintable() and 0 < len(name) <= 100
    if not is_text or name.startswith(".") or {"/", "\\"} & set(name):
        raise UserError(
            f"{name!r} is no name for a {what}: choose one without slashes and with no "
            "dot in front."
        )


@functools.cache
def package_texts(package: str, folder: str) -> dict[str, str]:
    """The text files (.txt) in a folder of a package, by name, in that order."""
    entries = (resources.files(package) / folder).iterdir()
    return {
        entry.name.removesuffix(".txt"): entry.read_text()
        for entry in sorted(entries, key=lambda entry: entry.name)
        if entry.name.endswith(".txt")
    }
