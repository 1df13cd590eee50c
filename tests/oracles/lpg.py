"""LPG in plain NumPy and float64: the rule step by step, and agents that are tables."""

from __future__ import annotations

import jax
import numpy as np


def targets(params, rule_size, given, *, time_aware=False):
    """The definition, step by step from the last to the first, in float64.

    Args:
      params: of the rule.
      given: an `Experience`.

    Returns:
      policy targets [T, B] and log predictions [T, B, N].
    """
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    given = jax.tree.map(np.asarray, given)
    n_steps, n_envs = given.reward.shape

    def dense(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def read(y):
        hidden = np.maximum(dense(params["read"], y), 0)
        return dense(params["read_out"], hidden)[0]

    core = params["core"]
    policy = np.zeros((n_steps, n_envs))
    prediction = np.zeros((n_steps, n_envs, given.prediction.shape[-1]))
    for b in range(n_envs):
        h = np.zeros(rule_size)
        for t in reversed(range(n_steps)):
            done = bool(given.done[t, b])
            if done:
                h = np.zeros(rule_size)
            following = 0.0 if done else read(given.prediction[t + 1, b])
            x = [given.reward[t, b], float(done), given.probability[t, b]]
            x += [read(given.prediction[t, b]), following]
            if time_aware:
                x += [given.time / given.lifetime, np.log(given.lifetime)]
            xr, xu, xn = np.split(np.array(x) @ core["wi"] + core["b"], 3)
            hr, hu, hn = np.split(h @ core["wh"], 3)
            r, u = sigmoid(xr + hr), sigmoid(xu + hu)
            n = np.tanh(xn + r * (hn + core["bn"]))
            h = (1 - u) * n + u * h
            out = np.maximum(h, 0)
            policy[t, b] = dense(params["policy"], out)[0]
            logits = dense(params["prediction"], out)
            prediction[t, b] = logits - np.log(np.exp(logits).sum())
    return policy, prediction


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def table_step(
    table,
    n_actions,
    obs,
    action,
    policy,
    prediction,
    lr,
    coef,
    max_norm,
    *,
    separate=False,
    ratio=1.0,
):
    """One step of clipped SGD on Equation 2 of Oh et al. 2020, derivatives by hand.

    Args:
      separate: policy and prediction are clipped by norms of their own.
      ratio: of the prediction's learning rate to the policy's.
      table: float64[S, A + N], logits of policy and prediction.
      obs, action: int[T, B].
      policy, prediction: the rule's targets.

    Returns:
      the new table, and means over steps of: entropy of the policy, entropy of the
      prediction, squared policy target, squared prediction target.
    """
    gradient = np.zeros_like(table)
    sums = np.zeros(4)
    for t, b in np.ndindex(obs.shape):
        log_pi = log_softmax(table[obs[t, b], :n_actions])
        log_y = log_softmax(table[obs[t, b], n_actions:])
        pi, y, asked = np.exp(log_pi), np.exp(log_y), prediction[t, b]
        chosen = np.eye(n_actions)[action[t, b]]
        divergence = np.sum(y * (log_y - asked))
        row = gradient[obs[t, b]]
        row[:n_actions] -= (chosen - pi) * policy[t, b]
        row[n_actions:] += coef * y * (log_y - asked - divergence)
        sums += [
            -np.sum(pi * log_pi),
            -np.sum(y * log_y),
            policy[t, b] ** 2,
            np.sum(np.exp(asked) ** 2),
        ]
    gradient /= obs.size
    step = np.zeros_like(gradient)
    for part, rate in ((slice(n_actions), lr), (slice(n_actions, None), ratio * lr)):
        clipped = gradient[:, part] if separate else gradient
        norm = np.sqrt(np.sum(clipped**2))
        step[:, part] = rate * gradient[:, part] * min(1.0, max_norm / norm)
    return table - step, sums / obs.size
