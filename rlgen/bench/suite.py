"""The suite: which cases there are, in which order, and what is written of them."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from rlgen.bench import (
    compilation,
    curricula,
    environments,
    machine,
    meta,
    offline,
    peers,
    plots,
)
from rlgen.bench.measure import Case, Result
from rlgen.errors import UserError
from rlgen.files import write_atomically
from rlgen.store import git_commit


def _targets(full: bool) -> list[Case]:
    del full  # they are what they are
    return curricula.target_cases() + meta.target_cases()


#: Cases by part, in the order in which they are measured: the machine's rates first.
_CASES: dict[str, Callable[[bool], list[Case]]] = {
    "machine": machine.cases,
    "targets": _targets,
    "env": environments.cases,
    "levels": environments.level_cases,
    "buffer": curricula.buffer_cases,
    "ppo": curricula.ppo_cases,
    "train": curricula.curriculum_cases,
    "seeds": curricula.seed_cases,
    "meta": meta.cases,
    "offline": offline.cases,
    "compile": compilation.cases,
    "peers": peers.cases,
}
PARTS = tuple(_CASES)
#: Asked for by name only: an accelerator's, and what the extra `peers` installs.
_ON_REQUEST = ("targets", "peers")


def cases(parts: Collection[str], full: bool) -> list[Case]:
    """All cases of some parts, small sizes before large ones."""
    return [case for part in PARTS if part in parts for case in _CASES[part](full)]


class Suite:
    """Runs cases within a time, and knows what is too large to try.

    Args:
      repeats: repetitions of each measurement.
      limit_s: seconds for all of it; no case begins after them. 0 for no limit.
      call_s: sizes are left out whose single call would take longer, as far as the
        size before them tells.
    """

    def __init__(self, repeats: int, limit_s: float, call_s: float):
        self.repeats, self.limit_s, self.call_s = repeats, limit_s, call_s
        self.begin = time.perf_counter()
        self._last: dict[tuple[str, str, str], Result] = {}

    def run(self, all_cases: Sequence[Case]) -> Iterator[Result]:
        """Yields one record a case."""
        for case in all_cases:
            about = {
                "part": case.part,
                "name": case.name,
                "axis": case.axis,
                "size": case.size,
            }
            curve = (case.part, case.name, case.axis)
            reason = self._reason_to_skip(case, self._last.get(curve))
            begin = time.perf_counter()
            if reason:
                record = about | {"left_out": reason}
            else:
                try:
                    record = about | case.run(self.repeats)
                except (UserError, jax.errors.JaxRuntimeError) as error:
                    record = about | {"left_out": str(error).splitlines()[0][:300]}
            record["took_s"] = time.perf_counter() - begin
            if case.axis:
                self._last[curve] = record
            yield record

    def _reason_to_skip(self, case: Case, last: Result | None) -> str:
        if self.limit_s and time.perf_counter() - self.begin > self.limit_s:
            return f"the {self.limit_s:g} seconds were over"
        if last is None:
            return ""
        if "left_out" in last:
            return f"{case.axis} {last['size']:,} was left out before it"
        expected = last["seconds"] * case.size / last["size"]
        if expected > self.call_s:
            return f"a call would take about {expected:.0f} s"
        return ""


class Limits:
    """The machine's rates, and what they say of a program."""

    def __init__(self):
        self.gflop_per_s = 0.0
        self.gb_per_s = 0.0

    def add(self, record: Result) -> None:
        """Learns rates from the machine's own records; adds `limit_s` to others."""
        if record["part"] == "machine":
            if "per_s" not in record:
                return
            if record["name"] == "memory":
                self.gb_per_s = max(self.gb_per_s, record["per_s"])
            elif record["name"].endswith("float32"):
                self.gflop_per_s = max(self.gflop_per_s, record["per_s"])
            return
        if "seconds" not in record:
            return
        arithmetic, moved = record.get("gflop", 0.0), record.get("moved_bytes", 0)
        limits = []
        if arithmetic and self.gflop_per_s:
            limits.append(arithmetic / self.gflop_per_s)
        if moved and self.gb_per_s:
            limits.append(1e-9 * moved / self.gb_per_s)
        if limits:
            record["limit_s"] = max(limits)
            record["share_of_limit"] = max(limits) / record["seconds"]


def describe(record: Result) -> str:
    """One line of progress."""
    where = f"{record['axis']} {record['size']:,}" if record["axis"] else ""
    head = f"{record['part']:8} {record['name']:20} {where:22}"
    if "left_out" in record:
        return f"{head} left out: {record['left_out']}"
    if "cached_s" in record:
        return (
            f"{head} compiled in {record['seconds']:.1f} s, from the cache in "
            f"{record['cached_s']:.1f} s; {record['instructions']:,} instructions train"
        )
    share = record.get("share_of_limit")
    limit = f", {share:.0%} of the limit" if share else ""
    return (
        f"{head} {record['per_s']:.4g} {record['unit']}/s{limit}, "
        f"compiled in {record['compile_s']:.1f} s"
    )


def about_machine() -> Result:
    """What a number must name."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(Path(__file__).parent),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "processor": _processor(),
        "jax": jax.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()


def main(args: Sequence[str]) -> int:
    """Parses flags, measures, shows progress and writes JSON and pictures."""
    parser = argparse.ArgumentParser(prog="rlgen bench", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="what to measure")
    parser.add_argument(
        "--full", action="store_true", help="all sizes of each axis, and every name"
    )
    parser.add_argument("--repeats", type=int, default=5, help="repetitions")
    parser.add_argument(
        "--limit-s", type=float, default=0.0, help="seconds; 0 for no limit"
    )
    parser.add_argument(
        "--call-s",
        type=float,
        default=20.0,
        help="leave out sizes of which one call would take longer",
    )
    parser.add_argument("--json", default="bench.json", help="file to write")
    parser.add_argument("--figures", default="", help="folder of pictures, if any")
    options = parser.parse_args(args)
    parts = options.parts or [part for part in PARTS if part not in _ON_REQUEST]
    parts = {"machine", *parts}  # a rate means little without the limit above it
    result = about_machine() | {"repeats": options.repeats, "records": []}
    suite, limits = Suite(options.repeats, options.limit_s, options.call_s), Limits()
    for record in suite.run(cases(parts, options.full)):
        limits.add(record)
        result["records"].append(record)
        print(describe(record), flush=True)
        _write(options.json, result)
    print("wrote", options.json)
    if options.figures:
        name = f"{result['device']}, {result['processor']}"
        for path in plots.draw(result["records"], Path(options.figures), name):
            print(path)
    return 0


def _write(path: str, result: dict[str, Any]) -> None:
    """After every case: what was measured is not lost."""
    with write_atomically(path, "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
