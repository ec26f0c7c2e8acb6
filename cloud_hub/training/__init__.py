"""Jobs and their Rounds: devices that learn together, and what comes of it."""
