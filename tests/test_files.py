"""Files are written whole, and folders locked where that is possible."""

from __future__ import annotations

import errno
import fcntl

import pytest

from rlgen.errors import Busy, UserError
from rlgen.files import Lock, Unwritable, write_atomically


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_once(tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(code, "not here")

    monkeypatch.setattr(fcntl, "flock", flock)
    warned = pytest.warns(UserWarning, match="cannot be locked .not here.")
    with warned as said, Lock(tmp_path / "lock", "it"):
        pass
    assert len(said) == 1


def test_a_lock_is_one_process_at_a_time(tmp_path):
    lock, other = (Lock(tmp_path / "lock", "It") for _ in range(2))
    with lock, pytest.raises(Busy, match="It is being worked on"):
        other.__enter__()
    with other:
        pass


def test_a_place_that_cannot_be_locked_is_unwritable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write to .*lock"):
        Lock(tmp_path / "file" / "lock", "it").__enter__()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_leaves_the_old_file(tmp_path, code):
    path = tmp_path / "a"
    path.write_text("old")
    refused = pytest.raises(UserError, match=r"Cannot write to .*a .full.")
    with refused as caught, write_atomically(path, "w") as file:
        file.write("new")
        raise OSError(code, "full")
    # Who handles errors of the system handles this one too.
    assert isinstance(caught.value, OSError) and isinstance(caught.value, Unwritable)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_errors_that_are_not_of_the_place_pass(tmp_path):
    with pytest.raises(ConnectionError), write_atomically(tmp_path / "a"):
        raise ConnectionError(errno.ECONNRESET, "gone")
