"""Who is told what a pipeline decides, on the device and beside it."""
