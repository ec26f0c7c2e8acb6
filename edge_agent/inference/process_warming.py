"""Warming: what a worker must show before anybody runs on it: loaded, the spec's input, a warm run.

Also the conversation with a worker that the agent has besides runs: `Warming.answer`. Belongs to
the supervising thread.
"""

from edge_agent.inference import worker_messages as words
from edge_agent.inference.engine import Node
from edge_agent.inference.input_check import checked_dtype, is_batch_fixed
from edge_agent.inference.process_child import WorkerChild
from edge_agent.inference.process_lane import refusal_in, run_on
from edge_agent.inference.process_slots import Slot, Slots
from edge_agent.inference.process_wake import Wake
from edge_agent.inference.worker_limits import WorkerLimits
from shared.clock import Clock
from shared.errors import RefusedError
from shared.model.postprocess import check_outputs
from shared.model.spec import ModelSpec

WARM_RUN_FACTOR = 2.0  # The first run also allocates: it may take longer than others


class Warming:
    """See above. Holds what a session's first worker told of the model."""

    def __init__(self, spec: ModelSpec, *, limits: WorkerLimits, wake: Wake, clock: Clock) -> None:
        """Nothing is known yet."""
        self.runtime = ""
        self.slots: Slots | None = None
        self.is_batch_fixed = False  # Whether the graph takes no more rows than the spec says
        self._spec, self._limits, self._wake, self._clock = spec, limits, wake, clock
        self._has_run = False

    def warm_up(self, child: WorkerChild) -> None:
        """Have the model loaded, checked and run once.

        Raises RefusedError for what it was refused, TransientError `worker.slots`, OSError where
        the worker is gone or stuck.
        """
        slots = self._checked(child, self._answer(child))
        rows = self._spec.input_shape[0]
        slot = slots.take(rows)
        try:
            if child.number == 1:
                slot.input(rows).fill(0)
            bytes_per_row = self._run(child, slot) // rows
            child.first_cpu_s = child.lanes_cpu_s() / rows
        finally:
            slots.give_back(slot)  # Its worker, if it failed, is ended before there is another
        if not self._has_run:
            slots.learn_output_bytes(bytes_per_row)
            self._has_run = True
        child.limit_runs(self._limits.run_s_max)
        child.control.send(words.READY)  # It hands back what only loading needed
        self._answer(child)

    def _run(self, child: WorkerChild, slot: Slot) -> int:
        """Return how many bytes of outputs came, which are as the spec says."""
        rows = self._spec.input_shape[0]
        seconds_max = self._limits.run_s_max * WARM_RUN_FACTOR
        child.limit_runs(seconds_max)
        lane = child.take_lane(0.0)
        assert lane is not None, "nobody else knows this worker yet"
        try:
            outputs = run_on(lane, child.number, slot, rows)
        except BlockingIOError:
            child.cause = f"stuck for {seconds_max:g} s"
            raise
        finally:
            child.give_back_lane(lane)
        if isinstance(outputs, RefusedError):
            raise outputs
        check_outputs(outputs, self._spec)
        return sum(one.nbytes for one in outputs)

    def _checked(self, child: WorkerChild, packet: bytes) -> Slots:
        """Return the slots for what the worker says that the model takes."""
        if packet[:1] == words.REFUSED:
            raise refusal_in(packet)
        told = words.parse_json(packet)
        nodes = [Node(name, dtype, tuple(shape)) for name, dtype, shape in told["inputs"]]
        child.threads = tuple(told["threads"])
        dtype = checked_dtype(nodes, self._spec)
        if self.slots is None:
            self.runtime = str(told["runtime"])
            self.is_batch_fixed = is_batch_fixed(nodes)
            self.slots = Slots(self._spec.input_shape, dtype)
        return self.slots

    def _answer(self, child: WorkerChild) -> bytes:
        """Return the next packet on the control socket. Raises OSError."""
        seconds_max = self._limits.load_s_max
        deadline_s = self._clock.monotonic_s() + seconds_max
        control = child.control.fileno()
        while not self._wake.is_over:
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                child.cause = f"stuck for {seconds_max:g} s"
                raise TimeoutError
            if control in self._wake.wait([control], left_s):
                packet = child.control.recv(words.PACKET_BYTES_MAX)
                if packet:
                    return packet
                break
        raise ConnectionResetError
