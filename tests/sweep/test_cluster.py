"""Sweeps through submitit, on its local executor, which requeues as SLURM does."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from sweep.test_workers import GRID, assert_same, begun, bits, write

from rlgen.errors import UserError
from rlgen.sweep import cluster, local

# Long enough that a signal finds it in the middle.
ONE = GRID.replace("[0, 1, 2]", "[0]").replace("{value: 12}", "{value: 48}")


@pytest.mark.slow
def test_a_preempted_job_is_requeued_and_ends_with_the_same_bits(tmp_path):
    path, out = write(tmp_path, ONE), tmp_path / "runs"
    whole = tmp_path / "whole"
    assert local.run([path], {"out": [str(whole)]}, 1, ()) == 0
    (job,) = cluster.submit([path], {"out": [str(out)]}, cluster="local")
    deadline = time.monotonic() + 120
    while not begun(out):
        assert time.monotonic() < deadline and not job.done(), job.stderr()
        time.sleep(0.02)
    controller = job._process.pid
    (task,) = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)  # as SLURM warns before it preempts
    job.result()  # of the job that was queued in its place
    resumed = [path.read_text() for path in out.glob("*/run.json")]
    assert len(resumed) == 1 and '"resumed_at": 0,' not in resumed[0]
    assert_same(bits(out), bits(whole))
    assert cluster.submit([path], {"out": [str(out)]}, cluster="local") == []


def test_what_cannot_be_submitted_is_said_in_one_sentence(tmp_path):
    path = write(tmp_path, GRID)
    with pytest.raises(UserError, match="NAME=VALUE"):
        cluster.parse_options(["timeout_min"])
    assert cluster.parse_options(["timeout_min=5", "slurm_partition=gpu"]) == {
        "timeout_min": 5,
        "slurm_partition": "gpu",
    }
    with pytest.raises(UserError, match="Cannot submit to slurm") as caught:
        cluster.submit([path], {})
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="Cannot submit to local"):
        cluster.submit([path], {}, {"partitino": "gpu"}, cluster="local")
    search = GRID.replace("method: grid", "method: random\nrun_cap: 2")
    with pytest.raises(UserError, match="is a search"):
        cluster.submit([write(tmp_path, search)], {})
