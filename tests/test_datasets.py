"""Datasets on disk: what minari reads of ours, what we read of minari's, mistakes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import warnings
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from test_transitions import ACTION, EPISODES, OBS, as_steps, assert_same, episode

from rlgen import datasets
from rlgen.errors import UserError
from rlgen.interop.starts import Starts
from rlgen.levels import LevelSet
from rlgen.transitions import from_episodes

Box = gymnasium.spaces.Box
NAME = "line/expert-v0"
ABOUT = {"environment": "line", "settings": {"max_steps": 9}, "seeds": (1, 2)}


@pytest.fixture(scope="module")
def level_set():
    return LevelSet.generate(Starts(), 3, seed=0, split="train")


def save(out, episodes=EPISODES, name=NAME, **changes):
    given = {"random_return": -3.0, "expert_return": 5.0, "about": ABOUT}
    return datasets.save(
        out / name,
        episodes,
        name=name,
        **{"observation_space": OBS, "action_space": ACTION} | given | changes,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, level_set):
    return save(tmp_path_factory.mktemp("datasets"), level_set=level_set)


def test_a_round_trip_keeps_every_bit(folder, level_set):
    dataset = datasets.load(folder, Starts(), discount=0.9)
    assert_same(dataset.data, from_episodes(EPISODES, discount=0.9))
    assert_same(dataset.level_set.levels, level_set.levels)
    assert dataset.name == NAME
    assert (dataset.random_return, dataset.expert_return) == (-3.0, 5.0)
    assert dataset.about == datasets.about(folder) == {**ABOUT, "seeds": [1, 2]}
    assert datasets.load(folder).level_set is None
    assert datasets.load(folder / "").name == NAME


def test_a_relative_path_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(Path("datasets"))
    assert not path.is_absolute()
    assert_same(datasets.load(path).data, from_episodes(EPISODES))
    monkeypatch.setenv("MINARI_DATASETS_PATH", "datasets")
    assert datasets.load(NAME).name == NAME


def test_a_file_in_the_way_is_seen_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Not a directory.* choose another --out"):
        datasets.check_new(tmp_path / "file" / "deep" / "x-v0", "x-v0")


def test_minari_reads_it_as_its_own(folder, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder.parents[1]))
    assert list(minari.list_local_datasets()) == [NAME]
    dataset = minari.load_dataset(NAME)
    assert dataset.total_steps == 13 and dataset.total_episodes == 4
    assert dataset.observation_space == OBS and dataset.action_space == ACTION
    for ours, theirs in zip(EPISODES, dataset.iterate_episodes(), strict=True):
        assert len(theirs.observations) == len(theirs.actions) + 1
        for name in ("observations", "actions", "rewards", "terminations"):
            np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name))
        # Nothing depends on infos: in arrow files of minari 0.5.4, 1-D ones crash.
        assert not theirs.infos
    levels = [
        metadata["options"]["level_id"]
        for metadata in dataset.storage.get_episode_metadata(range(4))
    ]
    assert levels == [2, 0, 1, 2]
    np.testing.assert_allclose(
        minari.get_normalized_score(dataset, np.array([1.0])), 0.5
    )
    assert datasets.load(NAME).name == NAME  # by its id


def test_reference_scores_need_no_environment(folder, tmp_path, monkeypatch):
    """minari's own function drops them without one (0.5.4)."""
    theirs = written_by_minari(
        tmp_path, monkeypatch, "hdf5", ref_min_score=-3.0, ref_max_score=5.0
    )
    assert "ref_min_score" not in json.loads(
        (theirs / "data" / "metadata.json").read_text()
    )
    ours = json.loads((folder / "data" / "metadata.json").read_text())
    assert (ours["ref_min_score"], ours["ref_max_score"]) == (-3.0, 5.0)


def written_by_minari(
    tmp_path, monkeypatch, data_format, name="foreign/pen-v3", buffers=None, **settings
):
    """A dataset made by minari itself, of `EPISODES` without levels."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    buffers = buffers or [
        EpisodeBuffer(
            observations=e.observations,
            actions=e.actions,
            rewards=e.rewards,
            terminations=e.terminations,
            truncations=e.truncations,
            infos={"force": np.zeros((len(e) + 1, 1))},
        )
        for e in EPISODES
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            name,
            buffers,
            data_format=data_format,
            **{"observation_space": OBS, "action_space": ACTION} | settings,
        )
    return tmp_path / name


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("by", ["path", "id"])
def test_any_dataset_of_minari_loads(tmp_path, monkeypatch, data_format, by):
    path = written_by_minari(tmp_path, monkeypatch, data_format)
    dataset = datasets.load(path if by == "path" else "foreign/pen-v3")
    expected = from_episodes([dataclasses.replace(e, level_id=0) for e in EPISODES])
    assert_same(dataset.data, expected)
    assert dataset.name == "foreign/pen-v3"
    assert dataset.about == datasets.about(path) == {}
    assert dataset.random_return is None and dataset.expert_return is None


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_goals_stand_behind_observations(tmp_path, monkeypatch, data_format):
    rng = np.random.default_rng(0)
    parts = {"observation": 4, "achieved_goal": 2, "desired_goal": 2}
    space = gymnasium.spaces.Dict(
        {key: Box(-9, 9, (size,), np.float64) for key, size in parts.items()}
    )
    made = [
        {key: rng.normal(size=(n + 1, size)) for key, size in parts.items()}
        for n in (3, 5)
    ]
    buffers = [
        EpisodeBuffer(
            observations=obs,
            actions=np.zeros((n, 2), np.float32),
            rewards=np.zeros(n),
            terminations=np.zeros(n, bool),
            truncations=np.arange(n) == n - 1,
            options={"level_id": n},
        )
        for n, obs in zip((3, 5), made, strict=True)
    ]
    path = written_by_minari(
        tmp_path, monkeypatch, data_format, buffers=buffers, observation_space=space
    )
    rows = datasets.load(path).data.rows
    expected = np.concatenate(
        [np.hstack([m["observation"], m["desired_goal"]])[:-1] for m in made]
    )
    np.testing.assert_array_equal(rows.obs, expected.astype(np.float32))
    np.testing.assert_array_equal(rows.level_id, [3] * 3 + [5] * 5)


def test_a_discount_is_for_the_returns_alone(folder):
    one = datasets.load(folder)
    half = datasets.with_discount(one, 0.5)
    assert_same(half.data, datasets.load(folder, discount=0.5).data)
    assert not np.array_equal(half.data.rows.return_to_go, one.data.rows.return_to_go)
    np.testing.assert_array_equal(half.data.rows.reward, one.data.rows.reward)


def test_scores_are_normalized_between_random_and_expert(folder):
    dataset = datasets.load(folder)
    scores = dataset.normalized(np.array([-3.0, 5.0, 1.0, 7.0]))
    np.testing.assert_allclose(scores, [0.0, 1.0, 0.5, 1.25])
    for changes, sentence in (
        ({"random_return": None}, "has no reference returns"),
        ({"expert_return": None}, "has no reference returns"),
        ({"expert_return": -3.0}, "no better than random"),
    ):
        with pytest.raises(UserError, match=sentence):
            dataclasses.replace(dataset, **changes).normalized(0.0)


def test_a_dataset_is_never_overwritten(folder):
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="exists already and is never overwritten"):
        save(folder.parents[1])
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "name",
    ["expert", "expert-v", "a b-v0", "/abs-v0", "up/../x-v0", "x-v0/", "-v1x", ""],
)
def test_names_that_minari_refuses_are_refused(name, tmp_path):
    with pytest.raises(Exception):  # noqa: B017  (its errors are of many types)
        assert parse_dataset_id(name)[0] != ""
    with pytest.raises(UserError, match="is no name for a dataset"):
        datasets.check_new(tmp_path / "new", name)


@pytest.mark.parametrize("name", ["a-v0", "brax/reacher-expert-v12", "a/b_2/c-d-v3"])
def test_names_that_minari_takes_are_taken(name, tmp_path):
    parse_dataset_id(name)
    datasets.check_new(tmp_path / "new", name)


@pytest.mark.parametrize(
    "error", [RuntimeError("stop"), KeyboardInterrupt(), OSError(28, "No space left")]
)
def test_a_dataset_is_there_whole_or_not_at_all(
    tmp_path, level_set, monkeypatch, error
):
    """The level set is written last: by then all else is there."""
    seen = []

    def fail(self, path):
        seen.extend(p.name for p in Path(path).parent.rglob("*"))
        raise error

    monkeypatch.setattr(LevelSet, "save", fail)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    expected = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        save(tmp_path / "out", name="deep/line/expert-v0", level_set=level_set)
    assert "main_data.hdf5" in seen
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_bad_episodes_are_not_written(tmp_path, level_set):
    nan = dataclasses.replace(episode(3), rewards=np.array([0, np.nan, 0]))
    for episodes, sentence in (
        ([nan], "line/expert-v0 holds 1 steps whose reward is not finite"),
        ([episode(3, level_id=3)], "missing from its level set of 3"),
        ([], "holds no episodes"),
    ):
        with pytest.raises(UserError, match=sentence):
            save(tmp_path, episodes, level_set=level_set)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def damaged(folder, tmp_path):
    """A copy of the dataset to be spoiled."""
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def rewrite(path, field, change):
    """Changes an array of the first episode."""
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        array = change(file[f"episode_0/{field}"][()])
        del file[f"episode_0/{field}"]
        file[f"episode_0/{field}"] = array


def spoil(array, value):
    array[1] = value
    return array


@pytest.mark.parametrize(
    ("field", "change", "sentence"),
    [
        (
            "observations",
            lambda x: x[:-1],
            "has 4 observations for 4 steps, but needs 5",
        ),
        ("observations", lambda x: spoil(x, np.nan), "steps whose obs is not finite"),
        ("rewards", lambda x: spoil(x, np.inf), "steps whose reward is not finite"),
        ("actions", lambda x: spoil(x, 2.0), "1 actions outside the environment's box"),
        ("terminations", lambda x: spoil(x, True), "goes on after its end at step 1"),
        ("actions", lambda x: x[:, :1], "Episode 1 of .* has actions of shape"),
    ],
)
def test_bad_data_get_one_sentence(damaged, field, change, sentence):
    rewrite(damaged, field, change)
    with pytest.raises(UserError, match=sentence):
        datasets.load(damaged)


def test_data_of_another_size_get_one_sentence(damaged):
    path = damaged / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    space = json.loads(metadata["observation_space"])
    space |= {"shape": [4], "low": [-1] * 4, "high": [1] * 4}
    path.write_text(json.dumps(metadata | {"observation_space": json.dumps(space)}))
    with pytest.raises(UserError, match=r"observations of shape \(3,\), but the env"):
        datasets.load(damaged)


def test_a_level_that_is_missing_gets_one_sentence(damaged):
    LevelSet.generate(Starts(), 2, seed=0, split="train").save(damaged / "levels.npz")
    with pytest.raises(UserError, match="level 2, which is missing from its level set"):
        datasets.load(damaged, Starts())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: (data / "main_data.hdf5").write_bytes(b"not hdf5"),
        lambda data: (data / "main_data.hdf5").unlink(),
        lambda data: (data / "metadata.json").unlink(),
        lambda data: (data / "metadata.json").write_text("{"),
        lambda data: (data / "metadata.json").write_text("{}"),
        lambda data: (data / "main_data.hdf5").write_bytes(
            (data / "main_data.hdf5").read_bytes()[:3000]
        ),
    ],
)
def test_damaged_files_get_one_sentence(damaged, spoil):
    spoil(damaged / "data")
    with pytest.raises(
        UserError, match="is not a dataset that minari can read"
    ) as error:
        datasets.load(damaged)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", None, '{"rlgen": 3}'])
def test_damaged_metadata_say_nothing_of_how_it_was_made(damaged, text):
    path = damaged / "data" / "metadata.json"
    path.unlink() if text is None else path.write_text(text)
    assert datasets.about(damaged) == {}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"action_space": gymnasium.spaces.Discrete(3)},
            "has actions of type Discrete",
        ),
        (
            {"observation_space": gymnasium.spaces.Dict({"camera": OBS})},
            "has observations of parts camera, of which only observation and desired",
        ),
    ],
)
def test_what_offline_learners_cannot_read_gets_one_sentence(
    tmp_path, monkeypatch, settings, sentence
):
    obs = np.zeros((3, 3), np.float32)
    is_dict = "observation_space" in settings
    buffer = EpisodeBuffer(
        observations={"camera": obs} if is_dict else obs,
        actions=np.zeros((2, 2) if is_dict else 2, np.int64),
        rewards=np.zeros(2),
        terminations=np.array([False, True]),
        truncations=np.zeros(2, bool),
    )
    path = written_by_minari(
        tmp_path, monkeypatch, "hdf5", buffers=[buffer], **settings
    )
    with pytest.raises(UserError, match=sentence):
        datasets.load(path)


@pytest.mark.parametrize("place", ["nothing/here-v0", "", "tests"])
def test_a_dataset_that_is_not_there_gets_one_sentence(place, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "home"))
    (tmp_path / "tests").mkdir()
    for read in (datasets.load, datasets.about):
        with pytest.raises(UserError, match="There is no dataset"):
            read(tmp_path / place)
    assert not (tmp_path / "home").exists()  # looking makes nothing


def test_without_minari_a_sentence_names_the_extra(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    for use in (lambda: datasets.load(folder), lambda: save(tmp_path)):
        with pytest.raises(UserError, match=r"need minari: install rlgen\[offline\]"):
            use()
    np.savez(tmp_path / "flat.npz", **as_steps(from_episodes(EPISODES)))
    datasets.load(tmp_path / "flat.npz")


def flat(path, drop=(), **changes):
    arrays = as_steps(from_episodes(EPISODES)) | changes
    np.savez(path, **{k: v for k, v in arrays.items() if k not in drop})
    return path


def test_flat_files_load(tmp_path):
    order = np.random.default_rng(0).permutation(13)
    arrays = as_steps(from_episodes(EPISODES))
    path = flat(tmp_path / "mine.npz", **{k: v[order] for k, v in arrays.items()})
    dataset = datasets.load(path)
    assert_same(dataset.data, from_episodes(EPISODES))
    assert dataset.name == "mine" and dataset.level_set is None
    assert dataset.about == datasets.about(path) == {}
    assert_same(
        datasets.load(path, discount=0.5).data, from_episodes(EPISODES, discount=0.5)
    )
    bare = datasets.load(
        flat(tmp_path / "bare.npz", ("next_action", "return_to_go")), discount=0.5
    )
    assert bare.data.rows.next_action is None and bare.data.rows.return_to_go is None


def test_returns_of_steps_that_do_not_follow_one_another_are_unknown(tmp_path):
    keep = np.arange(13) != 2
    arrays = as_steps(from_episodes(EPISODES))
    path = flat(tmp_path / "some.npz", **{k: v[keep] for k, v in arrays.items()})
    np.testing.assert_array_equal(
        datasets.load(path).data.rows.return_to_go, arrays["return_to_go"][keep]
    )
    with pytest.raises(UserError, match="do not follow one another"):
        datasets.load(path, discount=0.9)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"drop": ("next_obs",)}, "has no array next_obs"),
        ({"action": np.zeros((3, 2))}, "13 rewards, but action of shape"),
        ({"obs": np.full((13, 3), np.nan)}, "13 steps whose obs is not finite"),
        ({"obs": np.array([[None] * 3] * 13)}, "is not a flat dataset"),  # pickled
    ],
)
def test_bad_flat_files_get_one_sentence(tmp_path, changes, sentence):
    path = flat(tmp_path / "bad.npz", **changes)
    with pytest.raises(UserError, match=sentence):
        datasets.load(path)


def test_what_is_no_file_of_arrays_gets_one_sentence(tmp_path):
    (tmp_path / "bad.npz").write_text("no")
    with pytest.raises(UserError, match="is not a flat dataset"):
        datasets.load(tmp_path / "bad.npz")


@pytest.mark.parametrize("what", ["steps", "episodes"])
def test_what_was_read_is_what_was_declared(damaged, what):
    """Minari cuts long episodes in its arrow format, without a word."""
    path = damaged / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    fewer = metadata[f"total_{what}"] - 1
    path.write_text(json.dumps(metadata | {f"total_{what}": fewer}))
    with pytest.raises(UserError, match=r"declares \d+ \w+, but \d+ can be read"):
        datasets.load(damaged)


@pytest.mark.parametrize(
    ("value", "sentence"), [(np.nan, "neither 0 nor 1"), (2.0, "neither 0 nor 1")]
)
def test_flags_of_minari_that_are_none_get_one_sentence(damaged, value, sentence):
    rewrite(damaged, "terminations", lambda x: spoil(x.astype(float), value))
    with pytest.raises(UserError, match=sentence):
        datasets.load(damaged)


def test_columns_of_minari_are_read(damaged):
    wanted = datasets.load(damaged).data
    for field in ("rewards", "terminations"):
        rewrite(damaged, field, lambda x: x[:, None])
    assert_same(datasets.load(damaged).data, wanted)


def test_scores_that_are_text_are_numbers(damaged):
    path = damaged / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata | {"ref_min_score": "-3", "ref_max_score": ""}))
    dataset = datasets.load(damaged)
    assert (dataset.random_return, dataset.expert_return) == (-3.0, None)


def test_where_it_was_recorded_is_known(tmp_path, monkeypatch, folder):
    path = written_by_minari(tmp_path, monkeypatch, "hdf5", env="Pendulum-v1")
    dataset = datasets.load(path)
    assert (dataset.recorded_in, dataset.action_space) == ("Pendulum-v1", ACTION)
    assert datasets.load(folder).recorded_in == "line"
