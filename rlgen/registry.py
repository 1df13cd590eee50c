"""Names to things: environments, algorithms and rules register through entry points.

The built-in ones too, so another project adds its own without touching this one:

    [project.entry-points."rlgen.envs"]
    my_env = "my_package.my_env:MyEnvConfig"
"""

from __future__ import annotations

import difflib
import functools
from importlib import metadata
from typing import Any

from rlgen.errors import UserError

ALGORITHMS = "rlgen.algorithms"
ENVS = "rlgen.envs"
RULES = "rlgen.rules"
_KINDS = {ALGORITHMS: "algorithm", ENVS: "environment", RULES: "rule"}


@functools.cache
def _entries(group: str) -> dict[str, metadata.EntryPoint]:
    # Asked once: every question reads the metadata of all installed packages.
    found: dict[str, metadata.EntryPoint] = {}
    for entry in metadata.entry_points(group=group):
        found.setdefault(entry.name, entry)
    return found


def names(group: str) -> list[str]:
    """All registered names of a group, sorted."""
    return sorted(_entries(group))


def load(group: str, name: str) -> Any:
    """What is registered under a name.

    Raises:
      UserError: nothing is; the message suggests the nearest name.
    """
    if entry := _entries(group).get(name):
        return entry.load()
    known = names(group)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    kind = _KINDS[group]
    raise UserError(f"Unknown {kind} {name}: {hint}Known are {', '.join(known)}.")
