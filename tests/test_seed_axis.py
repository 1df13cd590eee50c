"""Seeds side by side: what all decide alike stays a branch, in every family."""

import jax
import pytest
from tiny import TINY_MAZE, TINY_TASKS

from rlgen import memory, programs, training

MAZE = TINY_MAZE | {"n_envs": 4, "core": "none", "seeds": 2}
REPLAY = MAZE | {"buffer_size": 16, "min_fill": 0.2}
CASES = {
    "robust-plr": ("maze", REPLAY),
    "accel": ("maze", REPLAY),
    "sfl": ("maze", MAZE | {"n_steps": 16}),
    "repaired": ("maze", REPLAY | {"n_blocks": 4}),
    "plr-d": (
        "cave",
        {
            "seeds": 2,
            "n_envs": 4,
            "n_steps": 8,
            "n_minibatches": 2,
            "core": "none",
            "max_steps": 8,
            "n_heldout": 2,
            "dataset": "train",
            "replay_prob": 0.5,
            "staleness_support": "all",
        },
    ),
    "groove": ("grid_tasks", TINY_TASKS | {"seeds": 2, "buffer_size": 8, "n_inner": 2}),
}


def branches(jaxpr, inside=False):
    """Conditionals of a program; and its products, inside of any and outside of all."""
    found = {"conditionals": 0, "products inside": 0, "products outside": 0}
    for equation in jaxpr.eqns:
        is_branch = equation.primitive.name == "cond"
        found["conditionals"] += is_branch
        if equation.primitive.name == "dot_general":
            found[f"products {'inside' if inside else 'outside'}"] += 1
        for inner in memory.jaxprs_of(equation.params):
            for name, n in branches(inner, inside or is_branch).items():
                found[name] += n
    return found


def update_of(algorithm, env, settings, axis):
    """The program of one update of all seeds, as the runner maps it over them."""
    config = training.make_config(algorithm, env, "", settings | {"seed_axis": axis})
    experiment = config.build()
    states = jax.eval_shape(
        programs.over_seeds(experiment.init, axis), programs.seed_keys(config.run)
    )
    return jax.make_jaxpr(programs.over_seeds(experiment.update, axis))(states).jaxpr


@pytest.mark.parametrize("algorithm", CASES)
def test_seeds_side_by_side_run_no_branch_that_one_seed_would_not(algorithm):
    """Under vmap a conditional with another answer for each seed runs all branches."""
    env, settings = CASES[algorithm]
    alone = branches(update_of(algorithm, env, settings, "map"))
    together = branches(update_of(algorithm, env, settings, "vmap"))
    assert alone["conditionals"] > 0
    assert together == alone
