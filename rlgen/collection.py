"""One collection of episodes: on which levels, scored how, written and shown."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from rlgen import config as configs
from rlgen import datasets, recording, runner
from rlgen.env import Env, take
from rlgen.errors import UserError
from rlgen.levels import LevelSet, assert_disjoint, check_dataset
from rlgen.players import Policy
from rlgen.ranges import Count, CountOrZero, Seed, Settings
from rlgen.recording import N_SLOTS, Recorded, Recorder, Stage
from rlgen.store import provenance

# What scores mean belongs to the family of levels: so many of them, however many a
# dataset has, and at least so many episodes.
_REFERENCE_LEVELS = 64
_REFERENCE_EPISODES = 100


@dataclasses.dataclass(frozen=True)
class CollectOptions(Settings):
    """What a dataset is to hold, whoever plays.

    Attributes:
      transitions: steps in all.
      n_levels: levels of the train split to play on, with equal shares; those of a
        smaller number are among those of a larger one. 0 for the whole dataset of
        levels, where there is one.
      seed: of levels and episodes.
      out: folder of all datasets.
      name: the dataset's folders, name and version; empty for ENV/QUALITY-v0.
    """

    transitions: Count = 100_000
    n_levels: CountOrZero = 64
    seed: Seed = 0
    out: str = "datasets"
    name: str = ""


class Collection:
    """Plays, writes and shows one dataset.

    A context: inside it a signal stops the work at the next piece, with nothing left
    behind.

    Args:
      env_name, env_config: where it is played.
      quality: what the dataset is called after.
      options: what it is to hold.

    Raises:
      UserError: the dataset exists or cannot be; nothing has been played yet.
    """

    level_set: LevelSet
    reference: LevelSet

    def __init__(
        self, env_name: str, env_config: Any, quality: str, options: CollectOptions
    ):
        self.env_name, self.env_config = env_name, env_config
        self.quality, self.options = quality, options
        self.name = options.name or f"{env_name}/{quality}-v0"
        self.folder = Path(options.out, self.name)
        self.env: Env = env_config.make_env()
        datasets.require_minari()
        datasets.check_new(self.folder, self.name)
        _check_spaces(self.env, env_name)

    def __enter__(self) -> Collection:
        self._begin, self._n_played = time.perf_counter(), 0
        with contextlib.ExitStack() as stack:
            self._stop_signal = stack.enter_context(runner.catch_signals())
            self._status = stack.enter_context(Console(stderr=True).status(""))
            self._now("making levels")
            self.level_set, self.reference = train_levels(self.env_config, self.options)
            n_levels, n_steps = len(self.level_set), self.options.transitions
            if n_steps < 2 * n_levels:
                raise UserError(
                    f"{n_steps} transitions are too few for {n_levels} levels: ask for "
                    "more transitions or fewer levels."
                )
            keys = jax.random.split(jax.random.key(self.options.seed), 3)
            self._key, *self._part_keys = keys
            self._stack = stack.pop_all()
        self._stage = Stage(self.env)
        self._scorer = self._recorder(self.reference, self._key, None)
        self._now("playing for reference returns")
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def _now(self, doing: str) -> None:
        self._doing = doing
        self._go_on(0)

    def _go_on(self, n_played: int) -> None:
        if signum := self._stop_signal():
            raise runner.Preempted(signum)
        self._n_played += n_played
        seconds = time.perf_counter() - self._begin
        rate = self._n_played / max(seconds, 1e-9)
        self._status.update(
            f"{self.name}: {self._doing} ({self._n_played:,} steps simulated, "
            f"{rate:,.0f} a second)"
        )

    def _recorder(self, levels: LevelSet, key: Any, max_steps: int | None) -> Recorder:
        return Recorder(
            self._stage,
            levels.levels,
            key,
            max_steps,
            lambda n_steps: self._go_on(n_steps * N_SLOTS),
        )

    def mean_return(self, policy: Policy) -> float:
        """Mean undiscounted return of at least 100 episodes on levels of reference."""
        n_levels = self._scorer.n_levels
        rounds = -(-_REFERENCE_EPISODES // n_levels)
        items = [(i, j) for j in range(rounds) for i in range(n_levels)]
        scores = [r.score for r in self._scorer.play(policy, items) if r is not None]
        if not scores:
            raise UserError(
                f"No episode of {policy.name} stayed finite: choose other settings of "
                "the environment."
            )
        return float(np.mean(scores))

    def collect(
        self,
        parts: Sequence[Sequence[Policy]],
        random_return: float,
        expert_return: float | None,
        about: Mapping[str, Any],
    ) -> Path:
        """Records equal numbers of steps of each part, writes and shows them.

        Args:
          parts: policies that play in turn; up to two parts.
          random_return, expert_return: reference returns.
          about: what only the caller knows.

        Returns:
          the dataset's folder.
        """
        recorded: list[Recorded] = []
        n_dropped, max_steps = 0, 0
        for i, policies in enumerate(parts):
            n_steps = self.options.transitions // len(parts)
            if i == len(parts) - 1:
                n_steps = self.options.transitions - i * n_steps
            self._now(f"recording {n_steps:,} steps on {len(self.level_set)} levels")
            recorder = self._recorder(
                self.level_set, self._part_keys[i], n_steps // len(self.level_set)
            )
            some, dropped = recording.record(recorder, policies, n_steps)
            recorded, n_dropped = recorded + some, n_dropped + dropped
            max_steps = recorder.max_steps
        about = {
            **self._summary(recorded),
            "dropped_non_finite": n_dropped,
            "max_steps": max_steps,
            **about,
            **provenance(),
        }
        self._now("writing")
        datasets.save(
            self.folder,
            [r.episode for r in recorded],
            name=self.name,
            observation_space=self.env.observation_space,
            action_space=self.env.action_space,
            level_set=self.level_set,
            random_return=random_return,
            expert_return=expert_return,
            about=about,
        )
        references = {"random": random_return, "expert": expert_return}
        picture = self._draw(recorded, references)
        self._status.stop()
        self._print(about, references)
        print(picture)
        print(self.folder)
        return self.folder

    def _summary(self, recorded: Sequence[Recorded]) -> dict[str, Any]:
        policies = {}
        for name in dict.fromkeys(r.policy for r in recorded):
            own = [r for r in recorded if r.policy == name]
            policies[name] = {
                "episodes": len(own),
                "transitions": sum(len(r.episode) for r in own),
                "mean_return": float(np.mean([r.score for r in own])),
            }
        return {
            "environment": self.env_name,
            "settings": configs.flatten(self.env_config),
            "quality": self.quality,
            "seed": self.options.seed,
            "levels": len(self.level_set),
            "transitions": sum(len(r.episode) for r in recorded),
            "episodes": len(recorded),
            "policies": policies,
            "mean_return": float(np.mean([r.score for r in recorded])),
            "success_rate": float(np.mean([r.success for r in recorded])),
            "reference_levels": len(self.reference),
        }

    def _draw(
        self, recorded: Sequence[Recorded], references: Mapping[str, float | None]
    ) -> Path:
        from rlgen.evaluation.pictures.returns import return_panels

        return return_panels(
            np.array([r.score for r in recorded]),
            [r.policy for r in recorded],
            np.array([r.episode.level_id for r in recorded]),
            references,
            self.folder / "figures" / "returns.png",
            self.name,
        )

    def _print(self, about: Mapping[str, Any], references: Mapping[str, Any]) -> None:
        table = Table(title=self.name, show_header=False)
        for line in (
            ("quality", about["quality"]),
            ("levels", f"{about['levels']:,} of the train split"),
            ("episodes", f"{about['episodes']:,}"),
            ("transitions", f"{about['transitions']:,}"),
            ("mean return", f"{about['mean_return']:.4g}"),
            ("success", f"{about['success_rate']:.1%}"),
            *(
                (f"return of {name}", "unknown" if value is None else f"{value:.4g}")
                for name, value in references.items()
            ),
            ("dropped, not finite", f"{about['dropped_non_finite']:,}"),
            ("seconds", f"{time.perf_counter() - self._begin:.1f}"),
        ):
            table.add_row(*line)
        Console().print(table)
        for name, part in about["policies"].items():
            print(
                f"{name}: {part['episodes']:,} episodes, {part['transitions']:,} "
                f"transitions, mean return {part['mean_return']:.4g}"
            )
        if "medium" in about:
            update = about["medium"]["update"]
            score = about["medium"]["mean_returns"][update]
            low, high = references["random"], references["expert"]
            print(
                f"medium is the policy after update {update}: {score:.4g}, "
                f"{(score - low) / (high - low):.0%} of the way from random to expert"
            )
        if about["max_steps"] < self.env.max_episode_steps:
            print(
                f"Episodes are cut at {about['max_steps']} of up to "
                f"{self.env.max_episode_steps} steps, a level's whole share: for whole "
                "ones ask for more transitions or fewer levels."
            )


def write_recording(
    env_name: str,
    quality: str,
    options: CollectOptions,
    make: Callable[[], datasets.Recording],
) -> Path:
    """Makes a recording, writes it and shows it; returns the dataset's folder.

    Raises:
      UserError: the dataset exists, or nothing can be recorded.
    """
    name = options.name or f"{env_name}/{quality}-v0"
    folder = Path(options.out, name)
    datasets.require_minari()
    datasets.check_new(folder, name)
    begin = time.perf_counter()
    with Console(stderr=True).status(f"{name}: recording"):
        made = make()
    env = made.config.make_env()
    returns = np.array([float(np.sum(e.rewards)) for e in made.episodes])
    about = {
        "environment": env_name,
        "settings": configs.flatten(made.config),
        "quality": quality,
        "seed": options.seed,
        "levels": len(made.level_set),
        "transitions": sum(map(len, made.episodes)),
        "episodes": len(made.episodes),
        "mean_return": float(returns.mean()),
        **provenance(),
    }
    datasets.save(
        folder,
        made.episodes,
        name=name,
        observation_space=env.observation_space,
        action_space=env.action_space,
        level_set=made.level_set,
        about=about,
        tests=made.tests,
    )
    table = Table(title=name, show_header=False)
    for key in ("levels", "episodes", "transitions"):
        table.add_row(key, f"{about[key]:,}")
    table.add_row("mean return", f"{about['mean_return']:.4g}")
    for test in made.tests.values():
        table.add_row(f"to evaluate on: {test.name}", f"{len(test):,} levels")
    table.add_row("seconds", f"{time.perf_counter() - begin:.1f}")
    Console().print(table)
    print(folder)
    return folder


def train_levels(env_config: Any, options: CollectOptions) -> tuple[LevelSet, LevelSet]:
    """Levels to play on and levels of reference, all of the train split.

    Both are the first of an order that the seed alone fixes: of the given levels, or
    of new ones.

    Raises:
      UserError: there are not so many, or one of them is held out.
    """
    n, seed = options.n_levels, options.seed
    space, given = env_config.make_space(), env_config.training_set()
    if given is not None:
        if n > len(given):
            raise UserError(
                f"The level set {given.name} has {len(given)} levels, not {n}: ask for "
                "fewer, or for 0 to play on all."
            )
        n = n or len(given)
        every = _rows(given, np.random.default_rng(seed).permutation(len(given)))
    elif n == 0:
        raise UserError(
            "n_levels is 0, but there is no dataset of levels: choose how many to play "
            "on."
        )
    else:
        every = _generate(space, n, seed)
    check_dataset(every, space)
    held_out = {k: v for k, v in env_config.eval_sets().items() if k != "train"}
    assert_disjoint(every, *held_out.values())
    first = np.arange(len(every))
    return _rows(every, first[:n]), _rows(every, first[:_REFERENCE_LEVELS])


def _generate(space: Any, n: int, seed: int) -> LevelSet:
    def generate(n):
        return LevelSet.generate(space, n, seed=seed, split="train", name="train")

    try:
        return generate(max(n, _REFERENCE_LEVELS))
    except UserError:
        if n >= _REFERENCE_LEVELS:
            raise
        return generate(n)  # a small family: fewer levels of reference


def _rows(level_set: LevelSet, rows: np.ndarray) -> LevelSet:
    return dataclasses.replace(
        level_set,
        split="train",
        levels=take(level_set.levels, rows),
        hashes=level_set.hashes[rows],
        labels=tuple(level_set.labels[row] for row in rows),
    )


def _check_spaces(env: Env, env_name: str) -> None:
    obs, action = env.observation_space, env.action_space
    if not isinstance(action, gymnasium.spaces.Box):
        raise UserError(
            f"The actions of {env_name} are not in a box, which offline learners need: "
            "choose an environment such as brax."
        )
    if not action.is_bounded():
        raise UserError(f"The actions of {env_name} have no bounds: give them some.")
    if not isinstance(obs, gymnasium.spaces.Box) or len(obs.shape) != 1:
        raise UserError(
            f"The observations of {env_name} are not vectors, which offline learners "
            "need: choose other observations or another environment."
        )
