"""Frames and sensor windows in."""
