"""Plays episodes on given levels and records every step of them, for datasets.

Nothing resets itself: an episode keeps the observation that it ended in. Episode j of
level i has a key of its own, so what is recorded does not depend on what is played
beside it, and a dataset of few levels is part of one of more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from rlgen.env import Env, select, take
from rlgen.errors import UserError
from rlgen.players import Player, Policy
from rlgen.transitions import Episode

PyTree = Any

N_SLOTS = 128  # episodes played side by side
_SEGMENT = 64  # steps of a compiled piece; whoever has ended waits for its end
# A level on which so many episodes, and nine of ten, were not finite is given up.
_MAX_NON_FINITE = 30


class Recorded(NamedTuple):
    """An episode with who played it and whether it succeeded."""

    episode: Episode
    policy: str
    success: bool

    @property
    def score(self) -> float:
        """The undiscounted return."""
        return float(np.sum(self.episode.rewards, dtype=np.float64))


class _Rows(NamedTuple):
    """What a step leaves; arrays [T, B, ...]."""

    obs: Any  # arrived at
    action: Any
    reward: Any
    terminated: Any
    truncated: Any
    success: Any
    non_finite: Any


class Stage:
    """An environment and what was compiled for it; recorders on it share that.

    Args:
      env: without an auto-reset wrapper, with a box of actions.
    """

    def __init__(self, env: Env):
        self.env = env
        self.segment = min(_SEGMENT, env.max_episode_steps)
        self._players: dict[Player, Callable] = {}
        self._begin = jax.jit(self._begin_all)

    def begin(self, levels: PyTree, key: jax.Array, level_id: Any, number: Any):
        """Keys, levels, states and observations at the start of B episodes."""
        return self._begin(levels, key, level_id, number)

    def _begin_all(self, levels, key, level_id, number):
        def begin(level_id, number):
            own = jax.random.fold_in(jax.random.fold_in(key, level_id), number)
            key_reset, key_play = jax.random.split(own)
            level = take(levels, level_id)
            return key_play, level, *self.env.reset(key_reset, level)

        return jax.vmap(begin)(level_id, number)

    def advance(self, player: Player) -> Callable:
        """Plays a segment: (params, key, level, carry, first step) to carry, rows."""
        if player not in self._players:
            self._players[player] = self._compile(player)
        return self._players[player]

    def _compile(self, player: Player) -> Callable:
        env, space = self.env, self.env.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        low, high = np.asarray(space.low), np.asarray(space.high)

        @jax.jit
        def advance(params, key, level, carry, begin):
            def body(carry, time):
                state, obs, memory, alive = carry
                keys = jax.vmap(lambda key: jax.random.fold_in(key, time))(key)
                key_act, key_env = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
                first = jnp.full(N_SLOTS, time == 0)
                memory, action = player.act(
                    params, memory, key_act, level, state, obs, first
                )
                # What is recorded is what is done: Gaussians leave the box.
                action = jnp.clip(action.astype(jnp.float32), low, high)
                step = jax.vmap(env.step)(key_env, level, state, action)
                row = _Rows(
                    step.obs, action, step.reward, step.terminated, step.truncated,
                    step.info["success"],
                    step.info.get("non_finite", jnp.zeros(N_SLOTS, bool)),
                )  # fmt: skip
                # Who has ended stands still, so that nothing blows up there.
                state = jax.vmap(select)(alive, step.state, state)
                obs = jax.vmap(select)(alive, step.obs, obs)
                return (state, obs, memory, alive & ~step.done), row

            return jax.lax.scan(body, carry, begin + jnp.arange(self.segment))

        return advance


class Recorder:
    """Records episodes on L levels.

    Args:
      stage: what they are played on.
      levels: stacked on a leading axis L.
      key: of all episodes.
      max_steps: longer episodes are cut, as truncated.
      on_segment: called with the number of steps after every few, to stop or to show
        progress.
    """

    def __init__(
        self,
        stage: Stage,
        levels: PyTree,
        key: jax.Array,
        max_steps: int | None = None,
        on_segment: Callable[[int], None] = lambda n_steps: None,
    ):
        self._stage, self._key, self._on_segment = stage, key, on_segment
        self._levels = jax.tree.map(jnp.asarray, levels)
        longest = stage.env.max_episode_steps
        self.max_steps = min(max_steps or longest, longest)
        self.n_levels: int = jax.tree.leaves(self._levels)[0].shape[0]

    def play(
        self, policy: Policy, items: Sequence[tuple[int, int]]
    ) -> list[Recorded | None]:
        """One episode for each (level, number of the episode on it).

        Returns:
          the episodes in that order; None for one that was not finite throughout.
        """
        played: list[Recorded | None] = []
        for first in range(0, len(items), N_SLOTS):
            played += self._play_batch(policy, items[first : first + N_SLOTS])
        return played

    def _play_batch(self, policy, items):
        padded = [*items, *[items[-1]] * (N_SLOTS - len(items))]
        level_id, number = np.array(padded, np.int32).T
        key, level, state, first_obs = self._stage.begin(
            self._levels, self._key, level_id, number
        )
        carry = state, first_obs, policy.player.memory(N_SLOTS), jnp.ones(N_SLOTS, bool)
        advance, n_steps = self._stage.advance(policy.player), self._stage.segment
        segments: list[_Rows] = []
        for begin in range(0, self.max_steps, n_steps):
            carry, rows = advance(policy.params, key, level, carry, jnp.int32(begin))
            segments.append(jax.device_get(rows))
            self._on_segment(n_steps)
            if not np.any(carry[-1]):
                break
        rows = _Rows(*(np.concatenate(parts) for parts in zip(*segments, strict=True)))
        rows = _Rows(*(array[: self.max_steps] for array in rows))
        first_obs = np.asarray(first_obs)
        return [
            _episode(rows, first_obs, b, int(level_id[b]), policy.name)
            for b in range(len(items))
        ]


def _episode(
    rows: _Rows, first_obs: np.ndarray, b: int, level_id: int, policy: str
) -> Recorded | None:
    done = rows.terminated[:, b] | rows.truncated[:, b]
    n = int(done.argmax()) + 1 if done.any() else len(done)
    observations = np.concatenate([first_obs[None, b], rows.obs[:n, b]])
    action, reward = rows.action[:n, b], rows.reward[:n, b]
    finite = all(np.isfinite(x).all() for x in (observations, action, reward))
    if rows.non_finite[:n, b].any() or not finite:
        return None
    truncations = rows.truncated[:n, b].copy()
    truncations[-1] |= not rows.terminated[n - 1, b]
    episode = Episode(
        observations.astype(np.float32),
        action,
        reward.astype(np.float32),
        rows.terminated[:n, b].copy(),
        truncations,
        level_id,
    )
    return Recorded(episode, policy, bool(rows.success[n - 1, b]))


def cut(recorded: Recorded, n: int) -> Recorded:
    """The first `n` steps of an episode, as truncated where it went on."""
    episode = recorded.episode
    if n == len(episode):
        return recorded
    truncations = np.arange(n) == n - 1
    part = dataclasses.replace(
        episode,
        observations=episode.observations[: n + 1],
        actions=episode.actions[:n],
        rewards=episode.rewards[:n],
        terminations=episode.terminations[:n],
        truncations=truncations,
    )
    return Recorded(part, recorded.policy, success=False)


def record(
    recorder: Recorder, policies: Sequence[Policy], n_steps: int
) -> tuple[list[Recorded], int]:
    """Records exactly `n_steps` steps, as equally over levels as episodes allow.

    Levels are filled one after another with whole episodes, as many as bring the total
    nearest to the level's equal share; the last episode of the last level is cut to
    end at `n_steps`. Episode j of level i is played by policy (i + j) modulo their
    number, so that policies have equal shares of every level's episodes.

    Args:
      recorder: its `max_steps` must not exceed a level's share.

    Returns:
      episodes in the order of levels, and how many were not finite and left out.

    Raises:
      UserError: on some level hardly an episode stays finite.
    """
    n_levels = recorder.n_levels
    kept: list[list[Recorded]] = [[] for _ in range(n_levels)]
    tried = [0] * n_levels
    while True:
        lengths = [[len(r.episode) for r in each] for each in kept]
        counts, missing = allot(lengths, n_steps)
        if not missing:
            break
        known = [n for each in lengths for n in each]
        mean = np.mean(known) if known else recorder.max_steps
        wanted = [
            (level, tried[level] + k)
            for level, steps in missing.items()
            for k in range(int(np.ceil(steps / mean)))
        ]
        for level, number, recorded in _play_in_turn(recorder, policies, wanted):
            tried[level] = number + 1
            if recorded is not None:
                kept[level].append(recorded)
        _check_finite(kept, tried)
    chosen = [each[:n] for each, n in zip(kept, counts, strict=True)]
    dropped = sum(tried) - sum(len(each) for each in kept)
    episodes = [recorded for each in chosen for recorded in each]
    excess = sum(len(r.episode) for r in episodes) - n_steps
    if excess:
        episodes[-1] = cut(episodes[-1], len(episodes[-1].episode) - excess)
    return episodes, dropped


def _play_in_turn(
    recorder: Recorder, policies: Sequence[Policy], items: list[tuple[int, int]]
) -> Iterator[tuple[int, int, Recorded | None]]:
    """Plays items, each by the policy whose turn it is; in the order of items."""
    turns = [(level + number) % len(policies) for level, number in items]
    played: dict[tuple[int, int], Recorded | None] = {}
    for turn, policy in enumerate(policies):
        own = [item for item, at in zip(items, turns, strict=True) if at == turn]
        played |= zip(own, recorder.play(policy, own), strict=True)
    for level, number in items:
        yield level, number, played[level, number]


def _check_finite(kept: list[list[Recorded]], tried: list[int]) -> None:
    for level, n in enumerate(tried):
        dropped = n - len(kept[level])
        if dropped >= _MAX_NON_FINITE and dropped > 0.9 * n:
            raise UserError(
                f"{dropped} of {n} episodes on level {level} were not finite: choose "
                "other settings of the environment."
            )


def allot(
    lengths: Sequence[Sequence[int]], n_steps: int
) -> tuple[list[int], dict[int, int]]:
    """How many episodes of each level belong to a dataset of `n_steps` steps.

    The total after level i is as near to (i + 1) / L of `n_steps` as whole episodes
    allow, and after the last level at least `n_steps`. So levels differ by an episode
    at most, whatever their number.

    Args:
      lengths: of the episodes of each level that were played so far, at most
        `n_steps` / L each.

    Returns:
      numbers of episodes, and for levels that need more the steps that they lack.
    """
    counts, missing, total = [], {}, 0
    for level, own in enumerate(lengths):
        target = (level + 1) * n_steps // len(lengths)
        totals = total + np.cumsum([0, *own])
        if totals[-1] < target:
            missing[level] = int(target - totals[-1])
            counts.append(len(own))
            total = target
            continue
        if level == len(lengths) - 1:
            n = int(np.argmax(totals >= target))
        else:
            n = max(1, int(np.argmin(np.abs(totals - target))))
        counts.append(n)
        total = int(totals[n])
    return counts, missing
