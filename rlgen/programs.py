"""The compiled programs of an experiment: one that trains, one that evaluates."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlgen import memory, processes
from rlgen import mesh as meshes
from rlgen.config import RunConfig
from rlgen.errors import UserError
from rlgen.experiment import EvalResult, Experiment

PyTree = Any
SEED_AXIS_NAME = "seeds"


def resolve_seed_axis(seed_axis: str) -> str:
    """What "auto" and "fit" mean on this backend, as far as is known so early."""
    if seed_axis == "fit":
        return "vmap"  # until it turns out not to
    if seed_axis != "auto":
        return seed_axis
    return "map" if jax.default_backend() == "cpu" else "vmap"


def seed_axis_name(config: RunConfig) -> str | None:
    """The axis that collectives over seeds name; None where seeds run apart."""
    vmapped = resolve_seed_axis(config.seed_axis) == "vmap"
    return SEED_AXIS_NAME if vmapped else None


def over_seeds(function: Callable, seed_axis: str) -> Callable:
    """Maps a function of one seed's arguments over a leading axis S of all of them."""
    if seed_axis == "vmap":
        return jax.vmap(function, axis_name=SEED_AXIS_NAME)
    return lambda *args: jax.lax.map(lambda each: function(*each), args)


def seed_keys(config: RunConfig) -> jax.Array:
    """One key per seed; seed i gets the key it would have alone."""
    return jnp.stack([jax.random.key(config.seed + i) for i in range(config.seeds)])


def return_freed_memory(*, collect: bool = True) -> None:
    """Gives what compilers have freed back to the system, where the C library can.

    LLVM frees hundreds of MiB after a compilation; glibc keeps them, in pieces that the
    next compilation does not always find.

    Args:
      collect: look for garbage of Python's first.
    """
    if collect:
        gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def few_objects_to_search() -> Iterator[None]:
    """What exists already is not searched for cycles of unreachable objects meanwhile.

    Traced programs are many objects that stay. Python would look through all of them
    again and again: a quarter of the time of tracing and lowering.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Tally(struct.PyTreeNode):
    """Metrics of the updates of a chunk, summed up while it runs.

    Nothing in it depends on how many updates there may be, so that chunks of any length
    are one and the same program.
    """

    total: jax.Array  # (M,) float32, over updates where the metric existed
    count: jax.Array  # (M,) int32, of those
    last: jax.Array  # (M,) float32, in the last update
    first_bad: jax.Array  # () int32, which update was not finite; -1 if all were

    @classmethod
    def empty(cls, n_metrics: int) -> Tally:
        """Of no updates."""
        return cls(
            total=jnp.zeros(n_metrics),
            count=jnp.zeros(n_metrics, jnp.int32),
            last=jnp.full(n_metrics, jnp.nan),
            first_bad=jnp.int32(-1),
        )

    def with_row(self, i: jax.Array, row: jax.Array, finite: jax.Array) -> Tally:
        """With update number i of the chunk, whose metrics are `row` float32[M]."""
        exists = jnp.isfinite(row)
        is_first_bad = (finite != 1.0) & (self.first_bad < 0)
        return Tally(
            total=self.total + jnp.where(exists, row, 0.0),
            count=self.count + exists,
            last=row,
            first_bad=jnp.where(is_first_bad, i, self.first_bad),
        )


class Plan:
    """The programs of one experiment, traced: nothing is compiled yet.

    Attributes:
      estimate: what one device will hold.
      state_shape: shapes of the states [S, ...].
      metric_names: of an update, in the order of a chunk's tally.
      seed_axis: "map" or "vmap".
      of_seeds, of_all: where arrays [S, ...] lie, and what all devices have.
    """

    @few_objects_to_search()
    def __init__(self, experiment: Experiment, config: RunConfig):
        self.experiment, self.config = experiment, config
        self.seed_axis = axis = resolve_seed_axis(config.seed_axis)
        mesh = meshes.make(config.devices, config.seeds)
        n_env_devices = mesh.shape[meshes.ENVS]
        if n_env_devices > 1 and not experiment.spreads_envs:
            raise UserError(
                f"Only seeds can be spread here, and {config.seeds} cannot be "
                f"divided among {config.devices} devices: choose --devices that "
                "divides --seeds."
            )
        begin = time.perf_counter()
        self.of_seeds, self.of_all = meshes.of_seeds(mesh), meshes.of_all(mesh)
        self.data = processes.place(experiment.data, self.of_all)
        keys = jax.eval_shape(lambda: seed_keys(config))

        def of(data: PyTree, method: str) -> Callable:
            """A method of the experiment, mapped over seeds, which share the data."""
            return over_seeds(getattr(experiment.with_data(data), method), axis)

        self.metric_names: list[str] = []
        initialise = self._trace(lambda data, keys: of(data, "init")(keys), keys)
        self.state_shape = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), initialise.out_info
        )

        def run_one(experiment, state, n_updates):
            # Traced once, for its metrics and for the loop.
            update = jax.jit(experiment.update, inline=True)
            self.metric_names = sorted(jax.eval_shape(update, state)[1])

            def body(i, carry):
                state, tally = carry
                state, metrics = update(state)
                # One array instead of forty scalars: scans pay per leaf.
                row = jnp.stack([metrics[name] for name in self.metric_names])
                return state, tally.with_row(i, row, metrics["finite"])

            tally = Tally.empty(len(self.metric_names))
            return jax.lax.fori_loop(0, n_updates, body, (state, tally))

        def run_all(data, states, n_updates):
            bound = experiment.with_data(data)
            return over_seeds(lambda state: run_one(bound, state, n_updates), axis)(
                states
            )

        def measured(method: str) -> Callable:
            return lambda data, states, keys: of(data, method)(states, keys)

        states, number = self.state_shape, jax.ShapeDtypeStruct((), jnp.int32)
        self.traced = {
            "init": initialise,
            # Every process has the tally, and what evaluations say.
            "chunk": self._trace(
                run_all, states, number, out=(self.of_seeds, self.of_all), donate=(1,)
            ),
        }
        for name in ("evaluate", "diagnose"):
            self.traced[name] = self._trace(
                measured(name), states, keys, out=self.of_all
            )
        self.trace_s = time.perf_counter() - begin
        self.estimate = self._estimated(mesh)

    def _trace(
        self,
        function: Callable,
        *args: PyTree,
        out: Any = None,
        donate: tuple[int, ...] = (),
    ) -> Any:
        # The dataset, and how many updates: all else has a leading axis of seeds.
        of_args = [
            self.of_all if getattr(arg, "shape", None) == () else self.of_seeds
            for arg in args
        ]
        shardings = (self.of_all, *of_args)
        program = jax.jit(
            meshes.over_devices(function, shardings),
            in_shardings=shardings,
            out_shardings=out or self.of_seeds,
            donate_argnums=donate,
        )
        return program.trace(self.data, *args)

    def _estimated(self, mesh: Any) -> memory.Estimate:
        needs = [memory.working_bytes(traced.jaxpr) for traced in self.traced.values()]
        here = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
        one = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self.state_shape
        )
        per_step = {}
        if (kept := self.experiment.kept_steps(one)) is not None:
            per_step = memory.per_step(*kept)
        return memory.Estimate(
            states=memory.tree_bytes(self.state_shape) // mesh.shape[meshes.SEEDS],
            data=memory.tree_bytes(self.data),
            # What is spread over environments is most of it.
            working=max(needs) // mesh.shape[meshes.ENVS],
            limit=memory.limit_of(here[0], len(here)),
            per_step=per_step,
        )


class Program:
    """The compiled parts of one experiment. Built once: nothing compiles in a run."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.experiment, self.config = plan.experiment, plan.config
        begin = time.perf_counter()
        compiled = self._compile()
        initialise = compiled["init"]
        self.initialise = lambda: initialise(self._spread(seed_keys(self.config)))
        self._chunk = compiled["chunk"]
        self._evaluate, self._diagnose = compiled["evaluate"], compiled["diagnose"]
        self.compile_s = plan.trace_s + time.perf_counter() - begin

    def _compile(self) -> dict[str, Callable]:
        """All programs, of their arguments without the data."""

        def compile_one(lowered: Any) -> Callable:
            return_freed_memory(collect=False)
            program = lowered.compile()
            return lambda *args: program(self.plan.data, *args)

        return_freed_memory()  # of tracing
        # One is compiled while the next is lowered, which is Python's work.
        with few_objects_to_search(), ThreadPoolExecutor(max_workers=1) as compiler:
            compiled = {
                name: compiler.submit(compile_one, traced.lower())
                for name, traced in self.plan.traced.items()
            }
        return {name: future.result() for name, future in compiled.items()}

    def chunk(self, states: PyTree, n_updates: int) -> tuple[PyTree, Tally]:
        """Advances all seeds; returns states and what is logged of them [S, ...]."""
        number = processes.place(np.int32(n_updates), self.plan.of_all)
        return self._chunk(states, number)

    def evaluate(self, states: PyTree, update: int) -> dict[str, EvalResult]:
        """Held-out results of all seeds [S, L, E], the same whenever it is asked."""
        processes.meet()  # one of them writes
        return self._evaluate(states, self._keys_at(update))

    def diagnose(self, states: PyTree, update: int) -> dict[str, jax.Array]:
        """Diagnostics of all seeds [S], the same whenever they are asked for."""
        return self._diagnose(states, self._keys_at(update))

    def gathered(self, tree: PyTree) -> PyTree:
        """All seeds' arrays [S, ...], whole in this process; all of them must call."""
        if processes.count() == 1:
            return tree
        processes.meet()
        gather = jax.jit(lambda x: x, out_shardings=self.plan.of_all)
        return processes.local(gather(tree))

    def _spread(self, keys: jax.Array) -> jax.Array:
        return processes.place(keys, self.plan.of_seeds)

    def _keys_at(self, update: int) -> jax.Array:
        keys = [
            jax.random.fold_in(jax.random.key(self.config.seed + i), update)
            for i in range(self.config.seeds)
        ]
        return self._spread(jnp.stack(keys))
