"""What the running agent says of itself, as a person reads it. Values in, lines out."""

from collections.abc import Iterator

import msgspec

from edge_agent.file_status import AgentStatus
from edge_agent.local_servers import local_server_text
from shared.plural import counted
from shared.wire.report import LearningReport, ModelReport, UpdateState


def status_lines(status: AgentStatus) -> Iterator[str]:
    """Yield what the agent does: its hub, pipelines, models and outbox."""
    link = "connected" if status.is_connected else "NOT connected"
    yield f"{status.device} of {status.hub_url}: {link}, process {status.pid}"
    for pipeline in status.report.pipelines:
        detail = f" ({pipeline.detail})" if pipeline.detail else ""
        yield f"  pipeline {pipeline.pipeline:20} {pipeline.model:16} {pipeline.state}{detail}"
    for model in status.report.models:
        runs = f"release {model.version} {model.precision}" if model.version else "nothing yet"
        yield f"  model    {model.model:20} {runs:16} {model.state}{_trial(model)}"
        if model.failure is not None:
            yield f"           release {model.failure.version}: {model.failure.text}"
    for job in status.report.learning or ():
        yield f"  learning {job.job:20} {job.model:16} {job.state}{_counts(job)}"
        if job.text:
            yield f"           {job.text}"
    for server in status.servers:
        yield f"  {server.name:9} {local_server_text(server)}"
    waiting = f"{counted(status.outbox_rows, 'record')}, {status.outbox_bytes >> 10} KiB waiting"
    yield (f"  outbox   {waiting} for the hub; {status.outbox_dropped} dropped for want of room")


def why_lines(model: ModelReport) -> Iterator[str]:
    """Yield why a model is at the release where it is, and what proves it."""
    yield f"{model.model}: {_what_runs(model)}"
    if model.receipt is not None:
        receipt = msgspec.json.decode(model.receipt.payload)
        yield (
            f"  It reproduced {receipt['golden_items']} golden items here (largest error "
            f"{receipt['golden_error_max']:.3g}) on {receipt['runtime']}; {receipt['outcome']}."
        )
    if model.failure is not None:
        failure = model.failure
        yield f"  Release {failure.version} was not kept: {failure.text} [{failure.code}]"


def _counts(job: LearningReport) -> str:
    """Return what one Job has come to here."""
    parts = [f"{counted(job.rounds_count, 'round')} answered"]
    if job.restarts_count:
        parts.append(f"started again {counted(job.restarts_count, 'time')}")
    if job.epsilon_spent is not None:
        limit = "no limit" if job.epsilon_max is None else f"{job.epsilon_max:g}"
        parts.append(f"epsilon {job.epsilon_spent:.3g} of {limit}")
    return f" ({', '.join(parts)})"


def _what_runs(model: ModelReport) -> str:
    if not model.version:
        return f"no release runs yet ({model.state})."
    wish = f", as {model.rollout} asks" if model.rollout else ""
    return f"release {model.version} runs ({model.state}{_trial(model)}{wish})."


def _trial(model: ModelReport) -> str:
    if model.state is not UpdateState.TRIAL:
        return ""
    return f", {counted(model.trial_items, 'item')} so far"
