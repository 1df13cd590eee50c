"""Published configurations, beside which the presets that follow them stand.

A preset with a paper's name follows one source, a file of released code for one
experiment, and has every value from there or a reason for another. The page
`docs/api/presets.md` shows all of it; a test holds every value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A setting of a preset beside what was published."""

    setting: str
    here: Any
    published: Any
    file: str  # of the source, that holds the published value
    reason: str  # for another value here; empty where both are equal


@dataclasses.dataclass(frozen=True)
class Published:
    """The one configuration that a preset follows.

    Attributes:
      repository: of the released code, owner/name on GitHub.
      commit: that was read.
      task: what was trained on there: values that differ by task are those of it.
      values: by file, what it says, in the names and units of our settings.
      reasons: by setting, why it has another value here.
      beyond: differences that no setting shows, a sentence each.
      env: environment to resolve the preset in; empty for the algorithm's own.
    """

    repository: str
    commit: str
    task: str
    values: Mapping[str, Mapping[str, Any]]
    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)
    beyond: tuple[str, ...] = ()
    env: str = ""

    def rows(self, resolved: Mapping[str, Any]) -> Iterator[Row]:
        """Every published value beside that of a preset.

        Args:
          resolved: flat settings of the preset.

        Raises:
          KeyError: there is no such setting.
        """
        for file, values in self.values.items():
            for name, value in values.items():
                reason = self.reasons.get(name, "")
                yield Row(name, resolved[name], value, file, reason)
