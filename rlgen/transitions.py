"""What offline learners read: steps of many episodes as flat arrays.

On disk a dataset is a list of episodes (see `rlgen.datasets`). Here every step is one
row, so that a batch is one gather. A row keeps its true next observation, so the last
step of an episode that only the clock ended is used like any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import gymnasium
import jax
import numpy as np
from flax import struct

from rlgen.errors import UserError

PyTree = Any
# Actions may exceed the box by rounding.
_ROUNDING = 1e-4


class Transitions(struct.PyTreeNode):
    """N steps; every leaf starts with [N].

    `terminated` says that the value of what follows is zero, `truncated` that the
    episode ends here for another reason (its clock, or the end of the recording).
    """

    obs: jax.Array  # (N, O) float32
    action: jax.Array  # (N, A) float32
    reward: jax.Array  # (N,) float32
    next_obs: jax.Array  # (N, O) float32, never that of the next episode
    terminated: jax.Array  # (N,) bool
    truncated: jax.Array  # (N,) bool
    #: The action that followed; where an episode ends there is none: `has_next_action`.
    next_action: jax.Array | None  # (N, A) float32
    has_next_action: jax.Array | None  # (N,) bool
    #: Discounted sum of rewards from here to the episode's end, this one included.
    return_to_go: jax.Array | None  # (N,) float32
    episode_id: jax.Array  # (N,) int32, index of the episode
    time: jax.Array  # (N,) int32, steps since the episode's start
    level_id: jax.Array  # (N,) int32, index into the level set

    def __len__(self) -> int:
        return len(self.reward)


class OfflineData(struct.PyTreeNode):
    """A dataset on the device: N steps of E episodes, which stand one after another."""

    rows: Transitions
    episode_start: jax.Array  # (E,) int32, row of the first step
    episode_length: jax.Array  # (E,) int32, steps

    @property
    def n_episodes(self) -> int:
        """How many episodes there are."""
        return len(self.episode_start)


@dataclasses.dataclass(frozen=True)
class Episode:
    """One recorded episode of T steps, on the host.

    Attributes:
      observations: float32[T + 1, O]; the last is the true one that it ended in.
      actions: float32[T, A].
      rewards: float32[T].
      terminations, truncations: bool[T].
      level_id: index of its level in the dataset's level set.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    level_id: int = 0

    def __len__(self) -> int:
        return len(self.rewards)


def from_episodes(
    episodes: Sequence[Episode], *, discount: float = 1.0, name: str = "the dataset"
) -> OfflineData:
    """Lays episodes one after another, as host arrays.

    Args:
      discount: of `return_to_go`.
      name: what messages call the dataset.

    Raises:
      UserError: no episodes, or an episode whose arrays do not belong together.
    """
    if not episodes:
        raise UserError(f"{name} holds no episodes: collect some.")
    for i, episode in enumerate(episodes):
        _check_lengths(episode, i, name)
    lengths: Any = np.array([len(episode) for episode in episodes], np.int32)

    def joined(arrays: Any, dtype: Any = np.float32) -> Any:
        return np.concatenate([np.asarray(a, dtype) for a in arrays])

    terminated = joined([e.terminations for e in episodes], bool)
    # The recording may end without either flag: the episode ends all the same.
    last = np.zeros(lengths.sum(), bool)
    last[np.cumsum(lengths) - 1] = True
    action = joined([e.actions for e in episodes])
    rows: dict[str, Any] = {
        "obs": joined([e.observations[:-1] for e in episodes]),
        "action": action,
        "reward": joined([e.rewards for e in episodes]),
        "next_obs": joined([e.observations[1:] for e in episodes]),
        "terminated": terminated,
        "truncated": last & ~terminated,
        "next_action": np.where(last[:, None], 0, np.roll(action, -1, axis=0)),
        "has_next_action": ~last,
        "return_to_go": joined([returns_to_go(e.rewards, discount) for e in episodes]),
        "episode_id": np.repeat(np.arange(len(episodes), dtype=np.int32), lengths),
        "time": joined([np.arange(n) for n in lengths], np.int32),
        "level_id": np.repeat(
            np.array([e.level_id for e in episodes], np.int32), lengths
        ),
    }
    start = (np.cumsum(lengths) - lengths).astype(np.int32)
    return OfflineData(Transitions(**rows), start, lengths)


def _check_lengths(episode: Episode, i: int, name: str) -> None:
    n_steps = len(episode.rewards)
    if len(episode.observations) == n_steps:
        raise UserError(
            f"Episode {i} of {name} has {n_steps} observations for {n_steps} steps, "
            f"but needs {n_steps + 1}: record the observation that it ended in too."
        )
    sizes = {
        "observations": len(episode.observations) - 1,
        "actions": len(episode.actions),
        "terminations": len(episode.terminations),
        "truncations": len(episode.truncations),
    }
    for array, size in sizes.items():
        if size != n_steps:
            raise UserError(
                f"Episode {i} of {name} has {n_steps} rewards, but its {array} are for "
                f"{size} steps: record the dataset again."
            )
    if n_steps == 0:
        raise UserError(f"Episode {i} of {name} has no steps: leave it out.")
    ends = np.asarray(episode.terminations | episode.truncations)[:-1]
    if ends.any():
        raise UserError(
            f"Episode {i} of {name} goes on after its end at step {ends.argmax()}: "
            "split it there."
        )


def returns_to_go(rewards: np.ndarray, discount: float) -> np.ndarray:
    """Discounted sums from each of T steps to the last, without a bootstrap. [T]."""
    total, out = 0.0, np.zeros(len(rewards), np.float32)
    for t in range(len(rewards) - 1, -1, -1):
        total = float(rewards[t]) + discount * total
        out[t] = total
    return out


def check(
    data: OfflineData,
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    *,
    n_levels: int | None = None,
    name: str = "The dataset",
) -> None:
    """Checks that a dataset can be learned from in an environment.

    Args:
      n_levels: size of the level set that `level_id` points into, if there is one.

    Raises:
      UserError: numbers that are not finite, observations or actions of another size,
        actions outside the box, or a level that is not in the level set.
    """
    rows = data.rows
    if not isinstance(action_space, gymnasium.spaces.Box):
        raise UserError("Offline learners need actions in a box: choose another env.")
    for what, array, space in (
        ("observations", rows.obs, observation_space),
        ("actions", rows.action, action_space),
    ):
        if array.shape[1:] != space.shape:
            raise UserError(
                f"{name} has {what} of shape {array.shape[1:]}, but the environment's "
                f"have {space.shape}: name the environment it was collected in, with "
                "the same settings."
            )
    for what in ("obs", "next_obs", "action", "reward", "next_action", "return_to_go"):
        array = getattr(rows, what)
        if array is None:
            continue
        finite = np.isfinite(np.asarray(array).reshape(len(rows), -1)).all(axis=1)
        if not finite.all():
            raise UserError(
                f"{name} holds {np.sum(~finite)} steps whose {what} is not finite (the "
                f"first is step {np.argmin(finite)}): drop their episodes."
            )
    action = np.asarray(rows.action)
    outside = (action < action_space.low - _ROUNDING) | (
        action > action_space.high + _ROUNDING
    )
    if outside.any():
        raise UserError(
            f"{name} holds {np.sum(outside.any(axis=1))} actions outside the "
            f"environment's box {action_space.low.min():g} to "
            f"{action_space.high.max():g}: scale them into it."
        )
    if n_levels is not None:
        level_id = np.asarray(rows.level_id)
        missing = level_id[(level_id < 0) | (level_id >= n_levels)]
        if len(missing):
            raise UserError(
                f"{name} was played on level {missing[0]}, which is missing from its "
                f"level set of {n_levels}: collect it again."
            )


def require(data: OfflineData, field: str, algorithm: str) -> None:
    """Checks that a dataset has an optional field.

    Raises:
      UserError: it has not.
    """
    if getattr(data.rows, field) is None:
        raise UserError(
            f"{algorithm} needs {field}, which the dataset does not have (its steps "
            "are not in the order of episodes): use a dataset of episodes or another "
            "algorithm."
        )
