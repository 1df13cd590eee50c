"""Recurrent cores over whole trajectories, and one step of them for acting.

`CORES` are all of them by name: LSTM and GRU, which are here, and the linear recurrent
unit of `rlgen.linear_recurrent`.

LSTM: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.
GRU: Cho et al. 2014, with the reset gate after the hidden product (as in cuDNN).

Letters: T time, B environments, D inputs, H hidden units. A carry is zeroed *before*
the step whose `reset` is set, so one array holds several episodes after one another.

Both sequence functions carry their own derivative, because backpropagation through
time as JAX derives it spends most of its time outside the matrix products. Exactly
the same sums are taken in another order:

* The recursion backwards is linear in the incoming gradient, so every factor of it
  that the forward pass fixes is computed outside the loop, for `_BLOCK` steps at once
  (large enough to use all cores, small enough to stay in the cache). What is left in
  the loop is two or three multiplications and one product with the hidden weights.
* The gradients of weights and inputs are products over a whole block of steps.
* The LSTM's loops run transposed, [H, B]: gates are then contiguous, which a CPU
  vectorises, and the slim array, not the weights, is the one that a matrix product
  may repack at each step. A GRU is too small for that to pay.
* The inputs' product stays inside the loop. Taking it out costs more than it saves
  on a CPU: its result, as large as all gates, comes back from memory step by step.
  Only very wide inputs (`_WIDE`) are an exception.

Weights may be bfloat16: products are then taken in it and summed as float32, and all
else stays float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rlgen import linear_recurrent
from rlgen.linear_recurrent import dot

Params = dict[str, jax.Array]
LSTMCarry = tuple[jax.Array, jax.Array]

_BLOCK = 16
# Inputs wider than this are multiplied for all steps at once: their weights outgrow the
# cache, and reading them at every step would cost more than the product does.
_WIDE = 4096

# sigmoid(z) = (1 + tanh(z / 2)) / 2 lets one tanh serve all four gates (i, f, g, o).
_LSTM_SCALE = (0.5, 0.5, 1.0, 0.5)


def _init_weights(
    key: jax.Array, input_size: int, hidden_size: int, n_gates: int
) -> Params:
    key_input, key_hidden = jax.random.split(key)
    orthogonal = jax.nn.initializers.orthogonal()
    hidden = [
        orthogonal(k, (hidden_size, hidden_size), jnp.float32)
        for k in jax.random.split(key_hidden, n_gates)
    ]
    width = n_gates * hidden_size
    lecun_normal = jax.nn.initializers.lecun_normal()
    return {
        "wi": lecun_normal(key_input, (input_size, width), jnp.float32),
        "wh": jnp.concatenate(hidden, axis=1),
        "b": jnp.zeros((width,), jnp.float32),
    }


def _reverse_blocks(
    block: Callable[[Any, Any], tuple[Any, jax.Array]], state: Any, inputs: Any
) -> tuple[Any, jax.Array]:
    """Scans backwards over blocks of `_BLOCK` steps; a ragged tail is a block too.

    Args:
      block: maps a state and inputs [n, ...] to the state before them and [n, ...].
      state: what the last block starts from.
      inputs: arrays [T, ...].

    Returns:
      The state before the first step, and the blocks' outputs joined to [T, ...].
    """
    n_steps = jax.tree.leaves(inputs)[0].shape[0]
    # A block and a short tail would be two programs where one will do.
    whole = n_steps - n_steps % _BLOCK if n_steps >= 2 * _BLOCK else 0
    parts = []
    if whole < n_steps:
        state, out = block(state, jax.tree.map(lambda a: a[whole:], inputs))
        parts.append(out)
    if whole:
        blocks = jax.tree.map(
            lambda a: a[:whole].reshape(-1, _BLOCK, *a.shape[1:]), inputs
        )
        state, out = lax.scan(block, state, blocks, reverse=True)
        parts.insert(0, out.reshape(whole, *out.shape[2:]))
    return state, jnp.concatenate(parts) if len(parts) > 1 else parts[0]


# ---------------------------------------------------------------------------- LSTM


def _project_wide(params: Params, x: jax.Array) -> tuple[Params, jax.Array]:
    """Takes the product with wide inputs out of the loop; the identity stays in it."""
    if x.shape[-1] <= _WIDE:
        return params, x
    wi = params["wi"]
    return params | {"wi": jnp.eye(wi.shape[1], dtype=wi.dtype)}, dot(x, wi)


def lstm_init(key: jax.Array, input_size: int, hidden_size: int) -> Params:
    """Parameters of an LSTM, gates in the order input, forget, candidate, output.

    The distributions are those of flax's `OptimizedLSTMCell`.

    Returns:
      wi float32[D, 4H] (LeCun normal), wh float32[H, 4H] (orthogonal for each gate),
      b float32[4H] (zeros).
    """
    return _init_weights(key, input_size, hidden_size, n_gates=4)


def lstm_step(
    params: Params, carry: LSTMCarry, x: jax.Array, reset: jax.Array
) -> tuple[LSTMCarry, jax.Array]:
    """One step, for acting; see `lstm`.

    Args:
      params: from `lstm_init`.
      carry: (c, h), float32[B, H] each.
      x: float32[B, D].
      reset: bool[B], where to forget the carry first.

    Returns:
      The carry after the step, and h float32[B, H].
    """
    keep = ~reset[:, None]
    c, h = (jnp.where(keep, a, 0.0) for a in carry)
    z = dot(x, params["wi"]) + dot(h, params["wh"]) + params["b"]
    i, f, g, o = jnp.split(z, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (c, h), h


def lstm(
    params: Params, carry: LSTMCarry, x: jax.Array, reset: jax.Array
) -> tuple[LSTMCarry, jax.Array]:
    """Runs an LSTM (Hochreiter & Schmidhuber 1997) over trajectories.

    c' = sigmoid(f) * c + sigmoid(i) * tanh(g) and h' = sigmoid(o) * tanh(c'), where
    (i, f, g, o) = x wi + h wh + b. Differentiable in everything but `reset`.

    Args:
      params: from `lstm_init`.
      carry: (c, h) before the first step, float32[B, H] each.
      x: float32[T, B, D].
      reset: bool[T, B], where to forget the carry before the step.

    Returns:
      The carry after the last step, and h of all steps, float32[T, B, H].
    """
    keep = 1.0 - reset.astype(x.dtype)
    c, h = carry
    params, x = _project_wide(params, x)
    return _lstm(params["wi"], params["wh"], params["b"], c, h, x, keep)


def _lstm_gates(t: jax.Array) -> tuple[jax.Array, ...]:
    """Splits tanh of the scaled sums, [..., 4H, B], into i, f, g, o, [..., H, B]."""
    i, f, g, o = jnp.split(t, 4, axis=-2)
    return 0.5 * i + 0.5, 0.5 * f + 0.5, g, 0.5 * o + 0.5


def _lstm_forward(wi, wh, b, c, h, x, keep, save):
    scale = jnp.repeat(jnp.array(_LSTM_SCALE, x.dtype), wh.shape[0])
    # One product with [x; h] is cheaper than a product with each: a step is short.
    w = (jnp.concatenate([wi, wh]) * scale.astype(wi.dtype)).T
    b = (b * scale)[:, None]

    def step(carry, inputs):
        c, h = carry
        x, keep = inputs
        c, h = c * keep, h * keep
        t = jnp.tanh(dot(w, jnp.concatenate([x.T, h])) + b)
        i, f, g, o = _lstm_gates(t)
        new_c = f * c + i * g
        new_h = o * jnp.tanh(new_c)
        return (new_c, new_h), ((new_h, t, c) if save else (new_h,))

    (c, h), (hs, *saved) = lax.scan(step, (c.T, h.T), (x, keep[:, None, :]))
    return ((c.T, h.T), hs.transpose(0, 2, 1)), saved


@jax.custom_vjp
def _lstm(wi, wh, b, c, h, x, keep):
    return _lstm_forward(wi, wh, b, c, h, x, keep, save=False)[0]


def _lstm_fwd(wi, wh, b, c, h, x, keep):
    out, (t, c_before) = _lstm_forward(wi, wh, b, c, h, x, keep, save=True)
    return out, (wi, wh, h, x, keep, out[1], t, c_before)


def _lstm_bwd(residuals, cotangents):
    wi, wh, h, x, keep, hs, t, c_before = residuals
    (dc, dh), dhs = cotangents
    n_inputs, width = wi.shape
    n_envs, n_hidden = h.shape
    h_before = jnp.concatenate([h[None], hs[:-1]]) * keep[:, :, None]

    def step(carry, inputs):
        dc, dh = carry
        dh_here, from_c, from_h, h_to_c, c_to_c, keep = inputs
        dh = dh + dh_here
        dc = dc + dh * h_to_c
        dz = jnp.concatenate([(from_c * dc).reshape(3 * n_hidden, n_envs), from_h * dh])
        return (dc * c_to_c, dot(wh, dz) * keep), dz

    def block(state, inputs):
        carry, dw, db = state
        dhs, t, c, x, h, keep = inputs
        i, f, g, o = _lstm_gates(t)
        tanh_c = jnp.tanh(f * c + i * g)
        # How the sums z of the gates move c' (through i, f, g) and h' (through o).
        from_c = jnp.stack([g * i * (1 - i), c * f * (1 - f), i * (1 - g * g)], 1)
        from_h = tanh_c * o * (1 - o)
        keep = keep[:, None, :]
        inputs = (dhs, from_c, from_h, o * (1 - tanh_c * tanh_c), f * keep, keep)
        carry, dz = lax.scan(step, carry, inputs, reverse=True)
        # The steps of the block become columns of one matrix.
        dz = dz.transpose(1, 0, 2).reshape(width, -1)
        xh = jnp.concatenate([x, h], -1).reshape(-1, n_inputs + n_hidden)
        dx = dot(wi, dz).reshape(n_inputs, -1, n_envs).transpose(1, 2, 0)
        # In the type of the weights: what goes into a product is as wide as they are.
        dw = dw + dot(dz.astype(wi.dtype), xh)
        return (carry, dw, db + dz.sum(1)), dx

    zeros = jnp.zeros((width, n_inputs + n_hidden), x.dtype)
    state = ((dc.T, dh.T), zeros, zeros[:, 0])
    inputs = (dhs.transpose(0, 2, 1), t, c_before, x, h_before, keep)
    ((dc, dh), dw, db), dx = _reverse_blocks(block, state, inputs)
    dw = dw.T.astype(wi.dtype)
    return dw[:n_inputs], dw[n_inputs:], db, dc.T, dh.T, dx, None


_lstm.defvjp(_lstm_fwd, _lstm_bwd)


# ----------------------------------------------------------------------------- GRU


def gru_init(key: jax.Array, input_size: int, hidden_size: int) -> Params:
    """Parameters of a GRU, gates in the order reset, update, candidate.

    The distributions are those of flax's `GRUCell`.

    Returns:
      wi float32[D, 3H] (LeCun normal), wh float32[H, 3H] (orthogonal for each gate),
      b float32[3H] and bn float32[H], the bias inside the reset gate (zeros).
    """
    params = _init_weights(key, input_size, hidden_size, n_gates=3)
    return params | {"bn": jnp.zeros((hidden_size,), jnp.float32)}


def gru_step(
    params: Params, carry: jax.Array, x: jax.Array, reset: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One step, for acting; see `gru`.

    Args:
      params: from `gru_init`.
      carry: h, float32[B, H].
      x: float32[B, D].
      reset: bool[B], where to forget the carry first.

    Returns:
      The carry after the step, and h float32[B, H] (the same array).
    """
    h = jnp.where(reset[:, None], 0.0, carry)
    wi, wh, b, bn = (params[name] for name in ("wi", "wh", "b", "bn"))
    h, _ = _gru_cell(wi, wh, b, bn, h, x)
    return h, h


def gru(
    params: Params, carry: jax.Array, x: jax.Array, reset: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Runs a GRU (Cho et al. 2014) over trajectories.

    r, u = sigmoid(x wi + h wh + b) and n = tanh(x wi + b + r * (h wh + bn)), each with
    its own columns; h' = (1 - u) * n + u * h. Differentiable in all but `reset`.

    Args:
      params: from `gru_init`.
      carry: h before the first step, float32[B, H].
      x: float32[T, B, D].
      reset: bool[T, B], where to forget the carry before the step.

    Returns:
      The carry after the last step, and h of all steps, float32[T, B, H].
    """
    keep = 1.0 - reset.astype(x.dtype)
    params, x = _project_wide(params, x)
    wi, wh, b, bn = (params[name] for name in ("wi", "wh", "b", "bn"))
    return _gru(wi, wh, b, bn, carry, x, keep)


def _gru_cell(wi, wh, b, bn, h, x):
    """One step, and what its derivative needs."""
    xr, xu, xn = jnp.split(dot(x, wi) + b, 3, axis=-1)
    hr, hu, hn = jnp.split(dot(h, wh), 3, axis=-1)
    r, u = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xu + hu)
    hn = hn + bn
    n = jnp.tanh(xn + r * hn)
    return n + u * (h - n), (r, u, hn, n)


def _gru_forward(wi, wh, b, bn, h, x, keep, save):
    def step(h, inputs):
        x, keep = inputs
        h, saved = _gru_cell(wi, wh, b, bn, h * keep, x)
        return h, ((h, *saved) if save else (h,))

    h, (hs, *saved) = lax.scan(step, h, (x, keep[:, :, None]))
    return (h, hs), saved


@jax.custom_vjp
def _gru(wi, wh, b, bn, h, x, keep):
    return _gru_forward(wi, wh, b, bn, h, x, keep, save=False)[0]


def _gru_fwd(wi, wh, b, bn, h, x, keep):
    out, saved = _gru_forward(wi, wh, b, bn, h, x, keep, save=True)
    return out, (wi, wh, h, x, keep, out[1], *saved)


def _gru_bwd(residuals, cotangents):
    wi, wh, h, x, keep, hs, *saved = residuals
    dh, dhs = cotangents
    n_inputs, width = wi.shape
    n_hidden = h.shape[-1]
    h_before = jnp.concatenate([h[None], hs[:-1]]) * keep[:, :, None]
    wh_t = wh.T

    def step(dh, inputs):
        dh_here, from_h, h_to_h, keep = inputs
        dh = dh + dh_here
        dz = from_h * jnp.concatenate([dh, dh, dh], -1)
        return (dh * h_to_h + dot(dz, wh_t)) * keep, dh

    def block(state, inputs):
        dh, dwi, dwh, db, dbn = state
        dhs, r, u, hn, n, x, h, keep = inputs
        # How the sums move h': the candidate's input share, then (r, u, hidden share).
        from_x = (1 - u) * (1 - n * n)
        from_h = jnp.concatenate(
            [from_x * hn * r * (1 - r), (h - n) * u * (1 - u), from_x * r], -1
        )
        inputs = (dhs, from_h, u, keep[:, :, None])
        dh, dh_all = lax.scan(step, dh, inputs, reverse=True)
        # Cheaper to multiply again for the whole block than to write dz at each step.
        dz = from_h * jnp.concatenate([dh_all, dh_all, dh_all], -1)
        dz_x = jnp.concatenate([dz[..., : 2 * n_hidden], from_x * dh_all], -1)
        dz, dz_x = dz.reshape(-1, width), dz_x.reshape(-1, width)
        dwi = dwi + dot(x.reshape(-1, n_inputs).T.astype(wi.dtype), dz_x)
        dwh = dwh + dot(h.reshape(-1, n_hidden).T.astype(wh.dtype), dz)
        db, dbn = db + dz_x.sum(0), dbn + dz[:, 2 * n_hidden :].sum(0)
        return (dh, dwi, dwh, db, dbn), dot(dz_x, wi.T).reshape(x.shape)

    zeros = [jnp.zeros(shape) for shape in (wi.shape, wh.shape, width, n_hidden)]
    state = (dh, *zeros)
    inputs = (dhs, *saved, x, h_before, keep)
    (dh, dwi, dwh, db, dbn), dx = _reverse_blocks(block, state, inputs)
    return dwi.astype(wi.dtype), dwh.astype(wh.dtype), db, dbn, dh, dx, None


_gru.defvjp(_gru_fwd, _gru_bwd)


# --------------------------------------------------------------------------- cores


def _empty_lstm(batch_size: int, hidden_size: int) -> LSTMCarry:
    zeros = _empty_gru(batch_size, hidden_size)
    return zeros, zeros


def _empty_gru(batch_size: int, hidden_size: int) -> jax.Array:
    return jnp.zeros((batch_size, hidden_size), jnp.float32)


class Core(NamedTuple):
    """A recurrent core.

    Attributes:
      init: key, D and H to parameters.
      initial_carry: B and H to an empty memory, float32[B, H] or several of them.
      step: parameters, carry, x [B, D] and reset bool[B] to carry and features [B, H].
      run: the same of all steps: x [T, B, D] and reset bool[T, B] to features
        [T, B, H].
    """

    init: Callable[[jax.Array, int, int], Params]
    initial_carry: Callable[[int, int], Any]
    step: Callable[[Params, Any, jax.Array, jax.Array], tuple[Any, jax.Array]]
    run: Callable[[Params, Any, jax.Array, jax.Array], tuple[Any, jax.Array]]


CORES = {
    "lstm": Core(lstm_init, _empty_lstm, lstm_step, lstm),
    "gru": Core(gru_init, _empty_gru, gru_step, gru),
    "lru": Core(
        linear_recurrent.init,
        linear_recurrent.initial_carry,
        linear_recurrent.step,
        linear_recurrent.run,
    ),
}
