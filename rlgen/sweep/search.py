"""Random and Bayesian search, by wandb's own `sweeps` engine without its server."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlgen.errors import UserError
from rlgen.files import write_atomically
from rlgen.store import RunStore
from rlgen.sweep.schema import Sweep


@dataclasses.dataclass(frozen=True)
class Trial:
    """A cell of a search.

    Attributes:
      settings: what was proposed.
      result: the metric at the end; None while it is unknown.
    """

    settings: dict[str, Any]
    result: float | None


def propose(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, Any]:
    """What to try next.

    A function of its arguments alone: the same sweep with the same trials proposes the
    same, in every process.

    Raises:
      UserError: the engine is not installed, or refuses the sweep.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own making, as it is imported
            # A folder called `sweeps` is a package to Python, though not this one.
            engine: Any = importlib.import_module("sweeps")
            next_run = engine.next_run
    except (ImportError, AttributeError):
        raise UserError(
            f"{sweep.path} asks for a search: install the extra `rlgen[sweeps]`."
        ) from None
    spec: dict[str, Any] = {
        "method": sweep.method,
        "parameters": {name: dict(p) for name, p in sweep.parameters.items()},
    }
    if sweep.metric:
        spec["metric"] = dict(sweep.metric)
    metric = sweep.metric.get("name", "")
    runs = []
    for trial in trials:
        known = trial.result is not None
        runs.append(
            engine.SweepRun(
                config={name: {"value": v} for name, v in trial.settings.items()},
                state=engine.RunState.finished if known else engine.RunState.running,
                summary_metrics={metric: trial.result} if known else {},
            )
        )
    # The engine draws from NumPy's global generator: lent to it for one proposal.
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(_seed(spec, len(trials)))  # noqa: NPY002
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Gaussian processes on few points
            run = next_run(spec, runs)
    except Exception as error:  # of its own, of its schema's library, of SciPy
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{sweep.path} cannot be searched: {line}") from None
    finally:
        np.random.set_state(before)  # noqa: NPY002
    if run is None:
        raise UserError(f"{sweep.path} has nothing to propose: mend its parameters.")
    return {name: _plain(each["value"]) for name, each in run.config.items()}


def _seed(spec: dict[str, Any], n_trials: int) -> int:
    text = json.dumps([spec, n_trials], sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def result(sweep: Sweep, store: RunStore) -> float | None:
    """The metric of a finished run: its last row that has it, mean over seeds.

    Raises:
      UserError: the run has no such metric.
    """
    name = sweep.metric.get("name")
    if name is None or not store.is_done:
        return None
    metrics = store.read_metrics()
    if name not in metrics:
        has = ", ".join(c for c in metrics if c.startswith("eval_"))
        raise UserError(f"{store.path} has no metric {name}: choose one of {has}.")
    last: Any = metrics.dropna(subset=[name]).groupby("seed")[name].last()
    value = float(last.mean())
    return value if math.isfinite(value) else None


class Proposals:
    """What a search has proposed so far, in a file: another call goes on from it."""

    def __init__(self, path: Path):
        self.path = path
        self.settings: list[dict[str, Any]] = []
        if path.exists():
            self.settings = json.loads(path.read_text())

    def add(self, settings: dict[str, Any]) -> None:
        """Notes one more, before it runs."""
        self.settings.append(settings)
        with write_atomically(self.path, "w") as file:
            json.dump(self.settings, file, indent=1)
