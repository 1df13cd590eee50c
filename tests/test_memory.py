"""Memory: by hand for small programs, against XLA's own for whole updates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY_MAZE

from rlgen import memory, programs, training
from rlgen.errors import UserError
from rlgen.memory import Estimate

KIB = 1024
ONE = jnp.zeros((16, 16), jnp.float32)  # one KiB


def working(function, *args):
    return memory.working_bytes(jax.make_jaxpr(function)(*args))


def test_what_something_later_reads_lives_until_then():
    # Products are written; the first is read again at the end.
    assert working(lambda a: a @ a, ONE) == 1 * KIB
    assert working(lambda a: (a @ a) @ a, ONE) == 2 * KIB

    def kept(a):
        b = a @ a
        c = (b @ a) @ a
        return c @ b

    assert working(kept, ONE) == 3 * KIB


def test_masks_and_sums_are_computed_where_they_are_read():
    big = jnp.zeros((1024, 16, 16))
    assert working(lambda a: (jnp.sin(a) * 2.0 + 1.0).sum(), big) < KIB
    # But a product wants to read all of them.
    assert working(lambda a: jnp.sin(a) @ a, ONE) == 2 * KIB


def test_a_loop_keeps_what_it_stacks_and_needs_one_step_at_a_time():
    def loop(a):
        def step(carry, _):
            product = (carry @ a) @ a
            return product, product

        return jax.lax.scan(step, a, length=10)[1]

    # Ten results, the last carry, and two products at work.
    assert 10 * KIB < working(loop, ONE) <= 13 * KIB


def test_of_two_branches_the_larger_counts():
    def either(small):
        def choose(a):
            return jax.lax.cond(
                a[0, 0] > 0,
                (lambda a: a) if small else (lambda a: (a @ a) @ (a @ a)),
                lambda a: (a @ a) @ a,
                a,
            )

        return working(choose, ONE)

    assert either(small=False) > either(small=True)


SIZES = {"n_steps": 64, "n_envs": 32, "core_size": 64, "channels": 16, "n_heldout": 2}


@pytest.mark.slow
@pytest.mark.parametrize("core", ["lstm", "none"])
def test_an_update_needs_what_xla_says_that_it_does(core):
    settings = TINY_MAZE | SIZES | {"core": core, "max_steps": 64}
    experiment = training.make_config("dr", "maze", "quick", settings).build()
    state = jax.eval_shape(experiment.init, jax.random.key(0))
    traced = jax.jit(experiment.update).trace(state)
    ours = memory.working_bytes(traced.jaxpr)
    stats = traced.lower().compile().memory_analysis()
    xla = stats.temp_size_in_bytes + stats.output_size_in_bytes
    assert 0.6 < ours / xla < 1.6, (ours, xla)


def config(**settings):
    quiet = {"progress": False, "pictures": False}
    return training.make_config("dr", "maze", "quick", TINY_MAZE | quiet | settings)


def test_steps_are_kept_in_small_types():
    made = config()
    estimate = programs.Plan(made.build(), made.run).estimate
    sizes = estimate.per_step
    view = made.levels_config.make_env().observation_space["view"].shape
    assert sizes["obs.view"] == np.prod(view)  # uint8
    assert sizes["reset"] == sizes["terminated"] == sizes["info.success"] == 1
    assert sizes["targets.advantage"] == 4
    said = str(estimate)
    assert said.startswith("memory, estimated: ")
    assert f"each environment step keeps {sum(sizes.values())} bytes: action 4" in said


def test_what_does_not_fit_says_how_many_environments_do(tmp_path, monkeypatch):
    whole = config(n_envs=256, out=str(tmp_path / "runs"))
    needed = programs.Plan(whole.build(), whole.run).estimate.needed
    limit = int(0.7 * needed)
    monkeypatch.setattr(memory, "limit_of", lambda device, n_devices=1: limit)
    with pytest.raises(memory.TooLarge) as refused:
        training.run_training(whole)
    said = str(refused.value)
    assert "lower n_envs from 256 to " in said and said.endswith(".")
    fewer = int(said.split(" to ")[1].rstrip("."))
    assert 100 <= fewer < 160 and fewer % whole.algo.ppo.n_minibatches == 0
    more = config(n_envs=fewer + 2 * whole.algo.ppo.n_minibatches)
    assert not programs.Plan(more.build(), more.run).estimate.fits
    assert not (tmp_path / "runs").exists()
    ours = config(n_envs=fewer)
    assert programs.Plan(ours.build(), ours.run).estimate.fits


def test_seeds_go_one_after_another_where_they_do_not_fit_together(
    tmp_path, monkeypatch
):
    def needed(axis):
        made = config(seeds=8, seed_axis=axis)
        return programs.Plan(made.build(), made.run).estimate.needed

    together, alone = needed("vmap"), needed("map")
    assert together > 2 * alone
    limit = [(together + alone) // 2]
    monkeypatch.setattr(memory, "limit_of", lambda device, n_devices=1: limit[0])
    with monkeypatch.context() as patch:
        patch.setattr(memory, "largest", lambda *_: None)  # how large is told above
        with pytest.raises(memory.TooLarge, match="or choose --seed-axis fit"):
            training.run_training(config(seeds=8, seed_axis="vmap", out=str(tmp_path)))
    fitted = config(seeds=8, seed_axis="fit", n_updates=2, out=str(tmp_path))
    store = training.run_training(fitted)
    assert store.is_done and store.read_run()["seed_axis"] == "map"
    # A run goes on as it began, however much memory there is then.
    limit[0] = 2 * together
    assert training.planned(fitted, store).seed_axis == "map"
    nowhere = store.path.parent / "nowhere"
    fresh = training.planned(fitted, type(store)(nowhere))
    assert fresh.seed_axis == "vmap"


def affine(n):
    return Estimate(states=100, data=0, working=10 * n, limit=700, per_step={})


def test_the_largest_size_that_fits():
    assert memory.largest(affine, 128, affine(128)) == 60

    def divided(n):
        if n % 16:
            raise UserError("choose a multiple of sixteen.")
        return affine(n)

    assert memory.largest(divided, 96, affine(96)) == 48
    assert memory.largest(affine, 1, affine(100)) is None

    def never(n):
        raise UserError("no.")

    assert memory.largest(never, 128, affine(128)) is None


def test_readable_sizes():
    assert memory.readable(0) == "0 bytes"
    assert memory.readable(1536) == "1.5 KiB"
    assert memory.readable(3 * 1024**3) == "3 GiB"


def test_what_an_experiment_does_is_traced_once(monkeypatch):
    made = training.make_config("plr", preset="quick", settings=TINY_MAZE)
    experiment = made.build()
    count = {"init": 0, "update": 0, "evaluate": 0}
    for name in count:
        original = getattr(type(experiment), name)

        def counted(self, *args, name=name, original=original):
            count[name] += 1
            return original(self, *args)

        monkeypatch.setattr(type(experiment), name, counted)
    plan = programs.Plan(experiment, made.run)
    assert count == {"init": 1, "update": 1, "evaluate": 1}
    assert "finite" in plan.metric_names
