"""Settings of tasks whose levels are physics, one class for each task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from rlgen.envs.config import EnvConfig
from rlgen.envs.physics.env import PhysicsEnv
from rlgen.envs.physics.levels import FAMILIES, PhysicsLevels
from rlgen.envs.physics.physics import physics
from rlgen.levels import LevelSet, stack
from rlgen.ranges import Count, Positive

# What PPO needs where observations and actions are vectors; chosen on the validation
# split, on the pendulum and the reacher. Good agents hardly ever fall: from 17 endings
# in 100,000 recorded steps no model learns when an episode ends, and values without end
# follow (MOPO on the pendulum: a return of 27 with a learned ending, 500 of 500 with
# what the task itself says).
_ADVICE: Mapping[str, Any] = {
    "torso": "mlp",
    "core": "none",
    "head_size": 128,
    "time_limit": "bootstrap",
    "clip_value": False,
    "n_minibatches": 16,
    "lr": 5e-4,
    "entropy_coef": 1e-3,
    "termination": "analytic",
}


@dataclasses.dataclass(frozen=True)
class PhysicsConfig(EnvConfig):
    """Everything that an experiment with a task's physics can be told.

    Attributes:
      levels: family to train on: train, extrapolated, or nominal (the task's own
        physics). Held-out levels are of train, and extrapolated ones, whatever it is.
      n_heldout: number of held-out levels of a set.
      backend: spring, positional, generalized or mjx.
      episode_length: steps after which an episode is cut off.
      revealed: the agent observes the multipliers too.
      vary: multipliers that levels vary, of gravity, mass, gear, damping and friction;
        all that act in the task if none is named.
      train_low, train_high: range of the multipliers to train in.
      far_low, far_high: how far extrapolated ones lie below and above it.
    """

    levels: str = "train"
    n_heldout: Count = 64
    backend: str = "spring"
    episode_length: Count = 1000
    revealed: bool = False
    vary: tuple[str, ...] = ()
    train_low: Positive = 0.75
    train_high: Positive = 1.5
    far_low: Positive = 0.5
    far_high: Positive = 2.0

    FAMILIES: ClassVar[Mapping[str, type[PhysicsLevels]]] = FAMILIES
    #: The task of brax.
    TASK: ClassVar[str]

    def make_env(self) -> PhysicsEnv:
        return PhysicsEnv(
            self.TASK,
            self.backend,
            self.episode_length,
            revealed=self.revealed,
            vary=self.vary,
        )

    def family(self, name, **changes):
        return super().family(name, **{"vary": self.make_env().varied} | changes)

    def heldout_space(self):
        return self.family("train")

    def heldout_sets(self):
        """Physics like that of training, and physics beyond it in every respect."""
        return {
            "heldout": self.held_out("heldout", self.heldout_space()),
            "extrapolated": self.held_out("extrapolated", self.family("extrapolated")),
        }

    def shifts(self, n_levels, seed):
        """Physics beyond training in every respect, and in one respect alone."""
        varied = self.make_env().varied
        spaces = {"beyond in all": self.family("extrapolated")}
        for parameter in varied if len(varied) > 1 else ():
            space = self.family("extrapolated", beyond=(parameter,))
            spaces[f"beyond in {parameter}"] = space
        sets = {}
        for name, space in spaces.items():
            level_set = LevelSet.generate(
                space, n_levels, seed=seed, split="validation", name=name
            )
            sets[name] = ("physics", None, level_set)
        return sets

    def named_set(self) -> LevelSet:
        """The task's own physics."""
        return LevelSet.from_levels(
            self.heldout_space(),
            stack([physics()]),
            name="named",
            split="named",
            labels=("nominal",),
        )

    def other_named(self):
        """The task's own physics, and physics beyond training in one respect alone."""
        env = self.make_env()
        sets = {"named": self.named_set()}
        # Of a single multiplier, that is `extrapolated`.
        for parameter in env.varied if len(env.varied) > 1 else ():
            name = f"extrapolated {parameter}"
            space = self.family("extrapolated", beyond=(parameter,))
            sets[name] = self.held_out(name, space)
        return {name: (env, level_set) for name, level_set in sets.items()}


@dataclasses.dataclass(frozen=True)
class InvertedPendulumConfig(PhysicsConfig):
    """A pole on a cart."""

    # By spring, PPO takes forty times as many steps to hold it up.
    backend: str = "generalized"
    episode_length: Count = 500

    TASK = "inverted_pendulum"
    ADVICE = _ADVICE


@dataclasses.dataclass(frozen=True)
class InvertedDoublePendulumConfig(PhysicsConfig):
    """A pole on a pole on a cart."""

    TASK = "inverted_double_pendulum"
    ADVICE = _ADVICE


@dataclasses.dataclass(frozen=True)
class ReacherConfig(PhysicsConfig):
    """An arm of two links whose tip reaches for a target."""

    # By spring, what it costs to move the arm is more than what there is to win (the
    # best return is near -9, that of lying still -11). As long as in Gym, so that
    # returns compare: uniform actions earn -42 in 50 steps.
    backend: str = "generalized"
    episode_length: Count = 50

    TASK = "reacher"
    ADVICE: ClassVar[Mapping[str, Any]] = {**_ADVICE, "lr": 1e-3}


@dataclasses.dataclass(frozen=True)
class PusherConfig(PhysicsConfig):
    """An arm of seven joints that pushes an object to a target."""

    episode_length: Count = 100

    TASK = "pusher"
    ADVICE = _ADVICE


@dataclasses.dataclass(frozen=True)
class HopperConfig(PhysicsConfig):
    """A leg that hops."""

    TASK = "hopper"
    ADVICE = _ADVICE


@dataclasses.dataclass(frozen=True)
class Walker2dConfig(PhysicsConfig):
    """Two legs that walk."""

    TASK = "walker2d"
    ADVICE = _ADVICE


@dataclasses.dataclass(frozen=True)
class HalfCheetahConfig(PhysicsConfig):
    """A running body that never falls."""

    TASK = "halfcheetah"
    ADVICE = _ADVICE


@dataclasses.dataclass(frozen=True)
class AntConfig(PhysicsConfig):
    """Four legs that walk."""

    TASK = "ant"
    ADVICE = _ADVICE
