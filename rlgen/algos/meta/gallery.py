"""Pictures of learned rules: what they ask for, and how agents live by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import struct

from rlgen.algos import drift as drifts
from rlgen.algos import gallery
from rlgen.algos.meta import lpg, lpo
from rlgen.algos.meta.lifetime import Lifetime
from rlgen.algos.meta.tasks import Task
from rlgen.algos.rules import ActorCriticRule, LPGRule, UpdateRule
from rlgen.algos.ued.gallery import curriculum as draw_curriculum
from rlgen.env import take
from rlgen.evaluation import pictures
from rlgen.rollout import Trajectory

if TYPE_CHECKING:
    from rlgen.algos.meta.experiment import MetaLearning

PyTree = Any

# Lives are watched on so many held-out levels, of each meta-seed.
_N_LEVELS = 32
# Points of an axis.
_N_POINTS = 81
# Steps of the episode that LPG is asked about.
_N_STEPS = 12
_SHARES = (0.0, 0.5, 1.0)
# What is measured of an agent's update, and what the panel is called.
_MEASURES = {
    "entropy": "Entropy of the policy",
    "prediction_entropy": "Entropy of the prediction",
    "grad_norm": "Length of the gradient, before clipping",
    "policy_target_square": "Square of the policy's target",
    "approx_kl": "KL divergence of an update",
    "clip_fraction": "Share of ratios beyond the clip",
    "return": "Return of the newest episode",
}


def draw(
    experiment: MetaLearning, states: PyTree, folder: Path, episodes: pd.DataFrame
) -> list[Path]:
    """Draws what was learned; of curriculum and drift, the first seed's."""
    rule, params = experiment.lifetime.student.rule, experiment.rule_params(states)
    lifetime = float(experiment.eval_lifetime)
    files = [
        gallery.heldout(experiment, str(name), part, folder)
        for name, part in episodes.groupby("level_set", sort=False)
    ]
    files += rule_pictures(rule, params, lifetime, folder)
    levels = experiment.eval_sets["heldout"].thin(_N_LEVELS).levels
    files.append(
        lives_picture(
            experiment.lifetime, params, levels, experiment.eval_lifetime, folder
        )
    )
    curriculum = draw_curriculum(
        experiment,
        take(states.curriculum, 0),
        folder,
        level_of=lambda task: task.level,
    )
    return files + ([] if curriculum is None else [curriculum])


def rule_pictures(
    rule: UpdateRule, params: PyTree, lifetime: float, folder: Path
) -> list[Path]:
    """Draws what rules of one shape ask for.

    Args:
      params: of M rules, [M, ...].
      lifetime: updates that a time-aware rule is told of.
    """
    if isinstance(rule, LPGRule):
        return [policy_target_picture(rule.lpg, params, lifetime, folder)]
    if isinstance(rule, ActorCriticRule) and rule.lpo is not None:
        return [drift_picture(rule.lpo, take(params, 0), rule.config.clip, folder)]
    return []


def drift_picture(
    config: lpo.LPOConfig, params: PyTree, clip_range: float, folder: Path
) -> Path:
    """A learned drift over ratio and advantage, at three times if it is time-aware,
    beside PPO's clip and DPO.
    """
    ratio = np.linspace(0.4, 1.6, _N_POINTS)
    advantage = np.linspace(-2.0, 2.0, _N_POINTS)
    log_ratio, a = np.meshgrid(np.log(ratio), advantage)
    log_ratio, a = jnp.asarray(log_ratio), jnp.asarray(a)
    clip = jnp.float32(clip_range)
    shares = _SHARES if config.time_aware else (0.0,)
    maps = {"PPO's clip": drifts.clip(log_ratio, a, clip)}
    maps["DPO"] = drifts.dpo(log_ratio, a, clip)
    for share in shares:
        name = f"learned, n/N = {share:g}" if config.time_aware else "learned"
        maps[name] = lpo.drift(params, config, log_ratio, a, clip, share)
    return pictures.heat_maps(
        {name: np.asarray(values) for name, values in maps.items()},
        ratio,
        advantage,
        folder / "drift.png",
        "Drift: what an update loses by moving the policy",
        x_label="ratio of new to old probability",
        y_label="advantage",
        value_label="drift",
    )


def policy_target_picture(
    config: lpg.LPGConfig, params: PyTree, lifetime: float, folder: Path
) -> Path:
    """What LPG asks of the policy: against the reward now and later, against its own
    prediction, and at three times of a life if it is time-aware.
    """
    reward = np.linspace(-1.0, 1.0, _N_POINTS)
    mass = np.linspace(1.0 / config.n_predictions, 1.0, _N_POINTS)
    ask = _asker(config, params, lifetime)
    delays = (0, 1, 2, 5, 10)
    panels = {
        "Reward so many steps later": {
            str(k): ask(lambda x, k=k: _paid(config, x, k), reward) for k in delays
        },
        "Change by prediction of the state left": _by_category(config, ask, mass, 0),
        "Change by prediction of the state reached": _by_category(config, ask, mass, 1),
    }
    x = {name: reward if "Reward" in name else mass for name in panels}
    labels = {
        name: "reward" if "Reward" in name else "its probability" for name in panels
    }
    if config.time_aware:
        name = "Reward at once, over a life"
        panels[name] = {
            f"n/N = {share:g}": _asker(config, params, lifetime, share)(
                lambda x: _paid(config, x, 0), reward
            )
            for share in _SHARES
        }
        x[name], labels[name] = reward, "reward"
    return pictures.line_panels(
        {
            title: {name: pictures.over_runs(x[title], y) for name, y in lines.items()}
            for title, lines in panels.items()
        },
        folder / "policy_target.png",
        "What the rule asks of the log probability of an action",
        x_label=labels,
        note="mean and range over meta-seeds; the rest of the prediction is uniform",
    )


def _by_category(
    config: lpg.LPGConfig, ask: Callable[..., np.ndarray], mass: np.ndarray, at: int
) -> dict[str, np.ndarray]:
    """How targets change if prediction number `at` leans to one of its categories."""
    lines = {}
    for i in range(min(config.n_predictions, 5)):
        target = ask(lambda x, i=i: _foreseen(config, x, i, at), mass)
        lines[f"category {i}"] = target - target[:, :1]
    return lines


def _asker(
    config: lpg.LPGConfig, params: PyTree, lifetime: float, share: float = 0.5
) -> Callable[..., np.ndarray]:
    """A function of (experience of x, values of x) to first policy targets [M, X]."""

    @jax.jit
    def first_target(params, reward, prediction):
        def one(params, reward, prediction):
            done = jnp.zeros((_N_STEPS, 1), bool).at[-1].set(True)
            given = lpg.Experience(
                reward=reward[:, None],
                done=done,
                probability=jnp.full((_N_STEPS, 1), 0.2),
                prediction=prediction[:, None],
                time=jnp.float32(share * lifetime),
                lifetime=jnp.float32(lifetime),
            )
            return lpg.targets(params, config, given).policy[0, 0]

        over_x = jax.vmap(one, in_axes=(None, 0, 0))
        return jax.vmap(over_x, in_axes=(0, None, None))(params, reward, prediction)

    def ask(experience, values):
        return np.asarray(first_target(params, *experience(values)))

    return ask


def _paid(config: lpg.LPGConfig, x: np.ndarray, delay: int):
    """Episodes that pay x once, `delay` steps on; their predictions say nothing.

    Returns:
      rewards float32[X, T] and predictions float32[X, T + 1, M].
    """
    reward = np.zeros((len(x), _N_STEPS), np.float32)
    reward[:, delay] = x
    shape = (len(x), _N_STEPS + 1, config.n_predictions)
    return reward, np.full(shape, 1.0 / config.n_predictions, np.float32)


def _foreseen(config: lpg.LPGConfig, x: np.ndarray, category: int, at: int):
    """Episodes that pay nothing; prediction number `at` gives x to one category."""
    reward, prediction = _paid(config, np.zeros_like(x), 0)
    prediction[:, at] = (1.0 - x[:, None]) / max(config.n_predictions - 1, 1)
    prediction[:, at, category] = x
    return reward, prediction


def lives_picture(
    lifetime: Lifetime, params: PyTree, levels: PyTree, n_updates: int, folder: Path
) -> Path:
    """How agents of M rules live on held-out levels, from birth to end."""
    history = jax.jit(
        lambda params, key: lives(lifetime, params, levels, n_updates, key)
    )
    measured = {
        name: np.asarray(values)
        for name, values in jax.lax.map(
            lambda p: history(p, jax.random.key(0)), params
        ).items()
    }
    share = (np.arange(n_updates) + 1) / n_updates
    panels = {
        title: {"": pictures.over_runs(share, measured[name])}
        for name, title in _MEASURES.items()
        if name in measured
    }
    return pictures.line_panels(
        panels,
        folder / "lives.png",
        f"Agents over {n_updates} updates on held-out levels",
        x_label=dict.fromkeys(panels, "share of the life, n/N"),
        note="mean over levels; mean and range over meta-seeds",
    )


class Returns(struct.PyTreeNode):
    """Undiscounted returns of the newest episode of each of B environments."""

    total: jax.Array  # (B,) float32, of the episode that goes on
    last: jax.Array  # (B,) float32, of the last that ended
    n_ended: jax.Array  # (B,) int32

    @classmethod
    def none(cls, n_envs: int) -> Returns:
        """Nothing was played yet."""
        zeros = jnp.zeros(n_envs)
        return cls(total=zeros, last=zeros, n_ended=jnp.zeros(n_envs, jnp.int32))

    def after(self, trajectory: Trajectory) -> Returns:
        """What they are after some more steps."""

        def step(returns, inputs):
            reward, done = inputs
            total = returns.total + reward
            return Returns(
                total=jnp.where(done, 0.0, total),
                last=jnp.where(done, total, returns.last),
                n_ended=returns.n_ended + done,
            ), None

        done = trajectory.done
        return jax.lax.scan(step, self, (trajectory.reward, done), unroll=4)[0]

    @property
    def mean(self) -> jax.Array:
        """Over environments; of the episode that goes on where none ended. ()."""
        return jnp.mean(jnp.where(self.n_ended > 0, self.last, self.total))


def lives(
    lifetime: Lifetime, params: PyTree, levels: PyTree, n_updates: int, key: jax.Array
) -> dict[str, jax.Array]:
    """What every update of an agent showed, mean over levels [L, ...]: float32[N]."""

    def one(inputs):
        key, level = inputs
        task = Task(level, jnp.int32(n_updates))
        key_begin, key_live = jax.random.split(key)

        def update(carry, key):
            life, returns = carry
            life, play, metrics = lifetime.advance(life, task, params, key)
            returns = returns.after(play.trajectory)
            return (life, returns), metrics | {"return": returns.mean}

        none = Returns.none(lifetime.student.config.n_envs)
        start = lifetime.begin(key_begin, task), none
        return jax.lax.scan(update, start, jax.random.split(key_live, n_updates))[1]

    levels = jax.tree.map(jnp.asarray, levels)
    n_levels = len(jax.tree.leaves(levels)[0])
    found = jax.lax.map(one, (jax.random.split(key, n_levels), levels), batch_size=8)
    return {name: values.mean(axis=0) for name, values in found.items()}
