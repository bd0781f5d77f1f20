"""Hydra looks for plugins in packages of this name alone."""
