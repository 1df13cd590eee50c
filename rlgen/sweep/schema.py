"""Sweep files: wandb's schema, as far as it means something without a server."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlgen import config as configs
from rlgen.errors import UserError

METHODS = ("grid", "random", "bayes")
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
      metric: name and goal of what Bayesian search improves; empty for others.
      run_cap: number of cells that a search tries; of a grid, at most.
    """

    path: Path
    method: str
    parameters: Mapping[str, Mapping[str, Any]]
    metric: Mapping[str, str]
    run_cap: int | None

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
    if "algorithm" not in parameters:
        raise UserError(f"{path} names no algorithm: add it to the parameters.")
    run_cap = raw.get("run_cap")
    if run_cap is not None and (not isinstance(run_cap, int) or run_cap < 1):
        raise UserError(
            f"{path} has run_cap {run_cap}: give a whole number, 1 or more."
        )
    if method != "grid" and run_cap is None:
        raise UserError(
            f"{path} searches without end: add run_cap, the number of cells to try."
        )
    metric = raw.get("metric") or {}
    name = str(metric.get("name")) if isinstance(metric, dict) else ""
    if name in _OLD_METRICS:
        raise UserError(
            f"{path} names the metric {name}, which no run logs: {_OLD_METRICS[name]}."
        )
    if method == "bayes":
        goals = ("maximize", "minimize")
        if "name" not in metric or metric.get("goal") not in goals:
            raise UserError(
                f"{path} must say what to improve: add "
                "`metric: {name: eval_heldout_return, goal: maximize}`."
            )
    return Sweep(Path(path), method, parameters, metric, run_cap)


def _check_parameter(what: str, spec: Any, method: str) -> None:
    if not isinstance(spec, dict):
        raise UserError(f"{what} needs a value or values.")
    _no_other(spec, _OF_A_PARAMETER, what)
    if "values" in spec:
        if not isinstance(spec["values"], list) or not spec["values"]:
            raise UserError(f"{what} has no values: list at least one.")
    elif "value" not in spec:
        if method == "grid":
            raise UserError(f"{what} needs a value or values.")
        if "distribution" not in spec and not {"min", "max"} <= set(spec):
            raise UserError(f"{what} needs a value, values, or min and max.")


def _no_other(spec: Mapping[str, Any], known: set[str], what: str) -> None:
    unknown = sorted(set(spec) - known)
    if unknown:
        raise UserError(f"{what} has the unknown key {unknown[0]}: leave it out.")


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
    cells = [
        dict(zip(sweep.parameters, combination, strict=True))
        for combination in itertools.product(*values)
    ]
    return cells[: sweep.run_cap]
