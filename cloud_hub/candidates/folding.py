"""Folding: which preprocessing goes into a model's graph, and what its spec says then. Pure.

1. A folded model takes the frame as the camera gives it: uint8 BGR (1, H, W, 3) of the model's
   size. Colour order, mean and scale are in the graph; resizing and letterboxing stay outside.
2. Its spec says just that: channels last, BGR, mean 0, scale 1. All forms of a release share it;
   what the model was trained to see is kept beside it, for people (`Manifest.folded`).
3. Folded are fp32 models of images that take float32. Not folded are reconstructions, whose score
   compares the output with the very tensor that the model takes.
"""

from msgspec.structs import replace

from cloud_hub.candidates.examination import ModelFacts
from shared.model.spec import Colour, Decoder, ImageInput, Layout, ModelSpec


def folded_spec(spec: ModelSpec) -> ModelSpec:
    """Return what the spec of an image model says once its preprocessing is in the graph."""
    assert isinstance(spec.input, ImageInput), "only pictures are folded"
    frame = replace(
        spec.input,
        colour=Colour.BGR,
        layout=Layout.CHANNELS_LAST,
        mean=(0.0,),
        scale=(1.0,),
    )
    return replace(spec, input=frame)


def is_foldable(spec: ModelSpec, facts: ModelFacts) -> bool:
    """Whether there is anything to fold that may be folded; rule 3."""
    return (
        isinstance(spec.input, ImageInput)
        and spec.output.decoder is not Decoder.RECONSTRUCTION
        and facts.precision == "fp32"
        and [tensor.dtype for tensor in facts.inputs] == ["float32"]
    )
