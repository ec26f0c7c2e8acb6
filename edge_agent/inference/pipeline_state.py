"""How a pipeline stands, in the words of the Report. Pure.

1. A source that failed is said first: no model helps it, and nothing but a person does.
2. Then a model that is missing; then inference that fails while items come; then a picture that
   stands still while frames come; then whatever the source says.
3. A source that ended has ended the pipeline only when its last item is decided.
"""

from edge_agent.sources.capture import CaptureState, CaptureStatus

WAITING = "waiting for a model"
FAILING = "failing"
FROZEN = "frozen"
FROZEN_DETAIL = "The picture does not change any more: does the camera hang?"


def pipeline_state(
    capture: CaptureStatus,
    *,
    is_waiting_for_model: bool,
    is_over: bool,
    failing: str = "",
    is_frozen: bool = False,
) -> tuple[str, str]:
    """Return the state and its detail for a PipelineReport; see the rules above."""
    if capture.state is CaptureState.FAILED:
        return capture.state, f"{capture.detail} Then start the agent again."
    if is_waiting_for_model:
        return WAITING, capture.detail
    if failing and capture.state in (CaptureState.RUNNING, CaptureState.ENDED):
        return FAILING, failing
    if is_frozen and capture.state is CaptureState.RUNNING:
        return FROZEN, FROZEN_DETAIL
    if capture.state is CaptureState.ENDED and not is_over:
        return CaptureState.RUNNING, ""
    return capture.state, capture.detail
