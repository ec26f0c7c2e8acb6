"""Proving: from a slot on the disk to a loaded release that has reproduced its golden outputs.

1. Files are believed only as ReleaseSource.reopen returns them, and only under the digest that
   was asked for.
2. A release that loads but does not reproduce its golden outputs is refused.
3. An attempt is measured here (fitting.py), once: the choice is written into the slot before the
   other variants are removed, and whatever starts later runs it without measuring.
4. What makes tokens of texts is opened before anything is loaded: a release whose tokenizer.json
   cannot be used is refused here, not at its first text.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.inference.active_model import LoadedRelease
from edge_agent.inference.session import ModelSession
from edge_agent.updates.file_fit import FileFits
from edge_agent.updates.fitting import Fitter, golden_mismatch
from edge_agent.updates.refit import Rejudged, rejudge
from edge_agent.updates.release_source import FetchedRelease, ReleaseSource
from shared.errors import ContractError, IntegrityError, RefusedError, TransientError
from shared.model.preprocess import Tokenize, to_bytes
from shared.model.spec import ModelSpec, TextInput
from shared.model.tokenizers_text import load_tokenizer
from shared.pipeline.pipeline import PipelineLimits
from shared.release.golden import GoldenResult, GoldenSet, read_golden_items
from shared.wire.fit import FitReport
from shared.wire.target import TargetRelease

LoadSession = Callable[[Path, ModelSpec], ModelSession]
ProveGolden = Callable[[ModelSession, Iterable[GoldenSet]], GoldenResult]


@dataclass(frozen=True, slots=True)
class ProvenRelease:
    """A release that serves or could serve from the next item on."""

    loaded: LoadedRelease
    golden: GoldenResult
    artifact_digest: str
    fit: FitReport | None = None  # None: its slot was settled before releases were measured


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """What others chose does not hold here: every variant is needed."""

    why: str


@dataclass(frozen=True, slots=True)
class Prover:
    """Opens, loads and proves releases."""

    source: ReleaseSource
    load_session: LoadSession
    prove_golden: ProveGolden
    fitter: Fitter | None = None  # None: the best variant is taken unmeasured
    fits: FileFits = field(default_factory=FileFits)

    def prove_attempt(
        self,
        model: str,
        folder: Path,
        release: TargetRelease,
        *,
        why: str = "",
        on_fit: Callable[[FitReport], None] = lambda _fit: None,
    ) -> ProvenRelease | Unconfirmed:
        """Return the release of an attempt, measured, loaded and proved.

        Args: why: what kept an earlier hint from being confirmed; on_fit: gets the table, also of
        a release that is refused.

        Raises as `prove`, and RefusedError `fit.none`.
        """
        fitter, digest = self.fitter, release.manifest_digest
        if fitter is None or self.fits.read(folder, digest) is not None:
            proven = self.prove(model, folder, digest)
            if proven.fit is not None:
                on_fit(proven.fit)
            return proven
        fetched = self._open(model, folder, digest)
        tokenize = _tokenize(fetched)
        with _reading(folder):
            measured = fitter.measure(fetched, hint=release.fit_hint, why=why)
        if measured.unconfirmed:
            return Unconfirmed(measured.unconfirmed)
        on_fit(measured.report)
        if measured.error is not None:
            raise measured.error
        chosen, choice, golden = measured.fetched, measured.report.choice, measured.golden
        assert chosen is not None
        assert choice is not None
        assert golden is not None
        self.fits.write(folder, measured.report)
        kept = self.source.keep(folder, fetched, chosen)
        session = measured.session or fitter.load(chosen, fetched.manifest.spec, choice)
        loaded = _loaded(model, kept, session, tokenize)
        return ProvenRelease(loaded, golden, kept.variant.artifact.digest, measured.report)

    def prove(self, model: str, folder: Path, manifest_digest: str | None) -> ProvenRelease:
        """Return the release in `folder`, loaded and proved. None: whichever it is.

        Raises IntegrityError `release.digest`, RefusedError `golden.mismatch` or `tokenizer.…`,
        TransientError `disk.failed`, or what loading raises.
        """
        fetched = self._open(model, folder, manifest_digest)
        tokenize = _tokenize(fetched)
        fit = self.fits.read(folder, fetched.manifest_digest)
        session, fetched = self._load(folder, fetched, fit)
        proven = self._run_golden(fetched, _loaded(model, fetched, session, tokenize))
        return dataclasses.replace(proven, fit=fit)

    def prove_again(self, loaded: LoadedRelease, folder: Path) -> ProvenRelease:
        """Return a loaded release proved once more, its files checked too. Raises as `prove`."""
        return self._run_golden(self._open(loaded.model, folder, loaded.manifest_digest), loaded)

    def rejudge(
        self,
        model: str,
        folder: Path,
        settled: ProvenRelease,
        *,
        limits: PipelineLimits,
        before: PipelineLimits,
    ) -> Rejudged:
        """Return what the table of the settled release in `folder` comes to under other limits.

        Args: before: the limits that were judged last. Raises as `prove`, without loading.
        """
        assert self.fitter is not None, "only what is measured can be judged anew"
        manifest = self._open(model, folder, settled.loaded.manifest_digest).manifest
        return rejudge(
            settled.fit,
            limits,
            admitted=self.fitter.admitted(manifest, limits),
            admitted_before=self.fitter.admitted(manifest, before),
        )

    def _load(
        self, folder: Path, fetched: FetchedRelease, fit: FitReport | None
    ) -> tuple[ModelSession, FetchedRelease]:
        """Return the chosen variant loaded; what a cut in between left beside it is removed."""
        spec = fetched.manifest.spec
        if self.fitter is None or fit is None or fit.choice is None:
            return self.load_session(fetched.artifact_path, spec), fetched
        for candidate in fetched.candidates:
            if candidate.variant.precision == fit.choice.precision:
                fetched = self.source.keep(folder, fetched, candidate)
                return self.fitter.load(candidate, spec, fit.choice), fetched
        raise IntegrityError("release.digest", f"{folder.name} does not hold what was chosen.")

    def _open(self, model: str, folder: Path, manifest_digest: str | None) -> FetchedRelease:
        with _reading(folder):
            fetched = self.source.reopen(folder)
        if manifest_digest not in (None, fetched.manifest_digest):
            raise IntegrityError("release.digest", f"{folder.name} holds another release.")
        if fetched.manifest.model != model:
            raise IntegrityError(
                "release.digest", f"{folder.name} holds the model {fetched.manifest.model}."
            )
        return fetched

    def _run_golden(self, fetched: FetchedRelease, loaded: LoadedRelease) -> ProvenRelease:
        with _reading(fetched.golden_path):
            result = self.prove_golden(loaded.session, read_golden_items(fetched.golden_path))
        if not result.is_within:
            raise golden_mismatch(result)
        return ProvenRelease(loaded, result, fetched.variant.artifact.digest)


def _tokenize(fetched: FetchedRelease) -> Tokenize:
    """Return what makes items of texts; rule 4. Raises RefusedError `tokenizer.…`."""
    spec = fetched.manifest.spec
    if not isinstance(spec.input, TextInput):
        return to_bytes
    try:
        return load_tokenizer(fetched.tokenizer_path, spec)
    except ContractError as error:
        raise RefusedError(error.code, error.message, remedy=error.remedy) from error


def _loaded(
    model: str, fetched: FetchedRelease, session: ModelSession, tokenize: Tokenize
) -> LoadedRelease:
    return LoadedRelease(
        model=model,
        version=fetched.manifest.version,
        manifest_digest=fetched.manifest_digest,
        precision=fetched.variant.precision,
        session=session,
        tokenize=tokenize,
    )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A file that is not there was lost; one that cannot be read now may be readable later."""
    try:
        yield
    except FileNotFoundError as error:
        raise IntegrityError("release.digest", f"{path.name} is missing.") from error
    except OSError as error:
        raise TransientError("disk.failed", f"Cannot read {path.name}: {error}.") from error
