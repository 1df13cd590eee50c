"""`rlgen collect`: datasets for offline learning, played on train levels only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlgen import config as configs
from rlgen import players, registry, runner, training
from rlgen.collection import Collection, CollectOptions, write_recording
from rlgen.config import RunConfig
from rlgen.env import take
from rlgen.errors import UserError
from rlgen.players import Policy
from rlgen.ranges import Seed, ShareAboveZero
from rlgen.store import RunStore

PyTree = Any
QUALITIES = ("random", "medium", "medium-replay", "expert", "mixed")


@dataclasses.dataclass(frozen=True)
class RunOptions(CollectOptions):
    """What a dataset played by the policies of a run is to hold.

    Attributes:
      quality: random (uniform actions), medium (the earliest kept policy that is good
        enough), medium-replay (the kept policies up to that one, in turn), expert (the
        last policy) or mixed (half medium, half expert).
      policy_seed: the seed of the run whose policy plays; the run's first by default.
      medium_share: how far on the way from random actions to the expert the mean
        return of a medium policy is.
    """

    quality: str = "expert"
    policy_seed: Seed | None = None
    medium_share: ShareAboveZero = 0.5

    def __post_init__(self):
        super().__post_init__()
        if self.quality not in QUALITIES:
            raise UserError(
                f"Unknown quality {self.quality!r}: choose {', '.join(QUALITIES)}."
            )


@dataclasses.dataclass(frozen=True)
class EnvOptions(CollectOptions):
    """What a dataset played without a trained policy is to hold.

    Attributes:
      quality: random (uniform actions), which is the default without a controller.
      controller: a scripted agent of the environment, instead.
      recording: a way of recording of the environment's own, instead; it chooses levels
        itself, so n_levels means nothing to it.
    """

    quality: str = ""
    controller: str = ""
    recording: str = ""

    def __post_init__(self):
        super().__post_init__()
        if self.quality in QUALITIES[1:]:
            raise UserError(
                f"Quality {self.quality} needs a trained policy: name a run directory "
                "instead of an environment."
            )
        if self.quality not in ("", "random"):
            raise UserError(
                f"Unknown quality {self.quality!r}: choose random, or for "
                f"{', '.join(QUALITIES[1:])} name a run directory."
            )
        if sum(map(bool, (self.quality, self.controller, self.recording))) > 1:
            raise UserError("Choose a quality, a controller or a recording, not two.")


def run(target: str, args: Sequence[str]) -> Path:
    """Parses the flags of `rlgen collect RUN|ENV` and collects; the dataset's folder.

    Raises:
      UserError: bad input; nothing is left behind.
      Preempted: a signal came; nothing is left behind.
    """
    prog = f"rlgen collect {target}"
    if (Path(target) / "config.yaml").exists():
        groups = {"options": RunOptions()}
        return from_run(target, configs.parse_flags(groups, args, prog)["options"])
    if target not in registry.names(registry.ENVS):
        raise UserError(
            f"{target} is neither a run directory nor an environment: name a run, or "
            f"one of {', '.join(registry.names(registry.ENVS))}."
        )
    groups = {"options": EnvOptions(), "env": registry.load(registry.ENVS, target)()}
    parsed = configs.parse_flags(groups, args, prog)
    return from_env(target, parsed["env"], parsed["options"])


def from_env(env_name: str, env_config: Any, options: EnvOptions) -> Path:
    """Collects a dataset by uniform actions or a controller; returns its folder.

    The expert of reference is the controller itself.
    """
    if options.recording:
        return from_recording(env_name, env_config, options)
    controllers = env_config.controllers()
    name = options.controller
    if name and name not in controllers:
        choice = f"choose {', '.join(controllers)}" if controllers else "leave it out"
        raise UserError(f"{env_name} has no controller {name}: {choice}.")
    runner.use_compile_cache()
    with Collection(env_name, env_config, name or "random", options) as collection:
        random = Policy("random", players.uniform(collection.env.action_space))
        low = collection.mean_return(random)
        if not name:
            return collection.collect([[random]], low, None, {})
        policy = Policy(name, players.scripted(controllers[name]))
        return collection.collect([[policy]], low, collection.mean_return(policy), {})


def from_recording(env_name: str, env_config: Any, options: EnvOptions) -> Path:
    """Collects a dataset in a way of the environment's own; returns its folder."""
    name, recordings = options.recording, env_config.recordings()
    if name not in recordings:
        choice = f"choose {', '.join(recordings)}" if recordings else "leave it out"
        raise UserError(f"{env_name} has no recording {name}: {choice}.")
    runner.use_compile_cache()
    return write_recording(
        env_name,
        name,
        options,
        lambda: recordings[name](options.transitions, options.seed),
    )


def from_run(path: str | Path, options: RunOptions) -> Path:
    """Collects a dataset by the policies of a complete run; returns its folder.

    Datasets hold samples of the policies, so medium is chosen by the returns of samples
    too (an untrained Gaussian's mean can be good where its samples are not); the
    expert's reference return is that of its likeliest actions.
    """
    config, store = training.load_run(path)
    if not store.is_done:
        raise UserError(f"{path} is not complete: run its `rlgen train` to the end.")
    needs_medium = options.quality not in ("random", "expert")
    updates = kept_updates(store, config.run) if needs_medium else []
    seed = _seed_index(config.run, options.policy_seed)
    collection = Collection(config.env, config.levels_config, options.quality, options)
    runner.use_compile_cache()
    policies = _Policies(config, store, seed)
    with collection:
        random = Policy("random", players.uniform(collection.env.action_space))
        low = collection.mean_return(random)
        high = collection.mean_return(policies.greedy())
        about: dict[str, Any] = {"run": policies.about}
        if needs_medium:
            medium, scores = find_medium(
                updates,
                lambda u: collection.mean_return(policies.sampling(f"update {u}", u)),
                low,
                high,
                options.medium_share,
            )
            about["medium"] = {"update": medium, "mean_returns": scores}
            updates = [update for update in updates if update <= medium]
        parts = {
            "random": lambda: [[random]],
            "medium": lambda: [[policies.sampling("medium", updates[-1])]],
            "medium-replay": lambda: [
                [policies.sampling(f"update {u}", u) for u in updates]
            ],
            "expert": lambda: [[policies.sampling("expert", policies.last)]],
            "mixed": lambda: [
                [policies.sampling("medium", updates[-1])],
                [policies.sampling("expert", policies.last)],
            ],
        }[options.quality]()
        return collection.collect(parts, low, high, about)


class _Policies:
    """The policies of one seed of a run."""

    def __init__(self, config: Any, store: RunStore, seed_index: int):
        experiment, self.last, states = training.restore(config, store)
        self._last_params = experiment.policy_params(states)  # [S, ...]
        self._folder, self._seed = store.path, seed_index
        self._sampling = players.learned(experiment.network)
        self._greedy = players.learned(experiment.network, greedy=True)
        self.about = {
            "name": store.path.name,
            "algorithm": config.algorithm,
            "config_hash": store.read_run().get("config_hash"),
            "policy_seed": config.run.seed + seed_index,
            "updates": self.last,
        }

    def sampling(self, name: str, update: int) -> Policy:
        """Samples of the policy after an update."""
        return Policy(name, self._sampling, self._params(update))

    def greedy(self) -> Policy:
        """The likeliest actions of the last policy."""
        return Policy("expert", self._greedy, self._params(self.last))

    def _params(self, update: int) -> PyTree:
        params = self._last_params
        if update != self.last:
            params = runner.read_policy(self._folder, update, params)
        return take(params, self._seed)


def _seed_index(run_config: RunConfig, seed: int | None) -> int:
    first, n_seeds = run_config.seed, run_config.seeds
    if seed is None:
        return 0
    if not first <= seed < first + n_seeds:
        raise UserError(
            f"The run has no seed {seed}: choose policy_seed from {first} to "
            f"{first + n_seeds - 1}."
        )
    return seed - first


def kept_updates(store: RunStore, run_config: RunConfig) -> list[int]:
    """The updates whose policies a run has kept, from 0 to its last.

    Raises:
      UserError: it did not keep all of them, or there is none between.
    """
    every, last = run_config.eval_every, run_config.n_updates
    if not 0 < every < last:
        raise UserError(
            f"{store.path} was evaluated only at its end, so there is no medium "
            "policy: train again with --eval-every and --keep-policies True."
        )
    updates = [*range(0, last, every), last]
    if not all(runner.policy_file(store.path, u).exists() for u in updates):
        raise UserError(
            f"{store.path} has not kept its policies: train again with "
            "--keep-policies True and another --run-dir."
        )
    return updates


def find_medium(
    updates: Sequence[int],
    score: Callable[[int], float],
    low: float,
    high: float,
    share: float,
) -> tuple[int, dict[int, float]]:
    """The earliest update whose score is so far on the way from `low` to `high`.

    Args:
      updates: in order.
      score: mean return of an update's policy.

    Returns:
      the update, the last if none is so far, and the scores of all up to it.

    Raises:
      UserError: the run's policy is no better than random actions.
    """
    if not high > low:
        raise UserError(
            f"The last policy ({high:g}) is no better than random actions ({low:g}), "
            "so there is no medium: train longer."
        )
    scores: dict[int, float] = {}
    for update in updates:
        scores[update] = score(update)
        if scores[update] >= low + share * (high - low):
            return update, scores
    return updates[-1], scores
