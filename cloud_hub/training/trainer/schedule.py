"""Schedule: how many steps a run has, and the learning rate at each. Pure.

1. A step is one batch; an epoch's last batch may be smaller. A last batch so small that a process
   would get fewer than two items is left out of its epoch, where there are others: normalisation
   and contrast need at least two.
2. After the warm-up, which rises linearly to the whole rate, the factor falls to zero at the last
   step: linearly, or as half a cosine (Loshchilov & Hutter 2017), or not at all.
3. What is drawn at a step follows from the seed and the step alone: a resumed run draws the same.
"""

import math
from dataclasses import dataclass

from cloud_hub.training.trainer.spec import Recipe, Schedule

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run's items are dealt out."""

    items_count: int
    batch: int
    steps_per_epoch: int
    steps_total: int

    def epoch_of(self, step: int) -> float:
        """Return how many epochs are done after `step` steps."""
        return step / self.steps_per_epoch

    def is_epoch_end(self, step: int) -> bool:
        """Whether an epoch ends with the `step`-th step, from 1."""
        return step % self.steps_per_epoch == 0


def make_plan(items_count: int, recipe: Recipe, *, processes: int) -> Plan:
    """Return how many steps there are; see rule 1. `items_count` is at least 1."""
    whole, rest = divmod(items_count, recipe.batch)
    has_rest = rest >= 2 * processes or (rest > 0 and whole == 0)
    steps_per_epoch = whole + has_rest
    # The small addition keeps 0.1 epochs of 10 steps at 1 step.
    steps_total = max(1, math.ceil(recipe.epochs * steps_per_epoch - 1e-9))
    return Plan(items_count, recipe.batch, steps_per_epoch, steps_total)


def rate_factor(step: int, steps_total: int, recipe: Recipe) -> float:
    """Return what the learning rate is multiplied with at the `step`-th step, from 0; rule 2."""
    warmup = int(recipe.warmup_share * steps_total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps_total - warmup)
    match recipe.schedule:
        case Schedule.CONSTANT:
            return 1.0
        case Schedule.LINEAR:
            return 1.0 - progress
        case Schedule.COSINE:
            return 0.5 * (1.0 + math.cos(math.pi * progress))


def seed_of(seed: int, index: int, *, stream: int) -> int:
    """Return the seed of one stream at one step or epoch: splitmix64 (Steele et al. 2014)."""
    value = (seed * 0x9E3779B97F4A7C15 + index * 0xD1342543DE82EF95 + stream) & _MASK
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return (value ^ (value >> 31)) >> 1  # 63 bits: what torch's generators take
