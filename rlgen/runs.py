"""Reads finished runs: what tables, figures and reports are made of.

Nothing here imports jax: two hundred runs are read in seconds.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import parquet

from rlgen import config as configs
from rlgen.config import RunConfig
from rlgen.errors import UserError
from rlgen.store import FORMAT, RunStore

# What does not say what was learned: where it was written, and which seeds.
_NOT_SETTINGS = {
    field.name
    for field in dataclasses.fields(RunConfig)
    if not field.metadata.get("hash", True)
} | {"seed", "seeds"}
# Characters of a name that still fits beside lines and in tables.
_LONGEST_NAME = 40
# The columns of a table of episodes.
_EPISODES = {"seed", "level_set", "level", "episode", "return", "success", "length"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, read when asked.

    Attributes:
      store: its directory.
      settings: all settings by flat name, as they were stored.
      facts: what run.json holds.
    """

    store: RunStore
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """Its directory."""
        return self.store.path

    @property
    def algorithm(self) -> str:
        """Its name in the registry."""
        return self.settings["algorithm"]

    @property
    def env(self) -> str:
        """Its environment's name in the registry."""
        return self.settings.get("env", "")

    @property
    def n_seeds(self) -> int:
        """Seeds that share the run."""
        return int(self.settings["seeds"])

    @property
    def what(self) -> tuple[tuple[str, str], ...]:
        """The settings that say what was learned: equal for runs of other seeds."""
        return tuple(
            sorted(
                (name, json.dumps(value))
                for name, value in self.settings.items()
                if name not in _NOT_SETTINGS
            )
        )

    @functools.cached_property
    def metrics(self) -> pd.DataFrame:
        """All rows of metrics."""
        return self.store.read_metrics()

    @functools.cached_property
    def episodes(self) -> pd.DataFrame:
        """The last evaluation: one row per seed, level set, level and episode.

        Level sets that only `rlgen eval` played come from there.
        """
        parts = []
        last = self.store.evaluation_files()
        if last:
            parts.append(_read_episodes(last[-1]))
        known = set(parts[0]["level_set"]) if parts else set()
        for path in sorted(self.store.eval_dir.glob("final_seed*.parquet")):
            table = _read_episodes(path)
            parts.append(table[~table["level_set"].isin(known)])
            known |= set(table["level_set"])
        return together(parts) if parts else pd.DataFrame()


# Texts that repeat: as categories they are read and compared ten times as fast.
_TEXTS = ("level_set", "level")


def _read_episodes(path: Path) -> Any:
    table = parquet.read_table(path, read_dictionary=list(_TEXTS))
    return table.to_pandas()


def together(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables below each other; texts that repeat stay categories."""
    if len(tables) == 1:
        return tables[0]
    table = pd.concat(tables, ignore_index=True)
    texts = [name for name in _TEXTS if name in table]
    return table.astype(dict.fromkeys(texts, "category"))


def settings(path: Path) -> dict[str, Any]:
    """All settings of a run, by flat name, as its directory has them.

    Raises:
      UserError: no run directory, or none with settings.
    """
    if not path.exists():
        raise UserError(f"There is no run {path}: name a run directory.")
    file = path / "config.yaml"
    if not file.exists():
        raise UserError(f"{path} is not a run directory: it has no config.yaml.")
    found = configs.read_yaml(file)
    if not found:
        raise UserError(f"{file} is empty: train the run again.")
    missing = sorted({"algorithm", "seeds"} - set(found))
    if missing:
        raise UserError(f"{path} is of another version: it has no {missing[0]}.")
    return found


def read(path: str | Path) -> Run:
    """A finished run.

    Raises:
      UserError: no run, not a whole one, or one of another version.
    """
    path = Path(path)
    said = settings(path)
    store = RunStore(path)
    facts = store.read_run()
    version = facts.get("format", FORMAT)
    if version != FORMAT:
        raise UserError(
            f"{path} is of another version (format {version}, not {FORMAT}): read it "
            "with the rlgen that wrote it."
        )
    if not store.is_done:
        raise UserError(
            f"{path} is not finished ({facts.get('status', 'no status')}, update "
            f"{facts.get('update', 0)}): run the same command again."
        )
    return Run(store, said, facts)


def check_tables(run: Run) -> None:
    """Reads a run's tables.

    Raises:
      UserError: they are damaged or of another version.
    """
    try:
        episodes, metrics = run.episodes, run.metrics
    except KeyError as error:
        raise UserError(
            f"{run.path} is of another version: no column {error.args[0]}."
        ) from None
    except (ValueError, OSError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{run.path} has a damaged table ({line}).") from None
    if len(episodes) and not set(episodes) >= _EPISODES:
        missing = sorted(_EPISODES - set(episodes))[0]
        raise UserError(f"{run.path} is of another version: no column {missing}.")
    if len(metrics) and not {"kind", "seed", "update"} <= set(metrics):
        raise UserError(f"{run.path} is of another version: metrics without update.")


def find(paths: Iterable[str | Path]) -> tuple[list[Run], list[str]]:
    """The readable runs at some places, and a sentence for each one left out.

    Args:
      paths: run directories, and folders of some.
    """
    found: dict[Path, Run] = {}
    left_out = []
    for path in map(Path, paths):
        is_folder = path.is_dir() and not (path / "config.yaml").exists()
        inside = sorted(p.parent for p in path.glob("*/config.yaml"))
        if is_folder and not inside:
            left_out.append(f"{path} holds no run: name a run directory.")
        for each in inside if is_folder else [path]:
            try:
                run = read(each)
                check_tables(run)
                found.setdefault(each.resolve(), run)
            except UserError as error:
                left_out.append(str(error))
    return list(found.values()), left_out


def finished(folder: str | Path) -> list[Run]:
    """Every finished run in a folder, by name.

    Raises:
      UserError: there is none.
    """
    found = sorted(Path(folder).glob("*/DONE"))
    if not found:
        raise UserError(f"No run in {folder} is finished: run the sweep first.")
    return [read(path.parent) for path in found]


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings in which runs differ, beside seeds and places, in order."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [
        name
        for name in names
        if name not in _NOT_SETTINGS
        and len({json.dumps(run.settings.get(name)) for run in runs}) > 1
    ]


def group(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by what was learned, named by what tells them apart.

    Runs that differ in nothing but their seeds are one group. Where algorithms alone
    tell the groups apart, a group is called like its algorithm; settings that differ
    within an algorithm follow it, or numbers where that would be long or the same: the
    report's table of what was run says what they stand for.

    Raises:
      UserError: two runs of a group share a seed.
    """
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.what, []).append(run)
    envs = {run.env for run in runs}
    families: dict[str, list[tuple[str, list[Run]]]] = {}
    for members in groups.values():
        first = members[0]
        family = f"{first.algorithm} {first.env}" if len(envs) > 1 else first.algorithm
        settings = " ".join(
            f"{name}={_short(first.settings.get(name))}"
            for name in differing_from_peers(first, groups)
        )
        families.setdefault(family, []).append((settings, members))
        _check_seeds(members)
    named: dict[str, list[Run]] = {}
    for family, alike in families.items():
        alike.sort(key=lambda each: each[0])
        texts = [settings for settings, _ in alike]
        is_long = len(family) + max(map(len, texts)) > _LONGEST_NAME
        # Files of one name in two folders are told apart by numbers too.
        has_numbers = is_long or len(set(texts)) < len(texts)
        for i, (settings, members) in enumerate(alike, 1):
            rest = f"#{i:0{len(str(len(alike)))}}" if has_numbers else settings
            named[f"{family} {rest}".strip()] = members
    return dict(sorted(named.items()))


def differing_from_peers(run: Run, groups: Mapping[Any, Sequence[Run]]) -> list[str]:
    """The settings in which groups of the run's algorithm and environment differ."""
    peers = [
        members[0]
        for members in groups.values()
        if (members[0].algorithm, members[0].env) == (run.algorithm, run.env)
    ]
    return differing(peers)


def _short(value: Any) -> str:
    if isinstance(value, str) and "/" in value:  # a file or a dataset: its name
        return Path(value).name
    return f"{value:g}" if isinstance(value, float) else str(value)


def _check_seeds(members: Sequence[Run]) -> None:
    seen: dict[int, Path] = {}
    for run in members:
        first = int(run.settings.get("seed", 0))
        for seed in range(first, first + run.n_seeds):
            if seed in seen:
                raise UserError(
                    f"{seen[seed]} and {run.path} are alike and share seed {seed}: "
                    "remove the one that is out of date."
                )
            seen[seed] = run.path
