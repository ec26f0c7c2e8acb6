"""An error about a value that is none of a list says which there are."""

import pytest

from edge_agent.config import AgentConfig
from shared.errors import ContractError
from shared.model.spec import Decoder, parse_spec
from shared.settings import parse_toml

SPEC = """
model = "a"
task = "detection"
[input]
kind = "image"
width = 320
height = 320
colour = "bgr"
[output]
decoder = "yolo-v8"
classes = ["a"]
"""


def refused(text: str) -> str:
    with pytest.raises(ContractError) as caught:
        parse_spec(text.encode())
    return caught.value.remedy


def test_a_decoder_that_is_none_names_all_decoders() -> None:
    remedy = refused(SPEC.replace('"yolo-v8"', '"yolov11"'))
    assert all(decoder.value in remedy for decoder in Decoder)


def test_a_kind_that_is_none_names_the_kinds_of_a_union() -> None:
    remedy = refused(SPEC.replace('kind = "image"', 'kind = "picture"'))
    assert "one of: image" in remedy
    assert "text" in remedy


def test_a_value_in_a_list_of_pipelines_is_found_too() -> None:
    text = '[[pipelines]]\nname = "a"\nmodel = "b"\nsource = {kind = "vidio", path = "x.mp4"}\n'
    with pytest.raises(ContractError) as caught:
        parse_toml(text.encode(), AgentConfig, name="agent.toml")
    assert "video" in caught.value.remedy
    assert "camera" in caught.value.remedy


def test_a_value_of_the_wrong_type_lists_nothing() -> None:
    assert "one of" not in refused(SPEC.replace("width = 320", 'width = "wide"'))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[pipeline]]\n", "did you mean `pipelines`?"),
        ('[[pipelines]]\nnam = "a"\n', "did you mean `name`?"),
        ('[[pipelines]]\nsource = {kind = "video", pth = "x"}\n', "did you mean `path`?"),
        (
            '[[pipelines]]\nsource = {kind = "video", path = "x", window = {samples = 3}}\n',
            "only of the kinds: csv, mqtt",
        ),
        ("[[pipelines]]\n[pipelines.limits]\nfoo = 1\n", "one of: latency_ms_p95_max"),
        ('[[pipelines]]\nsource = {path = "x.mp4"}\n', "one of: folder, video"),
    ],
)
def test_a_key_that_there_is_not_names_the_one_that_is_meant(text: str, told: str) -> None:
    with pytest.raises(ContractError) as caught:
        parse_toml(text.encode(), AgentConfig, name="agent.toml")
    assert told in caught.value.remedy


def test_a_key_of_the_first_table_names_the_one_that_is_meant() -> None:
    assert "did you mean `resize`?" in refused(
        SPEC.replace('colour = "bgr"', 'resise = "stretch"').replace("yolo-v8", "yolov8")
    )
