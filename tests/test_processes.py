"""Processes of one run: killed, preempted, resumed by fewer; the same bits."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import assert_same_bits

from rlgen import training
from rlgen.cli import main
from rlgen.errors import UserError

SCRIPT = Path(__file__).parent / "on_processes.py"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(folder, n_processes, **signals):
    """Runs all processes; their exit codes and what they printed.

    `signals` are (chunk, signal) by "process_<number>".
    """
    coordinator = f"127.0.0.1:{free_port()}"
    started = [
        subprocess.Popen(
            [
                *(sys.executable, SCRIPT, folder, coordinator),
                *(str(n_processes), str(process)),
                *map(str, signals.get(f"process_{process}", ())),
            ],
            cwd=SCRIPT.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(n_processes)
    ]
    # The last of it: first come all settings.
    said = [process.communicate(timeout=900)[0][-3000:] for process in started]
    return [process.returncode for process in started], said


def states(folder):
    return training.restore(*training.load_run(folder))[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run that nobody disturbed, by one process; and one of many fates."""
    base = tmp_path_factory.mktemp("processes")
    alone, many = base / "alone", base / "many"
    codes, said = together(alone, 1)
    assert codes == [0], said
    # The second dies in the middle of the third chunk.
    killed = together(many, 2, process_1=(3, int(signal.SIGKILL)))
    first_rows = (many / "metrics.jsonl").read_text()
    # Then the second alone is told to stop.
    stopped = together(many, 2, process_1=(2, int(signal.SIGTERM)))
    ended = together(many, 1)
    return {
        "alone": alone,
        "many": many,
        "killed": killed,
        "first_rows": first_rows,
        "stopped": stopped,
        "ended": ended,
    }


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others(runs):
    codes, said = runs["killed"]
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, None), said[0]
    assert len(runs["first_rows"].splitlines()) >= 2


@pytest.mark.slow
def test_a_signal_to_one_stops_all_of_them_at_the_same_update(runs):
    codes, said = runs["stopped"]
    assert codes == [128 + signal.SIGTERM] * 2, said
    for text in said:
        assert "stopped by SIGTERM; run the same command again" in text


@pytest.mark.slow
def test_fewer_processes_go_on_to_the_same_bits(runs):
    assert runs["ended"][0] == [0], runs["ended"][1]
    assert_same_bits(states(runs["alone"]), states(runs["many"]))


@pytest.mark.slow
def test_one_of_them_wrote_everything_once(runs):
    columns = ["kind", "seed", "update"]
    tables = [
        pd.read_json(runs[name] / "metrics.jsonl", lines=True)
        for name in ("alone", "many")
    ]
    clocks = ["wall_s", "steps_per_s"]
    ours, theirs = (table.drop(columns=clocks) for table in tables)
    assert not theirs.duplicated(columns).any()
    pd.testing.assert_frame_equal(ours, theirs)
    for file in sorted((runs["alone"] / "eval").glob("*.parquet")):
        twin = runs["many"] / "eval" / file.name
        pd.testing.assert_frame_equal(pd.read_parquet(file), pd.read_parquet(twin))
    for file in sorted((runs["alone"] / "policies").glob("*.npz")):
        with np.load(file) as a, np.load(runs["many"] / "policies" / file.name) as b:
            for name in set(a.files) - {"about"}:
                np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--processes", "2"], "2 processes need --coordinator HOST:PORT"),
        (["--processes", "2", "--process", "2"], "There is no process 2 of 2"),
        (["--coordinator", "auto"], "The processes of this run did not come together"),
    ],
)
def test_processes_that_cannot_come_together(flags, said, capsys, tmp_path):
    assert main(["train", "dr", *flags, "--out", str(tmp_path / "runs")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_devices_must_be_shared_out(monkeypatch):
    from rlgen import mesh

    monkeypatch.setattr(mesh.jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="1 devices cannot be shared out among 2 pro"):
        mesh.make(1, 1)
