"""Where metrics go besides the run directory: a progress bar and wandb.

A sink never stops a run: wandb may be missing, offline or broken.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from rlgen import runner
from rlgen.config import RunConfig
from rlgen.evaluation import level_sets
from rlgen.store import Row, RunStore, Sink

#: What says when a row is from: the x axes of wandb's charts.
AXES = ("update", "env_steps", "wall_s")
_NOT_METRICS = {"kind", "seed", *AXES}

# Nobody may be at the terminal where wandb asks for a key, and a network that is gone
# may not come back: what was not sent is on disk for `wandb sync`.
_LOGIN_TIMEOUT_S = 60
_FINISH_TIMEOUT_S = 300.0


@contextlib.contextmanager
def closing(sinks: Sequence[Sink]) -> Iterator[None]:
    """Closes all sinks when the block ends, and tells them how it did.

    The status is "done", "preempted" (the block raised `runner.Preempted`) or "failed".
    """
    status = "failed"
    try:
        yield
        status = "done"
    except runner.Preempted:
        status = "preempted"
        raise
    finally:
        # A stack closes the others when one raises; what was opened last closes first.
        with contextlib.ExitStack() as stack:
            for sink in sinks:
                stack.callback(sink.close, status)


def numbers(row: Row) -> dict[str, float]:
    """The metrics of a row that are finite numbers; no seed, no axes, no text."""
    return {
        name: float(value)
        for name, value in row.items()
        if name not in _NOT_METRICS
        and value is not None
        and not isinstance(value, str)
        and math.isfinite(value)
    }


def means(rows: Sequence[Row]) -> dict[str, float]:
    """Each metric's mean over the seeds [S] whose rows have it as a finite number."""
    return {name: math.fsum(x) / len(x) for name, x in _by_name(rows).items()}


def spread(rows: Sequence[Row]) -> dict[str, float]:
    """`<name>/iqm`, `/min` and `/max` over seeds [S] of every metric `eval_*`.

    Empty for one seed. The interquartile mean is that of all tables
    (`statistics.iqm`, Agarwal et al. 2021).
    """
    if len(rows) < 2:
        return {}
    # Not at the top: SciPy's statistics are memory that compilation can use.
    from rlgen.evaluation import statistics

    values: dict[str, float] = {}
    for name, x in _by_name(rows).items():
        if name.startswith("eval_"):
            values[f"{name}/iqm"] = float(statistics.iqm(x))
            values[f"{name}/min"] = min(x)
            values[f"{name}/max"] = max(x)
    return values


def _by_name(rows: Sequence[Row]) -> dict[str, list[float]]:
    """All seeds' values of each metric."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, value in numbers(row).items():
            found.setdefault(name, []).append(value)
    return found


def not_trained_on(values: Mapping[str, float]) -> dict[str, float]:
    """Solve rates of levels that were not trained on: "held-out", "named" or both.

    Held-out sets are a sample of levels, named ones are not (`level_sets.is_sample`);
    of several sets of a kind it is the mean.

    Args:
      values: metrics by name, of which `eval_<level set>_solve_rate` count.
    """
    rates: dict[str, list[float]] = {}
    for name, value in values.items():
        found = re.fullmatch("eval_(.+)_solve_rate", name)
        if found and found[1] != "train":
            kind = "held-out" if level_sets.is_sample(found[1]) else "named"
            rates.setdefault(kind, []).append(value)
    return {kind: math.fsum(x) / len(x) for kind, x in rates.items()}


def _in_training(values: Mapping[str, float]) -> dict[str, float]:
    """Share of the episodes of training that are solved, and of its levels."""
    names = {"train_solve_rate": "train", "train_levels_solved": "train levels"}
    return {label: values[name] for name, label in names.items() if name in values}


class ProgressBar:
    """Updates done, throughput, time left and current solve rates, means over seeds:
    of episodes and levels of training, of held-out levels and of named ones.
    """

    def __init__(self, n_updates: int):
        self._bar = tqdm(
            total=n_updates,
            unit="update",
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5,
        )
        if not sys.stderr.isatty():
            # In a log file a bar is noise: print a line now and then instead.
            self._bar.mininterval = self._bar.maxinterval = 10.0
        self._shown: dict[str, str] = {}

    def log(self, rows: Sequence[Row]) -> None:
        """Moves the bar to the rows' update."""
        values = means(rows)
        for label, value in (_in_training(values) | not_trained_on(values)).items():
            self._shown[label] = f"{value:.2f}"
        if values.get("steps_per_s"):
            self._shown["steps/s"] = f"{values['steps_per_s']:,.0f}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(rows[0]["update"] - self._bar.n)

    def complete(self, store: RunStore) -> None:
        """Has nothing to add to a run that is over."""
        del store

    def close(self, status: str) -> None:
        """Leaves the bar as it stands."""
        del status
        self._bar.close()


class WandbSink:
    """One wandb run with statistics over seeds, or one for each seed.

    Rows are logged at wandb's step `update`, so a run that goes on continues its charts
    in offline mode too, where a new process knows nothing of the steps before.

    Args:
      wandb: the module.
      runs: the open runs: of all seeds under None, or each under its seed. The first
        one also gets pictures and artifacts, which belong to all seeds.
    """

    def __init__(self, wandb: Any, runs: Mapping[int | None, Any]):
        self._wandb = wandb
        self._runs = dict(runs)
        self._alive = True

    def log(self, rows: Sequence[Row]) -> None:
        """Sends the rows of one update; see `means` and `spread`."""
        axes = {name: rows[0][name] for name in AXES}

        def send() -> None:
            for seed, run in self._runs.items():
                if seed is None:
                    values = means(rows) | spread(rows)
                else:
                    values = means([row for row in rows if row["seed"] == seed])
                run.log(values | axes, step=axes["update"])

        self._attempt(send)

    def complete(self, store: RunStore) -> None:
        """Sends the pictures, and levels and newest checkpoint as artifacts."""
        run = next(iter(self._runs.values()))

        def send() -> None:
            pictures = self._pictures(store)
            if pictures:
                # Not from what was logged: the run may have ended in an earlier call.
                last = store.read_metrics().iloc[-1]
                axes = {name: float(last[name]) for name in AXES}
                # An earlier step than the run's is dropped, its own is added to.
                run.log(pictures | axes, step=max(int(axes["update"]), run.step))
            for artifact in self._artifacts(store):
                run.log_artifact(artifact)

        self._attempt(send)

    def close(self, status: str) -> None:
        """Ends the wandb runs; preempted ones are marked as to be continued."""

        def end(run: Any) -> None:
            if status == "preempted":
                run.mark_preempting()
            run.finish(exit_code=0 if status == "done" else 1)

        for run in self._runs.values():
            if self._alive:
                self._attempt(lambda run=run: end(run))
            else:  # reported already
                with contextlib.suppress(Exception):
                    end(run)

    def _attempt(self, action: Callable[[], None]) -> None:
        """A failure is reported once and ends this sink only."""
        if not self._alive:
            return
        try:
            action()
        except Exception as error:  # wandb raises many kinds; none may end a run
            self._alive = False
            warnings.warn(
                f"wandb stopped logging ({_in_a_line(error)}); the files go on.",
                stacklevel=3,
            )

    def _pictures(self, store: RunStore) -> dict[str, Any]:
        """The run's pictures as wandb's media; films are copied as they are."""
        media = {}
        for path in sorted(store.figures_dir.iterdir()):
            kind = {".png": self._wandb.Image, ".gif": self._wandb.Video}.get(
                path.suffix
            )
            if kind is not None:
                media[f"figures/{path.stem}"] = kind(str(path))
        return media

    def _artifacts(self, store: RunStore) -> Iterator[Any]:
        name = _name(store)
        folders = {"levels": store.levels_dir, "checkpoint": store.newest_checkpoint()}
        for kind, folder in folders.items():
            if folder is not None and folder.is_dir():
                artifact = self._wandb.Artifact(f"{name}-{kind}", type=kind)
                # As they lie there, without a copy in the user's home: they change no
                # more, and `wandb sync` may come much later.
                artifact.add_dir(
                    str(folder.resolve()), policy="immutable", skip_cache=True
                )
                yield artifact


def open_wandb(
    config: RunConfig, store: RunStore, settings: Mapping[str, Any]
) -> WandbSink | None:
    """A wandb sink, or None if it is off, missing or does not start.

    wandb's files lie in the run directory, and run.json keeps the id there, so the same
    run goes on when the directory does. In a sweep of wandb the agent names run and
    project instead, and there is one run whatever `wandb_per_seed` says.

    Args:
      settings: all settings of the run, flat, for wandb's tables.
    """
    if config.wandb == "off":
        return None
    runs: dict[int | None, Any] = {}
    try:
        import wandb

        mode = _mode(config)
        if mode == "disabled":
            return None
        if mode == "online" and not wandb.login(timeout=_LOGIN_TIMEOUT_S):
            # Nobody gave a key in time, or chose to do without: `init` would ask again.
            mode = "offline"
        for seed, options in _runs_to_open(config, store).items():
            run = wandb.init(
                mode="offline" if mode == "offline" else "online",
                dir=str(store.path.resolve()),
                resume="allow",
                # Whoever calls from Python may have a run of their own open.
                reinit="create_new",
                config=dict(settings),
                allow_val_change=True,
                **options,
            )
            runs[seed] = run
            for name in AXES:
                run.define_metric(name)
            run.define_metric("*", step_metric="env_steps")
    except Exception as error:  # no network, no key, no wandb: the run goes on
        for run in runs.values():
            with contextlib.suppress(Exception):
                run.finish(exit_code=1)
        warnings.warn(
            f"wandb does not start ({_in_a_line(error)}); logging to files only.",
            stacklevel=2,
        )
        return None
    return WandbSink(wandb, runs)


def tell_agent(config: RunConfig, store: RunStore, settings: Mapping[str, Any]) -> None:
    """Sends a finished run to the agent of wandb that asks for it, if one does.

    The agent gives every cell an id of its own, under which the server would wait for
    the metric of one that was finished before.

    Args:
      settings: see `open_wandb`.
    """
    if not os.environ.get("WANDB_SWEEP_ID"):
        return
    sink = open_wandb(config, store, settings)
    if sink is None:
        return
    with closing([sink]):
        rows = store.read_metrics()
        for _, part in rows.groupby(["update", "kind"], sort=False):
            sink.log(part.to_dict("records"))
        sink.complete(store)


# From what keeps all to itself to what tells all; and wandb's other names of them.
_MODES = ("disabled", "offline", "online")
_ALIASES = {"dryrun": "offline", "run": "online", "shared": "online", "": "online"}


def _mode(config: RunConfig) -> str:
    """The mode of wandb: --wandb, or less where wandb's own variables say less."""
    said = os.environ.get("WANDB_MODE", "").lower()
    variable = f"WANDB_MODE={said}"
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1"):
        said, variable = "disabled", "WANDB_DISABLED"
    said = _ALIASES.get(said, said)
    if said not in _MODES:
        warnings.warn(
            f"{variable} is no mode of wandb ({', '.join(_MODES)}): nothing is sent.",
            stacklevel=3,
        )
        said = "offline"
    mode = min(config.wandb, said, key=_MODES.index)
    if mode != config.wandb:
        warnings.warn(
            f"{variable} stands above --wandb {config.wandb}: wandb is {mode}.",
            stacklevel=3,
        )
    return mode


def _runs_to_open(
    config: RunConfig, store: RunStore
) -> dict[int | None, dict[str, Any]]:
    """What `wandb.init` is told of each run, by seed, or under None of all seeds."""
    name = _name(store)
    options: dict[str, Any] = {"name": name}
    if not os.environ.get("WANDB_FINISH_TIMEOUT"):
        options["settings"] = {"finish_timeout": _FINISH_TIMEOUT_S}
    in_sweep = bool(os.environ.get("WANDB_SWEEP_ID"))
    is_default = config.wandb_project == RunConfig.wandb_project
    if not in_sweep and not (is_default and os.environ.get("WANDB_PROJECT")):
        options["project"] = config.wandb_project
    if in_sweep or os.environ.get("WANDB_RUN_ID"):
        if config.wandb_per_seed:
            warnings.warn(
                "wandb's environment variables name one run: all seeds are logged to "
                "it, as without --wandb-per-seed.",
                stacklevel=3,
            )
        return {None: options}
    run_id = store.read_run().get("wandb_id")
    if run_id is None:
        # Another directory is another run, even one of the same name: wandb would drop
        # the rows of steps that it has seen.
        run_id = f"{name}-{secrets.token_hex(3)}"
        store.update_run(wandb_id=run_id)
    if not config.wandb_per_seed:
        return {None: options | {"id": run_id}}
    return {
        seed: options
        | {"id": f"{run_id}-seed{seed}", "name": f"{name}-seed{seed}", "group": name}
        for seed in range(config.seed, config.seed + config.seeds)
    }


def _name(store: RunStore) -> str:
    """The run directory's name with the characters that wandb takes for all names."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", store.path.resolve().name)


def _in_a_line(error: Exception) -> str:
    """What went wrong, without the rest of a long message."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")
