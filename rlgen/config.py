"""Configurations: frozen dataclasses, flat keys, presets, YAML and hashes.

A configuration is a tree of frozen dataclasses whose leaves have names that are
unique in the whole tree. So every knob has one flat name: a flag on the command
line, a key in YAML, a key in a preset. Imports no jax.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import json
import os
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import yaml

from rlgen.errors import UserError
from rlgen.ranges import (
    SEEDS,
    Count,
    CountOrZero,
    PositiveOrZero,
    Seed,
    Settings,
    ranges,
)

ConfigT = TypeVar("ConfigT")

# A number with an exponent: YAML 1.1 wants a point before it and a sign after it, and
# reads 1e-5 as text. YAML 1.2 does not, nor do people.
_EXPONENT = re.compile(r"[-+]?(\d+|\d*\.\d+|\d+\.)[eE][-+]?\d+$")
# 1:30 is 90 in YAML 1.1 and 010 is 8; a flag takes the one as text, the other as 10.
_AMBIGUOUS = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-9_.]+)+)$")


# libyaml's, ten times as fast, where PyYAML was built with it.
_FASTEST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_FASTEST):
    """YAML in which a number is what a flag takes for one, and a key stands once."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value]
            for name in names:
                if names.count(name) > 1:
                    raise yaml.constructor.ConstructorError(
                        problem=f"{name} stands there twice"
                    )
        return super().construct_mapping(node, deep)

    def number(self, node: yaml.ScalarNode) -> int | float:
        if _AMBIGUOUS.match(node.value):
            raise yaml.constructor.ConstructorError(
                problem=f"{node.value} is another number to YAML than to people"
            )
        if node.tag.endswith("int"):
            return self.construct_yaml_int(node)
        return self.construct_yaml_float(node)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: text that looks like a number in quotes."""


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.number)
for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789")
    )

#: `field(metadata=NOT_HASHED)` marks what does not change a run's results.
NOT_HASHED = {"hash": False}


def flatten(config: Any, *, hashed_only: bool = False) -> dict[str, Any]:
    """All leaves by their flat names, in the order of their definition.

    Raises:
      TypeError: two leaves share a name (a defect of the configuration classes).
    """
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if hashed_only and not field.metadata.get("hash", True):
            continue
        if dataclasses.is_dataclass(value):
            inner = flatten(value, hashed_only=hashed_only)
        else:
            inner = {field.name: value}
        clash = flat.keys() & inner.keys()
        if clash:
            raise TypeError(f"Two settings share the name {sorted(clash)[0]}.")
        flat |= inner
    return flat


def override(config: ConfigT, values: Mapping[str, Any], source: str) -> ConfigT:
    """The configuration with some leaves replaced, by flat name.

    Args:
      source: where the values are from, for messages ("preset quick", a file).

    Raises:
      UserError: an unknown name (with a suggestion) or a value of another type.
    """
    _refuse_unknown(values, flatten(config), source)
    return _replace(config, values, source)


def _refuse_unknown(
    names: Iterable[str], known: Mapping[str, Any], source: str
) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "see --help for all of them."
            raise UserError(f"Unknown setting {name} in {source}: {hint}")


def _replace(config: Any, values: Mapping[str, Any], source: str) -> Any:
    changes = {}
    for field in dataclasses.fields(config):
        old = getattr(config, field.name)
        if dataclasses.is_dataclass(old):
            new = _replace(old, values, source)
        elif field.name in values:
            new = _checked(field, old, values[field.name], source)
        else:
            continue
        if new is not old:
            changes[field.name] = new
    return dataclasses.replace(config, **changes) if changes else config


def _checked(field: dataclasses.Field, old: Any, new: Any, source: str) -> Any:
    """Lets integers stand for floats; refuses any other change of type.

    Numbers of NumPy are numbers, and paths are text: notebooks hold both.
    """
    if isinstance(new, list | tuple):
        new = [_plain(value) for value in new]
    new = _plain(new)
    if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        return float(new)
    if new is None:
        empty = " '' for none" if isinstance(old, str) else " a value"
        raise UserError(
            f"Setting {field.name} in {source} is null: write{empty}, or leave it out."
        )
    # Settings of several types (a number or a word) pass: the dataclass checks them.
    is_union = "|" in str(field.type)
    wrong = type(new) is not type(old) and type(old) in (bool, int, float, str)
    if wrong and not is_union:
        # YAML reads off, no, 2026 and 2026-11-29 as other things than text.
        quotes = " (in a file: in quotes)" if isinstance(old, str) else ""
        raise UserError(
            f"Setting {field.name} in {source} is {new!r}, but must be of type "
            f"{type(old).__name__}{quotes}."
        )
    if isinstance(old, tuple):
        new = tuple(new) if isinstance(new, list | tuple) else (new,)
        if "str" in str(field.type) and not all(isinstance(each, str) for each in new):
            raise UserError(
                f"Setting {field.name} in {source} is {list(new)}, but must be a list "
                "of texts."
            )
    return new


def _plain(value: Any) -> Any:
    """The number or text that a scalar of NumPy or a path stands for; else itself."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if isinstance(value, np.generic) else value


def config_hash(config: Any) -> str:
    """Ten hexadecimal digits that identify what a run computes.

    Leaves marked `NOT_HASHED` (logging, paths) do not count.
    """
    flat = flatten(config, hashed_only=True)
    text = json.dumps(flat, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def to_yaml(config: Any) -> str:
    """The flat settings as YAML, in the order of their definition."""
    flat = {
        k: list(v) if isinstance(v, tuple) else v for k, v in flatten(config).items()
    }
    return yaml.dump(flat, Dumper=_Dumper, sort_keys=False)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Flat settings from a YAML file.

    Raises:
      UserError: no such file, or not a mapping of settings.
    """
    try:
        values = yaml.load(Path(path).read_bytes(), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"There is no settings file {path}.") from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): name a file of settings."
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        line = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{path} is not valid YAML ({line}): mend it.") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(k, str) for k in values):
        raise UserError(f"{path} must hold `setting: value` lines.")
    return values


@dataclasses.dataclass(frozen=True)
class RunConfig(Settings):
    """How an experiment is run, whatever it is.

    Attributes:
      seed: the first seed; seed i of a run is seed + i, as if it ran alone, up to
        rounding: a program of one seed is another.
      seeds: how many seeds run in this process. They share nothing but the order in
        which curricula take new, replayed and edited batches, the same in every run.
      n_updates: length of training, in updates (one batch of rollouts each).
      eval_every: updates between evaluations on held-out levels; 0 for the end only.
      seed_axis: seeds one after another ("map"), together ("vmap"), or "auto": map on
        a CPU, where vmap is about twice as slow, and vmap elsewhere. "fit" is together
        if they fit into memory, else one after another.
      devices: devices of all processes, that seeds are spread over and, where seeds are
        fewer, environments. Results do not depend on it but for the order of sums over
        environments.
      coordinator: where several processes train this run together: address
        (host:port) of the first, or "auto" under SLURM or Open MPI, which know.
      processes: how many they are; not for "auto".
      process: which of them this is, from 0; not for "auto".
      log_every: updates per compiled chunk and per row of metrics.
      checkpoint_every_s: seconds between checkpoints.
      keep_policies: keep the policy at every evaluation, for `rlgen collect` and
        `rlgen select`; or what is learned instead, a rule or a model of levels.
      out: folder of all runs.
      run_dir: directory of this run; empty for one named by the settings' hash.
      wandb: "off", "offline" or "online".
      wandb_project: project of the wandb run.
      wandb_per_seed: one wandb run for each seed, in one group, instead of one run
        with statistics over all seeds.
      progress: show a progress bar.
      pictures: draw curves, levels and the agent at the end.
    """

    seed: Seed = 0
    seeds: Count = 1
    n_updates: Count = 1000
    eval_every: CountOrZero = 0
    seed_axis: str = "auto"
    devices: Count = dataclasses.field(default=1, metadata=NOT_HASHED)
    coordinator: str = dataclasses.field(default="", metadata=NOT_HASHED)
    processes: Count = dataclasses.field(default=1, metadata=NOT_HASHED)
    process: CountOrZero = dataclasses.field(default=0, metadata=NOT_HASHED)
    log_every: Count = dataclasses.field(default=10, metadata=NOT_HASHED)
    checkpoint_every_s: PositiveOrZero = dataclasses.field(
        default=60.0, metadata=NOT_HASHED
    )
    keep_policies: bool = dataclasses.field(default=False, metadata=NOT_HASHED)
    out: str = dataclasses.field(default="runs", metadata=NOT_HASHED)
    run_dir: str = dataclasses.field(default="", metadata=NOT_HASHED)
    wandb: str = dataclasses.field(default="off", metadata=NOT_HASHED)
    wandb_project: str = dataclasses.field(default="rlgen", metadata=NOT_HASHED)
    wandb_per_seed: bool = dataclasses.field(default=False, metadata=NOT_HASHED)
    progress: bool = dataclasses.field(default=True, metadata=NOT_HASHED)
    pictures: bool = dataclasses.field(default=True, metadata=NOT_HASHED)

    def __post_init__(self):
        super().__post_init__()
        last = self.seed + self.seeds - 1
        if last not in SEEDS:
            raise UserError(
                f"The last of {self.seeds} seeds would be {last}: choose a seed such "
                f"that it is {SEEDS}."
            )
        if not 0 <= self.process < self.processes:
            raise UserError(
                f"There is no process {self.process} of {self.processes}: choose "
                "--process from 0 to less than --processes."
            )
        if self.processes > 1 and not self.coordinator:
            raise UserError(
                f"{self.processes} processes need --coordinator HOST:PORT, an address "
                "of the first that all can reach."
            )
        for value, known, name in (
            (self.seed_axis, ("auto", "map", "vmap", "fit"), "seed_axis"),
            (self.wandb, ("off", "offline", "online"), "wandb"),
        ):
            if value not in known:
                raise UserError(f"Unknown {name} {value!r}: choose {', '.join(known)}.")


def parse_flags(
    groups: Mapping[str, Any], flags: Sequence[str], prog: str
) -> dict[str, Any]:
    """Overrides groups of settings by flags: every leaf is one hyphenated flag.

    Unknown flags and `--help` end the program, as command lines do.

    Args:
      groups: settings (dataclasses) by a name that nobody sees.
      flags: `--name value...` or `--name=value`; a list also as Python writes it, which
        is how the agent of wandb passes one.
      prog: what the help calls the command.
    """
    import tyro

    if {"-h", "--help"} & set(flags):
        groups = {name: _with_ranges(value) for name, value in groups.items()}
    holder = dataclasses.make_dataclass(
        "Settings", [(name, type(value)) for name, value in groups.items()], frozen=True
    )
    lists = {
        name
        for group in groups.values()
        for name, value in flatten(group).items()
        if isinstance(value, tuple)
    }
    words = []
    for flag in flags:
        name, equals, value = flag.removeprefix("--").partition("=")
        is_list = name.replace("-", "_") in lists and value.startswith("[")
        if flag.startswith("--") and equals and is_list:
            words += [f"--{name}", *_items(value)]
        else:
            words.append(flag)
    parsed = tyro.cli(
        holder,
        prog=prog,
        default=holder(**groups),
        args=words,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff),
    )
    return {name: getattr(parsed, name) for name in groups}


def _items(text: str) -> list[str]:
    """The elements of a list as Python writes it; the text alone if it is none."""
    try:
        return [str(each) for each in ast.literal_eval(text)]
    except (ValueError, SyntaxError):
        return [text]


def read_flags(
    config: Any, flags: Mapping[str, Sequence[str]], prog: str
) -> dict[str, Any]:
    """The values of some flags, as `parse_flags` reads them.

    Each is read alone: whether they go together is seen once all settings are known.

    Args:
      config: settings, for names and types.
      flags: the words of each flag, by its setting's name.

    Raises:
      UserError: an unknown name (with a suggestion), or a flag without a value. Words
        that are no value of their type end the program.
    """
    known = flatten(config)
    _refuse_unknown(flags, known, "the flags")
    kept = [(name, *_leaf(config, name)) for name in flags]
    words = []
    for name, _, value in kept:
        given = flags[name]
        if not given and not isinstance(value, tuple):
            raise UserError(f"--{name.replace('_', '-')} needs a value.")
        one = len(given) == 1
        words += [f"--{name}={given[0]}"] if one else [f"--{name}", *given]
    leaves = dataclasses.make_dataclass(
        "Flags", [(name, hint) for name, hint, _ in kept], frozen=True
    )
    group = leaves(**{name: known[name] for name in flags})
    return vars(parse_flags({"flags": group}, words, prog)["flags"])


def _leaf(config: Any, name: str) -> tuple[Any, Any]:
    """The declared type and the value of a leaf."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            if name in flatten(value):
                return _leaf(value, name)
        elif field.name == name:
            return typing.get_type_hints(type(config))[name], value
    raise KeyError(name)


def _with_ranges(settings: Any) -> Any:
    """The same settings, of a class whose help shows the ranges of its numbers."""
    import tyro

    kind = type(settings)
    hints, values = typing.get_type_hints(kind, include_extras=True), {}
    for field in dataclasses.fields(kind):
        value = values[field.name] = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            values[field.name] = _with_ranges(value)
            hints[field.name] = type(values[field.name])
        elif isinstance(value, int | float) and field.name in ranges(kind):
            shown = ranges(kind)[field.name].around(type(value).__name__.upper())
            hints[field.name] = Annotated[
                hints[field.name], tyro.conf.arg(metavar=shown)
            ]
    shown_class = dataclasses.make_dataclass(
        kind.__name__,
        [(name, hints[name], None) for name in values],
        bases=(kind,),
        frozen=True,
        namespace={"__doc__": kind.__doc__, "__post_init__": lambda self: None},
    )
    return shown_class(**values)
