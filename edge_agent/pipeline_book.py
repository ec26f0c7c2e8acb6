"""Which pipelines a device runs: its own file's, and those that the hub orders. Pure.

1. An ordered pipeline stands in the place of the device's own with the same name.
2. What the hub may order is the owner's word, in `[remote]`: whether at all, from which kinds of
   source, to which kinds of sink. An order never names a file of the device: a password or a
   picture would go where the hub says.
3. What cannot be read, or is not allowed, is refused alone and reported with its reason; the
   device's own pipeline of that name runs on.
4. The Target's list of names says which of all these run; without one, all do.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from msgspec import UNSET

from edge_agent.config import RemoteSettings
from shared.pipeline.pipeline import PipelineSettings
from shared.release.digest import digest_of
from shared.wire.report import PipelineReport
from shared.wire.target import PipelineOrder, Target

REFUSED = "refused"
UNKNOWN_MODEL = "unknown"
DETAIL_CHARS_MAX = 500
RUNS_ON = " The device's own pipeline of that name runs on."
_DECODER = msgspec.json.Decoder(PipelineSettings)
_FILE_FIELDS = ("path", "password_file", "token_file", "ca_file")


@dataclass(frozen=True, slots=True)
class PipelineBook:
    """Every pipeline by what was asked, and what was refused."""

    pipelines: tuple[PipelineSettings, ...]
    ordered: frozenset[str]  # Names of those that the hub defined
    wanted: frozenset[str]  # Names of those that should run
    refused: tuple[PipelineReport, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Return the names of the models that pipelines use, each once, in order."""
        return tuple(dict.fromkeys(pipeline.model for pipeline in self.pipelines))

    def digest_for(self, model: str) -> str:
        """Return the SHA-256 of the settings of every pipeline that uses `model`."""
        users = [pipeline for pipeline in self.pipelines if pipeline.model == model]
        return digest_of(msgspec.json.encode(users, order="deterministic"))


def open_book(
    own: tuple[PipelineSettings, ...], remote: RemoteSettings, target: Target | None
) -> PipelineBook:
    """Return what `target` makes of the device's `own` pipelines; see the rules above."""
    pipelines = {pipeline.name: pipeline for pipeline in own}
    ordered: set[str] = set()
    refused: list[PipelineReport] = []
    for order in _orders(target):
        read = _read(order, remote)
        if isinstance(read, PipelineReport):
            refused.append(_beside_own(read) if order.name in pipelines else read)
            continue
        pipelines[order.name] = read
        ordered.add(order.name)
    names = target.pipelines if target is not None else None
    wanted = pipelines.keys() if names is None else pipelines.keys() & set(names)
    return PipelineBook(
        pipelines=tuple(pipelines.values()),
        ordered=frozenset(ordered),
        wanted=frozenset(wanted),
        refused=tuple(refused),
    )


def _beside_own(refusal: PipelineReport) -> PipelineReport:
    """Return a refusal that says what runs instead; see rule 3."""
    detail = refusal.detail[: DETAIL_CHARS_MAX - len(RUNS_ON)] + RUNS_ON
    return msgspec.structs.replace(refusal, detail=detail)


def _orders(target: Target | None) -> tuple[PipelineOrder, ...]:
    return target.orders if target is not None and target.orders is not UNSET else ()


def _read(order: PipelineOrder, remote: RemoteSettings) -> PipelineSettings | PipelineReport:
    """Return the settings of an order, or why it is refused."""
    try:
        settings = _DECODER.decode(order.settings)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return _refusal(order, UNKNOWN_MODEL, f"This agent cannot read it: {error}.")
    if settings.name != order.name:
        return _refusal(order, settings.model, f"It is named {settings.name} within.")
    for problem in _problems(settings, remote):
        return _refusal(order, settings.model, problem)
    return settings


def _problems(settings: PipelineSettings, remote: RemoteSettings) -> Iterator[str]:
    """Yield what the device's owner does not allow."""
    if not remote.pipelines:
        yield "The device's own file lets the hub order no pipelines: remote.pipelines."
    kind = _kind(settings.source)
    if kind not in remote.sources:
        yield (
            f"The device's own file lets the hub order no source of the kind {kind}; "
            f"remote.sources has: {', '.join(remote.sources) or 'none'}."
        )
    for sink in settings.sinks:
        if _kind(sink) not in remote.sinks:
            yield (
                f"The device's own file lets the hub order no sink of the kind {_kind(sink)}; "
                f"remote.sinks has: {', '.join(remote.sinks) or 'none'}."
            )
    for part in (settings.source, *settings.sinks):
        for field in _FILE_FIELDS:
            if getattr(part, field, ""):
                yield f"It names a file of this device, which the hub may not: {field}."


def _kind(part: msgspec.Struct) -> str:
    return str(part.__struct_config__.tag)


def _refusal(order: PipelineOrder, model: str, problem: str) -> PipelineReport:
    return PipelineReport(
        pipeline=order.name,
        model=model,
        state=REFUSED,
        detail=problem[:DETAIL_CHARS_MAX],
        is_ordered=True,
    )
