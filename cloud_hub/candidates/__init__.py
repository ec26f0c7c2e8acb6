"""Weights not yet allowed anywhere, and the gate they must pass."""
