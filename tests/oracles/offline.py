"""Plain NumPy: networks and targets of offline learners, one number after another."""

from __future__ import annotations

import numpy as np


def mlp(layers, x, n_hidden, norm_eps=1e-5):
    """A perceptron with ReLU (and layer normalisation where it has a scale)."""
    x = np.asarray(x, np.float64)
    for i, layer in enumerate(layers):
        x = x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])
        if i < n_hidden:
            x = np.where(x > 0, x, 0)
            if "scale" in layer:
                deviation = np.sqrt(x.var(axis=-1, keepdims=True) + norm_eps)
                x = (x - x.mean(axis=-1, keepdims=True)) / deviation
                x = x * np.asarray(layer["scale"]) + np.asarray(layer["offset"])
    return x


def member(stacked, i):
    """Layers of one member of an ensemble."""
    return [{k: np.asarray(v)[i] for k, v in layer.items()} for layer in stacked]


def log_sum_exp(values):
    """Of a list, by its definition, with the largest taken out."""
    top = max(values)
    return top + np.log(sum(np.exp(v - top) for v in values))


def conservative_gap(sampled_q, log_density, data_q, temperature, importance):
    """CQL(H) for each critic and state on its own."""
    n_critics, n_sampled, n_states = sampled_q.shape
    out = np.zeros((n_critics, n_states))
    for i in range(n_critics):
        for b in range(n_states):
            terms = [
                sampled_q[i, m, b] / temperature
                - (log_density[m, b] if importance else 0.0)
                for m in range(n_sampled)
            ]
            if not importance:
                terms.append(data_q[i, b] / temperature)
            out[i, b] = temperature * log_sum_exp(terms) - data_q[i, b]
    return out


def slopes_alike(slopes):
    """Sum of cosines over ordered pairs of different critics / (N - 1), batch mean."""
    n_critics, n_states, _ = slopes.shape
    total = 0.0
    for b in range(n_states):
        for i in range(n_critics):
            for j in range(n_critics):
                if i != j:
                    u, v = slopes[i, b], slopes[j, b]
                    total += u @ v / (np.linalg.norm(u) * np.linalg.norm(v))
    return total / n_states / (n_critics - 1)


def returns_that_bound(reward, was_cut_off, discount, failing=None):
    """What Cal-QL holds values of one episode above, step by step.

    Nakamoto et al. 2023 and their code: sparse rewards have two values. An episode that
    only had the failing one is worth it for ever, at each of its steps; else nothing
    follows its end. Dense rewards (`failing` None) go on with the last one for ever, if
    time alone ended the episode.
    """
    if failing is not None and all(r == failing for r in reward):
        return [failing / (1 - discount)] * len(reward)
    value = 0.0
    if failing is None and was_cut_off:
        value = reward[-1] / (1 - discount)
    values = []
    for r in reversed(list(reward)):
        value = r + discount * value
        values.insert(0, value)
    return values


def layer_norm(x, layer, eps=1e-5):
    """Of one token."""
    x = (x - x.mean()) / np.sqrt(x.var() + eps)
    return x * np.asarray(layer["scale"], float) + np.asarray(layer["offset"], float)


def transformer(params, obs, to_go, action, n_heads):
    """Actions of a decision transformer at T steps, which are all that there were.

    Chen et al. 2021, figure 1, over the order (last action, return to go, observation),
    with the blocks of GPT-2: normalised before, GELU by its tangent. Token by token,
    each of which sees those before it and itself.
    """

    def dense(layer, x):
        return x @ np.asarray(layer["kernel"], float) + np.asarray(layer["bias"], float)

    n = len(obs)
    place = np.asarray(params["place"], float)[-n:]
    tokens = []
    for t in range(n):
        for name, x in (("action", action), ("to_go", to_go), ("obs", obs)):
            tokens.append(dense(params[name], x[t]) + place[t])
    for block in params["blocks"]:
        q, k, v = [], [], []
        for x in tokens:
            parts = np.split(dense(block["qkv"], layer_norm(x, block["norm_1"])), 3)
            for heads, part in zip((q, k, v), parts, strict=True):
                heads.append(np.split(part, n_heads))
        after = []
        for i, x in enumerate(tokens):
            mixed = []
            for h in range(n_heads):
                fits = [q[i][h] @ k[j][h] for j in range(i + 1)]
                weights = np.exp(np.array(fits) / np.sqrt(len(q[i][h])))
                weights /= weights.sum()
                mixed.append(sum(w * v[j][h] for j, w in enumerate(weights)))
            x = x + dense(block["out"], np.concatenate(mixed))
            up = dense(block["up"], layer_norm(x, block["norm_2"]))
            gelu = (
                0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
            )
            after.append(x + dense(block["down"], gelu))
        tokens = after
    return np.array(
        [dense(params["head"], layer_norm(x, params["norm"])) for x in tokens[2::3]]
    )
