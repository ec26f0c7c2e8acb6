"""Loop: takes the steps of a run, and between them looks, tells, keeps and ends.

What must not live here: how a step is computed (torch_step.py), where files lie.

1. Between two steps: progress is told at most once a second, a state is kept every `save_every_s`
   (0: at each epoch's end), `stop` ends the run. Several processes look for `stop` together, every
   STOP_STEPS steps, so that all end at the same one.
2. At the end of every `evaluate_every`-th epoch, and of the last, the validation part is gone
   through; the best weights are kept, in memory and in every state. Without a validation part the
   mean training loss of the epoch takes its place. A tie is no improvement: the earlier one stays.
3. What is decided follows from steps and weights, not from the time, so that a run that went on
   from a state ends with the weights of one that never broke off.
4. The moving average of weights, where there is one, is what is evaluated and kept as the best.
5. A state is never written of weights that went to infinity.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cloud_hub.training.trainer.file_run_folder import RunFolder
from cloud_hub.training.trainer.run_files import Evaluated, Event, Noted, Progressed, Saved
from cloud_hub.training.trainer.schedule import Plan, rate_factor
from cloud_hub.training.trainer.spec import Recipe
from cloud_hub.training.trainer.torch_device import gpu_share, memory_peak_bytes
from cloud_hub.training.trainer.torch_low_rank import own_state
from cloud_hub.training.trainer.torch_optimisers import Optimiser
from cloud_hub.training.trainer.torch_processes import Processes
from cloud_hub.training.trainer.torch_scores import Evaluation, diverged
from cloud_hub.training.trainer.torch_states import RunState, copied, encode_state
from cloud_hub.training.trainer.torch_step import Stepper
from shared.errors import UnavailableError

PROGRESS_S = 1.0
ORPHAN_S = 1.0
STOP_STEPS = 8
RATES_KEPT = 10_000  # Of items a second: what the median is taken of
NOTES_MAX = 50


@dataclass(frozen=True, slots=True)
class Learner:
    """What is trained, by what."""

    network: nn.Module  # As built: not compiled
    extra: nn.Module
    optimiser: Optimiser
    stepper: Stepper
    evaluate: Callable[[], Evaluation] | None  # None: no validation part


class Teller:
    """Events of the first process; the others' go nowhere."""

    def __init__(self, folder: RunFolder, state: RunState, *, is_first: bool) -> None:
        self._folder = folder
        self._state = state
        self._is_first = is_first

    def tell(self, event: Event) -> None:
        """Append an Event."""
        if self._is_first:
            self._folder.append(event)

    def note(self, text: str) -> None:
        """Tell a person something, now and with the result; the same thing once."""
        if text not in self._state.notes and len(self._state.notes) < NOTES_MAX:
            self._state.notes.append(text)
            self.tell(Noted(now_ms(), text))


class Loop:
    """See the rules above."""

    def __init__(
        self,
        learner: Learner,
        plan: Plan,
        recipe: Recipe,
        processes: Processes,
        folder: RunFolder,
        teller: Teller,
        state: RunState,
        *,
        device: torch.device,
        started_s: float,
    ) -> None:
        """Args: started_s: by time.monotonic, when this attempt began."""
        self._learner = learner
        self._plan = plan
        self._recipe = recipe
        self._processes = processes
        self._folder = folder
        self._teller = teller
        self.state = state
        self._device = device
        self._started_s = started_s
        self._earlier_s = state.device_seconds
        self._rates: deque[float] = deque(maxlen=RATES_KEPT)
        self._loss = torch.zeros((), device=device)  # Since the last Event
        self._epoch_loss = torch.full((), state.epoch_loss, device=device)
        self._told_step = state.step
        self._items = 0  # Since the last Event
        self._clock_s = time.monotonic()  # Moved on by what is not training
        self._saved_s = self._looked_s = time.monotonic()
        self._saved_step = state.step
        self.is_stopped = False

    @property
    def device_seconds(self) -> float:
        """Return what all attempts spent."""
        return self._earlier_s + self._spent_s

    @property
    def items_per_s(self) -> float:
        """Return the median over the run, training only."""
        return statistics.median(self._rates) if self._rates else 0.0

    def run(self) -> None:
        """Train until the last step, early stopping, or `stop`."""
        state = self.state
        self._learner.stepper.prepare()
        is_done = state.step >= self._plan.steps_total or self._is_stale()
        while not is_done:
            loss, count = self._learner.stepper.take(state.step)
            state.step += 1
            self._items += count
            self._loss += loss
            self._epoch_loss += loss
            is_done = state.step == self._plan.steps_total
            if self._plan.is_epoch_end(state.step) or is_done:
                is_done = self._end_epoch(is_last=is_done) or is_done
            is_done = self._between_steps() or is_done
        if self._items:
            self._progress()
        if state.best_value is None:
            self._judge()
        if self._saved_step != state.step:
            self._save()

    def _between_steps(self) -> bool:
        """Do what is due after a step; return whether `stop` was asked for."""
        now_s = time.monotonic()
        if now_s - self._clock_s >= PROGRESS_S:
            self._progress()
        if now_s - self._looked_s >= ORPHAN_S:
            self._looked_s = now_s
            if self._processes.is_orphan:
                raise UnavailableError(
                    "training.orphaned", "torchrun is gone; this process ends with it."
                )
        every_s = self._recipe.save_every_s
        if every_s and now_s - self._saved_s >= every_s:
            self._save()
        is_asked = False
        if self._processes.count == 1:
            is_asked = self._folder.is_stop_asked
        elif self.state.step % STOP_STEPS == 0:
            is_asked = self._processes.agreed(float(self._folder.is_stop_asked)) > 0
        self.is_stopped = self.is_stopped or is_asked
        return is_asked

    def _end_epoch(self, *, is_last: bool) -> bool:
        """Evaluate and save where it is due; return whether training should end early."""
        is_due = is_last
        if self._plan.is_epoch_end(self.state.step):
            epoch = self.state.step // self._plan.steps_per_epoch
            is_due = is_due or epoch % self._recipe.evaluate_every == 0
        if is_due:
            self._progress()
            self._judge()
        self._epoch_loss.zero_()
        if not self._recipe.save_every_s:
            self._save()
        if is_last or not self._is_stale():
            return False
        patience = self._recipe.patience_epochs
        self._teller.note(
            f"Ended early after epoch {self._plan.epoch_of(self.state.step):g}: none of the last "
            f"{patience} was better than epoch {self._plan.epoch_of(self.state.best_step):g}."
        )
        return True

    def _is_stale(self) -> bool:
        patience = self._recipe.patience_epochs
        if patience is None or self.state.best_value is None:
            return False
        return self.state.step - self.state.best_step >= patience * self._plan.steps_per_epoch

    def _judge(self) -> None:
        """Evaluate, and keep the weights if they are the best so far."""
        start_s = time.monotonic()
        learner, state = self._learner, self.state
        self._processes.average_statistics(learner.network)
        learner.optimiser.swap_average()
        found = self._training_loss() if learner.evaluate is None else learner.evaluate()
        value = self._processes.agreed(found.value)
        is_best = state.best_value is None or value > state.best_value
        if is_best:
            state.best_value, state.best_step = value, state.step
            state.best_metrics = dict(found.metrics)
            state.best = copied(own_state(learner.network))
        learner.optimiser.swap_average()
        learner.stepper.prepare()
        epoch = self._plan.epoch_of(state.step)
        self._teller.tell(Evaluated(now_ms(), state.step, epoch, found.metrics, value, is_best))
        self._pause(start_s)

    def _training_loss(self) -> Evaluation:
        """Return the epoch's mean training loss in the place of an evaluation; see rule 2."""
        steps = (self.state.step - 1) % self._plan.steps_per_epoch + 1
        loss = _finite(self._epoch_loss) / steps
        return Evaluation({"loss": loss}, -loss)

    def _progress(self) -> None:
        """Tell how it goes. Raises RefusedError `training.diverged`."""
        loss = _finite(self._loss)  # Waits for the device
        now_s = time.monotonic()
        seconds = max(now_s - self._clock_s, 1e-9)
        steps = self.state.step - self._told_step
        if not steps:
            return
        rate = self._items / seconds
        self._rates.append(rate)
        factor = rate_factor(self.state.step - 1, self._plan.steps_total, self._recipe)
        event = Progressed(
            now_ms(),
            step=self.state.step,
            epoch=self._plan.epoch_of(self.state.step),
            loss=loss / steps,
            learning_rate=self._recipe.learning_rate * factor,
            items_per_s=rate,
            device_seconds=self._spent_s,
            memory_bytes=memory_peak_bytes(self._device),
            gpu_share=gpu_share(self._device),
        )
        self._teller.tell(event)
        self._loss.zero_()
        self._items, self._told_step, self._clock_s = 0, self.state.step, now_s

    def _save(self) -> None:
        """Make a state durable; see rule 5."""
        start_s = time.monotonic()
        learner, state = self._learner, self.state
        self._saved_s, self._saved_step = start_s, state.step
        if not self._processes.is_first:
            return
        _finite(self._loss)
        state.epoch_loss = float(self._epoch_loss)
        state.device_seconds = self.device_seconds
        state.network = learner.network.state_dict()
        state.extra = learner.extra.state_dict()
        state.optimiser = learner.optimiser.state()
        if not all(bool(group.values.isfinite().all()) for group in learner.optimiser.groups):
            raise diverged()
        self._folder.write_state(state.step, encode_state(state))
        self._teller.tell(Saved(now_ms(), state.step))
        self._pause(start_s)

    @property
    def _spent_s(self) -> float:
        return (time.monotonic() - self._started_s) * self._processes.count

    def _pause(self, start_s: float) -> None:
        """Leave out of the training's rate what was not training since `start_s`."""
        self._clock_s += time.monotonic() - start_s


def now_ms() -> int:
    """Return wall-clock time, milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def _finite(total: Tensor) -> float:
    """Return a sum of losses. Raises RefusedError `training.diverged`."""
    value = float(total)
    if not math.isfinite(value):
        raise diverged()
    return value
