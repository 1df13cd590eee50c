"""What a robot is shown before it practises alone (Yang et al. 2023, section V).

Demonstrations of many prior tasks, some of a target task in both directions, and some
failures at it. Their rewards are what whoever recorded them knows: 1 with the last step
of a demonstration, else 0.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlgen.env import Step, take
from rlgen.envs.tabletop.controllers import FetchAndCarry
from rlgen.envs.tabletop.env import GOAL_RADIUS, Tabletop, Task
from rlgen.envs.tabletop.levels import Tasks
from rlgen.errors import UserError
from rlgen.levels import LevelSet, stack
from rlgen.transitions import Episode

# So many episodes are played for each that is wanted: some demonstrations fail, and
# some failures succeed.
_SPARE = 2
# m beyond the target's radius at which failures put the object down.
_MISS = (0.02, 0.3)


@dataclasses.dataclass(frozen=True)
class Amounts:
    """How much is recorded.

    Attributes:
      n_prior: prior tasks.
      n_demos: demonstrations of each, half of them backward.
      n_target_demos: demonstrations of the target task in each direction.
      n_failures: failures at the target task, half of them backward: in turn uniform
        actions, and the object put down beside the target.
      n_prior_failures: the same at each prior task.
      noise: of the demonstrator; see `FetchAndCarry`.
    """

    n_prior: int = 20
    n_demos: int = 10
    n_target_demos: int = 10
    n_failures: int = 30
    n_prior_failures: int = 0
    noise: float = 0.2

    def __post_init__(self):
        if min(self.n_prior, self.n_prior_failures, self.n_failures) < 0:
            raise UserError(
                "n_prior, n_prior_failures and n_failures must be at least 0."
            )
        if min(self.n_demos, self.n_target_demos) < 2:
            raise UserError("n_demos and n_target_demos must be at least 2.")


def record(
    env: Tabletop, key: jax.Array, amounts: Amounts = Amounts()
) -> tuple[list[Episode], LevelSet[Task]]:
    """Records demonstrations and failures on tasks of the train split.

    Returns:
      episodes, and the tasks that their `level_id` points into: each forward, then
      backward, the target task last. `provenance["target_levels"]` has its two places.

    Raises:
      UserError: the demonstrator hardly ever succeeds.
    """
    key_tasks, key_demos, key_failures = jax.random.split(key, 3)
    level_set = _tasks(key_tasks, amounts.n_prior + 1)
    last = len(level_set) - 1
    is_target = np.arange(len(level_set)) >= last - 1
    backward = np.arange(len(level_set)) % 2 == 1
    demos = np.where(
        is_target, amounts.n_target_demos, _half(amounts.n_demos, backward)
    )
    failures = np.where(
        is_target,
        _half(amounts.n_failures, backward),
        _half(amounts.n_prior_failures, backward),
    )
    episodes = _wanted(
        env, "demonstration", key_demos, level_set, demos, amounts.noise
    ) + _wanted(env, "failure", key_failures, level_set, failures, amounts.noise)
    return sorted(episodes, key=lambda e: e.level_id), level_set


def _half(n: int, backward: np.ndarray) -> np.ndarray:
    return np.where(backward, n // 2, n - n // 2)


def _tasks(key: jax.Array, n: int) -> LevelSet[Task]:
    """`n` tasks with numbers from 0 on, each forward and backward."""
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    drawn = LevelSet.generate(Tasks("forward"), n, seed=seed, split="train")
    levels, labels = [], []
    for i in range(n):
        for backward in (False, True):
            leaves: dict[str, Any] = {
                "number": np.int32(i),
                "backward": np.bool_(backward),
            }
            levels.append(drawn[i].replace(**leaves))
            name = "target" if i == n - 1 else f"prior {i}"
            labels.append(f"{name}, {'backward' if backward else 'forward'}")
    return LevelSet.from_levels(
        Tasks(),
        stack(levels),
        name="tasks",
        split="train",
        labels=tuple(labels),
        provenance={"seed": seed, "target_levels": [2 * n - 2, 2 * n - 1]},
    )


def target_sets(level_set: LevelSet[Task]) -> dict[str, LevelSet[Task]]:
    """The target task of a recording, to evaluate on: forward, and backward."""
    sets = {}
    rows = level_set.provenance["target_levels"]
    for name, row in zip(("target", "target back"), rows, strict=True):
        sets[name] = dataclasses.replace(
            level_set,
            name=name,
            levels=take(level_set.levels, np.array([row])),
            hashes=level_set.hashes[[row]],
            labels=(level_set.labels[row],),
        )
    return sets


def _wanted(
    env: Tabletop,
    what: str,
    key: jax.Array,
    level_set: LevelSet[Task],
    counts: np.ndarray,
    noise: float,
) -> list[Episode]:
    """So many episodes on each level, all of them successes or all of them failures."""
    level_id = np.repeat(np.arange(len(counts)), _SPARE * counts)
    if not len(level_id):
        return []
    keys = jax.random.split(key, len(level_id))
    levels = take(level_set.levels, level_id)
    is_random = np.arange(len(level_id)) % 2 == 0
    first_obs, steps, actions = jax.device_get(
        _play(env, noise, what == "failure", keys, levels, is_random)
    )
    episodes: list[Episode] = []
    for level, n in enumerate(counts.tolist()):
        lanes = np.flatnonzero(level_id == level)
        succeeds = steps.terminated[lanes].any(axis=1)
        fitting = lanes[succeeds == (what == "demonstration")][:n]
        if len(fitting) < n:
            raise UserError(
                f"Of {len(lanes)} tries at task {level_set.labels[level]} only "
                f"{len(fitting)} made a {what}, {n} are wanted: choose another noise "
                "or a longer max_steps."
            )
        episodes += [_episode(first_obs, steps, actions, i, level) for i in fitting]
    return episodes


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
@functools.partial(jax.vmap, in_axes=(None, None, None, 0, 0, 0))
def _play(
    env: Tabletop,
    noise: float,
    fails: bool,
    key: jax.Array,
    level: Task,
    is_random: jax.Array,
) -> tuple[jax.Array, Step, jax.Array]:
    """Plays on, whatever happens: first observation, steps and actions.

    Who is to fail acts at random, or believes the target to be elsewhere.
    """
    controller: Callable = FetchAndCarry(noise)
    key_reset, key_miss, key_play = jax.random.split(key, 3)
    state, first_obs = env.reset(key_reset, level)
    believed = _missed(key_miss, level) if fails else level

    def play(state, key):
        key_act, key_uniform, key_step = jax.random.split(key, 3)
        action = controller(key_act, believed, state)
        if fails:
            uniform = jax.random.uniform(key_uniform, (3,), minval=-1.0)
            action = jnp.where(is_random, uniform, action)
        step = env.step(key_step, level, state, action)
        return step.state, (step.replace(state=None), action)

    _, (steps, actions) = jax.lax.scan(
        play, state, jax.random.split(key_play, env.max_episode_steps)
    )
    return first_obs, steps, actions


def _missed(key: jax.Array, level: Task) -> Task:
    """The task with goal and home so far off that neither is reached at the other."""
    key_far, key_angle = jax.random.split(key)
    radius = jnp.where(level.backward, level.spread, GOAL_RADIUS)
    far = radius + jax.random.uniform(key_far, (), jnp.float32, *_MISS)
    angle = jax.random.uniform(key_angle, maxval=2 * jnp.pi)
    shift = far * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    return level.replace(goal=level.goal + shift, home=level.home + shift)


def _episode(
    first_obs: Any, steps: Any, actions: Any, lane: int, level: int
) -> Episode:
    ends = steps.terminated[lane] | steps.truncated[lane]
    n = int(np.argmax(ends)) + 1
    return Episode(
        observations=np.concatenate([first_obs[lane][None], steps.obs[lane, :n]]),
        actions=actions[lane, :n],
        rewards=steps.reward[lane, :n],
        terminations=steps.terminated[lane, :n],
        truncations=steps.truncated[lane, :n],
        level_id=level,
    )
