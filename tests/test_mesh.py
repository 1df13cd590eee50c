"""Many devices: what is learned does not depend on how many; errors say why not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY_MAZE, assert_same_bits

from rlgen import mesh, training
from rlgen.errors import UserError
from rlgen.store import RunStore

#: Of float32 parameters and scores after six updates, where sums over environments are
#: taken in another order.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `on_devices.py` left in a process with eight devices."""
    folder = tmp_path_factory.mktemp("devices")
    script = Path(__file__).parent / "on_devices.py"
    subprocess.run([sys.executable, script, folder], check=True, cwd=script.parent)
    return folder


def leaves(folder, name):
    with np.load(folder / f"{name}.npz") as arrays:
        return dict(arrays)


@pytest.mark.slow
def test_seeds_on_devices_of_their_own_end_with_the_same_bits(folder):
    """Begun on four devices, stopped, and ended on one."""
    alone, spread = leaves(folder, "seeds-1"), leaves(folder, "seeds-resumed")
    assert alone.keys() == spread.keys() and len(alone) > 50
    assert_same_bits(alone, spread)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["envs", "lpg"])
def test_environments_on_eight_devices_learn_the_same(folder, what):
    """Sums over environments aside: the buffer holds the same levels, seen as often."""
    alone, spread = leaves(folder, f"{what}-1"), leaves(folder, f"{what}-8")
    assert alone.keys() == spread.keys()
    for name, x in alone.items():
        if np.issubdtype(x.dtype, np.floating):
            np.testing.assert_allclose(x, spread[name], atol=TOLERANCE, err_msg=name)
        else:
            np.testing.assert_array_equal(x, spread[name], name, strict=True)


@pytest.mark.slow
def test_environments_are_really_parted(folder):
    """The compiled update sums gradients over devices, each of two environments."""
    text = (folder / "update.txt").read_text()
    assert "all-reduce" in text
    assert "f32[1,8,2]" in text  # rewards of 8 steps, two environments on each device


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads there")
def test_devices_of_a_cpu_have_threads_to_wait_in(folder):
    """With one a device, two of three runs waited for themselves, and were aborted."""
    assert int((folder / "threads.txt").read_text()) == 8 * 8


@pytest.mark.slow
def test_what_cannot_be_spread_is_said(folder):
    said = (folder / "refused.txt").read_text().splitlines()
    assert len(said) == 3
    assert said[0].startswith("6 environments or examples cannot be spread over 8")
    assert said[1].startswith("Only seeds can be spread here, and 1 cannot be divided")
    assert said[2] == "There are 8 devices, not 9: lower --devices."


@pytest.mark.slow
def test_the_command_line_provides_the_devices_of_a_cpu(tmp_path):
    """In a process where nobody has asked for devices before."""
    settings = TINY_MAZE | {"seeds": 2, "n_envs": 4, "n_updates": 2, "devices": 2}
    settings |= {"progress": False, "pictures": False, "run_dir": tmp_path / "run"}
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in settings.items()]
    command = [sys.executable, "-m", "rlgen.cli", "train", "dr", "--preset", "quick"]
    subprocess.run([*command, *flags], check=True, cwd=tmp_path)
    assert RunStore(tmp_path / "run").read_run()["devices"] == 2


def test_more_devices_than_there_are():
    with pytest.raises(UserError, match="There are 1 devices, not 2: lower --devices"):
        mesh.make(2, 2)
    with pytest.raises(UserError, match="devices is 0: choose at least 1"):
        training.make_config("dr", settings={"devices": 0})


def test_devices_are_no_part_of_what_a_run_computes():
    from rlgen.config import config_hash

    one, two = (training.make_config("dr", settings={"devices": n}) for n in (1, 2))
    assert config_hash(one) == config_hash(two)
