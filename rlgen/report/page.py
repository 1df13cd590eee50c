"""Writes a report: one HTML page without network, and its parts for papers."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from rlgen import runs
from rlgen.errors import UserError
from rlgen.files import unwritable, write_atomically
from rlgen.report import figures, tables
from rlgen.runs import Run

_MIME = {".png": "image/png", ".gif": "image/gif"}
# Pictures of so many groups are shown; more would make a page of hundreds of MiB.
_MOST_GALLERIES = 12
_SECTIONS: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {
    "runs": (
        "What was run",
        "One line per setting; runs that differ in their seeds alone are one. Where "
        "settings would make long names, they have numbers.",
        ("runs",),
        (),
    ),
    "held-out": (
        "Held-out levels",
        "Means over episodes, with 95 % bootstrap intervals over seeds and over levels "
        "where these are a sample: named levels stand for themselves (of one seed over "
        "levels). IQM is the mean of the middle half.",
        ("scores", "worst_tenth"),
        ("returns", "solved", "profiles"),
    ),
    "differences": (
        "Differences",
        "All pairs, in mean held-out return on the same levels. The intervals hold "
        "together at 95 %: of methods that are equal some pair seems different in at "
        "most one report of twenty. With fewer than five seeds there is no verdict. "
        "The probability of improvement is that of a seed of the first on a level; "
        "ties count half.",
        ("differences",),
        (),
    ),
    "curves": (
        "Curves",
        "Steps that only score levels count as environment steps.",
        (),
        ("curves",),
    ),
    "gap": (
        "Generalization gap",
        "Mean return on train levels minus that on levels never trained on.",
        ("gaps",),
        ("gaps",),
    ),
    "curriculum": (
        "Curriculum and training",
        "What was trained on, and the mean over the last tenth of training of all that "
        "was logged.",
        ("diagnostics",),
        ("curriculum",),
    ),
    "cost": (
        "Cost",
        "Seconds are those of training and evaluation; seeds of one run share them.",
        ("costs",),
        (),
    ),
}
_CAPTIONS = {
    "returns": "Mean return on each level set.",
    "solved": "Share of episodes that were solved on each level set.",
    "profiles": "How many levels are solved how often.",
    "curves": "Return against environment steps and wall time.",
    "gaps": "Differences of mean returns.",
    "curriculum": "Levels that were trained on, and how well they were solved.",
}


def write(paths: Sequence[str | Path], out: str | Path, title: str = "") -> Path:
    """Reads runs and writes a report about them.

    Args:
      paths: run directories and folders of some; what cannot be read is named and left
        out.
      out: folder for index.html, `tables/*.csv` and `.tex`, `figures/*.png` and `.pdf`.

    Returns:
      the page.

    Raises:
      UserError: no run can be read, or the folder cannot be written.
    """
    found, left_out = runs.find(paths)
    for sentence in left_out:
        print(f"left out: {sentence}")
    if not found:
        raise UserError("None of these is a finished run: train some first.")
    groups = runs.group(found)
    out = Path(out)
    try:
        compared, made = tables.of_all(groups)
        drawn = figures.draw(groups, compared, made, out / "figures")
        for name, table in made.items():
            write_table(table, out / "tables" / name)
        seeds = sum(run.n_seeds for run in found)
        now = datetime.datetime.now(datetime.UTC)
        subtitle = (
            f"{len(found)} runs of {seeds} seeds in all, {now:%Y-%m-%d %H:%M} UTC, "
            "written by `rlgen report`."
        )
        heading = title or " and ".join(sorted({run.env for run in found}))
        page = _render(heading, subtitle, left_out, groups, made, drawn)
        with write_atomically(out / "index.html", "w") as file:
            file.write(page)
    except OSError as error:
        raise unwritable(out, error) from error
    return out / "index.html"


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Writes a table twice: `.csv` with every number, `.tex` (booktabs) for readers."""
    with write_atomically(path.with_suffix(".csv"), "w") as file:
        table.to_csv(file, index=False, float_format="%.6g")
    shown: Any = tables.with_intervals(table).style.hide(axis="index")
    text = shown.format(escape="latex").format_index(escape="latex", axis=1)
    with write_atomically(path.with_suffix(".tex"), "w") as file:
        file.write(text.to_latex(hrules=True))


def _render(
    title: str,
    subtitle: str,
    left_out: Sequence[str],
    groups: Mapping[str, Sequence[Run]],
    made: Mapping[str, pd.DataFrame],
    drawn: Mapping[str, Path],
) -> str:
    sections = []
    for name, (heading, text, own_tables, own_figures) in _SECTIONS.items():
        section = {
            "name": name,
            "heading": heading,
            "text": text,
            "figures": [
                {"source": _embedded(drawn[each]), "caption": _CAPTIONS[each]}
                for each in own_figures
                if each in drawn
            ],
            "tables": [
                tables.with_intervals(made[each]).to_html(index=False, border=0)
                for each in own_tables
                if each in made
            ],
            "galleries": [],
        }
        if section["figures"] or section["tables"]:
            sections.append(section)
    galleries = [
        {"heading": label, "pictures": _pictures(members[0])}
        for label, members in list(groups.items())[:_MOST_GALLERIES]
    ]
    galleries = [each for each in galleries if each["pictures"]]
    if galleries:
        text = "Levels and agents of the first run of each, as the runs drew them."
        if len(groups) > _MOST_GALLERIES:
            text += f" Only the first {_MOST_GALLERIES} of {len(groups)}."
        sections.append(
            {
                "name": "gallery",
                "heading": "Levels and agents",
                "text": text,
                "figures": [],
                "tables": [],
                "galleries": galleries,
            }
        )
    source = (resources.files("rlgen.report") / "page.html").read_text()
    # Only texts of ours, and tables that pandas has escaped, go in as they are.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    for section in sections:
        section["tables"] = [Markup(t) for t in section["tables"]]
    return environment.from_string(source).render(
        title=title, subtitle=subtitle, left_out=left_out, sections=sections
    )


def _pictures(run: Run) -> list[dict[str, str]]:
    """What a run drew, but for curves, which the page has of all runs."""
    files = sorted(run.store.figures_dir.rglob("*"))
    return [
        {
            "source": _embedded(path),
            "caption": str(path.relative_to(run.store.figures_dir)),
        }
        for path in files
        if path.suffix in _MIME and path.stem != "curves"
    ]


def _embedded(path: Path) -> str:
    """A picture as a data URL: the page is one file."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f"data:{_MIME[path.suffix]};base64,{data}"
