"""The rule of LPG against a plain loop, and what it must and must not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import lpg as oracle

from rlgen.algos.meta import lpg
from rlgen.algos.meta.lpg import Experience, LPGConfig
from rlgen.errors import UserError

CONFIG = LPGConfig(n_predictions=3, embedding_size=4, rule_size=5)
TIMED = LPGConfig(n_predictions=3, embedding_size=4, rule_size=5, time_aware=True)
N_STEPS, N_ENVS = 7, 2


def experience(seed=0, **changes):
    rng = np.random.default_rng(seed)
    done = np.zeros((N_STEPS, N_ENVS), bool)
    done[2, 0] = done[5, 1] = True
    logits = rng.standard_normal((N_STEPS + 1, N_ENVS, 3))
    leaves = {
        "reward": rng.standard_normal((N_STEPS, N_ENVS)),
        "done": done,
        "probability": rng.uniform(0.1, 0.9, (N_STEPS, N_ENVS)),
        "prediction": np.asarray(jax.nn.softmax(logits)),
        "time": np.float32(30.0),
        "lifetime": np.float32(120.0),
    }
    leaves |= changes
    return jax.tree.map(
        lambda x: jnp.asarray(x) if x.dtype == bool else jnp.float32(x),
        Experience(**leaves),
    )


@pytest.fixture(scope="module")
def params():
    params = lpg.init(jax.random.key(0), CONFIG)
    # Biases that are not zero, so that a forgotten one shows.
    return jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params
    )


@pytest.mark.parametrize("config", [CONFIG, TIMED])
def test_targets_equal_a_plain_loop(config):
    params = lpg.init(jax.random.key(1), config)
    found = lpg.targets(params, config, experience())
    policy, prediction = oracle.targets(
        params, config.rule_size, experience(), time_aware=config.time_aware
    )
    np.testing.assert_allclose(found.policy, policy, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.prediction, prediction, rtol=1e-4, atol=1e-5)


def test_the_published_rule_has_its_number_of_parameters():
    params = lpg.init(jax.random.key(0), LPGConfig())
    assert sum(x.size for x in jax.tree.leaves(params)) == 203_946


def test_a_step_hears_only_of_the_rest_of_its_episode(params):
    base = lpg.targets(params, CONFIG, experience()).policy
    reward = np.array(experience().reward)
    for t in range(N_STEPS):
        changed = reward.copy()
        changed[t] += 1.0
        found = lpg.targets(params, CONFIG, experience(reward=changed)).policy
        moved = np.asarray(found != base)
        for b, end in ((0, 2), (1, 5)):
            hears = [s <= t and (s > end or t <= end) for s in range(N_STEPS)]
            assert moved[:, b].tolist() == hears, (t, b)


def test_what_follows_the_end_of_an_episode_is_not_read(params):
    given = experience()
    prediction = np.array(given.prediction)
    prediction[3, 0] = [0.0, 0.0, 1.0]  # of the state after the end at step 2
    found = lpg.targets(params, CONFIG, experience(prediction=prediction))
    base = lpg.targets(params, CONFIG, given)
    np.testing.assert_array_equal(found.policy[:3, 0], base.policy[:3, 0])
    assert np.all(np.asarray(found.policy[3, 0]) != np.asarray(base.policy[3, 0]))


def test_time_is_the_share_of_the_lifetime_and_its_logarithm():
    params = lpg.init(jax.random.key(1), TIMED)

    def policy(time, lifetime):
        times = {"time": np.float32(time), "lifetime": np.float32(lifetime)}
        return np.asarray(lpg.targets(params, TIMED, experience(**times)).policy)

    assert np.abs(policy(30, 120) - policy(60, 120)).max() > 1e-3
    assert np.abs(policy(30, 120) - policy(60, 240)).max() > 1e-3
    # The core's rows for time: with the logarithm's row at zero only the share counts.
    params["core"]["wi"] = params["core"]["wi"].at[6].set(0.0)
    np.testing.assert_allclose(policy(30, 120), policy(60, 240), rtol=1e-6)


def test_the_loss_raises_what_the_rule_wants_and_moves_the_prediction():
    targets = lpg.Targets(
        policy=jnp.array([[2.0], [-1.0]]),
        prediction=jnp.log(jnp.array([[[0.7, 0.2, 0.1]], [[0.1, 0.1, 0.8]]])),
    )
    log_y = jnp.log(jnp.array([[[0.5, 0.25, 0.25]], [[0.2, 0.3, 0.5]]]))
    log_prob = jnp.log(jnp.array([[0.3], [0.6]]))
    slope = jax.grad(lpg.agent_loss)(log_prob, log_y, targets)
    np.testing.assert_allclose(slope, [[-1.0], [0.5]])  # over two steps
    kl = [
        0.5 * np.log(0.5 / 0.7) + 0.25 * np.log(0.25 / 0.2) + 0.25 * np.log(0.25 / 0.1),
        0.2 * np.log(0.2 / 0.1) + 0.3 * np.log(0.3 / 0.1) + 0.5 * np.log(0.5 / 0.8),
    ]
    expected = np.mean([-2 * np.log(0.3) + 0.5 * kl[0], np.log(0.6) + 0.5 * kl[1]])
    assert float(lpg.agent_loss(log_prob, log_y, targets)) == pytest.approx(expected)
    at_target = lpg.agent_loss(jnp.zeros((2, 1)), targets.prediction, targets)
    assert float(at_target) == pytest.approx(0.0, abs=1e-7)


def test_gradients_reach_the_rule_but_not_what_it_reads(params):
    def total(params, given):
        found = lpg.targets(params, CONFIG, given)
        return found.policy.sum() + found.prediction[..., 0].sum()

    given = experience()
    to_rule = jax.grad(total)(params, given)
    assert all(np.abs(np.asarray(x)).max() > 0 for x in jax.tree.leaves(to_rule))

    def of_prediction(prediction):
        return total(params, given.replace(prediction=prediction))

    assert np.all(np.asarray(jax.grad(of_prediction)(given.prediction)) == 0)


def test_a_rule_of_no_size():
    with pytest.raises(UserError, match="rule_size is 0"):
        LPGConfig(rule_size=0)
