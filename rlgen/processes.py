"""Several processes that train one run together, on one machine or many.

JAX's own runtime joins them: every process runs the same program on its devices, and
the first one writes. What a process decides by itself (a signal came, a minute has
passed) is agreed on before anyone acts on it.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from rlgen.config import RunConfig
from rlgen.errors import UserError

PyTree = Any

#: How long a process may be silent before the others give it up: one that compiles on a
#: busy machine is. One that died is noticed at once, by the next sum over processes.
HEARTBEAT_TIMEOUT_S = 100
#: How long one that ends waits for the others to end, too.
SHUTDOWN_TIMEOUT_S = 60
#: How long one waits for another that compiles or draws.
MEETING_TIMEOUT_S = 3600
_meetings = itertools.count()


def join(config: RunConfig) -> None:
    """Joins the processes of a run, where it has several; before jax has any device.

    Raises:
      UserError: nobody says how many they are, or they do not come together.
    """
    if not config.coordinator or jax.distributed.is_initialized():
        return
    named: dict[str, Any] = {}
    if config.coordinator != "auto":
        named = {
            "coordinator_address": config.coordinator,
            "num_processes": config.processes,
            "process_id": config.process,
        }
    # Signals are ours: a checkpoint is saved between two chunks.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **named,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT_S,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"The processes of this run did not come together ({reason}): start it by "
            "srun or mpirun with --coordinator auto, or give each of them "
            "--coordinator HOST:PORT, --processes and --process."
        ) from None


def count() -> int:
    """How many processes train this run."""
    # Alone nobody asks jax, which would look for devices: a CPU has none to add then.
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_writer() -> bool:
    """Whether this process writes the run's files; exactly one does."""
    return count() == 1 or jax.process_index() == 0


def agree(*flags: int) -> tuple[int, ...]:
    """The largest value of each flag in any process; all of them must call."""
    if count() == 1:
        return flags
    from jax.experimental import multihost_utils

    everyone = multihost_utils.process_allgather(np.asarray(flags, np.int32))
    return tuple(int(x) for x in np.max(everyone.reshape(-1, len(flags)), axis=0))


def meet() -> None:
    """Returns once every process has called it.

    Their devices do not do for this: those of CPUs give up when the first sum over
    them begins in one process half a minute before it does in another.
    """
    if count() > 1:
        ocp.multihost.get_barrier_sync_fn()(
            key=f"rlgen_{next(_meetings)}", timeout_ms=1000 * MEETING_TIMEOUT_S
        )


def place(tree: PyTree, sharding: jax.sharding.Sharding) -> PyTree:
    """Arrays that every process has, laid out over devices of all processes."""
    if count() == 1:
        return jax.device_put(tree, sharding)

    def global_array(x: Any) -> jax.Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = global_array(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])

    return jax.tree.map(global_array, tree)


def local(tree: PyTree) -> PyTree:
    """Arrays that all processes have whole, as arrays of this one's first device."""
    if count() == 1:
        return tree
    return jax.tree.map(lambda x: x.addressable_data(0), tree)
