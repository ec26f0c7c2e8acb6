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
    bad = replace(MODEL, opset=9, domains=("com.example",), inputs=())
    assert codes(Examination(model=bad)) == [
        "gate.domain",
        "gate.opset",
        "gate.inputs",
    ]


def test_a_model_that_was_not_run_never_passes() -> None:
    assert codes(Examination(model=MODEL)) == ["gate.not_run"]


def test_a_crash_is_the_reason_for_nothing_is_known_of_the_model() -> None:
    assert codes(Examination(crash="died of SIGSEGV")) == ["gate.crashed"]


@pytest.mark.parametrize("took", ["all the processor time it may", "all the memory it may"])
def test_a_model_that_took_more_than_it_may_is_told_which_limits_there_are(took: str) -> None:
    examination = Examination(crash=f"it used {took}")
    (reason,) = judge(examination, IMAGE, GateSettings()).reasons
    assert "examination_s_max, evaluation_s_max" in reason.text


def test_weights_in_another_file_are_the_reason_for_nothing_else_was_read() -> None:
    facts = ModelFacts(external_count=2, opset=18)
    verdict = judge(Examination(model=facts), IMAGE, GateSettings())
    assert [reason.code for reason in verdict.reasons] == ["gate.external_data"]
    assert "external_data=False" in verdict.reasons[0].text


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/graph/model.cc:256 "
            "onnxruntime::Model::Model(onnx::ModelProto&&, const onnxruntime::PathString&, "
            + "const onnxruntime::IOnnxRuntimeOpSchemaRegistryList*, "
            * 6
            + "const onnxruntime::ModelOptions&) Unsupported model IR version: 14, max supported "
            "IR version: 13\n",
            "Unsupported model IR version: 14, max supported IR version: 13",
        ),
        ("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find X(1)", "Could not find X(1)"),
    ],
)
def test_what_the_runtime_says_is_told_without_its_source(said: str, told: str) -> None:
    examination = Examination(model=MODEL, run=RunFacts(error=said))
    (reason,) = judge(examination, IMAGE, GateSettings()).reasons
    assert reason.text.endswith(told)
    assert "/onnxruntime_src" not in reason.text


@pytest.mark.parametrize(
    ("tensor", "remedy"),
    [
        (TensorFacts("x", "float16", (1, 1, 8, 8)), "takes float32 or uint8"),
        (TensorFacts("x", "float32", (4, 1, 8, 8)), "for one item"),
        (TensorFacts("x", "float32", (1, 64)), "Correct input in the spec"),
        (TensorFacts("x", "float32", (None, 1, None, None)), "with the sizes"),
    ],
)
def test_a_wrong_input_is_told_with_what_to_do(tensor: TensorFacts, remedy: str) -> None:
    verdict = judge(Examination(model=replace(MODEL, inputs=(tensor,))), IMAGE, GateSettings())
    assert remedy in verdict.reasons[0].text


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
