"""Tabletops: a hand that fetches, carries and puts back an object."""

from rlgen.envs.tabletop.controllers import FetchAndCarry
from rlgen.envs.tabletop.env import Tabletop, TabletopState, Task
from rlgen.envs.tabletop.levels import Tasks, task

__all__ = ["FetchAndCarry", "Tabletop", "TabletopState", "Task", "Tasks", "task"]
