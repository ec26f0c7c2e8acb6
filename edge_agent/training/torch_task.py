"""One LearningTask on this device: from the weights that came to the update that leaves.

What must not live here: Flower, processes, the policy's rules.

1. Personal parameters and counters are put in before training and kept after it; the update holds
   only the shared arrays of floating point, in the order of the network's own state.
2. Order of effects: privacy is charged, personal parameters are kept, the answer is made durable;
   only then may anybody send it.
3. Under local privacy no number that is a function of samples leaves without noise: loss and
   accuracies are left out whatever the owner allows, and no residual is kept. The norm, which is
   one too, is told as the bound it was clipped to.
4. The noise is drawn from the system's secure source, not from the Job's seed.
"""

import math
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edge_agent.training.file_ledger import Ledger
from edge_agent.training.file_personal import FilePersonal
from edge_agent.training.file_replies import Answer, FileReplies
from edge_agent.training.node_files import PERSONAL, REPLIES
from edge_agent.training.opencv_samples import load_samples
from edge_agent.training.policy import told
from edge_agent.training.samples import LocalSamples, Part
from edge_agent.training.settings import LearningSettings
from edge_agent.training.torch_trainer import measure, train
from shared.errors import ContractError, RefusedError
from shared.learning.task import LearningReply, LearningTask, Measurement, TaskKind
from shared.learning.update_codec import encode_update
from shared.model.torch_networks import build_network
from shared.model.weights import Array, Layout, Vector, digest_weights, flatten, layout_of
from shared.release.digest import digest_of

_OF_SAMPLES = frozenset({Measurement.LOSS, Measurement.ACCURACY_BEFORE, Measurement.ACCURACY_AFTER})


class TorchTask:
    """Carries out tasks within one folder, `<state>/learning`."""

    def __init__(self, folder: Path, settings: LearningSettings, ledger: Ledger) -> None:
        """Args: ledger: charged before an update with local noise is kept."""
        self._settings = settings
        self._ledger = ledger
        self._replies = FileReplies(folder / REPLIES)
        self._personal = FilePersonal(folder / PERSONAL)

    def run(self, task: LearningTask, weights: Mapping[str, Array]) -> Answer:
        """Return the answer to a task; it is on the disk by then.

        Raises ContractError, RefusedError, IntegrityError, TransientError, each with its code.
        """
        if (answer := self._replies.find(task)) is not None:
            return answer
        started_s, cpu_s = time.monotonic(), time.process_time()
        network = build_network(task.network, task.spec)
        layout = self._load(network, task, weights)
        samples = self._samples(task)
        match task.kind:
            case TaskKind.TRAIN:
                answer = self._train(network, task, layout, samples)
            case TaskKind.EVALUATE:
                answer = self._evaluate(network, task, samples)
        metrics = dict(answer.metrics)
        metrics |= told(
            self._settings,
            {
                Measurement.RUNTIME: time.monotonic() - started_s,
                Measurement.CPU: time.process_time() - cpu_s,
            },
        )
        answer = Answer(answer.reply, answer.update, metrics, answer.residual)
        self._replies.write(answer)
        return answer

    def _load(self, network: nn.Module, task: LearningTask, weights: Mapping[str, Array]) -> Layout:
        """Put weights and personal parameters into the network; return the shared layout."""
        state = _state(network)
        shared = {n: a for n, a in state.items() if not task.network.is_personal(n)}
        layout = layout_of(shared)
        if set(weights) != {field.name for field in layout.fields}:
            raise ContractError("task.weights", "The weights are not those of the network.")
        flatten(weights, layout)  # Shapes and types
        ordered = {field.name: weights[field.name] for field in layout.fields}
        if digest_weights(ordered) != task.base_digest:
            raise ContractError("task.digest", "The weights are not those that the task names.")
        own = self._personal.read(task.spec.model, _kept(state, layout))
        _put(network, {**own, **weights})
        return layout

    def _samples(self, task: LearningTask) -> LocalSamples:
        entries = [s for s in self._settings.samples if s.model == task.spec.model]
        if not entries:
            raise RefusedError("policy.model", "No samples of this model are given to learn from.")
        samples = load_samples(entries[0], task.spec)
        if task.kind is TaskKind.TRAIN and len(samples.training.items) < self._settings.samples_min:
            raise RefusedError(
                "samples.too_few",
                f"There are fewer than {self._settings.samples_min} samples to train on.",
            )
        return samples

    def _train(
        self, network: nn.Module, task: LearningTask, layout: Layout, samples: LocalSamples
    ) -> Answer:
        before = flatten(_state(network), layout)
        held_out = _tensors(samples.held_out)
        measured_before = measure(network, *held_out, spec=task.spec)
        items, labels = _tensors(_shuffled(samples.training, _seed(task)))
        outcome = train(
            network,
            items,
            labels,
            task.method,
            spec=task.spec,
            seed=_seed(task),
            personal=task.network.personal,
        )
        measured_after = measure(network, *held_out, spec=task.spec)
        update = flatten(_state(network), layout) - before
        numbers = {
            Measurement.SAMPLES: float(outcome.samples_count),
            Measurement.HELD_OUT: float(measured_after.items_count),
            Measurement.LOSS: outcome.loss,
        }
        if measured_before.accuracy is not None and measured_after.accuracy is not None:
            numbers[Measurement.ACCURACY_BEFORE] = measured_before.accuracy
            numbers[Measurement.ACCURACY_AFTER] = measured_after.accuracy
        share = outcome.samples_count / len(samples.training.items)
        answer = self._leave(task, layout, update, samples_share=share)
        if task.privacy is not None:
            numbers = {k: v for k, v in numbers.items() if k not in _OF_SAMPLES}
        self._personal.write(task.spec.model, _kept(_state(network), layout))
        return Answer(answer.reply, answer.update, self._told(numbers), answer.residual)

    def _told(self, numbers: Mapping[Measurement, float]) -> dict[str, float]:
        """Return what may leave; the held-out count would tell the other by the known share."""
        may_count = not self._hides_samples
        kept = {k: v for k, v in numbers.items() if may_count or k is not Measurement.HELD_OUT}
        return told(self._settings, kept)

    def _leave(
        self, task: LearningTask, layout: Layout, update: Vector, *, samples_share: float
    ) -> Answer:
        """Clip, noise and encode an update; pay for it."""
        epsilon = None
        clip = task.privacy.clip_norm if task.privacy else task.clip_norm
        residual = None if task.privacy else self._replies.residual(task.job, layout.size)
        if residual is not None:
            update = update + residual
        if clip is not None:
            update = clip_update(update, clip)
        norm = float(np.linalg.norm(update.astype(np.float64)))
        if task.privacy is not None:
            norm = task.privacy.clip_norm
            epsilon = self._ledger.charge(
                task.spec.model,
                task.job,
                task.round,
                task.privacy.noise_multiplier,
                base_digest=task.base_digest,
            )
            update = update + draw_noise(
                layout.size, task.privacy.noise_multiplier * task.privacy.clip_norm
            )
        encoded = encode_update(update, layout, task.encoding)
        reply = LearningReply(
            job=task.job,
            round=task.round,
            kind=task.kind,
            base_digest=task.base_digest,
            encoding=task.encoding,
            update_norm=norm,
            is_noised=task.privacy is not None,
            epsilon_spent=epsilon,
            # A share of an unnoised count would tell the count: see rule 3.
            samples_share=1.0 if self._hides_samples else samples_share,
        )
        return Answer(reply, encoded.arrays, {}, None if task.privacy else encoded.residual)

    @property
    def _hides_samples(self) -> bool:
        return Measurement.SAMPLES in self._settings.measurements_forbidden

    def _evaluate(self, network: nn.Module, task: LearningTask, samples: LocalSamples) -> Answer:
        measured = measure(network, *_tensors(samples.held_out), spec=task.spec)
        numbers = {Measurement.HELD_OUT: float(measured.items_count)}
        if task.privacy is None:
            numbers[Measurement.LOSS] = measured.loss
            if measured.accuracy is not None:
                numbers[Measurement.ACCURACY_BEFORE] = measured.accuracy
        reply = LearningReply(
            job=task.job,
            round=task.round,
            kind=task.kind,
            base_digest=task.base_digest,
            encoding=task.encoding,
        )
        return Answer(reply, {}, self._told(numbers))


def clip_update(update: Vector, norm_max: float) -> Vector:
    """Return an update whose L2 norm is at most `norm_max`."""
    norm = float(np.linalg.norm(update.astype(np.float64)))
    if not math.isfinite(norm):
        raise RefusedError("training.diverged", "Training went to infinity.")
    if norm <= norm_max:
        return update
    return (update * np.float32(norm_max / norm)).astype(np.float32)


def draw_noise(size: int, deviation: float) -> Vector:
    """Return Gaussian noise from a generator seeded by the system's secure source."""
    generator = np.random.Generator(np.random.PCG64DXSM(secrets.randbits(256)))
    return (generator.standard_normal(size) * deviation).astype(np.float32)


def _seed(task: LearningTask) -> int:
    """Return the seed of one Round: the Job's, and another in each Round."""
    text = f"{task.job}/{task.round}/{task.method.seed}"
    return int(digest_of(text.encode())[:15], 16)


def _shuffled(part: Part, seed: int) -> Part:
    """Return samples in another order: which of them `samples_max` takes is then not the first."""
    order = np.random.default_rng(seed).permutation(len(part.items))
    return Part(part.items[order], None if part.labels is None else part.labels[order])


def _tensors(part: Part) -> tuple[torch.Tensor, torch.Tensor | None]:
    labels = None if part.labels is None else torch.from_numpy(part.labels)
    return torch.from_numpy(part.items), labels


def _state(network: nn.Module) -> dict[str, Array]:
    return {name: tensor.detach().numpy().copy() for name, tensor in network.state_dict().items()}


def _kept(state: Mapping[str, Array], layout: Layout) -> dict[str, Array]:
    """Return the arrays of a state that never leave: personal ones and counters."""
    shared = {field.name for field in layout.fields}
    return {name: array for name, array in state.items() if name not in shared}


def _put(network: nn.Module, arrays: Mapping[str, Array]) -> None:
    state = network.state_dict()
    for name, array in arrays.items():
        state[name] = torch.from_numpy(np.array(array))
    network.load_state_dict(state)
