"""Limits of an evaluation set, and how one is saved."""

EVALUATION_BYTES_MAX = 1 << 30  # Of the file, and of what it unpacks to
ITEMS_MAX = 100_000
SLICES_MAX = 64
SLICE_CHARS_MAX = 120
PICTURE_BOXES_MAX = 2_000  # True boxes on one picture
BOXES_MAX = 5_000_000  # On all pictures of a set
CHECK_S_MAX = 60
CHECK_MEMORY_BYTES_MAX = 6 << 30
# Items that set the ranges of int8 and tune it: some hundred are enough.
CALIBRATION_SHARE = 0.2
CALIBRATION_ITEMS_MAX = 512
CALIBRATION_ITEMS_MIN = 16  # Ranges set by fewer would be luck
SAVE_REMEDY = (
    "Save it with numpy.savez(items=..., labels=..., slices=...), or with boxes=..., "
    "box_starts=... in place of labels for a detector, masks=... for segmentation."
)
