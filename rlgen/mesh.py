"""Many devices: seeds are spread over them and, where seeds are fewer, environments.

One mesh of two axes. Seeds have nothing to do with each other: each device runs its
own, by the very program that one device would run. Along the other axis XLA's
partitioner divides what `spread` says belongs to environments, and sums gradients over
it; level buffers, parameters and optimizers stay one logical array per seed.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
)

from rlgen.errors import UserError

PyTree = Any
SEEDS, ENVS = "seeds_over_devices", "envs_over_devices"

#: Of a CPU: a device waits for others in a loop and outside of it at once, and holds a
#: thread with each. With one thread a device, XLA's own number, those that came to two
#: sums in another order wait for each other for ever.
_THREADS_PER_DEVICE = 8
#: How long a device of a CPU waits for busy ones; XLA's 40 s would end the process.
_PATIENCE_S = 3600
_PATIENCE_FLAG = "--xla_cpu_collective_call_terminate_timeout_seconds"


def provide(n_devices: int, n_processes: int = 1) -> None:
    """Asks the CPUs of all processes for so many devices.

    Without effect once jax has looked for any.
    """
    n_devices = -(-n_devices // n_processes)
    if n_devices > 1:
        os.environ.setdefault("PJRT_NPROC", str(_THREADS_PER_DEVICE * n_devices))
        flag, given = _PATIENCE_FLAG, os.environ.get("XLA_FLAGS", "")
        if flag not in given:
            os.environ["XLA_FLAGS"] = f"{given} {flag}={_PATIENCE_S}".strip()
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", n_devices)


def make(n_devices: int, n_seeds: int) -> Mesh:
    """The mesh [seed axis, environment axis] of the first devices of each process.

    As many as divide both are along the seed axis; what is left is along the other.

    Args:
      n_devices: of all processes together.

    Raises:
      UserError: there are fewer devices, or processes cannot share them out.
    """
    n_processes = jax.process_count()
    if n_devices % n_processes:
        raise UserError(
            f"{n_devices} devices cannot be shared out among {n_processes} processes: "
            "choose --devices as a multiple of them."
        )
    of_process = n_devices // n_processes
    known = [
        device
        for process in range(n_processes)
        for device in jax.local_devices(process)[:of_process]
    ]
    if len(known) < n_devices:
        raise UserError(
            f"There are {jax.device_count()} devices, not {n_devices}: lower --devices."
        )
    over_seeds = math.gcd(n_devices, n_seeds)
    return jax.make_mesh(
        (over_seeds, n_devices // over_seeds),
        (SEEDS, ENVS),
        axis_types=(AxisType.Auto,) * 2,
        devices=known,
    )


def of_seeds(mesh: Mesh) -> NamedSharding:
    """Of arrays [S, ...]: each device has its own seeds."""
    return NamedSharding(mesh, PartitionSpec(SEEDS))


def of_all(mesh: Mesh) -> NamedSharding:
    """Of what every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def over_devices(function: Callable, shardings: Sequence[NamedSharding]) -> Callable:
    """Runs a function of S seeds on each device for the seeds that lie there.

    Args:
      function: from arrays [S, ...], or what seeds share, to arrays [S, ...].
      shardings: of its arguments, each `of_seeds` or `of_all`.
    """
    mesh = shardings[0].mesh
    if mesh.size == 1:
        return function
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(sharding.spec for sharding in shardings),
        out_specs=PartitionSpec(SEEDS),
        axis_names={SEEDS},  # the partitioner keeps the other axis
        check_vma=False,
    )


def _mesh_of_envs() -> AbstractMesh | None:
    """The mesh that is traced for, if it has devices for environments."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if dict(mesh.shape).get(ENVS, 1) > 1 else None


def spread(tree: PyTree, axis: int = 0) -> PyTree:
    """Says that an axis of all leaves is over environments, to be spread over devices.

    Changes nothing outside `over_devices`, or where no devices are left over for
    environments.

    Raises:
      UserError: environments cannot be divided among the devices.
    """
    mesh = _mesh_of_envs()
    if mesh is None:
        return tree
    n_devices = mesh.shape[ENVS]
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, ENVS))

    def constrained(leaf: jax.Array) -> jax.Array:
        if leaf.shape[axis] % n_devices:
            raise UserError(
                f"{leaf.shape[axis]} environments or examples cannot be spread over "
                f"{n_devices} devices: choose n_envs, and n_envs / n_minibatches, as a "
                "multiple of them, or --devices that divides --seeds."
            )
        return jax.lax.with_sharding_constraint(leaf, sharding)

    return jax.tree.map(constrained, tree)


def whole(tree: PyTree) -> PyTree:
    """Says that every device has all of a tree: what `spread` parted comes together."""
    mesh = _mesh_of_envs()
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))
