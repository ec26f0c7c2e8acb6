"""One device's part of a Round: its own policy, its own budget, its own samples."""
