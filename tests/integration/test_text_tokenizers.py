"""Texts by a tokenizer.json trained here, to a small text model, as a device runs it."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from cloud_hub.candidates.onnx_text_inputs import fold_text_inputs, take_ids_only
from cloud_hub.serving.messages import Classified
from cloud_hub.serving.process_worker import ServingProcess
from cloud_hub.serving.settings import ServingSettings
from edge_agent.inference.tensor_runner import TensorRunner
from edge_agent.sources.item import TextItem
from shared.errors import ContractError, RefusedError
from shared.model import tokenizers_text
from shared.model.preprocess import to_tensor
from shared.model.spec import Decoder, ModelSpec, OutputSpec, Task, TextInput
from shared.model.spec import Tokenizer as TokenizerKind
from shared.model.tokenizers_text import load_tokenizer, padding_id
from tests.support.requirements import require_data

LENGTH = 12
CHARS = 60_000  # Of the plays: enough to learn words from


def text_spec(kind: TokenizerKind = TokenizerKind.TOKENIZER_JSON) -> ModelSpec:
    return ModelSpec(
        model="mood",
        task=Task.CLASSIFICATION,
        input=TextInput(length=LENGTH, tokenizer=kind),
        output=OutputSpec(decoder=Decoder.LOGITS, classes=("empty", "text")),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tokenizer.json that puts [CLS] before and [SEP] after a text, and pads with 3."""
    plays = require_data("data/tinyshakespeare/input.txt").read_text()[:CHARS]
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(plays.splitlines(), trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_a_text_is_cut_and_filled_up_to_the_length_of_the_model(trained: Path) -> None:
    tokenize = load_tokenizer(trained, text_spec())
    short, long = tokenize("the king"), tokenize("the king " * 500)
    own = Tokenizer.from_file(str(trained)).encode("the king").ids
    assert short.dtype == np.int64
    assert short.tolist() == own + [3] * (LENGTH - len(own))
    assert long.shape == (LENGTH,)
    assert (long[0], long[-1]) == (1, 2), "the mark of the end stays the last"
    assert tokenize("").tolist() == [1, 2] + [3] * (LENGTH - 2)
    assert tokenize("a lone \ud800 surrogate").shape == (LENGTH,)
    assert padding_id(trained) == 3


def test_a_tokenizer_of_bytes_needs_no_file() -> None:
    spec = text_spec(TokenizerKind.BYTES)
    tokenize = load_tokenizer(None, spec)
    assert to_tensor(tokenize("ab"), spec).tolist() == [[98, 99] + [0] * (LENGTH - 2)]


def test_bytes_are_not_taken_for_ids(trained: Path) -> None:
    with pytest.raises(RefusedError, match="ids"):
        to_tensor(np.frombuffer(b"the king", np.uint8), text_spec())


def test_a_model_of_a_tokenizer_says_what_is_missing(tmp_path: Path) -> None:
    for path in (None, tmp_path / "tokenizer.json"):
        with pytest.raises(ContractError) as caught:
            load_tokenizer(path, text_spec())
        assert caught.value.code == "tokenizer.missing"
        assert "tokenizer.json" in caught.value.remedy


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b"{",
        b"[]",
        b'{"model": 3}',
        b'{"model": {"type": "BPE"}}',
        b'{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}',
        b"[" * 100_000,
    ],
    ids=["bytes", "half", "list", "number", "no-vocabulary", "no-tokens", "deep"],
)
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    with pytest.raises(ContractError) as caught:
        load_tokenizer(path, text_spec())
    assert caught.value.code == "tokenizer.invalid"


def test_a_file_over_its_limit_is_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizers_text, "TOKENIZER_BYTES_MAX", 1000)
    with pytest.raises(ContractError, match="over 1000 bytes"):
        load_tokenizer(trained, text_spec())


@pytest.mark.parametrize(
    "pattern", ["(a+)+b", r"(\w|\w\w)*!", r"(a)\1", "x{1,9}(ab?){2,}", "a" * 600]
)
def test_a_regular_expression_that_may_take_for_ever_is_refused(
    trained: Path, tmp_path: Path, pattern: str
) -> None:
    tokenizer = Tokenizer.from_file(str(trained))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(pattern), "")])
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    with pytest.raises(ContractError, match="could take for ever"):
        load_tokenizer(path, text_spec())


def test_what_gpt_4_splits_texts_by_is_allowed(trained: Path, tmp_path: Path) -> None:
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer.from_file(str(trained))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    assert load_tokenizer(path, text_spec())("the king").shape == (LENGTH,)


def test_a_tokenizer_without_padding_says_how_to_add_it(trained: Path, tmp_path: Path) -> None:
    found = json.loads(trained.read_text().replace("[PAD]", "[GAP]"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(found))
    with pytest.raises(ContractError, match="enable_padding"):
        load_tokenizer(path, text_spec())


def encoder(*names: str) -> onnx.ModelProto:
    """Return a model whose logits are 0 and how many tokens its mask shows, less 2.5."""
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["input_ids", "token_type_ids"], ["unused"]),
        helper.make_node("ReduceSum", ["floats", "axis"], ["count"], keepdims=1),
        helper.make_node("Sub", ["count", "marks"], ["more"]),
        helper.make_node("Sub", ["count", "count"], ["zero"]),
        helper.make_node("Concat", ["zero", "more"], ["logits"], axis=1),
    ]
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
            numpy_helper.from_array(np.array(2.5, np.float32), "marks"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class OneInputSession:
    """A session of onnxruntime on one model, as a TensorRunner asks for it."""

    def __init__(self, model: onnx.ModelProto, spec: ModelSpec) -> None:
        self.spec, self.input_dtype = spec, np.dtype(np.int64)
        self._session = ort.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        (self._input,) = self._session.get_inputs()
        assert self._input.shape == [1, LENGTH]

    def new_input(self) -> np.ndarray:
        return np.empty(self.spec.input_shape, self.input_dtype)

    def run(self, batch: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(self._session.run(None, {self._input.name: batch}))

    def close(self) -> None:
        """Nothing to close."""


def test_a_graph_works_out_its_mask_and_a_device_runs_it_on_texts(trained: Path) -> None:
    exported = encoder("input_ids", "attention_mask", "token_type_ids")
    folded = fold_text_inputs(exported, length=LENGTH, padding=padding_id(trained))
    onnx.checker.check_model(folded, full_check=True)
    assert len(exported.graph.input) == 3, "the model given is not changed"
    spec = text_spec()
    runner = TensorRunner(OneInputSession(folded, spec), None, load_tokenizer(trained, spec))
    for text, label in (("", "empty"), ("the king", "text")):
        ready = runner.prepare(TextItem(text, sequence=0, captured_ms=0, captured_s=0.0))
        (row,) = runner.infer(ready)
        assert spec.output.classes[int(row.outputs[0].argmax())] == label


def test_an_input_that_ids_do_not_tell_is_refused_by_name() -> None:
    exported = encoder("input_ids", "attention_mask", "token_type_ids", "pixel_values")
    with pytest.raises(RefusedError, match="pixel_values"):
        fold_text_inputs(exported, length=LENGTH, padding=0)


def test_an_examined_model_takes_ids_only(trained: Path) -> None:
    exported = encoder("input_ids", "attention_mask", "token_type_ids").SerializeToString()
    made = onnx.load_from_string(take_ids_only(exported, text_spec(), trained))
    assert [one.name for one in made.graph.input] == ["input_ids"]
    bytes_spec = text_spec(TokenizerKind.BYTES)
    assert take_ids_only(exported, bytes_spec, trained) == exported
    with pytest.raises(ContractError, match=r"tokenizer\.json"):
        take_ids_only(exported, text_spec(), trained.parent / "none.json")


@pytest.mark.slow
def test_a_hub_serves_texts_by_the_tokenizer_of_the_release(trained: Path) -> None:
    exported = encoder("input_ids", "attention_mask", "token_type_ids").SerializeToString()
    spec = text_spec()
    process = ServingProcess(
        take_ids_only(exported, spec, trained),
        spec,
        ServingSettings(),
        tokenizer_bytes=trained.read_bytes(),
    )
    try:
        (asked,) = process.ask([b"the king"])
        told = asked.result(timeout=30)
        assert isinstance(told.answer, Classified), told
        assert told.answer.label == "text"
    finally:
        process.stop()
