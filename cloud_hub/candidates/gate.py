"""The gate: an Examination in, a Verdict out. Pure; every rule is a check that gives Reasons.

1. Every model that reaches a device came through here, whoever made it.
2. What the file says about itself is judged first; only a file without a reason against it is run.
3. All reasons are given, not the first one, so that a person repairs everything at once.
4. A remark stops nothing: the hub raised an old opset, or drew the golden inputs itself.
"""

import re
from typing import Annotated

from msgspec import Meta

from cloud_hub.candidates.candidate import Reason, Verdict
from cloud_hub.candidates.examination import Examination, ModelFacts, RunFacts, TensorFacts
from cloud_hub.candidates.export_files import ExportSettings
from cloud_hub.candidates.gate_quality import QualitySettings
from cloud_hub.candidates.variant_choice import VariantSettings
from shared.model.spec import ImageInput, ModelSpec, TextInput, WindowInput
from shared.release.manifest import ARTIFACT_BYTES_MAX
from shared.settings import Settings

# The standard operator sets and onnxruntime's own; anything else no device could run.
DOMAINS_ALLOWED = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
TEXT_CHARS_MAX = 300
# onnxruntime puts file, line and signature before what it has to say, longer than what is kept.
_WHERE_IN_CPP = re.compile(r"/onnxruntime_src/\S+ [^\n]*?\)(?: const)? (?=[A-Z])")


class GateSettings(Settings, frozen=True):
    """Limits of the gate."""

    model_bytes_max: Annotated[int, Meta(ge=1, le=ARTIFACT_BYTES_MAX)] = 512 << 20
    opset_min: Annotated[int, Meta(ge=1, le=100)] = 13  # Per-channel QuantizeLinear begins here
    golden_items: Annotated[int, Meta(ge=1, le=64)] = 8  # Drawn by the hub where none are given
    examination_s_max: Annotated[int, Meta(ge=1, le=3600)] = 120  # Of processor time
    # Address space, which is more than what is used.
    examination_memory_bytes_max: Annotated[int, Meta(ge=1 << 30)] = 6 << 30
    examinations_max: Annotated[int, Meta(ge=1, le=64)] = 2  # At a time
    evaluation_s_max: Annotated[int, Meta(ge=1, le=36_000)] = 600  # On top, with an evaluation set
    timing_rounds: Annotated[int, Meta(ge=5, le=10_000)] = 50
    is_folded: bool = True  # Preprocessing of pictures goes into the graph where it can
    quality: QualitySettings = QualitySettings()
    variants: VariantSettings = VariantSettings()
    export: ExportSettings = ExportSettings()


def judge(examination: Examination, spec: ModelSpec, settings: GateSettings) -> Verdict:
    """Return the Verdict on what was measured."""
    if examination.crash:  # Nothing is known of the model then.
        return Verdict(is_passed=False, reasons=(_crash(examination.crash),))
    reasons = model_reasons(examination.model, spec, settings)
    if examination.golden_error:
        reasons.append(Reason("gate.golden", _short(examination.golden_error)))
    if examination.run is not None:
        reasons += run_reasons(examination.run, spec)
    elif not reasons:
        reasons.append(Reason("gate.not_run", "The model was not run."))
    return Verdict(
        is_passed=not reasons, reasons=tuple(reasons), remarks=tuple(_remarks(examination))
    )


def refuse_size(model_bytes: int, settings: GateSettings) -> Verdict | None:
    """Return the Verdict on a file too large to look at, or None where its size is allowed."""
    if 0 < model_bytes <= settings.model_bytes_max:
        return None
    text = "The file is empty." if not model_bytes else "The file is too large."
    reason = Reason("gate.size", text, f"{model_bytes} B", f"{settings.model_bytes_max} B")
    return Verdict(is_passed=False, reasons=(reason,))


def model_reasons(facts: ModelFacts, spec: ModelSpec, settings: GateSettings) -> list[Reason]:
    """Return what speaks against the file itself."""
    if facts.error:
        return [Reason("gate.unreadable", f"This is not an ONNX model: {_short(facts.error)}")]
    if facts.external_count:  # Then nothing else was looked at.
        text = (
            "Weights lie in another file; save the model with its data inside: "
            "torch.onnx.export(..., external_data=False), or onnx.save(onnx.load(path), path)."
        )
        return [Reason("gate.external_data", text, f"{facts.external_count} tensors", "0")]
    reasons = []
    foreign = sorted(set(facts.domains) - DOMAINS_ALLOWED)
    if foreign:
        text = "The model needs operators that onnxruntime does not have."
        reasons.append(Reason("gate.domain", text, ", ".join(foreign), "standard operators"))
    if facts.checker_error:
        text = f"ONNX's own checker refuses the model: {_short(facts.checker_error)}"
        reasons.append(Reason("gate.checker", text))
    if facts.opset < settings.opset_min:
        text = f"The operator set is too old and could not be raised: {_short(facts.opset_error)}"
        reasons.append(Reason("gate.opset", text, str(facts.opset), f">= {settings.opset_min}"))
    return reasons + _input_reasons(facts.inputs, spec)


def run_reasons(run: RunFacts, spec: ModelSpec) -> list[Reason]:
    """Return what speaks against what the model does."""
    if run.error:
        told = _short(_WHERE_IN_CPP.sub("", run.error))
        return [Reason("gate.run", f"onnxruntime cannot run the model: {told}")]
    reasons = []
    if run.output_misfit:
        measured = ", ".join(_shape_text(shape) for shape in run.output_shapes)
        text = _short(run.output_misfit)
        reasons.append(Reason("gate.outputs", text, measured, spec.output.decoder))
    if not run.is_finite:
        reasons.append(Reason("gate.not_finite", "The model puts out NaN or infinity."))
    if not run.is_deterministic:
        text = "Two runs on the same input differ: no device could prove that it computes this."
        reasons.append(Reason("gate.not_deterministic", text))
    if run.is_finite and (not run.is_comparable or run.excess_max > 0.0):
        reasons.append(_golden_reason(run, spec))
    return reasons


def _input_reasons(inputs: tuple[TensorFacts, ...], spec: ModelSpec) -> list[Reason]:
    if len(inputs) != 1:
        text = "The model must have exactly one input."
        return [Reason("gate.inputs", text, str(len(inputs)), "1")]
    reasons = []
    given, wanted = inputs[0], spec.input_shape
    dtypes = _input_dtypes(spec)
    if given.dtype not in dtypes:
        text = (
            f"The input {given.name[:40]!r} has the wrong number type; export the model so that "
            f"it takes {' or '.join(dtypes)}."
        )
        reasons.append(Reason("gate.input_dtype", text, given.dtype, " or ".join(dtypes)))
    fits = len(given.shape) == len(wanted) and all(
        size == want or (size is None and axis == 0)
        for axis, (size, want) in enumerate(zip(given.shape, wanted, strict=True))
    )
    if not fits:
        measured = _shape_text(given.shape)
        text = (
            f"The input {given.name[:40]!r} has the shape {measured}; "
            f"the spec says {_shape_text(wanted)}. {_shape_remedy(given.shape, wanted)}"
        )
        if None in given.shape[1:]:
            text = (
                f"The input {given.name[:40]!r} has open sizes behind the batch axis; export the "
                "model with the sizes that the spec says."
            )
        reasons.append(Reason("gate.input_shape", text, measured, _shape_text(wanted)))
    return reasons


def _shape_remedy(given: tuple[int | None, ...], wanted: tuple[int, ...]) -> str:
    if given[1:] == wanted[1:]:
        return "Export it for one item, or with an open batch axis."
    return "Correct input in the spec, or export the model with that shape."


def _input_dtypes(spec: ModelSpec) -> tuple[str, ...]:
    match spec.input:
        case ImageInput():
            return ("float32", "uint8")
        case WindowInput():
            return ("float32",)
        case TextInput():
            return ("int64",)


def _golden_reason(run: RunFacts, spec: ModelSpec) -> Reason:
    source = "the golden outputs" if run.is_golden_given else "what the uploaded file computes"
    tolerance = spec.tolerance
    return Reason(
        "gate.golden_differs",
        f"The model does not reproduce {source}.",
        f"off by {run.error_max:.3g}" if run.is_comparable else "shapes differ",
        f"{tolerance.absolute:g} + {tolerance.relative:g} x value",
    )


def _crash(crash: str) -> Reason:
    text = f"Examining the model failed: {_short(crash)}"
    if crash.startswith("it "):  # Took more than it may: process_limits.py says so
        text += (
            ". Its limits are releases.gate's examination_s_max, evaluation_s_max and "
            "examination_memory_bytes_max; a smaller evaluation set takes less."
        )
    return Reason("gate.crashed", text)


def _remarks(examination: Examination) -> list[Reason]:
    remarks, facts, run = [], examination.model, examination.run
    if facts.opset > facts.opset_uploaded > 0:
        text = "The operator set was raised; outputs were compared with the file as uploaded."
        remarks.append(
            Reason("gate.opset_raised", text, str(facts.opset_uploaded), str(facts.opset))
        )
    if run is not None and not run.error and not run.is_golden_given:
        text = "No golden set was given: inputs were drawn with a fixed seed, outputs computed."
        remarks.append(Reason("gate.golden_drawn", text, f"{run.items_count} items"))
    return remarks


def _shape_text(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= TEXT_CHARS_MAX else flat[:TEXT_CHARS_MAX] + "…"
