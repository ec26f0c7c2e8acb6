"""A device's updater put together for tests: real files, real onnxruntime, a peer for the hub."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.inference.active_model import ActiveModel, LoadedRelease
from edge_agent.inference.golden_proof import prove_golden
from edge_agent.inference.onnx_session import load_onnx_session
from edge_agent.inference.session_loader import SessionLoader
from edge_agent.updates.file_fit import FileFits
from edge_agent.updates.file_journal import FileJournal, FileTarget
from edge_agent.updates.file_slots import FileSlots
from edge_agent.updates.fitting import Fitter
from edge_agent.updates.journal import Journal, Slot
from edge_agent.updates.receipts import ReceiptMaker
from edge_agent.updates.release_source import ReleaseSource
from edge_agent.updates.updater import Updater, UpdateSettings
from shared.clock import Clock
from shared.ids import DeviceId
from shared.release.digest import digest_of
from shared.release.receipt import Receipt, sign_receipt, verify_receipt
from shared.wire.fit import FitReport
from shared.wire.report import ModelReport
from shared.wire.target import Target, TargetRelease
from tests.support.manual_clock import ManualClock
from tests.support.release_peer import ReleasePeer
from tests.support.tiny_items import Feeder

Cut = Callable[[str], None]  # Called before and after every act, with its name
DEVICE = DeviceId("dev-bench")
KEY = ec.derive_private_key(0x15781115, ec.SECP256R1())  # The same in every process of a test
STEPS_MAX = 60
P = ParamSpec("P")
R = TypeVar("R")


def _around(cut: Cut, name: str, act: Callable[P, R]) -> Callable[P, R]:
    def cut_act(*args: P.args, **kwargs: P.kwargs) -> R:
        cut(f"before {name}")
        result = act(*args, **kwargs)
        cut(f"after {name}")
        return result

    return cut_act


class CutJournal(FileJournal):
    """Can lose power around and amid each write."""

    def __init__(self, folder: Path, cut: Cut) -> None:
        super().__init__(folder)
        self._cut, self._at = cut, folder

    def write(self, journal: Journal) -> None:
        torn = self._at / f".{journal.model}.json.0badcafe.tmp"
        torn.write_bytes(b'{"schema": 1, "mod')
        self._cut("amid journal")
        torn.unlink()
        _around(self._cut, f"journal {journal.state}", super().write)(journal)


class CutTarget(FileTarget):
    """Can lose power around each write."""

    def __init__(self, path: Path, cut: Cut) -> None:
        super().__init__(path)
        self._cut = cut

    def write(self, target: Target) -> None:
        _around(self._cut, "target", super().write)(target)


class CutSlots(FileSlots):
    """Can lose power around each change of a slot."""

    def __init__(self, folder: Path, cut: Cut) -> None:
        super().__init__(folder, free_bytes_min=1 << 20)
        self._cut = cut

    def prepare(self, model: str, slot: Slot, manifest_digest: str) -> Path:
        return _around(self._cut, "prepare", super().prepare)(model, slot, manifest_digest)

    def sync(self, model: str, slot: Slot) -> None:
        _around(self._cut, "sync", super().sync)(model, slot)

    def clear(self, model: str, slot: Slot) -> None:
        _around(self._cut, "clear", super().clear)(model, slot)


class CutFits(FileFits):
    """Can lose power around each write of what was chosen."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut

    def write(self, folder: Path, report: FitReport) -> None:
        _around(self._cut, "fit", super().write)(folder, report)


class CutActiveModel(ActiveModel):
    """Can lose power around each swap."""

    def __init__(self, model: str, cut: Cut) -> None:
        super().__init__(model)
        self._cut = cut

    def swap(
        self, serving: LoadedRelease, *, companion: LoadedRelease | None = None
    ) -> LoadedRelease | None:
        swap = super().swap
        return _around(self._cut, "swap", lambda: swap(serving, companion=companion))()

    def withdraw(self) -> None:
        _around(self._cut, "withdraw", super().withdraw)()

    def dismiss_companion(self) -> None:
        _around(self._cut, "dismiss", super().dismiss_companion)()


class Bench:
    """One process's life of an updater over a state folder; make another one to restart."""

    def __init__(
        self,
        state: Path,
        store: Path,
        *,
        models: Sequence[str] = ("tones",),
        clock: Clock | None = None,
        peer: ReleasePeer | None = None,
        source: ReleaseSource | None = None,
        cut: Cut = lambda _name: None,
        config: str = "as it was",
        settings: UpdateSettings | None = None,
        fitter: Fitter | None = None,
        load_session: SessionLoader = load_onnx_session,
    ) -> None:
        self.clock = clock or ManualClock()
        self.peer = peer or ReleasePeer(store, cut=cut)
        self.actives: dict[str, ActiveModel] = {name: CutActiveModel(name, cut) for name in models}
        self.feeders = {name: Feeder(active) for name, active in self.actives.items()}
        self.journals = CutJournal(state / "journal", cut)
        self.slots = CutSlots(state / "releases", cut)
        self.stop = threading.Event()
        self.updater = Updater(
            models=self.actives,
            source=source or self.peer,
            load_session=_around(cut, "load", load_session),
            prove_golden=_around(cut, "prove", prove_golden),
            slots=self.slots,
            journals=self.journals,
            target_file=CutTarget(state / "target.json", cut),
            receipts=ReceiptMaker(
                device=DEVICE,
                boot_id="boot-1",
                sign=_around(cut, "sign", partial(sign_receipt, key=KEY)),
                config_digest=lambda model: digest_of(f"{model} {config}".encode()),
                clock=self.clock,
            ),
            pipelines=tuple,
            clock=self.clock,
            settings=settings or UpdateSettings(),
            fitter=fitter,
            fits=CutFits(cut),
        )

    @property
    def active(self) -> ActiveModel:
        """Return the only model's swap point."""
        (active,) = self.actives.values()
        return active

    @property
    def serving(self) -> int:
        """Return the version that serves; 0 for none."""
        serving = self.active.line.serving
        return serving.version if serving else 0

    @property
    def model(self) -> ModelReport:
        """Return the first model's report."""
        return self.updater.report().models[0]

    @property
    def journal(self) -> Journal:
        """Return what the disk says about the only model."""
        journal = self.journals.read(self.active.model)
        assert journal is not None
        return journal

    @property
    def receipt(self) -> Receipt | None:
        """Return the reported receipt, its signature checked."""
        signed = self.model.receipt
        return verify_receipt(signed, KEY.public_key()) if signed else None

    def target(self, *releases: TargetRelease, revision: int) -> None:
        """Let a Target arrive."""
        self.updater.set_target(Target(revision=revision, issued_ms=0, releases=releases))

    def start(self) -> "Bench":
        """Do what a process does first."""
        self.updater.start()
        return self

    def step(self, *, items: int = 0) -> None:
        """Take one step, then decide some items with what serves."""
        self.updater.step(self.stop)
        for name, feeder in self.feeders.items():
            if items and self.actives[name].line.serving is not None:
                feeder.feed(items)

    def settle(self, *, items: int = 10, steps_max: int = STEPS_MAX) -> None:
        """Step until nothing changes any more, with items coming."""
        before = None
        for _ in range(steps_max):
            self.step(items=items)
            now = self.updater.report().models
            if now == before and all(model.state in ("idle", "refused") for model in now):
                return
            before = now
        raise AssertionError(f"not at rest after {steps_max} steps: {before}")
