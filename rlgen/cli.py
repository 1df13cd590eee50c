"""The command line: `rlgen VERB ...`. The only module that knows every package.

Bad input ends with one sentence and exit code 2 before anything compiles; a signal
saves a checkpoint and ends with 128 + its number.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import errno
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlgen import registry
from rlgen.errors import UserError
from rlgen.ranges import Count, CountOrZero, Seed, Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        if not args or args[0] in ("-h", "--help"):
            print(_usage())
            return 0 if args else 2
        verb = VERBS.get(args[0])
        if verb is None:
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(VERBS)}."
            raise UserError(f"Unknown command {args[0]}: {hint}")
        return verb(args[1:]) or 0
    except UserError as error:
        print(f"rlgen: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:  # where no loop looks for signals: nothing to save
        print("rlgen: stopped by SIGINT.", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output (less, head) has gone
        return 0
    except OSError as error:
        if error.filename is None or error.errno not in _OF_A_PLACE:
            raise
        reason = f"{error.filename} cannot be used ({error.strerror})"
        print(f"rlgen: {reason}: name another place.", file=sys.stderr)
        return UserError.code


# What is wrong with a place that somebody named, not with us.
_OF_A_PLACE = {
    errno.EACCES, errno.EDQUOT, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
    errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
}  # fmt: skip


def _usage() -> str:
    lines = ["usage: rlgen COMMAND ...", "", "commands:"]
    for name, verb in VERBS.items():
        summary = (verb.__doc__ or "").splitlines()[0]
        lines.append(f"  {name:9} {summary}")
    lines += ["", "`rlgen COMMAND --help` tells more."]
    return "\n".join(lines)


def _train(args: Sequence[str]) -> int:
    """Train an algorithm, evaluate it on held-out levels and draw pictures."""
    if not args or args[0] in ("-h", "--help"):
        _choices().print_usage()
        print("algorithms:", ", ".join(registry.names(registry.ALGORITHMS)))
        return 0 if args else 2
    return _run_training(train_config(args))


def _choices() -> argparse.ArgumentParser:
    """What decides which settings there are."""
    first = argparse.ArgumentParser(
        prog="rlgen train",
        add_help=False,
        allow_abbrev=False,
        usage="rlgen train ALGORITHM [--env ENV] [--preset PRESET] [--config FILE] ...",
    )
    first.add_argument("--algorithm", default="")
    first.add_argument("--env", default="")
    first.add_argument("--preset", default="")
    first.add_argument("--config", default="")
    return first


def train_config(args: Sequence[str]) -> Any:
    """All settings of `rlgen train *args`: a `TrainConfig`.

    Raises:
      UserError: an unknown name, or values that do not fit. Unknown flags and `--help`
        end the program.
    """
    # As a flag too, so that a sweep can go through algorithms like any setting.
    named = [] if args[0].startswith("-") else ["--algorithm", args[0]]
    known, flags = _choices().parse_known_args([*args[len(named) // 2 :], *named])
    from rlgen import config as configs
    from rlgen import training

    file_settings = configs.read_yaml(known.config) if known.config else {}

    def base(implying: dict[str, Any]) -> Any:
        return training.make_config(
            known.algorithm,
            known.env,
            known.preset,
            file_settings,
            known.config,
            flags=implying,
        )

    def parse(config: Any) -> Any:
        groups = {
            field.name: getattr(config, field.name)
            for field in dataclasses.fields(config)
            if dataclasses.is_dataclass(getattr(config, field.name))
        }
        prog = f"rlgen train {config.algorithm}"
        parsed = configs.parse_flags(groups, flags, prog)
        return dataclasses.replace(config, **parsed)

    # A dataset implies the environment, whose flags must be known to read the others.
    data = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    data.add_argument("--data", default=file_settings.get("data", ""))
    first = base(vars(data.parse_known_args(flags)[0]))
    # Twice: what flags imply stands below what they say.
    before = configs.flatten(first)
    said = configs.flatten(parse(first)).items()
    changed = {name: value for name, value in said if value != before.get(name)}
    return parse(base(changed)).checked()


def _run_training(config: Any) -> int:
    from rlgen import reports, runner, training

    try:
        store = training.run_training(config, show_settings=True)
    except runner.Preempted as stop:
        print(
            f"rlgen: {stop}; run the same command again to continue.", file=sys.stderr
        )
        return 128 + stop.signum
    if store.writes:
        reports.print_summary(config, store)
    return 0


@dataclasses.dataclass(frozen=True)
class EvalOptions(Settings):
    """How a trained run is evaluated.

    Attributes:
      episodes: episodes per held-out level.
      levels: level files (.npz) to play too.
      named: play the named levels of every size.
      robustness: number of solvable random levels for the mean and CVaR; 0 for none.
      seed: seed of the evaluation.
    """

    episodes: Count = 10
    levels: tuple[str, ...] = ()
    named: bool = True
    robustness: CountOrZero = 0
    seed: Seed = 0


def _eval(args: Sequence[str]) -> int:
    """Evaluate a run on held-out, named and random levels; meta-test a rule."""
    import tyro

    if not args or args[0] in ("-h", "--help"):
        print(
            "usage: rlgen eval RUN|RULE ...   (RULE: a name, file or run of a rule)\n\n"
            "`rlgen eval RUN|RULE --help` tells more."
        )
        return 0 if args else 2
    from rlgen import meta_suite, reports, runner, training
    from rlgen.algos import rule_library

    is_rule = rule_library.is_rule(args[0])
    if not is_rule and not (Path(args[0]) / "config.yaml").exists():
        raise UserError(
            f"{args[0]} is neither a run directory nor a rule: name a run, or one of "
            f"{', '.join(rule_library.names())}."
        )
    options: Any = tyro.cli(
        meta_suite.RuleEvalOptions if is_rule else EvalOptions,
        prog=f"rlgen eval {args[0]}",
        args=list(args[1:]),
        config=(tyro.conf.FlagConversionOff,),
    )
    runner.use_compile_cache()
    if is_rule:
        meta_suite.evaluate(args[0], options)
        return 0
    config, store = training.load_run(args[0])
    reports.evaluate_run(
        *training.restore(config, store), config, store, **dataclasses.asdict(options)
    )
    return 0


def _ood(args: Sequence[str]) -> int:
    """Measure how out of distribution level sets are for a run's policies."""
    import tyro

    if not args or args[0] in ("-h", "--help"):
        print("usage: rlgen ood RUN [--n-levels N] [--n-steps N] [--levels FILE ...]")
        return 0 if args else 2
    from rlgen import ood_meter, runner

    options: Any = tyro.cli(
        ood_meter.OODOptions, prog=f"rlgen ood {args[0]}", args=list(args[1:])
    )
    runner.use_compile_cache()
    ood_meter.run(args[0], options)
    return 0


def _levels(args: Sequence[str]) -> int:
    """Print, draw and save levels of an environment."""
    if not args or args[0] in ("-h", "--help"):
        print("usage: rlgen levels ENV [--named True] [--n N] [--save FILE] ...")
        print("environments:", ", ".join(registry.names(registry.ENVS)))
        return 0 if args else 2
    env_type = registry.load(registry.ENVS, args[0])
    from rlgen import level_tool

    level_tool.run(args[0], env_type, args[1:])
    return 0


def _collect(args: Sequence[str]) -> int:
    """Collect a dataset for offline learning on the train levels of a run."""
    if not args or args[0] in ("-h", "--help"):
        print(
            "usage: rlgen collect RUN [--quality QUALITY] [--transitions N] ...\n"
            "       rlgen collect ENV [--controller NAME] [--transitions N] ...\n\n"
            "A run plays with its policies (random, medium, medium-replay, expert or "
            "mixed;\nall but random and expert need --keep-policies True in training), "
            "an environment\nwith random actions or a scripted controller. Levels are "
            "of the train split only;\nthe dataset is in Minari's format. "
            "`rlgen collect RUN|ENV --help` tells more.\n"
        )
        print("environments:", ", ".join(registry.names(registry.ENVS)))
        return 0 if args else 2
    from rlgen import collect, runner

    try:
        collect.run(args[0], args[1:])
    except runner.Preempted as stop:
        print(f"rlgen: {stop}; nothing was written.", file=sys.stderr)
        return 128 + stop.signum
    return 0


def _bench(args: Sequence[str]) -> int:
    """Measure what this machine reaches against the size of each axis; write JSON."""
    from rlgen.bench import suite

    return suite.main(args)


def _sweep(args: Sequence[str]) -> int:
    """Run every cell of sweep files, here or on a cluster, on from where they were."""
    parser = argparse.ArgumentParser(prog="rlgen sweep", description=_sweep.__doc__)
    parser.add_argument("files", nargs="+", help="sweeps in wandb's schema")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes side by side (default: 1)"
    )
    parser.add_argument(
        "--gpus", default="", help="GPUs by number, as 0,1: a worker for each"
    )
    parser.add_argument("--dry-run", action="store_true", help="only list the cells")
    parser.add_argument(
        "--on", default="local", choices=("local", "slurm"), help="where cells run"
    )
    parser.add_argument(
        "--job",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="what jobs ask for: timeout_min=240 gpus_per_node=1 slurm_partition=gpu",
    )
    cut = list(args).index("--") if "--" in args else len(args)
    parser.epilog = "Flags of `rlgen train` for every cell go after --: they win."
    known = parser.parse_args(args[:cut])
    from rlgen.sweep import cells, local

    flags = cells.parse_flags(args[cut + 1 :])
    if known.dry_run:
        local.list_cells(known.files, flags)
        return 0
    if known.on == "slurm":
        from rlgen.sweep import cluster

        cluster.submit(known.files, flags, cluster.parse_options(known.job))
        return 0
    gpus = [gpu for gpu in known.gpus.split(",") if gpu]
    return local.run(known.files, flags, known.workers, gpus)


def _reproduce(args: Sequence[str]) -> int:
    """Run a paper's sweeps, then its tables and figures; without a name, list them."""
    parser = argparse.ArgumentParser(
        prog="rlgen reproduce", description=_reproduce.__doc__
    )
    parser.add_argument("paper", nargs="?", default="", help="its folder's name")
    parser.add_argument("--size", default="cpu", help="cpu (default) or paper")
    parser.add_argument("--workers", type=int, default=0, help="of `rlgen sweep`")
    parser.add_argument("--gpus", default="", help="of `rlgen sweep`")
    parser.add_argument("--dry-run", action="store_true", help="only list the commands")
    known = parser.parse_args(args)
    from rlgen import reproduce

    if not known.paper:
        reproduce.show()
        return 0
    flags = ["--workers", str(known.workers)] if known.workers else []
    flags += ["--gpus", known.gpus] if known.gpus else []
    return reproduce.run(
        known.paper, known.size, sweep_flags=flags, dry_run=known.dry_run
    )


def _report(args: Sequence[str]) -> int:
    """Write one page about many runs, with tables and figures for papers."""
    parser = argparse.ArgumentParser(prog="rlgen report", description=_report.__doc__)
    parser.add_argument("runs", nargs="+", help="run directories, or folders of some")
    parser.add_argument("--out", default="report", help="folder of the report")
    parser.add_argument("--title", default="", help="what the page is called")
    known = parser.parse_args(args)
    from rlgen.report import page

    print(page.write(known.runs, known.out, known.title))
    return 0


def _select(args: Sequence[str]) -> int:
    """Choose among runs and checkpoints by crafted shifts; report on test levels."""
    if not args or args[0].startswith("-"):
        print(
            "usage: rlgen select RUN... [--measure success|return] [--last N] ...\n\n"
            "Candidates are the runs at each kept policy (--keep-policies True in\n"
            "training), else at their last checkpoint. They are chosen by validation\n"
            "levels, plain and shifted; test levels are played afterwards, to report.\n"
            "`rlgen select RUN --help` tells more."
        )
        return 0 if args and args[0] in ("-h", "--help") else 2
    from rlgen import model_selection, runner

    runner.use_compile_cache()
    model_selection.run(args)
    return 0


def _ls(args: Sequence[str]) -> int:
    """List algorithms, environments, update rules and runs."""
    parser = argparse.ArgumentParser(prog="rlgen ls", description=_ls.__doc__)
    parser.add_argument("--out", default="runs", help="folder of the runs")
    options = parser.parse_args(args)
    from rlgen.store import RunStore

    around: dict[tuple[str, str], list[str]] = {}
    print("algorithms:")
    for name in registry.names(registry.ALGORITHMS):
        entry = registry.load(registry.ALGORITHMS, name)
        print(f"  {name:12} {entry.summary} ({entry.source})")
        for switch, what in entry.wrappers.items():
            around.setdefault((switch, what), []).append(name)
    print("around others:")
    for (switch, what), wrapped in around.items():
        flag = f"--{switch.replace('_', '-')} True"
        print(f"  {switch:12} {what}: {flag} with {', '.join(wrapped)}")
    print("environments:", ", ".join(registry.names(registry.ENVS)))
    print("update rules:", ", ".join(registry.names(registry.RULES)))
    runs = sorted(Path(options.out).glob("*/run.json"))
    if runs:
        print("runs:")
    for path in runs:
        try:
            run = RunStore(path.parent).read_run()
            print(
                f"  {path.parent}  {run.get('status', '?')}  "
                f"{run.get('env_steps', 0):,} steps  {run.get('wall_s', 0):,.0f} s"
            )
        except (UserError, ValueError, TypeError) as error:
            print(f"  {path.parent}  damaged: {error}")
    return 0


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": _train,
    "eval": _eval,
    "ood": _ood,
    "levels": _levels,
    "collect": _collect,
    "sweep": _sweep,
    "report": _report,
    "reproduce": _reproduce,
    "select": _select,
    "bench": _bench,
    "ls": _ls,
}


if __name__ == "__main__":
    sys.exit(main())
