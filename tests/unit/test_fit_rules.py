"""Which row of a table a device runs, what equal devices came to, and what is worth bringing."""

import msgspec
import pytest

from cloud_hub.rollouts.fits import DeviceFit, hint_of, pool
from edge_agent.inference.fit import CONFIRM_FACTOR, choose, confirm, strictest
from edge_agent.updates.variants import Acceptance, worth_trying
from shared.errors import RefusedError
from shared.ids import DeviceId
from shared.pipeline.pipeline import PipelineLimits
from shared.release.manifest import FileEntry, Manifest, Variant, file_path
from shared.wire.fit import FitChoice, FitHint, FitReport, FitRow, FitStanding, fingerprint_of
from shared.wire.presence import Hardware
from shared.wire.target import TargetRelease
from tests.support.tiny_releases import spec_for

DIGEST = "ab" * 32


def row(
    precision: str,
    ms: float,
    *,
    threads: int = 1,
    backend: str = "onnxruntime",
    agreement: float | None = None,
    p95_ms: float | None = None,
    rss_mib: int = 50,
    size: int = 1000,
    code: str | None = None,
) -> FitRow:
    return FitRow(
        precision=precision,
        backend=backend,
        threads=threads,
        artifact_bytes=size,
        run_ms_p50=ms,
        run_ms_p95=p95_ms or ms,
        items_per_s=threads * 1000.0 / ms if ms else 0.0,
        runs_count=10,
        rss_bytes=rss_mib << 20,
        agreement=agreement,
        code=code,
        text="It did not run." if code else "",
    )


LIMITS = PipelineLimits()
CASES = {
    "fast enough and true": ([row("fp32", 10), row("int8", 5, agreement=0.99)], "int8"),
    "just fast enough": ([row("fp32", 11.5), row("int8", 10, agreement=0.95)], "int8"),
    "not fast enough": ([row("fp32", 11.4), row("int8", 10, agreement=0.99)], "fp32"),
    "not true enough": ([row("fp32", 10), row("int8", 2, agreement=0.94)], "fp32"),
    "agreement not stated": ([row("fp32", 10), row("int8", 5)], "int8"),
    "int8 crashed": ([row("fp32", 10), row("int8", 0, code="worker.crashed")], "fp32"),
    "fp32 crashed": ([row("fp32", 0, code="model.unloadable"), row("int8", 9)], "int8"),
    "int8 alone": ([row("int8", 9, agreement=0.97)], "int8"),
    "the faster backend": ([row("fp32", 10), row("fp32", 7, backend="openvino")], "fp32"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_quantized_variant_has_to_be_worth_what_it_loses(name: str) -> None:
    rows, expected = CASES[name]
    assert choose(rows, LIMITS).row.precision == expected


def test_the_faster_backend_is_the_baseline_of_what_int8_gains() -> None:
    rows = [row("fp32", 10), row("fp32", 7, backend="openvino"), row("int8", 6.5, agreement=1.0)]
    chosen = choose(rows, LIMITS)
    assert (chosen.row.precision, chosen.row.backend) == ("fp32", "openvino")
    assert any("1.08 times as fast" in reason for reason in chosen.reasons)


def test_more_threads_are_taken_only_where_they_bring_more() -> None:
    assert choose([row("fp32", 10), row("fp32", 11, threads=2)], LIMITS).row.threads == 2
    # Two threads of which each takes twice as long: nothing is gained, the smaller one is taken.
    assert choose([row("fp32", 10), row("fp32", 19.8, threads=2)], LIMITS).row.threads == 1


def test_limits_of_latency_and_memory_leave_rows_out() -> None:
    rows = [
        row("fp32", 10, p95_ms=12, rss_mib=90),
        row("fp32", 11, threads=2, p95_ms=30, rss_mib=90),
        row("int8", 9, p95_ms=11, rss_mib=40, agreement=1.0),
    ]
    assert choose(rows, PipelineLimits(latency_ms_p95_max=20)).row.way == rows[0].way
    # fp32 may not run at all: int8 has nothing to be faster than.
    assert choose(rows, PipelineLimits(rss_bytes_max=64 << 20)).row.way == rows[2].way


def test_among_equals_the_smaller_file_is_taken() -> None:
    rows = [row("fp32", 10, size=4000), row("bf16", 10.2, size=2000, agreement=1.0)]
    assert choose(rows, PipelineLimits(speedup_min=1.0)).row.precision == "fp32"
    equal = [row("fp32", 10, size=4000), row("fp32", 10.2, size=2000, backend="openvino")]
    assert choose(equal, LIMITS).row.backend == "openvino"


def test_a_release_of_which_nothing_may_run_is_refused_with_every_reason() -> None:
    rows = [
        row("fp32", 10, p95_ms=12),
        row("int8", 2, agreement=0.5),
        row("int8-dynamic", 0, code="worker.memory"),
    ]
    with pytest.raises(RefusedError) as caught:
        choose(rows, PipelineLimits(latency_ms_p95_max=8))
    assert caught.value.code == "fit.none"
    for text in (
        "its p95 is 12 ms, 8 ms are allowed",
        "agrees with fp32 on 50.0%",
        "worker.memory",
    ):
        assert text in str(caught.value)


def test_rows_that_all_failed_alike_refuse_the_release_with_that_code() -> None:
    rows = [row("fp32", 0, code="worker.stuck"), row("int8", 0, code="worker.stuck")]
    with pytest.raises(RefusedError) as caught:
        choose(rows, LIMITS)
    assert caught.value.code == "worker.stuck"


def test_the_strictest_limits_satisfy_every_pipeline() -> None:
    one = PipelineLimits(latency_ms_p95_max=20, agreement_min=0.9)
    other = PipelineLimits(latency_ms_p95_max=5, rss_bytes_max=100, speedup_min=2.0)
    assert strictest([one, other]) == PipelineLimits(
        latency_ms_p95_max=5, rss_bytes_max=100, agreement_min=0.95, speedup_min=2.0
    )
    assert strictest([]) == PipelineLimits()


HINT = FitHint(precision="int8", backend="onnxruntime", threads=1, run_ms_p50=10.0, devices_count=3)


@pytest.mark.parametrize(
    ("ms", "is_confirmed"),
    [
        (10.0, True),
        (10.0 * CONFIRM_FACTOR, True),
        (10.0 / CONFIRM_FACTOR, True),
        (10.1 * CONFIRM_FACTOR, False),
        (9.9 / CONFIRM_FACTOR, False),
    ],
)
def test_what_others_chose_holds_within_a_factor_either_way(ms: float, is_confirmed: bool) -> None:
    assert (confirm(row("int8", ms, agreement=0.99), HINT, LIMITS) == "") is is_confirmed


def test_what_others_chose_does_not_hold_beyond_a_limit_of_ours() -> None:
    measured = row("int8", 10, agreement=0.99)
    assert "p95" in confirm(measured, HINT, PipelineLimits(latency_ms_p95_max=5))
    assert "agrees" in confirm(measured, HINT, PipelineLimits(agreement_min=0.995))
    assert "worker.stuck" in confirm(row("int8", 0, code="worker.stuck"), HINT, LIMITS)


def test_a_speedup_that_only_we_ask_for_is_measured_and_not_taken_from_others() -> None:
    asked = PipelineLimits(speedup_min=2.0)
    int8, fp32 = row("int8", 10.0, agreement=0.99), row("fp32", 10.0)
    assert "2 times fp32 is needed" in confirm(int8, HINT, asked)
    assert not confirm(int8, HINT, LIMITS)
    assert not confirm(fp32, HINT, asked)


# The hub's side


def device_fit(name: str, way: str | None, ms: float, *, kind: str = "a" * 16) -> DeviceFit:
    rows = (row("fp32", 10.0), row("int8", ms, agreement=0.99))
    choice = FitChoice(precision=way, backend="onnxruntime", threads=1) if way else None
    report = FitReport(
        version=2, manifest_digest=DIGEST, fingerprint=kind, rows=rows, choice=choice
    )
    return DeviceFit(DeviceId(name), kind, "a board", report, received_ms=len(name))


def test_most_devices_of_a_kind_decide_and_the_median_is_their_own() -> None:
    fits = [
        device_fit("one", "int8", 4.0),
        device_fit("two", "int8", 6.0),
        device_fit("three", "fp32", 9.5),
        device_fit("four", None, 9.5),
    ]
    hint = hint_of(fit.report for fit in fits)
    assert hint is not None
    assert (hint.precision, hint.run_ms_p50, hint.devices_count) == ("int8", 5.0, 2)


def test_kinds_of_hardware_are_kept_apart() -> None:
    fits = [device_fit("one", "int8", 4.0), device_fit("two", "fp32", 9.0, kind="b" * 16)]
    pooled = {kind.fingerprint: kind for kind in pool(fits)}
    assert {kind.hint.precision for kind in pooled.values() if kind.hint} == {"int8", "fp32"}
    chosen = {r.precision: r.chosen_count for r in pooled["a" * 16].rows}
    assert chosen == {"fp32": 0, "int8": 1}


def test_nobody_who_may_run_anything_makes_no_hint() -> None:
    assert hint_of([device_fit("one", None, 4.0).report]) is None


def test_what_gains_too_little_for_others_makes_no_hint() -> None:
    """fp32 was over a limit of that device alone, or it asked for less."""
    assert hint_of([device_fit("one", "int8", 12.0).report]) is None
    assert hint_of([device_fit("one", "int8", 8.8).report]) is None
    assert hint_of([device_fit("one", "fp32", 8.8).report]) is not None
    confirmed = device_fit("two", "int8", 4.0).report
    alone = msgspec.structs.replace(confirmed, rows=confirmed.rows[1:])
    assert hint_of([alone]) is not None


def test_a_report_says_how_its_choice_came_about() -> None:
    report = device_fit("one", "int8", 4.0).report
    anew = msgspec.structs.replace(report, standing=FitStanding.ANEW, why="slower here")
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(anew), type=FitReport)
    assert decoded == anew
    assert decoded.chosen is not None
    assert decoded.chosen.run_ms_p50 == 4.0


def test_equal_hardware_has_one_fingerprint_and_other_hardware_another() -> None:
    pi = Hardware(machine="aarch64", board="Pi 5", cores_count=4, memory_bytes=8_320_000_000)
    same = msgspec.structs.replace(pi, memory_bytes=8_310_000_000)  # The kernel keeps some back
    assert fingerprint_of(pi) == fingerprint_of(same)
    for change in ({"cores_count": 2}, {"board": "Pi 4"}, {"memory_bytes": 4_000_000_000}):
        assert fingerprint_of(msgspec.structs.replace(pi, **change)) != fingerprint_of(pi)


# What is worth bringing


def entry(name: str, size: int) -> FileEntry:
    return FileEntry(path=file_path("tones", 2, name), digest=DIGEST, file_bytes=size)


def manifest(*variants: tuple[str, int, float | None]) -> Manifest:
    return Manifest(
        model="tones",
        version=2,
        lineage_id="line-2",
        created_ms=0,
        spec=spec_for("tones"),
        variants=tuple(
            Variant(
                precision=precision,
                artifact=entry(f"{precision}.onnx", size),
                golden=entry(f"{precision}.npz", 10),
                **({} if agreement is None else {"agreement": agreement}),
            )
            for precision, size, agreement in variants
        ),
    )


RELEASE = TargetRelease(model="tones", version=2, manifest_digest=DIGEST, rollout="roll-2")
ALL = manifest(("int8", 100, 0.99), ("int8-dynamic", 100, 0.97), ("fp32", 400, None))


def brought(
    release: TargetRelease = RELEASE, *, of: Manifest = ALL, bytes_max: int = 10_000
) -> list[str]:
    acceptance = Acceptance(PipelineLimits(), bytes_max)
    return [variant.precision for variant in worth_trying(of, release, acceptance)]


def test_every_variant_that_may_win_is_brought_best_first() -> None:
    assert brought() == ["int8", "int8-dynamic", "fp32"]


def test_the_first_and_fp32_come_before_the_others_where_bytes_are_few() -> None:
    assert brought(bytes_max=530) == ["int8", "fp32"]
    assert brought(bytes_max=1) == ["int8"]


def test_a_variant_that_disagrees_is_not_worth_its_bytes() -> None:
    assert brought(of=manifest(("int8", 100, 0.9), ("fp32", 400, None))) == ["fp32"]
    with pytest.raises(RefusedError, match="agrees with fp32 on 90"):
        brought(of=manifest(("int8", 100, 0.9)))


def test_a_hint_brings_what_it_names_alone_if_it_is_there() -> None:
    assert brought(msgspec.structs.replace(RELEASE, fit_hint=HINT)) == ["int8"]
    other = msgspec.structs.replace(HINT, precision="bf16")
    assert len(brought(msgspec.structs.replace(RELEASE, fit_hint=other))) == 3


def test_a_variant_for_other_processors_is_left_out() -> None:
    arm = msgspec.structs.replace(ALL.variants[1], architectures=("aarch64",))
    mixed = msgspec.structs.replace(ALL, variants=(ALL.variants[0], arm, ALL.variants[2]))
    for machine, expected in (
        ("aarch64", ["int8", "int8-dynamic", "fp32"]),
        ("x86_64", ["int8", "fp32"]),
    ):
        acceptance = Acceptance(PipelineLimits(), 10_000, machine=machine)
        found = [variant.precision for variant in worth_trying(mixed, RELEASE, acceptance)]
        assert found == expected
