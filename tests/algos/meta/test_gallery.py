"""Pictures of rules: what they are drawn from is what the rules say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY_TASKS, without_lpg

from rlgen.algos.meta import gallery, lpg
from rlgen.algos.meta.lifetime import Lifetime
from rlgen.algos.meta.tasks import Task
from rlgen.env import take
from rlgen.training import make_config, run_training

LPG = lpg.LPGConfig(n_predictions=3, rule_size=4, embedding_size=2, time_aware=True)


def stacked(n=2):
    keys = jax.random.split(jax.random.key(0), n)
    return jax.jit(jax.vmap(lambda key: lpg.init(key, LPG)))(keys)


def test_the_rule_is_asked_about_the_reward_that_the_axis_names():
    params, reward = stacked(), np.array([-1.0, 0.5])
    asked = gallery._asker(LPG, params, 10.0, 1.0)(
        lambda x: gallery._paid(LPG, x, 2), reward
    )
    assert asked.shape == (2, 2)
    done = jnp.zeros((12, 1), bool).at[-1].set(True)
    given = lpg.Experience(
        reward=jnp.zeros((12, 1)).at[2].set(0.5),
        done=done,
        probability=jnp.full((12, 1), 0.2),
        prediction=jnp.full((13, 1, 3), 1 / 3),
        time=jnp.float32(10.0),
        lifetime=jnp.float32(10.0),
    )
    expected = jax.jit(lpg.targets, static_argnums=1)(take(params, 1), LPG, given)
    assert asked[1, 1] == pytest.approx(float(expected.policy[0, 0]), abs=1e-6)


def test_predictions_on_the_axis_are_probabilities():
    x = np.array([1 / 3, 0.8])
    _, prediction = gallery._foreseen(LPG, x, 1, 0)
    np.testing.assert_allclose(prediction[:, 0, 1], x, rtol=1e-6)
    np.testing.assert_allclose(prediction.sum(axis=-1), 1.0, rtol=1e-6)


def test_lives_are_those_that_the_evaluation_has():
    experiment = make_config("lpg", settings=TINY_TASKS | {"n_inner": 2}).build()
    lifetime: Lifetime = experiment.lifetime
    rule = jax.jit(lifetime.student.rule.init)(jax.random.key(1))
    level = experiment.eval_sets["heldout"][0]
    levels = jax.tree.map(lambda x: np.asarray(x)[None], level)
    found = jax.jit(lambda key: gallery.lives(lifetime, rule, levels, 5, key))(
        jax.random.key(2)
    )
    assert {"entropy", "grad_norm", "return", "policy_target_square"} <= found.keys()
    task = Task(level, jnp.int32(5))
    key_begin, key_live = jax.random.split(jax.random.split(jax.random.key(2), 1)[0])
    life = jax.jit(lifetime.begin)(key_begin, task)
    advance = jax.jit(lifetime.advance)
    for i, key in enumerate(jax.random.split(key_live, 5)):
        life, _, metrics = advance(life, task, rule, key)
        assert float(found["entropy"][i]) == pytest.approx(
            float(metrics["entropy"]), rel=1e-5
        )


@pytest.mark.parametrize(
    ("algorithm", "files"),
    [
        ("groove", {"policy_target.png", "curriculum.png"}),
        ("ta-lpg", {"policy_target.png"}),
        ("ta-lpo", {"drift.png"}),
    ],
)
def test_every_run_leaves_pictures_of_its_rule(algorithm, files, tmp_path):
    settings = TINY_TASKS | {
        "n_updates": 4,
        "log_every": 4,
        "min_lifetime": 4,
        "max_lifetime": 4,
        "progress": False,
        "run_dir": str(tmp_path),
    }
    if algorithm == "ta-lpo":
        settings = without_lpg(settings) | {"drift_size": 4}
    if algorithm == "groove":
        settings |= {"n_inner": 2, "min_fill": 0.01, "buffer_size": 8}
    store = run_training(make_config(algorithm, settings=settings))
    drawn = {path.name for path in store.figures_dir.iterdir()}
    assert files | {"curves.png", "heldout.png", "lives.png"} <= drawn
    assert all(p.stat().st_size > 3000 for p in store.figures_dir.iterdir())
    assert (store.path / "rule-0.npz").exists()
