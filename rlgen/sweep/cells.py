"""Cells of sweeps: one training run each, with the directory that it has."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlgen import config as configs
from rlgen import training
from rlgen.errors import UserError
from rlgen.store import RunStore
from rlgen.training import TrainConfig

#: Flags of `rlgen train` that stand above a file: the words of each, as typed.
Flags = Mapping[str, Sequence[str]]

# What `rlgen train` takes beside the settings of a run.
_CHOICES = ("algorithm", "env", "preset", "config")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run that a sweep asks for.

    Attributes:
      settings: as the file has them, and above them the words of flags.
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
            if isinstance(value, list | tuple) and len(value) != 1:
                args += [flag, *map(str, value)]
            else:
                one = value[0] if isinstance(value, list | tuple) else value
                args.append(f"{flag}={one}")
        return args

    @property
    def shown(self) -> str:
        """The command, as one would type it."""
        return f"rlgen {shlex.join(self.command)}"


def make(settings: Mapping[str, Any], source: str, flags: Flags | None = None) -> Cell:
    """The cell of some settings.

    Args:
      source: where they are from, for messages.
      flags: flags of `rlgen train` above them: they mean what they mean there.

    Raises:
      UserError: an unknown setting, or a value that does not fit.
    """
    flags = flags or {}
    chosen = {name: settings[name] for name in _CHOICES if name in settings}
    for name, value in chosen.items():
        if not isinstance(value, str):
            raise UserError(f"{name} in {source} is {value!r}: name one.")
    for name in flags.keys() & set(_CHOICES):
        if len(flags[name]) != 1:
            raise UserError(f"--{name} needs a name.")
        chosen[name] = flags[name][0]
    file = chosen.pop("config", "")
    below = configs.read_yaml(file) if file else {}
    rest = below | {k: v for k, v in settings.items() if k not in _CHOICES}
    words = {k: tuple(v) for k, v in flags.items() if k not in _CHOICES}
    if words:
        # A dataset implies the environment, as it does in `rlgen train`.
        first = {k: v for k, v in rest.items() if k in (*_CHOICES, "data")}
        first |= {"data": words["data"][0]} if words.get("data") else {}
        decisive = tuple(sorted((first | chosen).items()))
        rest |= _read(decisive, tuple(words.items()))
    config = training.make_config(**chosen, settings=rest, source=source)
    return Cell(dict(settings) | dict(flags), config)


@functools.cache
def _read(
    decisive: tuple[tuple[str, Any], ...], flags: tuple[tuple[str, Sequence[str]], ...]
) -> dict[str, Any]:
    """The values of flags, where these settings decide which flags there are."""
    config = training.make_config(settings=dict(decisive))
    return configs.read_flags(config, dict(flags), "rlgen train")


def parse_flags(flags: Sequence[str]) -> dict[str, list[str]]:
    """The words of each flag of `rlgen train`: `--name value...` or `--name=value`.

    Raises:
      UserError: a value without a flag.
    """
    parsed: dict[str, list[str]] = {}
    name = ""
    for word in flags:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            parsed[name] = [value] if equals else []
        elif not name:
            raise UserError(f"{word} belongs to no flag: write --name {word}.")
        else:
            parsed[name].append(word)
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
