"""What the tests of reset-free practice share."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from offline_data import episodes_of

from rlgen import datasets
from rlgen.algos.offline.classifier import (
    ClassifierConfig,
    classifier_stages,
    with_examples,
)
from rlgen.algos.offline.functions import Factory, NetsConfig
from rlgen.algos.offline.judged import Practising, PractisingConfig
from rlgen.envs.tabletop import Tabletop, demonstrations
from rlgen.transitions import from_episodes

KEY = jax.random.key(0)
DISCOUNT = 0.9


def task_episodes(n=10, seed=0):
    """Noise on 4 levels, of which 2 and 3 are the target: demonstrations, failures."""
    episodes = []
    for level in range(4):
        for i, episode in enumerate(episodes_of(2 * n, 6, seed=seed + level)):
            rewards = np.zeros(6, np.float32)
            succeeds = i < n
            rewards[-1] = succeeds
            last = np.arange(6) == 5
            episodes.append(
                dataclasses.replace(
                    episode,
                    rewards=rewards,
                    terminations=last & succeeds,
                    truncations=last & (not succeeds),
                    level_id=level,
                )
            )
    return episodes


def record_table(path):
    """A dataset of a few demonstrations on a table, with time enough to succeed."""
    env = Tabletop()
    amounts = demonstrations.Amounts(n_prior=2, n_failures=10)
    episodes, level_set = demonstrations.record(env, KEY, amounts)
    return datasets.save(
        path,
        episodes,
        name="tabletop/few-v0",
        observation_space=env.observation_space,
        action_space=env.action_space,
        level_set=level_set,
        about={"environment": "tabletop", "settings": {"max_steps": 40}},
        tests=demonstrations.target_sets(level_set),
    )


@functools.cache
def examples():
    return with_examples(from_episodes(task_episodes()), [2, 3])


SMALL = ClassifierConfig(
    classifier_updates=1,
    adapt_updates=1,
    classifier_layers=1,
    classifier_units=16,
    classifier_batch_size=16,
    max_false_positives=0.07,
)


def taught(config, has_prior=True, data=None):
    """The stages of a classifier and their states after a few steps each."""
    data = jax.tree.map(jnp.asarray, data or examples())
    stages = classifier_stages(config, has_prior, (0, 2), 30, data)
    states, metrics = {}, {}
    for i, (name, stage) in enumerate(stages.items()):
        key_init, key_update = jax.random.split(jax.random.fold_in(KEY, i))
        state = stage.init(key_init, data)
        update = jax.jit(stage.update)
        states[name], new = update(state, states, data, key_update)
        metrics |= jax.device_get(new)
    return stages, states, metrics


@functools.cache
def small():
    return taught(SMALL)


def plain_returns(success, last, discount):
    """Costs of 1 until the first success of the attempt, for ever if there is none."""
    out = np.zeros(len(success))
    for t in range(len(success)):
        end = t + int(np.argmax(last[t:]))
        hits = np.flatnonzero(success[t : end + 1])
        if len(hits):
            out[t] = -sum(discount**k for k in range(hits[0]))
        else:
            out[t] = -1.0 / (1.0 - discount)
    return out


def agent_of(**settings):
    sizes = {"actor_layers": 1, "critic_layers": 1, "actor_units": 8, "critic_units": 8}
    config = PractisingConfig(
        **{
            "batch_size": 8,
            "discount": DISCOUNT,
            "cql_weight": 1.0,
            "cql_actions": 1,
            "calibrated": True,
            "bc_weight": 2.0,
        }
        | settings
    )
    return Practising(Factory(NetsConfig(**sizes), 2, 1), config)
