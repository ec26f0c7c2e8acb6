"""What a hub and a device agree on when devices learn together: tasks, updates, privacy."""
