"""EvaluationSets: takes labelled items in, keeps them, gives the gate the newest of a model.

1. The same bytes are the same set; added again, it is the newest again.
2. A file is read by a process of its own (file_evaluation_check.py), never here.
3. Sets lie in the object store under `evaluation/`, where no device can read: blocks are served
   from `metadata/` and `targets/` only.
4. At most SETS_MAX sets of a model; a person removes those that are not wanted any more. Verdicts
   keep the digest of the set they rest on.
"""

import logging
import threading

from cloud_hub.candidates import sql_store_evaluation as sql_store
from cloud_hub.candidates.evaluation_limits import EVALUATION_BYTES_MAX
from cloud_hub.candidates.evaluation_set import EvaluationSet
from cloud_hub.candidates.process_evaluation_check import SetFacts, check_set
from cloud_hub.object_store import ObjectStore
from cloud_hub.sql_database import Database
from shared.clock import Clock, now_ms
from shared.errors import ContractError, IntegrityError, RefusedError
from shared.ids import ModelName, parse_model_name
from shared.release.digest import digest_of

log = logging.getLogger(__name__)

SETS_MAX = 20  # Of one model
FOLDER = "evaluation"


class EvaluationSets:
    """See the rules above. Safe to share between threads of one process."""

    def __init__(self, database: Database, store: ObjectStore, clock: Clock) -> None:
        """Start without touching anything."""
        self._database = database
        self._store = store
        self._clock = clock
        self._storing = threading.Lock()  # A set is not removed while it is being added

    def add(self, model: str, data: bytes) -> EvaluationSet:
        """Return the set that came of an .npz file; takes about a second.

        Args:
            model: whose candidates it judges.
            data: `items`, (N, H, W, 3) uint8 BGR frames of the model's own size, or (N, T, C)
                float32 windows, or (N, M) uint8 texts; `labels`, (N,) whole numbers: the class, or
                0 normal and 1 anomalous; for a detector `boxes` and `box_starts` in their place
                (evaluation_boxes.py); optionally `slices`, (N,) texts. Without pickles.

        Raises ContractError `evaluation.too_large` or `evaluation.invalid` (naming the array),
        RefusedError `evaluation.too_many`, TransientError.
        """
        name = parse_model_name(model)
        if len(data) > EVALUATION_BYTES_MAX:
            raise ContractError(
                "evaluation.too_large",
                f"The evaluation set has {len(data)} bytes, over {EVALUATION_BYTES_MAX}.",
                remedy="Choose fewer items; some thousand tell well.",
            )
        facts = check_set(data)
        with self._storing:
            added = self._store_checked(name, data, facts)
        log.info("evaluation_set.added", extra={"model": name, "digest": added.digest})
        return added

    def newest(self, model: str) -> EvaluationSet | None:
        """Return the set that was added last for a model, or None."""
        return next(iter(self.list(model)), None)

    def list(self, model: str | None = None) -> tuple[EvaluationSet, ...]:
        """Return the sets of one model or of all, newest first."""
        with self._database.read() as connection:
            return sql_store.select_sets(connection, model)

    def get(self, model: str, digest: str) -> EvaluationSet:
        """Return one set. Raises RefusedError `evaluation.unknown`."""
        for found in self.list(model):
            if found.digest == digest:
                return found
        text = f"Model {model[:63]!r} has no evaluation set {digest[:64]!r}."
        raise RefusedError("evaluation.unknown", text)

    def read(self, found: EvaluationSet) -> bytes:
        """Return a set's file. Raises IntegrityError `evaluation.damaged`, TransientError."""
        data = self._store.get(_key(found.digest))
        if data is None or digest_of(data) != found.digest:
            raise IntegrityError(
                "evaluation.damaged",
                f"The evaluation set {found.digest} is missing from the object store or damaged.",
                remedy="Add it again, or remove it.",
            )
        return data

    def remove(self, model: str, digest: str) -> None:
        """Forget a set. Raises RefusedError `evaluation.unknown`, TransientError."""
        found = self.get(model, digest)
        with self._storing:
            with self._database.begin() as connection:
                is_last = sql_store.delete_set(connection, found)
            if is_last:  # Another model may be judged by the same items.
                self._store.delete(_key(digest))
        log.info("evaluation_set.removed", extra={"model": model, "digest": digest})

    def _store_checked(self, model: ModelName, data: bytes, facts: SetFacts) -> EvaluationSet:
        newest = self.newest(model)
        added = EvaluationSet(
            digest=digest_of(data),
            model=model,
            items_count=facts.items_count,
            item_shape=facts.item_shape,
            slices=facts.slices,
            file_bytes=len(data),
            # Two within a millisecond, or under a clock that was put back, stay in order.
            created_ms=max(now_ms(self._clock), newest.created_ms + 1 if newest else 0),
        )
        self._store.put(_key(added.digest), data)
        with self._database.begin() as connection:
            if sql_store.count_others(connection, added) >= SETS_MAX:
                raise RefusedError(
                    "evaluation.too_many",
                    f"Model {added.model!r} has {SETS_MAX} evaluation sets already.",
                    remedy="Remove one that is not wanted any more.",
                )
            sql_store.put_set(connection, added)
        return added


def _key(digest: str) -> str:
    return f"{FOLDER}/{digest}.npz"
