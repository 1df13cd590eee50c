"""What multipliers do: closed forms on a rig, models edited as text, and the table."""

import copy
import functools
import importlib.resources

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from rlgen.envs.physics.physics import (
    PARAMETERS,
    TASKS,
    PhysicsLevel,
    acting,
    physics,
    with_physics,
)
from rlgen.envs.physics.simulator import BACKENDS, make_simulator

GRAVITY, FRICTION, TORQUE, DAMPING = 10.0, 0.4, 0.3, 0.5
DT, N_STEPS = 0.002, 50
SPEED, SPIN = 2.0, 3.0  # of the puck and the rotor at first

XML = f"""
<mujoco>
  <compiler autolimits="true"/>
  <option timestep="{DT}" gravity="0 0 {-GRAVITY}"/>
  <custom>
    <numeric name="spring_mass_scale" data="0.5"/>
    <numeric name="spring_inertia_scale" data="0.5"/>
    <numeric name="constraint_ang_damping" data="0 {DAMPING} 0"/>
    <numeric name="constraint_stiffness" data="10000"/>
  </custom>
  <default><geom contype="0" conaffinity="0" friction="{FRICTION} 0 0"/></default>
  <worldbody>
    <geom type="plane" size="9 9 1" conaffinity="1"/>
    <body name="puck" pos="0 0 0.1">
      <joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 0 1"/>
      <geom type="sphere" size="0.1" mass="2" contype="1"/>
    </body>
    <body name="rotor" pos="0 5 2">
      <joint name="axle" type="hinge" axis="0 0 1" damping="{DAMPING}"/>
      <inertial pos="0 0 0" mass="3" diaginertia="0.25 0.25 0.25"/>
    </body>
    <body name="weight" pos="0 -5 5">
      <joint type="slide" axis="0 0 1"/>
      <inertial pos="0 0 0" mass="4" diaginertia="1 1 1"/>
    </body>
  </worldbody>
  <actuator><motor joint="axle" gear="{TORQUE}" ctrlrange="-1 1"/></actuator>
</mujoco>
"""

TIME = N_STEPS * DT
MAXIMAL = ("spring", "positional")


@functools.cache
def rig(backend):
    """A puck slides on the floor, a rotor is driven and damped, a weight falls."""
    from brax.envs.base import PipelineEnv
    from brax.io import mjcf

    class Rig(PipelineEnv):
        def reset(self, rng):
            raise NotImplementedError

        def step(self, state, action):
            raise NotImplementedError

        action_size = 1

    return Rig(mjcf.loads(XML), backend=backend)


@functools.cache
def compiled(backend):
    """Plays the rig with a constant action: speeds of puck, rotor and weight."""
    simulation = rig(backend)

    @jax.jit
    def play(level, action):
        simulator = with_physics(simulation, level)
        start = jnp.zeros(4), jnp.array([SPEED, 0.0, SPIN, 0.0])
        state = simulator.pipeline_init(*start)
        state, _ = jax.lax.scan(
            lambda state, _: (simulator.pipeline_step(state, action[None]), None),
            state,
            length=N_STEPS,
        )
        return state.qd

    return play


def speeds(backend, action=0.0, **multipliers):
    qd = compiled(backend)(physics(**multipliers), jnp.float32(action))
    return {"puck": float(qd[0]), "rotor": float(qd[2]), "weight": float(qd[3])}


def spin(backend, action=0.0, mass=1.0, gear=1.0, damping=1.0):
    """Of a rotor: I dw/dt = torque - damping w."""
    # spring and positional are told to take the square root of the inertia of 1/4.
    inertia = mass * (0.5 if backend in MAXIMAL else 0.25)
    at_rest = TORQUE * gear * action / (DAMPING * damping)
    return at_rest + (SPIN - at_rest) * np.exp(-DAMPING * damping * TIME / inertia)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_multiplier_has_its_closed_form(backend):
    own = speeds(backend)
    # The puck is let down on the floor in its first steps, which costs it some speed.
    slack = {"spring": 0.01, "positional": 0.01, "generalized": 0.15, "mjx": 0.15}
    for gravity, friction in ((1.0, 1.0), (2.0, 1.0), (1.0, 2.0), (0.5, 1.0)):
        after = speeds(backend, gravity=gravity, friction=friction)
        assert after["weight"] == pytest.approx(-GRAVITY * gravity * TIME, rel=3e-3)
        braking = (SPEED - after["puck"]) / gravity / friction
        assert braking == pytest.approx(SPEED - own["puck"], rel=slack[backend])
        assert after["rotor"] == pytest.approx(own["rotor"], rel=1e-4)
    if backend != "positional":  # there friction grows with the mass of what slides
        braking = FRICTION * GRAVITY * TIME
        assert SPEED - own["puck"] == pytest.approx(braking, rel=0.1)
    for multipliers in (
        {},
        {"mass": 2.0},
        {"mass": 0.5},
        {"damping": 2.0},
        {"gear": 2.0},
        {"gear": 0.5, "damping": 0.5, "mass": 1.5},
    ):
        for action in (0.0, 1.0):
            after = speeds(backend, action, **multipliers)
            expected = spin(backend, action, **multipliers)
            assert after["rotor"] == pytest.approx(expected, rel=3e-3)
            # Things fall alike, and what drives and damps is elsewhere.
            assert after["weight"] == pytest.approx(own["weight"], rel=1e-3)


def test_the_shared_simulation_stays_as_it_is():
    simulator = make_simulator("inverted_pendulum", "spring")
    before = simulator.sys
    other = with_physics(simulator, physics(gravity=2.0))
    assert simulator.sys is before and other.sys is not before
    np.testing.assert_allclose(before.gravity, [0, 0, -9.81], rtol=1e-6)
    np.testing.assert_allclose(other.sys.gravity, [0, 0, -19.62], rtol=1e-6)


#: The pendulum's model with other numbers in its text.
EDITS = {
    "gravity": ("0 0 -9.81", "0 0 -14.715"),
    "mass": ('<geom contype="0"', '<geom density="1250" contype="0"'),
    "gear": ('gear="100"', 'gear="150"'),
    "damping": ('damping="1"', 'damping="0.5"'),
}
FACTORS = {"gravity": 1.5, "mass": 1.25, "gear": 1.5, "damping": 0.5}


def test_a_pendulum_moves_as_one_whose_model_says_so():
    from brax.io import mjcf

    text = (
        importlib.resources.files("brax.envs.assets") / "inverted_pendulum.xml"
    ).read_text()
    for old, new in EDITS.values():
        assert old in text
        text = text.replace(old, new)
    nominal = make_simulator("inverted_pendulum", "generalized")
    _, structure = jax.tree.flatten(nominal.sys)

    @jax.jit
    def play(leaves):
        simulator = copy.copy(nominal)
        simulator.sys = jax.tree.unflatten(structure, leaves)
        state = simulator.pipeline_init(jnp.array([0.0, 0.1]), jnp.zeros(2))
        return jax.lax.scan(
            lambda s, _: (simulator.pipeline_step(s, jnp.array([0.2])),) * 2,
            state,
            length=10,
        )[1].q

    mine = play(jax.tree.leaves(with_physics(nominal, physics(**FACTORS)).sys))
    theirs = play(jax.tree.leaves(mjcf.loads(text)))
    own = play(jax.tree.leaves(nominal.sys))
    np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)
    assert np.abs(own - theirs).max() > 0.05  # or the agreement would mean little


def test_physics_of_unknown_name_is_a_mistake():
    with pytest.raises(TypeError):
        physics(wind=2.0)
    assert physics(mass=2.0).mass.dtype == np.float32


@pytest.mark.parametrize("backend", ["spring", "generalized"])
@pytest.mark.parametrize("task", TASKS)
def test_the_table_says_what_the_models_say(task, backend):
    """From the models by MuJoCo, without a simulation of brax."""
    system = make_simulator(task, backend).sys
    model = system.mj_model
    data = mujoco.MjData(model)
    mujoco.mj_resetData(model, data)
    mujoco.mj_forward(model, data)
    feels = {"gear"}
    # A force of gravity along some degree of freedom, where it is not balanced.
    data.qpos[:] += 0.1
    mujoco.mj_forward(model, data)
    if np.abs(data.qfrc_bias).max() > 1e-3:
        feels.add("gravity")
    if data.ncon or _can_touch(model):
        feels.add("friction")
    if backend == "spring":
        # Motors turn links, not rotors; and damping is that of joints that turn.
        feels.add("mass")
        damping = system.link.constraint_ang_damping
    else:
        matrix = np.zeros((model.nv, model.nv))
        for row, unit in zip(matrix, np.eye(model.nv), strict=True):
            mujoco.mj_mulM(model, data, row, unit)
        driven = model.jnt_dofadr[model.actuator_trnid[:, 0]]
        share = 1 - model.dof_armature[driven] / np.diag(matrix)[driven]
        if share.max() > 0.01:
            feels.add("mass")
        damping = system.dof.damping
    if np.any(np.asarray(damping) > 0):
        feels.add("damping")
    assert set(acting(task, backend)) == feels


def _can_touch(model):
    a, b = np.triu_indices(model.ngeom, k=1)
    kinds, partners = model.geom_contype, model.geom_conaffinity
    return np.any((kinds[a] & partners[b]) | (kinds[b] & partners[a]))


def test_levels_are_in_the_order_of_the_names():
    assert tuple(vars(physics())) == PARAMETERS
    assert PhysicsLevel.__dataclass_fields__.keys() == set(PARAMETERS)
