"""One training run, in a process of its own: the only part of the hub that trains with torch."""
