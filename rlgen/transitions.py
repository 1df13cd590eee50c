"""What offline learners read: steps of many episodes as flat arrays.

On disk a dataset is a list of episodes (see `rlgen.datasets`). Here every step is one
row, so that a batch is one gather. A row keeps its true next observation, so the last
step of an episode that only the clock ended is used like any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import jax
import numpy as np
from flax import struct

from rlgen.errors import UserError

PyTree = Any
# Actions may exceed the box by rounding.
_ROUNDING = 1e-4


# What D4RL calls the fields of `Transitions` (Fu et al. 2020).
_D4RL = {
    "observations": "obs",
    "actions": "action",
    "rewards": "reward",
    "next_observations": "next_obs",
    "terminals": "terminated",
    "timeouts": "truncated",
}
_FLAGS = ("terminated", "truncated", "has_next_action")
_IDS = ("episode_id", "time", "level_id")


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


def some_of(fields: Mapping[str, Any]) -> Transitions:
    """Steps of which only these fields are known; the others are None."""
    nothing: dict[str, Any] = dict.fromkeys(
        field.name for field in dataclasses.fields(Transitions)
    )
    return Transitions(**nothing | dict(fields))


def restrict(rows: Transitions, like: Transitions) -> Transitions:
    """Steps with those fields only that others have too."""
    return some_of(
        {
            field.name: getattr(rows, field.name)
            for field in dataclasses.fields(Transitions)
            if getattr(like, field.name) is not None
        }
    )


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
      UserError: no episodes, an episode whose arrays do not belong together, or two
        episodes whose observations or actions differ in shape.
    """
    if not episodes:
        raise UserError(f"{name} holds no episodes: collect some.")
    for i, episode in enumerate(episodes):
        _check_lengths(episode, i, name)
        _check_shapes(episode, episodes[0], i, name)
    lengths: Any = np.array([len(episode) for episode in episodes], np.int32)
    start = (np.cumsum(lengths) - lengths).astype(np.int32)

    def joined(arrays: Any, dtype: Any = np.float32) -> Any:
        return np.concatenate([np.asarray(a, dtype) for a in arrays])

    terminated = joined([e.terminations for e in episodes], bool)
    # The recording may end without either flag: the episode ends all the same.
    last = np.zeros(lengths.sum(), bool)
    last[np.cumsum(lengths) - 1] = True
    action = joined([e.actions for e in episodes])
    reward = joined([e.rewards for e in episodes])
    rows: dict[str, Any] = {
        "obs": joined([e.observations[:-1] for e in episodes]),
        "action": action,
        "reward": reward,
        "next_obs": joined([e.observations[1:] for e in episodes]),
        "terminated": terminated,
        "truncated": last & ~terminated,
        "next_action": next_actions(action, last),
        "has_next_action": ~last,
        "return_to_go": returns_to_go(reward, start, lengths, discount),
        "episode_id": np.repeat(np.arange(len(episodes), dtype=np.int32), lengths),
        "time": joined([np.arange(n) for n in lengths], np.int32),
        "level_id": np.repeat(
            np.array([e.level_id for e in episodes], np.int32), lengths
        ),
    }
    return OfflineData(Transitions(**rows), start, lengths)


def from_steps(
    arrays: Mapping[str, np.ndarray], *, name: str = "the dataset"
) -> OfflineData:
    """Gathers steps that stand in any order into episodes, as host arrays.

    `episode_id` says what belongs together, and `time` in which order. Without
    `episode_id` the steps stand as they were played, and an episode ends where one is
    terminated or truncated.

    Args:
      arrays: by the names of `Transitions` or of D4RL, each [N, ...]; of next_action,
        has_next_action and return_to_go, what is left out is left out of the result.
        What is one number a step may also stand in a column, [N, 1].
      name: what messages call the dataset.

    Raises:
      UserError: an array is missing, has not one row per step, or holds what it cannot
        hold (text, flags that are neither 0 nor 1).
    """
    arrays = {_D4RL.get(key, key): value for key, value in arrays.items()} | {
        key: value for key, value in arrays.items() if key not in _D4RL
    }
    for needed in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
        if needed not in arrays:
            theirs = [key for key, ours in _D4RL.items() if ours == needed]
            called = " or ".join([needed, *theirs])
            raise UserError(f"{name} has no array {called}, which steps need: add it.")
    n = len(np.atleast_1d(arrays["reward"]))
    if n == 0:
        raise UserError(f"{name} holds no steps: collect some.")
    given = {
        field.name: np.asarray(arrays[field.name])
        for field in dataclasses.fields(Transitions)
        if field.name in arrays
    }
    for field, array in given.items():
        if array.shape[:1] != (n,):
            raise UserError(
                f"{name} has {n} rewards, but {field} of shape {array.shape}: every "
                "array needs one row per step."
            )
    given = {field: _read(array, field, name) for field, array in given.items()}
    for field, like in (("next_obs", "obs"), ("next_action", "action")):
        if field in given and given[field].shape != given[like].shape:
            raise UserError(
                f"{name} has {like} of shape {given[like].shape[1:]}, but {field} of "
                f"shape {given[field].shape[1:]}: record both alike."
            )
    if "episode_id" in given:
        keys = [given[key] for key in ("time", "episode_id") if key in given]
        order = np.lexsort(keys)  # stable: without time, as they stand
        given = {field: array[order] for field, array in given.items()}
        last = np.append(np.diff(given["episode_id"]) != 0, True)
    else:
        last = given["terminated"] | given["truncated"]
        last[-1] = True
    end = np.flatnonzero(last) + 1
    length: Any = np.diff(end, prepend=0).astype(np.int32)
    start: Any = (end - length).astype(np.int32)
    columns: dict[str, Any] = {
        "time": np.arange(n) - np.repeat(start, length),
        "level_id": np.zeros(n),
        "has_next_action": ~last,
        "next_action": None,
        "return_to_go": None,
        **given,
        "episode_id": np.repeat(np.arange(len(length)), length),
    }
    if columns["next_action"] is None:
        columns["has_next_action"] = None
    columns["truncated"] = columns["truncated"] | (last & ~columns["terminated"])
    types: dict[str, Any] = {
        **dict.fromkeys(_FLAGS, bool),
        **dict.fromkeys(_IDS, np.int32),
    }
    with np.errstate(over="ignore"):  # what is infinite then, `check_finite` finds
        rows: Any = {
            field: None if array is None else array.astype(types.get(field, np.float32))
            for field, array in columns.items()
        }
    return OfflineData(Transitions(**rows), start, length)


def _read(array: np.ndarray, field: str, name: str) -> np.ndarray:
    """An array of steps as numbers, or flags, one row per step.

    Raises:
      UserError: it holds something else.
    """
    if array.dtype.kind not in "biuf":
        raise UserError(
            f"{name} has {field} of type {array.dtype}, but needs numbers: write them "
            "as such (episodes are numbered, flags are 0 or 1)."
        )
    if field in ("obs", "next_obs", "action", "next_action"):
        return array
    if array[0].size != 1:
        raise UserError(
            f"{name} has {field} of shape {array.shape}, but needs one number a step."
        )
    array = array.reshape(-1)
    if field in _IDS and (array % 1 != 0).any():
        raise UserError(
            f"{name} has {field} such as {array[array % 1 != 0][0]}: choose whole "
            "numbers."
        )
    return flags(array, field, name) if field in _FLAGS else array


def flags(array: Any, field: str, name: str) -> np.ndarray:
    """Booleans from booleans or numbers 0 and 1.

    Raises:
      UserError: anything else, such as text (of which "False" counts as true) or NaN.
    """
    array = np.asarray(array)
    is_number = array.dtype.kind in "biuf"
    if not is_number or not np.isin(array, (0, 1)).all():
        raise UserError(
            f"{name} has {field} that are neither 0 nor 1 (false nor true): mend them."
        )
    return array.astype(bool)


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
    ends = np.logical_or(episode.terminations, episode.truncations)[:-1]
    if ends.any():
        raise UserError(
            f"Episode {i} of {name} goes on after its end at step {ends.argmax()}: "
            "split it there."
        )


def _check_shapes(episode: Episode, first: Episode, i: int, name: str) -> None:
    for array in ("observations", "actions"):
        shape = np.shape(getattr(episode, array))[1:]
        wanted = np.shape(getattr(first, array))[1:]
        if shape != wanted:
            raise UserError(
                f"Episode {i} of {name} has {array} of shape {shape}, but episode 0 "
                f"has {wanted}: record them in one environment."
            )


def next_actions(action: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The action that followed each of N steps, zeros after the last of an episode.

    Args:
      action: [N, A], episodes one after another.
      last: bool[N], whether an episode ends with the step.
    """
    following = np.roll(action, -1, axis=0)
    following[last] = 0
    return following


def returns_to_go(
    reward: np.ndarray,
    episode_start: np.ndarray,
    episode_length: np.ndarray,
    discount: float,
) -> np.ndarray:
    """Discounted sums from each step to its episode's last, without a bootstrap.

    All episodes are summed side by side, from their ends backward.

    Args:
      reward: [N], episodes one after another.
      episode_start, episode_length: int[E].

    Returns:
      float32[N].
    """
    reward = np.asarray(reward, np.float64)
    # Longest first: those that reach back to a step stand in front.
    order = np.argsort(-np.asarray(episode_length), kind="stable")
    start, length = np.asarray(episode_start)[order], np.asarray(episode_length)[order]
    end = start + length
    n_longer = np.searchsorted(
        -length, -np.arange(1, length.max(initial=0) + 1), "right"
    )
    out = np.zeros(len(reward), np.float32)
    total = np.zeros(len(order))
    for back, n in enumerate(n_longer, start=1):
        at = end[:n] - back
        total[:n] = reward[at] + discount * total[:n]
        out[at] = total[:n]
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
      UserError: spaces that are no boxes, numbers that are not finite, observations or
        actions of another size, actions outside the box, or a level that is not in the
        level set.
    """
    rows = data.rows
    if not isinstance(action_space, gymnasium.spaces.Box):
        raise UserError("Offline learners need actions in a box: choose another env.")
    if not isinstance(observation_space, gymnasium.spaces.Box):
        raise UserError(
            "Offline learners need observations in one box: choose another env."
        )
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
    check_finite(rows, name)
    action = np.asarray(rows.action)
    excess = np.maximum(action_space.low - action, action - action_space.high)
    outside = (excess > _ROUNDING).reshape(len(rows), -1).any(axis=1)
    if outside.any():
        raise UserError(
            f"{name} holds {np.sum(outside)} actions outside the "
            f"environment's box {action_space.low.min():g} to "
            f"{action_space.high.max():g}: scale them into it, as scale_actions does "
            "where the dataset says its own box."
        )
    if n_levels is not None:
        level_id = np.asarray(rows.level_id)
        missing = level_id[(level_id < 0) | (level_id >= n_levels)]
        if len(missing):
            raise UserError(
                f"{name} was played on level {missing[0]}, which is missing from its "
                f"level set of {n_levels}: collect it again."
            )


def check_finite(rows: Transitions, name: str = "The dataset") -> None:
    """Checks that there is no NaN and nothing infinite.

    Raises:
      UserError: there is.
    """
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


def failing_reward(data: OfflineData) -> float | None:
    """The lower of the two rewards that sparse data has, of steps without success.

    None where rewards are dense: not two numbers.
    """
    values = np.unique(np.asarray(data.rows.reward))
    return float(values[0]) if len(values) == 2 else None


def with_endless_returns(data: OfflineData, discount: float) -> OfflineData:
    """The data with the returns that bound values in Cal-QL, on the host.

    As its authors' code has them (Nakamoto et al. 2023). Where rewards are dense, an
    episode that was only cut off goes on with its last reward for ever. Where they are
    two numbers, nothing follows an episode that had the higher one; one that never did
    is worth the lower one for ever at every step, however it ended.

    Args:
      data: with `return_to_go` at this discount.
    """
    rows, start = data.rows, np.asarray(data.episode_start)
    reward, failing = np.asarray(rows.reward), failing_reward(data)
    last, returns = start + np.asarray(data.episode_length) - 1, rows.return_to_go
    assert returns is not None, "the data has no returns"
    if failing is None:
        tail = np.asarray(rows.truncated)[last] * reward[last] / (1.0 - discount)
        left = last[rows.episode_id] + 1 - np.arange(len(rows))
        endless: Any = returns + discount**left * tail[rows.episode_id]
    else:
        succeeds = np.maximum.reduceat(reward, start) > failing
        never = failing / (1.0 - discount)
        endless = np.where(succeeds[rows.episode_id], returns, never)
    return data.replace(rows=rows.replace(return_to_go=endless.astype(np.float32)))
