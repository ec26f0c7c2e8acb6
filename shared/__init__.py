"""The contract between devices and the hub: what both sides must read the same way."""
