"""The fleet: know, gate, release, roll out."""
