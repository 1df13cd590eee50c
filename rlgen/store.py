"""The run directory, store of record of every run, and the sinks beside it.

    config.yaml      every setting, resolved
    run.json         status, versions, commit, device, steps, seconds
    metrics.jsonl    one line per seed and logging interval, appended and flushed
    metrics.parquet  the same, at the end
    levels/          the held-out level sets that are evaluated on (npz)
    checkpoints/     the whole carry (orbax)
    eval/            one row per seed, level set, level and episode (parquet)
    figures/         pictures
    wandb/           what wandb keeps, with --wandb
    DONE             the run is complete

Its name carries the hash of the settings, so a run that was stopped, requeued or
simply repeated finds its own directory and goes on.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlgen import config as configs
from rlgen.errors import UserError
from rlgen.files import Lock, unwritable, write_atomically

if TYPE_CHECKING:
    # 70 MiB that compilation can use: imported where tables are made.
    import pandas as pd

Row = Mapping[str, Any]
#: Version of what a run directory holds; runs without one are of the first.
FORMAT = 1


class Sink(Protocol):
    """Something that rows of metrics go to, beside the files. It raises nothing."""

    def log(self, rows: Sequence[Row]) -> None:
        """Takes one update's rows, one per seed, all of them of one `kind`.

        A row has `kind` ("train" or "eval"), `seed`, `update`, `env_steps` (of its
        seed), `wall_s` and metrics.
        """
        ...

    def complete(self, store: RunStore) -> None:
        """All rows and pictures are there; called once, and not if a run fails."""
        ...

    def close(self, status: str) -> None:
        """The run ended: "done", "preempted" or "failed". Called once, in any case."""
        ...


@dataclasses.dataclass
class RunStore:
    """Reads and writes one run directory.

    Attributes:
      path: it.
      writes: whether anything is written; of the processes of one run, one does.
    """

    path: Path
    writes: bool = True

    @staticmethod
    def path_of(out: str | Path, name: str, config: Any, run_dir: str = "") -> Path:
        """Where the run of these settings is or would be; see `open`."""
        digest = configs.config_hash(config)
        return Path(run_dir) if run_dir else Path(out) / f"{name}-{digest}"

    @classmethod
    def open(
        cls,
        out: str | Path,
        name: str,
        config: Any,
        run_dir: str = "",
        *,
        writes: bool = True,
    ) -> RunStore:
        """Makes the directory of a run, or finds the one that it already has.

        Args:
          out: folder of all runs.
          name: first part of the directory's name; the settings' hash follows.
          config: the settings; stored at the first call, compared at later ones.
          run_dir: the directory itself, instead of one named by the hash.
          writes: see the class.

        Raises:
          UserError: the directory cannot be written, belongs to other settings, or
            has lost its own.
        """
        digest = configs.config_hash(config)
        path = cls.path_of(out, name, config, run_dir)
        store = cls(path, writes)
        if not writes:
            return store
        try:
            for folder in (path, store.eval_dir, store.figures_dir):
                folder.mkdir(parents=True, exist_ok=True)
            stored = store.read_run().get("config_hash")
            if stored not in (None, digest):
                raise UserError(
                    f"Run directory {path} belongs to other settings (hash {stored}, "
                    f"not {digest}): choose another --run-dir or remove it."
                )
            if stored and not (path / "config.yaml").exists():
                raise UserError(
                    f"{path} has lost its config.yaml: put it back, or remove {path} "
                    "and train it again."
                )
            if stored is None:
                store.write_text("config.yaml", configs.to_yaml(config))
                store.update_run(
                    config_hash=digest,
                    status="created",
                    format=FORMAT,
                    **provenance(),
                )
        except OSError as error:
            raise unwritable(path, error) from error
        return store

    @property
    def eval_dir(self) -> Path:
        """Where per-episode results go."""
        return self.path / "eval"

    @property
    def figures_dir(self) -> Path:
        """Where pictures go."""
        return self.path / "figures"

    @property
    def levels_dir(self) -> Path:
        """Where held-out level sets go."""
        return self.path / "levels"

    @property
    def checkpoint_dir(self) -> Path:
        """Where orbax keeps the carry."""
        return self.path / "checkpoints"

    def newest_checkpoint(self) -> Path | None:
        """The folder of the newest whole checkpoint; None before the first."""
        # orbax names a folder by its update once all of it is written.
        found = [p for p in self.checkpoint_dir.glob("*") if p.name.isdigit()]
        return max(found, key=lambda path: int(path.name), default=None)

    @property
    def metrics_path(self) -> Path:
        """The appended metrics file."""
        return self.path / "metrics.jsonl"

    @property
    def is_done(self) -> bool:
        """Whether the run is complete."""
        return (self.path / "DONE").exists()

    def locked(self) -> Lock:
        """Keeps other processes from training in this directory meanwhile.

        Raises:
          Busy: on entry, if one does.
        """
        return Lock(self.path / ".lock", f"Run directory {self.path}")

    def write_text(self, name: str, text: str) -> None:
        """Writes a small file, whole or not at all."""
        if not self.writes:
            return
        with write_atomically(self.path / name, "w") as file:
            file.write(text)

    def read_run(self) -> dict[str, Any]:
        """What run.json holds; empty before the first write.

        Raises:
          UserError: it is damaged.
        """
        file = self.path / "run.json"
        try:
            found = json.loads(file.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, OSError) as error:
            found = error
        if not isinstance(found, dict):
            raise UserError(
                f"{file} cannot be read ({str(found) or 'no table'}): remove "
                f"{self.path} and train it again."
            )
        return found

    def update_run(self, **values: Any) -> None:
        """Sets fields of run.json."""
        merged = self.read_run() | values
        self.write_text("run.json", json.dumps(merged, indent=2) + "\n")

    def append_metrics(self, rows: Sequence[Row]) -> None:
        """Appends rows to metrics.jsonl; numbers that do not exist become null."""
        if not self.writes:
            return
        try:
            with open(self.metrics_path, "a") as file:
                for row in rows:
                    plain = {k: _plain(v) for k, v in row.items()}
                    file.write(json.dumps(plain) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error

    def metrics_size(self) -> int:
        """Bytes of metrics.jsonl now: a checkpoint remembers it."""
        return self.metrics_path.stat().st_size if self.metrics_path.exists() else 0

    def truncate_metrics(self, size: int) -> None:
        """Forgets rows written after the checkpoint that a run continues from.

        Raises:
          UserError: rows from before it are missing.
        """
        if not self.writes:
            return
        if (found := self.metrics_size()) < size:
            raise UserError(
                f"{self.metrics_path} has lost rows ({found:,} bytes of the {size:,} "
                f"before its checkpoint): put it back, or remove {self.path} and train "
                "it again."
            )
        if found > size:
            with open(self.metrics_path, "r+b") as file:
                file.truncate(size)

    def read_metrics(self) -> pd.DataFrame:
        """All rows so far as a table; empty if there are none."""
        import pandas as pd

        compact = self.path / "metrics.parquet"
        if self.is_done and compact.exists():
            return pd.read_parquet(compact)
        if self.metrics_size() == 0:
            return pd.DataFrame()
        return pd.read_json(self.metrics_path, lines=True)

    def evaluation_files(self) -> list[Path]:
        """The tables of all evaluations during training, oldest first."""
        return sorted(self.eval_dir.glob("update_*.parquet"))

    def write_table(self, path: Path, table: pd.DataFrame) -> Path:
        """Writes a table as parquet, whole or not at all."""
        with write_atomically(path) as file:
            table.to_parquet(file, index=False)
        return path

    def finish(self, **values: Any) -> None:
        """Compacts the metrics and marks the run as complete."""
        self.write_table(self.path / "metrics.parquet", self.read_metrics())
        self.update_run(status="done", **values)
        self.write_text("DONE", "")


def _plain(value: Any) -> Any:
    if isinstance(value, str | bool | int) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def provenance() -> dict[str, Any]:
    """Versions, machine and commit: what a figure must name."""
    versions = {}
    for package in ("rlgen", "jax", "jaxlib", "flax", "optax", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "unknown"
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": git_commit(Path(__file__).parent),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def git_commit(folder: Path) -> str:
    """The commit of a folder, with `+` if its files differ from it; else "unknown"."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        changed = "+" if git("status", "--porcelain", "-uno") else ""
        return git("rev-parse", "--short=12", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return "unknown"
