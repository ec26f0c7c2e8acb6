"""DeviceNumbers: reads what the machine, the pipelines and the models' processes do, now.

Shares of a processor are since the last reading: people's readings and the hub's are kept apart, so
that neither shortens the other's.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from edge_agent.inference.active_model import ActiveModel
from edge_agent.inference.process_session import WorkerSession
from edge_agent.telemetry.numbers import AgentNumbers, PipelineNumbers, WorkerNumbers
from edge_agent.telemetry.procfs_host import CPU_SHARE_MAX, ProcfsCpu, ProcfsHost
from shared.clock import Clock
from shared.wire.records import HostRecord


class DeviceNumbers:
    """See above. For one thread."""

    def __init__(
        self,
        state: Path,
        models: Mapping[str, ActiveModel],
        pipelines: Callable[[], tuple[PipelineNumbers, ...]],
        clock: Clock,
    ) -> None:
        """Args: state: a folder on the disk that is told of; models: read anew each time."""
        self._models = models
        self._pipelines = pipelines
        self._host, self._host_told = ProcfsHost(state, clock), ProcfsHost(state, clock)
        self._cpu, self._cpu_told = ProcfsCpu(clock), ProcfsCpu(clock)

    def read(self) -> AgentNumbers:
        """Return the numbers for people."""
        return AgentNumbers(
            host=self._host.read(),
            pipelines=self._pipelines(),
            workers=tuple(self._workers(self._cpu)),
        )

    def read_for_hub(self) -> HostRecord:
        """Return the machine's numbers for the hub, the models' processes included."""
        workers = tuple(self._workers(self._cpu_told))
        host = self._host_told.read()
        if not workers:
            return host
        return msgspec.structs.replace(
            host,
            workers_rss_bytes=sum(worker.rss_bytes for worker in workers),
            workers_cpu_share=min(CPU_SHARE_MAX, sum(worker.cpu_share for worker in workers)),
        )

    def _workers(self, cpu: ProcfsCpu) -> Iterator[WorkerNumbers]:
        for model in list(self._models.values()):
            line = model.line
            # A first release on trial is its own companion: one process, told once.
            companion = line.companion if line.companion is not line.serving else None
            for release in (line.serving, companion):
                if release is None or not isinstance(release.session, WorkerSession):
                    continue
                standing = release.session.standing
                yield WorkerNumbers(
                    model=release.model,
                    version=release.version,
                    pid=standing.pid,
                    restarts_count=standing.restarts_count,
                    last_cause=standing.last_cause,
                    rss_bytes=standing.rss_bytes,
                    cpu_share=cpu.share(standing.pid) if standing.pid else 0.0,
                )
