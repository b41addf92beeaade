"""Penalties between blocks while a model trains."""
