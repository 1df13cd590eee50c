"""The tables of presets beside what was published, from the registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlgen import config as configs
from rlgen import registry, training
from rlgen.published import Published


def tables() -> str:
    """A section for every preset that follows a published configuration; Markdown."""
    return "\n\n".join(
        "\n".join(_section(name, preset, published))
        for name in registry.names(registry.ALGORITHMS)
        for preset, published in registry.load(
            registry.ALGORITHMS, name
        ).published.items()
    )


def _section(name: str, preset: str, published: Published) -> Iterator[str]:
    commit = published.commit
    address = f"https://github.com/{published.repository}/tree/{commit}"
    entry = registry.load(registry.ALGORITHMS, name)
    yield f"\n\n## `{name} --preset {preset}`\n"
    yield (
        f"{entry.source}. Values of {published.task} in "
        f"[{published.repository}]({address}), commit {commit[:7]}.\n"
    )
    yield "| Setting | Here | Published | In | Why |"
    yield "|---|---|---|---|---|"
    resolved = configs.flatten(training.make_config(name, published.env, preset))
    for row in published.rows(resolved):
        here, there = _shown(row.here), _shown(row.published)
        file = f"[{Path(row.file).name}]({address}/{row.file})"
        yield f"| `{row.setting}` | {here} | {there} | {file} | {row.reason} |"
    if published.beyond:
        yield "\nAlso another, though no setting tells:\n"
        yield from (f"- {sentence}" for sentence in published.beyond)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
