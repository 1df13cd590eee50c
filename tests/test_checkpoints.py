"""Checkpoints that are damaged, and disks that are full."""

from __future__ import annotations

import errno
import shutil
import warnings

import numpy as np
import pytest

from rlgen import checkpoints
from rlgen.checkpoints import Checkpoints
from rlgen.errors import UserError

TREE = {"a": np.arange(5000, dtype=np.float32), "b": np.ones((30, 30), np.int32)}


def tree(update):
    return {name: leaf + update for name, leaf in TREE.items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of updates 1 and 2."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    kept = Checkpoints(folder)
    for update in (1, 2, 3):
        kept.save(update, tree(update), {"metrics_size": update, "wall_s": 0.5})
    kept.close()
    assert not (folder / "1").exists() and not (folder / "sums-1.json").exists()
    return folder


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def largest(folder):
    return max(files(folder), key=lambda path: path.stat().st_size)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:9])


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = {
    "emptied": lambda newest: largest(newest).write_bytes(b""),
    "cut": lambda newest: largest(newest).write_bytes(
        b"x" + largest(newest).read_bytes()[:9]
    ),
    "a bit of the data": lambda newest: flip(largest(newest)),
    "a bit of the metadata": lambda newest: flip(newest / "state" / "_METADATA"),
    "a bit of the host part": lambda newest: flip(newest / "host" / "metadata"),
    "no host part": lambda newest: shutil.rmtree(newest / "host"),
    "no states": lambda newest: shutil.rmtree(newest / "state"),
    "nothing": empty,
    "another, empty": lambda newest: newest.with_name("4").mkdir(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_left_out_and_said(saved, tmp_path, damage):
    folder = shutil.copytree(saved, tmp_path / "checkpoints")
    damage(folder / "3")
    expected, bad = (3, "4") if (folder / "4").exists() else (2, "3")
    # Looking does not change the folder; going on sets aside what is in the way.
    for set_aside in (False, True):
        kept = Checkpoints(folder)
        with pytest.warns(UserWarning, match=f"checkpoints/{bad} is damaged .* update"):
            update, found, host = kept.restore(TREE, set_aside=set_aside)
        assert update == expected == host["metrics_size"]
        for name, leaf in tree(expected).items():
            np.testing.assert_array_equal(found[name], leaf)
        assert (folder / bad).exists() != set_aside
        if set_aside:
            kept.save(int(bad), tree(9), {"metrics_size": 9, "wall_s": 0.5})
        kept.close()
    kept = Checkpoints(folder)
    assert kept.restore(TREE)[2]["metrics_size"] == 9
    kept.close()


def test_runs_without_sums_are_read_too(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "checkpoints")
    for path in folder.glob("sums-*"):
        path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert Checkpoints(folder).restore(TREE)[0] == 3


def test_where_none_can_be_read_it_says_so(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "checkpoints")
    for update in ("2", "3"):
        flip(largest(folder / update))
    with pytest.raises(UserError, match=r"No checkpoint in .* put one back") as caught:
        Checkpoints(folder).restore(TREE, set_aside=True)
    assert "\n" not in str(caught.value) and (folder / "3").exists()
    assert Checkpoints(tmp_path / "none").restore(TREE) is None


@pytest.mark.parametrize(
    "error",
    [
        ValueError("RESOURCE_EXHAUSTED: ... No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
    ids=repr,
)
def test_a_full_disk_costs_no_checkpoint(saved, tmp_path, monkeypatch, error):
    """tensorstore raises a ValueError; older checkpoints stay."""
    folder = shutil.copytree(saved, tmp_path / "checkpoints")
    kept = Checkpoints(folder)

    def full(*_, **__):
        raise error

    monkeypatch.setattr(kept._manager, "save", full)
    with pytest.raises(UserError, match=r"Cannot write to .* (space|quota)"):
        kept.save(4, tree(4), {"metrics_size": 4, "wall_s": 0.5})
    monkeypatch.undo()
    assert kept.restore(TREE)[0] == 3
    kept.close()


def test_other_errors_of_saving_are_ours(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path)

    def wrong(*_, **__):
        raise ValueError("no such leaf")

    monkeypatch.setattr(kept._manager, "save", wrong)
    monkeypatch.setattr(checkpoints, "_FULL_BYTES", 0)
    with pytest.raises(ValueError, match="no such leaf"):
        kept.save(1, tree(1), {})
