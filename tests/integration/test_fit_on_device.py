"""A release's variants brought, measured and chosen among, over the real repository."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
from msgspec import UNSET

from cloud_hub.releases.service import ReleaseService
from cloud_hub.sql_database import Database
from edge_agent.inference.golden_proof import prove_golden
from edge_agent.inference.onnx_session import load_onnx_session
from edge_agent.updates.fitting import Fitter
from edge_agent.updates.repository_source import RepositorySource
from edge_agent.updates.transfer import BlockTransfer
from edge_agent.updates.tuf_verifier import TufVerifier
from edge_agent.updates.variants import Acceptance, worth_trying
from shared.clock import SystemClock
from shared.errors import RefusedError
from shared.pipeline.pipeline import PipelineLimits
from shared.wire.fit import FitHint, FitReport, FitStanding
from shared.wire.report import UpdateState
from shared.wire.target import TargetRelease
from tests.support.fitted_releases import CutSource, Paced, publish_variants
from tests.support.manual_clock import ManualClock
from tests.support.release_hub import open_hub
from tests.support.repository_peer import RepositoryPeer
from tests.support.tiny_releases import Kind
from tests.support.updater_bench import Bench

FAST_INT8 = {"variant-0": 4.0, "variant-1": 10.0}
SLOW_INT8 = {"variant-0": 9.5, "variant-1": 10.0}


class PowerCut(BaseException):
    """The process is gone."""


@pytest.fixture
def hub(tmp_path: Path, migrated_sqlite_file: Path) -> Iterator[ReleaseService]:
    state = tmp_path / "hub"
    state.mkdir()
    (state / "hub.db").write_bytes(migrated_sqlite_file.read_bytes())
    database = Database(f"sqlite:///{state}/hub.db")
    yield open_hub(state, database)
    database.close()


class Device:
    """A device's disk over a hub's repository, and the processes that live on it."""

    def __init__(
        self,
        folder: Path,
        hub: ReleaseService,
        ms: Mapping[str, float] = FAST_INT8,
        *,
        limits: PipelineLimits | None = None,
    ) -> None:
        self.folder = folder
        self.peer = RepositoryPeer(hub)
        self.clock = ManualClock()
        self.backend = Paced(self.clock, dict(ms))
        self.limits = limits or PipelineLimits()

    def live(self, cut: Callable[[str], None] = lambda _name: None) -> Bench:
        """Start a process."""
        transfer = BlockTransfer(self.peer.publish, ManualClock())
        self.peer.connect(transfer)
        root = self.peer.releases.bootstrap_root()
        self.source = RepositorySource(
            transfer,
            TufVerifier(transfer, folder=self.folder / "tuf", bootstrap=root),
            worth_trying=lambda manifest, release: worth_trying(
                manifest, release, Acceptance(self.limits, 1 << 20)
            ),
        )
        fitter = Fitter(
            backends={"onnxruntime": self.backend.load},
            prove_golden=prove_golden,
            limits=lambda _model: self.limits,
            threads=(1,),
            fingerprint="0123456789abcdef",
            clock=self.clock,
        )
        return Bench(
            self.folder,
            self.folder,
            source=CutSource(self.source, cut),
            clock=self.clock,
            cut=cut,
            fitter=fitter,
        ).start()

    def update(self, release: TargetRelease, cut: Callable[[str], None]) -> None:
        """Start a process that brings a release to its rest."""
        bench = self.live(cut)
        bench.target(release, revision=1)
        bench.settle()

    def names(self, slot: str = "A") -> set[str]:
        """Return what lies in a slot."""
        return {path.name for path in (self.folder / "releases/tones" / slot).iterdir()}


def fit_of(bench: Bench) -> FitReport:
    fit = bench.model.fit
    assert fit is not UNSET
    return fit


def test_the_variant_that_is_worth_it_serves_and_the_others_are_gone(
    tmp_path: Path, hub: ReleaseService
) -> None:
    device = Device(tmp_path / "device", hub)
    bench = device.live()
    bench.target(publish_variants(hub, version=1), revision=1)
    bench.settle()
    assert (bench.serving, bench.model.precision) == (1, "int8")
    assert device.names() == {
        "manifest.json", "release.json", "fit.json", "variant-0.onnx", "variant-0.npz",
    }  # fmt: skip
    assert bench.receipt is not None
    assert bench.receipt.precision == "int8"
    fit = fit_of(bench)
    assert [round(row.run_ms_p50, 1) for row in fit.rows] == [4.0, 10.0]
    assert fit.standing is FitStanding.MEASURED
    assert "2.50 times as fast as fp32" in fit.reasons[0]


def test_an_int8_that_gains_too_little_leaves_fp32_and_a_restart_measures_nothing(
    tmp_path: Path, hub: ReleaseService
) -> None:
    device = Device(tmp_path / "device", hub, SLOW_INT8)
    bench = device.live()
    bench.target(publish_variants(hub, version=1), revision=1)
    bench.settle()
    assert bench.model.precision == "fp32"
    assert "variant-0.onnx" not in device.names()
    told = fit_of(bench)
    device.backend.ms = dict(FAST_INT8)
    device.backend.loads.clear()
    device.peer.is_down = True
    again = device.live()
    assert (again.serving, again.model.precision) == (1, "fp32")
    assert device.backend.loads == ["variant-1"]
    assert fit_of(again) == told


def test_a_variant_that_fails_here_is_a_row_and_no_refusal(
    tmp_path: Path, hub: ReleaseService
) -> None:
    device = Device(tmp_path / "device", hub)
    kinds = {"int8": Kind.UNLOADABLE, "int8-dynamic": Kind.UNPROVED, "fp32": Kind.GOOD}
    bench = device.live()
    bench.target(publish_variants(hub, version=1, kinds=kinds), revision=1)
    bench.settle()
    assert (bench.serving, bench.model.precision, bench.model.failure) == (1, "fp32", None)
    assert [row.code for row in fit_of(bench).rows] == [
        "model.unloadable", "golden.mismatch", None,
    ]  # fmt: skip


@pytest.mark.parametrize("code", ["worker.stuck", "worker.memory"])
def test_a_release_that_hangs_or_eats_memory_is_refused_and_what_serves_is_untouched(
    tmp_path: Path, hub: ReleaseService, code: str
) -> None:
    device = Device(tmp_path / "device", hub)
    bench = device.live()
    bench.target(publish_variants(hub, version=1), revision=1)
    bench.settle()
    serving = bench.active.line
    error = RefusedError(code, "The worker did not come back.")
    device.backend.errors = {"variant-0": error, "variant-1": error}
    bad = publish_variants(hub, version=2)
    bench.target(bad, revision=2)
    bench.settle()
    assert bench.active.line == serving
    assert (bench.model.state, bench.model.version) == (UpdateState.REFUSED, 1)
    assert bench.model.failure is not None
    assert bench.model.failure.code == code
    assert bench.journal.is_quarantined(bad.manifest_digest, bad.rollout)
    assert fit_of(bench).choice is None
    assert not (device.folder / "releases/tones/B").exists()


def test_a_release_over_every_limit_is_refused_with_the_measured_reasons(
    tmp_path: Path, hub: ReleaseService
) -> None:
    device = Device(tmp_path / "device", hub, limits=PipelineLimits(latency_ms_p95_max=3.0))
    bench = device.live()
    bench.target(publish_variants(hub, version=1), revision=1)
    bench.settle()
    assert bench.model.failure is not None
    assert bench.model.failure.code == "fit.none"
    assert "its p95 is 4 ms, 3 ms are allowed" in bench.model.failure.text


@pytest.mark.slow
def test_a_cut_at_any_act_ends_on_one_variant_that_is_measured_once(
    tmp_path: Path, hub: ReleaseService
) -> None:
    release = publish_variants(hub, version=1)
    points: list[str] = []
    Device(tmp_path / "whole", hub).update(release, points.append)
    assert {"before fit", "after fit", "before keep", "amid keep", "after keep"} <= set(points)
    first = points.index("journal FETCHING") if "journal FETCHING" in points else 0
    for cut_at in range(first, len(points)):
        device = Device(tmp_path / f"device-{cut_at}", hub)
        passed: list[str] = []

        def cut(name: str, passed: list[str] = passed, cut_at: int = cut_at) -> None:
            passed.append(name)
            if len(passed) == cut_at + 1:
                raise PowerCut

        with pytest.raises(PowerCut):
            device.update(release, cut)
        was_chosen = "after fit" in passed
        device.backend.loads.clear()
        # Were it measured again now, fp32 would win.
        device.backend.ms = dict(SLOW_INT8)
        again = device.live()
        again.target(release, revision=1)
        again.settle()
        why = f"cut at act {cut_at}, {passed[-1]}"
        assert again.serving == 1, why
        wanted = "int8" if was_chosen else "fp32"
        assert (again.model.precision, fit_of(again).rows[0].precision) == (wanted, "int8"), why
        assert len([name for name in device.names() if name.endswith(".onnx")]) == 1, why
        if was_chosen:
            assert set(device.backend.loads) == {"variant-0"}, why


def hinted(release: TargetRelease, ms: float) -> TargetRelease:
    hint = FitHint(
        precision="int8", backend="onnxruntime", threads=1, run_ms_p50=ms, devices_count=5
    )
    return msgspec.structs.replace(release, fit_hint=hint)


def test_what_equal_devices_chose_is_brought_alone_and_confirmed(
    tmp_path: Path, hub: ReleaseService
) -> None:
    device = Device(tmp_path / "device", hub)
    bench = device.live()
    bench.target(hinted(publish_variants(hub, version=1), 4.4), revision=1)
    bench.settle()
    fit = fit_of(bench)
    assert (bench.model.precision, fit.standing, len(fit.rows)) == ("int8", "confirmed", 1)
    assert device.peer.bytes_of("fp32.onnx") == 0
    assert set(device.backend.loads) == {"variant-0"}


def test_where_it_does_not_hold_every_variant_is_measured_and_it_is_said_why(
    tmp_path: Path, hub: ReleaseService
) -> None:
    device = Device(tmp_path / "device", hub, {"variant-0": 12.0, "variant-1": 10.0})
    bench = device.live()
    bench.target(hinted(publish_variants(hub, version=1), 4.0), revision=1)
    bench.settle()
    fit = fit_of(bench)
    assert (bench.serving, bench.model.precision, fit.standing) == (1, "fp32", "measured-anew")
    assert "12 ms here, 4 ms on 5 devices" in fit.why
    sent = [path for path, _ in device.peer.sent if path.endswith("int8.onnx")]
    assert len(sent) == len(set(device.peer.indexes_of("int8.onnx"))), "it is not fetched twice"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"backend": "openvino"}, "chose openvino, which is not here"),
        ({"threads": 4}, "chose 4 threads, which are not set here"),
    ],
)
def test_what_others_chose_and_this_device_has_not_is_measured_with_every_variant(
    tmp_path: Path, hub: ReleaseService, change: dict[str, object], told: str
) -> None:
    """With the hinted variant alone there is no fp32 that it had to be faster than."""
    device = Device(tmp_path / "device", hub, SLOW_INT8)
    release = hinted(publish_variants(hub, version=1), 9.5)
    assert release.fit_hint is not UNSET
    hint = msgspec.structs.replace(release.fit_hint, **change)
    bench = device.live()
    bench.target(msgspec.structs.replace(release, fit_hint=hint), revision=1)
    bench.settle()
    fit = fit_of(bench)
    assert (bench.model.precision, fit.standing, len(fit.rows)) == ("fp32", "measured-anew", 2)
    assert fit.choice is not None
    assert fit.choice.threads == 1
    assert told in fit.why


def test_a_tampered_choice_is_as_good_as_none(tmp_path: Path, hub: ReleaseService) -> None:
    device = Device(tmp_path / "device", hub)
    bench = device.live()
    bench.target(publish_variants(hub, version=1), revision=1)
    bench.settle()
    (device.folder / "releases/tones/A/fit.json").write_bytes(b"{}")
    again = device.live()
    assert (again.serving, again.model.precision) == (1, "int8")
    assert again.model.fit is UNSET


def test_a_real_model_is_measured_by_one_thread_and_by_two(
    tmp_path: Path, hub: ReleaseService
) -> None:
    device = Device(tmp_path / "device", hub)
    clock = SystemClock()
    bench = device.live()
    fitter = Fitter(
        backends={"onnxruntime": lambda path, spec, _threads: load_onnx_session(path, spec)},
        prove_golden=prove_golden,
        limits=lambda _model: PipelineLimits(),
        threads=(1, 2),
        fingerprint="0123456789abcdef",
        clock=clock,
    )
    bench.target(publish_variants(hub, version=1), revision=1)
    bench.settle()
    folder = device.folder / "releases/tones/A"
    reopened = device.source.reopen(folder)
    began_s = clock.monotonic_s()
    measured = fitter.measure(reopened)
    assert clock.monotonic_s() - began_s < 2.0
    assert measured.error is None
    assert [row.threads for row in measured.report.rows] == [1, 2]
    assert all(row.runs_count > 0 and row.items_per_s > 0 for row in measured.report.rows)
    assert measured.golden is not None
    assert measured.golden.is_within
    if measured.session is not None:
        measured.session.close()


# Limits that change under a release that has settled

TRUER = PipelineLimits(agreement_min=0.995)  # Than int8, which states 0.99


def settled_on_int8(device: Device, hub: ReleaseService) -> tuple[Bench, TargetRelease]:
    bench, release = device.live(), publish_variants(hub, version=1)
    bench.target(release, revision=1)
    bench.settle()
    assert (bench.model.precision, bench.journal.settled and bench.journal.settled.slot) == (
        "int8", "A",
    )  # fmt: skip
    device.backend.loads.clear()
    return bench, release


@pytest.mark.slow
def test_limits_that_change_switch_the_variant_by_the_stored_table_and_back(
    tmp_path: Path, hub: ReleaseService
) -> None:
    device = Device(tmp_path / "device", hub)
    bench, _ = settled_on_int8(device, hub)
    device.limits = TRUER
    seen = set()
    for _ in range(12):
        bench.step(items=10)
        seen.add(bench.model.state)
        assert bench.serving == 1, "something serves all along"
    bench.settle()
    assert UpdateState.TRIAL in seen, "what is switched to goes through a trial"
    assert (bench.model.precision, bench.model.failure) == ("fp32", None)
    assert device.backend.loads == ["variant-1"], "nothing is measured again"
    assert (bench.receipt and bench.receipt.precision) == "fp32"
    fit = fit_of(bench)
    assert (fit.choice and fit.choice.precision, len(fit.rows)) == ("fp32", 2)
    assert "99.5% are needed" in " ".join(fit.reasons)
    assert "limits" in fit.why
    assert bench.journal.settled is not None
    assert bench.journal.settled.slot == "B"
    again = device.live()
    assert again.model.precision == "fp32", "a restart runs what was switched to"
    device.limits = PipelineLimits()
    again.settle()
    assert again.model.precision == "int8"


@pytest.mark.slow
def test_limits_that_nothing_keeps_leave_what_serves_and_say_so(
    tmp_path: Path, hub: ReleaseService
) -> None:
    device = Device(tmp_path / "device", hub)
    bench, _ = settled_on_int8(device, hub)
    line = bench.active.line
    device.limits = PipelineLimits(latency_ms_p95_max=3.0)
    bench.settle()
    assert bench.active.line == line
    assert "3 ms are allowed" in fit_of(bench).why
    again = device.live()
    again.settle()
    assert (again.serving, again.model.precision) == (1, "int8")
    assert "3 ms are allowed" in fit_of(again).why
    device.limits = PipelineLimits()
    again.settle()
    assert not fit_of(again).why


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (TRUER, "99.5% are needed"),
        # A table of one row cannot say what it gains.
        (PipelineLimits(speedup_min=3.0), "3 times fp32 is needed"),
    ],
)
def test_a_choice_that_was_only_confirmed_is_measured_when_the_limits_forbid_it(
    tmp_path: Path, hub: ReleaseService, limits: PipelineLimits, why: str
) -> None:
    device = Device(tmp_path / "device", hub)
    bench = device.live()
    bench.target(hinted(publish_variants(hub, version=1), 4.0), revision=1)
    bench.settle()
    assert (bench.model.precision, len(fit_of(bench).rows)) == ("int8", 1)
    device.limits = limits
    bench.settle()
    fit = fit_of(bench)
    assert (bench.model.precision, fit.standing) == ("fp32", "measured-anew")
    assert why in fit.why


@pytest.mark.slow
def test_a_switch_that_fails_leaves_what_serves_and_is_not_tried_again(
    tmp_path: Path, hub: ReleaseService
) -> None:
    device = Device(tmp_path / "device", hub)
    bench, release = settled_on_int8(device, hub)
    error = RefusedError("worker.memory", "It takes too much.")
    device.backend.errors = {"variant-1": error}
    device.limits = TRUER
    bench.settle()
    for life in (bench, device.live()):
        life.settle()
        assert (life.serving, life.model.precision, life.model.failure) == (1, "int8", None)
        assert (life.receipt and life.receipt.precision) == "int8"
        assert "worker.memory" in fit_of(life).why
        assert not life.journal.is_quarantined(release.manifest_digest)
    assert device.backend.loads.count("variant-1") == 1
    device.backend.errors = {}
    device.limits = PipelineLimits(agreement_min=0.999)
    life.settle()
    assert life.model.precision == "fp32"


@pytest.mark.slow
def test_limits_that_change_in_a_trial_wait_for_its_end(
    tmp_path: Path, hub: ReleaseService
) -> None:
    device = Device(tmp_path / "device", hub)
    bench, _ = settled_on_int8(device, hub)
    bench.target(publish_variants(hub, version=2), revision=2)
    while bench.model.state is not UpdateState.TRIAL:
        bench.step()
    device.limits = TRUER
    for _ in range(5):
        bench.step()
    assert (bench.model.state, bench.journal.attempt and bench.journal.attempt.refit) == (
        UpdateState.TRIAL, None,
    )  # fmt: skip
    bench.settle()
    assert (bench.serving, bench.model.precision) == (2, "fp32")


@pytest.mark.slow
def test_limits_that_change_back_before_the_variant_serves_withdraw_it(
    tmp_path: Path, hub: ReleaseService
) -> None:
    device = Device(tmp_path / "device", hub)
    bench, _ = settled_on_int8(device, hub)
    device.peer.is_down = True
    device.limits = TRUER
    bench.step()
    assert bench.model.state is UpdateState.FETCHING
    device.limits = PipelineLimits()
    device.clock.advance(120.0)
    bench.step()
    bench.step()
    assert (bench.model.state, bench.model.precision) == (UpdateState.IDLE, "int8")


@pytest.mark.slow
def test_a_cut_at_any_act_of_a_switch_leaves_a_variant_that_serves(
    tmp_path: Path, hub: ReleaseService
) -> None:
    release = publish_variants(hub, version=1)
    whole = Device(tmp_path / "whole", hub)
    whole.update(release, lambda _name: None)
    settled = tmp_path / "settled"
    shutil.copytree(whole.folder, settled)
    whole.limits = TRUER
    points: list[str] = []
    whole.live(points.append).settle()
    outcomes = set()
    first = points.index("before journal fetching")
    for cut_at, name in list(enumerate(points))[first:]:
        if name.startswith("before") and points[cut_at - 1].startswith("after"):
            continue  # Nothing lies between the two
        device = Device(tmp_path / f"device-{cut_at}", hub, limits=TRUER)
        shutil.copytree(settled, device.folder)
        passed: list[str] = []

        def cut(name: str, passed: list[str] = passed, cut_at: int = cut_at) -> None:
            passed.append(name)
            if len(passed) == cut_at + 1:
                raise PowerCut

        with pytest.raises(PowerCut):
            device.live(cut).settle()
        again = device.live()
        why = f"cut at act {cut_at}, {passed[-1]}"
        assert again.serving == 1, why
        again.settle()
        journal = again.journal
        assert (again.serving, journal.attempt, journal.quarantine) == (1, None, ()), why
        assert again.receipt is not None, why
        assert again.receipt.precision == again.model.precision, why
        # A trial that died is not tried again under these limits; everything else goes on.
        assert (again.model.precision == "fp32") is (journal.refused_refit is None), why
        outcomes.add(again.model.precision)
    assert outcomes == {"fp32", "int8"}
