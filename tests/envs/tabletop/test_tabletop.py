"""The table: physics against plain NumPy, the contract, instructions and pictures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlgen.env import check_env, take
from rlgen.envs.tabletop import FetchAndCarry, Tabletop, TabletopState, Tasks, physics
from rlgen.envs.tabletop.levels import task
from rlgen.errors import UserError

KEY = jax.random.key(0)
ENV = Tabletop()
HERE = task([0.5, 0.0], [-0.5, 0.0], 0.15, 1.0, 4.0, 7, False)
BACK = HERE.replace(backward=np.bool_(True))
N_STEPS, N_LANES = 30, 96


def oracle_step(body, action, mass, friction):
    """One step in float64, told in words: grasp, follow what is told, slide, stop."""
    body = {name: np.array(value, np.float64) for name, value in body.items()}
    closes = action[2] > 0
    distance = np.hypot(*(body["object"] - body["hand"]))
    grasps = closes and not body["closed"] and distance < 0.06
    holding = bool(closes and (body["holding"] or grasps))
    velocity = body["hand_velocity"]
    if grasps and not body["holding"]:
        momentum = 0.25 * velocity + mass * body["object_velocity"]
        velocity = momentum / (0.25 + mass)
    weight = 0.25 + (mass if holding else 0.0)
    told = 1.5 * np.clip(action[:2], -1, 1)
    velocity = (weight * velocity + told) / (weight + 1.0)
    free = body["object_velocity"]
    speed = np.hypot(*free)
    if speed > 0:
        free = free * max(speed - 0.1 * friction, 0.0) / speed
    moved = {"hand": velocity, "object": velocity if holding else free}
    out = {"closed": closes, "holding": holding}
    for axis in (0, 1):
        together = ["hand", "object"] if holding else ["hand"]
        for group in (together, [] if holding else ["object"]):
            if not group:
                continue
            shift = 0.1 * moved[group[0]][axis]
            room = (
                [-1 - body[g][axis] for g in group],
                [1 - body[g][axis] for g in group],
            )
            allowed = min(max(shift, max(room[0])), min(room[1]))
            for g in group:
                out.setdefault(g, np.zeros(2))[axis] = body[g][axis] + allowed
                stopped = allowed != shift
                new = 0.0 if stopped else moved[group[0]][axis]
                out.setdefault(f"{g}_velocity", np.zeros(2))[axis] = new
    return out


@functools.cache
def journeys():
    """Many tables: random actions, and near the object, closing and opening, throws."""
    rng = np.random.default_rng(0)
    hand = rng.uniform(-1, 1, (N_LANES, 2)).astype(np.float32)
    # Half of them start at the object, some in a corner of the table.
    near = np.clip(hand + rng.uniform(-0.05, 0.05, (N_LANES, 2)), -1, 1)
    far = rng.uniform(-1, 1, (N_LANES, 2))
    place = np.where(np.arange(N_LANES)[:, None] % 2 == 0, near, far)
    body = physics.Body(
        hand=hand,
        hand_velocity=rng.uniform(-1.5, 1.5, (N_LANES, 2)).astype(np.float32),
        object=place.astype(np.float32),
        object_velocity=rng.uniform(-1.0, 1.0, (N_LANES, 2)).astype(np.float32),
        closed=rng.random(N_LANES) < 0.2,
        holding=np.zeros(N_LANES, bool),
    )
    mass = rng.uniform(0.5, 2.0, N_LANES).astype(np.float32)
    friction = rng.uniform(3.0, 10.0, N_LANES).astype(np.float32)
    # Directions and fingers are kept for some steps: else nothing goes anywhere.
    actions = rng.uniform(-1.5, 1.5, (N_STEPS // 5, N_LANES, 3)).repeat(5, axis=0)
    actions = actions.astype(np.float32)

    @jax.jit
    def play(body, actions):
        def step(body, action):
            body = jax.vmap(physics.move)(body, action, mass, friction)
            return body, body

        return jax.lax.scan(step, body, actions)[1]

    after = play(body, actions)
    joined = jax.tree.map(lambda a, b: np.concatenate([a[None], b]), body, after)
    return joined, actions, mass, friction


def test_a_step_is_that_of_the_oracle():
    bodies, actions, mass, friction = journeys()
    seen = {"grasps": 0, "drops": 0, "edges": 0}
    for i in range(N_LANES):
        for t in range(N_STEPS):
            before = vars(take(bodies, (t, i)))
            if abs(np.hypot(*(before["object"] - before["hand"])) - 0.06) < 1e-5:
                continue  # float32 may see it on the other side
            wanted = oracle_step(before, actions[t, i], mass[i], friction[i])
            after = vars(take(bodies, (t + 1, i)))
            for name, value in wanted.items():
                np.testing.assert_allclose(after[name], value, atol=2e-6, err_msg=name)
            seen["grasps"] += after["holding"] and not before["holding"]
            seen["drops"] += before["holding"] and not after["holding"]
            seen["edges"] += (np.abs(after["object"]) == 1.0).any()
    assert min(seen.values()) > 5, seen


def test_only_fingers_that_close_at_the_object_take_hold_of_it():
    def hold(offset, closed=False):
        body = at_rest((0.0, 0.0), (offset, 0.0)).replace(closed=jnp.bool_(closed))
        grip = jnp.array([0.0, 0.0, 1.0])
        return bool(
            physics.move(body, grip, jnp.float32(1.0), jnp.float32(2.0)).holding
        )

    assert hold(0.059) and not hold(0.061)
    assert not hold(0.0, closed=True)  # they were closed already


def at_rest(hand, place):
    zero = jnp.zeros(2)
    return physics.Body(
        hand=jnp.array(hand),
        hand_velocity=zero,
        object=jnp.array(place),
        object_velocity=zero,
        closed=jnp.bool_(False),
        holding=jnp.bool_(False),
    )


@functools.cache
def compiled():
    return jax.jit(ENV.reset), jax.jit(ENV.step)


STILL = jnp.array([0.0, 0.0, -1.0])


@pytest.mark.parametrize("settings", [{}, {"task_vector": "one-hot", "vector_size": 3}])
def test_the_contract(settings):
    level = jax.tree.map(jnp.asarray, BACK)
    check_env(Tabletop(**settings), level, KEY)


@pytest.mark.parametrize(
    ("level", "place", "radius"),
    [(HERE, (0.5, 0.0), 0.06), (BACK, (-0.5, 0.0), 0.15)],
)
def test_success_is_at_the_target_let_go_and_at_rest(level, place, radius):
    _, step = compiled()

    def after(offset, velocity=0.0, holding=False, time=3):
        body = at_rest((0.0, 0.9), (place[0] + offset, place[1])).replace(
            object_velocity=jnp.array([velocity, 0.0]),
            holding=jnp.bool_(holding),
            closed=jnp.bool_(holding),
        )
        state = TabletopState(body=body, time=jnp.int32(time))
        grip = jnp.array([0.0, 0.0, 1.0 if holding else -1.0])
        return step(KEY, level, state, grip)

    done = after(radius - 0.005)
    assert done.info["success"] and done.terminated and done.reward == 1.0
    for fails in (
        after(radius + 0.005),
        after(0.0, velocity=0.5),  # it slides on: 4 m/s^2 leave 0.1 m/s
        after(0.0, holding=True),
    ):
        assert not fails.info["success"] and fails.reward == 0.0
        assert not fails.terminated and not fails.truncated
    assert after(0.3, time=39).truncated
    late = after(0.0, time=39)
    assert late.terminated and not late.truncated


def test_episodes_begin_where_the_task_says():
    keys = jax.random.split(KEY, 256)
    for level, centre, radius in ((HERE, (-0.5, 0), 0.15), (BACK, (0.5, 0), 0.06)):
        state, _ = jax.vmap(ENV.reset, (0, None))(keys, level)
        body = state.body
        far = np.hypot(*(np.asarray(body.object) - centre).T)
        assert far.max() < radius and far.max() > 0.95 * radius
        assert np.median(far) == pytest.approx(radius / np.sqrt(2), rel=0.1)
        assert not np.any(body.closed | body.holding)
        assert np.abs(body.hand).max() > 0.95 and np.abs(body.hand).mean() < 0.6


def test_an_instruction_moves_nothing_and_says_something_else():
    reset, step = compiled()
    state, _ = reset(KEY, HERE)
    for i in range(4):
        state = step(KEY, HERE, state, jnp.array([0.5, -0.3, (-1.0) ** i])).state
    told, obs = jax.jit(ENV.instruct)(BACK, state)
    for a, b in zip(
        jax.tree.leaves(state.body), jax.tree.leaves(told.body), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert int(state.time) == 4 and int(told.time) == 0
    before = np.asarray(step(KEY, HERE, state, STILL).obs)
    after = np.asarray(step(KEY, BACK, told, STILL).obs)
    differ = np.flatnonzero(before != after)
    np.testing.assert_array_equal(differ, [10, 12, 13])  # homes and goals have y = 0
    assert after[10] - before[10] == pytest.approx(-1.0) and obs[12] == 0.15
    assert before[13] == 0 and after[13] == 1


def test_a_picture_would_show_all_but_velocities():
    body = at_rest((0.1, 0.2), (0.3, 0.4))
    moving = body.replace(
        hand_velocity=jnp.array([0.5, 0.6]), object_velocity=jnp.array([0.7, -0.8])
    )
    a, b = (
        np.asarray(ENV.observe(HERE, TabletopState(body=x, time=jnp.int32(0))))
        for x in (body, moving)
    )
    hidden = sorted(set(range(len(a))) - set(ENV.visible))
    np.testing.assert_array_equal(np.flatnonzero(a != b), hidden)
    np.testing.assert_allclose(b[:4], [0.1, 0.2, 0.5, 0.6])
    np.testing.assert_allclose(b[6:12], [0.2, 0.2, 0.7, -0.8, 0.2, -0.4], atol=1e-6)


def test_task_vectors_tell_the_number_and_nothing_else():
    one_hot = Tabletop(task_vector="one-hot", vector_size=5)
    state, obs = one_hot.reset(KEY, HERE)
    np.testing.assert_array_equal(obs[14:], np.eye(5)[7 % 5])
    numbers = HERE.replace(number=jnp.arange(200, dtype=jnp.int32))
    axes = jax.tree.map(lambda _: None, HERE).replace(number=0)
    vectors = jax.vmap(lambda level: ENV.observe(level, state)[14:], (axes,))(numbers)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    # Directions without a preference, no two alike.
    assert np.abs(vectors.mean(axis=0)).max() < 0.1
    alike = np.asarray(vectors @ vectors.T) - np.eye(200)
    assert alike.max() < 0.99
    back = ENV.observe(
        numbers.replace(number=jnp.int32(3), backward=jnp.bool_(True)), state
    )
    np.testing.assert_array_equal(back[14:], vectors[3])


@functools.cache
def solved(noise):
    """Whether and when the scripted agent succeeds on 256 tasks."""
    agent = FetchAndCarry(noise)

    @jax.jit
    @jax.vmap
    def play(key):
        key_level, key_reset, key_play = jax.random.split(key, 3)
        level = Tasks().sample(key_level)
        state, _ = ENV.reset(key_reset, level)

        def step(state, key):
            out = ENV.step(key, level, state, agent(key, level, state))
            return out.state, out.info["success"]

        _, success = jax.lax.scan(
            step, state, jax.random.split(key_play, ENV.max_steps)
        )
        return level.backward, success.any()

    return jax.device_get(play(jax.random.split(KEY, 256)))


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_scripted_agent_solves_both_directions(noise):
    backward, success = solved(noise)
    assert success[backward].mean() >= 0.95 and success[~backward].mean() >= 0.95
    assert 100 < backward.sum() < 156


def test_the_picture_shows_what_is_where():
    body = at_rest((-0.5, 0.55), (0.3, -0.4))
    state = TabletopState(body=body, time=jnp.int32(0))
    picture = np.asarray(jax.jit(ENV.render)(HERE, state)).astype(int)
    assert picture.shape == (96, 96, 3)

    def colour_at(x, y):
        return picture[int((1 - y) / 2 * 96), int((x + 1) / 2 * 96)].tolist()

    assert colour_at(0.3, -0.4) == [213, 94, 0]  # the object
    assert colour_at(0.5, 0.0) == [0, 158, 115]  # the goal, strong
    assert colour_at(0.9, 0.9) == [244, 243, 238]  # the table
    home = colour_at(-0.5, 0.0)
    back = np.asarray(ENV.render(BACK, state)).astype(int)
    strong = back[48, 24].tolist()
    assert home != strong == [86, 180, 233]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task_vector": "words"}, "Unknown task_vector 'words': choose embedding"),
        ({"vector_size": 0}, "must be at least 1"),
        ({"max_steps": 0}, "must be at least 1"),
    ],
)
def test_bad_settings_get_one_sentence(settings, message):
    with pytest.raises(UserError, match=message):
        Tabletop(**settings)
