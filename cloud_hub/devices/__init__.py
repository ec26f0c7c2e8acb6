"""Enrolled machines: identity, presence, groups."""
