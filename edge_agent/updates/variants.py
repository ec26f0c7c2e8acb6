"""Which variants of a release this device brings, to measure them. Pure.

1. A precision that is not accepted, a variant for other processors, and one whose stated agreement
   with fp32 is below what a pipeline asks for are not worth their bytes.
2. Best first, as the manifest lists them, at most TRIED_MAX and as many as fit `bytes_max`; the
   first always comes. fp32 goes second where it is not first: without it nobody knows what the
   others gain.
3. With a hint of what equal devices came to, that variant alone, if it is one of these.
"""

from dataclasses import dataclass

from msgspec import UNSET

from edge_agent.inference.fit import is_quantized
from edge_agent.updates.repository_source import no_variant
from shared.pipeline.pipeline import PipelineLimits
from shared.release.manifest import Manifest, Variant
from shared.wire.target import TargetRelease

TRIED_MAX = 4


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What this device takes of a release."""

    limits: PipelineLimits
    bytes_max: int  # Of every variant together
    machine: str = ""  # platform.machine(); empty: variants for any processor only
    precisions: tuple[str, ...] | None = None  # None: every one


def admitted(manifest: Manifest, acceptance: Acceptance) -> frozenset[str]:
    """Return the precisions that would be brought to measure all of them; none where none may."""
    able = [v for v in manifest.variants if not _objection(v, acceptance)]
    return (
        frozenset(v.precision for v in _bounded(able, acceptance.bytes_max))
        if able
        else frozenset()
    )


def worth_trying(
    manifest: Manifest, release: TargetRelease, acceptance: Acceptance
) -> tuple[Variant, ...]:
    """Return the variants to bring, best first. Raises RefusedError `release.no_variant`."""
    able = [v for v in manifest.variants if not _objection(v, acceptance)]
    if not able:
        told = "; ".join(f"{v.precision}: {_objection(v, acceptance)}" for v in manifest.variants)
        raise no_variant(manifest, f"It holds {told}.")
    hint = release.fit_hint
    if hint is not UNSET:
        hinted = [variant for variant in able if variant.precision == hint.precision]
        if hinted:
            return tuple(hinted[:1])
    return _bounded(able, acceptance.bytes_max)


def _objection(variant: Variant, acceptance: Acceptance) -> str:
    """Return why a variant is not worth its bytes; empty if it is."""
    if acceptance.precisions is not None and variant.precision not in acceptance.precisions:
        return "this precision is not accepted here"
    made_for = variant.architectures
    if made_for is not UNSET and acceptance.machine not in made_for:
        return f"it is for {', '.join(made_for)}"
    agreement, least = agreement_of(variant), acceptance.limits.agreement_min
    if is_quantized(variant.precision) and agreement is not None and agreement < least:
        return f"it agrees with fp32 on {agreement:.1%}, {least:.1%} are needed"
    return ""


def agreement_of(variant: Variant) -> float | None:
    """Return how far a variant agrees with fp32; None where the hub did not say."""
    return variant.agreement if isinstance(variant.agreement, float) else None


def _bounded(able: list[Variant], bytes_max: int) -> tuple[Variant, ...]:
    order = [able[0], *sorted(able[1:], key=lambda v: is_quantized(v.precision))]
    taken, total_bytes = [order[0]], _bytes_of(order[0])
    for variant in order[1:TRIED_MAX]:
        if total_bytes + _bytes_of(variant) <= bytes_max:
            taken.append(variant)
            total_bytes += _bytes_of(variant)
    return tuple(sorted(taken, key=able.index))


def _bytes_of(variant: Variant) -> int:
    return variant.artifact.file_bytes + variant.golden.file_bytes
