"""Families of physics: multipliers within a range, and beyond it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.envs.physics.physics import PARAMETERS, PhysicsLevel, physics
from rlgen.errors import UserError
from rlgen.levels import LevelFileError, LevelSpace

# Standard deviation of an edit's logarithm, and what every edit moves at least.
_EDIT, _LEAST_EDIT = 0.15, 1e-3


@dataclasses.dataclass(frozen=True)
class PhysicsLevels(LevelSpace[PhysicsLevel]):
    """Multipliers that vary, each in its range; the others are 1.

    The design follows Mediratta et al. 2024: levels like those of training, and levels
    whose parameters lie outside of all that was trained on.

    Attributes:
      vary: the multipliers that vary.
      train_low, train_high: the range to train in.
      far_low, far_high: how far levels beyond it go: from far_low up to train_low, and
        from train_high up to far_high, without the range itself.
    """

    vary: tuple[str, ...] = PARAMETERS
    train_low: float = 0.75
    train_high: float = 1.5
    far_low: float = 0.5
    far_high: float = 2.0

    def __post_init__(self):
        _check_names("vary", self.vary, PARAMETERS)
        if not 0 < self.far_low < self.train_low < self.train_high < self.far_high:
            raise UserError(
                f"The ranges {self.train_low:g} to {self.train_high:g} within "
                f"{self.far_low:g} to {self.far_high:g} make no families: choose 0 < "
                "far_low < train_low < train_high < far_high."
            )

    def _values(self, key: jax.Array, name: str) -> jax.Array:
        """A multiplier of this family: log-uniform in the range. () float32."""
        del name
        low, high = np.log(self.train_low), np.log(self.train_high)
        return jnp.clip(
            jnp.exp(jax.random.uniform(key, (), jnp.float32, low, high)),
            np.float32(self.train_low),
            np.float32(self.train_high),
        )

    def _range(self, value: jax.Array, name: str) -> tuple[jax.Array, jax.Array]:
        """The ends, both within, of the stretch of this family that is nearest."""
        del name
        ends = (np.float32(self.train_low), np.float32(self.train_high))
        low, high = (jnp.full_like(value, end) for end in ends)
        return low, high

    def sample(self, key: jax.Array) -> PhysicsLevel:
        keys = jax.random.split(key, len(PARAMETERS))
        values: dict[str, Any] = dict.fromkeys(PARAMETERS, jnp.float32(1.0))
        for name in self.vary:
            values[name] = self._values(keys[PARAMETERS.index(name)], name)
        return PhysicsLevel(**values)

    def valid(self, level: PhysicsLevel) -> jax.Array:
        """Whether every multiplier is in its range: nobody knows what can be solved."""
        inside = []
        for name in PARAMETERS:
            value = jnp.asarray(getattr(level, name))
            if name in self.vary:
                low, high = self._range(value, name)
                inside.append((value >= low) & (value <= high))
            else:
                inside.append(value == 1)
        return jnp.all(jnp.stack(inside))

    def features(self, level: PhysicsLevel) -> dict[str, jax.Array]:
        return {
            name: jnp.asarray(getattr(level, name), jnp.float32) for name in PARAMETERS
        }

    def mutate(self, key: jax.Array, level: PhysicsLevel) -> PhysicsLevel:
        """A log-normal step of one multiplier that varies, clipped to its range."""
        key_which, key_size, key_sign = jax.random.split(key, 3)
        which = jax.random.randint(key_which, (), 0, len(self.vary))
        size = _LEAST_EDIT + _EDIT * jnp.abs(jax.random.normal(key_size))
        factor = jnp.exp(jnp.where(jax.random.bernoulli(key_sign), size, -size))
        changes = {}
        for i, name in enumerate(self.vary):
            value = jnp.asarray(getattr(level, name), jnp.float32)
            low, high = self._range(value, name)
            there = jnp.clip(value * factor, low, high)
            # At an end, where one way leads nowhere, the other is taken.
            edited = jnp.where(
                there == value, jnp.clip(value / factor, low, high), there
            )
            changes[name] = jnp.where(which == i, edited, value)
        return level.replace(**changes)

    def to_str(self, level: PhysicsLevel) -> str:
        """The multipliers as a line of JSON, as many digits as float32 needs."""
        return json.dumps(
            {name: float(str(np.float32(getattr(level, name)))) for name in PARAMETERS}
        )

    def from_str(self, text: str) -> PhysicsLevel:
        try:
            values = dict(json.loads(text))
            unknown = values.keys() - set(PARAMETERS)
            if unknown:
                raise ValueError(f"there is no {min(unknown)}")
            level = physics(**values)
            for name in PARAMETERS:
                if not 0 < getattr(level, name) < np.inf:
                    raise ValueError(f"{name} is {values[name]!r}")
        except (ValueError, TypeError) as error:
            raise LevelFileError(
                f"This is no physics ({error}): give multipliers above 0 as a line of "
                f'JSON, such as {{"gravity": 1.25}}, of {", ".join(PARAMETERS)}.'
            ) from None
        return level

    def example(self) -> PhysicsLevel:
        return physics()


@dataclasses.dataclass(frozen=True)
class NominalLevels(PhysicsLevels):
    """The task's own physics alone, from which edits lead into the range."""

    def sample(self, key: jax.Array) -> PhysicsLevel:
        del key
        return jax.tree.map(jnp.asarray, physics())


@dataclasses.dataclass(frozen=True)
class ExtrapolatedLevels(PhysicsLevels):
    """Multipliers outside of the range to train in.

    Each is below or above it with the same chance, and uniform there.

    Attributes:
      beyond: of those that vary, the multipliers that are outside; the others are drawn
        as in training. Empty for all.
    """

    beyond: tuple[str, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        if self.beyond:
            _check_names("beyond", self.beyond, self.vary)

    def _is_beyond(self, name: str) -> bool:
        return name in (self.beyond or self.vary)

    def _values(self, key, name):
        if not self._is_beyond(name):
            return super()._values(key, name)
        key_side, key_value = jax.random.split(key)
        above = jax.random.bernoulli(key_side)
        low, high = self._side(above)
        start = jnp.where(above, np.float32(self.train_high), np.float32(self.far_low))
        end = jnp.where(above, np.float32(self.far_high), np.float32(self.train_low))
        share = jax.random.uniform(key_value)
        return jnp.clip(start + share * (end - start), low, high)

    def _range(self, value, name):
        if not self._is_beyond(name):
            return super()._range(value, name)
        middle = np.float32(np.sqrt(self.train_low * self.train_high))
        return self._side(value > middle)

    def _side(self, above: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The ends of what is above or below the range, which both lie outside it."""
        range_low, range_high = np.float32(self.train_low), np.float32(self.train_high)
        below = np.float32(self.far_low), np.nextafter(range_low, np.float32(0))
        over = np.nextafter(range_high, np.float32(np.inf)), np.float32(self.far_high)
        return jnp.where(above, over[0], below[0]), jnp.where(above, over[1], below[1])


def _check_names(what: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not names or len(set(names)) < len(names) or set(names) - set(known):
        raise UserError(
            f"{what} is {','.join(names) or 'empty'}: choose one or more of "
            f"{', '.join(known)}."
        )


FAMILIES: Mapping[str, type[PhysicsLevels]] = {
    "train": PhysicsLevels,
    "extrapolated": ExtrapolatedLevels,
    "nominal": NominalLevels,
}
