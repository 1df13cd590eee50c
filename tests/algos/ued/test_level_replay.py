"""Level replay on a toy family: roles and their order, lineage, splits, metrics."""

import dataclasses
import functools
import itertools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import level_replay as oracle
from scipy import stats

from rlgen.algos.ued.buffer import DATASET, EDITED, GENERATED, NEW, LevelBatch
from rlgen.algos.ued.curriculum import EDITED_LEVELS, NEW_LEVELS, REPLAYED, Draw
from rlgen.algos.ued.level_replay import LevelReplay, ReplayConfig
from rlgen.algos.ued.scores import Feedback
from rlgen.errors import UserError
from rlgen.levels import LevelSet, LevelSpace, split_of

L = 4
LARGEST_EDIT = 1000


@dataclasses.dataclass(frozen=True)
class Numbers(LevelSpace):
    """Levels are numbers; an edit adds a small one, so lineage can be read off."""

    def sample(self, key):
        return jax.random.randint(key, (), 0, 2**24, jnp.int32)

    def valid(self, level):
        return level >= 0

    def features(self, level):
        return {"size": level.astype(jnp.float32)}

    def mutate(self, key, level):
        return level + jax.random.randint(key, (), 1, LARGEST_EDIT + 1, jnp.int32)

    def hash(self, level):
        level = level.astype(jnp.uint32)
        return jnp.stack([level, level * jnp.uint32(2654435761) >> 7])

    def to_str(self, level):
        return str(int(level))

    def from_str(self, text):
        return np.int32(text)

    def example(self):
        return np.int32(0)


SPACE = Numbers()
GIVEN = LevelSet.generate(SPACE, 6, seed=0, split="train")
SMALL = {"buffer_size": 16, "staleness": 0.3, "score": "l1"}
CONFIGS = {
    "DR": ReplayConfig(replay_prob=0.0, **SMALL),
    "PLR": ReplayConfig(replay_prob=0.5, **SMALL),
    "robust PLR": ReplayConfig(replay_prob=0.5, train_on_new=False, **SMALL),
    "ACCEL": ReplayConfig(replay_prob=0.8, edit_prob=1.0, train_on_new=False, **SMALL),
    "half ACCEL": ReplayConfig(
        replay_prob=0.8, edit_prob=0.5, train_on_new=False, **SMALL
    ),
}


@functools.cache
def curriculum(name, seed_axis=None):
    return LevelReplay(SPACE, CONFIGS[name], L, seed_axis=seed_axis)


@functools.cache
def jitted(name):
    curriculum_ = curriculum(name)
    return (
        jax.jit(curriculum_.sample, static_argnums=3),
        jax.jit(curriculum_.update),
        jax.jit(curriculum_.metrics),
    )


def feedback_of(score, n_episodes=1, max_return=1.0):
    score = jnp.asarray(score, jnp.float32)
    count = jnp.broadcast_to(jnp.int32(n_episodes), score.shape)
    return Feedback(
        score=jnp.where(count > 0, score, 0.0),
        score2=jnp.zeros_like(score),
        max_return=jnp.where(count > 0, max_return, -jnp.inf).astype(jnp.float32),
        n_episodes=count,
        n_success=jnp.zeros_like(count),
    )


def play(name, n_batches, *, finishes=True, seed=0):
    """Runs a curriculum with random scores; yields what happened in each batch."""
    sample, update, measure = jitted(name)
    rng = np.random.default_rng(seed)
    state = curriculum(name).init(jax.random.key(seed))
    for i in range(n_batches):
        key = jax.random.fold_in(jax.random.key(seed), i)
        before = state
        state, draw = sample(state, key, jax.random.fold_in(key, 1), L)
        count = rng.integers(0, 3, L) if finishes else np.zeros(L, int)
        hashes = [tuple(row) for row in np.asarray(draw.batch.hash)]
        first = [hashes.index(row) for row in hashes]  # copies have equal rows
        feedback = feedback_of(rng.random(L)[first], count[first])
        state, metrics = update(state, jax.random.fold_in(key, 2), draw, feedback)
        metrics |= measure(state, key)
        yield jax.device_get((before, draw, feedback, state, metrics))


def stored_state(name, scores, *, last_seen=None, clock=10, levels=None):
    """A state whose buffer holds these scores."""
    n = len(scores)
    state = curriculum(name).init(jax.random.key(0))
    capacity = state.buffer.capacity
    levels = np.arange(1, n + 1) if levels is None else levels
    levels = jnp.zeros(capacity, jnp.int32).at[:n].set(jnp.asarray(levels, jnp.int32))
    last_seen = np.zeros(n, np.int32) if last_seen is None else last_seen
    buffer = state.buffer.replace(
        batch=state.buffer.batch.replace(
            levels=levels,
            hash=jax.vmap(SPACE.hash)(levels),
            origin=state.buffer.batch.origin.at[:n].set(NEW),
        ),
        score=state.buffer.score.at[:n].set(jnp.float32(scores)),
        last_seen=state.buffer.last_seen.at[:n].set(jnp.int32(last_seen)),
        n_episodes=state.buffer.n_episodes.at[:n].set(1),
        size=jnp.int32(n),
    )
    return state.replace(buffer=buffer, clock=jnp.int32(clock))


def batch_of(levels, origin=NEW):
    levels = jnp.int32(levels)
    return LevelBatch(
        levels=levels,
        hash=jax.vmap(SPACE.hash)(levels),
        origin=jnp.full(len(levels), origin, jnp.int32),
        parent=jnp.zeros((len(levels), 2), jnp.uint32),
        generation=jnp.zeros(len(levels), jnp.int32),
    )


def rows(hashes):
    return [tuple(h) for h in np.asarray(hashes)]


# --- Roles ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_every_algorithm_plays_its_roles_in_order(name):
    """New levels until the buffer is full enough; edits follow replays alone.

    Who trains on what sets these algorithms apart, and budgets with it.
    """
    config = CONFIGS[name]
    roles, last_role = [], NEW_LEVELS
    for before, draw, _, after, _ in play(name, 60):
        role = int(draw.role)
        roles.append(role)
        if role == REPLAYED:
            assert before.buffer.size >= config.min_fill * config.buffer_size
        if role == EDITED_LEVELS:
            assert last_role == REPLAYED
        if config.edit_prob == 1.0 and last_role == REPLAYED:
            assert role == EDITED_LEVELS
        assert bool(draw.trains) == (config.train_on_new or role == REPLAYED)
        assert after.clock == before.clock + 1
        assert after.last_role == role
        last_role = role
    expected = {NEW_LEVELS}
    if config.replay_prob > 0:
        expected.add(REPLAYED)
    if config.edit_prob > 0:
        expected.add(EDITED_LEVELS)
    assert set(roles) == expected
    if 0 < config.edit_prob < 1:
        followers = {b for a, b in itertools.pairwise(roles) if a == REPLAYED}
        assert EDITED_LEVELS in followers and len(followers) > 1


@pytest.mark.parametrize("name", CONFIGS)
def test_lineage_and_splits(name):
    """Levels are of the train split, replayed ones stored, edited ones next of kin."""
    last = None
    for before, draw, _, after, _ in play(name, 40):
        batch, role = draw.batch, int(draw.role)
        np.testing.assert_array_equal(
            batch.hash, jax.vmap(SPACE.hash)(jnp.asarray(batch.levels))
        )
        np.testing.assert_array_equal(split_of(jnp.asarray(batch.hash)), 0)
        if role == NEW_LEVELS:
            assert np.all(batch.origin == NEW)
            assert np.all(batch.parent == 0)
            assert np.all(batch.generation == 0)
        elif role == REPLAYED:
            stored = rows(before.buffer.batch.hash[: before.buffer.size])
            for i, level_hash in enumerate(rows(batch.hash)):
                slot = stored.index(level_hash)
                jax.tree.map(
                    lambda played, stored, i=i, slot=slot: (
                        np.testing.assert_array_equal(played[i], stored[slot])
                    ),
                    batch,
                    before.buffer.batch,
                )
        else:
            assert np.all(batch.origin == EDITED)
            np.testing.assert_array_equal(batch.parent, last.hash)
            np.testing.assert_array_equal(batch.generation, last.generation + 1)
            edit = batch.levels - last.levels
            assert np.all((edit >= 1) & (edit <= LARGEST_EDIT))
        stored = rows(after.buffer.batch.hash[: after.buffer.size])
        assert len(set(stored)) == len(stored)
        last = batch
    if CONFIGS[name].edit_prob > 0:
        assert after.buffer.batch.generation.max() > 1


@pytest.mark.parametrize("replay_prob", [0.2, 1.0])
def test_replays_are_as_frequent_as_asked(replay_prob):
    """The chance counts from when the buffer is full enough, not before."""
    config = ReplayConfig(replay_prob=replay_prob, buffer_size=8, min_fill=0.5)
    replay = LevelReplay(SPACE, config, L)
    keys = jax.random.split(jax.random.key(0), 2000)

    @jax.jit
    def count_replays(size):
        state = replay.init(keys[0])
        state = state.replace(buffer=state.buffer.replace(size=size))
        return jnp.sum(jax.vmap(functools.partial(replay.next_role, state))(keys))

    for size, ready in ((0, False), (3, False), (4, True), (8, True)):
        n_replays = int(count_replays(jnp.int32(size)))
        if not ready:
            assert n_replays == 0
        else:
            assert stats.binomtest(n_replays, 2000, replay_prob).pvalue > 1e-5


def test_nothing_is_replayed_from_an_empty_buffer():
    """However small the asked share, one level must be there to be drawn."""
    replay = LevelReplay(
        SPACE, ReplayConfig(replay_prob=1.0, min_fill=0.0, buffer_size=8), L
    )
    state = jax.jit(replay.init)(jax.random.key(0))
    for size, role in ((0, NEW_LEVELS), (1, REPLAYED)):
        state = state.replace(buffer=state.buffer.replace(size=jnp.int32(size)))
        assert int(replay.next_role(state, jax.random.key(1))) == role


def test_levels_that_never_finish_are_never_replayed():
    """A buffer that accepts nothing turns replay into silent domain randomisation.

    That is right, but must show: the buffer reports that it is empty.
    """
    for _, draw, _, after, metrics in play("robust PLR", 20, finishes=False):
        assert draw.role == NEW_LEVELS
        assert not draw.trains
        assert after.buffer.size == 0
        assert metrics["buffer_fill"] == 0
        assert metrics["buffer_effective_levels"] == 0
        assert metrics["finished_levels"] == 0
        assert metrics["acceptance"] == 0


def test_replayed_but_unfinished_levels_keep_their_score():
    """Published code overwrites the score of a replayed but unfinished level."""
    _, update, _ = jitted("PLR")
    state = stored_state("PLR", [5.0, 6.0])
    draw = Draw(batch_of([1, 1, 2, 2]), jnp.int32(REPLAYED), jnp.bool_(True))
    state, _ = update(state, jax.random.key(0), draw, feedback_of(np.ones(4), 0))
    np.testing.assert_array_equal(state.buffer.score[:2], [5.0, 6.0])
    np.testing.assert_array_equal(state.buffer.last_seen[:2], [10, 10])


def test_best_returns_survive_replays():
    """One published implementation forgets the best return after one replay."""
    _, update, _ = jitted("PLR")
    state = stored_state("PLR", [5.0, 6.0])
    batch = batch_of([1, 2, 3, 1])
    draw = Draw(batch, jnp.int32(REPLAYED), jnp.bool_(True))
    for best in (-2.0, -3.0):
        feedback = feedback_of(np.ones(4), [1, 0, 0, 1], best)
        state, _ = update(state, jax.random.key(0), draw, feedback)
        np.testing.assert_array_equal(
            curriculum("PLR").best_returns(state, batch), [-2, -np.inf, -np.inf, -2]
        )


# --- Seeds ---------------------------------------------------------------------------


def vmapped_sample(name, seed_axis):
    """`sample` of several seeds that share the key of their decisions."""
    replay = curriculum(name, seed_axis)
    return jax.vmap(
        lambda state, key, shared: replay.sample(state, key, shared, L),
        in_axes=(0, 0, None),
        axis_name=seed_axis,
    )


def two_seeds(name, sizes):
    states = [stored_state(name, np.arange(size)) for size in sizes]
    states = jax.tree.map(lambda *x: jnp.stack(x), *states)
    return states, jax.random.split(jax.random.key(3), len(sizes))


def test_all_seeds_play_the_same_role():
    """All wait for the emptiest buffer: one branch at a time is all a device runs."""
    sample = jax.jit(vmapped_sample("ACCEL", "seeds"))
    roles = {}
    for sizes in ((8, 16), (2, 16), (16, 7)):
        states, keys = two_seeds("ACCEL", sizes)
        roles[sizes] = set()
        for i in range(20):
            new_states, draw = sample(states, keys, jax.random.key(i))
            assert draw.role[0] == draw.role[1]
            assert rows(draw.batch.hash[0]) != rows(draw.batch.hash[1])
            np.testing.assert_array_equal(new_states.last_role, draw.role)
            roles[sizes].add(int(draw.role[0]))
    assert roles == {
        (8, 16): {NEW_LEVELS, REPLAYED},
        (2, 16): {NEW_LEVELS},
        (16, 7): {NEW_LEVELS},
    }


def sub_jaxprs(equation):
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, jax.extend.core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, jax.extend.core.Jaxpr):
                yield item


def count_primitives(jaxpr, name, *, inside_branches):
    """How often a primitive is executed, whatever is decided if outside branches."""
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name == name
        if equation.primitive.name == "cond" and not inside_branches:
            continue
        for inner in sub_jaxprs(equation):
            total += count_primitives(inner, name, inside_branches=inside_branches)
    return total


@pytest.mark.parametrize(("name", "n_branches"), [("PLR", 2), ("ACCEL", 3)])
def test_one_branch_runs_for_all_seeds(name, n_branches):
    """Under vmap a decision that differs between seeds runs every branch."""
    states, keys = two_seeds(name, (16, 16))
    arguments = states, keys, jax.random.key(0)

    # Every way to make levels holds a loop, so loops show which ways are taken.
    shared = jax.make_jaxpr(vmapped_sample(name, "seeds"))(*arguments).jaxpr
    assert count_primitives(shared, "cond", inside_branches=False) == 1
    assert count_primitives(shared, "while", inside_branches=False) == 0
    assert count_primitives(shared, "while", inside_branches=True) >= n_branches - 1
    text = jax.jit(vmapped_sample(name, "seeds")).lower(*arguments).as_text()
    assert text.count("stablehlo.case") == 1

    # Without the shared decision vmap turns the branches into a selection.
    alone = jax.make_jaxpr(vmapped_sample(name, None))(*arguments).jaxpr
    assert count_primitives(alone, "cond", inside_branches=True) == 0
    assert count_primitives(alone, "while", inside_branches=False) >= n_branches - 1


# --- Probabilities and metrics -------------------------------------------------------


@pytest.mark.parametrize("clock", [0, 5, 20, 30])
def test_probabilities_mix_two_scores_and_staleness(clock):
    """P = (1 - rho) ((1 - eta) P_S + eta P_S') + rho P_C, each on its own support."""
    config = ReplayConfig(
        buffer_size=6,
        staleness=0.25,
        second_weight=0.2,
        second_weight_end=0.8,
        temperature=0.5,
        second_temperature=2.0,
        support="dataset",
        staleness_support="generated",
    )
    replay = LevelReplay(SPACE, config, 2, total_updates=20, dataset=GIVEN)
    state = jax.jit(replay.init)(jax.random.key(0))
    first, second = (np.float32(x) for x in ([1, 1, 3, 0, 9, 9], [2, 5, 0, 0, 9, 9]))
    last_seen = np.int32([1, -4, -4, -2, 0, 0])
    origin = np.int32([DATASET, DATASET, EDITED, GENERATED, NEW, NEW])
    state = state.replace(
        buffer=state.buffer.replace(
            batch=state.buffer.batch.replace(origin=origin),
            score=first,
            score2=second,
            last_seen=last_seen,
            size=jnp.int32(4),
        ),
        clock=jnp.int32(clock),
    )
    filled = np.arange(6) < 4
    given = filled & (origin == DATASET)
    eta = 0.2 + 0.6 * min(clock / 20, 1.0)
    expected = 0.75 * (
        (1 - eta) * oracle.probabilities(first, given, temperature=0.5)
        + eta * oracle.probabilities(second, filled, temperature=2.0)
    ) + 0.25 * oracle.staleness(last_seen, clock, filled & ~given)
    p = replay.probabilities(state, jax.random.key(0))
    np.testing.assert_allclose(p, expected, rtol=1e-4)
    np.testing.assert_allclose(jnp.sum(p), 1.0, atol=1e-6)


# --- Given levels --------------------------------------------------------------------

DRED = ReplayConfig(
    buffer_size=16,
    replay_prob=1.0,
    edit_prob=1.0,
    train_on_new=False,
    score="l1",
    second_score="grounded_l1",
    support="dataset",
    staleness_support="dataset",
    second_weight_end=1.0,
    insert_by="second",
    insert_positive=True,
)


def both_scores(score, score2, n=L):
    return Feedback(
        score=jnp.broadcast_to(jnp.float32(score), (n,)),
        score2=jnp.broadcast_to(jnp.float32(score2), (n,)),
        max_return=jnp.ones(n),
        n_episodes=jnp.ones(n, jnp.int32),
        n_success=jnp.ones(n, jnp.int32),
    )


def play_given(config, n_batches, feedback):
    replay = LevelReplay(SPACE, config, L, total_updates=n_batches, dataset=GIVEN)
    state = jax.jit(replay.init)(jax.random.key(0))
    sample, update = jax.jit(replay.sample, static_argnums=3), jax.jit(replay.update)
    for i in range(n_batches):
        key = jax.random.key(i)
        state, draw = sample(state, key, key, L)
        yield state, draw
        state, _ = update(state, key, draw, feedback(i))


def test_given_levels_are_visited_once_without_learning():
    batches = list(play_given(DRED, 6, lambda i: both_scores(i + 1.0, 1.0)))
    visits = [draw for _, draw in batches[:2]]
    assert [int(draw.role) for _, draw in batches] == [
        NEW_LEVELS, NEW_LEVELS, REPLAYED, EDITED_LEVELS, REPLAYED, EDITED_LEVELS,
    ]  # fmt: skip
    assert not any(bool(draw.trains) for draw in visits)
    seen = np.concatenate([np.asarray(draw.batch.levels) for draw in visits])
    # Two batches of four hold six levels; the last two places begin anew.
    assert sorted(seen[:6]) == sorted(GIVEN.levels.tolist())
    assert seen[6:].tolist() == GIVEN.levels[:2].tolist()
    assert all(
        bool(draw.trains) == (i % 2 == 0) for i, (_, draw) in enumerate(batches[2:])
    )


def test_given_levels_are_never_evicted_and_edits_enter_by_the_second_score():
    # Edits score higher in the second channel each time, and zero in the first.
    *_, (state, _) = play_given(
        dataclasses.replace(DRED, buffer_size=8),
        40,
        lambda i: both_scores(0.0, 1.0 + i),
    )
    buffer = state.buffer
    assert int(buffer.size) == 8
    given = np.asarray(buffer.batch.origin) == DATASET
    assert sorted(np.asarray(buffer.batch.levels)[given]) == sorted(GIVEN.levels)
    assert (np.asarray(buffer.score2)[~given] > 30).all()


def test_levels_without_a_positive_second_score_do_not_enter():
    *_, (state, _) = play_given(DRED, 20, lambda i: both_scores(5.0, 0.0))
    assert int(state.buffer.size) == len(GIVEN)


def test_uniform_is_uniform():
    """The published configuration ranks ties by index: one level has 70 %."""
    config = dataclasses.replace(
        DRED, prioritization="uniform", staleness=0.0, edit_prob=0.0,
        second_weight_end=0.0,
    )  # fmt: skip
    batches = list(play_given(config, 300, lambda i: both_scores(i, 1.0)))
    assert all(int(draw.role) == REPLAYED for _, draw in batches)
    levels = np.concatenate([np.asarray(draw.batch.levels) for _, draw in batches])
    _, counts = np.unique(levels, return_counts=True)
    assert len(counts) == len(GIVEN)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_sets_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"holds 6 levels, fewer than the 8 of a batch"):
        LevelReplay(SPACE, DRED, 8, dataset=GIVEN)
    with pytest.raises(UserError, match=r"more than a buffer of 5: raise buffer_size"):
        LevelReplay(SPACE, dataclasses.replace(DRED, buffer_size=5), L, dataset=GIVEN)
    with pytest.raises(UserError, match="none is given: choose one"):
        LevelReplay(SPACE, DRED, L)
    with pytest.raises(UserError, match="use the algorithm vae-dred"):
        LevelReplay(
            SPACE,
            dataclasses.replace(DRED, edit_prob=0.0, generate_prob=1.0),
            L,
            dataset=GIVEN,
        )


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_staleness_weight_of_nothing_and_of_everything(weight):
    replay = LevelReplay(
        SPACE, dataclasses.replace(CONFIGS["PLR"], staleness=weight), L
    )
    state = stored_state("PLR", [1.0, 2.0, 3.0], last_seen=[4, 8, 10])
    p = replay.probabilities(state, jax.random.key(0))[:3]
    support = np.ones(3, bool)
    expected = {
        0.0: oracle.probabilities([1.0, 2.0, 3.0], support),
        1.0: oracle.staleness([4, 8, 10], 10, support),
    }
    np.testing.assert_allclose(p, expected[weight], rtol=1e-4)


def test_replays_follow_the_probabilities():
    """Slots are drawn with replacement, and a sharp temperature repeats one level."""
    replay = curriculum("PLR")
    state = stored_state("PLR", [3.0, 1.0, 2.0], last_seen=[9, 1, 5])
    keys = jax.random.split(jax.random.key(0), 1500)
    batches = jax.jit(jax.vmap(functools.partial(replay.replayed_levels, state)))(keys)
    counts = np.bincount(np.asarray(batches.levels).reshape(-1), minlength=4)[1:]
    p = np.asarray(replay.probabilities(state, keys[0]), np.float64)[:3]
    assert stats.chisquare(counts, counts.sum() * p / p.sum()).pvalue > 1e-5


def test_the_least_likely_level_is_evicted():
    """The combined weight counts, so staleness protects levels with low scores."""
    _, update, _ = jitted("PLR")
    scores = np.arange(16, dtype=np.float32) / 16
    last_seen = np.full(16, 10)
    last_seen[0] = 0  # the worst, but long unseen
    state = stored_state("PLR", scores, last_seen=last_seen)
    draw = Draw(batch_of([50, 51, 52, 53]), jnp.int32(NEW_LEVELS), jnp.bool_(True))
    feedback = feedback_of([0.5, 0.0, 0.0, 0.0])
    state, metrics = update(state, jax.random.key(0), draw, feedback)
    np.testing.assert_array_equal(state.buffer.batch.levels, [1, 50, *range(3, 17)])
    assert metrics["acceptance"] == 0.25


def test_metrics_of_a_batch():
    """Unique levels, finished ones, acceptance and mean score, by role."""
    _, update, _ = jitted("ACCEL")
    state = stored_state("ACCEL", [1.0])
    feedback = feedback_of([4.0, 8.0, 99.0, 2.0], [1, 1, 0, 1])
    for role, name in enumerate(("new", "replay", "edited")):
        draw = Draw(batch_of([7, 7, 8, 1]), jnp.int32(role), jnp.bool_(True))
        after, metrics = update(state, jax.random.key(0), draw, feedback)
        assert metrics["unique_levels"] == 3
        assert metrics["finished_levels"] == 0.75
        # One insertion among four: 7 once, 8 unfinished, 1 known.
        assert int(after.buffer.size) == 2
        if role == REPLAYED:
            assert np.isnan(metrics["acceptance"])
        else:
            assert metrics["acceptance"] == 0.25
        np.testing.assert_allclose(metrics[f"score_{name}"], 14 / 3, rtol=1e-6)
        others = {"score_new", "score_replay", "score_edited"} - {f"score_{name}"}
        assert all(np.isnan(metrics[other]) for other in others)


def test_metrics_of_the_buffer():
    """Fill, diversity, scores, age and share of edits of a state made by hand."""
    *_, measure = jitted("ACCEL")
    state = stored_state("ACCEL", [2.0, 2.0, 2.0, 2.0], last_seen=[6, 6, 6, 6])
    origin = state.buffer.batch.origin.at[1].set(EDITED)
    state = state.replace(
        buffer=state.buffer.replace(batch=state.buffer.batch.replace(origin=origin))
    )
    metrics = measure(state, jax.random.key(0))
    assert metrics["buffer_fill"] == 0.25
    np.testing.assert_allclose(metrics["buffer_effective_levels"], 4.0, rtol=1e-5)
    assert metrics["buffer_score"] == metrics["buffer_max_score"] == 2.0
    assert metrics["buffer_edited"] == 0.25
    assert metrics["buffer_age"] == 4.0

    # 0.7 of the mass by rank and 0.3 by age, of which the best has none.
    *_, measure = jitted("PLR")
    state = stored_state("PLR", [3.0, 1.0], last_seen=[10, 0])
    metrics = measure(state, jax.random.key(0))
    assert not {"buffer_edited", "buffer_generated"} & metrics.keys()
    best = 0.7 / (1 + 2 ** (-1 / 0.3))
    np.testing.assert_allclose(
        metrics["buffer_effective_levels"],
        1 / (best**2 + (1 - best) ** 2),
        rtol=1e-5,
    )
    assert metrics["buffer_score"] == 2.0
    assert metrics["buffer_max_score"] == 3.0
    assert metrics["buffer_age"] == 5.0


def test_domain_randomisation_remembers_nothing():
    """No buffer is paid for, or reported, where nothing is ever replayed."""
    for before, _, _, after, metrics in play("DR", 3):
        assert not {m for m in metrics if m.startswith("buffer")}
        assert after.buffer.capacity == L
        assert after.buffer.size == before.buffer.size == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"replay_prob": 1.5},
        {"min_fill": -0.1},
        {"edit_prob": 2.0},
        {"staleness": -1.0},
        {"second_weight": 1.1},
        {"score": "regret"},
        {"second_score": "nothing"},
        {"buffer_size": 0},
        {"train_on_new": False, "replay_prob": 0.0},
        {"prioritization": "best"},
        {"temperature": 0.0},
        {"top_k": 0},
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings):
    """What could never learn or never draw is refused before anything compiles."""
    with pytest.raises(UserError):
        ReplayConfig(**settings)


def test_a_buffer_smaller_than_a_batch_is_refused():
    with pytest.raises(UserError, match="buffer_size"):
        LevelReplay(SPACE, ReplayConfig(buffer_size=L - 1), L)


def test_scores_and_oracle_needs_are_those_of_the_config():
    """The experiment asks the curriculum what to compute."""
    config = ReplayConfig(score="l1", second_score="true_regret", buffer_size=8)
    assert LevelReplay(SPACE, config, L).scores == ("l1", "true_regret")
    assert config.needs_oracle
    assert not CONFIGS["PLR"].needs_oracle
