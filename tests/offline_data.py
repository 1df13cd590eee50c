"""Small datasets that the tests of offline learning share."""

from __future__ import annotations

import numpy as np

from rlgen.transitions import Episode


def episodes_of(n, length, seed=0, obs_size=3, action_size=2, ends="truncated"):
    """Noise: nothing in it depends on anything else."""
    rng = np.random.default_rng(seed)
    last = np.arange(length) == length - 1
    return [
        Episode(
            observations=rng.normal(size=(length + 1, obs_size)).astype(np.float32),
            actions=np.tanh(rng.normal(size=(length, action_size))).astype(np.float32),
            rewards=rng.normal(size=length).astype(np.float32),
            terminations=last & (ends == "terminated"),
            truncations=last & (ends == "truncated"),
        )
        for _ in range(n)
    ]


#: A linear world: s' = A s + B a, reward c s, an end where the first number exceeds 1.
A = np.array([[0.9, 0.1], [0.0, 0.8]], np.float32)
B = np.array([[0.2], [0.3]], np.float32)


def linear_episodes(n, length, seed=0):
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(n):
        obs = [rng.uniform(-1, 1, 2).astype(np.float32)]
        actions = rng.uniform(-1, 1, (length, 1)).astype(np.float32)
        for t in range(length):
            obs.append(A @ obs[-1] + B @ actions[t])
            if obs[-1][0] > 1.0:
                break
        n_steps = len(obs) - 1
        over = np.array([o[0] > 1.0 for o in obs[1:]])
        last = np.arange(n_steps) == n_steps - 1
        episodes.append(
            Episode(
                observations=np.stack(obs),
                actions=actions[:n_steps],
                rewards=np.array([o.sum() for o in obs[:-1]], np.float32),
                terminations=over,
                truncations=last & ~over,
            )
        )
    return episodes
