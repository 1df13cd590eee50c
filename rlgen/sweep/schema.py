"""Sweep files: wandb's schema, as far as it means something without a server.

No key is accepted and ignored: what cannot be done here is refused. `name` and
`description` are for people.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlgen import config as configs
from rlgen.errors import UserError
from rlgen.sweep.cells import parse_flags

METHODS = ("grid", "random", "bayes")
GOALS = ("maximize", "minimize")
#: More cells than this are a mistake: said before any is made.
MOST_CELLS = 100_000
_KNOWN = {
    "name",
    "description",
    "project",
    "entity",
    "program",
    "command",
    "method",
    "metric",
    "parameters",
    "run_cap",
}
_OF_A_PARAMETER = {
    "value",
    "values",
    "probabilities",
    "distribution",
    "min",
    "max",
    "mu",
    "sigma",
    "q",
}
# What a command of wandb may begin with and still be `rlgen train`.
_BEGINNINGS = (
    ["rlgen", "train"],
    ["${interpreter}", "-m", "rlgen.cli", "train"],
    ["python", "-m", "rlgen.cli", "train"],
    ["${program}", "train"],
)


#: Metrics of earlier versions, and what to name instead.
_OLD_METRICS = {
    "eval_solve_rate": "choose eval_heldout_solve_rate, or eval_named_solve_rate for "
    "named levels"
}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep file says.

    Attributes:
      path: the file.
      method: one of `METHODS`.
      parameters: by name, as the file has them: `value`, `values` or a distribution.
      metric: `name`, and `goal` if there is one, of what the sweep improves; or empty.
      run_cap: number of cells that a search tries; of a grid, at most.
      flags: words of `rlgen train` that the file's command and project add to each
        cell, below its parameters (see `cells.Flags`).
      last_flags: those that stand behind them in the command, and win.
    """

    path: Path
    method: str
    parameters: Mapping[str, Mapping[str, Any]]
    metric: Mapping[str, str]
    run_cap: int | None
    flags: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)
    last_flags: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.path.stem


def read(path: str | Path) -> Sweep:
    """Reads and checks a sweep file.

    Raises:
      UserError: no such file, or one that cannot be run here.
    """
    raw = configs.read_yaml(path)
    if "early_terminate" in raw:
        raise UserError(
            f"{path} asks for early_terminate, which `wandb agent` alone applies: "
            "leave it out to run the sweep here."
        )
    _no_other(raw, _KNOWN, str(path))
    method = raw.get("method")
    if method not in METHODS:
        raise UserError(
            f"{path} asks for method {method}: choose {', '.join(METHODS)}."
        )
    parameters = raw.get("parameters")
    if not isinstance(parameters, dict):
        raise UserError(f"{path} has no parameters: name at least an algorithm.")
    for name, spec in parameters.items():
        _check_parameter(f"Parameter {name} of {path}", spec, method)
    flags, last_flags = _flags(path, raw)
    if "algorithm" not in {*parameters, *flags, *last_flags}:
        raise UserError(f"{path} names no algorithm: add it to the parameters.")
    run_cap = raw.get("run_cap")
    if run_cap is not None and (type(run_cap) is not int or run_cap < 1):
        raise UserError(
            f"{path} has run_cap {run_cap}: give a whole number, 1 or more."
        )
    if method != "grid" and run_cap is None:
        raise UserError(
            f"{path} searches without end: add run_cap, the number of cells to try."
        )
    metric = _metric(path, raw.get("metric"), method)
    sweep = Sweep(Path(path), method, parameters, metric, run_cap, flags, last_flags)
    _check_size(sweep)
    return sweep


def _flags(path: str | Path, raw: Mapping[str, Any]) -> tuple[dict, dict]:
    """What `command`, `program`, `project` and `entity` ask for, as flags of a cell."""
    program = raw.get("program", "rlgen")
    if program != "rlgen":
        raise UserError(
            f"{path} names the program {program}, but sweeps here run `rlgen train`: "
            "write `program: rlgen`."
        )
    entity = raw.get("entity")
    if entity is not None and entity != os.environ.get("WANDB_ENTITY"):
        raise UserError(
            f"{path} names the entity {entity}, which wandb reads from the "
            f"environment here: set WANDB_ENTITY={entity}, or leave it out."
        )
    before, after = _words_of_command(path, raw.get("command"))
    flags = {}
    if (project := raw.get("project")) is not None:
        flags["wandb_project"] = [str(project)]
    return flags | parse_flags(before), parse_flags(after)


def _words_of_command(path: str | Path, command: Any) -> tuple[list[str], list[str]]:
    """The constant arguments before and behind the parameters."""
    if command is None:
        return [], []
    usual = '`command: [rlgen, train, "${args}"]`'
    if not isinstance(command, list) or command.count("${args}") != 1:
        raise UserError(
            f"The command of {path} must be a list that hands the parameters on once "
            f"by ${{args}}: write {usual}."
        )
    words = [str(word) for word in command]
    words = words[1:] if words[0] == "${env}" else words
    for beginning in _BEGINNINGS:
        if words[: len(beginning)] == beginning:
            words = words[len(beginning) :]
            break
    else:
        raise UserError(
            f"The command of {path} is not `rlgen train`, which is all that sweeps run "
            f"here: write {usual}."
        )
    others = [word for word in words if "${" in word and word != "${args}"]
    if others:
        raise UserError(
            f"The command of {path} holds {others[0]}, which only wandb fills in: "
            f"write {usual}."
        )
    at = words.index("${args}")
    return words[:at], words[at + 1 :]


def _metric(path: str | Path, metric: Any, method: str) -> dict[str, str]:
    """What is improved. Without a goal nothing is called best, and nothing searched."""
    usual = "`metric: {name: eval_heldout_return, goal: maximize}`"
    if metric is None or metric == {}:
        if method == "bayes":
            raise UserError(f"{path} must say what to improve: add {usual}.")
        return {}
    what = f"The metric of {path}"
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise UserError(f"{what} has no name: write {usual}.")
    if "target" in metric:
        raise UserError(
            f"{what} has a target, which wandb's server alone applies: leave it out."
        )
    _no_other(metric, {"name", "goal"}, what)
    goal = metric.get("goal")
    if (goal is None and method == "bayes") or ("goal" in metric and goal not in GOALS):
        raise UserError(
            f"{path} must say what to improve, by a goal ({' or '.join(GOALS)}): write "
            f"{usual}."
        )
    name = metric["name"]
    if name in _OLD_METRICS:
        raise UserError(
            f"{path} names the metric {name}, which no run logs: {_OLD_METRICS[name]}."
        )
    if name.startswith("eval_") and not name.endswith(("_return", "_solve_rate")):
        raise UserError(
            f"{what} is {name}, which no run has: name eval_SET_return or "
            "eval_SET_solve_rate."
        )
    return metric


def _check_parameter(what: str, spec: Any, method: str) -> None:
    if not isinstance(spec, dict):
        raise UserError(f"{what} needs a value or values.")
    _no_other(spec, _OF_A_PARAMETER, what)
    if "values" in spec:
        values = spec["values"]
        if not isinstance(values, list) or not values:
            raise UserError(f"{what} has no values: list at least one.")
    elif "value" in spec:
        values = [spec["value"]]
    elif method == "grid":
        raise UserError(f"{what} needs a value or values.")
    else:
        _check_distribution(what, spec)
        return
    rest = spec.keys() - {"value" if "value" in spec else "values"}
    allowed = set() if method == "grid" or "value" in spec else {"probabilities"}
    if unused := sorted(rest - allowed - {"distribution"}):
        raise UserError(
            f"{what} has {unused[0]}, which means nothing beside its values: leave it "
            "out."
        )
    if "probabilities" in spec:
        shares = spec["probabilities"]
        if (
            not isinstance(shares, list)
            or len(shares) != len(values)
            or not all(type(p) in (int, float) and p >= 0 for p in shares)
            or not math.isclose(sum(shares), 1.0, abs_tol=1e-6)
        ):
            raise UserError(
                f"{what} has probabilities {shares}: give one for each value, 1 in all."
            )
    named = "constant" if "value" in spec else "categorical"
    if spec.get("distribution", named) not in (named, f"{named}_w_probabilities"):
        raise UserError(f"{what} lists values: leave its distribution out.")
    if any(value is None or isinstance(value, dict) for value in values):
        raise UserError(
            f"{what} has the value null or a table: write a value ('' for no text)."
        )


# Those whose bounds, or whose logarithms, are numbers of their own.
_UNIFORM = ("uniform", "q_uniform", "int_uniform")
_LOG_OF_VALUES = (
    "log_uniform_values",
    "q_log_uniform_values",
    "inv_log_uniform_values",
)
LOG_OF_EXPONENTS = ("log_uniform", "q_log_uniform", "inv_log_uniform")
_NORMAL = ("normal", "q_normal", "log_normal", "q_log_normal")


def _check_distribution(what: str, spec: Mapping[str, Any]) -> None:
    """What is drawn, and between which numbers."""
    if "distribution" not in spec and not {"min", "max"} <= spec.keys():
        raise UserError(f"{what} needs a value, values, or min and max.")
    kind = spec.get("distribution", "uniform")
    known = (*_UNIFORM, *_LOG_OF_VALUES, *LOG_OF_EXPONENTS, *_NORMAL)
    if kind not in known:
        raise UserError(
            f"{what} has the distribution {kind}: choose {', '.join(known)}."
        )
    needed = ("mu", "sigma") if kind in _NORMAL else ("min", "max")
    allowed = {"distribution", *needed} | ({"q"} if kind.startswith("q_") else set())
    if unused := sorted(spec.keys() - allowed):
        raise UserError(f"{what} has {unused[0]}, which {kind} has not: leave it out.")
    for name in sorted(allowed - {"distribution"}):
        number = spec.get(name, 1 if name in ("q", "sigma") else None)
        number = 0 if name == "mu" and number is None else number
        is_number = type(number) in (int, float) and math.isfinite(number)
        if not is_number or (name in ("q", "sigma") and number <= 0):
            raise UserError(f"{what} has {name} {number}: {kind} needs a number.")
    if kind in _NORMAL:
        return
    low, high = spec["min"], spec["max"]
    if low >= high:
        raise UserError(f"{what} goes from {low} to {high}: min must be below max.")
    if kind in _LOG_OF_VALUES and low <= 0:
        raise UserError(
            f"{what} has min {low}: a logarithmic scale begins above 0, as at "
            f"{high / 1000:g}."
        )
    if kind in LOG_OF_EXPONENTS and low >= 0:
        # Bounds below 0 can be nothing else: what is drawn on this scale is positive.
        raise UserError(
            f"{what} goes from e^{low} to e^{high} by {kind}: write {kind}_values for "
            "bounds that are values."
        )


def _no_other(spec: Mapping[str, Any], known: set[str], what: str) -> None:
    unknown = sorted(set(spec) - known)
    if unknown:
        raise UserError(f"{what} has the unknown key {unknown[0]}: leave it out.")


def _check_size(sweep: Sweep) -> None:
    """Counts cells before any is made."""
    n_cells = sweep.run_cap or math.inf
    if sweep.method == "grid":
        values = [spec.get("values", [None]) for spec in sweep.parameters.values()]
        n_cells = min(n_cells, math.prod(map(len, values)))
    if n_cells > MOST_CELLS:
        raise UserError(
            f"{sweep.path} asks for {n_cells:,} cells, more than {MOST_CELLS:,}: list "
            "fewer values, or add a run_cap."
        )


def combinations(sweep: Sweep) -> list[dict[str, Any]]:
    """All combinations of a grid's values, the last parameter varying fastest.

    Raises:
      UserError: the sweep is a search.
    """
    if sweep.method != "grid":
        raise UserError(f"{sweep.path} is no grid: its cells follow from results.")
    values = [
        spec.get("values", [spec.get("value")]) for spec in sweep.parameters.values()
    ]
    made = itertools.islice(itertools.product(*values), sweep.run_cap)
    return [dict(zip(sweep.parameters, each, strict=True)) for each in made]
