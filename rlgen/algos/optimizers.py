"""Optimizers of agents, such that one can also differentiate through their steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlgen.errors import UserError

PyTree = Any

OPTIMIZERS = ("adam", "sgd")
_B1, _B2 = 0.9, 0.999


def check(name: str) -> None:
    """Raises `UserError` if there is no such optimizer."""
    if name not in OPTIMIZERS:
        raise UserError(f"Unknown optimizer {name!r}: choose {', '.join(OPTIMIZERS)}.")


def make(
    name: str,
    max_grad_norm: jax.Array | float,
    adam_eps: jax.Array | float,
    *,
    differentiable: bool = False,
    apart: PyTree = None,
) -> optax.GradientTransformation:
    """Clips by the global norm, then Adam or nothing; the learning rate is not in it.

    All parameters are one vector to it: leaf by leaf, Adam was a sixth of a small
    program, and on an accelerator each leaf would be launches of its own.

    Args:
      differentiable: the same numbers, with derivatives that stay finite: of the
        clipping where gradients are zero, and of Adam where its second moment is
        (which is held constant, as in DiscoRL, Oh et al. 2025).
      apart: bool, of the structure of the parameters, broadcast against them: what is
        marked is clipped by a norm of its own, and so is the rest, as by two
        optimizers.
    """
    if differentiable:
        clip, adam = _clip(max_grad_norm), _adam(adam_eps)
    else:
        clip = optax.clip_by_global_norm(max_grad_norm)
        adam = optax.scale_by_adam(_B1, _B2, eps=adam_eps)
    if name != "adam":
        adam = optax.identity()
    if apart is None:
        return optax.flatten(optax.chain(clip, adam))
    # What is marked may be a part of a leaf, which has no place in one vector.
    return optax.chain(_by_parts(clip, apart), optax.flatten(adam))


def _by_parts(
    clip: optax.GradientTransformation, apart: PyTree
) -> optax.GradientTransformation:
    """Clips what is marked, and the rest."""

    def update(updates, state, params=None):
        marked = jax.tree.map(lambda u, own: jnp.where(own, u, 0.0), updates, apart)
        rest = jax.tree.map(lambda u, own: jnp.where(own, 0.0, u), updates, apart)
        parts = (clip.update(part, state, params)[0] for part in (marked, rest))
        return jax.tree.map(jnp.add, *parts), state

    return optax.GradientTransformation(clip.init, update)


def _clip(max_norm) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        del params
        square = sum(jnp.sum(jnp.square(u)) for u in jax.tree.leaves(updates))
        is_long = square > max_norm**2
        # The root's derivative at zero is infinite: there it must not be asked for.
        scale = jnp.where(
            is_long, max_norm * jax.lax.rsqrt(jnp.where(is_long, square, 1.0)), 1.0
        )
        return jax.tree.map(lambda u: u * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _adam(eps) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(_B1, _B2, eps=eps)

    def update(updates, state, params=None):
        del params
        new: Any = adam.update(jax.lax.stop_gradient(updates), state)[1]
        mu = optax.tree_utils.tree_update_moment(updates, state.mu, _B1, 1)
        mu_hat = optax.tree_utils.tree_bias_correction(mu, _B1, new.count)
        nu = jax.lax.stop_gradient(new.nu)
        nu_hat = optax.tree_utils.tree_bias_correction(nu, _B2, new.count)
        steps = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu_hat, nu_hat)
        return steps, new._replace(mu=mu, nu=nu)

    return optax.GradientTransformation(adam.init, update)
