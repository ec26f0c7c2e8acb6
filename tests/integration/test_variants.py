"""Which form of a model is published: the rule as a table, and forms of a real network."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from numpy.typing import NDArray

from cloud_hub.candidates.candidate import VariantRow
from cloud_hub.candidates.examination import (
    EvaluationFacts,
    ExaminationLimits,
    ExaminationTask,
    ModelFacts,
    PairedCounts,
    RunFacts,
    VariantFacts,
)
from cloud_hub.candidates.export_files import ExportSettings
from cloud_hub.candidates.gate import GateSettings
from cloud_hub.candidates.gate_quality import QualitySettings
from cloud_hub.candidates.onnx_forms import FirstForm, build_forms, open_form
from cloud_hub.candidates.service import CandidateService, Rivals
from cloud_hub.candidates.torch_pruning import prune
from cloud_hub.candidates.torch_tuning import tune_for_int8
from cloud_hub.candidates.variant_choice import (
    VariantSettings,
    choose,
    precision_of,
    published,
    wants_tuning,
)
from cloud_hub.sql_database import Database, sqlite_url
from shared.clock import SystemClock
from shared.errors import RefusedError
from shared.ids import LineageId
from shared.model.network import NetworkSpec, RecurrentNetwork
from shared.model.spec import parse_spec
from shared.model.torch_sequences import LastState
from tests.support import tiny_models as tiny
from tests.support.tiny_models import WINDOW_SPEC
from tests.support.trained_digits import (
    Digits,
    checkpoint_of,
    evaluation_npz,
    train_digits,
    weights_npz,
)

SETTINGS = VariantSettings()
Weights = dict[str, NDArray[Any]]


def form(
    name: str,
    *,
    right: int = 950,
    agreed: int = 1000,
    size: int = 250,
    ms: float = 4.0,
    error: str = "",
    architectures: tuple[str, ...] = (),
) -> VariantFacts:
    """A form measured on 1000 items."""
    return VariantFacts(
        name=name,
        error=error,
        architectures=architectures,
        artifact_bytes=size,
        latency_ms=ms,
        agreement_count=agreed,
        model=ModelFacts(precision=name.split("-", maxsplit=1)[0]),
        slices=(PairedCounts(name="", items_count=1000, right_count=right),),
    )


FP32 = form("fp32", size=1000, ms=10.0)


@pytest.mark.parametrize(
    ("forms", "chosen", "why_not"),
    [
        ([form("int8")], "int8", ""),
        ([form("int8", right=940)], "int8", ""),  # One point less is the most
        ([form("int8", right=939)], "fp32", "loses 0.011 of accuracy"),
        ([form("int8", agreed=949)], "fp32", "agrees on 0.949"),
        ([form("int8", error="no kernel")], "fp32", "no kernel"),
        ([form("int8", ms=9.0, size=600)], "fp32", "gains too little"),
        ([form("int8", ms=8.6, size=999)], "int8", ""),  # Faster, hardly smaller
        ([form("int8", ms=10.9)], "int8", ""),  # A quarter of the size, 9 % slower
        ([form("int8", ms=11.1)], "fp32", "gains too little"),
        ([form("int8"), form("int8-dynamic", ms=3.0)], "int8-dynamic", ""),  # The fastest
        ([form("int8", ms=9.5, size=300), form("fp32-pruned", ms=9.4)], "fp32-pruned", ""),
        ([form("int8", ms=9.5, size=100), form("fp32-pruned", ms=8.0)], "fp32-pruned", ""),
        ([form("int8", ms=9.5), form("int8-dynamic", ms=9.0, size=270)], "int8-dynamic", ""),
        ([form("int8", ms=9.5), form("int8-dynamic", ms=9.0, size=280)], "int8", ""),
        ([form("int8", right=900), form("int8-qat")], "int8-qat", ""),
        ([], "fp32", ""),
    ],
)
def test_which_form_is_chosen(forms: list[VariantFacts], chosen: str, why_not: str) -> None:
    facts = EvaluationFacts(items_count=1000, variants=(FP32, *forms))
    found, rows = choose(facts, SETTINGS)
    assert found.name == chosen
    assert [row.name for row in rows if row.is_chosen] == [chosen]
    assert all(row.text for row in rows)
    if why_not:
        assert why_not in rows[1].text


@pytest.mark.parametrize(
    ("forms", "listed"),
    [
        ([], ["fp32"]),
        ([form("int8")], ["int8", "fp32"]),
        ([form("int8", agreed=949)], ["fp32"]),
        ([form("int8", right=939)], ["fp32"]),
        ([form("int8", error="no kernel")], ["fp32"]),
        (
            [form("int8", ms=20.0, size=990)],
            ["fp32", "int8"],
        ),  # Gains nothing here: elsewhere it may
        ([form("int8"), form("int8-dynamic", ms=11.0)], ["int8", "fp32", "int8-dynamic"]),
        (
            [form("int8"), form("int8-s8s8", ms=1.0, architectures=("arm64",))],
            ["int8", "fp32", "int8-s8s8"],
        ),
        ([form("int8-reduced", ms=1.0, architectures=("x86_64",))], ["fp32", "int8-reduced"]),
        ([form("int8", ms=5.0), form("int8-qat")], ["int8", "fp32"]),  # One precision, once
        ([form("fp32-pruned", ms=5.0)], ["fp32-pruned", "fp32"]),
    ],
)
def test_which_forms_are_published_and_in_which_order(
    forms: list[VariantFacts], listed: list[str]
) -> None:
    facts = EvaluationFacts(items_count=1000, variants=(FP32, *forms))
    chosen, _ = choose(facts, SETTINGS)
    found = published(chosen, facts, SETTINGS, lambda _: True)
    assert found[0] is chosen
    assert [precision_of(one, FP32) for one in found] == listed


def test_of_int8_and_its_tuned_form_the_chosen_one_is_published() -> None:
    facts = EvaluationFacts(
        items_count=1000, variants=(FP32, form("int8", ms=5.0), form("int8-qat", ms=4.0))
    )
    chosen, _ = choose(facts, SETTINGS)
    assert [one.name for one in published(chosen, facts, SETTINGS, lambda _: True)] == [
        "int8-qat",
        "fp32",
    ]


def test_a_form_that_the_gate_calls_worse_than_the_old_release_is_not_published() -> None:
    facts = EvaluationFacts(items_count=1000, variants=(FP32, form("int8"), form("int8-dynamic")))
    chosen, _ = choose(facts, SETTINGS)
    found = published(chosen, facts, SETTINGS, lambda one: one.name != "int8-dynamic")
    assert [one.name for one in found] == ["int8", "fp32"]


def test_a_form_that_no_time_is_left_for_is_not_begun(tmp_path: Path) -> None:
    """A second an item, 400 held out: two forms take longer than the limit's 720 s."""
    spec = parse_spec(tiny.SPEC.encode())
    data = tiny.convolutional().SerializeToString()
    limits = ExaminationLimits(
        memory_bytes_max=1 << 30, seconds_max=720, opset_min=13, golden_items=2
    )
    task = ExaminationTask(spec=spec, limits=limits)
    items = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)

    def built(run_ms: float) -> list[str]:
        facts = replace(FP32, run=RunFacts(run_ms_median=run_ms))
        first = FirstForm(facts, open_form(data, spec), data, items, held_out_count=400)
        forms, opened = build_forms(tmp_path, task, first)
        assert set(opened) == {one.name for one in forms if not one.error}
        return [f"{one.name}: {one.error}" for one in forms]

    untimed = built(1000.0)
    assert len(untimed) == 2
    assert all("evaluation_s_max is too short" in one for one in untimed)
    assert "int8: " in built(1.0)


def test_forms_that_find_nothing_agree_on_nothing_and_are_not_published() -> None:
    blind = [replace(one, agreement_count=0, agreement_total=0) for one in (FP32, form("int8"))]
    facts = EvaluationFacts(items_count=1000, variants=tuple(blind))
    chosen, rows = choose(facts, SETTINGS)
    assert chosen.name == "fp32"
    assert "neither finds any" in rows[1].text
    assert rows[1].agreement is None
    assert [one.name for one in published(chosen, facts, SETTINGS, lambda _: True)] == ["fp32"]


def test_below_the_floor_of_time_only_size_counts() -> None:
    facts = EvaluationFacts(
        items_count=1000, variants=(form("fp32", size=1000, ms=0.1), form("int8", ms=0.9))
    )
    assert choose(facts, SETTINGS)[0].name == "int8"


def test_without_items_nothing_but_the_model_as_it_came_is_published() -> None:
    found, rows = choose(EvaluationFacts(variants=(FP32, form("int8"))), SETTINGS)
    assert found is FP32
    assert rows[1].text == "no held-out items to judge it by"
    assert rows[1].accuracy is None


@pytest.mark.parametrize(
    ("one", "wanted"),
    [
        (form("int8"), False),
        (form("int8", right=930), True),
        (form("int8", agreed=900), True),
        (form("int8", right=930, error="no kernel"), False),
        (form("int8-dynamic", right=930), False),  # Its weights lie on another grid
    ],
)
def test_when_tuning_is_worth_its_time(one: VariantFacts, *, wanted: bool) -> None:
    facts = EvaluationFacts(items_count=1000, variants=(FP32, one))
    assert wants_tuning(facts, SETTINGS) is wanted


@pytest.fixture
def sqlite_database(tmp_path: Path, migrated_sqlite_file: Path) -> Iterator[Database]:
    """On SQLite alone: what is slow here does not touch the database."""
    shutil.copyfile(migrated_sqlite_file, tmp_path / "hub.db")
    opened = Database(sqlite_url(tmp_path))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def digits() -> Digits:
    return train_digits()


def judged(
    database: Database, digits: Digits, weights: Weights, export: ExportSettings
) -> dict[str, VariantRow]:
    """Forms of these weights as a first release, by name."""
    settings = GateSettings(
        export=export, quality=QualitySettings(is_unsure_refused=False), timing_rounds=10
    )
    data = evaluation_npz(digits.held_frames, digits.held_labels)
    passed = CandidateService(database, SystemClock(), settings).judge_trained(
        checkpoint_of(weights),
        weights_npz(weights),
        lineage_id=LineageId("line-digits"),
        rivals=Rivals(evaluation_digest="0" * 64, evaluation_bytes=data),
    )
    verdict = passed.candidate.verdict
    assert verdict.comparison is not None
    chosen = next(row for row in verdict.variants if row.is_chosen)
    assert len(passed.model_bytes) == chosen.artifact_bytes
    return {row.name: row for row in verdict.variants}


@pytest.mark.slow
def test_without_a_third_of_its_channels_a_network_is_smaller_and_about_as_right(
    digits: Digits, sqlite_database: Database
) -> None:
    rows = judged(sqlite_database, digits, digits.weights, ExportSettings(pruned_share=0.3))
    whole, pruned = rows["fp32"], rows["fp32-pruned"]
    assert whole.accuracy is not None
    assert pruned.accuracy is not None
    assert pruned.accuracy >= whole.accuracy - 0.03
    assert pruned.artifact_bytes < 0.7 * whole.artifact_bytes
    # Int8 after training loses nothing here: no time is spent on tuning.
    assert rows["int8"].accuracy is not None
    assert rows["int8"].accuracy >= whole.accuracy - 0.01
    assert "int8-qat" not in rows


@pytest.mark.slow
def test_a_recurrent_network_is_neither_pruned_nor_tuned_and_the_error_says_so() -> None:
    spec, network = parse_spec(WINDOW_SPEC.encode()), NetworkSpec(architecture=RecurrentNetwork())
    module = LastState(RecurrentNetwork(), (3, 64), 2).eval()
    with pytest.raises(RefusedError, match="cnn, conv1d and mlp") as raised:
        prune(module, network, spec, 0.3)
    assert raised.value.code == "pruning.unsupported"
    inputs = torch.zeros(4, 3, 64)
    with pytest.raises(RefusedError, match="not quantized") as refused:
        tune_for_int8(module, inputs, spec, ExportSettings(), seed=0)
    assert refused.value.code == "tuning.unsupported"


def badly_scaled(weights: Weights) -> Weights:
    """The same function, its channels up to 1000 times apart: too coarse for one int8 grid."""
    scaled = {name: array.copy() for name, array in weights.items()}
    for channel, factor in enumerate(np.geomspace(1.0, 1000.0, 8, dtype=np.float32)):
        scaled["0.1.weight"][channel] *= factor
        scaled["0.1.bias"][channel] *= factor
        scaled["0.4.weight"][:, channel] /= factor
    return scaled


@pytest.mark.slow
def test_tuning_wins_back_what_int8_loses_on_badly_scaled_channels(
    digits: Digits, sqlite_database: Database
) -> None:
    rows = judged(sqlite_database, digits, badly_scaled(digits.weights), ExportSettings())
    whole, plain, tuned = rows["fp32"], rows["int8"], rows["int8-qat"]
    assert whole.accuracy is not None
    assert plain.accuracy is not None
    assert tuned.accuracy is not None
    assert plain.accuracy < whole.accuracy - 0.05
    assert not plain.is_chosen
    assert "agrees on" in plain.text or "of accuracy" in plain.text
    assert tuned.accuracy >= whole.accuracy - 0.03
