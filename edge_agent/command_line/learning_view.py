"""What this device's owner lets it learn, and what that has come to: for people and as JSON.

Reads only, but for `adopt`; no network, and no library for learning is needed.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_agent.config import AgentConfig
from edge_agent.training.admission import NOT_INSTALLED
from edge_agent.training.budget import cost_of_rho
from edge_agent.training.eligibility import obstacles
from edge_agent.training.file_ledger import Ledger, open_ledger
from edge_agent.training.file_samples_count import count_samples
from edge_agent.training.node_files import FOLDER
from edge_agent.training.policy import ABSENT
from edge_agent.training.process_node import missing_modules
from edge_agent.training.procfs_power import ProcfsPower
from edge_agent.training.settings import LearningSettings
from edge_agent.uplink.file_identity import FileIdentity
from shared.clock import Clock
from shared.errors import RefusedError
from shared.findings import Finding, Level
from shared.learning.rdp import epsilon_of
from shared.plural import counted


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """One model: its samples, and what its privacy has cost."""

    model: str
    path: str
    samples_count: int
    trouble: str
    epsilon_spent: float
    rounds_charged: int


class ReasonView(msgspec.Struct, frozen=True, kw_only=True):
    """Why not, or not now."""

    code: str
    text: str


class LearningView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `edge-agent learning` says."""

    settings: LearningSettings
    reasons: tuple[ReasonView, ...]  # Empty: it may learn now
    models: tuple[ModelView, ...]


def owner_ledger(config: AgentConfig, state: Path) -> Ledger:
    """Return the privacy ledger. Raises RefusedError `policy.absent`; IntegrityError."""
    settings = _settings(config)
    key_path = FileIdentity(state / "identity").key_path
    return open_ledger(state / FOLDER, key_path, settings.privacy)


def view_learning(config: AgentConfig, state: Path, clock: Clock) -> LearningView:
    """Return how things stand.

    Raises RefusedError `policy.absent`; IntegrityError `ledger.damaged`; TransientError
    `ledger.busy`, `disk.write_failed`.
    """
    settings = _settings(config)
    content = owner_ledger(config, state).content()
    accounts = {samples.model: content.account(samples.model) for samples in settings.samples}
    models = []
    for samples in settings.samples:
        counted, account = count_samples(samples), accounts[samples.model]
        epsilon = epsilon_of(cost_of_rho(account.rho), settings.privacy.delta)
        models.append(
            ModelView(
                model=samples.model,
                path=samples.path,
                samples_count=counted.count,
                trouble=counted.trouble,
                epsilon_spent=epsilon,
                rounds_charged=account.charges_count,
            )
        )
    return LearningView(
        settings=settings, reasons=tuple(_reasons(settings, clock)), models=tuple(models)
    )


def learning_lines(view: LearningView) -> Iterator[str]:
    """Yield it as a person reads it."""
    yield from _policy_lines(view.settings)
    if view.reasons:
        yield "now: it does not learn"
        yield from (f"  {reason.text} [{reason.code}]" for reason in view.reasons)
    else:
        yield "now: it may learn"
    limit = view.settings.privacy.epsilon_max
    for model in view.models:
        yield f"{model.model}: {counted(model.samples_count, 'labelled sample')} in {model.path}"
        if model.trouble:
            yield f"  {model.trouble}"
        of = "no limit" if limit is None else f"{limit:g}"
        yield (
            f"  privacy: epsilon {model.epsilon_spent:.3g} of {of} "
            f"(delta {view.settings.privacy.delta:g}), {model.rounds_charged} Rounds paid for"
        )


def look_at_learning(config: AgentConfig, state: Path, clock: Clock) -> Iterator[Finding]:
    """Yield what a doctor says of it."""
    if config.learning is None:  # Nothing that could be wrong
        return
    view = view_learning(config, state, clock)
    for model in view.models:
        if model.samples_count >= config.learning.samples_min:
            text = f"{counted(model.samples_count, 'labelled sample')}"
            yield Finding(f"samples of {model.model}", Level.GOOD, text)
            continue
        text = model.trouble or f"{counted(model.samples_count, 'labelled sample')}, too few"
        remedy = f"Put labelled samples into {model.path}, or correct learning.samples."
        yield Finding(f"samples of {model.model}", Level.WARNING, text, remedy)
    if not view.reasons:
        yield Finding("learning", Level.GOOD, "it may learn now")
    for reason in view.reasons:
        yield Finding("learning", Level.WARNING, f"not now: {reason.text}")


def _settings(config: AgentConfig) -> LearningSettings:
    if config.learning is None:
        raise RefusedError(
            ABSENT,
            "This device does not learn: the file has no [learning].",
            remedy="Add [learning] with samples to let it.",
        )
    return config.learning


def _reasons(settings: LearningSettings, clock: Clock) -> Iterator[ReasonView]:
    missing = missing_modules()
    if missing:
        text = f'Not installed: {", ".join(missing)}. pip install "isthmus[edge,learn]"'
        yield ReasonView(code=NOT_INSTALLED, text=text)
    conditions = ProcfsPower(clock).read(is_clock_trusted=True)
    for obstacle in obstacles(settings, conditions, is_learning=False):
        yield ReasonView(code=obstacle.code, text=obstacle.text)


def _policy_lines(settings: LearningSettings) -> Iterator[str]:
    yield f"Jobs allowed: {', '.join(settings.jobs_allowed) or 'none'}" + (
        f"; forbidden: {', '.join(settings.jobs_forbidden)}" if settings.jobs_forbidden else ""
    )
    hidden = ", ".join(settings.measurements_forbidden) or "none"
    yield f"measurements held back: {hidden}"
    needs_noise = settings.privacy.is_noise_required or settings.privacy.epsilon_max is not None
    yield f"updates without local noise: {'refused' if needs_noise else 'allowed'}"
    hours = "at any hour"
    if settings.hours_from is not None:
        hours = f"from {settings.hours_from} to {settings.hours_to}"
    battery = (
        f"from {settings.battery_share_min:.0%} of its battery" if settings.on_battery else "never"
    )
    metered = "too" if settings.on_metered else "never"
    yield (
        f"it learns {hours}; on battery: {battery}; over mobile networks: {metered}; up to "
        f"{settings.temperature_c_max:g} °C, load {settings.load_max:g} for each core, with "
        f"{settings.memory_bytes_min >> 20} MiB of memory free"
    )
