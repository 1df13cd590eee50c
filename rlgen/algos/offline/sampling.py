"""Which steps of a dataset make a batch, and in what form."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.env import GoalLayout, take
from rlgen.errors import UserError
from rlgen.transitions import OfflineData, Transitions


class Sampler(abc.ABC):
    """Draws batches. Pure; `data` is an argument, never closed over."""

    @abc.abstractmethod
    def __call__(
        self, data: OfflineData, key: jax.Array, shape: tuple[int, ...]
    ) -> Transitions:
        """Steps [*shape, ...]."""


@dataclasses.dataclass(frozen=True)
class Uniform(Sampler):
    """Any step of the dataset, each as likely as the others."""

    def __call__(self, data, key, shape):
        return take(data.rows, jax.random.randint(key, shape, 0, len(data.rows)))


def best_episodes(data: OfflineData, share: float) -> OfflineData:
    """The episodes of highest return, on the host: at least one, and `share` of all.

    What %BC clones (Chen et al. 2021, section 5.1).
    """
    rows = data.rows
    total = np.bincount(rows.episode_id, rows.reward, minlength=data.n_episodes)
    n_kept = max(1, round(share * data.n_episodes))
    kept = np.sort(np.argsort(-total, kind="stable")[:n_kept])
    is_kept = np.isin(rows.episode_id, kept)
    rows = jax.tree.map(lambda x: x[is_kept], rows)
    length: Any = np.asarray(data.episode_length)[kept]
    ids = np.repeat(np.arange(n_kept, dtype=np.int32), length)
    start: Any = (np.cumsum(length) - length).astype(np.int32)
    return OfflineData(rows.replace(episode_id=ids), start, length)


class ClusteredData(OfflineData):
    """A dataset whose states arrived at are in C clusters, each within one level."""

    cluster_of: jax.Array  # (N,) int32, of each row's next observation
    members: jax.Array  # (N,) int32, rows in the order of their clusters
    cluster_start: jax.Array  # (C,) int32, where each begins there
    cluster_size: jax.Array  # (C,) int32


def clustered(
    data: OfflineData, layout: GoalLayout, n_clusters: int, seed: int = 0
) -> ClusteredData:
    """Groups the states arrived at by k-means, every level on its own; on the host.

    By what goals are made of (positions): the paper takes the whole observation, where
    speeds pull apart what is in one place. Across levels, or across a wall that is
    thinner than a cluster, states that look alike do not lead to the same goals.
    """
    from scipy.cluster import vq

    rows = data.rows
    achieved = np.asarray(rows.next_obs, np.float64)[:, list(layout.achieved)]
    cluster_of: Any = np.zeros(len(rows), np.int32)
    n_before = 0
    for level in np.unique(rows.level_id):
        here = np.flatnonzero(rows.level_id == level)
        distinct = len(np.unique(achieved[here], axis=0))
        k = min(n_clusters, distinct)
        _, label = vq.kmeans2(achieved[here], k, minit="++", rng=seed)
        _, label = np.unique(label, return_inverse=True)  # none is empty
        cluster_of[here] = n_before + label
        n_before += label.max() + 1
    members: Any = np.argsort(cluster_of, kind="stable").astype(np.int32)
    size: Any = np.bincount(cluster_of, minlength=n_before).astype(np.int32)
    start = (np.cumsum(size) - size).astype(np.int32)
    return ClusteredData(
        rows, data.episode_start, data.episode_length, cluster_of, members, start, size
    )


@dataclasses.dataclass(frozen=True)
class Goals(Sampler):
    """Steps towards goals that were reached later (hindsight), stitched or not.

    A step's goal is a state that its episode arrived at later. With probability
    `stitch_prob` it is instead one that *another* episode arrived at, later than in a
    state of the same cluster: temporal data augmentation (Ghugare et al. 2024,
    algorithm 1). One gather and no search.

    Attributes:
      layout: where the observation holds positions and goals.
      stitch_prob: epsilon; 0 never looks at other episodes.
    """

    layout: GoalLayout
    stitch_prob: float

    def __post_init__(self):
        if not 0.0 <= self.stitch_prob <= 1.0:
            raise UserError(f"stitch_prob is {self.stitch_prob}: choose 0 to 1.")

    def __call__(self, data, key, shape):
        keys = jax.random.split(key, 5)
        row = jax.random.randint(keys[0], shape, 0, len(data.rows))
        goal_row = self._later(data, keys[1], row)
        if self.stitch_prob > 0:
            assert isinstance(data, ClusteredData)
            cluster = data.cluster_of[goal_row]
            place = jax.random.randint(keys[2], shape, 0, data.cluster_size[cluster])
            waypoint = data.members[data.cluster_start[cluster] + place]
            stitches = jax.random.bernoulli(keys[3], self.stitch_prob, shape)
            other = self._later(data, keys[4], waypoint)
            goal_row = jnp.where(stitches, other, goal_row)
        batch = take(data.rows, row)
        goal = data.rows.next_obs[goal_row][..., jnp.array(self.layout.achieved)]
        place = jnp.array(self.layout.goal)
        return batch.replace(
            obs=batch.obs.at[..., place].set(goal),
            next_obs=batch.next_obs.at[..., place].set(goal),
        )

    def _later(self, data: OfflineData, key: jax.Array, row: jax.Array) -> jax.Array:
        """A row of the same episode, this one or later."""
        episode = data.rows.episode_id[row]
        end = data.episode_start[episode] + data.episode_length[episode]
        return jax.random.randint(key, row.shape, row, end)


@dataclasses.dataclass(frozen=True)
class Windows(Sampler):
    """Windows of steps [*shape, length, ...] that end anywhere in an episode.

    Where an episode began later, its first step stands in for what was not there: of
    the window that ends with a step at time t, the last t + 1 are real.

    Attributes:
      length: steps in a window.
    """

    length: int

    def __call__(self, data, key, shape):
        row = jax.random.randint(key, shape, 0, len(data.rows))[..., None]
        first = data.episode_start[data.rows.episode_id[row]]
        rows = jnp.maximum(row + jnp.arange(1 - self.length, 1), first)
        # Counted from the first step that is there: of a piece of an episode, not 0.
        return take(data.rows, rows).replace(time=rows - first)
