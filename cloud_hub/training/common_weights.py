"""CommonWeights: the weights that a Job moves, and what moving them has to remember between Rounds.

1. Devices get the shared arrays: neither personal parameters nor counters, which stay as they were.
2. Weights, the server optimiser, what the checks learned and the privacy paid are one state: they
   are in the same checkpoint, and are read from it together.
3. A Round is done when its checkpoint is on the disk (file_job.py).
4. Central privacy is paid before the noise is drawn; what was paid for counts also where a kill
   came before the checkpoint.
"""

from collections.abc import Mapping

import numpy as np

from cloud_hub.training.aggregation.central_privacy import Accountant
from cloud_hub.training.aggregation.checks import UpdateChecks
from cloud_hub.training.aggregation.entry import Aggregate
from cloud_hub.training.aggregation.file_round_store import RoundStore
from cloud_hub.training.aggregation.flwr_strategies import ServerStep
from cloud_hub.training.file_job import JobFiles
from cloud_hub.training.job_folder import JobPlan, Progress
from shared.errors import RefusedError
from shared.model.weights import (
    Array,
    Vector,
    averaged,
    digest_weights,
    flatten,
    layout_of,
    unflatten,
)


class CommonWeights:
    """See the rules above. Belongs to one thread."""

    def __init__(self, files: JobFiles, plan: JobPlan) -> None:
        """Begin with the Job's first weights. Raises ContractError `weights.invalid`."""
        self._files, self._order = files, plan.order
        self._all = files.read_initial()
        shared = {
            name: array
            for name, array in averaged(self._all).items()
            if not plan.network.is_personal(name)
        }
        self.layout = layout_of(shared)
        self.rounds_done = 0
        self._vector = flatten(shared, self.layout)
        privacy = self._order.central_privacy
        self._checks = UpdateChecks(self._order.checks, privacy=privacy)
        self._step = ServerStep.for_strategy(self._order.strategy, self.layout)
        self._accountant = Accountant(privacy) if privacy is not None else None

    def restore(self, *, releases_count: int) -> None:
        """Take up the last checkpoint, if there is one. Raises as JobFiles.read_round.

        Args: releases_count: how many Rounds' privacy was paid for before.
        """
        self._restore_checkpoint()
        if self._accountant is not None:
            self._accountant.charge_at_least(releases_count)

    def _restore_checkpoint(self) -> None:
        progress = self._files.read_progress()
        if progress is None:
            return
        self.rounds_done = progress.rounds_done
        self._all, state = self._files.read_round(self.rounds_done)
        self._vector = flatten(self._all, self.layout)
        self._checks.restore(state)
        self._step.restore(state)
        if self._accountant is not None:
            self._accountant.restore(state)

    @property
    def shared(self) -> Mapping[str, Array]:
        """Return what devices get."""
        return dict(unflatten(self._vector, self.layout))

    @property
    def shared_bytes(self) -> int:
        """Return how many bytes that is."""
        return int(self._vector.nbytes)

    @property
    def shared_digest(self) -> str:
        """Return the digest that devices answer with."""
        return digest_weights(self.shared)

    @property
    def digest(self) -> str:
        """Return the digest of all weights, as the last checkpoint has them."""
        return digest_weights(self._all)

    @property
    def epsilon(self) -> float | None:
        """Return the central privacy spent so far; None: none is kept count of."""
        return self._accountant.epsilon if self._accountant is not None else None

    @property
    def is_spent(self) -> bool:
        """Return whether one more Round would pass the Job's epsilon_max."""
        return self._accountant is not None and self._accountant.is_spent

    def open_store(self, number: int) -> RoundStore:
        """Return the place for the updates of Round `number`."""
        return RoundStore(
            self._files.updates_folder(number),
            self.layout,
            self._order.strategy,
            checks=self._checks,
            late=self._order.late,
            privacy=self._order.central_privacy,
        )

    def pay(self) -> float | None:
        """Count the privacy of one Round; return all that is spent, None where none is counted.

        To be on the disk before the noise is drawn (RoundStore.close).
        """
        return self._accountant.charge() if self._accountant is not None else None

    def move(self, aggregate: Aggregate) -> None:
        """Change the weights by what a Round came to.

        Raises RefusedError `job.diverged`: the Job cannot go on.
        """
        vector: Vector = self._step.apply(self._vector, aggregate)
        if not np.isfinite(vector).all():
            raise RefusedError("job.diverged", "It would make weights that are not finite.")
        self._vector = vector

    def checkpoint(self, number: int) -> None:
        """Make Round `number` done, durably. Raises TransientError `disk.write_failed`."""
        self._all = {**self._all, **self.shared}
        state: dict[str, Array] = {**self._step.state(), **self._checks.state()}
        if self._accountant is not None:
            state |= self._accountant.state()
        progress = Progress(rounds_done=number, weights_digest=self.digest, epsilon=self.epsilon)
        self._files.write_checkpoint(progress, self._all, state)
        self.rounds_done = number
