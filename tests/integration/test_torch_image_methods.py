"""Each way to learn classes of pictures does what it is for, on scikit-learn's digits."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from cloud_hub.training.trainer.spec import (
    AdversarialMethod,
    ClassWeights,
    ContrastiveMethod,
    DistillationMethod,
    Method,
    PseudoLabelMethod,
    SupervisedMethod,
    TrainSpec,
)
from cloud_hub.training.trainer.torch_adversarial import Attack
from cloud_hub.training.trainer.torch_distillation import soft_loss
from cloud_hub.training.trainer.torch_objective import Targets
from shared.model.network import ConvolutionNetwork, NetworkSpec
from shared.model.spec import Colour, Decoder, ImageInput, ModelSpec, OutputSpec, Task
from shared.model.torch_networks import build_network
from shared.model.weights import encode_weights
from tests.support.learning_digits import SPEC
from tests.support.small_training import (
    CPU,
    accuracy,
    digits,
    moved,
    objective_for,
    spec_for,
    train,
)

pytestmark = pytest.mark.slow
SMALL = NetworkSpec(
    architecture=ConvolutionNetwork(channels=(8, 16), hidden=32, has_batch_norm=True)
)
WIDE = NetworkSpec(
    architecture=ConvolutionNetwork(channels=(16, 32), hidden=64, has_batch_norm=True)
)
RARE = 8
ATTACK = AdversarialMethod(epsilon=32.0, step=8.0, steps=8)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run_spec(method: Method, network: NetworkSpec = SMALL, seed: int = 0) -> TrainSpec:
    return msgspec.structs.replace(spec_for(SPEC, network, method), seed=seed)


@pytest.mark.parametrize(
    "method",
    [
        SupervisedMethod(class_weights=ClassWeights.BALANCED),
        SupervisedMethod(class_weights=ClassWeights.EFFECTIVE),
    ],
    ids=["balanced", "effective"],
)
def test_weights_find_more_of_a_rare_class(method: SupervisedMethod) -> None:
    items, labels = _with_few_of(RARE, count=8)
    _, _, test_items, test_labels = digits()
    of_rare = test_labels == RARE

    def recall(method: SupervisedMethod) -> float:
        net = train(run_spec(method), items, Targets(labels), epochs=10)
        return accuracy(net, test_items[of_rare], test_labels[of_rare])

    plain, weighted = recall(SupervisedMethod()), recall(method)
    print(f"recall of the rare class: {plain:.3f}, weighted {weighted:.3f}")
    assert weighted > plain + 0.15


def test_the_focal_loss_finds_more_of_a_rare_class() -> None:
    items, labels = _with_few_of(RARE, count=25)
    _, _, test_items, test_labels = digits()
    of_rare = test_labels == RARE

    def recall(gamma: float) -> float:
        found = []
        for seed in range(3):
            spec = run_spec(SupervisedMethod(focal_gamma=gamma), seed=seed)
            net = train(spec, items, Targets(labels), epochs=10)
            found.append(accuracy(net, test_items[of_rare], test_labels[of_rare]))
        return sum(found) / len(found)

    plain, focal = recall(0.0), recall(3.0)
    print(f"recall of the rare class: {plain:.3f}, focal {focal:.3f}")
    assert focal > plain


def test_mixup_learns_less_of_wrong_labels() -> None:
    items, labels, test_items, test_labels = digits()
    luck = torch.Generator().manual_seed(0)
    is_wrong = torch.rand(len(labels), generator=luck) < 0.4
    told = torch.where(is_wrong, torch.randint(10, (len(labels),), generator=luck), labels)
    network = NetworkSpec(architecture=ConvolutionNetwork(channels=(16, 32), hidden=64))

    def right(alpha: float) -> float:
        spec = run_spec(SupervisedMethod(mixup_alpha=alpha), network)
        net = train(spec, items[:500], Targets(told[:500]), epochs=60, batch=50)
        return accuracy(net, test_items, test_labels)

    plain, mixed = right(0.0), right(1.0)
    print(f"40 % wrong labels: {plain:.3f}, with mixup {mixed:.3f}")
    assert mixed > plain + 0.02


def test_a_student_learns_what_its_teacher_says_of_items_without_labels(tmp_path: Path) -> None:
    items, labels, test_items, test_labels = digits()
    teacher = train(run_spec(SupervisedMethod(), WIDE), items, Targets(labels), epochs=8)
    state = {name: tensor.numpy() for name, tensor in teacher.state_dict().items()}
    (tmp_path / "teacher.npz").write_bytes(encode_weights(state))

    few = 50
    known = torch.where(torch.arange(len(items)) < few, labels, -1)
    alone = train(
        run_spec(SupervisedMethod()), items[:few], Targets(labels[:few]), epochs=150, batch=few
    )
    method = DistillationMethod(teacher=WIDE, soft_share=0.9)
    taught = train(run_spec(method), items, Targets(known), epochs=12, folder=tmp_path)

    by_labels = accuracy(alone, test_items, test_labels)
    by_teacher = accuracy(taught, test_items, test_labels)
    with torch.no_grad():
        theirs = teacher(test_items)
        distances = [
            float(soft_loss(net(test_items), theirs, temperature=1.0)) for net in (alone, taught)
        ]
    print(f"50 labels {by_labels:.3f}, with a teacher {by_teacher:.3f}, distances {distances}")
    assert by_teacher > by_labels + 0.05
    assert distances[1] < 0.5 * distances[0]


def test_a_teacher_is_left_as_it_was(tmp_path: Path) -> None:
    items, labels, _, _ = digits()
    drawn = build_network(WIDE, SPEC, seed=3).state_dict()
    state = {name: tensor.numpy().copy() for name, tensor in drawn.items()}
    (tmp_path / "teacher.npz").write_bytes(encode_weights(state))
    spec = run_spec(DistillationMethod(teacher=WIDE))
    net = build_network(SMALL, SPEC)
    objective = objective_for(spec, net, labels, tmp_path)
    assert not list(objective.extra.parameters())
    teacher: nn.Module = objective._teacher  # type: ignore[attr-defined]
    net.train()
    loss = objective.loss(net, (items[:64],), Targets(labels[:64]), epoch=0.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in teacher.parameters())
    assert all((tensor.numpy() == state[n]).all() for n, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_training_on_attacked_digits_makes_them_harder_to_mistake(attack: str) -> None:
    items, labels, test_items, test_labels = digits()

    def robust(net: nn.Module) -> float:
        torch.manual_seed(0)
        attacked = Attack(ATTACK, SPEC, device=CPU).on(net, test_items, test_labels)
        return accuracy(net, attacked, test_labels)

    plain = train(run_spec(SupervisedMethod(), WIDE), items, Targets(labels), epochs=8)
    method = AdversarialMethod(attack=attack, epsilon=32.0, step=10.0, steps=4)
    hardened = train(run_spec(method, WIDE), items, Targets(labels), epochs=10)
    before, after = robust(plain), robust(hardened)
    clean = accuracy(plain, test_items, test_labels), accuracy(hardened, test_items, test_labels)
    print(f"{attack}: attacked {before:.3f} -> {after:.3f}, clean {clean}")
    assert after > before + 0.2
    assert clean[1] > 0.9


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_an_attack_stays_within_epsilon_and_the_pixels_and_leaves_no_trace(attack: str) -> None:
    spec = ModelSpec(
        model="colours",
        task=Task.CLASSIFICATION,
        input=ImageInput(
            width=8,
            height=8,
            colour=Colour.RGB,
            mean=(100.0, 120.0, 0.0),
            scale=(50.0, 60.0, -255.0),
        ),
        output=OutputSpec(decoder=Decoder.LOGITS, classes=("a", "b")),
    )
    torch.manual_seed(0)
    levels = torch.randint(256, (32, 3, 8, 8)).float()
    mean = torch.tensor(spec.input.mean)[:, None, None]  # type: ignore[union-attr]
    scale = torch.tensor(spec.input.scale)[:, None, None]  # type: ignore[union-attr]
    net = build_network(SMALL, spec).train()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    items, labels = (levels - mean) / scale, torch.randint(2, (32,))

    method = AdversarialMethod(attack=attack, epsilon=8.0, step=3.0, steps=6)
    attacked = Attack(method, spec, device=CPU).on(net, items, labels)

    changes = attacked * scale + mean - levels
    assert float(changes.abs().amax(dim=(0, 2, 3)).min()) == pytest.approx(8.0, abs=1e-3)
    assert float(changes.abs().max()) <= 8.0 + 1e-3
    assert float((attacked * scale + mean).min()) >= -1e-3
    assert float((attacked * scale + mean).max()) <= 255.0 + 1e-3
    assert not attacked.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(module.training for module in net.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_a_share_of_the_batch_is_attacked() -> None:
    items, labels, _, _ = digits()
    net = build_network(SMALL, SPEC)
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    spec = run_spec(AdversarialMethod(share=0.25, steps=1))
    objective = objective_for(spec, net, labels)
    objective.loss(net, (items[:40],), Targets(labels[:40]), epoch=0.0)
    is_changed = (seen[-1] != items[:40]).flatten(1).any(1)
    assert is_changed.tolist() == [True] * 10 + [False] * 30


def test_contrastive_features_tell_digits_apart_better_than_drawn_ones() -> None:
    items, labels, test_items, test_labels = digits()
    nobody = torch.full_like(labels, -1)
    spec = run_spec(ContrastiveMethod(temperature=0.3, projection=32))
    drawn = build_network(SMALL, SPEC, seed=0)
    for _ in range(20):
        drawn(items)  # Its running statistics become those of the digits, which is only fair
    learned = train(spec, items, Targets(nobody), epochs=20, batch=200, view=moved)

    def probe(net: nn.Module) -> float:
        given = [_features(net, part) for part in (items[:50], test_items)]
        fitted = LogisticRegression(max_iter=500).fit(given[0], labels[:50])
        return float(fitted.score(given[1], test_labels))

    before, after = probe(drawn), probe(learned)
    print(f"linear probe with 50 labels: drawn {before:.3f}, contrastive {after:.3f}")
    assert after > before + 0.15


def test_contrastive_evaluation_sums_losses_by_items() -> None:
    items, labels, _, _ = digits()
    net = build_network(SMALL, SPEC).eval()
    objective = objective_for(run_spec(ContrastiveMethod()), net, labels)
    views = (items[:32], moved(items[:32]))
    with torch.no_grad():
        sums = objective.metrics(net, views, Targets(labels[:32]))
        loss = objective.loss(net, views, Targets(labels[:32]), epoch=0.0)
    assert sums is not None
    assert float(sums["count"]) == 32.0
    torch.testing.assert_close(sums["loss"] / sums["count"], loss)
    assert net.training is False


def test_the_head_has_gradients_of_zeros_where_only_features_are_learned() -> None:
    items, labels, _, _ = digits()
    net = build_network(SMALL, SPEC).train()
    objective = objective_for(run_spec(ContrastiveMethod()), net, labels)
    loss = objective.loss(net, (items[:16], moved(items[:16])), Targets(labels[:16]), epoch=0.0)
    loss.backward()  # type: ignore[no-untyped-call]
    grads = {name: parameter.grad for name, parameter in net.named_parameters()}
    assert all(grad is not None for grad in grads.values())
    is_moved = {name for name, grad in grads.items() if grad is not None and grad.any()}
    assert {name for name in grads if name not in is_moved} == {"1.3.weight", "1.3.bias"}
    assert all(parameter.grad is not None for parameter in objective.extra.parameters())


def test_pseudo_labels_gain_from_items_without_labels() -> None:
    items, labels, test_items, test_labels = digits()
    chosen = torch.cat([torch.nonzero(labels == c)[:5, 0] for c in range(10)])
    known = torch.full_like(labels, -1)
    known[chosen] = labels[chosen]
    alone = train(
        run_spec(SupervisedMethod(), WIDE),
        items[chosen],
        Targets(labels[chosen]),
        epochs=300,
        batch=50,
        view=moved,
    )
    # Labelled items are drawn six times as often: else a batch has five of them.
    drawn = torch.cat((chosen.repeat(6), torch.nonzero(known < 0)[:, 0]))
    method = PseudoLabelMethod(threshold=0.9, warm_epochs=5)
    both = train(
        run_spec(method, WIDE),
        items[drawn],
        Targets(known[drawn]),
        epochs=25,
        batch=125,
        view=moved,
    )
    by_labels = accuracy(alone, test_items, test_labels)
    by_both = accuracy(both, test_items, test_labels)
    print(f"5 labels a class: {by_labels:.3f}, with pseudo-labels {by_both:.3f}")
    assert by_both > by_labels + 0.03


def test_pseudo_labels_wait_for_the_warm_up_and_for_sure_classes() -> None:
    items, labels, _, _ = digits()
    net = build_network(SMALL, SPEC).eval()
    known = torch.where(torch.arange(32) < 8, labels[:32], -1)
    views = (items[:32], items[:32])

    def loss(threshold: float, epoch: float) -> float:
        spec = run_spec(PseudoLabelMethod(threshold=threshold, warm_epochs=2))
        objective = objective_for(spec, net, labels)
        return float(objective.loss(net, views, Targets(known), epoch=epoch).detach())

    with torch.no_grad():
        by_labels = float(nn.functional.cross_entropy(net(items[:8]), labels[:8]))
    assert loss(0.01, 1.9) == pytest.approx(by_labels, rel=1e-4)
    assert loss(0.99, 2.0) == pytest.approx(by_labels, rel=1e-4)  # Nothing is sure yet
    assert loss(0.01, 2.0) > by_labels + 0.1


def _with_few_of(rare: int, *, count: int) -> tuple[Tensor, Tensor]:
    items, labels, _, _ = digits()
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[torch.nonzero(labels == rare)[count:, 0]] = False
    return items[kept], labels[kept]


def _features(net: nn.Module, items: Tensor) -> Tensor:
    taken: list[Tensor] = []
    head = net.get_submodule("1.3")
    handle = head.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    with torch.no_grad():
        net.eval()(items)
    handle.remove()
    return taken[0]
