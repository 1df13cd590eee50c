"""GROOVE: ended lives score their tasks by regret, and the buffer replays those."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from tiny import TINY_TASKS

from rlgen.algos.meta.meta_gradient import MetaGradient
from rlgen.env import take
from rlgen.errors import UserError
from rlgen.training import make_config

SMALL = TINY_TASKS | {
    "buffer_size": 16,
    "min_fill": 0.2,
    "n_agents": 8,
    "max_lifetime": 4,
    "n_inner": 2,
}


def build(**settings) -> MetaGradient:
    experiment = make_config("groove", "grid_tasks", "", SMALL | settings).build()
    assert isinstance(experiment, MetaGradient)
    return experiment


@functools.cache
def history(score="algorithmic_regret", second="l1", n_updates=12):
    """States before each update, with the metrics of the update."""
    experiment = build(score=score, second_score=second)
    state = jax.jit(experiment.init)(jax.random.key(0))
    update, rows = jax.jit(experiment.update), []
    for _ in range(n_updates):
        before = state
        state, metrics = update(state)
        rows.append((before, state, {k: float(v) for k, v in metrics.items()}))
    return experiment, rows


def ended(state):
    """Which agents' lives end in the next update (K = 2)."""
    lived = np.asarray(state.agents.lives.learner.n_updates) + 2
    return lived >= np.asarray(state.agents.batch.levels.lifetime)


def told(state):
    """Which of them are scored: the first lives are cut short, and are no task's."""
    shortest = 4  # of TINY_TASKS
    return ended(state) & (np.asarray(state.agents.batch.levels.lifetime) >= shortest)


def filled(state):
    buffer = state.curriculum.buffer
    size = int(buffer.size)
    return jax.tree.map(lambda x: np.asarray(x)[:size] if x.ndim else x, buffer)


def test_only_ended_lives_of_a_drawn_lifetime_enter_the_buffer():
    """Published code gave tasks that nobody had played a score of 0."""
    _, rows = history()
    known: set[bytes] = set()
    for before, after, _ in rows:
        batch = before.agents.batch
        told = ended(before) & (np.asarray(batch.levels.lifetime) >= 4)
        known |= {h.tobytes() for h in np.asarray(batch.hash)[told]}
        buffer = filled(after)
        assert {h.tobytes() for h in buffer.batch.hash} <= known
        assert np.all(buffer.n_episodes > 0)
        assert np.all(np.isfinite(buffer.score))
        assert np.all(buffer.batch.levels.lifetime == 4)
    assert len(filled(rows[-1][1]).score) > 4


def test_the_score_is_what_the_antagonist_earns_more():
    """Both lived on the same task, equally long, with as many rollouts."""
    experiment, rows = history()
    compared = 0
    for before, after, metrics in rows:
        is_ended, is_told = ended(before), told(before)
        if not is_told.any():
            assert np.isnan(metrics["life_score"])
        if not is_told.any() or (is_ended & ~is_told).any():
            continue
        regret = metrics["life_antagonist_return"] - metrics["life_return"]
        assert metrics["life_score"] == pytest.approx(regret, abs=1e-6)
        rivals = after.antagonists.learner.n_updates
        np.testing.assert_array_equal(rivals, after.agents.lives.learner.n_updates)
        compared += 1
    assert compared > 3
    # A2C agents, whose tables hold a value, not a prediction.
    assert experiment.antagonist.student.rule.n_values == 1


def test_lives_are_worth_what_their_last_policies_earn_from_a_fresh_start():
    """Lives of one update, in which no episode ends: a running total would be less.

    A rule of zeros and a rate of zero change nothing, so both policies are uniform.
    """
    episodes = {"n_envs": 256, "n_steps": 2, "min_steps": 6, "max_steps": 6}
    lives = {"n_inner": 1, "min_lifetime": 1, "max_lifetime": 1}
    experiment = build(**episodes, **lives, antagonist_lr=0.0)
    state = jax.jit(experiment.init)(jax.random.key(0))
    tasks = state.agents.batch.levels
    state = state.replace(rule=jax.tree.map(np.zeros_like, state.rule))
    _, metrics = jax.jit(experiment.update)(state)
    assert float(metrics["lives_ended"]) == 8

    @jax.jit
    @jax.vmap
    def newborn(key, task):
        life = experiment.lifetime.begin(key, task)
        return experiment.lifetime.evaluate(life, task, key, 4000).returns

    earned = np.asarray(newborn(jax.random.split(jax.random.key(1), 8), tasks))
    error = np.sqrt(earned.var(axis=1).sum() / 256) / 8
    for name in ("life_return", "life_antagonist_return"):
        assert abs(float(metrics[name]) - earned.mean()) < 4.5 * error, name
    assert abs(earned.mean()) > 4 * 4.5 * error
    regret = metrics["life_antagonist_return"] - metrics["life_return"]
    assert float(metrics["life_score"]) == pytest.approx(float(regret), abs=1e-6)


def test_tasks_are_replayed_from_the_buffer():
    _, rows = history()
    replayed = 0
    for before, after, _ in rows:
        reborn = ended(before) & (np.asarray(after.agents.role) == 1)
        hashes = np.asarray(after.agents.batch.hash)[reborn]
        held = {h.tobytes() for h in filled(after).batch.hash}
        assert {h.tobytes() for h in hashes} <= held
        replayed += len(hashes)
    assert replayed > 0


@pytest.mark.parametrize(
    "pair", [("true_regret", "l1"), ("pvl", "maxmc"), ("learnability", "mean_return")]
)
def test_every_score_to_compare_with_can_be_asked_for(pair):
    experiment, rows = history(*pair, n_updates=4)
    assert experiment.antagonist is None
    buffer = filled(rows[-1][1])
    assert len(buffer.score) > 0
    for name, found in zip(pair, (buffer.score, buffer.score2), strict=True):
        assert np.all(np.isfinite(found))
        if name in ("l1", "pvl"):
            assert np.all(found >= 0)
            assert found.max() > 0
        if name == "learnability":
            # Of the agent's four environments: k of them succeed.
            assert set(found) <= {np.float32(k / 4 * (1 - k / 4)) for k in range(5)}
            assert found.max() > 0


def test_regret_to_the_oracle_is_what_the_best_policy_earns_more():
    experiment, rows = history("true_regret", "l1")
    before, _, metrics = next(
        row
        for row in rows
        if told(row[0]).any() and not (ended(row[0]) & ~told(row[0])).any()
    )
    is_ended = np.flatnonzero(ended(before))
    tasks = take(before.agents.batch.levels, is_ended)
    best = jax.jit(jax.vmap(experiment.env.optimal_return))(tasks.level)
    regret = np.mean(best) - metrics["life_return"]
    assert metrics["life_score"] == pytest.approx(float(regret), abs=1e-5)


def test_steps_of_antagonists_and_of_episodes_at_the_end_of_lives_are_counted():
    """Of 8 agents that live 4 updates, 2 a meta-step, 4 end; episodes of 6 steps."""
    rollouts, episodes = 8 * 4 * 5, 4 * 4 * 6
    plain, groove = build(score="l1"), build()
    assert plain.env_steps_per_update == 3 * rollouts + episodes
    assert groove.env_steps_per_update == (3 + 2) * rollouts + 2 * episodes
    _, rows = history()
    assert np.mean([row[2]["lives_ended"] for row in rows[2:]]) == 4


def test_how_many_lives_end_in_a_meta_step():
    """By playing them through; lives of 2, 3 and 3 meta-steps."""
    experiment = build(max_lifetime=6, score="l1")
    rng, n = np.random.default_rng(0), 20_000
    lifetimes = np.exp(rng.uniform(np.log(4), np.log(7), n)).astype(int)
    expected = 8 * n / np.sum(np.ceil(lifetimes / 2))
    assert experiment.ends_per_update == pytest.approx(expected, rel=0.01)


def test_a_score_that_needs_an_oracle_needs_an_environment_with_one():
    with pytest.raises(UserError, match="has no oracle"):
        make_config(
            "groove", "minatar", "", {"score": "true_regret", "torso": "conv"}
        ).build()


def test_evolution_draws_tasks_uniformly():
    with pytest.raises(UserError, match="leave replay_prob at 0"):
        make_config("ta-lpg", settings=TINY_TASKS | {"replay_prob": 0.5})
