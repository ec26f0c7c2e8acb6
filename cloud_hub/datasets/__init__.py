"""What the hub may train on: versions, splits, labels; from folders and devices, to label tools."""
