"""Checks: derivations that start a bundle and test it."""
