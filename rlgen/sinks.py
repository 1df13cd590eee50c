"""Where metrics go besides the run directory: a progress bar and wandb.

A sink never stops a run: wandb may be missing, offline or broken.
"""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

from tqdm import tqdm

from rlgen.store import Row


class ProgressBar:
    """Updates done, throughput, time left and the current solve rate."""

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

    def log(self, row: Row) -> None:
        """Moves the bar to the row's update."""
        for name, label in (
            ("train_solve_rate", "train"),
            ("eval_solve_rate", "held-out"),
        ):
            value = row.get(name)
            if value is not None and math.isfinite(value):
                self._shown[label] = f"{value:.2f}"
        if row.get("steps_per_s"):
            self._shown["steps/s"] = f"{row['steps_per_s']:,.0f}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(row["update"] - self._bar.n)

    def close(self, status: str) -> None:
        """Leaves the bar as it stands."""
        del status
        self._bar.close()


class WandbSink:
    """One wandb run for all seeds, every seed's metrics under its number."""

    def __init__(
        self, mode: str, name: str, run_id: str, config: dict[str, Any], **init
    ):
        import wandb

        self._run = wandb.init(
            mode="offline" if mode == "offline" else "online",
            project=init.pop("project", "rlgen"),
            name=name,
            id=run_id,
            resume="allow",
            config=config,
            **init,
        )
        self._alive = True

    def log(self, row: Row) -> None:
        """Sends one row; a failure is reported once and ends this sink only."""
        if not self._alive:
            return
        values = {
            f"seed{row['seed']}/{name}": value
            for name, value in row.items()
            if name not in ("seed", "update", "env_steps", "wall_s", "kind")
            and not isinstance(value, str)
            and value is not None
            and math.isfinite(value)
        }
        shared = {name: row[name] for name in ("update", "env_steps", "wall_s")}
        try:
            self._run.log(values | shared)
        except Exception as error:  # wandb raises many kinds; none may end a run
            self._alive = False
            warnings.warn(
                f"wandb stopped logging ({error}); the files go on.", stacklevel=2
            )

    def close(self, status: str) -> None:
        """Ends the wandb run; a preempted one is marked as to be continued."""
        try:
            if status == "preempted":
                self._run.mark_preempting()
            self._run.finish(exit_code=0 if status == "done" else 1)
        except Exception as error:  # as above
            warnings.warn(f"wandb did not close ({error}).", stacklevel=2)


def open_wandb(
    mode: str, name: str, run_id: str, config: dict[str, Any], **init: Any
) -> WandbSink | None:
    """A wandb sink, or None if it is off, missing or does not start."""
    if mode == "off":
        return None
    try:
        return WandbSink(mode, name, run_id, config, **init)
    except Exception as error:  # no network, no key, no wandb: the run goes on
        warnings.warn(
            f"wandb does not start ({type(error).__name__}: {error}); logging to files "
            "only.",
            stacklevel=2,
        )
        return None
