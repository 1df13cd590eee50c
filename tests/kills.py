"""Kills tiny runs of every family, lets them go on, and compares them bit for bit.

    python tests/kills.py                        # every family, 12 kills each: hours
    python tests/kills.py --families sfl iql --kills 30 --seed 1
    python tests/kills.py --kills 0 --moments 20 # minutes: one process for each family
    python tests/kills.py --kills 0 --disk 12    # on disks that are full (Linux)
    python tests/kills.py --kills 0 --memory     # resident memory over 2,000 updates
    python tests/kills.py --kills 0 --sweep      # a sweep whose workers are killed

A family's run is trained once undisturbed, which also tells what it does to its files.
Copies of it are then killed by SIGKILL, each several times: at such an operation, drawn
from those of a stage (it was not done yet, what it was to name is half written, or a
moment later), at a random time, and after DONE. The last process goes on to DONE. Then
metrics without clocks, evaluations, policies, levels, checkpoints, exported files and
pictures must be those of the undisturbed run, and no other file may lie about.

Results go to `results.jsonl` in the folder of --work; a second call goes on from there,
and every call ends with a table of all. Exit code 1: something differed. CI runs the
short form, in `test_runner.py`.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tiny import TINY_MAZE, TINY_TASKS, without_lpg

#: What differs between two runs of the same settings, and only that.
CLOCKS = ["wall_s", "steps_per_s"]
_HERE = Path(__file__).resolve()

# Families.

_RUN: dict[str, Any] = {
    "n_updates": 6,
    "log_every": 1,
    "eval_every": 2,
    "checkpoint_every_s": 0.0,
    "keep_policies": True,
    "progress": False,
}
_CURRICULUM = TINY_MAZE | {"n_envs": 4, "n_epochs": 1, "buffer_size": 16}
_CURRICULUM |= {"min_fill": 0.1, "channels": 8, "head_size": 8} | _RUN
# Levels of a file: their size is given, and so is how many there are.
_GIVEN = {k: v for k, v in _CURRICULUM.items() if k not in ("height", "width")}
_GIVEN |= {"buffer_size": 520}
_META = TINY_TASKS | {"n_inner": 2, "n_members": 4} | _RUN
_OFFLINE = {
    "steps_per_update": 2,
    "actor_units": 8,
    "critic_units": 8,
    "actor_layers": 1,
    "critic_layers": 1,
    "batch_size": 8,
    "eval_episodes": 1,
    "n_eval_levels": 2,
    "n_heldout": 2,
    "n_members": 2,
    "n_elites": 2,
    "model_units": 8,
    "model_layers": 1,
    "model_updates": 1,
    "seeker_updates": 1,
    "n_rollouts": 8,
    "token_size": 8,
    "context": 4,
    "n_blocks": 1,
    "max_steps": 12,
} | _RUN
_RESET_FREE = _OFFLINE | {
    "offline_updates": 2,
    "online_updates": 2,
    "classifier_updates": 1,
    "adapt_updates": 1,
    "n_attempts": 2,
    "reset_every": 12,
    "cql_actions": 1,
    "classifier_units": 8,
    "classifier_layers": 1,
}

#: Algorithm, environment (none: the dataset's), preset and settings of each; those that
#: an algorithm does not have are left out.
FAMILIES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "dr": ("dr", "maze", "quick", _CURRICULUM),
    "accel": ("accel", "maze", "quick", _CURRICULUM | {"heldout": "uniform"}),
    "paired": ("paired", "maze", "quick", _CURRICULUM | {"n_blocks": 3}),
    "sfl": ("sfl", "maze", "quick", _CURRICULUM),
    "vae-dred": ("vae-dred", "cave", "quick", _GIVEN),
    "lpg": ("lpg", "grid_tasks", "", _META),
    "groove": ("groove", "grid_tasks", "", _META | {"buffer_size": 16}),
    "ta-lpg": ("ta-lpg", "grid_tasks", "", without_lpg(_META)),
    "sac": ("sac", "pointmaze", "", _OFFLINE),
    "iql": ("iql", "", "", _OFFLINE),
    "mopo": ("mopo", "", "", _OFFLINE),
    "mobile": ("mobile", "", "", _OFFLINE),
    "cocoa": ("iql", "", "", _OFFLINE | {"cocoa": True}),
    "decision-transformer": ("decision-transformer", "", "", _OFFLINE),
    "reset-free": ("reset-free", "", "", _RESET_FREE),
}


def command(family: str, data: dict[str, Path], **more: Any) -> list[str]:
    """The flags of `rlgen train` for a run of a family.

    Args:
      data: datasets by environment.
    """
    from rlgen import config as configs
    from rlgen import training

    algorithm, env, preset, settings = FAMILIES[family]
    flags = {}
    if not env:
        path = data["tabletop" if family == "reset-free" else "pointmaze"]
        flags = {"data": str(path)}
    known = configs.flatten(
        training.make_config(algorithm, env, preset, flags, flags=flags)
    )
    values = {k: v for k, v in settings.items() if k in known} | flags | more
    if family == "reset-free":  # its stages say how many
        values.pop("n_updates", None)
    words = [algorithm]
    words += [f"--env={env}"] if env else []
    words += [f"--preset={preset}"] if preset else []
    return words + [f"--{k.replace('_', '-')}={v}" for k, v in values.items()]


def make_data(folder: Path) -> dict[str, Path]:
    """Small datasets for those who learn from one."""
    made = {"pointmaze": folder / "pointmaze/few-v0"}
    made["tabletop"] = folder / "tabletop/few-v0"

    def point_maze():
        from rlgen import cli

        few = ["--transitions=600", "--n-levels=4", "--max-steps=60"]
        where = ["--name=pointmaze/few-v0", f"--out={folder}"]
        return cli.main(
            ["collect", "pointmaze", "--controller=waypoints", *few, *where]
        )

    def table():
        from reset_free_data import record_table

        record_table(made["tabletop"])
        return 0

    for path, make in ((made["pointmaze"], point_maze), (made["tabletop"], table)):
        if not path.exists():
            log = folder / f"{path.parent.name}.log"
            folder.mkdir(parents=True, exist_ok=True)
            assert wait(fork(make, log)) == 0, last_line(log)
    return made


# What a process does to the files of a run.

_STAGES = {
    "config.yaml": "start",
    "run.json": "start",
    ".lock": "start",
    "levels": "levels",
    "metrics.jsonl": "metrics",
    "policies": "policies",
    "eval": "evaluation",
    "checkpoints": "checkpoint",
    "figures": "pictures",
    "metrics.parquet": "end",
    "DONE": "end",
}
#: In the order in which a run comes to them last.
STAGES = (
    *("start", "levels", "metrics", "policies", "evaluation", "checkpoint", "time"),
    *("export", "end", "pictures", "after"),
)


def stage_of(name: str) -> str:
    """The stage that writes a file of a run directory."""
    first, _, rest = name.partition("/")
    for known, stage in _STAGES.items():
        if first.lstrip(".").startswith(known.lstrip(".")):
            return stage if rest or "." in first or first.isupper() else "start"
    return "export" if first.endswith((".npz", ".npz.part")) else "start"


def changed(event: str, args: tuple) -> str | None:
    """The path that an audited event of Python is about to change, if it is one."""
    if event == "open":
        path, _, flags = args
        if not isinstance(path, str | bytes) or not flags & (os.O_RDWR | os.O_WRONLY):
            return None
        return os.fsdecode(path)
    if event == "os.rename":
        return _absolute(args[1], args[3])
    if event in ("os.remove", "os.rmdir"):
        return _absolute(args[0], args[1])
    if event == "os.mkdir":
        path = _absolute(args[0], args[2])
        return None if os.path.isdir(path) else path
    return None


def _absolute(path: Any, folder: int) -> str:
    path = os.fsdecode(path)
    if folder < 0 or os.path.isabs(path):
        return path
    return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)


class Watch:
    """Tells of every operation on files below a folder, before it is done.

    Python's own and those of its libraries, but for what tensorstore writes below a
    checkpoint that has no name yet. A process can have one; it stays to its end.

    Attributes:
      tell: is called with the event, its arguments and the name below the folder.
        What it does itself is not told; None tells nobody.
    """

    def __init__(self, folder: Path, tell: Callable[[str, tuple, str], None] | None):
        self.folder = os.path.realpath(folder)
        self.tell = tell
        self._telling = threading.local()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple) -> None:
        if self.tell is None or getattr(self._telling, "now", False):
            return
        if event != "open" and not event.startswith("os."):
            return
        self._telling.now = True
        try:
            path = changed(event, args)
            if path is None:
                return
            name = os.path.relpath(os.path.realpath(path), self.folder)
            if name.split("/")[0] != "..":
                self.tell(event, args, "" if name == "." else name)
        finally:
            self._telling.now = False


def halve(path: str | Path) -> None:
    """Leaves a file as if its writer had been killed in the middle."""
    if os.path.isfile(path):
        os.truncate(path, os.path.getsize(path) // 2)


def append_half(path: str | Path) -> None:
    """Leaves half a row at the end of metrics."""
    with open(path, "a") as file:
        file.write('{"kind": "train", "seed": 0, "upd')


def half(event: str, args: tuple) -> None:
    """Leaves what an operation is about to name as if half of it had been written."""
    if event == "os.rename":
        halve(args[0])
    elif event == "open" and os.fsdecode(args[0]).endswith("metrics.jsonl"):
        append_half(args[0])


@dataclasses.dataclass
class Kill:
    """When a process is to die.

    Attributes:
      stage: of `STAGES`.
      number: of the operation in it, from 0.
      how: "before" the operation, with `half` of it done, or "soon" after it.
      delay_s: how soon; from the start for the stages that only have a time.
    """

    stage: str
    number: int = 0
    how: str = "before"
    delay_s: float = 0.0

    def arm(self, folder: Path) -> None:
        """Has the calling process kill itself."""
        if self.stage in ("time", "after"):
            threading.Thread(target=self._later, daemon=True).start()
            return
        count = 0

        def tell(event: str, args: tuple, name: str) -> None:
            nonlocal count
            if stage_of(name) != self.stage:
                return
            count += 1
            if count != self.number + 1:
                return
            print(f"killed {self.how} {event} {name}", flush=True)
            if self.how == "soon":
                threading.Thread(target=self._later, daemon=True).start()
                return
            if self.how == "half":
                half(event, args)
            os.kill(os.getpid(), signal.SIGKILL)

        Watch(folder, tell)

    def _later(self) -> None:
        time.sleep(self.delay_s)
        os.kill(os.getpid(), signal.SIGKILL)


def plan(ops: dict[str, int], seconds: float, n: int, rng: random.Random) -> list[Kill]:
    """n kills of one run: each stage in turn, early ones first.

    Args:
      ops: operations of an undisturbed run by stage.
      seconds: that it took.
    """
    stages = [s for s in STAGES if s in ops or s in ("time", "after")]
    picked = stages + rng.choices([s for s in stages if s != "after"], k=n)
    if n < len(stages):
        picked = rng.sample(stages, n)
    kills = []
    for stage in sorted(picked[:n], key=STAGES.index):
        if stage in ("time", "after"):
            longest = seconds if stage == "time" else min(1.0, seconds)
            kills.append(Kill(stage, delay_s=rng.uniform(0.0, longest)))
            continue
        # Of what is done again and again not the last: a run that goes on does less.
        again = stage in ("metrics", "policies", "evaluation", "checkpoint")
        count = max(1, ops[stage] // 3) if again else ops[stage]
        how = rng.choice(("before", "half", "soon"))
        kills.append(Kill(stage, rng.randrange(count), how, rng.uniform(0.0, 0.1)))
    return kills


# Moments of one process: what a kill leaves is what lies there.


def end(program: Any, config: Any, folder: Path) -> None:
    """Trains in a directory, from nothing or on, to DONE; draws nothing."""
    from rlgen import runner, training
    from rlgen.store import RunStore

    store = RunStore.open("", config.name, config, str(folder))
    training.save_levels(program.experiment, store)
    states = runner.run(program.experiment, config.run, store, program=program)
    program.experiment.export(program.gathered(states), store.path)
    store.finish()


def moments(
    program: Any, config: Any, place: Path, wanted: Callable[[str, str], bool]
) -> tuple[Path, list[Path]]:
    """A whole run, and copies of its directory at operations on its files.

    Args:
      place: a new folder for all of them.
      wanted: whether to copy, of an operation's stage and event. What is about to be
        named is half written there.

    Returns:
      the run's directory, and the copies.
    """
    whole, copies = place / "whole", []

    def copy(event: str, args: tuple, name: str) -> None:
        stage = stage_of(name)
        if not whole.exists() or not wanted(stage, event):
            return
        copies.append(place / f"{len(copies)}-{stage}-{event}")
        shutil.copytree(whole, copies[-1])
        if event == "os.rename":
            halve(copies[-1] / os.path.relpath(args[0], whole))
        elif stage == "metrics":
            append_half(copies[-1] / "metrics.jsonl")

    watch = Watch(whole, copy)
    try:
        end(program, config, whole)
    finally:
        watch.tell = None
    return whole, copies


# Processes. They are forked from one that has imported everything and run nothing.


def fork(act: Callable[[], int], log: Path) -> int:
    """Runs a function in a process of its own, which says all to a file; its number."""
    from jax._src import xla_bridge  # not public: a fork has none of its threads

    assert not xla_bridge.backends_are_initialized()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = act()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, timeout_s: float = 1200.0) -> int:
    """The exit code of a fork, or minus the signal that killed it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"process {pid} does not end")


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").split("\n") if line]
    return lines[-1] if lines else "it said nothing"


def train(flags: list[str], folder: Path, kill: Kill | None = None) -> int:
    """Trains in a run directory as the command does; for a fork."""
    from rlgen import cli

    if kill is not None:
        kill.arm(folder)
    return cli.main(["train", *flags, f"--run-dir={folder}"])


def recorded(flags: list[str], folder: Path, result: Path) -> int:
    """`train`, and notes how many operations of each stage there were."""
    ops: list[list[str]] = []
    watch = Watch(folder, lambda event, args, name: ops.append([event, name]))
    begin = time.monotonic()
    code = train(flags, folder)
    watch.tell = None
    seconds = time.monotonic() - begin
    result.write_text(json.dumps({"ops": ops, "seconds": seconds}))
    return code


# Comparison.


def names_of(folder: Path) -> set[str]:
    """Files of a run directory, and its newest checkpoint, whatever is inside.

    One that is older may be of any update, and others are too many.
    """
    files = (path for path in folder.rglob("*") if not path.is_dir())
    names = {path.relative_to(folder).as_posix() for path in files}
    updates = {path.name for path in (folder / "checkpoints").iterdir()}
    whole = sorted((name for name in updates if name.isdigit()), key=int)
    # Beside it are its sums, unless a kill came between the two.
    sums = {f"sums-{name}.json" for name in whole[-2:]}
    kept = {*whole[-1:], *(updates - set(whole[-2:]) - sums)}
    return {name for name in names if not name.startswith("checkpoints/")} | {
        f"checkpoints/{name}" for name in kept
    }


def frame(path: Path) -> pd.DataFrame:
    """A table without clocks."""
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        table = pd.read_json(path, lines=True)
    return table.drop(columns=CLOCKS, errors="ignore")


def arrays(path: Path) -> dict[str, np.ndarray]:
    """What a file of arrays holds, less what was said about them."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name != "about"}


def checkpoint(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by name, as they lie on the disk."""
    import jax
    import orbax.checkpoint as ocp

    handler = ocp.PyTreeCheckpointer()
    state = handler.restore(path / "state", ocp.args.PyTreeRestore(restore_args=None))
    return {
        jax.tree_util.keystr(at): np.asarray(
            jax.random.key_data(x)
            if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
        )
        for at, x in jax.tree_util.tree_leaves_with_path(state)
    }


def same_arrays(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Equal names, types and bits."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and a[name].tobytes() == b[name].tobytes()
        for name in a
    )


def differences(whole: Path, other: Path) -> list[str]:
    """What differs between two finished run directories, in words; nothing, if good."""
    ours, theirs = names_of(whole), names_of(other)
    said = [f"lost: {name}" for name in sorted(ours - theirs)]
    said += [f"left behind: {name}" for name in sorted(theirs - ours)]
    for name in sorted(ours & theirs):
        a, b = whole / name, other / name
        if name in (".lock", "config.yaml"):  # numbers of processes, paths
            same = True
        elif name == "run.json":
            facts = [json.loads(path.read_text()) for path in (a, b)]
            keys = ("status", "update", "env_steps", "config_hash", "format")
            same = all(facts[0].get(key) == facts[1].get(key) for key in keys)
        elif name.startswith("checkpoints/"):
            same = same_arrays(checkpoint(a), checkpoint(b))
        elif a.suffix in (".parquet", ".jsonl"):
            same = frame(a).equals(frame(b))
        elif a.suffix == ".npz":
            same = same_arrays(arrays(a), arrays(b))
        else:
            same = a.read_bytes() == b.read_bytes()
        if not same:
            said.append(f"differs: {name}")
    return said


def compared(whole: Path, other: Path, log: Path, result: Path) -> list[str]:
    """`differences`, found in a fork that writes them to a file."""

    def act() -> int:
        result.write_text(json.dumps(differences(whole, other)))
        return 0

    if wait(fork(act, log)) != 0:
        return [f"cannot be compared: {last_line(log)}"]
    return json.loads(result.read_text())


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a run directory, but the number of who looked at it last."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files if path.name != ".lock"}


# The campaigns.


_LAST = ["moments", "disks", "differ"]


class Failed(Exception):
    """A run that nobody disturbed did not end well."""


class Campaign:
    """Kills of one call, and what is known from those before."""

    def __init__(self, work: Path, seed: int):
        self.work = work
        self.seed = seed
        self.results = work / "results.jsonl"
        self.data = make_data(work / "data")

    def rows(self) -> list[dict[str, Any]]:
        if not self.results.exists():
            return []
        return [json.loads(line) for line in self.results.read_text().splitlines()]

    def note(self, **row: Any) -> None:
        with self.results.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def reference(self, family: str) -> tuple[Path, list[str], dict[str, Any]]:
        """The undisturbed run of a family, its flags, and what it did."""
        place = self.work / family
        place.mkdir(parents=True, exist_ok=True)
        flags = command(family, self.data)
        whole, result = place / "whole", place / "whole.json"
        if not result.exists():
            shutil.rmtree(whole, ignore_errors=True)
            log = place / "whole.log"
            act = functools.partial(recorded, flags, whole, result)
            code = wait(fork(act, log))
            if code:
                raise Failed(f"{family} ended with {code}: {last_line(log)}")
        return whole, flags, json.loads(result.read_text())

    def kill(self, family: str, n_kills: int) -> None:
        """Kills runs of a family until there were `n_kills` of them."""
        if not n_kills:
            return
        whole, flags, about = self.reference(family)
        stages = [stage_of(name) for _, name in about["ops"]]
        ops = collections.Counter(stages)
        ops["start"] = stages[: stages.index("metrics")].count("start")
        while True:
            rows = [r for r in self.rows() if r["family"] == family]
            rows = [row for row in rows if row["seed"] == self.seed]
            done = sum(len(row["kills"]) for row in rows)
            if done >= n_kills:
                return
            number = len(rows)
            rng = random.Random(f"{family} {self.seed} {number}")
            kills = plan(ops, about["seconds"], n_kills - done, rng)
            place = self.work / family / f"seed{self.seed}-{number}"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            died, said = self._chain(whole, flags, place, kills)
            row = {"family": family, "seed": self.seed, "kills": died, "said": said}
            self.note(**row)
            verdict = "; ".join(said) or "the same"
            print(f"{family}: {len(died)} kills, {verdict}", flush=True)
            if said:  # to be looked at; the next would say the same
                return
            shutil.rmtree(place)

    def _chain(
        self, whole: Path, flags: list[str], place: Path, kills: Iterable[Kill]
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Kills one run again and again, and lets it end; who died, what differs."""
        folder, died, said = place / "run", [], []

        def attempt(i: int, kill: Kill | None) -> int:
            log = place / f"{i}.log"
            # What goes on saves at other updates, as clocks have it.
            seconds = 0.0 if kill and kill.stage == "checkpoint" else 3600.0
            saves = [f"--checkpoint-every-s={seconds if i % 2 else 0.0}"]
            act = functools.partial(train, flags + saves, folder, kill)
            code = wait(fork(act, log))
            if kill is not None and code == -signal.SIGKILL:
                at = last_line(log) if kill.stage not in ("time", "after") else ""
                at = at if at.startswith("killed") else ""
                died.append(dataclasses.asdict(kill) | {"at": at})
            elif code != 0:
                said.append(f"ended with {code}: {last_line(log)}")
            return code

        kills, after = list(kills), None
        if kills and kills[-1].stage == "after":
            after = kills.pop()
        for i, kill in enumerate(kills):
            if attempt(i, kill) == 0:
                break  # it came to its end first
        else:  # pictures may be missing, even if it is DONE
            if not said:
                attempt(len(kills), None)
        if said:
            return died, said
        said += compared(
            whole, folder, place / "compared.log", place / "differences.json"
        )
        if after is not None:
            before = bytes_of(folder)
            attempt(len(kills) + 1, after)
            if bytes_of(folder) != before:
                said.append("changed after DONE")
        return died, said

    def print_table(self) -> int:
        """Kills by family and stage, and what differed; how many runs did."""
        rows = self.rows()
        table: dict[str, collections.Counter] = collections.defaultdict(
            collections.Counter
        )
        for row in rows:
            counts = table[row["family"]]
            counts["moments"] += row.get("moments", 0)
            counts["disks"] += "disk" in row
            counts["runs"] += 1
            counts["differ"] += bool(row["said"])
            counts.update(kill["stage"] for kill in row["kills"])
        if not table:
            return 0
        shown = pd.DataFrame(table).T.reindex(columns=["runs", *STAGES, *_LAST])
        shown = shown.fillna(0).astype(int)
        shown.insert(1, "kills", shown[list(STAGES)].sum(axis=1))
        shown.loc["all"] = shown.sum()
        print(shown.to_string())
        for row in rows:
            for text in row["said"]:
                print(f"{row['family']} (seed {row['seed']}): {text}")
        return int(shown.loc["all", "differ"])

    def look(self, family: str, n_moments: int) -> None:
        """Goes on from what lies there at moments of one process, without killing it.

        Many more than `kill` in the same time: nothing is compiled again.
        """
        if not n_moments:
            return
        rng = random.Random(f"{family} {self.seed} moments")
        flags = command(family, self.data)
        place, log = self.work / family / "moments", self.work / family / "moments.log"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        result = place / "differences.json"

        def act() -> int:
            from rlgen import cli, config, programs

            often = cli.train_config(flags)
            seldom = config.override(often, {"checkpoint_every_s": 3600.0}, "here")
            program = programs.Program(programs.Plan(often.build(), often.run))
            count = collections.Counter()

            def chosen(stage: str, event: str) -> bool:
                count["all"] += 1
                # A run has about 20 operations an update.
                return rng.random() < n_moments / (20 * often.run.n_updates)

            whole, copies = moments(program, often, place, chosen)
            said = []
            for path in copies:
                end(program, rng.choice((often, seldom)), path)
                said += [f"{path.name}: {x}" for x in differences(whole, path)]
            told = {"moments": len(copies), "of": count["all"], "said": said}
            result.write_text(json.dumps(told))
            return 0

        code = wait(fork(act, log), 3600.0)
        if code:
            raise Failed(f"{family} ended with {code}: {last_line(log)}")
        told = json.loads(result.read_text())
        verdict = "; ".join(told["said"]) or "the same"
        print(f"{family}: {told['moments']} moments of {told['of']}, {verdict}")
        self.note(family=family, seed=self.seed, kills=[], **told)
        if not told["said"]:
            shutil.rmtree(place)

    def fill_disk(self, family: str, n_disks: int) -> None:
        """Trains on disks too small, frees space, goes on; in a namespace of its own.

        Nothing may be lost: the run goes on from the newest checkpoint that was whole.
        """
        if not n_disks:
            return
        whole, flags, _ = self.reference(family)
        rng = random.Random(f"{family} {self.seed} disk")
        pages = [-(-p.stat().st_size // 4096) + 1 for p in whole.rglob("*")]
        for i in range(n_disks):
            # What a run needs at most is a checkpoint more than what it leaves.
            size = 4096 * int(sum(pages) * (i + rng.random()) / n_disks)
            disk = self.work / family / f"disk-{i}"
            disk.mkdir(parents=True, exist_ok=True)
            folder, log = disk / "run", disk.with_suffix(".log")
            log.unlink(missing_ok=True)
            mount = ["mount", "-t", "tmpfs", "-o", f"size={max(size, 4096)}"]
            subprocess.run([*mount, "tmpfs", str(disk)], check=True)
            code = wait(fork(functools.partial(train, flags, folder), log))
            how, found = last_line(log), list(folder.glob("checkpoints/*"))
            updates = [int(path.name) for path in found if path.name.isdigit()]
            done = (folder / "DONE").exists()
            grow = ["mount", "-o", "remount,size=1g", str(disk)]
            subprocess.run(grow, check=True)
            again = wait(fork(functools.partial(train, flags, folder), log))
            said = [f"ended with {again}: {last_line(log)}"] if again else []
            if not said:
                facts = json.loads((folder / "run.json").read_text())
                resumed = facts["resumed_at"]
                newest = max(updates, default=0)
                if not done and resumed != newest:
                    said.append(f"lost: went on from {resumed}, not {newest}")
                result = disk.with_suffix(".differences")
                said += compared(whole, folder, log, result)
            print(f"{family} on {size:,} bytes: code {code}, {how}", flush=True)
            subprocess.run(["umount", str(disk)], check=True)
            self.note(family=family, seed=self.seed, kills=[], said=said, disk=size)

    def measure_memory(self, family: str) -> bool:
        """Whether a run holds as much at update 2,000 as at 200, up to 5 %."""
        place = self.work / family / "memory"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        more = {"n_updates": 2000, "log_every": 10, "eval_every": 100}
        more |= {"checkpoint_every_s": 2.0, "keep_policies": False, "pictures": False}
        flags = command(family, self.data, **more)
        result = place / "bytes.json"
        code = wait(fork(functools.partial(held, flags, place, result), place / "log"))
        assert code == 0, last_line(place / "log")
        at = {int(k): v for k, v in json.loads(result.read_text()).items()}
        ratio = at[2000] / at[200]
        shown = ", ".join(f"{at[u] / 2**20:.1f}" for u in sorted(at) if u % 200 == 0)
        print(f"{family}: {shown} MiB every 200 updates; {ratio:.4f} times", flush=True)
        return abs(ratio - 1) <= 0.05


def held(flags: list[str], folder: Path, result: Path) -> int:
    """`train`, and notes the resident memory as rows of metrics are written."""
    import psutil

    from rlgen.store import RunStore

    append, at = RunStore.append_metrics, {}

    def append_and_look(self, rows):
        append(self, rows)
        at[rows[0]["update"]] = psutil.Process().memory_info().rss

    RunStore.append_metrics = append_and_look
    gc.set_threshold(700, 10, 10)  # as without tests
    code = train(flags, folder / "run")
    result.write_text(json.dumps(at))
    return code


def in_namespace() -> None:
    """Goes on where mounting is allowed and nobody else sees it."""
    if os.environ.get("RLGEN_KILLS_MOUNTS") != "1":
        os.environ["RLGEN_KILLS_MOUNTS"] = "1"
        os.execvp("unshare", ["unshare", "-rm", sys.executable, *sys.argv])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--kills", type=int, default=12, help="of each family")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills")
    parser.add_argument("--work", default="", help="folder (default: in /tmp)")
    parser.add_argument("--moments", type=int, default=0, help="about, of each family")
    parser.add_argument("--disk", type=int, default=0, help="full disks for each")
    parser.add_argument("--memory", action="store_true", help="measure it, for dr")
    parser.add_argument("--sweep", action="store_true", help="kill workers of a sweep")
    options = parser.parse_args(argv)
    if options.disk:
        in_namespace()
    work = Path(options.work or Path(tempfile.gettempdir()) / "rlgen-kills").resolve()
    work.mkdir(parents=True, exist_ok=True)
    prepare(work)
    campaign = Campaign(work, options.seed)
    bad = False
    for family in options.families:
        try:
            campaign.kill(family, options.kills)
            campaign.look(family, options.moments)
            campaign.fill_disk(family, options.disk)
        except Failed as error:
            print(error, flush=True)
            bad = True
    bad |= campaign.print_table() > 0
    if options.memory:
        bad |= not campaign.measure_memory("dr")
    if options.sweep:
        tests = [str(_HERE.parent / "sweep" / "test_workers.py"), "-k", "killed"]
        command_ = [sys.executable, "-m", "pytest", "-n", "0", *tests]
        bad |= subprocess.run(command_, cwd=_HERE.parents[1]).returncode != 0
    return int(bad)


def prepare(work: Path) -> None:
    """Settings and imports that forks share; nothing runs on a device yet."""
    import conftest  # noqa: F401  compiles as tests do
    import jax

    from rlgen import cli, collect, registry, reports, runner, training  # noqa: F401

    # Not that of the tests: a killed write may leave half of a program in it.
    jax.config.update("jax_compilation_cache_dir", str(work / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    for name in registry.names(registry.ALGORITHMS):
        registry.load(registry.ALGORITHMS, name)


if __name__ == "__main__":
    sys.exit(main())
