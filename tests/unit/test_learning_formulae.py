"""Losses of the trainer against values computed by hand, or by torch where torch has them."""

import math

import pytest
import torch
from torch.nn import functional

from cloud_hub.training.trainer.spec import ClassWeights, GenerativeMethod, MaskedMethod
from cloud_hub.training.trainer.torch_contrastive import contrast
from cloud_hub.training.trainer.torch_detection import NEGATIVES_MIN, hardest, match_anchors
from cloud_hub.training.trainer.torch_distillation import soft_loss
from cloud_hub.training.trainer.torch_generative import damage
from cloud_hub.training.trainer.torch_masked import hide
from cloud_hub.training.trainer.torch_pseudo_label import sure_classes
from cloud_hub.training.trainer.torch_supervised import class_loss, class_weights, mean_where, mix

EIGHTY_PERCENT = torch.tensor([[math.log(0.8), math.log(0.15), math.log(0.05)]])
LABEL = torch.tensor([0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_gamma_the_focal_loss_is_torchs_cross_entropy(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(16, 5), torch.randint(5, (16,))
    expected = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    got = class_loss(logits, labels, label_smoothing=smoothing, focal_gamma=0.0)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("gamma", "factor"), [(0.5, math.sqrt(0.2)), (1.0, 0.2), (2.0, 0.04)])
def test_the_focal_loss_of_a_class_at_80_percent(gamma: float, factor: float) -> None:
    loss = class_loss(EIGHTY_PERCENT, LABEL, focal_gamma=gamma)
    assert float(loss) == pytest.approx(-math.log(0.8) * factor, rel=1e-5)


def test_a_sure_answer_leaves_the_focal_loss_a_finite_gradient() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    class_loss(logits, LABEL, focal_gamma=0.5).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_unlabelled_items_never_count() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, -1, 2, -1, 1, 1])
    known = labels >= 0
    expected = functional.cross_entropy(logits[known], labels[known])
    torch.testing.assert_close(class_loss(logits, labels), expected)


def test_a_batch_without_labels_has_no_loss_and_a_gradient_of_zeros() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    loss = class_loss(logits, torch.full((4,), -1))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_what_does_not_count_may_be_infinite() -> None:
    values = torch.tensor([1.0, math.inf, 3.0])
    assert float(mean_where(values, torch.tensor([True, False, True]))) == 2.0


def test_losses_are_fp32_in_autocast() -> None:
    layer = torch.nn.Linear(8, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(torch.randn(6, 8))
        assert logits.dtype == torch.bfloat16
        assert class_loss(logits, torch.zeros(6, dtype=torch.int64)).dtype == torch.float32
        assert soft_loss(logits, logits, temperature=2.0).dtype == torch.float32
        assert contrast(logits[:3], logits[3:], temperature=0.2).dtype == torch.float32


def test_class_weights_by_hand() -> None:
    counts = torch.tensor([90, 10, 0])
    balanced = class_weights(counts, ClassWeights.BALANCED)
    assert balanced.tolist() == pytest.approx([100 / (2 * 90), 100 / (2 * 10), 0.0])
    raw = [0.001 / (1.0 - 0.999**n) for n in (90, 10)]  # 0.01161, 0.10045
    scale = 100 / (90 * raw[0] + 10 * raw[1])
    effective = class_weights(counts, ClassWeights.EFFECTIVE)
    assert effective.tolist() == pytest.approx([raw[0] * scale, raw[1] * scale, 0.0])
    assert class_weights(counts, ClassWeights.EQUAL).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ClassWeights)
def test_class_weights_leave_the_mean_over_items_at_one(kind: ClassWeights) -> None:
    counts = torch.tensor([700, 200, 100, 3])
    assert float((class_weights(counts, kind) * counts).sum() / counts.sum()) == pytest.approx(1.0)


def test_many_items_of_each_class_weigh_the_same_by_their_effective_number() -> None:
    weights = class_weights(torch.tensor([100_000, 20_000]), ClassWeights.EFFECTIVE)
    assert weights.tolist() == pytest.approx([1.0, 1.0], rel=1e-6)


def test_contrast_of_two_pairs_by_hand() -> None:
    points = torch.tensor([[2.0, 0.0], [0.0, 5.0]])  # Lengths do not matter
    # Each view has its partner at likeness 1 and two others at 0.
    expected = math.log(math.exp(1 / 0.5) + 2.0) - 1 / 0.5
    assert float(contrast(points, points, temperature=0.5)) == pytest.approx(expected, rel=1e-5)
    swapped = math.log(math.exp(1 / 0.5) + 2.0)
    assert float(contrast(points, points.flip(0), temperature=0.5)) == pytest.approx(swapped)


def test_the_soft_loss_by_hand() -> None:
    taught = torch.tensor([[0.0, 4.0 * math.log(3.0)]])  # Softened by 4: shares 1/4, 3/4
    ours = torch.zeros(1, 2)  # 1/2, 1/2
    expected = 16.0 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert float(soft_loss(ours, taught, temperature=4.0)) == pytest.approx(expected, rel=1e-4)
    assert float(soft_loss(taught, taught, temperature=4.0)) == pytest.approx(0.0, abs=1e-6)


def test_only_sure_classes_are_named() -> None:
    logits = torch.tensor([[3.0, 0.0], [0.1, 0.0], [0.0, 4.0]])  # 0.95, 0.52, 0.98
    assert sure_classes(logits, 0.9).tolist() == [0, -1, 1]


def test_mixed_items_lie_between_the_two_and_nearer_to_themselves() -> None:
    torch.manual_seed(0)
    items = torch.randn(32, 3)
    for _ in range(20):
        mixed, others, share = mix(items, 0.4)
        assert 0.5 <= float(share) <= 1.0
        torch.testing.assert_close(mixed, share * items + (1 - share) * items[others])


@pytest.mark.parametrize(("samples", "span", "share"), [(48, 8, 0.4), (50, 8, 0.4), (24, 100, 0.9)])
def test_spans_of_each_window_are_hidden_and_never_all_of_it(
    samples: int, span: int, share: float
) -> None:
    torch.manual_seed(0)
    method = MaskedMethod(mask_share=share, span=span)
    for _ in range(20):
        hidden = hide(torch.zeros(16, 3, samples), method)  # (16, 1, T)
        each = hidden.float().mean(dim=(1, 2))
        assert hidden.shape == (16, 1, samples)
        assert (each > 0).all()
        assert (each < 1).all()
        assert float(each.mean()) == pytest.approx(
            min(share, 0.5 if span > samples else 1), abs=0.1
        )


def test_hidden_samples_lie_together() -> None:
    torch.manual_seed(0)
    hidden = hide(torch.zeros(64, 1, 64), MaskedMethod(mask_share=0.25, span=8))[:, 0].int()
    begun = (hidden.diff(dim=1) == 1).sum(dim=1) + hidden[:, 0]
    assert int(begun.max()) <= 3  # Two spans of 8, one of which may be cut by the ends
    assert (hidden.sum(dim=1) == 16).all()


@pytest.mark.parametrize("sides", [(16, 16), (40,)])
def test_a_square_of_the_wanted_size_is_erased(sides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    method = GenerativeMethod(input_noise=0.0, erased_share=0.25)
    damaged = damage(torch.ones(32, 2, *sides), method)
    shares = (damaged == 0).float().flatten(1).mean(1)
    torch.testing.assert_close(shares, torch.full((32,), 0.25))
    first = (damaged[:, 0].flatten(1) == 0).int().argmax(1)
    assert len(set(first.tolist())) > 5, "the square is always at the same place"


def test_anchors_belong_to_boxes_that_they_overlap() -> None:
    anchors = torch.tensor(  # Centre x, y, width, height
        [[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5], [0.3, 0.3, 0.5, 0.5], [0.9, 0.1, 0.1, 0.1]]
    )
    boxes = torch.tensor(
        [
            [[1.0, 0.0, 0.0, 0.5, 0.5], [0.0, 0.8, 0.0, 1.0, 0.4]],
            [[-1.0, 0.0, 0.0, 0.0, 0.0], [2.0, 0.5, 0.5, 1.0, 1.0]],
            [[-1.0, 0.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0, 0.0]],
        ]
    )
    # The small anchor overlaps the second box by 0.125 only, and is still the best it has.
    expected = [[0, -1, 0, 1], [-1, 1, -1, -1], [-1, -1, -1, -1]]
    assert match_anchors(anchors, boxes).tolist() == expected
    assert match_anchors(anchors, boxes[:, :0]).tolist() == [[-1] * 4] * 3


def test_three_background_anchors_count_for_each_with_a_box() -> None:
    torch.manual_seed(0)
    losses = torch.rand(3, 40)
    has_box = torch.zeros(3, 40, dtype=torch.bool)
    has_box[0, :5] = True
    chosen = hardest(losses, has_box, torch.tensor([True, True, False]))
    assert chosen.sum(1).tolist() == [15, NEGATIVES_MIN, 0]
    assert not (chosen & has_box).any()
    assert float(losses[0][chosen[0]].min()) >= float(losses[0][~chosen[0] & ~has_box[0]].max())
