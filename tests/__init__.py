"""Tests; tests/support plays the peer."""
