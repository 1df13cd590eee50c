"""Cells of sweeps: one training run each, with the directory that it has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rlgen import config as configs
from rlgen import training
from rlgen.errors import UserError
from rlgen.store import RunStore
from rlgen.training import TrainConfig

# What `rlgen train` takes beside the settings of a run.
_CHOICES = ("algorithm", "env", "preset")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run that a sweep asks for.

    Attributes:
      settings: as the file has them, and above them the flags of the command line.
      config: all settings that follow.
    """

    settings: Mapping[str, Any]
    config: TrainConfig

    @property
    def store(self) -> RunStore:
        """Its run directory, which need not exist yet."""
        run = self.config.run
        path = RunStore.path_of(run.out, self.config.name, self.config, run.run_dir)
        return RunStore(path)

    @property
    def digest(self) -> str:
        """The hash of its settings."""
        return configs.config_hash(self.config)

    @property
    def command(self) -> list[str]:
        """The arguments of `rlgen` that run it."""
        args = ["train"]
        for name, value in self.settings.items():
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, list | tuple):
                args += [flag, *(str(each) for each in value)]
            else:
                args.append(f"{flag}={value}")
        return args


def make(settings: Mapping[str, Any], source: str) -> Cell:
    """The cell of some settings.

    Args:
      source: where they are from, for messages.

    Raises:
      UserError: an unknown setting, or a value that does not fit.
    """
    chosen = {name: str(settings.get(name) or "") for name in _CHOICES}
    rest = {k: v for k, v in settings.items() if k not in _CHOICES}
    config = training.make_config(
        chosen["algorithm"],
        chosen["env"],
        chosen["preset"],
        rest,
        source,
    )
    return Cell(settings, config)


def parse_flags(flags: Sequence[str]) -> dict[str, Any]:
    """Flags of `rlgen train` as settings: `--name value...` or `--name=value`.

    Raises:
      UserError: a value without a flag.
    """
    parsed: dict[str, Any] = {}
    name = ""
    for word in flags:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            name = name.replace("-", "_")
            parsed[name] = [value] if value or "=" in word else []
        elif not name:
            raise UserError(f"{word} belongs to no flag: write --name {word}.")
        else:
            parsed[name].append(word)
    for name, words in parsed.items():
        if not words:
            raise UserError(f"--{name.replace('_', '-')} needs a value.")
        values = [yaml.safe_load(word) for word in words]
        parsed[name] = values[0] if len(values) == 1 else values
    return parsed


def distinct(cells: Sequence[tuple[str, Cell]]) -> list[Cell]:
    """The cells of several sources, each run once.

    A run that two files share is run once; settings that differ, or two cells of one
    file, must not share a directory.

    Args:
      cells: with what each is from.

    Raises:
      UserError: two cells would write one run directory.
    """
    seen: dict[Path, tuple[str, Cell]] = {}
    for source, cell in cells:
        path = cell.store.path
        if path in seen:
            other_source, other = seen[path]
            if source == other_source or other.digest != cell.digest:
                where = ", ".join(dict.fromkeys((other_source, source)))
                raise UserError(
                    f"Two cells of {where} have the run directory {path}: vary a "
                    "setting that counts, or leave out run_dir."
                )
        else:
            seen[path] = (source, cell)
    return [cell for _, cell in seen.values()]
