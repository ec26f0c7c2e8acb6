"""The gate as a table: an examination with one thing wrong gives exactly that reason."""

import msgspec
import pytest

from cloud_hub.candidates.examination import Examination, ModelFacts, RunFacts, TensorFacts
from cloud_hub.candidates.gate import GateSettings, judge, refuse_size
from shared.model.spec import ModelSpec, parse_spec
from tests.support.tiny_models import SPEC, WINDOW_SPEC

IMAGE = parse_spec(SPEC.encode())
WINDOW = parse_spec(WINDOW_SPEC.encode())
INPUT = TensorFacts("input", "float32", (None, 1, 8, 8))
MODEL = ModelFacts(opset=17, opset_uploaded=17, inputs=(INPUT,), domains=("",))
RUN = RunFacts(
    items_count=4,
    is_golden_given=True,
    is_finite=True,
    is_deterministic=True,
    output_shapes=((1, 3),),
    excess_max=-0.001,
    is_comparable=True,
)
GOOD = Examination(model=MODEL, run=RUN)
replace = msgspec.structs.replace


def codes(examination: Examination, spec: ModelSpec = IMAGE) -> list[str]:
    verdict = judge(examination, spec, GateSettings())
    assert verdict.is_passed == (not verdict.reasons)
    return [reason.code for reason in verdict.reasons]


def test_a_good_model_passes() -> None:
    assert codes(GOOD) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"error": "no protobuf"}, "gate.unreadable"),
        ({"external_count": 1}, "gate.external_data"),
        ({"domains": ("", "com.example")}, "gate.domain"),
        ({"checker_error": "bad node"}, "gate.checker"),
        ({"opset": 12}, "gate.opset"),
        ({"inputs": ()}, "gate.inputs"),
        ({"inputs": (INPUT, INPUT)}, "gate.inputs"),
        ({"inputs": (TensorFacts("x", "int64", (1, 1, 8, 8)),)}, "gate.input_dtype"),
        ({"inputs": (TensorFacts("x", "float32", (2, 1, 8, 8)),)}, "gate.input_shape"),
        ({"inputs": (TensorFacts("x", "float32", (1, 1, 8, 9)),)}, "gate.input_shape"),
        ({"inputs": (TensorFacts("x", "float32", (1, 64)),)}, "gate.input_shape"),
    ],
)
def test_what_the_file_says(change: dict[str, object], code: str) -> None:
    assert codes(Examination(model=replace(MODEL, **change), run=RUN)) == [code]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"error": "no kernel"}, "gate.run"),
        ({"is_finite": False}, "gate.not_finite"),
        ({"is_deterministic": False}, "gate.not_deterministic"),
        ({"excess_max": 0.01}, "gate.golden_differs"),
        ({"is_comparable": False}, "gate.golden_differs"),
        ({"output_misfit": "four classes, not three"}, "gate.outputs"),
    ],
)
def test_what_the_model_does(change: dict[str, object], code: str) -> None:
    assert codes(Examination(model=MODEL, run=replace(RUN, **change))) == [code]


def test_all_reasons_are_given_at_once() -> None:
    bad = replace(MODEL, opset=9, external_count=2, domains=("com.example",), inputs=())
    assert codes(Examination(model=bad)) == [
        "gate.external_data",
        "gate.domain",
        "gate.opset",
        "gate.inputs",
    ]


def test_a_model_that_was_not_run_never_passes() -> None:
    assert codes(Examination(model=MODEL)) == ["gate.not_run"]


def test_a_crash_is_a_reason() -> None:
    assert codes(Examination(crash="died of SIGSEGV"))[0] == "gate.crashed"


def test_a_golden_set_that_cannot_be_read_is_a_reason() -> None:
    assert codes(Examination(model=MODEL, golden_error="not an npz")) == ["gate.golden"]


def test_pixels_may_go_in_as_bytes_but_samples_may_not() -> None:
    pixels = replace(MODEL, inputs=(TensorFacts("x", "uint8", (1, 1, 8, 8)),))
    assert codes(Examination(model=pixels, run=RUN)) == []
    samples = replace(MODEL, inputs=(TensorFacts("x", "uint8", (1, 3, 64)),))
    run = replace(RUN, output_shapes=((1, 3, 64),))
    assert codes(Examination(model=samples, run=run), WINDOW) == ["gate.input_dtype"]


def test_remarks_stop_nothing() -> None:
    raised = replace(MODEL, opset=13, opset_uploaded=11)
    drawn = replace(RUN, is_golden_given=False)
    verdict = judge(Examination(model=raised, run=drawn), IMAGE, GateSettings())
    assert verdict.is_passed
    assert [r.code for r in verdict.remarks] == ["gate.opset_raised", "gate.golden_drawn"]


@pytest.mark.parametrize(("size", "passes"), [(0, False), (1, True), (100, True), (101, False)])
def test_size_limit(size: int, *, passes: bool) -> None:
    verdict = refuse_size(size, GateSettings(model_bytes_max=100))
    assert (verdict is None) == passes
    if verdict is not None:
        assert verdict.reasons[0].limit == "100 B"


def test_reasons_are_short_whatever_the_library_says() -> None:
    verdict = judge(Examination(model=ModelFacts(error="x\n" * 5000)), IMAGE, GateSettings())
    assert len(verdict.reasons[0].text) < 400
