"""Crafted shifts: validation levels and worlds that differ from training on purpose.

A shift is an environment, as it is or disturbed, with levels of the validation split.
Shifts come in families (action noise, wall density, ...); what was chosen by some
families is judged by another one, and never by a test level.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from rlgen.env import Env, Wrapper, sample_action
from rlgen.errors import UserError
from rlgen.levels import SPLITS, LevelSet, split_of

# Folded into a step's key for what a wrapper draws; the environment inside gets the key
# itself. Far above any number of keys or numbers that it draws from that, because
# `fold_in(key, 1)` is the second key of `split(key)`.
_ACTION, _OBSERVATION = 0x5EED_AC71, 0x5EED_0B5E

# A mild and a strong disturbance of each kind.
STRENGTHS = (0.1, 0.3)


@dataclasses.dataclass(frozen=True)
class _Disturbed(Wrapper):
    """An environment with one disturbance; of strength 0 it is the one inside.

    Attributes:
      strength: share or probability, from 0 to 1.
    """

    strength: float = 0.1

    def __post_init__(self):
        if not 0.0 <= self.strength <= 1.0:
            raise UserError(f"A strength is {self.strength:g}: choose 0 to 1.")

    def reset(self, key, level):
        return self.env.reset(key, level)

    def render(self, level, state):
        return self.env.render(level, state)


@dataclasses.dataclass(frozen=True)
class ActionNoise(_Disturbed):
    """Actions that do not always do what was meant.

    Discrete actions are replaced by a uniform one with probability `strength` ("sticky"
    noise without memory). Actions in a box get Gaussian noise with a standard deviation
    of `strength` of each number's range, and are clipped to the box before and after.
    """

    def __post_init__(self):
        super().__post_init__()
        space = self.action_space
        is_box = isinstance(space, gymnasium.spaces.Box)
        if is_box and not space.is_bounded():
            raise UserError("Actions without bounds have no range: give them some.")
        if not is_box and not isinstance(space, gymnasium.spaces.Discrete):
            raise UserError(
                f"Actions of type {type(space).__name__} cannot be disturbed: choose "
                "an environment with discrete actions or a box of them."
            )

    def step(self, key, level, state, action):
        if self.strength:
            action = self.disturb(jax.random.fold_in(key, _ACTION), action)
        return self.env.step(key, level, state, action)

    def disturb(self, key: jax.Array, action: jax.Array) -> jax.Array:
        """What is done where `action` was meant; of the same shape and type."""
        space: Any = self.action_space
        if isinstance(space, gymnasium.spaces.Discrete):
            key_slip, key_other = jax.random.split(key)
            other = sample_action(key_other, space).astype(action.dtype)
            slips = jax.random.bernoulli(key_slip, self.strength)
            return jnp.where(slips, other, action)
        low, high = np.asarray(space.low), np.asarray(space.high)
        noise = jax.random.normal(key, action.shape, action.dtype)
        meant = jnp.clip(action, low, high)
        return jnp.clip(meant + self.strength * (high - low) * noise, low, high)


@dataclasses.dataclass(frozen=True)
class ObservationDropout(_Disturbed):
    """Observations with holes: each number is 0 with probability `strength`.

    Every number of every step is drawn anew, the first observation too. In grid worlds
    0 is the tile that nobody sees. The state is untouched.
    """

    def reset(self, key, level):
        state, obs = self.env.reset(key, level)
        return state, self._drop(key, obs)

    def step(self, key, level, state, action):
        step = self.env.step(key, level, state, action)
        return step.replace(obs=self._drop(key, step.obs))

    def _drop(self, key, obs):
        if not self.strength:
            return obs
        return self.drop(jax.random.fold_in(key, _OBSERVATION), obs)

    def drop(self, key: jax.Array, obs: Any) -> Any:
        """The observation with holes; of the same shapes and types."""
        leaves, structure = jax.tree.flatten(obs)
        keys = jax.random.split(key, len(leaves))
        holed = []
        for key, leaf in zip(keys, leaves, strict=True):
            lost = jax.random.bernoulli(key, self.strength, leaf.shape)
            holed.append(jnp.where(lost, jnp.zeros_like(leaf), leaf))
        return jax.tree.unflatten(structure, holed)


@dataclasses.dataclass(frozen=True)
class Shift:
    """One validation setting: where policies play, and on which levels.

    It cannot be made of levels that are not of the validation split, so whatever takes
    shifts alone can see no test level.

    Attributes:
      name: what tables call it.
      family: kind of shift; families are what is left out of a choice.
      env: the environment, perhaps disturbed.
      level_set: levels of the validation split, by name and by every hash.

    Raises:
      ValueError: a level is of another split.
    """

    name: str
    family: str
    env: Env
    level_set: LevelSet

    def __post_init__(self):
        wanted = SPLITS.index("validation")
        split = np.asarray(split_of(jnp.asarray(self.level_set.hashes)))
        n_others = int(np.sum(split != wanted))
        if self.level_set.split != "validation" or n_others:
            raise ValueError(
                f"Shift {self.name} has levels of split {self.level_set.split}, "
                f"{n_others} of them not of validation by their hash."
            )


def crafted_shifts(config: Any, n_levels: int, seed: int) -> list[Shift]:
    """All shifts of an environment, `n_levels` validation levels each.

    Disturbances suit every environment and are played on levels like those of training;
    what else there is, the environment's settings say (`EnvConfig.shifts`).

    Args:
      config: settings of the environment, an `EnvConfig`.
      n_levels: of each shift, at most: some have fewer.
      seed: of the levels.

    Raises:
      UserError: actions that cannot be disturbed, or a family with too few levels.
    """
    env, levels = config.make_env(), config.validation_set(n_levels)
    shifts = [
        Shift(f"{family} {strength:g}", family, disturb(env, strength=strength), levels)
        for family, disturb in (
            ("action noise", ActionNoise),
            ("observation dropout", ObservationDropout),
        )
        for strength in STRENGTHS
    ]
    for name, (family, other, level_set) in config.shifts(n_levels, seed).items():
        shifts.append(Shift(name, family, env if other is None else other, level_set))
    return shifts


def plain_validation(config: Any, n_levels: int) -> Shift:
    """No shift at all: `n_levels` validation levels like those of training, at most."""
    levels = config.validation_set(n_levels)
    return Shift("plain", "plain", config.make_env(), levels)
