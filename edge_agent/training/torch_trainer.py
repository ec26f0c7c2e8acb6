"""Local training and measuring of one network on one device's samples, in torch.

What must not live here: where samples come from, what leaves the device, files.

1. Items are (N, ...) float32 as shared/model/preprocess.py makes them, without the batch axis of 1;
   they and the network lie on the same torch device.
2. What is minimised follows from the model's decoder: cross entropy for logits (labels are class
   indices), mean squared error to the item itself for a reconstruction (no labels), mean squared
   error to the label for a score.
3. The same items, weights, method and seed give the same weights on the same machine.
4. The optimisers are written out here, step for step those of torch.optim (a test compares them):
   theirs import torch's compiler at the first step, 0.8 s of CPU and 70 MB in each process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import ContractError, RefusedError
from shared.learning.task import LocalMethod, OptimiserName
from shared.model.spec import Decoder, ModelSpec

MEASURE_BATCH = 256
ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8

Step = Callable[[], None]


@dataclass(frozen=True, slots=True)
class TrainOutcome:
    """What local training did."""

    loss: float  # Mean over the samples of the last epoch
    samples_count: int
    steps_count: int


@dataclass(frozen=True, slots=True)
class Measured:
    """How good a network is on some items."""

    loss: float
    accuracy: float | None  # None where there are no classes, or no items
    items_count: int


def train(
    network: nn.Module,
    items: Tensor,
    labels: Tensor | None,
    method: LocalMethod,
    *,
    spec: ModelSpec,
    seed: int = 0,
    personal: Sequence[str] = (),
) -> TrainOutcome:
    """Train `network` in place and return how it went.

    Args:
        network: whose parameters at the call are those that the proximal term pulls towards.
        items: (N, ...) float32; at most `method.samples_max` of them, the first, are used.
        labels: (N,) int64 class indices or float32 scores; None for a reconstruction.
        method: epochs, batches, optimiser.
        spec: the model's; its decoder says what is minimised.
        seed: of the order of samples.
        personal: prefixes of parameters that the proximal term leaves alone.

    Raises:
        RefusedError: `training.no_samples`, `training.diverged` (loss or weights not finite).
    """
    items = items[: method.samples_max]
    count = int(items.shape[0])
    if count == 0:
        raise RefusedError("training.no_samples", "There are no samples to train on.")
    pulled = _pulled(network, personal) if method.proximal_mu > 0.0 else []
    step = _optimiser(list(network.parameters()), method)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    steps_count, total = 0, torch.zeros((), device=items.device)
    for _ in range(method.epochs):
        total.zero_()
        order = torch.randperm(count, generator=generator).to(items.device)  # (N,)
        for chosen in _batches(order, network, method.batch_size):
            wanted = None if labels is None else labels[chosen]
            batch = items[chosen]
            loss = loss_of(network(batch), batch, wanted, spec.output.decoder)
            total += loss.detach() * len(chosen)
            for parameter in network.parameters():
                parameter.grad = None
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            _pull(pulled, method.proximal_mu)
            step()
            steps_count += 1
    _check_finite(network, total)
    return TrainOutcome(float(total) / count, count, steps_count)


@torch.no_grad()
def measure(
    network: nn.Module, items: Tensor, labels: Tensor | None, *, spec: ModelSpec
) -> Measured:
    """Return how good `network` is on (N, ...) items; it is left as it is."""
    count = int(items.shape[0])
    if count == 0:
        return Measured(0.0, None, 0)
    decoder = spec.output.decoder
    was_training = network.training
    network.eval()
    loss, right = torch.zeros((), device=items.device), torch.zeros((), device=items.device)
    for start in range(0, count, MEASURE_BATCH):
        batch = items[start : start + MEASURE_BATCH]
        wanted = None if labels is None else labels[start : start + MEASURE_BATCH]
        outputs = network(batch)
        loss += loss_of(outputs, batch, wanted, decoder) * len(batch)
        if decoder is Decoder.LOGITS:
            right += (outputs.argmax(1) == wanted).sum()
    network.train(was_training)
    accuracy = float(right) / count if decoder is Decoder.LOGITS else None
    return Measured(float(loss) / count, accuracy, count)


def loss_of(outputs: Tensor, items: Tensor, labels: Tensor | None, decoder: Decoder) -> Tensor:
    """Return the mean loss of a batch; see rule 2.

    Raises ContractError `training.labels` or `training.decoder`.
    """
    match decoder:
        case Decoder.RECONSTRUCTION:
            return functional.mse_loss(outputs, items)
        case Decoder.LOGITS:
            return functional.cross_entropy(outputs, _required(labels))
        case Decoder.SCORE:
            return functional.mse_loss(outputs[:, 0], _required(labels).to(outputs.dtype))
        case _:
            raise ContractError(
                "training.decoder", f"Models with decoder {decoder!r} are not trained on devices."
            )


def _required(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ContractError("training.labels", "This model's samples need labels.")
    return labels


def _batches(order: Tensor, network: nn.Module, size: int) -> list[Tensor]:
    """Return `order` in parts; a last part of one is left out where BatchNorm could not take it."""
    parts = list(torch.split(order, size))
    has_batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())  # noqa: SLF001  (their common class has no public name)
    if has_batch_norm and len(parts) > 1 and len(parts[-1]) == 1:
        parts.pop()
    return parts


def _pulled(network: nn.Module, personal: Sequence[str]) -> list[tuple[nn.Parameter, Tensor]]:
    """Return the parameters that are pulled, each with the value it is pulled towards."""
    prefixes = tuple(personal)
    return [
        (parameter, parameter.detach().clone())
        for name, parameter in network.named_parameters()
        if not (prefixes and name.startswith(prefixes))
    ]


def _pull(pulled: list[tuple[nn.Parameter, Tensor]], mu: float) -> None:
    """Add the gradient of mu/2 |w - w0|^2 (Li et al. 2020, FedProx)."""
    for parameter, origin in pulled:
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - origin, alpha=mu)


def _optimiser(parameters: list[nn.Parameter], method: LocalMethod) -> Step:
    match method.optimiser:
        case OptimiserName.SGD:
            return _sgd(parameters, method)
        case OptimiserName.ADAM:
            return _adam(parameters, method)


def _sgd(parameters: list[nn.Parameter], method: LocalMethod) -> Step:
    """Return one step of torch.optim.SGD (momentum without dampening)."""
    velocities: dict[int, Tensor] = {}

    @torch.no_grad()
    def step() -> None:
        for index, parameter in enumerate(parameters):
            if (gradient := parameter.grad) is None:
                continue
            if method.weight_decay:
                gradient = gradient.add(parameter, alpha=method.weight_decay)
            if method.momentum:
                velocity = velocities.get(index)
                if velocity is None:
                    velocity = velocities[index] = gradient.clone()
                else:
                    velocity.mul_(method.momentum).add_(gradient)
                gradient = velocity
            parameter.add_(gradient, alpha=-method.learning_rate)

    return step


def _adam(parameters: list[nn.Parameter], method: LocalMethod) -> Step:
    """Return one step of torch.optim.Adam (Kingma & Ba 2015; weight decay as an L2 term)."""
    first = [torch.zeros_like(parameter) for parameter in parameters]
    second = [torch.zeros_like(parameter) for parameter in parameters]
    taken = 0
    beta_1, beta_2 = ADAM_BETAS

    @torch.no_grad()
    def step() -> None:
        nonlocal taken
        taken += 1
        for parameter, mean, square in zip(parameters, first, second, strict=True):
            if (gradient := parameter.grad) is None:
                continue
            if method.weight_decay:
                gradient = gradient.add(parameter, alpha=method.weight_decay)
            mean.lerp_(gradient, 1 - beta_1)
            square.mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)
            divisor = (square.sqrt() / (1 - beta_2**taken) ** 0.5).add_(ADAM_EPSILON)
            parameter.addcdiv_(mean, divisor, value=-method.learning_rate / (1 - beta_1**taken))

    return step


def _check_finite(network: nn.Module, total: Tensor) -> None:
    if torch.isfinite(total) and all(torch.isfinite(p).all() for p in network.parameters()):
        return
    raise RefusedError(
        "training.diverged",
        "Training went to infinity.",
        remedy="Lower the Job's learning rate.",
    )
