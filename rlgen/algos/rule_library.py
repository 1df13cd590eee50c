"""Rules by their names and files: hand-written ones, learned ones, ones that ship.

Names are entry points of the group `rlgen.rules`, the built-in ones too. What is
registered is a `NamedRule`, or the path of a file that `rlgen train lpg` made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from rlgen import config as configs
from rlgen import registry, store, trees
from rlgen.algos.meta import lpg, lpo
from rlgen.algos.ppo import PPOConfig
from rlgen.algos.rules import ONE_STEP, ActorCriticRule, LPGRule, UpdateRule
from rlgen.errors import UserError
from rlgen.ranges import Count, Settings

PyTree = Any

#: Learned rules that ship, each made by a command of ours that its file names.
PRETRAINED = Path(__file__).parent / "meta" / "pretrained"
LPG, LPO, TA_LPG, TA_LPO = (
    PRETRAINED / f"{name}.npz" for name in ("lpg", "lpo", "ta-lpg", "ta-lpo")
)


@dataclasses.dataclass(frozen=True)
class RuleConfig(Settings):
    """The shape of a rule that is learned.

    Attributes:
      rule: "lpg" or "lpo".
      time_aware: it reads how much of its training an agent has had.
      n_predictions, embedding_size, rule_size: of LPG.
      drift_size, from_clip: of LPO.
    """

    rule: str = "lpg"
    time_aware: bool = False
    n_predictions: Count = 8
    embedding_size: Count = 16
    rule_size: Count = 256
    drift_size: Count = 128
    from_clip: bool = False

    #: Settings that mean something for one kind only.
    KIND_FIELDS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "lpg": ("n_predictions", "embedding_size", "rule_size"),
        "lpo": ("drift_size", "from_clip"),
    }

    def __post_init__(self):
        super().__post_init__()
        if self.rule not in self.KIND_FIELDS:
            raise UserError(f"Unknown rule {self.rule!r}: choose lpg or lpo.")
        for kind, names in self.KIND_FIELDS.items():
            for name in names:
                default = type(self).__dataclass_fields__[name].default
                if kind != self.rule and getattr(self, name) != default:
                    raise UserError(
                        f"{name} has no effect on {self.rule}: leave it out."
                    )
        self.make(PPOConfig(**ONE_STEP))

    def make(self, config: PPOConfig, *, differentiable: bool = False) -> UpdateRule:
        """A rule of this shape for agents with these settings."""
        if self.rule == "lpo":
            return ActorCriticRule(
                config, lpo.LPOConfig(self.drift_size, self.time_aware, self.from_clip)
            )
        shape = lpg.LPGConfig(
            self.n_predictions, self.embedding_size, self.rule_size, self.time_aware
        )
        return LPGRule(config, shape, differentiable)

    def shapes(self) -> PyTree:
        """Of the rule's parameters."""
        return jax.eval_shape(self.make(PPOConfig(**ONE_STEP)).init, jax.random.key(0))


def save_rule(path: Path, params: PyTree, shape: RuleConfig, agent: PPOConfig) -> None:
    """Writes a learned rule as one small file, with the agents it was learned on."""
    about = {
        "kind": "rule",
        "rule": configs.flatten(shape),
        "agent": configs.flatten(agent),
    }
    trees.save(path, params, about | store.provenance())


def load_rule(path: str | Path) -> tuple[PyTree, RuleConfig, Mapping[str, Any]]:
    """Reads a rule that `save_rule` wrote, as data: nothing is unpickled.

    Returns:
      its parameters, its shape, and settings of the agents that it was learned on.

    Raises:
      UserError: no such file, or one whose arrays do not fit what it says of them.
    """
    arrays, about = trees.read(path, "a rule: make one with `rlgen train lpg`")
    parts = about.get("rule"), about.get("agent")
    if about.get("kind") != "rule" or not all(isinstance(x, dict) for x in parts):
        raise UserError(f"{path} is no rule: make one with `rlgen train lpg`.")
    shape = configs.override(RuleConfig(), about["rule"], str(path))
    return trees.fit(arrays, shape.shapes(), path), shape, about["agent"]


@dataclasses.dataclass(frozen=True)
class NamedRule:
    """A rule that agents can learn by.

    Attributes:
      name: as it was asked for; `find` fills it in.
      settings: of agents, that follow from it.
      shape: of its network; None for a hand-written one.
      params: of its network, one set for each meta-seed [M, ...]; None likewise.
      learned_on: settings of the agents that it was learned on; empty likewise.
      kind: makes a hand-written rule from an agent's settings.
    """

    name: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shape: RuleConfig | None = None
    params: PyTree = None
    learned_on: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kind: Callable[[PPOConfig], UpdateRule] = ActorCriticRule

    @property
    def is_lpg(self) -> bool:
        """Whether agents have a prediction in place of a value."""
        return self.shape is not None and self.shape.rule == "lpg"

    def make(self, config: PPOConfig) -> UpdateRule:
        """The rule for agents with these settings.

        Raises:
          UserError: they contradict it.
        """
        for setting, value in self.settings.items():
            if getattr(config, setting) != value:
                raise UserError(
                    f"The rule {self.name} needs {setting}={value}: leave {setting} "
                    "out."
                )
        return (self.kind if self.shape is None else self.shape.make)(config)


A2C = NamedRule(
    settings={
        "n_epochs": 1,
        "n_minibatches": 1,
        "drift": "none",
        "clip_value": False,
    }
)
PPO = NamedRule(settings={"drift": "clip"})
DPO = NamedRule(settings={"drift": "dpo"})


def find(name: str) -> NamedRule:
    """A rule by its name, file, or run directory (then one for each meta-seed).

    Raises:
      UserError: there is none, or its file does not hold one.
    """
    entry = _registered(name)
    if isinstance(entry, NamedRule):
        return dataclasses.replace(entry, name=name)
    files = _files(name) if entry is None else [Path(entry)]
    if not files:
        raise UserError(
            f"There is no rule {name}: choose {', '.join(names())}, or the file or "
            "finished run of one that `rlgen train lpg` made."
        )
    rules, shapes, agents = zip(*(load_rule(file) for file in files), strict=True)
    if len(set(shapes)) > 1:
        raise UserError(
            f"The rules in {name} are of several shapes: name one of the files."
        )
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *rules)
    settings = ONE_STEP if shapes[0].rule == "lpg" else {}
    return NamedRule(name, settings, shapes[0], params, agents[0])


def names() -> list[str]:
    """Of rules that are registered."""
    return registry.names(registry.RULES)


def hand_written() -> list[str]:
    """Names of registered rules that nobody had to learn."""
    return [name for name in names() if isinstance(_registered(name), NamedRule)]


def is_rule(name: str) -> bool:
    """Whether `find` knows something by this name."""
    return name in names() or bool(_files(name))


def _registered(name: str) -> Any:
    return registry.load(registry.RULES, name) if name in names() else None


def _files(name: str) -> list[Path]:
    path = Path(name)
    in_run = sorted(path.glob("rule-*.npz")) if path.is_dir() else []
    return in_run or [path] * path.is_file()
