"""Models of each kind, for tests of the networks that are built for them."""

from shared.model.spec import parse_spec

IMAGES = parse_spec(
    b"""
model = "shapes"
task = "classification"
input = {kind = "image", width = 28, height = 20, colour = "gray"}
output = {decoder = "logits", classes = ["a", "b", "c"]}
"""
)
WINDOWS = parse_spec(
    b"""
model = "shaft"
task = "classification"
input = {kind = "window", samples = 50, channels = 3}
output = {decoder = "logits", classes = ["a", "b"]}
"""
)
HEALTH = parse_spec(
    b"""
model = "bearing"
task = "anomaly"
input = {kind = "window", samples = 50, channels = 3}
output = {decoder = "reconstruction", threshold = 1.0}
"""
)
