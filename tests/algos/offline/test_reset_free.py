"""Success classifiers, rewards by them, and practice that hardly ever resets."""

import dataclasses
import functools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from offline_data import episodes_of
from probes import OnALine, PushConfig

from rlgen import config as configs
from rlgen import datasets, runner, training
from rlgen.algos.offline import judged, practice
from rlgen.algos.offline.classifier import (
    ADAPTED,
    CHOOSE,
    CLASSIFIER,
    MEASURE,
    TRAIN,
    ClassifierConfig,
    classifier_stages,
    lowest_threshold,
    with_examples,
)
from rlgen.algos.offline.encoder import Scaler, Statistics
from rlgen.algos.offline.functions import Factory, NetsConfig
from rlgen.algos.offline.judged import Judge, Practising, PractisingConfig
from rlgen.algos.offline.practice import (
    PRACTICE,
    Attempt,
    PracticeConfig,
    PracticeStage,
)
from rlgen.algos.offline.reset_free import only
from rlgen.algos.offline.stages import AGENT
from rlgen.env import Step, take
from rlgen.errors import UserError
from rlgen.store import RunStore
from rlgen.transitions import Episode, from_episodes, some_of

KEY = jax.random.key(0)
DISCOUNT = 0.9


# What the classifier learns from, and how its threshold is chosen.


def test_the_threshold_is_that_of_a_plain_search():
    rng = np.random.default_rng(0)
    for n in (1, 5, 40):
        # Rounded: some scores are equal.
        scores = np.round(rng.normal(size=60), 1).astype(np.float32)
        negative = np.zeros(60, bool)
        negative[rng.choice(60, n, replace=False)] = True
        for n_allowed in range(min(n, 4)):
            got = float(lowest_threshold(scores, negative, n_allowed))
            fitting = [
                t
                for t in (0.0, *scores[negative].tolist())
                if t >= 0 and np.sum(scores[negative] > t) <= n_allowed
            ]
            assert got == pytest.approx(min(fitting)), (n, n_allowed)


def task_episodes(n=10, seed=0):
    """Noise on 4 levels, of which 2 and 3 are the target: demonstrations, failures."""
    episodes = []
    for level in range(4):
        for i, episode in enumerate(episodes_of(2 * n, 6, seed=seed + level)):
            rewards = np.zeros(6, np.float32)
            succeeds = i < n
            rewards[-1] = succeeds
            last = np.arange(6) == 5
            episodes.append(
                dataclasses.replace(
                    episode,
                    rewards=rewards,
                    terminations=last & succeeds,
                    truncations=last & (not succeeds),
                    level_id=level,
                )
            )
    return episodes


@functools.cache
def examples():
    return with_examples(from_episodes(task_episodes()), [2, 3])


def test_examples_are_sorted_and_held_back_by_whole_episodes():
    data = examples()
    part, rows = np.asarray(data.part), data.rows
    seen = {}
    for episode in range(80):
        own = np.flatnonzero(rows.episode_id == episode)
        assert len(set(part[own])) == 1
        kind = (int(rows.level_id[own[0]]), bool(rows.reward[own].sum()))
        seen.setdefault(kind, []).append(part[own[0]])
        np.testing.assert_array_equal(data.is_success[own], rows.reward[own] > 0)
    wanted = [TRAIN, TRAIN, TRAIN, CHOOSE, MEASURE] * 2
    assert len(seen) == 8 and all(parts == wanted for parts in seen.values())
    for name, levels in (("prior", (0, 1)), ("target", (2, 3))):
        successes, others = data.rows_of[name]
        learned = np.concatenate([successes, others])
        assert set(rows.level_id[learned]) == set(levels)
        assert (part[learned] == TRAIN).all() and len(set(learned.tolist())) == 144
        assert data.is_success[successes].all() and not data.is_success[others].any()


SMALL = ClassifierConfig(
    classifier_updates=1,
    adapt_updates=1,
    classifier_layers=1,
    classifier_units=16,
    classifier_batch_size=16,
    max_false_positives=0.07,
)


def taught(config, has_prior=True, data=None):
    """The stages of a classifier and their states after a few steps each."""
    data = jax.tree.map(jnp.asarray, data or examples())
    stages = classifier_stages(config, has_prior, (0, 2), 30, data)
    states, metrics = {}, {}
    for i, (name, stage) in enumerate(stages.items()):
        key_init, key_update = jax.random.split(jax.random.fold_in(KEY, i))
        state = stage.init(key_init, data)
        update = jax.jit(stage.update)
        states[name], new = update(state, states, data, key_update)
        metrics |= jax.device_get(new)
    return stages, states, metrics


@functools.cache
def small():
    return taught(SMALL)


def test_false_positives_are_held_to_their_level_on_prior_tasks_and_on_the_target():
    """Labels are noise here: without a threshold half of them would be false."""
    data, (stages, states, metrics) = examples(), small()
    assert list(stages) == [CLASSIFIER, ADAPTED]
    stage, state = stages[ADAPTED], states[ADAPTED]
    claims = np.asarray(stage.claims(state, data.rows.next_obs))
    scores = np.asarray(stage.score(state.layers, data.rows.next_obs))
    np.testing.assert_array_equal(claims, scores > float(state.threshold))
    rates = []
    for of in (~data.is_target, data.is_target):
        held_back = of & (data.part == CHOOSE) & ~data.is_success
        assert held_back.sum() == 44  # 4 failures of 6 and 4 demonstrations of 5
        rates.append(claims[held_back].sum())
    assert max(rates) == 3  # the most that 7 % of 44 allow
    for of, name in ((True, ""), (data.is_target, "target_")):
        measured = of & (data.part == MEASURE)
        for which, ones in (
            ("positives", claims[measured & ~data.is_success]),
            ("negatives", ~claims[measured & data.is_success]),
        ):
            metric = metrics[f"adapted_{name}false_{which}"]
            assert metric == pytest.approx(ones.mean()), (name, which)


def test_a_classifier_sees_what_is_visible_and_goes_on_from_prior_tasks():
    stages, states, _ = small()
    obs = jnp.ones((1, 3))
    score = functools.partial(stages[ADAPTED].score, states[ADAPTED].layers)
    assert score(obs) == score(obs.at[0, 1].set(9.0)) != score(obs.at[0, 2].set(9.0))
    data = jax.tree.map(jnp.asarray, examples())
    # Without a step the adapted one is the earlier one.
    idle = dataclasses.replace(stages[ADAPTED], n_steps=0)
    state, _ = idle.update(idle.init(KEY, data), states, data, KEY)
    for a, b in zip(
        jax.tree.leaves(state.layers),
        jax.tree.leaves(states[CLASSIFIER].layers),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_what_can_be_seen_is_learned():
    """Successes are where the first number is high, on all tasks alike."""
    episodes = []
    for episode in task_episodes():
        shown = episode.observations.copy()
        shown[1:, 0] = np.where(episode.rewards > 0, 2.0, -1.0)
        shown[1:, 0] += 0.3 * episode.observations[1:, 0]
        episodes.append(dataclasses.replace(episode, observations=shown))
    data = with_examples(from_episodes(episodes), [2, 3])
    config = dataclasses.replace(SMALL, classifier_lr=1e-2)
    _, _, metrics = taught(config, has_prior=False, data=data)
    assert metrics["adapted_target_false_negatives"] < 0.3
    assert metrics["adapted_target_false_positives"] < 0.1


def test_examples_that_are_missing_are_said():
    fails = [e for e in task_episodes() if not e.rewards.sum()]
    with pytest.raises(UserError, match="no demonstration that reaches its target"):
        with_examples(from_episodes(fails), [2, 3])
    few = with_examples(from_episodes(task_episodes(n=3)), [2, 3])
    with pytest.raises(UserError, match="No target task has 4 episodes that end alike"):
        classifier_stages(SMALL, False, (0,), 1, few)
    alone = with_examples(only(from_episodes(task_episodes()), [2, 3]), [2, 3])
    assert alone.n_episodes == 40 and set(alone.rows.level_id) == {2, 3}
    assert alone.rows.episode_id[-1] == 39
    with pytest.raises(UserError, match="no demonstrations of prior tasks"):
        classifier_stages(SMALL, True, (0,), 1, alone)


# Rewards.


def plain_returns(success, last, discount):
    """Costs of 1 until the first success of the attempt, for ever if there is none."""
    out = np.zeros(len(success))
    for t in range(len(success)):
        end = t + int(np.argmax(last[t:]))
        hits = np.flatnonzero(success[t : end + 1])
        if len(hits):
            out[t] = -sum(discount**k for k in range(hits[0]))
        else:
            out[t] = -1.0 / (1.0 - discount)
    return out


def test_failures_are_worth_failing_for_ever():
    rng = np.random.default_rng(0)
    last = rng.random(200) < 0.1
    last[-1] = True
    success = (rng.random(200) < 0.3) & last
    success[[3, 50, 51]] = True  # a judge may see one in the middle
    got = judged.returns_to_go(success, last, DISCOUNT)
    np.testing.assert_allclose(got, plain_returns(success, last, DISCOUNT), rtol=1e-5)
    assert float(got.min()) == pytest.approx(-10.0) and float(got.max()) == 0.0


def test_recorded_steps_get_the_judges_rewards():
    data, (stages, states, _) = examples(), small()
    claims = np.asarray(stages[ADAPTED].claims(states[ADAPTED], data.rows.next_obs))
    truth = np.asarray(data.is_success)
    assert claims.sum() > 0 and (claims != truth).any()
    for judge, success in ((Judge(stages[ADAPTED]), claims), (Judge(None), truth)):
        rows = judged.relabelled(judge, states, data, jnp.float32(DISCOUNT)).rows
        last = np.asarray(data.rows.terminated | data.rows.truncated)
        np.testing.assert_array_equal(rows.reward, np.where(success, 0.0, -1.0))
        np.testing.assert_array_equal(rows.terminated, success)
        np.testing.assert_array_equal(rows.truncated, last & ~success)
        np.testing.assert_allclose(
            rows.return_to_go, plain_returns(success, last, DISCOUNT), rtol=1e-5
        )


def agent_of(**settings):
    sizes = {"actor_layers": 1, "critic_layers": 1, "actor_units": 8, "critic_units": 8}
    config = PractisingConfig(
        **{
            "batch_size": 8,
            "discount": DISCOUNT,
            "cql_weight": 1.0,
            "cql_actions": 1,
            "calibrated": True,
            "bc_weight": 2.0,
        }
        | settings
    )
    return Practising(Factory(NetsConfig(**sizes), 2, 1), config)


def test_actions_that_led_to_success_are_cloned_and_no_others():
    agent = agent_of()
    state = agent.init(KEY)
    fails = judged.failure(DISCOUNT)
    batch = some_of(
        {
            "action": jnp.array([[0.5], [0.0], [-0.5]]),
            "return_to_go": jnp.array([-3.0, fails, 0.0], jnp.float32),
        }
    )
    q, action = jnp.array([-4.0, -8.0, -6.0]), jnp.array([[0.0], [1.0], [0.5]])
    got = agent.regulariser(state, batch, action, q)
    assert float(got) == pytest.approx(2.0 * 6.0 * (0.25 + 0.0 + 1.0) / 3)
    assert agent_of(bc_weight=0.0).regulariser(state, batch, action, q) == 0.0


def test_nothing_is_worth_less_than_failing_for_ever():
    agent = agent_of()
    state = agent.init(KEY)
    sunk = jax.tree.map(lambda x: x - 30.0, state.targets)
    batch = some_of(
        {
            "reward": jnp.array([-1.0, 0.0]),
            "next_obs": jnp.zeros((2, 2)),
            "terminated": jnp.array([False, True]),
        }
    )
    target = agent.target(state.replace(targets=sunk), batch, KEY)
    np.testing.assert_allclose(target, [-10.0, 0.0], rtol=1e-6)


# Practice.


@dataclasses.dataclass(frozen=True)
class Shuttle(OnALine):
    """A point on a line, to be moved to a target; its level may lie about success.

    Observation: float32[2], place and target. Action: float32[1], a push.
    """

    max_steps: int = 6
    visible = (0, 1)

    def reset(self, key, level):
        at = level["start"] + jax.random.uniform(key, (), minval=-0.05, maxval=0.05)
        state = {"at": at, "time": jnp.int32(0)}
        return state, self._obs(level, state)

    def instruct(self, level, state):
        state = state | {"time": jnp.int32(0)}
        return state, self._obs(level, state)

    def _obs(self, level, state):
        return jnp.stack([state["at"], level["target"]])

    def step(self, key, level, state, action):
        state = {"at": state["at"] + 0.3 * action[0], "time": state["time"] + 1}
        success = (jnp.abs(state["at"] - level["target"]) < 0.2) ^ level["lies"]
        return Step(
            state=state,
            obs=self._obs(level, state),
            reward=success.astype(jnp.float32),
            terminated=success,
            truncated=(state["time"] >= self.max_steps) & ~success,
            info={"success": success},
        )


def both_ways(lies=False):
    """The task, and its undoing."""
    return {
        "start": jnp.array([-0.5, 0.5]),
        "target": jnp.array([0.5, -0.5]),
        "lies": jnp.array([lies, lies]),
    }


class Rule:
    """A classifier that is generous: it says success up to 0.35 from the target."""

    def claims(self, state, obs):
        del state
        return jnp.abs(obs[..., 0] - obs[..., 1]) < 0.35


def shuttle_data():
    """A recording of aimless pushes, on both levels."""
    rng = np.random.default_rng(0)
    episodes = []
    for i in range(20):
        target = 0.5 if i % 2 == 0 else -0.5
        actions = rng.uniform(-1, 1, (6, 1)).astype(np.float32)
        at = np.cumsum(np.append(-target, 0.3 * actions[:, 0])).astype(np.float32)
        rewards = np.zeros(6, np.float32)
        rewards[-1] = 1.0
        episodes.append(
            Episode(
                observations=np.stack([at, np.full(7, target, np.float32)], axis=1),
                actions=actions,
                rewards=rewards,
                terminations=rewards > 0,
                truncations=np.zeros(6, bool),
                level_id=i % 2,
            )
        )
    data = with_examples(from_episodes(episodes), [0, 1])
    return jax.tree.map(jnp.asarray, data)


def stage_of(judge=None, **settings):
    config = PracticeConfig(
        **{"n_attempts": 5, "reset_every": 20, "replay_size": 50} | settings
    )
    judge = judge or Judge(Rule())
    return PracticeStage(
        agent_of(), Scaler(False), Shuttle(), both_ways(), judge, config, 1
    )


def before(stage):
    """The states of all stages when practice begins."""
    agent = stage.agent.init(jax.random.key(5))
    return {"encoder": Statistics.neutral(1), AGENT: agent, ADAPTED: None}


@functools.cache
def attempts(episodic=False, n=40):
    """Attempts in a row, without learning: each with the state that it left."""
    stage = stage_of(episodic=episodic)
    state, stages = stage.init(KEY, None), before(stage)
    play = jax.jit(lambda state, key: stage.play(state, stages, key))
    out = [(jax.device_get(state), None)]
    for i in range(n):
        state, attempt = play(state, jax.random.fold_in(KEY, i))
        out.append((jax.device_get(state), jax.device_get(attempt)))
    return out


def test_instructions_switch_as_a_plain_machine_says_and_nothing_else_resets():
    (first, _), *rest = attempts()
    direction, since, n_resets, n_played = 0, 0, 0, 0
    at, ends = float(first.world["at"]), {"claimed": 0, "over": 0}
    buffer = []
    for state, attempt in rest:
        reset = since >= 20
        if reset:
            direction, since, n_resets = 0, 0, n_resets + 1
        rows = attempt.rows
        start, target = rows.obs[0]
        assert target == (0.5, -0.5)[direction]
        if reset:
            assert abs(start - -0.5) < 0.06
        else:
            assert start == at  # it goes on from where it was
        claims = np.abs(rows.next_obs[:, 0] - target) < 0.35
        np.testing.assert_array_equal(attempt.claimed, claims)
        n = int(np.argmax(claims)) + 1 if claims.any() else 6
        np.testing.assert_array_equal(attempt.kept, np.arange(6) < n)
        np.testing.assert_array_equal(rows.obs[1:n], rows.next_obs[: n - 1])
        last = np.arange(n) == n - 1
        np.testing.assert_array_equal(rows.terminated[:n], claims[:n])
        np.testing.assert_array_equal(rows.truncated[:n], last & ~claims[:n])
        np.testing.assert_array_equal(rows.reward[:n], np.where(claims[:n], 0.0, -1.0))
        np.testing.assert_allclose(
            rows.return_to_go[:n], plain_returns(claims[:n], last, DISCOUNT), rtol=1e-5
        )
        ends["claimed" if claims.any() else "over"] += 1
        buffer += rows.next_obs[:n].tolist()
        at = float(rows.next_obs[n - 1, 0])
        direction, since, n_played = 1 - direction, since + n, n_played + n
        assert float(state.world["at"]) == at
        assert (int(state.direction), int(state.since_reset)) == (direction, since)
        assert (int(state.n_resets), int(state.n_played)) == (n_resets, n_played)
    assert n_resets >= 3 and min(ends.values()) >= 3, (n_resets, ends)
    # The newest steps are in the buffer, whole attempts without the rest.
    kept = np.roll(state.buffer.rows.next_obs, -(n_played % 50), axis=0)
    np.testing.assert_array_equal(kept, np.array(buffer[-50:], np.float32))


def test_episodes_begin_with_a_reset_where_they_may():
    for i, (state, attempt) in enumerate(attempts(episodic=True, n=6)[1:]):
        start, target = attempt.rows.obs[0]
        assert target == (0.5, -0.5)[i % 2] and abs(start + target) < 0.06
        assert int(state.n_resets) == i + 1


@functools.cache
def practised(by_truth):
    """An update where the truth is told, and one where it is turned around."""
    stage = stage_of(Judge(None) if by_truth else None)
    stages, data = before(stage), shuttle_data()

    @jax.jit
    def update(levels, state):
        told = dataclasses.replace(stage, levels=levels)
        return told.update(state, stages, data, KEY)

    state = stage.init(KEY, None)
    return stage, [update(both_ways(lies), state) for lies in (False, True)]


def same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


# Metrics that know the truth.
OF_TRUTH = {
    "forward_success", "backward_success", "forward_claimed", "backward_claimed",
    "false_claims", "online_false_positives", "online_false_negatives",
    "idle_attempts",
}  # fmt: skip


def test_the_truth_changes_nothing_but_what_is_measured():
    stage, [(state, metrics), (turned, lied)] = practised(by_truth=False)
    same_bits(state, turned)
    assert set(metrics) == set(stage.metrics)
    for name, value in metrics.items():
        same = np.array_equal(value, lied[name], equal_nan=True)
        assert same or name in OF_TRUTH, name
    assert metrics["online_false_positives"] != lied["online_false_positives"]
    # Of a run by the truth it is the reward: there it does change all.
    _, [(by_truth, _), (by_lies, _)] = practised(by_truth=True)
    assert int(by_truth.n_played) != int(by_lies.n_played)


def test_there_is_a_gradient_step_for_each_step_that_is_played():
    stage, [(state, metrics), _] = practised(by_truth=False)
    assert int(state.agent.n_updates) == int(state.n_played) == metrics["played_steps"]
    assert 5 <= int(state.n_played) <= 30 == stage.env_steps_per_update
    # It goes on from the agent that the dataset taught.
    taught = before(stage)[AGENT].params["actor"]
    own = stage.init(KEY, None)
    now = stage.actor({AGENT: before(stage)[AGENT], PRACTICE: own})
    same_bits(now, taught)
    after = stage.actor({AGENT: before(stage)[AGENT], PRACTICE: state})
    same_bits(after, state.agent.params["actor"])
    assert not np.array_equal(after[0]["kernel"], taught[0]["kernel"])


def test_attempts_are_measured_as_a_plain_count_has_it():
    rng = np.random.default_rng(0)
    claimed, truth = rng.random((2, 60, 5)) < 0.25
    length = np.where(claimed.any(axis=1), claimed.argmax(axis=1) + 1, 5)
    kept = np.arange(5) < length[:, None]
    direction = np.arange(60) % 2
    got = practice.measured(Attempt(None, kept, claimed, truth), direction)
    counts = dict.fromkeys(("tp", "fp", "fn", "tn", "idle"), 0)
    ways = [{"busy": 0, "success": 0, "claimed": 0} for _ in range(2)]
    for i in range(60):
        states = list(zip(claimed[i, : length[i]], truth[i, : length[i]], strict=True))
        for says, is_so in states:
            counts[
                {(1, 1): "tp", (1, 0): "fp", (0, 1): "fn", (0, 0): "tn"}[says, is_so]
            ] += 1
        if states[0][1]:
            counts["idle"] += 1
            continue
        ways[i % 2]["busy"] += 1
        ways[i % 2]["success"] += any(is_so for _, is_so in states)
        ways[i % 2]["claimed"] += any(says for says, _ in states)
    wanted = {
        "false_claims": counts["fp"] / (counts["fp"] + counts["tp"]),
        "online_false_positives": counts["fp"] / (counts["fp"] + counts["tn"]),
        "online_false_negatives": counts["fn"] / (counts["fn"] + counts["tp"]),
        "idle_attempts": counts["idle"] / 60,
        "attempt_steps": length.mean(),
    }
    for way, name in enumerate(("forward", "backward")):
        for what in ("success", "claimed"):
            wanted[f"{name}_{what}"] = ways[way][what] / ways[way]["busy"]
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        assert float(got[name]) == pytest.approx(value), name


# All of it, on a table.

TINY = {
    "offline_updates": 1,
    "online_updates": 2,
    "classifier_updates": 1,
    "adapt_updates": 1,
    "steps_per_update": 3,
    "n_attempts": 2,
    "reset_every": 12,
    "actor_units": 8,
    "critic_units": 8,
    "actor_layers": 1,
    "critic_layers": 1,
    "batch_size": 8,
    "cql_actions": 1,
    "classifier_units": 8,
    "classifier_layers": 1,
    "eval_episodes": 2,
    "n_heldout": 2,
    "log_every": 1,
    "max_steps": 8,
    "progress": False,
    "pictures": False,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A few demonstrations on a table, recorded with time enough to succeed."""
    from rlgen.envs.tabletop import Tabletop, demonstrations

    env = Tabletop()
    amounts = demonstrations.Amounts(n_prior=2, n_failures=10)
    episodes, level_set = demonstrations.record(env, KEY, amounts)
    return datasets.save(
        tmp_path_factory.mktemp("data") / "tabletop" / "few-v0",
        episodes,
        name="tabletop/few-v0",
        observation_space=env.observation_space,
        action_space=env.action_space,
        level_set=level_set,
        about={"environment": "tabletop", "settings": {"max_steps": 40}},
        tests=demonstrations.target_sets(level_set),
    )


def config_of(table, **settings):
    """As the command line makes it, small."""
    values = TINY | {"data": str(table)} | settings
    return training.make_config("reset-free", "", "", values, flags=values)


def run_of(config, path):
    store = RunStore.open(str(path), config.name, config)
    return runner.run(config.build(), config.run, store), store


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory):
    config = config_of(table, seeds=2, seed_axis="map")
    return run_of(config, tmp_path_factory.mktemp("whole")), config


def test_stages_follow_one_another(whole):
    (states, store), config = whole
    assert config.env == "tabletop" and config.run.n_updates == 5
    experiment = config.build()
    assert list(experiment.stages) == [CLASSIFIER, ADAPTED, AGENT, PRACTICE]
    rows = store.read_metrics()
    own = rows[(rows["kind"] == "train") & (rows["seed"] == 0)]
    when = {
        name: own["update"][np.isfinite(own[name])].tolist()
        for name in (
            "classifier_loss", "adapted_loss", "critic_loss", "online_critic_loss",
            "online_false_positives",
        )
    }  # fmt: skip
    assert when == {
        "classifier_loss": [1],
        "adapted_loss": [2],
        "critic_loss": [3],
        "online_critic_loss": [4, 5],
        "online_false_positives": [4, 5],
    }
    # After two attempts of 8 steps, for 12 are over; after the next two it ends.
    assert own["manual_resets"].tolist()[-2:] == [0, 1]
    evaluated = {n for n in rows if n.startswith("eval_") and n.endswith("_solve_rate")}
    sets = ("heldout", "heldout back", "target", "target back")
    assert evaluated >= {f"eval_{name}_solve_rate" for name in sets}
    assert int(states.stages[PRACTICE].n_played[0]) == own["played_steps"].iloc[-1]


def test_a_stopped_run_in_other_chunks_ends_with_the_same_bits(
    whole, tmp_path, monkeypatch
):
    (states, _), config = whole
    config = configs.override(config, {"log_every": 2}, "test")
    calls, chunk = [], runner.Program.chunk

    def chunk_then_signal(self, states, n_updates):
        calls.append(n_updates)
        if len(calls) == 2:  # amid practice
            os.kill(os.getpid(), signal.SIGTERM)
        return chunk(self, states, n_updates)

    program = runner.Program(config.build(), config.run)
    store = RunStore.open(str(tmp_path), config.name, config)
    with monkeypatch.context() as patch:
        patch.setattr(runner.Program, "chunk", chunk_then_signal)
        with pytest.raises(runner.Preempted):
            runner.run(program.experiment, config.run, store, [], program)
    assert store.read_run()["status"] == "preempted"
    again = runner.run(program.experiment, config.run, store, [], program)
    same_bits(states, again)


@pytest.mark.parametrize(
    ("settings", "stages"),
    [
        ({"reward": "truth"}, [AGENT, PRACTICE]),
        ({"classifier_prior": False}, [ADAPTED, AGENT, PRACTICE]),
        ({"prior_data": False}, [ADAPTED, AGENT, PRACTICE]),
        ({"calibrated": False}, [CLASSIFIER, ADAPTED, AGENT, PRACTICE]),
        ({"episodic": True}, [CLASSIFIER, ADAPTED, AGENT, PRACTICE]),
        ({"online_updates": 0}, [CLASSIFIER, ADAPTED, AGENT]),
    ],
)
def test_every_ablation_is_an_experiment(settings, stages, table):
    """Traced, not compiled: states keep their types, metrics their names."""
    config = config_of(table, **settings)
    experiment = config.build()
    assert list(experiment.stages) == stages
    assert config.run.n_updates == sum(s.n_updates for s in experiment.stages.values())
    state = jax.eval_shape(experiment.init, KEY)
    after, metrics = jax.eval_shape(experiment.update, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )
    assert all(m.shape == () and m.dtype == jnp.float32 for m in metrics.values())
    n_episodes = {"prior_data": 30}.get(*settings, 50)
    assert experiment.data.n_episodes == n_episodes
    assert experiment.network.agent.config.calibrated == settings.get(
        "calibrated", True
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"data": ""}, "Name a dataset with --data"),
        ({"reward": "vlm"}, "choose classifier or truth"),
        ({"max_false_positives": 1.0}, "choose 0 or more, below 1"),
        ({"classifier_batch_size": 2}, "must be at least 4"),
        ({"adapt_updates": 0}, "adapt_updates must be at least 1"),
        ({"offline_updates": 0}, "must be at least 1"),
        ({"online_updates": -1}, "at least 0"),
        ({"reset_every": 0}, "must be at least 1"),
        ({"recorded_share": 1.0}, "choose 0 or more, below 1"),
        ({"replay_size": 4}, "but an attempt takes up to 8 steps"),
        ({"n_updates": 7}, "The stages take 5 updates, not 7"),
    ],
)
def test_settings_that_cannot_be(settings, sentence, table):
    with pytest.raises(UserError, match=sentence):
        config_of(table, **settings).build()


def test_data_and_environments_that_do_not_fit_are_said(table, push_dataset):
    with pytest.raises(UserError, match="Push has no task that can be undone"):
        config = config_of(table)
        algorithm = config.build.__self__

        pushed = dataclasses.replace(algorithm, levels_config=PushConfig())
        pushed.build()
    loaded = datasets.load(table, config_of(table).levels_config.make_space())
    bare = dataclasses.replace(
        loaded, level_set=dataclasses.replace(loaded.level_set, provenance={})
    )
    from rlgen.algos.offline import reset_free

    with pytest.raises(UserError, match="names no target task"):
        reset_free._target(bare)


def test_other_tasks_than_the_target_are_left_where_they_are(table):
    level_set = datasets.load(
        table, config_of(table).levels_config.make_space()
    ).level_set
    experiment = config_of(table).build()
    levels = experiment.stages[PRACTICE].levels
    for i in (0, 1):
        mine = take(levels, i)
        same_bits(mine, jax.tree.map(jnp.asarray, level_set[4 + i]))
