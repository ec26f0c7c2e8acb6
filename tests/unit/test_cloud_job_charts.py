"""What pages about training draw: curves, scatters, bars, shades, months; and how they say it."""

import math

import pytest

from cloud_hub.api.usage import UsageBy
from cloud_hub.dashboard.cloud_job_charts import RunCurve, chart_lines, scatter_charts
from cloud_hub.dashboard.formats import figure, plain, setting, share
from cloud_hub.dashboard.report_view import bar_of, confused_pairs, matrix, reliability
from cloud_hub.dashboard.usage_view import HEIGHT, usage_chart
from cloud_hub.explain.report import CalibrationBin, Interval, Report, WorstItem
from cloud_hub.training.cloud.cloud_job import CloudJobId, CloudJobState
from cloud_hub.training.cloud.order import Choice, CloudOrder, Range, SearchOrder
from cloud_hub.training.cloud.views import Curve, Trial, UsageRow
from cloud_hub.training.job import Outcome
from cloud_hub.training.trainer.run_files import Evaluated, Progressed

RATE = "recipe.learning_rate"


def curve(losses: list[float], *, first: float = 1.0) -> Curve:
    progress = tuple(
        Progressed(0, i, first + i, loss, 0.1, 10.0, 1.0, 5, None) for i, loss in enumerate(losses)
    )
    looks = tuple(
        Evaluated(0, i, first + i, {"loss": loss, "accuracy": 0.5}, 0.5, is_best=False)
        for i, loss in enumerate(losses)
    )
    return Curve(CloudJobId("cloud-1"), 0, progress, looks, (), ())


def trial(index: int, rate: object, value: float | None, **more: bool) -> Trial:
    return Trial(
        index=index, params={RATE: rate}, state=CloudJobState.FINISHED,  # type: ignore[dict-item]
        outcome=Outcome.COMPLETED, is_pruned=more.get("is_pruned", False),
        is_best=more.get("is_best", False), value=value, values=(), epoch=1.0,
        device_seconds=1.0, code="", text="",
    )  # fmt: skip


def search(values: Range | Choice) -> CloudOrder:
    return CloudOrder(
        model="m", dataset="d", checkpoint="c", search=SearchOrder(space={RATE: values})
    )


def report(**more: object) -> Report:
    fields: dict[str, object] = {
        "task": "classification", "part": "test", "dataset": "d", "manifest": "a" * 64,
        "weights_digest": "b" * 64, "items_count": 30, "classes": ("cat", "dog"),
        "accuracy": Interval(0.8, 0.6, 0.9, 30), "metrics": {},
        "confusion": ((18, 2), (4, 6)),
    }  # fmt: skip
    return Report(**{**fields, **more})  # type: ignore[arg-type]


def test_the_run_that_matters_is_drawn_last_and_strong() -> None:
    charts = chart_lines(
        [RunCurve("Trial 1", curve([3.0, 2.0]), True), RunCurve("Trial 0", curve([4.0]), False)]
    )
    assert [(line.label, line.tone) for line in charts["loss"]] == [
        ("Trial 0", "faint"),
        ("Trial 1", "strong"),
        ("Trial 1, validation", "second"),
    ]
    assert charts["value"][1].y == (0.5, 0.5)
    assert charts["rate"][0].x == (1.0,)


def test_numbers_that_json_does_not_know_are_left_out() -> None:
    (line, *_) = chart_lines([RunCurve("", curve([1.0, math.nan, math.inf, 2.0]), True)])["loss"]
    assert line.x == (1.0, 4.0)
    assert line.y == (1.0, 2.0)
    assert chart_lines([RunCurve("", curve([]), True)])["loss"] == []


def test_a_logarithmic_range_is_drawn_by_magnitude() -> None:
    order = search(Range(low=0.001, high=1.0, is_log=True))
    trials = [trial(0, 0.001, 0.1), trial(1, 1.0, 0.5, is_best=True), trial(2, 0.0316, 0.3)]
    (chart,) = scatter_charts(order, trials)
    low, middle, high = (one.dot.x for one in sorted(chart.dots, key=lambda one: one.dot.x))
    assert middle == pytest.approx((low + high) / 2, abs=1.0)
    assert chart.dots[-1].kind == "best"
    assert [tick.text for tick in chart.x_ticks] == ["0.001", "0.01", "0.1", "1"]
    heights = {one.dot.title.split(":")[0]: one.dot.y for one in chart.dots}
    assert heights["Trial 1"] < heights["Trial 2"] < heights["Trial 0"]


def test_choices_stand_beside_each_other_and_trials_without_a_value_nowhere() -> None:
    order = search(Choice(values=("sgd", "adamw", None)))
    trials = [trial(0, "sgd", 0.1), trial(1, None, 0.2, is_pruned=True), trial(2, "adamw", None)]
    (chart,) = scatter_charts(order, trials)
    assert [tick.text for tick in chart.x_ticks] == ["sgd", "adamw", "none"]
    assert sorted(one.dot.x for one in chart.dots) == [chart.x_ticks[0].at, chart.x_ticks[2].at]
    assert {one.kind for one in chart.dots} == {"", "pruned"}
    assert scatter_charts(order, trials[:1]) == ()


def test_shades_say_the_share_of_the_row_and_dots_what_is_listed() -> None:
    worst = WorstItem("c" * 64, "x.png", "dog", "cat", 0.9, 3.0)
    rows = matrix(report(worst=(worst,)))
    assert [[cell.shade for cell in row.cells] for row in rows] == [[9, 1], [4, 6]]
    assert [cell.is_right for cell in rows[1].cells] == [False, True]
    assert [cell.is_listed for cell in rows[1].cells] == [True, False]
    assert rows[0].cells[1].title == "2 of 20 items of cat were called dog"
    pairs = confused_pairs(report())
    assert [(pair.label, pair.answer, pair.count) for pair in pairs] == [
        ("dog", "cat", 4),
        ("cat", "dog", 2),
    ]
    assert pairs[0].share == pytest.approx(0.4)
    assert matrix(report(confusion=((0, 0), (0, 0))))[0].cells[0].shade == 0


@pytest.mark.parametrize(
    ("confidence", "accuracy", "words"),
    [(0.9, 0.7, "20 points surer"), (0.6, 0.8, "20 points less sure"), (0.9, 0.9, "as sure as")],
)
def test_calibration_is_said_in_words(confidence: float, accuracy: float, words: str) -> None:
    made = reliability([CalibrationBin(0.5, 1.0, 50, confidence, accuracy)])
    assert made is not None
    assert words in made.sentence
    assert made.dots[0][0] == pytest.approx(confidence * 1000)
    assert made.dots[0][1] == pytest.approx((1 - accuracy) * 1000)
    assert reliability([]) is None


def test_a_certain_share_is_seen_all_the_same() -> None:
    bar = bar_of(Interval(1.0, 1.0, 1.0, 3))
    assert bar is not None
    assert bar.width > 0
    assert bar_of(None) is None


def test_months_are_as_high_as_what_they_took() -> None:
    rows = [
        UsageRow("2026-10", f"m{index}", "", 10.0 * (index + 1), 1, 1.0, 1, 1) for index in range(8)
    ]
    rows.append(UsageRow("2026-11", "m0", "", 180.0, 1, 1.0, 1, 1))
    chart = usage_chart(rows, UsageBy.MODEL)
    assert chart is not None
    old, new = chart.columns
    assert sum(block.height for block in old.blocks) == pytest.approx(HEIGHT, abs=0.1)
    assert sum(block.height for block in new.blocks) == pytest.approx(HEIGHT / 2, abs=0.1)
    assert [name for name, _ in chart.names][-1] == "the rest"
    assert usage_chart([], UsageBy.MODEL) is None


def test_numbers_are_written_as_people_read_them() -> None:
    assert share(Interval(0.913, 0.907, 0.918, 10_000)) == "91.3 % (90.7 to 91.8) of 10,000"
    assert [setting(value) for value in (None, True, 0.00123456, 64, "sgd")] == [
        "none", "yes", "0.001235", "64", "sgd",
    ]  # fmt: skip
    assert [plain(text) for text in ('"sgd"', '""', "null", "", "[1]")] == [
        "sgd", "–", "–", "–", "[1]",
    ]  # fmt: skip
    assert [figure(value) for value in (None, 3.0, 0.12345, 1234.56, 12.345)] == [
        "–", "3", "0.1235", "1,234.6", "12.35",
    ]  # fmt: skip
