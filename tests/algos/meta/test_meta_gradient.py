"""Meta-gradients against finite differences, and the lives of agents in between."""

from __future__ import annotations

import dataclasses
import functools
import signal

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import lpg as oracle
from tiny import TINY_TASKS, assert_same_bits, without_lpg

from rlgen import runner
from rlgen.algos.meta.experiment import MetaLearning
from rlgen.algos.meta.lpg import Experience
from rlgen.algos.meta.meta_gradient import MetaGradient
from rlgen.algos.meta.tasks import Task
from rlgen.env import Env, Step, take
from rlgen.errors import UserError
from rlgen.programs import Plan, Program
from rlgen.store import RunStore
from rlgen.training import make_config

TINY = TINY_TASKS | {"n_inner": 2}


def build(algorithm="lpg", **settings) -> MetaGradient:
    experiment = make_config(algorithm, "grid_tasks", "", TINY | settings).build()
    assert isinstance(experiment, MetaGradient)
    return experiment


@dataclasses.dataclass(frozen=True)
class TwoStates(Env):
    """Action 1 leads to the other state; to leave state 1 pays the level's reward."""

    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)
    max_episode_steps = 7

    def reset(self, key, level):
        state = jnp.zeros(2, jnp.int32)
        return state, state[0]

    def step(self, key, level, state, action):
        at = jnp.where(action == 1, 1 - state[0], state[0])
        reward = jnp.where((state[0] == 1) & (action == 1), level, 0.0)
        state = jnp.stack([at, state[1] + 1])
        return Step(
            state=state,
            obs=at,
            reward=reward.astype(jnp.float32),
            terminated=jnp.bool_(False),
            truncated=state[1] >= 7,
            info={"success": reward > 0},
        )

    def render(self, level, state):
        return jnp.zeros((1, 1, 3), jnp.uint8)


@functools.cache
def two_states(lr=5.0, max_grad_norm=0.5, **settings) -> MetaGradient:
    from rlgen.algos.meta.lifetime import Lifetime
    from rlgen.algos.student import Student
    from rlgen.networks import make_network

    base = build(lr=lr, max_grad_norm=max_grad_norm, **settings)
    env, config = TwoStates(), base.lifetime.student.network.config
    student = Student.create(env, config, base.lifetime.student.rule, one_level=True)
    network = make_network(env.observation_space, env.action_space, config)
    return dataclasses.replace(
        base,
        env=env,
        network=student.network,
        lifetime=Lifetime(student),
        critic=dataclasses.replace(base.critic, network=network),
    )


def by_hand(experiment, rule, life, critic, task, key):
    """The meta-loss as a function of the rule alone, in float64.

    The rollouts are those of the given rule, held fixed: actions, and what the rule
    reads, do not change with it.
    """
    config, student = experiment.config, experiment.lifetime.student
    shape, agent = student.rule.lpg, student.config
    key_inner, key_fresh = jax.random.split(key)
    plays, start = [], np.asarray(life.learner.params["table"], np.float64)
    born, advance = int(life.learner.n_updates), jax.jit(experiment.lifetime.advance)
    for key in jax.random.split(key_inner, config.n_inner):
        learner = life.learner
        life, play, _ = advance(life, task, rule, key)
        trajectory = play.trajectory
        last = student.network.step(learner.params, None, play.end.obs, play.end.reset)[
            2
        ]
        logits = jnp.concatenate([trajectory.value, last[None]])
        given = Experience(
            reward=trajectory.reward,
            done=trajectory.done,
            probability=jnp.exp(trajectory.log_prob),
            prediction=jax.nn.softmax(logits),
            time=jnp.float32(learner.n_updates),
            lifetime=jnp.float32(task.lifetime),
        )
        plays.append((trajectory, given, int(learner.n_updates)))
    fresh = jax.jit(experiment.lifetime.play)(life, task, rule, key_fresh).trajectory

    def loss(rule, advantage):
        table, sums, n_alive = start, np.zeros(4), 0
        for trajectory, given, age in plays:
            if age >= int(task.lifetime):
                continue
            policy, prediction = oracle.targets(
                rule, shape.rule_size, given, time_aware=shape.time_aware
            )
            table, terms = oracle.table_step(
                table,
                2,
                np.asarray(trajectory.obs),
                np.asarray(trajectory.action),
                policy,
                prediction,
                agent.lr,
                agent.value_coef,
                agent.max_grad_norm,
                separate=agent.separate_clip,
                ratio=agent.value_lr_ratio,
            )
            sums, n_alive = sums + terms, n_alive + 1
        centred = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        rows = oracle.log_softmax(table[np.asarray(fresh.obs), :2])
        chosen = np.take_along_axis(rows, np.asarray(fresh.action)[..., None], -1)
        weights = np.array([-0.05, -1e-3, 5e-3, 1e-3]) * bool(config.policy_entropy)
        penalty = weights @ sums / n_alive
        gain = np.mean(chosen[..., 0] * centred)
        return n_alive / config.n_inner * (penalty - gain)

    assert born == plays[0][2]
    return loss


def agent_of(experiment, lifetime, age=0):
    """An agent that is not quite new, with its critic and task."""
    task = Task(jnp.float32(1.5), jnp.int32(lifetime))
    life = experiment.lifetime.begin(jax.random.key(1), task)
    table = 0.5 * jax.random.normal(jax.random.key(2), (2, 5))
    learner = life.learner.replace(params={"table": table}, n_updates=jnp.int32(age))
    critic = experiment.critic.init(jax.random.key(3))
    return life.replace(learner=learner), critic, task


@pytest.mark.parametrize(
    ("settings", "lifetime", "age"),
    [
        ({}, 9, 0),
        ({"time_aware": True}, 9, 3),
        ({"n_inner": 3}, 9, 7),  # the last update is after the end
        # Clipped, as one and as two.
        ({"max_grad_norm": 0.02, "separate_clip": False}, 9, 0),
        ({"max_grad_norm": 0.02, "value_lr_ratio": 0.3}, 9, 0),
    ],
)
def test_the_meta_gradient_agrees_with_finite_differences(settings, lifetime, age):
    experiment = two_states(**settings)
    rule = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape),
        experiment.lifetime.student.rule.init(jax.random.key(4)),
    )
    life, critic, task = agent_of(experiment, lifetime, age)
    key = jax.random.key(5)
    (value, out), gradient = jax.jit(
        jax.value_and_grad(experiment.meta_loss, has_aux=True)
    )(rule, life, critic, task, key)
    loss = by_hand(experiment, rule, life, critic, task, key)
    advantage = np.asarray(out["advantage"], np.float64)
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), rule)
    assert float(value) == pytest.approx(loss(exact, advantage), rel=1e-4)

    rng, step = np.random.default_rng(0), 1e-5
    for _ in range(4):
        way = jax.tree.map(lambda x: rng.standard_normal(x.shape), exact)
        ahead, behind = (
            loss(jax.tree.map(lambda x, w: x + s * w, exact, way), advantage)
            for s in (step, -step)
        )
        found = sum(
            np.sum(np.asarray(g, np.float64) * w)
            for g, w in zip(
                jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True
            )
        )
        assert found == pytest.approx((ahead - behind) / (2 * step), rel=2e-3)


def test_without_penalties_the_return_alone_moves_the_rule():
    """A stop-gradient too many leaves nothing but the penalties to learn from."""
    free = {
        "policy_entropy": 0.0,
        "prediction_entropy": 0.0,
        "policy_target_cost": 0.0,
        "prediction_target_cost": 0.0,
    }
    experiment = two_states(**free)
    rule = experiment.lifetime.student.rule.init(jax.random.key(4))
    args = (*agent_of(experiment, 9), jax.random.key(5))
    gradient = jax.jit(jax.grad(experiment.meta_loss, has_aux=True))(rule, *args)[0]
    for leaf in (gradient["policy"]["kernel"], gradient["core"]["wi"]):
        assert float(jnp.abs(leaf).max()) > 0


def test_parts_add_up_to_the_same_meta_step():
    whole, parts = build(part_size=0), build(part_size=2)
    state = jax.jit(whole.init)(jax.random.key(0))
    one, metrics = jax.jit(whole.update)(state)
    other, metrics_parts = jax.jit(parts.update)(state)
    assert float(metrics["meta_grad_norm"]) == pytest.approx(
        float(metrics_parts["meta_grad_norm"]), rel=1e-4
    )
    for a, b in zip(
        jax.tree.leaves(one.rule), jax.tree.leaves(other.rule), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_the_critic_learns():
    """Published code threw its critic's updates away."""
    experiment = two_states(n_steps=20)
    life, critic, task = agent_of(experiment, 9)

    rule = experiment.lifetime.student.rule.init(jax.random.key(0))

    @jax.jit
    def learn(life, critic, key):
        now = experiment.lifetime.play(life, task, rule, key)
        critic, loss = experiment.critic.learn(critic, now.trajectory, now.end)
        return life.replace(rollout=now.end), critic, loss

    losses, first = [], critic.params
    for i in range(400):
        life, critic, loss = learn(life, critic, jax.random.key(i))
        losses.append(float(loss))
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), first, critic.params)
    assert moved["table"] > 0.1


def test_lives_begin_at_different_ages_and_are_followed_by_new_ones():
    experiment = build(n_agents=16, max_lifetime=4)
    state = jax.jit(experiment.init)(jax.random.key(0))
    first = np.asarray(state.agents.batch.levels.lifetime)
    assert set(first.tolist()) >= {1, 2, 3}
    update = jax.jit(experiment.update)
    for _ in range(4):
        before = state.agents
        state, metrics = update(state)
        after = state.agents
        # At most K = 2 updates a meta-step, none after the end.
        lived = np.minimum(
            np.asarray(before.lives.learner.n_updates) + 2,
            np.asarray(before.batch.levels.lifetime),
        )
        ended = lived >= np.asarray(before.batch.levels.lifetime)
        assert float(metrics["lives_ended"]) == ended.sum()
        now = np.asarray(after.lives.learner.n_updates)
        np.testing.assert_array_equal(now, np.where(ended, 0, lived))
        tables = np.asarray(after.lives.learner.params["table"])
        assert np.all(tables[ended] == 0)
        assert np.all(np.asarray(after.critics.n_updates)[ended] == 0)
        kept = np.asarray(before.batch.hash)[~ended]
        np.testing.assert_array_equal(np.asarray(after.batch.hash)[~ended], kept)
        assert np.all(np.asarray(after.batch.levels.lifetime)[ended] == 4)


@pytest.mark.parametrize("n_together", [1, 2, 5])
def test_whose_lives_ended_plays_fresh_episodes_in_groups(n_together):
    """Who always goes on is paid three times in seven steps, who stays never."""
    lifetime = two_states().lifetime
    rewards = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])
    tasks = Task(rewards, jnp.full(5, 4))
    lives = jax.vmap(lifetime.begin)(jax.random.split(jax.random.key(0), 5), tasks)
    goes = jnp.array([1.0, -1.0, 1.0, 1.0, 1.0])
    table = 50.0 * goes[:, None, None] * jnp.array([-1.0, 1.0, 0.0, 0.0, 0.0])
    params = {"table": jnp.broadcast_to(table, (5, 2, 5))}
    lives = lives.replace(learner=lives.learner.replace(params=params))
    which = jnp.array([False, True, True, False, True])
    play = jax.jit(lifetime.evaluate_some, static_argnums=4)
    found = play(lives, tasks, jax.random.key(1), which, n_together)
    assert found.returns.shape == (5, 4)
    np.testing.assert_array_equal(found.returns[which].T, [[0.0, 9.0, 15.0]] * 4)
    assert np.all(np.asarray(found.length[which]) == 7)
    # One agent fills the last group of two, and two that of five.
    n_played = np.sum(np.asarray(found.length)[:, 0] > 0)
    assert n_played == min(5, n_together * -(-3 // n_together))
    nobody = play(lives, tasks, jax.random.key(1), which & False, n_together)
    assert np.all(np.asarray(nobody.length) == 0)


def test_meta_losses_are_logged_by_age():
    experiment = build(n_agents=8, min_lifetime=8, max_lifetime=8)
    _, metrics = jax.jit(experiment.update)(jax.jit(experiment.init)(jax.random.key(0)))
    ages = [float(metrics[f"meta_loss_age_{i}"]) for i in (1, 2, 3, 4)]
    assert np.isfinite(ages).sum() >= 2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"n_inner": 5}, "choose min_lifetime >= n_inner"),
        ({"part_size": 3}, "choose n_agents as a multiple"),
        ({"min_lifetime": 7}, "choose 1 <= min_lifetime"),
        ({"torso": "mlp", "core": "gru"}, "choose core=none"),
        ({"observation": "picture"}, "needs observations that are integers"),
        ({"optimizer": "adma"}, "choose adam, sgd"),
    ],
)
def test_settings_that_do_not_go_together(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        build(**settings)


def test_a_held_out_level_is_learned_by_a_new_agent():
    experiment = build()
    state = jax.jit(experiment.init)(jax.random.key(0))
    result = jax.jit(experiment.evaluate)(state, jax.random.key(1))["heldout"]
    assert result.returns.shape == (3, 2)
    assert isinstance(experiment, MetaLearning)
    assert take(result, 0).length.min() >= 1


class Stop:
    """Asks the run to stop, once, as soon as there is something to log."""

    asked = False

    def log(self, rows):
        if not self.asked:
            self.asked = True
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("algorithm", ["groove", "ta-lpo"])
def test_a_stopped_run_goes_on_to_the_same_bits(algorithm, tmp_path):
    settings = TINY_TASKS | {"pictures": False, "n_updates": 4}
    if algorithm == "groove":
        settings |= {"n_inner": 2, "buffer_size": 8, "min_fill": 0.1}
    else:
        settings = without_lpg(settings) | {"drift_size": 3}

    config = make_config(algorithm, settings=settings)
    experiment = config.build()
    # How long chunks are is none of its business.
    program = Program(Plan(experiment, config.run))

    def run(name, log_every, *sinks):
        run = dataclasses.replace(config.run, log_every=log_every)
        store = RunStore.open(tmp_path, name, config, str(tmp_path / name))
        return runner.run(experiment, run, store, sinks, program)

    whole = run("whole", 4)
    with pytest.raises(runner.Preempted):
        run("stopped", 1, Stop())
    assert 0 < RunStore(tmp_path / "stopped").read_run()["update"] < 4
    resumed = run("stopped", 1)
    assert_same_bits(whole, resumed)
