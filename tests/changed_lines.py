"""Changes single lines of the algorithms, one at a time: do the tests notice?

    python tests/changed_lines.py --seed 0 --per-module 3 --out changes.jsonl

Lines are drawn by the seed, so many of each module of `rlgen/algos`, and of each line
one of the changes that it allows: another comparison, operator, number, reduction or
condition; operands or branches exchanged; a term, a bound or a `stop_gradient` left
out. Each is made on a copy of the tree, where the tests run that should notice: those
named like the module or that import it, else those of the modules that use it, else
all beside it; first the tests that name the function. It is killed if one fails,
and survives if all pass: then a test is missing, or it changes nothing.

Texts, type hints, errors, assertions, pictures, and what stands outside of functions
(settings and presets) are not changed. A line of the output is a change; what stands
there is not run again, so a run that was stopped goes on, and one with a larger
`--per-module` adds to it. `--again` runs the survivors once more, after tests changed.
Not part of CI: it takes hours.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import importlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES, TESTS = "rlgen/algos", "tests/algos"
_COMPARED = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
_COMPUTED = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}
_REDUCED = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "argmin": "argmax",
    "argmax": "argmin",
    "sum": "mean",
    "mean": "sum",
    "cumsum": "cumprod",
    "any": "all",
    "all": "any",
    "floor": "ceil",
    "ceil": "floor",
    "exp": "expm1",
    "square": "abs",
    "zeros": "ones",
    "ones": "zeros",
    "zeros_like": "ones_like",
    "ones_like": "zeros_like",
}
# Calls whose first argument stands for the whole once they are left out.
_LEFT_OUT = ("stop_gradient", "clip", "tanh", "sqrt", "log", "where", "sort", "abs")

_LIBRARIES = (
    "pytest",
    "jax.numpy",
    "flax.linen",
    "optax",
    "chex",
    "distrax",
    "gymnasium",
    "pandas",
    "scipy.stats",
    "hypothesis",
    "orbax.checkpoint",
    "matplotlib.pyplot",
)


@dataclasses.dataclass(frozen=True)
class Change:
    """A piece of one line and what it becomes."""

    path: str
    line: int  # from 1
    start: int  # bytes
    end: int
    kind: str
    before: str
    after: str
    of: str = ""  # the whole line, which may move

    def made(self, source: str) -> str:
        """The source with this change."""
        lines = source.splitlines(keepends=True)
        line = lines[self.line - 1].encode()
        line = line[: self.start] + self.after.encode() + line[self.end :]
        lines[self.line - 1] = line.decode()
        return "".join(lines)


def modules() -> list[str]:
    """Paths of the algorithms' modules that have something to change."""
    paths = (path for path in _files(SOURCES, "*.py") if "gallery" not in path)
    return [path for path in paths if changes_of(path)]


@functools.cache
def changes_of(path: str) -> tuple[Change, ...]:
    """All changes of a module, in its order; some may be no Python."""
    source = _source(path)
    tree = ast.parse(source)
    changes = (c for node in _in_functions(tree) for c in _alternatives(path, node))
    changes = dict.fromkeys(c for c in changes if c.before.strip() != c.after.strip())
    return tuple(sorted(changes, key=lambda c: (c.line, c.start, c.end)))


def drawn(path: str, seed: int, n: int) -> list[Change]:
    """Changes of n different lines, at random; the first of n + 1 are those of n."""
    rng = random.Random(f"{seed} {path}")
    by_line: dict[int, list[Change]] = {}
    for change in changes_of(path):
        by_line.setdefault(change.line, []).append(change)
    lines = sorted(by_line)
    rng.shuffle(lines)
    chosen = (rng.choice(by_line[line]) for line in lines)
    return list(itertools.islice(filter(is_python, chosen), n))


def is_python(change: Change) -> bool:
    """Whether it compiles, and to something else."""
    try:
        changed = ast.parse(change.made(_source(change.path)))
    except SyntaxError:
        return False
    return ast.dump(changed) != _dump(change.path)


@functools.cache
def _dump(path: str) -> str:
    return ast.dump(ast.parse(_source(path)))


@functools.cache
def _source(path: str) -> str:
    return (ROOT / path).read_text()


@functools.cache
def _lines(path: str) -> list[bytes]:
    return [line.encode() for line in _source(path).splitlines()]


def _in_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """What functions do: no hints, texts, decorators, errors or assertions."""
    todo: list[tuple[ast.AST, bool]] = [(tree, False)]
    while todo:
        node, inside = todo.pop()
        if isinstance(node, ast.Raise | ast.Assert | ast.arg | ast.JoinedStr):
            continue
        if inside:
            yield node
        if isinstance(node, ast.FunctionDef):
            todo += [(child, True) for child in node.body]
            continue
        inside = inside or isinstance(node, ast.Lambda)
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "decorator_list"):
                children = value if isinstance(value, list) else [value]
                todo += [(c, inside) for c in children if isinstance(c, ast.AST)]


def _alternatives(path: str, node: ast.AST) -> Iterator[Change]:
    """What this node allows."""

    def text(piece: ast.AST) -> str:
        """Of one line; nothing that could be changed to if it has several."""
        if piece.lineno != piece.end_lineno:
            return ""
        line = _lines(path)[piece.lineno - 1]
        return line[piece.col_offset : piece.end_col_offset].decode()

    def whole(number: int) -> str:
        return _lines(path)[number - 1].decode()

    def change(piece: ast.AST, kind: str, after: str) -> Iterator[Change]:
        if before := text(piece):
            place = piece.lineno, piece.col_offset, piece.end_col_offset
            yield Change(path, *place, kind, before, after, whole(piece.lineno))

    def symbol(left, right, kind: str, before: str, after: str) -> Iterator[Change]:
        """Of an operator, which stands somewhere between its operands."""
        for number in range(left.end_lineno, right.lineno + 1):
            line = _lines(path)[number - 1]
            start = left.end_col_offset if number == left.end_lineno else 0
            end = right.col_offset if number == right.lineno else len(line)
            at = line.partition(b"#")[0].find(before.encode(), start, end)
            if at >= 0:
                place = number, at, at + len(before.encode())
                yield Change(path, *place, kind, before, after, whole(number))
                return

    match node:
        case ast.Compare(left, [op], [right]):
            yield from symbol(left, right, "comparison", *_COMPARED[type(op)])
        case ast.BinOp(left, op, right) if not (_is_guard(left) or _is_guard(right)):
            if type(op) in _COMPUTED:
                yield from symbol(left, right, "operator", *_COMPUTED[type(op)])
            for kept in filter(text, (left, right)):
                yield from change(node, "term left out", f"({text(kept)})")
            if isinstance(op, ast.Sub | ast.Div) and text(node):
                between = text(node)[len(text(left)) : -len(text(right))]
                if between.strip() in "-/":
                    after = f"({text(right)}){between}({text(left)})"
                    yield from change(node, "operands exchanged", after)
        case ast.BoolOp(op, [left, right]):
            words = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
            yield from symbol(left, right, "operator", *words)
            for kept in filter(text, (left, right)):
                yield from change(node, "term left out", f"({text(kept)})")
        case ast.UnaryOp(_, operand):
            yield from change(node, "sign left out", f"({text(operand)})")
        case ast.AugAssign(target, op, value):
            if type(op) in _COMPUTED:
                pair = (f"{sign}=" for sign in _COMPUTED[type(op)])
                yield from symbol(target, value, "operator", *pair)
            yield from change(node, "statement left out", "pass")
        case ast.Constant(bool() as value):
            yield from change(node, "constant", str(not value))
        case ast.Constant(int() as value):
            yield from change(node, "constant", str(value + 1))
        case ast.Constant(float() as value) if not _is_guard(node):
            yield from change(node, "constant", str(2 * value or 1.0))
        case ast.IfExp(test) | ast.If(test) | ast.comprehension(ifs=[test]):
            yield from change(test, "condition", f"(not ({text(test)}))")
        case ast.Call(func, args):
            name = getattr(func, "attr", getattr(func, "id", ""))
            if name in _REDUCED:
                after = text(func)[: -len(name)] + _REDUCED[name]
                yield from change(func, "reduction", after)
            if name in _LEFT_OUT and args:
                kept = args[name == "where"]
                yield from change(node, f"{name} left out", f"({text(kept)})")
            if name in ("where", "cond") and len(args) > 2 and text(node):
                head, a, b = (text(arg) for arg in args[:3])
                tail = ", ".join(filter(None, map(text, args[3:])))
                after = f"{text(func)}({head}, {b}, {a}, {tail})"
                yield from change(node, "branches exchanged", after)


def _is_guard(node: ast.AST) -> bool:
    """A number so small that it is there to divide by nothing: twice it is as good."""
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, float)
        and 0 < node.value < 1e-4
    )


def _name(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


@functools.cache
def _imported(path: str) -> frozenset[str]:
    """Full names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return frozenset(names)


def _files(folder: str, pattern: str) -> list[str]:
    paths = sorted((ROOT / folder).rglob(pattern))
    return [path.relative_to(ROOT).as_posix() for path in paths]


@functools.cache
def tests_of(path: str) -> tuple[str, ...]:
    """Test files that should notice a change of a module, its namesake first."""
    namesake = path.replace(SOURCES, TESTS)
    namesake = str(Path(namesake).with_name(f"test_{Path(namesake).name}"))
    tests = _files("tests", "test_*.py")
    found = [namesake] if namesake in tests else []
    near = str(Path(namesake).parent)
    users = [test for test in tests if _name(path) in _imported(test)]
    found += sorted(users, key=lambda test: (not test.startswith(near), test))
    if not found:
        for user in _files(SOURCES, "*.py"):
            if _name(path) in _imported(user) and user != path:
                found += tests_of(user)
    found = found or [test for test in tests if test.startswith(f"{near}/test_")]
    return tuple(dict.fromkeys(found))


def first_tests_of(change: Change) -> list[str]:
    """Those of `tests_of` that name the function that the change is in, or its class.

    The innermost that any of them names.
    """
    around = [
        node
        for node in ast.walk(ast.parse(_source(change.path)))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and node.lineno <= change.line <= (node.end_lineno or 0)
    ]
    tests = {
        f"{path}::{node.name}": ast.unparse(node)
        for path in tests_of(change.path)
        for node in ast.parse(_source(path)).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    for node in sorted(around, key=lambda node: -node.lineno):
        named = re.compile(rf"\b{node.name}\b")
        if found := [test for test, text in tests.items() if named.search(text)]:
            return found
    return []


class Copy:
    """A copy of the tree, in which tests run."""

    def __init__(self, folder: Path, timeout_s: float):
        self.root, self.timeout_s = folder / "tree", timeout_s
        self._said = folder / "said"
        kept = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout.decode()
        for name in filter(None, kept.split("\0")):
            if (ROOT / name).exists():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name, follow_symlinks=False)

    def run(self, *tests: str) -> tuple[str, float, list[str]]:
        """What came of it ("killed", "survived", "timeout"), seconds, who failed."""
        command = ["-q", "-n", "0", "-m", "not slow", "-p", "no:cacheprovider"]
        command += ["--tb=no", *tests]
        begun = time.monotonic()
        if not (child := os.fork()):
            self._become_pytest(command)
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() - begun > self.timeout_s:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return "timeout", self.timeout_s, []
            time.sleep(0.1)
        said = self._said.read_text()
        # 5: no test was left.
        found = {0: "survived", 1: "killed", 2: "killed", 5: "survived"}
        outcome = found.get(ended[1] >> 8)
        if ended[1] & 0xFF:
            outcome = "killed"  # by a signal: it broke down
        if outcome is None:
            raise RuntimeError(f"pytest did not run:\n{said}")
        failed = [x for x in said.splitlines() if x.startswith(("FAILED", "ERROR"))]
        who = [x.split(" ", 1)[1].split(" - ")[0] for x in failed]
        return outcome, round(time.monotonic() - begun, 1), who

    def _become_pytest(self, command: list[str]) -> None:
        """What the child does, in the copy and with its modules; never returns."""
        status = 3
        try:
            os.setsid()
            file = os.open(self._said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            os.chdir(self.root)
            own = [p for p in sys.path if Path(p or ".").resolve() != ROOT / "tests"]
            sys.path[:] = [str(self.root), *own]
            os.environ |= {"PYTHONPATH": str(self.root), "COLUMNS": "1000"}
            # Helpers of tests are those of the copy.
            for name, module in list(sys.modules.items()):
                if str(ROOT / "tests") in (getattr(module, "__file__", None) or ""):
                    del sys.modules[name]
            import pytest

            status = int(pytest.main(command))
            sys.stdout.flush()
        finally:
            os._exit(status)

    def try_change(self, change: Change) -> dict:
        """The same with a change, which is undone: a line of the output."""
        file = self.root / change.path
        source = file.read_text()
        file.write_text(change.made(source))
        first, wall_s = first_tests_of(change), 0.0
        rest = [*tests_of(change.path), *(f"--deselect={test}" for test in first)]
        try:
            for tests in filter(None, (first, rest)):
                outcome, more_s, who = self.run("-x", *tests)
                wall_s += more_s
                if outcome != "survived":
                    break
        finally:
            file.write_text(source)
        row = dataclasses.asdict(change) | {"outcome": outcome, "wall_s": wall_s}
        return row | {
            "noticed_by": who[0] if who else "",
            "tests": tests_of(change.path),
        }


def main() -> None:
    """Draws, tries and counts."""
    args = _arguments()
    paths = [path for path in modules() if not args.only or _is_of(path, args.only)]
    by_module = [drawn(path, args.seed, args.per_module) for path in paths]
    # One of each module, then the second of each: what is stopped has seen all.
    plan = [c for row in itertools.zip_longest(*by_module) for c in row if c]
    if args.list:
        for change in plan:
            print(_told(change), *tests_of(change.path), sep="\n    ")
        return
    out = Path(args.out)
    tried = {
        key
        for key, row in _read(out).items()
        if not (args.again and row["outcome"] == "survived")
    }
    plan = [change for change in plan if _key(change) not in tried]
    _import_libraries()
    with tempfile.TemporaryDirectory(prefix="changed-lines-") as folder:
        copy = Copy(Path(folder), args.timeout)
        for change in plan:
            row = copy.try_change(change) | {"seed": args.seed}
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            told = f"{row['outcome']} ({row['wall_s']:.0f} s): {_told(change)}"
            print(told, flush=True)
        rows = [row for row in _read(out).values() if row["path"] in paths]
        # Who fails on an unchanged tree too has noticed nothing.
        who = sorted({row["noticed_by"] for row in rows if "::" in row["noticed_by"]})
        if args.check and who:
            blind = copy.run(*who)[2]
            rows = [row for row in rows if row["noticed_by"] not in blind]
            print(*(f"fails unchanged: {test}" for test in blind), sep="\n")
    _report(rows)


def _import_libraries() -> None:
    """All that tests need and that is never changed: children have it already."""
    import conftest  # noqa: F401, its settings are read as JAX is imported

    for name in _LIBRARIES:
        importlib.import_module(name)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seed", type=int, default=0)
    add("--per-module", type=int, default=3, help="lines drawn of each module")
    add("--only", nargs="*", help="modules, such as offline/sac or ued")
    add("--out", default="changed_lines.jsonl", help="JSON lines, appended")
    add("--timeout", type=float, default=900.0, help="seconds for each change")
    add("--check", action="store_true", help="do killers pass on an unchanged tree?")
    add("--again", action="store_true", help="run those that survived once more")
    add("--list", action="store_true", help="print what is drawn, run nothing")
    return parser.parse_args()


def _is_of(path: str, names: list[str]) -> bool:
    place = path.removeprefix(f"{SOURCES}/").removesuffix(".py")
    return any(place == name or place.startswith(f"{name}/") for name in names)


def _told(change: Change) -> str:
    return (
        f"{change.path}:{change.line}: {change.kind}: "
        f"{change.before}  ->  {change.after}"
    )


def _key(row) -> tuple:
    """A change by what it says, so that it is known when lines above it moved."""
    row = row if isinstance(row, dict) else dataclasses.asdict(row)
    return tuple(row[name] for name in ("path", "of", "start", "kind", "after"))


def _read(out: Path) -> dict[tuple, dict]:
    """The last that came of each change."""
    lines = out.read_text().splitlines() if out.exists() else []
    return {_key(row): row for row in map(json.loads, lines)}


def _report(rows: list[dict]) -> None:
    """A table by module, and all that survived."""
    print(f"\n{'module':<45} killed  tried  timeouts")
    outcomes = ("killed", "timeout")
    for path in sorted({row["path"] for row in rows}):
        own = [row["outcome"] for row in rows if row["path"] == path]
        killed, late = (own.count(outcome) for outcome in outcomes)
        print(f"{path:<45} {killed:>6} {len(own):>6} {late:>9}")
    every = [row["outcome"] for row in rows]
    killed, late = (every.count(outcome) for outcome in outcomes)
    print(f"{'all':<45} {killed:>6} {len(every):>6} {late:>9}")
    for row in rows:
        if row["outcome"] == "survived":
            print(f"survived: {row['path']}:{row['line']}: {row['kind']}: ", end="")
            print(f"{row['before']}  ->  {row['after']}")


if __name__ == "__main__":
    main()
