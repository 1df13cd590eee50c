"""Caves: Cave Escape, its level sets and the generator that made them."""
