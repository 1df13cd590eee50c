"""What a level multiplies in a simulation, and which tasks feel it."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

PARAMETERS = ("gravity", "mass", "gear", "damping", "friction")

_MAXIMAL = ("spring", "positional")  # backends in maximal coordinates

#: What has an effect in a task, by backend. Left out: friction where nothing touches
#: anything; gravity where links move in a horizontal plane (reacher) or there is none
#: (pusher); damping of the pendula in maximal coordinates, which have none there; and
#: the reacher's mass in joint coordinates, where its links weigh nothing beside the
#: inertia of its motors (all masses twice as heavy changed motions by 0.3 %).
_ACTING: dict[str, dict[str, tuple[str, ...]]] = {
    "maximal": {
        "inverted_pendulum": ("gravity", "mass", "gear"),
        "inverted_double_pendulum": ("gravity", "mass", "gear"),
        "reacher": ("mass", "gear", "damping"),
        "pusher": ("mass", "gear", "damping", "friction"),
        "hopper": PARAMETERS,
        "walker2d": PARAMETERS,
        "halfcheetah": PARAMETERS,
        "ant": PARAMETERS,
    },
    "joints": {
        "inverted_pendulum": ("gravity", "mass", "gear", "damping"),
        "inverted_double_pendulum": ("gravity", "mass", "gear", "damping"),
        "reacher": ("gear", "damping"),
        "pusher": ("mass", "gear", "damping", "friction"),
        "hopper": PARAMETERS,
        "walker2d": PARAMETERS,
        "halfcheetah": PARAMETERS,
        "ant": PARAMETERS,
    },
}
TASKS = tuple(_ACTING["maximal"])


def acting(task: str, backend: str) -> tuple[str, ...]:
    """The multipliers that have an effect in one of `TASKS`."""
    return _ACTING["maximal" if backend in _MAXIMAL else "joints"][task]


class PhysicsLevel(struct.PyTreeNode):
    """Multipliers of a task's physics; 1 is the task's own.

    What each is of depends on the backend; see `with_physics`.
    """

    gravity: jax.Array  # () float32
    mass: jax.Array  # () float32, of masses and inertias alike
    gear: jax.Array  # () float32, strength of the motors
    damping: jax.Array  # () float32, of the joints
    friction: jax.Array  # () float32, where bodies touch


def physics(**multipliers: float) -> PhysicsLevel:
    """The level of some multipliers, as host arrays; those not named are 1.

    Raises:
      TypeError: a name that is not in `PARAMETERS`.
    """
    leaves: Any = dict.fromkeys(PARAMETERS, np.float32(1.0))
    given = {name: np.float32(value) for name, value in multipliers.items()}
    return PhysicsLevel(**(leaves | given))


def with_physics(simulator: Any, level: PhysicsLevel) -> Any:
    """The same environment of brax in the physics of a level.

    The one passed in is shared and stays as it is. MJX reads fields of MuJoCo, the
    other backends fields of brax; both are set. spring and positional simulate neither
    the masses nor the inertias of the model but powers of them (all 1 in many tasks),
    and damp hinges by `constraint_ang_damping`: those are what is multiplied there. The
    inertia of motors (`armature`) and what MuJoCo derives from the model's masses to
    soften contacts (`invweight`) keep their values.
    """
    system = simulator.sys
    link, dof, actuator = system.link, system.dof, system.actuator
    mass, inertia = link.inertia.mass, link.inertia.i
    if simulator.backend in _MAXIMAL:
        mass = mass ** (1 - system.spring_mass_scale)
        inertia = jax.vmap(jnp.diag)(
            jnp.diagonal(inertia, axis1=1, axis2=2) ** (1 - system.spring_inertia_scale)
        )
        zero = jnp.zeros_like(system.spring_mass_scale)
        system = system.replace(spring_mass_scale=zero, spring_inertia_scale=zero)
        # Springs hold links together, as stiff as the step of time allows: light links
        # would burst (the reacher's did at half its mass) were they not softer too.
        link = link.replace(
            constraint_stiffness=link.constraint_stiffness * level.mass,
            constraint_limit_stiffness=link.constraint_limit_stiffness * level.mass,
            constraint_vel_damping=link.constraint_vel_damping * level.mass,
        )
    changed = copy.copy(simulator)
    changed.sys = system.replace(
        gravity=system.gravity * level.gravity,
        opt=system.opt.replace(gravity=system.opt.gravity * level.gravity),
        link=link.replace(
            inertia=link.inertia.replace(
                mass=mass * level.mass, i=inertia * level.mass
            ),
            constraint_ang_damping=link.constraint_ang_damping * level.damping,
        ),
        body_mass=system.body_mass * level.mass,
        body_inertia=system.body_inertia * level.mass,
        body_subtreemass=system.body_subtreemass * level.mass,
        actuator=actuator.replace(gear=actuator.gear * level.gear),
        actuator_gear=system.actuator_gear * level.gear,
        dof=dof.replace(damping=dof.damping * level.damping),
        dof_damping=system.dof_damping * level.damping,
        geom_friction=system.geom_friction * level.friction,
    )
    return changed
