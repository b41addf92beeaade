"""Distances between consecutive states, and their gradient."""
