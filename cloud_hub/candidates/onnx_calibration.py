"""Which calibration a static int8 form takes: methods tried in turn, the best by agreement.

1. Methods are compared on the calibration part, never on what is held out: that judges the form.
2. MinMax is tried first and kept where it agrees with fp32 as well as `agreement_enough` says; else
   percentiles and entropy too. No method wins everywhere; each costs seconds.
3. A further method is begun only while CALIBRATION_S_MAX have not passed.
4. The ranges that were found are kept in a file, for forms of other kinds of integers.

Runs in the examining process only (onnx_examination.py).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray

from cloud_hub.candidates.evaluation_limits import CALIBRATION_ITEMS_MIN
from cloud_hub.candidates.onnx_quantizer import Calibration, quantize_static
from shared.errors import RefusedError

CALIBRATION_S_MAX = 60.0
AGREEMENT_ITEMS_MAX = 64  # Of the calibration part, on which methods are compared

Agreement = Callable[[bytes], float]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A static int8 form, how its ranges were found, and where they are kept."""

    data: bytes
    method: Calibration
    agreement: float  # On the calibration part
    ranges: Path


def calibrate(
    model_bytes: bytes,
    calibration: NDArray,  # type: ignore[type-arg]  # (n, ...), of any number type
    agreement: Agreement,
    folder: Path,
    *,
    agreement_enough: float,
) -> Calibrated:
    """Return the static int8 form of a model that agrees best with fp32; see the rules above.

    Args:
        model_bytes: the fp32 model.
        calibration: inputs as it takes them, (n, ...).
        agreement: what a form's agreement with fp32 is, 0..1.
        folder: where ranges may be kept.
        agreement_enough: where the first method agrees as well, no other is tried.

    Raises RefusedError `quantizer.failed`.
    """
    if calibration.shape[0] < CALIBRATION_ITEMS_MIN:
        raise RefusedError(
            "quantizer.failed",
            f"The evaluation set leaves {calibration.shape[0]} items to calibrate with; "
            f"{CALIBRATION_ITEMS_MIN} are the least.",
        )
    started_s = time.monotonic()
    best: Calibrated | None = None
    failed: RefusedError | None = None
    for method in Calibration:
        if best is not None and time.monotonic() - started_s > CALIBRATION_S_MAX:
            break
        try:
            ranges = folder / f"ranges-{method}.json"
            data = quantize_static(model_bytes, calibration, method=method, ranges=ranges)
            tried = Calibrated(data, method, agreement(data), ranges)
        except RefusedError as error:
            # A new one: the traceback of this one would keep all that it had in memory.
            failed = RefusedError(error.code, error.message, remedy=error.remedy)
            continue
        if best is None or tried.agreement > best.agreement:
            best = tried
        if best.agreement >= agreement_enough:
            break
    if best is None:
        assert failed is not None, "a method is kept or has failed"
        raise failed
    return best
