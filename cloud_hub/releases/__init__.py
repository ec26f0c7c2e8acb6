"""Immutable, versioned, signed releases and the repository devices pull from."""
