"""`rlgen collect`: who plays, on which levels, how much; nothing is lost or leaked."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Push, PushConfig
from tiny import assert_same_bits, preempted

from rlgen import (
    collect,
    collection,
    config,
    datasets,
    programs,
    registry,
    runner,
    training,
    trees,
)
from rlgen.cli import main
from rlgen.collect import EnvOptions, RunOptions
from rlgen.errors import UserError
from rlgen.interop.starts import Starts
from rlgen.levels import LevelSet, assert_disjoint, split_of
from rlgen.recording import Recorder
from rlgen.store import RunStore

TINY = {
    "keep_policies": True,
    "seeds": 2,
    "n_updates": 5,
    "eval_every": 2,
    "log_every": 5,
    "n_envs": 4,
    "n_steps": 4,
    "n_epochs": 1,
    "n_minibatches": 1,
    "channels": 8,
    "head_size": 8,
    "eval_episodes": 1,
    "progress": False,
    "pictures": False,
}


@pytest.fixture(autouse=True)
def push(monkeypatch):
    """The probe is known by a name, as if it were installed."""
    load, names = registry.load, registry.names

    def with_push(group, name):
        return (
            PushConfig
            if (group, name) == (registry.ENVS, "push")
            else load(group, name)
        )

    monkeypatch.setattr(registry, "load", with_push)
    monkeypatch.setattr(registry, "names", lambda group: [*names(group), "push"])


@functools.cache
def levels(n=5):
    return LevelSet.generate(Starts(), n, seed=0, split="train")


# From an environment.


def from_env(out, env_settings=None, **options):
    options = {"transitions": 240, "n_levels": 4, "out": str(out)} | options
    env_config = PushConfig(**(env_settings or {}))
    folder = collect.from_env("push", env_config, EnvOptions(**options))
    return datasets.load(folder, Starts())


def test_levels_are_of_the_train_split_and_none_is_held_out(tmp_path):
    dataset = from_env(tmp_path)
    assert dataset.name == "push/random-v0"
    level_set = dataset.level_set
    assert len(level_set) == 4 and level_set.split == "train"
    assert (np.asarray(split_of(level_set.hashes)) == 0).all()
    for split in ("test", "validation"):
        held_out = PushConfig(eval_split=split, n_heldout=50).eval_sets()["heldout"]
        assert_disjoint(level_set, held_out)
    rows = dataset.data.rows
    assert len(rows) == 240 and set(rows.level_id) == {0, 1, 2, 3}
    targets = jax.vmap(Push.target)(jax.tree.map(jnp.asarray, level_set.levels))
    np.testing.assert_array_equal(rows.obs[:, 1], np.asarray(targets)[rows.level_id])
    assert dataset.about["transitions"] == 240
    assert dataset.about["settings"]["max_steps"] == 12
    assert dataset.about["levels"] == 4 and dataset.about["versions"]["jax"]


def test_a_dataset_of_few_levels_is_part_of_one_of_more(tmp_path):
    few, more = (
        from_env(tmp_path, n_levels=n, name=f"push/n{n}-v0", transitions=60 * n)
        for n in (2, 4)
    )
    np.testing.assert_array_equal(few.level_set.hashes, more.level_set.hashes[:2])
    n = min(sum(d.data.rows.level_id == 0) for d in (few, more)) - 12
    np.testing.assert_array_equal(few.data.rows.obs[:n], more.data.rows.obs[:n])
    assert few.random_return == more.random_return  # a score means the same
    other = from_env(tmp_path, seed=1, name="push/other-v0")
    assert not np.array_equal(other.level_set.hashes, more.level_set.hashes)


def test_levels_of_a_dataset_of_levels_are_nested_too(tmp_path):
    given = levels(70).save(tmp_path / "mine.npz")
    sets = [
        collection.train_levels(
            PushConfig(dataset=str(given)), EnvOptions(n_levels=n, seed=3)
        )
        for n in (5, 9, 0)
    ]
    for played, reference in sets:
        np.testing.assert_array_equal(played.hashes, sets[2][0].hashes[: len(played)])
        np.testing.assert_array_equal(reference.hashes, sets[2][0].hashes[:64])
    assert [len(played) for played, _ in sets] == [5, 9, 70]
    everything = {h.tobytes() for h in levels(70).hashes}
    assert {h.tobytes() for h in sets[2][0].hashes} == everything
    assert not np.array_equal(sets[2][0].hashes, levels(70).hashes)


def test_a_controller_is_the_expert_of_its_dataset(tmp_path):
    dataset = from_env(tmp_path, controller="homing")
    assert dataset.name == "push/homing-v0"
    # Within a push of the target from the second step on.
    rows = dataset.data.rows
    late = np.abs(rows.next_obs[rows.time > 2] - rows.next_obs[rows.time > 2][:, 1:])
    assert late[:, 0].max() < 1e-5
    # The way to the target from where 128 episodes start, in pushes of 0.3.
    reference = LevelSet.generate(Starts(), 64, seed=0, split="train")
    target = np.asarray(
        jax.vmap(Push.target)(jax.tree.map(jnp.asarray, reference.levels))
    )
    starts = np.linspace(-0.3, 0.3, 601)
    left = [
        np.maximum(np.abs(target[:, None] - starts) - 0.3 * k, 0) for k in range(1, 13)
    ]
    assert dataset.expert_return == pytest.approx(
        12 - np.sum(left, axis=0).mean(), abs=0.1
    )
    assert dataset.random_return < dataset.expert_return - 1
    assert dataset.about["success_rate"] > 0.9
    assert dataset.normalized(dataset.expert_return) == 1.0


def test_shares_shorter_than_an_episode_cut_it(tmp_path, capsys):
    dataset = from_env(tmp_path, {"max_steps": 30}, controller="homing", transitions=23)
    np.testing.assert_array_equal(dataset.data.episode_length, [5, 5, 5, 5, 3])
    assert "cut at 5 of up to 30 steps" in capsys.readouterr().out


def test_dropped_episodes_are_told(tmp_path, capsys):
    dataset = from_env(tmp_path, {"fragile": True})
    assert dataset.about["dropped_non_finite"] > 0
    dropped = f"{dataset.about['dropped_non_finite']:,}"
    line = [x for x in capsys.readouterr().out.splitlines() if "not finite" in x]
    assert len(line) == 1 and dropped in line[0]


# From a run.


@pytest.fixture(scope="module")
def program():
    """Settings of a run of two seeds that keeps its policies, compiled once."""
    load = registry.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            registry,
            "load",
            lambda group, name: PushConfig if name == "push" else load(group, name),
        )
        config = training.make_config("agent", "push", settings=TINY)
    return config, programs.Program(programs.Plan(config.build(), config.run))


def train(program, out):
    config, compiled = program
    store = RunStore.open(out, config.name, config)
    runner.run(compiled.experiment, config.run, store, program=compiled)
    store.finish()
    return store.path


@pytest.fixture(scope="module")
def run_dir(program, tmp_path_factory):
    """A finished run."""
    return train(program, tmp_path_factory.mktemp("runs"))


def kept(path):
    return {
        int(file.stem[-8:]): trees.read(file, "a policy")
        for file in sorted((path / "policies").iterdir())
    }


def test_a_run_keeps_its_policies_at_every_evaluation(run_dir):
    policies = kept(run_dir)
    assert list(policies) == [0, 2, 4, 5]
    config, store = training.load_run(run_dir)
    experiment, _, states = training.restore(config, store)
    params = experiment.policy_params(states)
    arrays, about = policies[5]
    assert about == {
        "what": "policies of all seeds",
        "update": 5,
        "seed": 0,
        "seeds": 2,
    }
    assert_same_bits(jax.device_get(params), trees.fit(arrays, params, ""))
    name = next(n for n in arrays if n.startswith("heads"))
    assert all(len(a[name]) == 2 for a, _ in policies.values())
    first = jax.tree.map(lambda x: x[1], experiment.policy_params(
        jax.vmap(experiment.init)(programs.seed_keys(config.run))
    ))  # fmt: skip
    mine = jax.tree.map(lambda x: x[1], trees.fit(policies[0][0], params, ""))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(mine), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert not np.array_equal(policies[0][0][name], arrays[name])


def test_a_resumed_run_has_kept_the_same(program, run_dir, tmp_path):
    with preempted():
        train(program, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == run_dir.name and list(kept(path)) == [0, 2, 4]
    # The first part is taken away, to see what the second part writes.
    shutil.move(path / "policies", tmp_path / "first")
    train(program, tmp_path)
    assert list(kept(path)) == [5]
    for file in (path / "policies").iterdir():
        shutil.copy(file, tmp_path / "first")
    shutil.rmtree(path / "policies")
    shutil.move(tmp_path / "first", path / "policies")
    ours, theirs = kept(path), kept(run_dir)
    assert ours.keys() == theirs.keys()
    for update, (arrays, about) in ours.items():
        assert about == theirs[update][1]
        assert_same_bits(arrays, theirs[update][0])


def test_policies_are_kept_only_if_asked_and_change_no_hash():
    base, keeps = (
        training.make_config("agent", "push", settings={"keep_policies": keep})
        for keep in (False, True)
    )
    assert not config.RunConfig().keep_policies
    assert config.config_hash(base) == config.config_hash(keeps)


def with_policies(run_dir, path, biases):
    """A copy of a run whose kept policies of seed 1 have made-up means and scales."""
    shutil.copytree(run_dir, path)
    for update, bias in biases.items():
        file = runner.policy_file(path, update)
        arrays, about = trees.read(file, "a policy")
        (name,) = [n for n in arrays if "heads" in n and n.endswith("Dense_1/bias")]
        arrays[name] = arrays[name].copy()
        arrays[name][1] = bias
        trees.save(file, nested(arrays), about)
    return path


def nested(arrays):
    tree = {}
    for name, array in arrays.items():
        *folders, leaf = name.split("/")
        at = tree
        for folder in folders:
            at = at.setdefault(folder, {})
        at[leaf] = array
    return tree


@pytest.fixture(scope="module")
def graded_run(run_dir, tmp_path_factory):
    """At first the policy runs over a cliff, then over the other; then it stays.

    Seed 0, which plays by default, has hardly learned anything: its means stay, but its
    samples do not.
    """
    place = tmp_path_factory.mktemp("graded") / "run"
    made_up = {0: (3.0, -1.0), 2: (-3.0, -1.0), 4: (0.0, -2.0)}
    return with_policies(run_dir, place, made_up)


def from_run(run_dir, out, **options):
    options = {"transitions": 240, "n_levels": 4, "out": str(out)} | options
    folder = collect.from_run(run_dir, RunOptions(**options))
    return datasets.load(folder, Starts())


def test_medium_is_the_earliest_policy_that_is_good_enough(
    graded_run, tmp_path, capsys
):
    dataset = from_run(graded_run, tmp_path, quality="medium", policy_seed=1)
    medium = dataset.about["medium"]
    assert medium["update"] == 4
    scores = {int(k): v for k, v in medium["mean_returns"].items()}
    assert list(scores) == [0, 2, 4]
    middle = (dataset.random_return + dataset.expert_return) / 2
    assert max(scores[0], scores[2]) < middle <= scores[4]
    assert dataset.about["run"]["policy_seed"] == 1
    assert dataset.data.rows.action.std() == pytest.approx(np.exp(-2.0), rel=0.2)
    shown = capsys.readouterr().out
    share = (scores[4] - dataset.random_return) / (2 * (middle - dataset.random_return))
    assert f"medium is the policy after update 4: {scores[4]:.4g}, {share:.0%}" in shown


def test_medium_is_chosen_by_samples_and_is_the_last_where_none_is_good(
    graded_run, tmp_path
):
    dataset = from_run(graded_run, tmp_path, quality="medium")
    assert dataset.random_return < dataset.expert_return
    assert dataset.about["medium"]["update"] == 5
    assert list(dataset.about["medium"]["mean_returns"]) == ["0", "2", "4", "5"]


def test_medium_replay_is_all_policies_up_to_medium_in_turn(graded_run, tmp_path):
    dataset = from_run(graded_run, tmp_path, quality="medium-replay", policy_seed=1)
    policies = dataset.about["policies"]
    assert set(policies) == {"update 0", "update 2", "update 4"}
    counts = [part["episodes"] for part in policies.values()]
    assert max(counts) - min(counts) <= 4  # one per level
    start = dataset.data.episode_start
    push = dataset.data.rows.action[start, 0]
    level = dataset.data.rows.level_id[start]
    number = np.concatenate([np.arange(n) for n in np.bincount(level)])
    turn = (level + number) % 3
    assert (push[turn == 0] == 1.0).mean() > 0.9
    assert (push[turn == 1] == -1.0).mean() > 0.9
    assert 0 < np.abs(push[turn == 2]).max() < 0.8


def test_mixed_is_half_medium_half_expert(graded_run, tmp_path):
    dataset = from_run(graded_run, tmp_path, quality="mixed", transitions=241)
    parts = dataset.about["policies"]
    assert {n: p["transitions"] for n, p in parts.items()} == {
        "medium": 120,
        "expert": 121,
    }
    starts = dataset.data.rows.obs[dataset.data.episode_start, 0]
    assert len(set(starts)) == len(starts)  # the halves do not start alike


@pytest.mark.parametrize("quality", ["random", "expert"])
def test_random_and_expert_need_no_kept_policies(run_dir, tmp_path, quality):
    shutil.copytree(run_dir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "policies")
    dataset = from_run(tmp_path / "run", tmp_path / "out", quality=quality)
    assert len(dataset.data.rows) == 240
    assert list(dataset.about["policies"]) == [quality]
    assert dataset.random_return < dataset.expert_return
    about = dataset.about
    assert about["quality"] == quality and about["run"]["algorithm"] == "agent"
    assert about["run"]["name"] == "run" and about["reference_levels"] == 64
    at_edge = (np.abs(dataset.data.rows.action) == 1.0).mean()
    assert (at_edge > 0.1) == (quality == "expert")  # Gaussians leave the box


def test_the_seed_of_the_policy_is_the_runs(run_dir):
    stored, _ = training.load_run(run_dir)
    for first, asked, index in ((0, None, 0), (0, 1, 1), (5, 6, 1), (5, None, 0)):
        run_config = dataclasses.replace(stored.run, seed=first)
        assert collect._seed_index(run_config, asked) == index
    with pytest.raises(UserError, match="no seed 2: choose policy_seed from 0 to 1"):
        collect._seed_index(stored.run, 2)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 20), (0.1, 10), (0.6, 20), (0.61, 30), (1.0, 30)]
)
def test_earliest_good_enough(share, expected):
    returns = {0: -5.0, 10: -2.0, 20: 2.0, 25: -4.0, 30: 6.0}
    asked = []

    def score(update):
        asked.append(update)
        return returns[update]

    # From -4 to 6: halfway is 1, a tenth is -3.
    medium, scores = collect.find_medium(list(returns), score, -4.0, 6.0, share)
    assert medium == expected
    assert asked == [u for u in returns if u <= expected] == list(scores)


def test_a_run_no_better_than_random_has_no_medium():
    for high in (-4.0, -5.0, float("nan")):
        with pytest.raises(UserError, match="no better than random actions"):
            collect.find_medium([0, 1], lambda u: 0.0, -4.0, high, 0.5)


# The command.


def test_the_command_prints_a_table_and_draws(run_dir, tmp_path, capsys):
    command = ["collect", str(run_dir), "--quality=medium-replay", "--transitions=150"]
    assert main([*command, "--n-levels=3", f"--out={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    folder = tmp_path / "push" / "medium-replay-v0"
    for words in ("150", "3 of the train split", "success", "return of random"):
        assert words in shown
    assert shown.splitlines()[-1] == str(folder)
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files == {
        "data/main_data.hdf5", "data/metadata.json", "levels.npz",
        "figures/returns.png",
    }  # fmt: skip
    assert (folder / "figures" / "returns.png").stat().st_size > 10_000
    assert [p.name for p in tmp_path.iterdir()] == ["push"]


def test_an_environment_takes_its_flags(tmp_path, capsys):
    command = "collect push --max-steps 7 --controller homing --transitions 40 "
    command += f"--n-levels 2 --name mine/homing-v3 --out {tmp_path}"
    assert main(command.split()) == 0
    dataset = datasets.load(tmp_path / "mine" / "homing-v3")
    assert dataset.about["settings"]["max_steps"] == 7
    assert dataset.data.episode_length.max() == 7
    capsys.readouterr()
    assert main(["collect", "--help"]) == 0
    assert "--keep-policies True" in capsys.readouterr().out
    assert main(["collect"]) == 2


MISTAKES = [
    ("collect {run} --quality best", "Unknown quality 'best': choose random, medium,"),
    ("collect {run} --medium-share 0", "medium_share is 0.0: choose more than 0"),
    ("collect {run} --policy-seed 7", "no seed 7: choose policy_seed from 0 to 1"),
    ("collect {run} --transitions 0", "transitions is 0: choose at least 1"),
    ("collect {run} --n-levels -1", "n_levels is -1: choose at least 0"),
    ("collect {run} --n-levels 0", "there is no dataset of levels"),
    ("collect {run} --n-levels 9 --transitions 17", "17 transitions are too few for 9"),
    ("collect {run} --name expert", "'expert' is no name for a dataset"),
    ("collect {bare} --quality medium", "train again with --keep-policies True and"),
    ("collect {once} --quality mixed", "was evaluated only at its end, so there is no"),
    ("collect {undone}", "is not complete: run its `rlgen train` to the end"),
    ("collect {files}", "is neither a run directory nor an environment: name a run"),
    ("collect push --quality expert", "Quality expert needs a trained policy: name a"),
    ("collect push --quality best", "Unknown quality 'best': choose random, or for"),
    ("collect push --controller away", "push has no controller away: choose homing."),
    ("collect push --quality random --controller homing", "or a recording, not two"),
    ("collect push --dataset {files}/none.npz", "There is no level file"),
    ("collect push --dataset {files}/five.npz --n-levels 6", "has 5 levels, not 6"),
    ("collect push --dataset {files}/test.npz", "are held out by their hash"),
    ("collect maze", "The actions of maze are not in a box"),
    ("collect push --out {files}/five.npz --n-levels 2", "choose another --out"),
]


@pytest.fixture(scope="module")
def places(run_dir, tmp_path_factory):
    files = tmp_path_factory.mktemp("files")
    levels(5).save(files / "five.npz")
    LevelSet.generate(Starts(), 3, seed=0, split="test").save(files / "test.npz")
    found = {"run": run_dir, "files": files}
    for name in ("bare", "once", "undone"):
        found[name] = files / name
        shutil.copytree(run_dir, files / name)
    runner.policy_file(found["bare"], 2).unlink()
    settings = found["once"] / "config.yaml"
    settings.write_text(settings.read_text().replace("eval_every: 2", "eval_every: 0"))
    (found["undone"] / "DONE").unlink()
    return found


@pytest.mark.parametrize(("command", "sentence"), MISTAKES)
def test_mistakes_get_one_sentence_and_exit_code_2(
    command, sentence, places, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(command.format(**places).split()) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.endswith(".\n")
    assert error.startswith("rlgen: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_taken_is_refused_before_anything_is_played(
    run_dir, tmp_path, capsys, monkeypatch
):
    (tmp_path / "push" / "expert-v0").mkdir(parents=True)
    monkeypatch.setattr(Recorder, "play", None)
    assert main(["collect", str(run_dir), f"--out={tmp_path}"]) == 2
    assert "exists already and is never overwritten" in capsys.readouterr().err


def test_without_minari_nothing_is_played(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Recorder, "play", None)
    monkeypatch.setitem(sys.modules, "minari", None)
    assert main(["collect", "push", f"--out={tmp_path}"]) == 2
    assert "install rlgen[offline]" in capsys.readouterr().err


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_killed_collection_leaves_nothing(tmp_path, capsys, monkeypatch, after):
    play, n_calls = Recorder.play, []

    def play_then_signal(self, policy, items):
        if len(n_calls) == after:
            os.kill(os.getpid(), signal.SIGTERM)
        n_calls.append(policy.name)
        return play(self, policy, items)

    monkeypatch.setattr(Recorder, "play", play_then_signal)
    command = ["collect", "push", "--transitions=5000", "--n-levels=3"]
    old = signal.getsignal(signal.SIGTERM)
    code = main([*command, f"--out={tmp_path / 'out'}"])
    assert signal.getsignal(signal.SIGTERM) == old
    if len(n_calls) <= after:
        pytest.fail("the collection ended before the signal")
    assert code == 128 + signal.SIGTERM
    assert capsys.readouterr().err.endswith(
        "stopped by SIGTERM; nothing was written.\n"
    )
    assert not list(tmp_path.iterdir())
