"""Practice that hardly ever resets."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import OnALine
from reset_free_data import (
    DISCOUNT,
    KEY,
    agent_of,
    plain_returns,
)
from tiny import assert_same_bits

from rlgen.algos.offline import practice
from rlgen.algos.offline.classifier import (
    ADAPTED,
    with_examples,
)
from rlgen.algos.offline.encoder import Scaler, Statistics
from rlgen.algos.offline.judged import Judge
from rlgen.algos.offline.practice import (
    PRACTICE,
    Attempt,
    PracticeConfig,
    PracticeStage,
)
from rlgen.algos.offline.stages import AGENT
from rlgen.env import Step
from rlgen.transitions import Episode, from_episodes


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


# Metrics that know the truth.
OF_TRUTH = {
    "forward_success", "backward_success", "forward_claimed", "backward_claimed",
    "false_claims", "online_false_positives", "online_false_negatives",
    "idle_attempts",
}  # fmt: skip


def test_the_truth_changes_nothing_but_what_is_measured():
    stage, [(state, metrics), (turned, lied)] = practised(by_truth=False)
    assert_same_bits(state, turned)
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
    assert_same_bits(now, taught)
    after = stage.actor({AGENT: before(stage)[AGENT], PRACTICE: state})
    assert_same_bits(after, state.agent.params["actor"])
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
