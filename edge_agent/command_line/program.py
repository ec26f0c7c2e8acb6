"""What all commands share: the program's name and the headings of its help."""

PROGRAM = "edge-agent"
HEADINGS = ("The device and its hub", "Running", "Looking")
