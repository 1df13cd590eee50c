"""Sweeps that run: workers, failures, and cells that are killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from rlgen.errors import BUSY, Busy, UserError
from rlgen.files import Lock
from rlgen.store import RunStore
from rlgen.sweep import local, workers

TINY = """
  env: {value: maze}
  preset: {value: quick}
  n_envs: {value: 4}
  n_steps: {value: 8}
  n_minibatches: {value: 2}
  n_epochs: {value: 1}
  core_size: {value: 8}
  buffer_size: {value: 16}
  min_fill: {value: 0.1}
  height: {value: 5}
  width: {value: 5}
  max_walls: {value: 5}
  max_steps: {value: 8}
  n_heldout: {value: 4}
  eval_episodes: {value: 1}
  log_every: {value: 1}
  pictures: {value: false}
"""
GRID = """
method: grid
parameters:
  algorithm: {value: dr}
  seed: {values: [0, 1, 2]}
  n_updates: {value: 12}
  eval_every: {value: 4}
  checkpoint_every_s: {value: 0.0}
""" + TINY.lstrip("\n")


def write(tmp_path, text):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return str(path)


def bits(folder: Path) -> dict[str, tuple]:
    """What each run of a folder learned and wrote, less what time says."""
    found = {}
    for path in sorted(folder.glob("*/DONE")):
        store = RunStore(path.parent)
        metrics = store.read_metrics().drop(columns=["wall_s", "steps_per_s"])
        evals = {p.name: pd.read_parquet(p) for p in store.eval_dir.glob("*")}
        checkpoint = sorted(
            (p.relative_to(store.checkpoint_dir), p.stat().st_size)
            for p in store.checkpoint_dir.glob("*/state/**/*")
            if p.is_file() and p.name == "_METADATA"
        )
        found[path.parent.name] = (metrics, evals, checkpoint)
    return found


def assert_same(a, b):
    assert a.keys() == b.keys() and a
    for name in a:
        pd.testing.assert_frame_equal(a[name][0], b[name][0], check_exact=True)
        assert a[name][1].keys() == b[name][1].keys()
        for file in a[name][1]:
            pd.testing.assert_frame_equal(
                a[name][1][file], b[name][1][file], check_exact=True
            )
        assert a[name][2] == b[name][2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sweep of three cells that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert local.run([write(folder, GRID)], {"out": [str(folder)]}, 2, ()) == 0
    return bits(folder)


def start(path, out):
    command = [sys.executable, "-m", "rlgen.cli", "sweep", path, "--workers", "2"]
    return subprocess.Popen(
        [*command, "--", "--out", str(out)], stderr=subprocess.PIPE, text=True
    )


def cells_that_run(out) -> list[int]:
    """Process numbers of the trainings below a sweep that writes to `out`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"train" in words and f"--out={out}".encode() in words:
            found.append(int(path.parent.name))
    return found


def wait_for(condition, process, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what}"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def begun(out):
    """Some cell is past its first evaluation and not at its end."""
    return any(
        not (path.parents[1] / "DONE").exists()
        for path in out.glob("*/eval/update_00000004.parquet")
    )


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_killed_workers_go_on_to_the_same_bits(tmp_path, whole, signum):
    """One worker dies in the middle; the others end; a second call completes it."""
    out, path = tmp_path / "runs", write(tmp_path, GRID)
    process = start(path, out)
    wait_for(lambda: begun(out), process, "cell in its middle")
    victim = cells_that_run(out)[0]
    os.kill(victim, signum)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"was stopped by {signum.name}" in err
    done = {p.parent: p.stat().st_mtime_ns for p in out.glob("*/DONE")}
    assert len(done) == 2  # the others were not stopped
    assert local.run([path], {"out": [str(out)]}, 2, ()) == 0
    assert_same(bits(out), whole)
    for folder, when in done.items():  # no cell ran twice to completion
        assert (folder / "DONE").stat().st_mtime_ns == when


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_sweep_goes_on_to_the_same_bits(tmp_path, whole, signum):
    """SIGTERM saves all cells; after SIGKILL those left alone are waited for."""
    out, path = tmp_path / "runs", write(tmp_path, GRID)
    process = start(path, out)
    wait_for(lambda: begun(out), process, "cell in its middle")
    left = cells_that_run(out)
    process.send_signal(signum)
    process.wait(timeout=300)
    if signum == signal.SIGTERM:
        assert process.returncode == 128 + signum and not cells_that_run(out)
    assert left
    assert local.run([path], {"out": [str(out)]}, 2, ()) == 0
    assert_same(bits(out), whole)
    assert not cells_that_run(out)
    assert local.run([path], {"out": [str(out)]}, 2, ()) == 0  # at once


def test_a_failed_cell_does_not_stop_the_others(tmp_path, capfd):
    """What fails in its process is named with what it said."""
    text = (
        "method: grid\nparameters:\n  algorithm: {value: dr}\n  n_updates: {value: 2}\n"
        "  lr: {values: [1.0e+38, 1.0e-3]}\n" + TINY.lstrip("\n")
    )
    out = tmp_path / "runs"
    assert local.run([write(tmp_path, text)], {"out": [str(out)]}, 1, ()) == 1
    err = capfd.readouterr().err
    assert "not finite any more" in err and "failed: " in err
    assert "1 failed, 1 finished" in err
    assert len(list(out.glob("*/DONE"))) == 1


def test_a_search_goes_on_from_its_results(tmp_path, capfd):
    text = (
        "method: bayes\nrun_cap: 3\n"
        "metric: {name: eval_heldout_return, goal: maximize}\n"
        "parameters:\n  algorithm: {value: dr}\n  n_updates: {value: 2}\n"
        "  eval_split: {value: validation}\n"
        "  lr: {min: 0.0001, max: 0.01, distribution: log_uniform_values}\n"
        + TINY.lstrip("\n")
    )
    path, out = write(tmp_path, text), tmp_path / "runs"
    assert local.run([path], {"out": [str(out)]}, 1, ()) == 0
    first = capfd.readouterr()
    assert "3 finished" in first.err and "best eval_heldout_return" in first.out
    assert len(list(out.glob("*/DONE"))) == 3
    assert local.run([path], {"out": [str(out)]}, 1, ()) == 0
    again = capfd.readouterr()
    assert "3 finished before" in again.err and again.out == first.out


def test_one_sweep_runs_once_at_a_time(tmp_path):
    """A second process is told who works on it, and can tell it from bad input."""
    path, out = write(tmp_path, GRID), str(tmp_path / "runs")
    (folder,) = {
        local.folder_of(out, [local.schema.read(path)], {"out": [out]})
        for _ in range(2)
    }
    with Lock(folder / "lock", "it"):
        with pytest.raises(Busy, match=f"by process {os.getpid()}") as caught:
            local.run([path], {"out": [out]}, 1, ())
        assert caught.value.code == BUSY
    with Lock(folder / "lock", "it"):
        pass


def test_cores_and_gpus_are_divided(monkeypatch):
    monkeypatch.setattr(workers, "_own_cores", lambda: {0, 1, 2, 5, 6})
    cores = [sorted(place.cores) for place in workers.places(2)]
    assert cores == [[0, 1], [2, 5, 6]]
    assert [p.gpu for p in workers.places(0, ["0", "3"])] == ["0", "3"]
    assert len(workers.places(0)) == 1
    for bad in ((3, ["0"]), (6, [])):
        with pytest.raises(UserError, match="workers"):
            workers.places(*bad)
