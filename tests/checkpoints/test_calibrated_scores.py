# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from butd_hf.checkpoints.calibrated_scores import calibrate_scores, fit_logistic, outcomes
from butd_hf.modeling.modeling_detection_butd import ButdForObjectDetection


def found(score, box=(0, 0, 10, 10), label="dog"):
    return {"score": score, "box": list(box), "label": label}


def there(box=(0, 0, 10, 10), label="dog", iscrowd=False):
    return {"box": list(box), "label": label, "iscrowd": iscrowd}


@pytest.mark.parametrize(
    ("objects", "references", "expected"),
    [
        ([], [there()], []),
        ([found(0.3)], [], [False]),
        ([found(0.3), found(0.8)], [there()], [True, False]),  # the better one takes it, the other is found again
        ([found(0.8, label="cat")], [there()], [False]),
        ([found(0.8, box=(5, 5, 15, 15))], [there()], [False]),
        ([found(0.8), found(0.7)], [there(iscrowd=True)], []),
        ([found(0.8), found(0.7, box=(0, 0, 10, 9))], [there(), there(iscrowd=True)], [True]),
    ],
)
def test_what_is_right(objects, references, expected):
    scores, right = outcomes({"objects": objects, "references": references})
    assert right.tolist() == expected and len(scores) == len(right)
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)


def test_the_likeliest_scale_and_shift_are_found():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40_000, generator=generator, dtype=torch.float64) * 2
    right = (torch.rand(40_000, generator=generator) < (1.7 * logits - 0.6).sigmoid()).double()
    scale, shift = fit_logistic(logits, right)
    assert scale == pytest.approx(1.7, abs=0.05) and shift == pytest.approx(-0.6, abs=0.05)


@torch.no_grad()
def test_logits_are_scaled_and_shifted(tiny_detector):
    model = ButdForObjectDetection.from_pretrained(tiny_detector).eval()
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = model(pixels)
    lines = [
        {"objects": [found(0.6)] * 2, "references": [there()]},
        {"objects": [found(0.4)] * 3, "references": [there()]},
    ]
    scale, shift = calibrate_scores(model, lines)
    assert scale == pytest.approx(0.6931 / 0.8109, rel=0.01)  # a half are right of the better, a third of the others
    exists = before.regions.mask[0]
    after = model(pixels).logits[0, exists, :-1]
    assert torch.allclose(after, scale * before.logits[0, exists, :-1] + shift, atol=1e-4)


def test_nothing_to_learn_from(tiny_detector):
    model = ButdForObjectDetection.from_pretrained(tiny_detector)
    with pytest.raises(ValueError, match="hold 1 found objects, expected right and wrong ones"):
        calibrate_scores(model, [{"objects": [found(0.6)], "references": [there()]}])
    upside_down = {"objects": [found(0.9, label="cat"), found(0.3)], "references": [there()]}
    with pytest.raises(ValueError, match="expected a positive one"):
        calibrate_scores(model, [upside_down, {"objects": [found(0.3), found(0.2)], "references": [there()]}])
