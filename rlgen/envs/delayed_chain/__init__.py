"""Chains whose first action decides a reward that comes at the end."""
