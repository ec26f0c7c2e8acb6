"""Releases on the device: fetch, verify, prove, swap, try, settle or undo."""
