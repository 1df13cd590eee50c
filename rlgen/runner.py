"""Runs any experiment: compiled chunks, seeds, checkpoints, signals.

All that learns happens in one compiled program that advances every seed by up to K
updates. Between two calls of it a thin host loop writes the metrics of the chunk
before while the device works on the next, saves checkpoints and looks for signals.
The number of updates is an argument of the program, so chunks of any length, a
resumed run and the last short chunk all run the same code, bit for bit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from rlgen import processes, trees
from rlgen.checkpoints import Checkpoints
from rlgen.config import RunConfig
from rlgen.errors import UserError
from rlgen.experiment import EvalResult, Experiment
from rlgen.files import unwritable
from rlgen.programs import Plan, Program, Tally
from rlgen.store import Row, RunStore, Sink

if TYPE_CHECKING:
    import pandas as pd

PyTree = Any


class Preempted(Exception):
    """A signal asked the run to stop; everything needed to go on is saved."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


@contextlib.contextmanager
def preemptible() -> Iterator[None]:
    """SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C end the block at once, as `Preempted`.

    For what a loop of its own does not look for, and can be begun again. A second
    signal does what it did before.

    Raises:
      Preempted: a signal came.
    """

    def leave(signum: int) -> None:
        raise Preempted(signum)

    with _handling(leave):
        yield


@contextlib.contextmanager
def _handling(handle: Callable[[int], None]) -> Iterator[None]:
    """Calls a function for the first of the signals that ask a run to stop."""
    old = {}

    def first(signum, frame):
        del frame
        signal.signal(signum, old[signum])
        handle(signum)

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        try:
            old[signum] = signal.signal(signum, first)
        except ValueError:  # not the main thread: its owner handles signals
            break
    try:
        yield
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


class NonFinite(UserError):
    """The loss or the parameters stopped being finite."""


def policy_file(run_dir: Path, update: int) -> Path:
    """Where a run with `keep_policies` keeps all seeds' policies [S, ...] of then."""
    return run_dir / "policies" / f"update_{update:08d}.npz"


def read_policy(run_dir: Path, update: int, template: PyTree) -> PyTree:
    """All seeds' policies [S, ...] that a run kept after an update.

    Args:
      template: policies of the same run, for structure and shapes.

    Raises:
      UserError: it kept none then, or one of other shapes.
    """
    path = policy_file(run_dir, update)
    arrays, _ = trees.read(path, "a kept policy: train the run again")
    return trees.fit(arrays, template, path)


@contextlib.contextmanager
def catch_signals() -> Iterator[Callable[[], int | None]]:
    """Turns SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C into a flag that the host loop reads.

    A second signal is not caught: whoever sends it wants out at once.
    """
    received: list[int] = []
    with _handling(received.append):
        yield lambda: received[0] if received else None


def use_compile_cache(folder: str | None = None) -> None:
    """Keeps compiled programs in the user's cache folder, for sweeps and resumes.

    Small ones too: building an experiment compiles more than a hundred, op by op, which
    take seconds together. Set RLGEN_COMPILE_CACHE to another folder, or to "off".

    Args:
      folder: instead of all these.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "rlgen" / "xla"
    folder = folder or os.environ.get("RLGEN_COMPILE_CACHE", str(default))
    if folder == "off":
        return
    jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def run(
    experiment: Experiment,
    config: RunConfig,
    store: RunStore,
    sinks: Sequence[Sink] = (),
    program: Program | None = None,
) -> PyTree:
    """Trains to the end, or on from the last checkpoint; returns the states [S, ...].

    Args:
      sinks: what rows go to beside the files. Who opened them closes them: there may
        be pictures to come (`rlgen.sinks.closing`).

    Raises:
      Preempted: a signal came; a checkpoint was saved.
      NonFinite: the loss or parameters became NaN; the last checkpoint is from before.
      UserError: the run directory cannot be written any more.
    """
    program = program or Program(Plan(experiment, config))
    processes.meet()  # one of them may have compiled for longer
    checkpoints = Checkpoints(store.checkpoint_dir, sweeps=True)
    status = "failed"
    try:
        with catch_signals() as stop_signal:
            loop = _Loop(program, config, store, sinks, checkpoints, stop_signal)
            states = loop.run()
        status = "done"
        return states
    except Preempted:
        status = "preempted"
        raise
    except OSError as error:
        raise unwritable(store.path, error) from error
    finally:
        checkpoints.close()
        with contextlib.suppress(OSError, UserError):
            if status != "done":  # `finish` marks a run as done
                store.update_run(status=status)


class _Loop:
    """The host's side of one run."""

    def __init__(self, program, config, store, sinks, checkpoints, stop_signal):
        self.program: Program = program
        self.config: RunConfig = config
        self.store: RunStore = store
        self.sinks: Sequence[Sink] = sinks
        self.checkpoints: Checkpoints = checkpoints
        self.stop_signal: Callable[[], int | None] = stop_signal
        self.wall_s = 0.0
        self.clock = time.perf_counter()
        self.last_row_s = 0.0
        self.last_row_update = 0

    def run(self) -> PyTree:
        update, states = self._begin()
        last_save = time.perf_counter()
        pending: tuple[int, int, Tally] | None = None
        while update < self.config.n_updates:
            n_updates = self._chunk_length(update)
            states, tally = self.program.chunk(states, n_updates)
            if pending is not None:
                self._write_rows(*pending)
            pending = (update, n_updates, tally)
            update += n_updates
            is_end = update == self.config.n_updates
            evaluates = is_end or self._is_evaluated(update)
            # Signals reach one process, and clocks differ.
            stop, saves = processes.agree(
                self.stop_signal() or 0,
                time.perf_counter() - last_save > self.config.checkpoint_every_s,
            )
            if stop or evaluates or saves:
                # The state is looked at only after its metrics said that it is sane.
                self._write_rows(*pending)
                pending = None
            if evaluates:
                self._evaluate(states, update)
                self._keep_policy(states, update)
            if stop or is_end or saves:
                self._save(update, states)
                last_save = time.perf_counter()
            if stop and not is_end:
                raise Preempted(stop)
        return states

    def _begin(self) -> tuple[int, PyTree]:
        restored = self.checkpoints.restore(
            self.program.plan.state_shape,
            self.program.plan.of_seeds,
            set_aside=True,
        )
        if restored is None:
            update, states = 0, self.program.initialise()
            self.store.truncate_metrics(0)
            self._keep_policy(states, 0)
        else:
            update, states, host = restored
            self.store.truncate_metrics(host["metrics_size"])
            self.wall_s = host["wall_s"]
        self.store.update_run(
            status="running",
            device=str(jax.devices()[0]),
            devices=self.config.devices,
            processes=processes.count(),
            seed_axis=self.program.plan.seed_axis,
            memory_bytes=self.program.plan.estimate.needed,
            compile_s=round(self.program.compile_s, 2),
            resumed_at=update,
            **self._reached(update),  # who saved it may have been killed before saying
        )
        self.clock = time.perf_counter()
        self.last_row_s, self.last_row_update = self.wall_s, update
        return update, states

    def _chunk_length(self, update: int) -> int:
        """Up to the next row of metrics, evaluation or end, whichever comes first."""
        config = self.config
        stops = [config.n_updates, (update // config.log_every + 1) * config.log_every]
        if config.eval_every:
            stops.append((update // config.eval_every + 1) * config.eval_every)
        return min(stops) - update

    def _is_evaluated(self, update: int) -> bool:
        every = self.config.eval_every
        has_policy = update > self.program.experiment.updates_without_policy
        return bool(every and update % every == 0 and has_policy)

    def _now(self) -> float:
        """Seconds of training and evaluation so far, over all resumptions."""
        now = time.perf_counter()
        self.wall_s += now - self.clock
        self.clock = now
        return self.wall_s

    def _write_rows(self, first: int, n_updates: int, tally: Tally) -> None:
        tally = jax.device_get(tally)  # [S, ...]
        names = self.program.plan.metric_names
        if np.any(tally.first_bad >= 0):
            bad_seed = int(np.argmax(tally.first_bad >= 0))
            raise NonFinite(
                f"The loss or the parameters of seed {self.config.seed + bad_seed} are "
                "not finite any more after update "
                f"{first + int(tally.first_bad[bad_seed]) + 1}: lower the learning "
                "rate; the last good checkpoint is kept."
            )
        wall_s, update = self._now(), first + n_updates
        count = self.program.experiment.env_steps
        steps = (count(update) - count(self.last_row_update)) * self.config.seeds
        rate = steps / max(wall_s - self.last_row_s, 1e-9)
        self.last_row_s, self.last_row_update = wall_s, update
        # A quantity that existed in none of the updates is NaN.
        means = tally.total / np.where(tally.count > 0, tally.count, np.nan)
        is_counter = [name.endswith("_updates") for name in names]
        means = np.where(is_counter, tally.last, means)
        self._log(
            [
                self._row("train", i, update, wall_s)
                | {"steps_per_s": rate}
                | {n: float(v) for n, v in zip(names, means[i], strict=True)}
                for i in range(self.config.seeds)
            ]
        )

    def _row(self, kind: str, seed_index: int, update: int, wall_s: float) -> dict:
        return {
            "kind": kind,
            "seed": self.config.seed + seed_index,
            "update": update,
            "env_steps": self.program.experiment.env_steps(update),
            "wall_s": round(wall_s, 3),
        }

    def _log(self, rows: Sequence[Row]) -> None:
        self.store.append_metrics(rows)
        for sink in self.sinks:
            sink.log(rows)

    def _evaluate(self, states: PyTree, update: int) -> None:
        results = jax.device_get(self.program.evaluate(states, update))
        diagnostics = jax.device_get(self.program.diagnose(states, update))
        if not results or not self.store.writes:
            return
        sets = self.program.experiment.eval_sets
        labels = {name: sets[name].labels for name in results}
        table = episode_table(results, labels, self.config.seed)
        table.insert(0, "update", update)
        self.store.write_table(
            self.store.eval_dir / f"update_{update:08d}.parquet", table
        )
        wall_s = self._now()
        rows = []
        for i in range(self.config.seeds):
            row = self._row("eval", i, update, wall_s)
            row |= {name: float(value[i]) for name, value in diagnostics.items()}
            if {"train", "heldout"} <= results.keys():
                row["generalization_gap"] = float(
                    results["train"].returns[i].mean()
                    - results["heldout"].returns[i].mean()
                )
            for name, result in results.items():
                row[f"eval_{name}_solve_rate"] = float(result.success[i].mean())
                row[f"eval_{name}_return"] = float(result.returns[i].mean())
            rows.append(row)
        self._log(rows)

    def _keep_policy(self, states: PyTree, update: int) -> None:
        """Before any later checkpoint: a run that goes on from one lacks none."""
        if not self.config.keep_policies:
            return
        experiment = self.program.experiment
        if not experiment.has_policy:
            states = self.program.gathered(states)
            if self.store.writes:
                path = policy_file(self.store.path, update)
                experiment.export(states, path.with_suffix(""))
            return
        policies = self.program.gathered(experiment.policy_params(states))
        if self.store.writes:
            trees.save(
                policy_file(self.store.path, update),
                policies,
                {
                    "what": "policies of all seeds",
                    "update": update,
                    "seed": self.config.seed,
                    "seeds": self.config.seeds,
                },
            )

    def _save(self, update: int, states: PyTree) -> None:
        host = {"metrics_size": self.store.metrics_size(), "wall_s": self._now()}
        self.checkpoints.save(update, states, host)
        self.store.update_run(**self._reached(update))

    def _reached(self, update: int) -> dict[str, Any]:
        """What run.json says of a run that was saved after an update."""
        env_steps = self.program.experiment.env_steps(update)
        return {
            "update": update,
            "env_steps": env_steps * self.config.seeds,
            "wall_s": round(self.wall_s, 2),
        }


def episode_table(
    results: dict[str, EvalResult], labels: dict[str, tuple[str, ...]], first_seed: int
) -> pd.DataFrame:
    """One row per seed, level set, level and episode, from results [S, L, E]."""
    import pandas as pd

    tables = []
    for name, result in results.items():
        n_seeds, n_levels, n_episodes = result.returns.shape
        seed, level, episode = np.indices((n_seeds, n_levels, n_episodes))
        tables.append(
            pd.DataFrame(
                {
                    "seed": first_seed + seed.reshape(-1),
                    "level_set": name,
                    "level": np.asarray(labels[name])[level.reshape(-1)],
                    "episode": episode.reshape(-1),
                    "return": result.returns.reshape(-1),
                    "success": result.success.reshape(-1),
                    "length": result.length.reshape(-1),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
