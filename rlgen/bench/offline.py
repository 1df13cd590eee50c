"""Gradient steps a second of offline learners, and the limit they stand under.

Observations of 17 numbers, actions of 6, batches of 256, published widths, 100,000
steps of noise, everything in one scan with the data as an argument.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from rlgen import config as configs
from rlgen import registry
from rlgen.algos.offline.model_based import DYNAMICS
from rlgen.algos.offline.stages import AGENT
from rlgen.bench.measure import Case, Result, peak_memory_mib, program
from rlgen.env import Env
from rlgen.transitions import OfflineData, Transitions

PyTree = Any

OBS_SIZE, ACTION_SIZE, N_ROWS = 17, 6, 100_000
#: Learners, what they are set to beside their own settings, and how many gradient steps
#: one call of the scan makes.
LEARNERS: dict[str, tuple[dict[str, Any], int]] = {
    "bc": ({}, 2000),
    "td3-bc": ({}, 1000),
    "iql": ({}, 1000),
    "rebrac": ({}, 400),
    "cql": ({}, 50),
    "mopo": ({"n_rollouts": 10_000}, 400),
    "mobile": ({"n_rollouts": 10_000}, 50),
}
# The shape of most products: a batch through a hidden layer of two critics.
_SHAPE = (2, 256, 256, 256)


def noise(n_rows: int = N_ROWS) -> OfflineData:
    """A dataset without meaning, of the size that is measured."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return jnp.asarray(rng.normal(size=shape).astype(np.float32))

    n = n_rows
    counts = jnp.arange(n, dtype=jnp.int32)
    rows = Transitions(
        obs=normal(n, OBS_SIZE),
        action=jnp.tanh(normal(n, ACTION_SIZE)),
        reward=normal(n),
        next_obs=normal(n, OBS_SIZE),
        terminated=jnp.zeros(n, bool),
        truncated=counts % 1000 == 999,
        next_action=jnp.tanh(normal(n, ACTION_SIZE)),
        has_next_action=counts % 1000 != 999,
        return_to_go=normal(n),
        episode_id=counts // 1000,
        time=counts % 1000,
        level_id=jnp.zeros(n, jnp.int32),
    )
    return OfflineData(rows, counts[::1000], jnp.full(n // 1000, 1000, jnp.int32))


class _Spaces(Env):
    """An environment of which only the spaces are asked."""

    @property
    def observation_space(self):
        return gymnasium.spaces.Box(-np.inf, np.inf, (OBS_SIZE,), np.float32)

    @property
    def action_space(self):
        return gymnasium.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)

    @property
    def max_episode_steps(self):
        return 1000

    def reset(self, key, level):
        raise NotImplementedError

    def step(self, key, level, state, action):
        raise NotImplementedError

    def render(self, level, state):
        raise NotImplementedError


def product_rate(n_products: int, repeats: int) -> Result:
    """Rate of float32 products of the learners' commonest shape, in one scan."""
    n, a, b, c = _SHAPE
    x = jax.random.normal(jax.random.key(0), (n, a, b))
    w = jax.random.normal(jax.random.key(1), (n, b, c)) * b**-0.5

    def chain(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, length=n_products)[0]

    gflop = n_products * 2e-9 * n * a * b * c
    return program(chain, x, w, items=gflop, unit="GFLOP", repeats=repeats)


def gradient_steps(name: str, repeats: int) -> Result:
    """The rate of one learner at published widths; see `LEARNERS`.

    Model rollouts and dynamics training are not in it: the update alone, as the figures
    of others have it.
    """
    settings, n_steps = LEARNERS[name]
    entry = registry.load(registry.ALGORITHMS, name)
    values = dict(entry.settings) | settings | {"steps_per_update": n_steps}
    config = configs.override(entry.config, values, name)
    factory = entry.factory(config, _Spaces())
    agent = entry.agent_of(config, factory, 1000)
    stages = entry.model_stages(config, factory)
    encoder = entry.encoder(config, factory, stages)
    data = noise()
    sampler, _ = entry.sampler(config, _Spaces(), data)
    stage = entry.agent_stage(config, _Spaces(), agent, encoder, sampler, 1, stages)
    key = jax.random.key(0)
    states = {AGENT: stage.init(key, data), "encoder": encoder.init(data)}
    for stage_name, model in stages.items():
        states[stage_name] = model.init(key, data)
    own = states.pop(AGENT)
    if DYNAMICS in stages:
        own, learn = _without_rollouts(stage, own, states, data)
    else:
        learn = stage.update
    result = program(
        learn,
        own,
        states,
        data,
        key,
        items=n_steps,
        unit="gradient steps",
        repeats=repeats,
    )
    return result | {"peak_memory_mib": peak_memory_mib()}


def _without_rollouts(stage: Any, own: Any, states: PyTree, data: OfflineData):
    """A learner whose buffer is full of imagined steps, once and for all."""
    model = stage.model.best(states[DYNAMICS])
    key = jax.random.key(1)
    imagined = jax.jit(stage.imagine)(own.agent, model, states["encoder"], data, key)
    buffer = own.buffer.insert(imagined.rows)
    return own.replace(buffer=buffer), stage.learn


def cases(full: bool) -> list[Case]:
    """Every learner, after the products that most of their arithmetic is."""
    names = tuple(LEARNERS) if full else ("td3-bc", "iql")
    return [
        Case("offline", "products", "", 0, product_rate, (200,)),
        *(
            Case("offline", name, "", 0, gradient_steps, (name,), alone=True)
            for name in names
        ),
    ]
