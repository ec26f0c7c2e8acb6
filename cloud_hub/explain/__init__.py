"""How good a model is, and why: scores with intervals, slices, calibration, saliency."""
