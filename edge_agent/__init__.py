"""The device: see, decide, tell, update."""
