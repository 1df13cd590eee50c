"""Datasets of episodes on disk, in the format of Minari, beside the levels played.

    data/            what minari reads: metadata.json and main_data.hdf5
    levels.npz       the level set that each episode's `level_id` points into
    tests/*.npz      level sets to evaluate on, where the recording asks for its own

Any dataset of Minari is read the same way, and flat `.npz` files of steps too. Nothing
is ever unpickled. A dataset is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from rlgen import transitions
from rlgen.errors import UserError
from rlgen.files import make_folder_atomically, unwritable
from rlgen.levels import LevelSet, LevelSpace
from rlgen.transitions import Episode, OfflineData

# What minari takes for a name: folders, then a name with a version.
_NAME = re.compile(r"(?:[-_\w][-_\w/]*[-_\w]/)?[-_\w]+-v\d+")
_ABOUT = "rlgen"  # our entry in the metadata of Minari
_LEVELS = "levels.npz"
_TESTS = "tests"


class Recording(NamedTuple):
    """Episodes that an environment records in a way of its own.

    Attributes:
      config: settings of the environment that was played.
      episodes: what was recorded.
      level_set: the levels that `level_id` points into.
      tests: level sets by name, to evaluate on what the recording is about.
    """

    config: Any
    episodes: Sequence[Episode]
    level_set: LevelSet
    tests: Mapping[str, LevelSet]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Recorded steps, where they were played, and what scores there mean.

    Attributes:
      name: what messages and Minari call it.
      data: the steps, as host arrays.
      level_set: the levels that `level_id` points into, if they are known.
      random_return, expert_return: mean undiscounted returns of uniform actions and of
        the expert on the family's train levels, if they are known.
      about: how it was made: environment and settings, quality, policies, seeds,
        versions, dropped episodes; empty for what `rlgen collect` did not make.
      tests: level sets that the recording asks to be evaluated on, by name.
      recorded_in: the environment's name, as whoever recorded it calls it, or empty.
      action_space: its actions; None where nothing says.
    """

    name: str
    data: OfflineData
    level_set: LevelSet | None = None
    random_return: float | None = None
    expert_return: float | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tests: Mapping[str, LevelSet] = dataclasses.field(default_factory=dict)
    recorded_in: str = ""
    action_space: gymnasium.spaces.Box | None = None

    def normalized(self, returns: Any) -> Any:
        """Returns on the scale where random actions have 0 and the expert 1.

        Raises:
          UserError: the dataset has no such scale.
        """
        low, high = self.random_return, self.expert_return
        if low is None or high is None:
            raise UserError(
                f"{self.name} has no reference returns, so its scores cannot be "
                "normalized: report returns, or collect it from a trained run."
            )
        if high <= low:
            raise UserError(
                f"The expert of {self.name} ({high:g}) is no better than random "
                f"actions ({low:g}), so its scores cannot be normalized: train it "
                "longer and collect again."
            )
        return (np.asarray(returns) - low) / (high - low)


def with_discount(dataset: Dataset, discount: float) -> Dataset:
    """The dataset with `return_to_go` at another discount, where it has one.

    Raises:
      UserError: its steps do not follow one another, so it cannot be told.
    """
    data, rows = dataset.data, dataset.data.rows
    if rows.return_to_go is None:
        return dataset
    follows = np.asarray(rows.episode_id)[1:] == np.asarray(rows.episode_id)[:-1]
    goes_on = np.asarray(rows.next_obs)[:-1] == np.asarray(rows.obs)[1:]
    if not goes_on.reshape(len(follows), -1).all(axis=1)[follows].all():
        raise UserError(
            f"The steps of {dataset.name} do not follow one another, so its returns at "
            f"a discount of {discount:g} are unknown: leave return_to_go out."
        )
    start, length = np.asarray(data.episode_start), np.asarray(data.episode_length)
    returns: Any = transitions.returns_to_go(
        np.asarray(rows.reward), start, length, discount
    )
    data = data.replace(rows=rows.replace(return_to_go=returns))
    return dataclasses.replace(dataset, data=data)


def require_minari() -> Any:
    """The package minari with what reads and writes its files.

    Raises:
      UserError: it is not installed.
    """
    try:
        import h5py  # noqa: F401  (minari imports it only where it opens a file)
        import minari
        import minari.dataset.minari_storage
    except ImportError:
        raise UserError(
            "Datasets of episodes need minari: install rlgen[offline]."
        ) from None
    return minari


def check_new(folder: str | Path, name: str) -> None:
    """Checks that a dataset can be written under this name.

    Raises:
      UserError: a name that minari would not take, or a folder that is taken or cannot
        be made.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is no name for a dataset: use letters, digits, - and _, and a "
            "version at the end, such as reacher/expert-v0."
        )
    if Path(folder).exists():
        raise UserError(
            f"{folder} exists already and is never overwritten: choose another name "
            "or remove it."
        )
    place = next(p for p in Path(folder).absolute().parents if p.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        reason = os.strerror(errno.EACCES if place.is_dir() else errno.ENOTDIR)
        raise unwritable(Path(folder), OSError(errno.EACCES, reason))


def save(
    folder: str | Path,
    episodes: Sequence[Episode],
    *,
    name: str,
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    level_set: LevelSet | None = None,
    random_return: float | None = None,
    expert_return: float | None = None,
    about: Mapping[str, Any] | None = None,
    tests: Mapping[str, LevelSet] | None = None,
) -> Path:
    """Writes episodes as a dataset of Minari, whole or not at all.

    Args:
      folder: directory of this dataset; it must not exist. Where it ends with `name`,
        minari lists it with $MINARI_DATASETS_PATH set to what stands before.
      name: its id: folders, name and version, such as "reacher/expert-v0".
      about: plain data on how it was made.
      tests: level sets to evaluate on, by name.

    Returns:
      the folder.

    Raises:
      UserError: minari is missing, the name or the folder is taken or unfit, the
        episodes are not consistent, or nothing can be written there.
    """
    minari = require_minari()
    folder = Path(folder)
    check_new(folder, name)
    data = transitions.from_episodes(episodes, name=name)
    transitions.check(
        data,
        observation_space,
        action_space,
        n_levels=None if level_set is None else len(level_set),
        name=name,
    )
    metadata: dict[str, Any] = {
        "dataset_id": name,
        "minari_version": minari.__version__,
        "description": "Collected by rlgen on the train split of its levels.",
        _ABOUT: json.loads(json.dumps(dict(about or {}), default=str)),
    }
    # Set here: where no gymnasium environment is given, minari's own function for new
    # datasets (0.5.4) drops them without a word.
    for key, value in (
        ("ref_min_score", random_return),
        ("ref_max_score", expert_return),
    ):
        if value is not None:
            metadata[key] = float(value)
    with _new_folder(folder) as place:
        data_folder = (place / "data").resolve()  # minari trips over a relative one
        data_folder.mkdir()
        storage = minari.dataset.minari_storage.MinariStorage.new(
            data_folder,
            observation_space=observation_space,
            action_space=action_space,
            data_format="hdf5",
        )
        storage.update_metadata(metadata)
        storage.update_episodes(
            minari.data_collector.EpisodeBuffer(
                observations=np.asarray(episode.observations, np.float32),
                actions=np.asarray(episode.actions, np.float32),
                rewards=np.asarray(episode.rewards, np.float32),
                terminations=np.asarray(episode.terminations, bool),
                truncations=np.asarray(episode.truncations, bool),
                options={"level_id": int(episode.level_id)},
            )
            for episode in episodes
        )
        if level_set is not None:
            level_set.save(place / _LEVELS)
        for i, test in enumerate((tests or {}).values()):
            test.save(place / _TESTS / f"{i}.npz")
    return folder


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """`make_folder_atomically`; if it fails, the folders around it go, too."""
    parents = [parent for parent in folder.parents if not parent.exists()]
    try:
        with make_folder_atomically(folder) as place:
            yield place
    except BaseException as error:
        for parent in parents:  # the innermost first; others may have used them since
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise unwritable(folder, error) from error
        raise


def load(
    path: str | Path, space: LevelSpace | None = None, discount: float = 1.0
) -> Dataset:
    """Reads a dataset.

    Observations and actions become float32. Of observations in a Dict with the keys of
    goal-conditioned environments, `observation` and `desired_goal` are read, one
    behind the other. Episodes that name no level get `level_id` 0.

    A flat `.npz` file holds what `transitions.from_steps` takes.

    Args:
      path: folder of a dataset, a flat `.npz` file, or the id of a dataset below
        $MINARI_DATASETS_PATH (by default ~/.minari/datasets).
      space: family of the levels, to read `level_set` with.
      discount: of `return_to_go`; a flat file's are taken to be undiscounted.

    Raises:
      UserError: no such dataset, a damaged one, episodes that lack their last
        observation, a level that is missing from the level set, or anything that
        `transitions.check` refuses; minari is not installed.
    """
    place = _find(path)
    if place.is_file():
        dataset = _load_flat(place)
        return dataset if discount == 1.0 else with_discount(dataset, discount)
    return _load_episodes(place, space, discount)


def about(path: str | Path) -> Mapping[str, Any]:
    """How a dataset was made, without reading its steps; see `Dataset.about`.

    Raises:
      UserError: no such dataset.
    """
    place = _find(path)
    try:
        metadata = json.loads((place / "data" / "metadata.json").read_text())
    except (OSError, ValueError):
        return {}  # what it lacks is said when it is loaded
    known = metadata.get(_ABOUT)
    return known if isinstance(known, dict) else {}


def _find(path: str | Path) -> Path:
    home = Path(os.environ.get("MINARI_DATASETS_PATH", "~/.minari/datasets"))
    for place in (Path(path), home.expanduser() / path):
        if (place / "data").is_dir() or (place.is_file() and place.suffix == ".npz"):
            return place
    raise UserError(
        f"There is no dataset {path}: name the folder of one, the id of one in "
        f"{home}, or a flat .npz file, or make one with `rlgen collect`."
    )


def _load_episodes(place: Path, space: LevelSpace | None, discount: float) -> Dataset:
    minari = require_minari()
    try:
        stored = minari.MinariDataset(place / "data")
        metadata = stored.storage.metadata
        recorded = list(stored.iterate_episodes())
        options = [
            dict(each.get("options") or {})
            for each in stored.storage.get_episode_metadata(stored.episode_indices)
        ]
        name, spaces = stored.id, (stored.observation_space, stored.action_space)
        # An environment that is not installed here has a name all the same.
        described = json.loads(metadata.get("env_spec") or "{}")
        recorded_in = str(described.get("id") or "")
        declared = {key: metadata.get(f"total_{key}") for key in ("steps", "episodes")}
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{place} is not a dataset that minari can read ({reason}): it was damaged "
            "or made by another version, make it again."
        ) from error
    n_steps = sum(len(each.rewards) for each in recorded)
    for what, n in (("steps", n_steps), ("episodes", len(recorded))):
        if declared[what] not in (None, n):
            raise UserError(
                f"{name} declares {declared[what]} {what}, but {n} can be read: it was "
                "damaged, or holds longer episodes than minari reads in its format "
                "(arrow: some 65,000 steps), so write it again, as hdf5."
            )
    observation_space, action_space = _one_box(spaces[0], name), spaces[1]
    for what, each in (("observations", observation_space), ("actions", action_space)):
        if not isinstance(each, gymnasium.spaces.Box):
            raise UserError(
                f"{name} has {what} of type {type(each).__name__}, but offline "
                "learners need a box: choose another dataset."
            )
    episodes = [
        Episode(
            observations=_one_array(each.observations, spaces[0]),
            actions=np.asarray(each.actions, np.float32),
            rewards=_column(each.rewards),
            terminations=transitions.flags(
                _column(each.terminations), "terminations", name
            ),
            truncations=transitions.flags(
                _column(each.truncations), "truncations", name
            ),
            level_id=_level_id(option),
        )
        for each, option in zip(recorded, options, strict=True)
    ]
    data = transitions.from_episodes(episodes, discount=discount, name=name)
    level_set, tests = None, []
    if space is not None and (place / _LEVELS).exists():
        level_set = LevelSet.load(place / _LEVELS, space)
        files = sorted((place / _TESTS).glob("*.npz"))
        tests = [LevelSet.load(file, space) for file in files]
    transitions.check(
        data,
        observation_space,
        action_space,
        n_levels=None if level_set is None else len(level_set),
        name=name,
    )
    return Dataset(
        name,
        data,
        level_set,
        _number(metadata.get("ref_min_score")),
        _number(metadata.get("ref_max_score")),
        metadata.get(_ABOUT, {}),
        {test.name: test for test in tests},
        metadata.get(_ABOUT, {}).get("environment") or recorded_in,
        action_space,
    )


def _number(value: Any) -> float | None:
    """A number of the metadata, which others may have written as text."""
    with contextlib.suppress(TypeError, ValueError):
        return float(value)
    return None


def _column(array: Any) -> np.ndarray:
    """One number for each step, also where they stand in a column [T, 1]."""
    array = np.asarray(array)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _level_id(options: Mapping[str, Any]) -> int:
    level_id = options.get("level_id")
    return int(level_id) if isinstance(level_id, int | np.integer) else 0


_GOAL_KEYS = ("observation", "desired_goal")


def _one_box(space: gymnasium.Space, name: str) -> gymnasium.Space:
    """The space of what `_one_array` makes of observations."""
    if not isinstance(space, gymnasium.spaces.Dict):
        return space
    parts: Any = [space.spaces.get(key) for key in _GOAL_KEYS]
    if not all(isinstance(part, gymnasium.spaces.Box) for part in parts):
        raise UserError(
            f"{name} has observations of parts {', '.join(space.spaces)}, of which "
            "only observation and desired_goal can be read: choose another dataset."
        )
    return gymnasium.spaces.Box(
        np.concatenate([part.low.ravel() for part in parts]).astype(np.float32),
        np.concatenate([part.high.ravel() for part in parts]).astype(np.float32),
    )


def _one_array(observations: Any, space: gymnasium.Space) -> np.ndarray:
    if isinstance(space, gymnasium.spaces.Dict):
        parts = [np.asarray(observations[key]) for key in _GOAL_KEYS]
        observations = np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1)
    return np.asarray(observations, np.float32)


def _load_flat(path: Path) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:
        raise UserError(
            f"{path} is not a flat dataset ({error}): write one with numpy.savez."
        ) from error
    data = transitions.from_steps(arrays, name=str(path))
    transitions.check_finite(data.rows, str(path))
    return Dataset(path.stem, data)
