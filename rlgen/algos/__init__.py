"""Algorithms: each an Experiment, or a part of one."""
