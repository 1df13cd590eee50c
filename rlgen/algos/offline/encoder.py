"""From an observation to what an agent's functions read."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

PyTree = Any
# Added to standard deviations, as published with TD3+BC.
_EPS = 1e-3


class Statistics(struct.PyTreeNode):
    """Of the observations of a dataset, that is of train levels alone."""

    mean: jax.Array  # (O,) float32
    std: jax.Array  # (O,) float32

    @classmethod
    def of(cls, x: jax.Array) -> Statistics:
        """Means and standard deviations of rows [N, O]."""
        return cls(mean=x.mean(axis=0), std=x.std(axis=0) + _EPS)

    @classmethod
    def neutral(cls, size: int) -> Statistics:
        """Those that change nothing."""
        return cls(mean=jnp.zeros(size), std=jnp.ones(size))

    def normalize(self, x: jax.Array) -> jax.Array:
        """Rows [..., O] with mean 0 and standard deviation 1."""
        return (x - self.mean) / self.std


class Encoder(abc.ABC):
    """Encodes observations by parameters that no gradient reaches.

    They are made from the dataset and from what earlier stages of the run have learned.
    """

    @abc.abstractmethod
    def init(self, data: Any) -> PyTree:
        """What the dataset (`OfflineData`) says before anything is learned."""

    def params(self, start: PyTree, stages: Mapping[str, PyTree]) -> PyTree:
        """The parameters, given what `init` made and the states of earlier stages."""
        del stages
        return start

    @abc.abstractmethod
    def __call__(self, params: PyTree, obs: jax.Array) -> PyTree:
        """Encodes float32[..., O]."""


@dataclasses.dataclass(frozen=True)
class Scaler(Encoder):
    """The observation itself, normalised or not.

    Attributes:
      normalize: by the statistics of the dataset.
    """

    normalize: bool

    def init(self, data: Any) -> Statistics:
        if self.normalize:
            return Statistics.of(jnp.asarray(data.rows.obs))
        return Statistics.neutral(1)

    def __call__(self, params: Statistics, obs: jax.Array) -> jax.Array:
        return params.normalize(obs) if self.normalize else obs
