"""What devices measured of a release, in the form of the API."""

from typing import Self

from pydantic import Field

from cloud_hub.api.bodies import AnswerBody
from cloud_hub.rollouts.fits import PooledFit, PooledRow


class FitRowOut(AnswerBody):
    """One way to run a release on one kind of hardware; medians over its devices."""

    precision: str
    backend: str
    threads: int = Field(description="That share one session")
    devices_count: int
    chosen_count: int = Field(description="Devices that run it")
    refused_count: int = Field(description="Devices on which it could not be used")
    run_ms_p50: float | None
    run_ms_p95: float | None
    items_per_s: float | None = Field(description="All threads together")
    rss_bytes: int
    agreement: float | None = Field(description="With fp32, on held-out items")
    text: str = Field(description="Why it was refused, where it was")


class FitChoiceOut(AnswerBody):
    """What most devices of one kind came to; what the next one like them is told to try first."""

    precision: str
    backend: str
    threads: int
    run_ms_p50: float
    devices_count: int


class FitOut(AnswerBody):
    """One kind of hardware."""

    fingerprint: str
    hardware: str
    devices_count: int
    confirmed_count: int = Field(description="Devices that only confirmed the others' choice")
    anew_count: int = Field(description="Devices on which the others' choice did not hold")
    choice: FitChoiceOut | None
    rows: tuple[FitRowOut, ...]
    reasons: tuple[str, ...]


class FitsOut(AnswerBody):
    """A release on every kind of hardware that measured it; most devices first."""

    model: str
    version: int
    fits: tuple[FitOut, ...]

    @classmethod
    def of(cls, model: str, version: int, fits: tuple[PooledFit, ...]) -> Self:
        """Return pooled tables in the form of the API."""
        return cls(model=model, version=version, fits=tuple(_fit(fit) for fit in fits))


def _fit(fit: PooledFit) -> FitOut:
    hint = fit.hint
    choice = None
    if hint is not None:
        choice = FitChoiceOut(
            precision=hint.precision,
            backend=hint.backend,
            threads=hint.threads,
            run_ms_p50=hint.run_ms_p50,
            devices_count=hint.devices_count,
        )
    return FitOut(
        fingerprint=fit.fingerprint,
        hardware=fit.hardware,
        devices_count=fit.devices_count,
        confirmed_count=fit.confirmed_count,
        anew_count=fit.anew_count,
        choice=choice,
        rows=tuple(_row(row) for row in fit.rows),
        reasons=fit.reasons,
    )


def _row(row: PooledRow) -> FitRowOut:
    return FitRowOut.model_validate(row)
