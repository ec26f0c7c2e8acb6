"""Overlay: what of a pipeline's settings is drawn into its pictures. Values only.

1. Places are shares of the whole frame's width and height, 0..1.
2. What the owner masked is painted over in every picture that is kept or shown: a mask that only
   the model heeds would be a promise half kept.
"""

from dataclasses import dataclass

from shared.pipeline.pipeline import PipelineSettings

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Overlay:
    """Named places, and masks without a name."""

    lines: tuple[tuple[str, Points], ...] = ()
    zones: tuple[tuple[str, Points], ...] = ()
    masks: tuple[Points, ...] = ()


NO_OVERLAY = Overlay()


def overlay_of(settings: PipelineSettings) -> Overlay:
    """Return what of `settings` is drawn."""
    decisions = settings.decisions
    return Overlay(
        lines=tuple((line.name, line.points) for line in decisions.lines),
        zones=tuple((zone.name, zone.points) for zone in decisions.zones),
        masks=settings.frames.masks,
    )
