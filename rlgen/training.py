"""One call per experiment: settings in, run directory out. The CLI is a shell of it."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import jax

from rlgen import config as configs
from rlgen import memory, mesh, processes, programs, registry, runner, runs, sinks
from rlgen.checkpoints import Checkpoints
from rlgen.config import RunConfig
from rlgen.errors import UserError
from rlgen.experiment import Algorithm, Experiment
from rlgen.files import unwritable
from rlgen.levels import LevelSet
from rlgen.programs import Plan, Program
from rlgen.ranges import check_ranges
from rlgen.store import RunStore, Sink

PyTree = Any


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """All settings of one training run.

    Attributes:
      algorithm, env: names from the registry.
      run: how it is run.
      levels_config: settings of the environment and its levels.
      algo: settings of the algorithm.
    """

    algorithm: str
    env: str
    run: RunConfig
    levels_config: Any
    algo: Any

    @property
    def name(self) -> str:
        """First part of the run directory's name."""
        return f"{self.algorithm}-{self.env}"

    def checked(self) -> Self:
        """These settings, if they are those of the algorithm that they name.

        Raises:
          UserError: they make another algorithm, or a number is outside its range.
        """
        check_ranges(self)  # a curriculum's own settings may be any dataclass
        algorithm = registry.load(registry.ALGORITHMS, self.algorithm)
        if said := algorithm.contradiction(configs.flatten(self)):
            raise UserError(
                f"This is not {self.algorithm} any more ({said}): leave that out, or "
                "choose another algorithm."
            )
        return self

    def build(self) -> Experiment:
        """The experiment of these settings."""
        algorithm = registry.load(registry.ALGORITHMS, self.algorithm)
        return algorithm.build(self.run, self.levels_config, self.algo)


def make_config(
    algorithm: str = "",
    env: str = "",
    preset: str = "",
    settings: Mapping[str, Any] | None = None,
    source: str = "the settings",
    flags: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Settings of an algorithm: its defaults, then a preset, then `settings`.

    `settings` may name algorithm, environment and preset too, where they are empty. In
    another environment than the algorithm's own, what a preset says of that one's
    levels is left out. What the environment advises stands above a preset.

    Args:
      env: environment; empty for the algorithm's own.
      source: where `settings` are from, for messages.
      flags: settings that will be set later, for what they imply.

    Raises:
      UserError: unknown algorithm, environment, preset or setting, or a value that
        does not fit.
    """
    settings = dict(settings or {})
    algorithm, env, preset = (
        _chosen(name, given, settings, source)
        for name, given in (("algorithm", algorithm), ("env", env), ("preset", preset))
    )
    if not algorithm:
        known_ones = ", ".join(registry.names(registry.ALGORITHMS))
        raise UserError(f"Name what to train: {known_ones}.")
    entry = registry.load(registry.ALGORITHMS, algorithm)
    named = settings | dict(flags or {})
    env = env or entry.env_of(named) or entry.env
    env_type = registry.load(registry.ENVS, env)
    base = TrainConfig(algorithm, env, RunConfig(), env_type(), entry.config)
    known = configs.flatten(base)
    values = dict(entry.settings)
    if preset:
        if preset not in entry.presets:
            raise UserError(
                f"Unknown preset {preset} of {algorithm}: choose "
                f"{', '.join(entry.presets)}."
            )
        # What makes the algorithm what it is stands above a shared preset, except
        # where the preset says how a paper set it.
        values |= _fitting(entry, entry.presets[preset], known)
    values |= {name: v for name, v in env_type.ADVICE.items() if name in known}
    values |= entry.implied(values | named)
    base = configs.override(base, values, f"preset {preset or algorithm}")
    return configs.override(base, settings, source).checked()


def _chosen(name: str, given: str, settings: dict[str, Any], source: str) -> str:
    """What is given, or else what settings say, and leave to it.

    Raises:
      UserError: they contradict each other, or no name stands there.
    """
    said = settings.pop(name, given)
    if not isinstance(said, str):
        raise UserError(f"{name} in {source} is {said!r}: name one, or leave it out.")
    if given and said and said != given:
        raise UserError(
            f"{source} says {name} {said}, but {given} was named: leave one of them "
            "out."
        )
    return given or said


def _fitting(
    entry: Algorithm, preset: Mapping[str, Any], known: Mapping[str, Any]
) -> dict[str, Any]:
    """A preset without what only the algorithm's own environment can be told.

    What neither knows stays, to be refused: a misspelt name is an error everywhere.
    """
    elsewhere = configs.flatten(registry.load(registry.ENVS, entry.env)())
    return {
        name: value
        for name, value in preset.items()
        if name in known or name not in elsewhere
    }


def train(
    algorithm: str = "plr", env: str = "", preset: str = "", **settings: Any
) -> RunStore:
    """Trains, evaluates and draws; the same as `rlgen train`.

    Example:
      >>> store = rlgen.train("plr", preset="quick", seeds=5, out="runs")

    Returns:
      the run directory, complete. A run that was complete already returns at once, or
      once its pictures are drawn, where they are asked for and lack.
    """
    return run_training(make_config(algorithm, env, preset, settings))


def run_training(config: TrainConfig, *, show_settings: bool = False) -> RunStore:
    """Runs one training configuration to its end, or on from where it stopped.

    Args:
      show_settings: print all settings, and the memory they take, once they are known
        to fit.
    """
    processes.join(config.run)
    mesh.provide(config.run.devices, processes.count())
    runner.use_compile_cache()
    place = (config.run.out, config.name, config, config.run.run_dir)
    found = RunStore(RunStore.path_of(*place))
    # First, for what does not fit (level sets, files) must leave nothing behind.
    plan = None if found.is_done else planned(config, found)
    store = RunStore.open(*place, writes=processes.is_writer())
    if show_settings and store.writes:
        print(configs.to_yaml(config), file=sys.stderr)
        if plan is not None:
            print(plan.estimate, file=sys.stderr)
    if plan is not None:
        with store.locked() if store.writes else contextlib.nullcontext():
            if not store.is_done:  # another process may have ended while we waited
                _run(config, plan, store)
                return store
    elif store.writes and config.run.pictures and not _is_drawn(store):
        with store.locked():
            experiment, _, states = restore(config, store)
            _draw(experiment, store, states)
    if store.writes:
        sinks.tell_agent(config.run, store, configs.flatten(config))
    return store


def planned(config: TrainConfig, store: RunStore) -> Plan:
    """The programs of these settings, traced, and known to fit into memory.

    Args:
      store: the run, if it was begun: it goes on with seeds as they were.

    Raises:
      UserError: the settings do not go together.
      TooLarge: there is less memory; with the largest number of environments.
    """
    axis = config.run.seed_axis
    if axis == "fit":
        axis = store.read_run().get("seed_axis", axis)

    def plan(axis: str, **changes: Any) -> Plan:
        changed = configs.override(config, {"seed_axis": axis} | changes, "flags")
        return Plan(changed.build(), changed.run)

    made = plan(axis)
    if axis == "fit" and not made.estimate.fits:
        made = plan(axis := "map")
    if made.estimate.fits:
        return made
    n_envs = configs.flatten(config).get("n_envs", 0)
    fewer = memory.largest(
        lambda n: plan(axis, n_envs=n).estimate, n_envs, made.estimate
    )
    advice = f"lower n_envs from {n_envs} to {fewer}" if fewer else "lower its sizes"
    if made.seed_axis == "vmap" and config.run.seeds > 1:
        advice += ", or choose --seed-axis fit"
    raise memory.refuse(made.estimate, f"{advice}.")


def _run(config: TrainConfig, plan: Plan, store: RunStore) -> None:
    """From the last checkpoint to pictures and DONE."""
    experiment = plan.experiment
    program = Program(plan)
    outputs: list[Sink] = []
    if store.writes:
        save_levels(experiment, store)
        wandb_sink = sinks.open_wandb(config.run, store, configs.flatten(config))
        if wandb_sink:
            outputs.append(wandb_sink)
        if config.run.progress:
            outputs.append(sinks.ProgressBar(config.run.n_updates))
    with sinks.closing(outputs):
        states = runner.run(experiment, config.run, store, outputs, program)
        states = program.gathered(states)
        if store.writes:
            try:
                experiment.export(states, store.path)
                # Before pictures, which may fail without spoiling what was learned.
                store.finish(drawn=False)
            except OSError as error:
                raise unwritable(store.path, error) from error
            if config.run.pictures:
                _draw(experiment, store, states)
            for output in outputs:
                output.complete(store)
    processes.meet()  # for the one that draws


def _draw(experiment: Experiment, store: RunStore, states: PyTree) -> None:
    """Draws the pictures of a run that is done, and notes that they are there.

    Raises:
      UserError: they cannot be written; the same call draws them later.
      Preempted: a signal came; likewise.
    """
    # Statistics and pictures take 70 MiB, which training may need.
    from rlgen import reports

    try:
        with runner.preemptible():
            reports.draw(experiment, store, states)
        store.update_run(drawn=True)
    except OSError as error:
        reason = str(unwritable(store.figures_dir, error)).rstrip(".")
        raise UserError(
            f"{reason}: the run is done, and the same command draws its pictures."
        ) from error


def _is_drawn(store: RunStore) -> bool:
    """Whether a run that is done has its pictures, as older ones always have."""
    return store.read_run().get("drawn", True)


def save_levels(experiment: Experiment, store: RunStore) -> None:
    """Writes the held-out level sets of an experiment into its run directory.

    Each set is a file that `LevelSet.load` and `rlgen eval --levels` read. Levels that
    are trained on are left out: they are a dataset's, and may be many.

    Raises:
      UserError: the run directory cannot be written any more.
    """
    try:
        for name, level_set in experiment.eval_sets.items():
            path = store.levels_dir / f"{name}.npz"
            if level_set.split != "train" and not path.exists():
                level_set.save(path)
    except OSError as error:
        raise unwritable(store.path, error) from error


def _saved_levels(
    experiment: Experiment, config: TrainConfig, store: RunStore
) -> dict[str, LevelSet]:
    """The sets that `save_levels` wrote where others would be drawn now, by name."""
    saved = {}
    for name, level_set in experiment.eval_sets.items():
        path = store.levels_dir / f"{name}.npz"
        if level_set.split != "train" and path.exists() and not level_set.is_in(path):
            found = LevelSet.load(path, config.levels_config.make_space())
            # Whoever evaluates on validation levels is not given the run's test levels.
            if found.split == level_set.split:
                saved[name] = found
    return saved


def finished_runs(folder: str | Path) -> Iterator[tuple[Any, RunStore]]:
    """Settings and directory of every finished run in a folder, by name.

    Raises:
      UserError: there is none.
    """
    for run in runs.finished(folder):
        yield load_run(run.path)


def once(key: Any, seen: dict[Any, Path], path: Path) -> None:
    """Notes a run under a key that no other run of a comparison may have.

    Raises:
      UserError: another has it.
    """
    if key in seen:
        raise UserError(
            f"{seen[key]} and {path} are alike: remove the one that is out of date."
        )
    seen[key] = path


def load_run(path: str | Path) -> tuple[TrainConfig, RunStore]:
    """Settings and store of a run directory.

    Raises:
      UserError: not a run directory.
    """
    store = RunStore(Path(path))
    return make_config(settings=runs.settings(store.path), source=str(path)), store


def restore(config: TrainConfig, store: RunStore) -> tuple[Experiment, int, PyTree]:
    """The experiment of a run with the states [S, ...] of its newest checkpoint.

    Its held-out levels are those that the run saved, whatever would be drawn now.

    Raises:
      UserError: the run has no checkpoint yet, or its level files are damaged.
    """
    experiment = config.build()
    experiment.eval_sets.update(_saved_levels(experiment, config, store))
    axis = programs.resolve_seed_axis(config.run.seed_axis)
    shapes = jax.eval_shape(
        programs.over_seeds(experiment.init, axis), programs.seed_keys(config.run)
    )
    checkpoints = Checkpoints(store.checkpoint_dir)
    restored = checkpoints.restore(shapes)
    checkpoints.close()
    if restored is None:
        raise UserError(f"{store.path} has no checkpoint yet: train it first.")
    return experiment, restored[0], restored[1]
