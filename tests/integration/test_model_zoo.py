"""The model zoo: every member builds at any size, learns, and is what its paper says in size."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_agent.training.torch_trainer import loss_of, train
from shared.errors import ContractError
from shared.learning.task import LocalMethod, OptimiserName
from shared.model.network import (
    Architecture,
    AutoencoderNetwork,
    ConvolutionNetwork,
    DenseNetwork,
    DepthwiseNetwork,
    EnsembleNetwork,
    LenetNetwork,
    MobileNetwork,
    NetworkSpec,
    RecurrentNetwork,
    RepairNetwork,
    ResidualNetwork,
    SsdNetwork,
    TransformerNetwork,
    WindowNetwork,
)
from shared.model.postprocess import detected_boxes
from shared.model.preprocess import place
from shared.model.spec import (
    Colour,
    Decoder,
    ImageInput,
    ModelSpec,
    TextInput,
    WindowInput,
)
from shared.model.torch_detector import DetectorNetwork, decode_boxes, encode_boxes
from shared.model.torch_networks import build_network, head_prefix
from tests.support.zoo import (
    CLASSES,
    CLASSIFIERS,
    DETECTOR,
    GRAY,
    RECONSTRUCTING,
    RESNET_18,
    SMALL,
    TEXTS,
    WINDOWS,
    ZOO,
    Member,
    draw,
    image,
    model,
    seasoned,
)

SLOW = pytest.mark.slow  # Some members take over 0.25 s
TEN = tuple("0123456789")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def built(member: Member, seed: int = 0) -> nn.Module:
    return build_network(member.network, member.spec, seed=seed)


def outputs_of(network: nn.Module, items: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        answer = network.eval()(items)
    return answer if isinstance(answer, tuple) else (answer,)


@pytest.mark.parametrize("member", ZOO, ids=lambda member: member.name)
def test_a_member_gives_what_its_model_says_for_any_batch(member: Member) -> None:
    network = built(member)
    for count in (1, 5):
        outputs = outputs_of(network, draw(member.spec, count))
        assert all(torch.isfinite(output).all() for output in outputs)
        shapes = [tuple(output.shape) for output in outputs]
        if member in RECONSTRUCTING:
            assert shapes == [(count, *member.spec.input_shape[1:])]
        elif member is DETECTOR:
            anchors_count = (4 * 5 + 2 * 3) * 4  # 32 x 40, halved three times and four
            assert shapes == [(count, anchors_count, 3), (count, anchors_count, 4)]
        else:
            assert shapes == [(count, len(CLASSES))]


@pytest.mark.parametrize("member", ZOO, ids=lambda member: member.name)
def test_the_same_seed_draws_the_same_weights(member: Member) -> None:
    first, again, other = (built(member, seed).state_dict() for seed in (1, 1, 2))
    assert list(first) == list(again)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in first.values())
    assert not any("anchors" in name for name in first)


@pytest.mark.parametrize(
    ("architecture", "spec", "names"),
    [
        (ConvolutionNetwork(channels=(4,)), SMALL, "0.0 1.1 1.3"),
        (ConvolutionNetwork(channels=(4,), has_batch_norm=True), SMALL, "0.0 0.1 1.1 1.3"),
        (DenseNetwork(hidden=(4,)), SMALL, "1 3"),
        (WindowNetwork(channels=(4,)), WINDOWS, "0.0 1.1 1.3"),
        (RecurrentNetwork(hidden=4), WINDOWS, "recurrent head"),
        (
            AutoencoderNetwork(channels=(4,)),
            model(WindowInput(samples=20), Decoder.RECONSTRUCTION),
            "0.0 1.1 2.0 2.2",
        ),
    ],
)
def test_names_that_released_checkpoints_have_never_change(
    architecture: Architecture, spec: ModelSpec, names: str
) -> None:
    state = build_network(NetworkSpec(architecture=architecture), spec).state_dict()
    assert list(dict.fromkeys(name.rpartition(".")[0] for name in state)) == names.split()


@SLOW
@pytest.mark.parametrize("member", ZOO, ids=lambda member: member.name)
def test_a_member_computes_in_bf16_and_channels_last_about_the_same(member: Member) -> None:
    network = built(member).train()
    items = draw(member.spec, 8)
    wanted = network(items)
    if items.dim() == 4:
        network, items = (
            network.to(memory_format=torch.channels_last),
            items.contiguous(memory_format=torch.channels_last),
        )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = network(items)
    pairs = zip(*(a if isinstance(a, tuple) else (a,) for a in (answer, wanted)), strict=True)
    for got, exact in pairs:
        error = (got.float() - exact).square().mean().sqrt()
        assert error < 0.5 * exact.std()  # MobileNetV2 rounds 52 times: 0.2
        got.float().square().mean().backward(retain_graph=True)
    missing = [n for n, p in network.named_parameters() if p.grad is None]
    assert not missing
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("architecture", "spec", "expected"),
    [
        # As published: LeCun et al. 1998 (with full connections); torchvision's resnet18 and
        # mobilenet_v2, same counts; MLPerf Tiny's ResNet-8, 78 k, and DS-CNN, 24 k with biases.
        (LenetNetwork(), model(image(28, 28), classes=TEN), 61_706),
        (ResidualNetwork(), model(image(32, 32, Colour.RGB), classes=TEN), 78_042),
        (
            RESNET_18,
            model(image(224, 224, Colour.RGB), classes=tuple(map(str, range(1000)))),
            11_689_512,
        ),
        (
            MobileNetwork(width=1.0),
            model(image(224, 224, Colour.RGB), classes=tuple(map(str, range(1000)))),
            3_504_872,
        ),
        (MobileNetwork(), model(image(96, 96, Colour.RGB), classes=TEN), 408_938),
        (
            DepthwiseNetwork(),
            model(WindowInput(samples=49, channels=10), classes=(*TEN, "silence", "unknown")),
            23_180,
        ),
        (
            SsdNetwork(),
            model(image(96, 96, Colour.RGB), Decoder.SSD_CORNERS, CLASSES),
            74_912,
        ),
        (TransformerNetwork(), model(WindowInput(samples=128, channels=6)), 103_939),
        (TransformerNetwork(), model(TextInput(length=256)), 137_283),
        (RepairNetwork(), model(image(64, 64, Colour.RGB), Decoder.RECONSTRUCTION), 118_627),
    ],
)
def test_a_member_is_as_large_as_is_written(
    architecture: Architecture, spec: ModelSpec, expected: int
) -> None:
    network = build_network(NetworkSpec(architecture=architecture), spec)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(("width", "height"), [(7, 9), (33, 20), (97, 128)])
@pytest.mark.parametrize(
    "architecture",
    [LenetNetwork(), ResidualNetwork(), MobileNetwork(), DepthwiseNetwork(channels=16)],
    ids=lambda architecture: type(architecture).__name__,
)
def test_pictures_may_have_any_size(architecture: Architecture, width: int, height: int) -> None:
    spec = model(image(width, height, Colour.RGB))
    network = build_network(NetworkSpec(architecture=architecture), spec)
    (output,) = outputs_of(network, draw(spec, 2))
    assert output.shape == (2, len(CLASSES))


@pytest.mark.parametrize("side", [31, 32])
@pytest.mark.parametrize("has_skips", [True, False])
def test_what_is_repaired_keeps_its_size_and_only_skips_carry_detail_past_the_narrow_part(
    side: int, *, has_skips: bool
) -> None:
    spec = model(image(side, side), Decoder.RECONSTRUCTION)
    network = NetworkSpec(architecture=RepairNetwork(channels=(4, 4), has_skips=has_skips))
    module = build_network(network, spec).eval()
    picture = draw(spec, 1)
    assert module(picture).shape == picture.shape
    narrow = torch.zeros(1, 4, (side + 1) // 2, (side + 1) // 2)
    module.down[1].register_forward_hook(lambda *_: narrow)  # type: ignore[operator, union-attr]
    is_same = torch.equal(module(picture), module(draw(spec, 1, seed=1)))
    assert is_same is not has_skips


@SLOW
@pytest.mark.parametrize("member", CLASSIFIERS, ids=lambda member: member.name)
def test_a_classifier_learns_on_a_device_and_its_norms_keep_count(member: Member) -> None:
    """The trainer of devices, that of a federated Round: 20 steps, and the loss has fallen."""
    network = built(member)
    items = draw(member.spec, 12)
    if isinstance(member.spec.input, TextInput):
        labels = torch.tensor([0, 1, 2, 1]).repeat(3)  # Four texts, of which two share a class
    else:
        labels = torch.arange(12) % 3
        items = items + (labels - 1).reshape(-1, *[1] * (items.dim() - 1))
    method = LocalMethod(epochs=10, batch_size=6, optimiser=OptimiserName.ADAM, learning_rate=0.005)
    first = loss_of(network.train()(items), items, labels, member.spec.output.decoder)
    outcome = train(network, items, labels, method, spec=member.spec)
    assert outcome.steps_count == 20
    assert outcome.loss < 0.8 * float(first.detach())
    counters = {n: int(t) for n, t in network.state_dict().items() if t.dtype == torch.int64}
    assert all(n.endswith("num_batches_tracked") and c == 21 for n, c in counters.items())


@pytest.mark.parametrize("member", RECONSTRUCTING, ids=lambda member: member.name)
def test_what_reconstructs_learns_to(member: Member) -> None:
    network = built(member)
    items = draw(member.spec, 1).expand(8, -1, -1, -1) * 0.5
    method = LocalMethod(epochs=20, batch_size=8, optimiser=OptimiserName.ADAM, learning_rate=0.01)
    first = loss_of(network.train()(items), items, None, Decoder.RECONSTRUCTION)
    assert train(network, items, None, method, spec=member.spec).loss < 0.8 * float(first.detach())


@pytest.mark.parametrize(
    "member", [m for m in CLASSIFIERS if m.name != "ensemble"], ids=lambda member: member.name
)
def test_the_head_is_one_linear_layer_that_makes_the_logits(member: Member) -> None:
    network = built(member)
    head = network.get_submodule(head_prefix(member.network, member.spec).rstrip("."))
    assert isinstance(head, nn.Linear)
    assert head.out_features == len(CLASSES)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(
        outputs_of(network, draw(member.spec, 1))[0], torch.tensor([[1.0, 2.0, 3.0]])
    )


@pytest.mark.parametrize(
    ("architecture", "spec"),
    [
        (EnsembleNetwork(members=(LenetNetwork(), LenetNetwork())), GRAY),
        (AutoencoderNetwork(), model(image(16, 16), Decoder.RECONSTRUCTION)),
        (DenseNetwork(), model(image(16, 16), Decoder.RECONSTRUCTION)),
    ],
)
def test_what_has_no_single_head_says_so(architecture: Architecture, spec: ModelSpec) -> None:
    with pytest.raises(ContractError) as caught:
        head_prefix(NetworkSpec(architecture=architecture), spec)
    assert caught.value.code == "network.headless"


@SLOW
def test_an_ensemble_is_the_mean_of_its_members() -> None:
    members = (LenetNetwork(), ResidualNetwork(), DenseNetwork())
    network = NetworkSpec(architecture=EnsembleNetwork(members=members))
    ensemble = seasoned(build_network(network, GRAY), GRAY)
    items = draw(GRAY, 6)
    alone = []
    for index, architecture in enumerate(members):
        member = build_network(NetworkSpec(architecture=architecture), GRAY, seed=9)
        prefix = f"members.{index}."
        state = ensemble.state_dict()
        member.load_state_dict(
            {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        )
        alone.append(outputs_of(member, items)[0].softmax(1))
    (logits,) = outputs_of(ensemble, items)
    torch.testing.assert_close(logits.softmax(1), torch.stack(alone).mean(0))
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)  # The mean is of different answers
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(6))


@pytest.mark.parametrize("patch", [1, 4, 7])
def test_a_text_is_read_up_to_its_end_and_nothing_behind_it_counts(patch: int) -> None:
    network = NetworkSpec(architecture=TransformerNetwork(width=16, heads=2, patch=patch))
    long = model(TextInput(length=64))
    module = seasoned(build_network(network, long), long)
    with torch.no_grad():  # Rows that stand for nothing must not matter, whatever training left
        positions = module.get_parameter("body.encoder.positions")
        text = torch.zeros(1, 64, dtype=torch.int64)
        text[0, :10] = torch.arange(60, 70)
        before = module(text)
        positions[:, math.ceil(10 / patch) :] += 3.0
        assert torch.allclose(module(text), before, atol=1e-5)
        text[0, 9] += 1
        assert not torch.allclose(module(text), before, atol=1e-4)


def test_a_transformer_sees_order_and_the_last_sample() -> None:
    network = NetworkSpec(architecture=TransformerNetwork(width=16, heads=2, patch=8))
    module = seasoned(build_network(network, WINDOWS), WINDOWS)
    window = draw(WINDOWS, 1)  # 50 samples: the last patch is 2 samples and zeros
    changed = window.clone()
    changed[0, 0, -1] += 2.0
    swapped = torch.cat([window[:, :, 8:16], window[:, :, :8], window[:, :, 16:]], 2)
    (expected,) = outputs_of(module, window)
    assert not torch.allclose(outputs_of(module, changed)[0], expected, atol=1e-4)
    assert not torch.allclose(outputs_of(module, swapped)[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "spec", "part"),
    [
        (ResidualNetwork(), WINDOWS, "takes images, not windows"),
        (TransformerNetwork(), GRAY, "takes windows or texts, not images"),
        (DenseNetwork(), TEXTS, "takes images or windows, not texts"),
        (SsdNetwork(), GRAY, "ssd-corners"),
        (SsdNetwork(), model(image(8, 64), Decoder.SSD_CORNERS), "halvings"),
        (RepairNetwork(), GRAY, "reconstruction"),
        (RepairNetwork(channels=(4,) * 6), model(image(9, 9), Decoder.RECONSTRUCTION), "halvings"),
        (EnsembleNetwork(members=(LenetNetwork(), TransformerNetwork())), GRAY, "takes windows"),
        (LenetNetwork(), model(image(1, 9)), "halve"),
    ],
)
def test_what_does_not_fit_is_refused(
    architecture: Architecture, spec: ModelSpec, part: str
) -> None:
    with pytest.raises(ContractError) as caught:
        build_network(NetworkSpec(architecture=architecture), spec)
    assert caught.value.code == "network.unfit"
    assert part in caught.value.message


def test_boxes_survive_the_way_to_offsets_and_back() -> None:
    network = built(DETECTOR)
    assert isinstance(network, DetectorNetwork)
    random = torch.Generator().manual_seed(0)
    ends = torch.rand(len(network.anchors), 2, 2, generator=random).sort(1).values
    corners = torch.cat([ends[:, 0], ends[:, 1] + 0.01], 1)  # left, top, right, bottom
    offsets = encode_boxes(corners, network.anchors, network.variances)
    back = decode_boxes(offsets, network.anchors, network.variances)
    torch.testing.assert_close(back, corners, atol=1e-5, rtol=1e-4)
    still = decode_boxes(torch.zeros_like(offsets), network.anchors, network.variances)
    torch.testing.assert_close((still[:, :2] + still[:, 2:]) / 2, network.anchors[:, :2])
    torch.testing.assert_close(still[:, 2:] - still[:, :2], network.anchors[:, 2:])
    wild = decode_boxes(torch.full_like(offsets, 1e6), network.anchors, network.variances)
    assert torch.isfinite(wild).all()


def test_anchors_are_square_in_pixels_and_lie_within_the_picture() -> None:
    network = built(DETECTOR)
    assert isinstance(network, DetectorNetwork)
    pixels = network.anchors[:, 2:] * torch.tensor([40.0, 32.0])
    ratios = (pixels[:, 0] / pixels[:, 1]).reshape(-1, 4)  # (cells, anchors of a cell)
    torch.testing.assert_close(ratios, torch.tensor([1.0, 2.0, 0.5, 1.0]).expand_as(ratios))
    assert ((network.anchors[:, :2] > 0) & (network.anchors[:, :2] < 1)).all()
    assert network.anchors[0, 2:].max() < network.anchors[-1, 2:].max()


@SLOW
def test_a_detector_learns_one_picture_and_the_decoder_of_devices_finds_its_box() -> None:
    network = built(DETECTOR)
    assert isinstance(network, DetectorNetwork)
    picture = torch.full((1, 1, 32, 40), -1.0)
    picture[:, :, 8:20, 10:24] = 1.0
    box = torch.tensor([10 / 40, 8 / 32, 24 / 40, 20 / 32])
    anchors = decode_boxes(torch.zeros(len(network.anchors), 4), network.anchors, (0.1, 0.2))
    size = torch.minimum(anchors[:, 2:], box[2:]) - torch.maximum(anchors[:, :2], box[:2])
    both = size.clamp(min=0).prod(1)
    union = (anchors[:, 2:] - anchors[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - both
    is_object = both / union > 0.4
    assert 0 < int(is_object.sum()) < 20
    aims = encode_boxes(box.expand(len(anchors), 4), network.anchors, network.variances)
    labels = torch.where(is_object, 2, 0)  # "bolt"
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    weights = torch.tensor([0.1, 1.0, 1.0])
    for _ in range(60):
        logits, offsets = network.raw(picture.expand(2, -1, -1, -1))
        loss = functional.cross_entropy(logits[0], labels, weights)
        loss = loss + functional.smooth_l1_loss(offsets[0, is_object], aims[is_object])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    arrays = tuple(output.numpy() for output in outputs_of(network, picture))
    assert isinstance(DETECTOR.spec.input, ImageInput)
    found = detected_boxes(arrays, DETECTOR.spec, placement=place(400, 320, DETECTOR.spec.input))
    assert len(found)
    assert found.classes[0] == 1
    torch.testing.assert_close(torch.from_numpy(found.corners[0]), box, atol=0.06, rtol=0.0)
