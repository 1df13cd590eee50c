"""Advantages in plain NumPy, from the definition: sums over the rest of an episode."""

import numpy as np


def advantages(
    reward,
    value,
    terminated,
    truncated,
    last_value,
    final_value,
    discount,
    gae_lambda,
):
    """Sums discounted TD errors forwards from each step to the end of its episode.

    Quadratic in T, but no recursion that could share a mistake with the package.
    `final_value=None` counts a truncation as an ending.
    """
    n_steps, n_envs = reward.shape
    result = np.zeros((n_steps, n_envs))
    for env in range(n_envs):
        errors = []
        for t in range(n_steps):
            if terminated[t, env]:
                after = 0.0
            elif truncated[t, env]:
                after = 0.0 if final_value is None else final_value[t, env]
            elif t + 1 < n_steps:
                after = value[t + 1, env]
            else:
                after = last_value[env]
            errors.append(reward[t, env] + discount * after - value[t, env])
        for t in range(n_steps):
            weight = 1.0
            for u in range(t, n_steps):
                result[t, env] += weight * errors[u]
                if terminated[u, env] or truncated[u, env]:
                    break
                weight *= discount * gae_lambda
    return result
