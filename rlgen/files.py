"""Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import IO


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
