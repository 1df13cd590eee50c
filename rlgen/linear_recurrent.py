"""A linear recurrent core: the LRU of Orvieto et al. 2023 (ICML), with resets.

    x[t] = keep[t] lambda x[t-1] + exp(gamma) B u[t],   y[t] = Re(C x[t]) + D u[t]

between a layer norm and a gated product, with u beside it. As x is linear in what came
before, all T steps can be taken in log T parallel sweeps (`associative_scan`), where an
LSTM takes T products one after another: on an accelerator, whose steps cost a launch
each, that is what counts. A reset is a factor of zero (Lu et al. 2023 for S5).

Letters: T time, B environments, D inputs, H units; the state has H complex numbers,
carried as real and imaginary parts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlgen import mlp

Params = dict[str, jax.Array]
LRUCarry = tuple[jax.Array, jax.Array]

# The ring in which eigenvalues begin, and their largest angle (Orvieto et al., 3.3:
# a narrow slice serves long memories).
_R_MIN, _R_MAX, _MAX_ANGLE = 0.9, 0.999, jnp.pi / 10


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product in the narrower of the two's types, summed and returned as float32."""
    narrow = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    a, b = a.astype(narrow), b.astype(narrow)
    if jax.default_backend() == "cpu":
        # Not every product of bfloat16 runs there; of rounded numbers it is the same.
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def initial_carry(batch_size: int, hidden_size: int) -> LRUCarry:
    """An empty memory: real and imaginary parts, float32[B, H] each."""
    zeros = jnp.zeros((batch_size, hidden_size), jnp.float32)
    return zeros, zeros


def init(key: jax.Array, input_size: int, hidden_size: int) -> Params:
    """Parameters, as Orvieto et al. draw them (their appendix A).

    Returns:
      wi float32[D, H]; nu, theta, gamma float32[H] (logarithms); b_re, b_im, c_re,
      c_im float32[H, H]; d float32[H]; scale, shift float32[H] of the layer norm; wg
      float32[H, H] and bg float32[H] of the gate.
    """
    keys = jax.random.split(key, 9)
    h = hidden_size
    lecun = jax.nn.initializers.lecun_normal()
    u, angle = jax.random.uniform(keys[0], (h,)), jax.random.uniform(keys[1], (h,))
    nu = jnp.log(-0.5 * jnp.log(u * (_R_MAX**2 - _R_MIN**2) + _R_MIN**2))
    theta = jnp.log(_MAX_ANGLE * angle + 1e-6)
    modulus = jnp.exp(-jnp.exp(nu))
    part = (2 * h) ** -0.5
    return {
        "wi": lecun(keys[2], (input_size, h), jnp.float32),
        "nu": nu,
        "theta": theta,
        "gamma": 0.5 * jnp.log(1 - modulus**2),
        "b_re": part * jax.random.normal(keys[3], (h, h)),
        "b_im": part * jax.random.normal(keys[4], (h, h)),
        "c_re": h**-0.5 * jax.random.normal(keys[5], (h, h)),
        "c_im": h**-0.5 * jax.random.normal(keys[6], (h, h)),
        "d": jax.random.normal(keys[7], (h,)),
        "scale": jnp.ones(h),
        "shift": jnp.zeros(h),
        "wg": lecun(keys[8], (h, h), jnp.float32),
        "bg": jnp.zeros(h),
    }


def _eigenvalues(params: Params) -> jax.Array:
    """Lambda, inside the unit circle whatever the parameters are. complex64[H]."""
    return jnp.exp(-jnp.exp(params["nu"]) + 1j * jnp.exp(params["theta"]))


def _read(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Inputs [..., D] to what passes beside the memory and what enters it."""
    beside = dot(x, params["wi"])
    return beside, mlp.layer_norm(beside, params["scale"], params["shift"], eps=1e-6)


def _drive(params: Params, u: jax.Array) -> jax.Array:
    """What an input adds to the state. complex64[..., H]."""
    gamma = jnp.exp(params["gamma"])
    re, im = dot(u, params["b_re"]), dot(u, params["b_im"])
    return jax.lax.complex(re * gamma, im * gamma)


def _write(
    params: Params, beside: jax.Array, u: jax.Array, state: jax.Array
) -> jax.Array:
    """Features [..., H] from the state."""
    # The real part of a complex product: two real ones.
    y = dot(state.real, params["c_re"]) - dot(state.imag, params["c_im"])
    y = jax.nn.gelu(y + params["d"] * u)
    return beside + y * jax.nn.sigmoid(dot(y, params["wg"]) + params["bg"])


def step(
    params: Params, carry: LRUCarry, x: jax.Array, reset: jax.Array
) -> tuple[LRUCarry, jax.Array]:
    """One step, for acting; see `run`.

    Args:
      carry: real and imaginary parts of the state, float32[B, H] each.
      x: float32[B, D].
      reset: bool[B], where to forget the state first.

    Returns:
      The carry after the step, and features float32[B, H].
    """
    beside, u = _read(params, x)
    before = jnp.where(reset[:, None], 0.0, jax.lax.complex(*carry))
    state = _eigenvalues(params) * before + _drive(params, u)
    return (state.real, state.imag), _write(params, beside, u, state)


def run(
    params: Params, carry: LRUCarry, x: jax.Array, reset: jax.Array
) -> tuple[LRUCarry, jax.Array]:
    """Runs the core over trajectories.

    Args:
      carry: state before the first step, float32[B, H] each.
      x: float32[T, B, D].
      reset: bool[T, B], where to forget the state before the step.

    Returns:
      The carry after the last step, and features float32[T, B, H].
    """
    beside, u = _read(params, x)
    factor = jnp.where(reset[:, :, None], 0.0, _eigenvalues(params))
    added = _drive(params, u)
    added = added.at[0].add(factor[0] * jax.lax.complex(*carry))

    # A CPU has no use for parallel steps, which read and write everything log T times.
    on_cpu = jax.default_backend() == "cpu"
    states = (one_after_another if on_cpu else all_at_once)(factor, added)
    last = states[-1]
    return (last.real, last.imag), _write(params, beside, u, states)


def all_at_once(factor: jax.Array, added: jax.Array) -> jax.Array:
    """States [T, ...] of x[t] = factor[t] x[t-1] + added[t], in log T sweeps."""

    def join(before, after):
        # Two stretches of steps in a row are one: x -> f2 (f1 x + a1) + a2.
        (f1, a1), (f2, a2) = before, after
        return f1 * f2, f2 * a1 + a2

    return jax.lax.associative_scan(join, (factor, added))[1]


def one_after_another(factor: jax.Array, added: jax.Array) -> jax.Array:
    """The same states, step by step."""

    def step(state, inputs):
        factor, added = inputs
        state = factor * state + added
        return state, state

    return jax.lax.scan(step, jnp.zeros_like(added[0]), (factor, added))[1]
