"""The claims of the chapter "bugs-in-the-wild", and that its excerpts are lines of the modules.

The tests of `dropoutlib.checks.wild` draw random masks where a share or a mean is compared. The widest relative
standard deviation is that of `modes_agree` at p = .7, sqrt(p/q/200000) = .0034, against a tolerance of .05: more than
14 of them, and `drops_a_tenth` allows 14 as well. `identify` errs with 1e-10 a comparison. So a right version fails
any of these with a probability below 1e-8.
"""

from __future__ import annotations

import inspect
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from book import notebooks
from dropoutlib.checks import checklist, wild, wild_torch
from dropoutlib.checks.wild import Defect

CHAPTER = next(path for path in notebooks.chapters() if path.stem == "bugs-in-the-wild")
DEFECTS = (*wild.DEFECTS, *wild_torch.DEFECTS)
BY_NAME = {defect.name: defect for defect in DEFECTS}
by_defect = pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
CONSTANTS = list(wild.WRONG_CONSTANTS.items())
by_constant = pytest.mark.parametrize(("name", "make"), CONSTANTS, ids=[name for name, _ in CONSTANTS])


# --- The defects


@pytest.mark.claim("wild-defects-fail-and-pass")
@by_defect
def test_a_defect_fails_its_test_and_the_repair_passes(defect: Defect) -> None:
    """An error would end the test; a wrong version runs and gives a wrong answer."""
    assert defect.test(defect.before) is False
    assert defect.test(defect.after) is True


@pytest.mark.claim("wild-defects-fail-and-pass")
def test_there_are_eighteen_wrong_versions_of_fifteen_projects() -> None:
    assert len(DEFECTS) == len(BY_NAME) == 18
    assert len({name.split()[0] for name in BY_NAME}) == 15


@pytest.mark.parametrize("make", [wild.Layer, wild.STANDARD, wild.CheckpointedAfter, wild.BoltzAfter])
def test_a_right_layer_passes_every_test_of_layers(make: Any) -> None:
    for test in (wild.modes_agree, wild.backward_is_forward, wild.masks_change, wild.edges_are_exact):
        assert test(make) is True


# --- 1: constants


def ratio(factors: Any, p: float) -> float:
    """Return the expected output in evaluation over that in training."""
    training, evaluation = factors
    return float(evaluation(p) / ((1 - p) * training(p)))


@pytest.mark.claim("wild-one-half-is-blind")
def test_four_of_six_constants_are_right_at_one_half_and_nowhere_else() -> None:
    at_half = []
    for name, make in CONSTANTS:
        factors = make(0.5).factors  # type: ignore[attr-defined]
        at_half += [name] if ratio(factors, 0.5) == 1 else []
        assert all(abs(ratio(factors, p) - 1) > 0.05 for p in np.linspace(0.05, 0.95, 19) if abs(p - 0.5) > 0.01)
    assert at_half == ["ConvNetJS", "Kaldi", "RETAIN", "RETAIN repaired again"]


@pytest.mark.claim("wild-one-half-is-blind")
@by_constant
def test_at_one_half_a_wrong_layer_is_the_right_one_in_every_bit(name: str, make: Any) -> None:
    """So no test at .5 alone can find it, whatever it looks at."""
    right = wild.STANDARD if name in ("ConvNetJS", "RETAIN") else wild.Layer
    x = np.linspace(1, 2, 100)
    wrong, layer = make(0.5, 1), right(0.5, 1)
    same = np.array_equal(wrong.forward(x), layer.forward(x))
    same &= np.array_equal(wrong.eval().forward(x), layer.eval().forward(x))
    assert same == (name not in ("dlordinal", "RETAIN repaired"))


@pytest.mark.claim("wild-edges-find-constants")
@by_constant
def test_the_ends_find_a_wrong_constant(name: str, make: Any) -> None:
    x = np.ones(10)
    right = []
    for p, allowed in ((0.0, [x]), (1.0, [x, 0 * x])):  # at 1, evaluation gives x if inverted and 0 if standard
        layer = make(p, 1)
        right.append(np.array_equal(layer.forward(x), (1 - p) * x))
        right.append(any(np.array_equal(layer.eval().forward(x), y) for y in allowed))
    assert not all(right)
    assert wild.edges_are_exact(make) is False


@pytest.mark.claim("wild-right-outputs-wrong-gradients")
def test_all_outputs_of_the_wrong_backward_are_right() -> None:
    x = np.linspace(1, 2, 1000)
    for p in (0.2, 0.5, 0.7):
        wrong, right = wild.Apex(p, 1), wild.Layer(p, 1)
        assert np.array_equal(wrong.forward(x), right.forward(x))
        np.testing.assert_allclose(wrong.backward(x), p * (1 - p) * right.backward(x), rtol=1e-12)
        assert np.array_equal(wrong.eval().forward(x), right.eval().forward(x))
    assert max(p * (1 - p) for p in np.linspace(0, 1, 101)) == 0.25


# --- 2: meaning


@pytest.mark.claim("wild-copied-checkpoint")
@pytest.mark.parametrize("p", [0.2, 0.5, 0.7])
def test_a_copied_checkpoint_multiplies_features_by_one_over_q(p: float) -> None:
    rng = np.random.default_rng(0)
    W, b, x = rng.standard_normal((3, 8)), rng.standard_normal(3), rng.standard_normal((5, 8))
    original = (1 - p) * x @ W.T
    ((copied, c),) = wild.converted([(W, b)], [p])
    np.testing.assert_allclose(x @ copied.T, original / (1 - p))
    ((folded, d),) = wild.converted_after([(W, b)], [p])
    np.testing.assert_allclose(x @ folded.T, original)
    assert c is b
    assert d is b


# --- 3: mode


@pytest.mark.claim("wild-eval-reaches-modules-only")
@pytest.mark.parametrize("name", ["nanoGPT", "MT-DNN"])
def test_eval_does_not_reach_a_function_or_a_list(name: str) -> None:
    """512 rows of 64 elements, so equal outputs by chance have no probability to speak of."""
    defect, x = BY_NAME[name], torch.ones(512, 64)
    wrong, right = defect.before(0.2).eval(), defect.after(0.2).eval()
    assert not torch.equal(wrong(x), wrong(x))
    assert torch.equal(right(x), right(x))
    assert not torch.equal(right.train()(x), right(x))


@pytest.mark.claim("wild-validation-ends-training-mode")
@pytest.mark.parametrize(("validate", "expected"), [(wild.validated, 0.2), (wild.validated_after, 1.0)])
def test_the_share_of_an_epoch_with_dropout(validate: Any, expected: float) -> None:
    dropout = wild.Layer(0.2)
    network, on = wild.Network(dropout), 0
    network.train()
    for step in range(1, 1001):
        on += dropout.training
        if step % 200 == 0:
            validate(network, np.ones(3))
    assert on / 1000 == expected


# --- 4: randomness


@pytest.mark.claim("wild-constant-mask")
def test_with_a_constant_seed_a_share_p_never_takes_part() -> None:
    """The constant mask is that of seed 0: no chance here. A right layer drops a unit 100 times with p**100."""
    x = np.ones(100_000)
    for make, expected in ((wild.Paddle, 0.2), (wild.Layer, 0.0)):
        layer, ever = make(0.2, None), np.zeros(x.size, bool)
        for _ in range(100):
            ever |= layer.train().forward(x) != 0
        assert np.mean(~ever) == pytest.approx(expected, abs=0.01)
        assert np.array_equal(layer.eval().forward(x), x)


@pytest.mark.claim("wild-fresh-mask-removes-the-penalty")
@pytest.mark.parametrize("p", [0.2, 0.5, 0.7])
def test_a_fresh_mask_in_backward_removes_the_penalty(p: float) -> None:
    """Theorem of the chapter, by all pairs of the 2**5 masks, through the layers themselves."""
    rng = np.random.default_rng(3)
    w, x, t, q = rng.standard_normal(5), rng.standard_normal(5), 0.7, 1 - p
    masks = np.array(list(itertools.product([False, True], repeat=5)))
    weights = np.prod(np.where(masks, q, p), axis=1)
    same, fresh = np.zeros(5), np.zeros(5)
    layer = wild.Layer(p)
    for first, a in zip(masks, weights, strict=True):
        layer.mask = first
        error = w @ layer.gradient(x) - t  # gradient multiplies by the mask and the factor, as forward does
        same += a * error * layer.gradient(x)
        for second, b in zip(masks, weights, strict=True):
            layer.mask = second
            fresh += a * b * error * layer.gradient(x)
    without = (w @ x - t) * x
    np.testing.assert_allclose(fresh, without, atol=1e-12)
    np.testing.assert_allclose(same, without + p / q * x**2 * w, atol=1e-12)
    assert np.abs(same - fresh).max() > 0.01


def test_pytorchs_own_checkpoint_keeps_the_state() -> None:
    """The excerpt on OLMo-core says that the option is on unless it is switched off."""
    from torch.utils.checkpoint import checkpoint

    assert "preserve_rng_state" in (inspect.getdoc(checkpoint) or "")
    x = torch.ones(1000, requires_grad=True)
    for preserve, equal in ((True, True), (False, False)):
        x.grad = None
        y = checkpoint(torch.nn.Dropout(0.2), x, use_reentrant=False, preserve_rng_state=preserve)
        y.sum().backward()
        assert torch.equal(x.grad, y.detach()) is equal


# --- 5: edges


@pytest.mark.claim("wild-eight-bits-drop-at-zero")
def test_eight_bits_drop_one_in_256_at_p_zero() -> None:
    """Exact: of the 256 numbers k/256, only 0 is not above 0."""
    assert np.mean(np.arange(256) / 256 > 0) == 255 / 256
    layer = wild.Boltz(0.2, 1).eval()
    share = np.mean(layer.forward(np.ones(10**6)) == 0)
    assert share == pytest.approx(1 / 256, abs=8 * (1 / 256 / 10**6) ** 0.5)
    assert np.all(wild.BoltzAfter(0.2, 1).eval().forward(np.ones(10**6)) == 1)


@pytest.mark.claim("wild-eight-bits-drop-at-zero")
def test_bfloat16_random_numbers_are_often_zero() -> None:
    zeros = {dtype: (torch.rand(10**6, dtype=dtype) == 0).float().mean() for dtype in (torch.float32, torch.bfloat16)}
    assert zeros[torch.float32] < 1e-4
    assert zeros[torch.bfloat16] > 1e-3


# --- The checklist


@pytest.mark.claim("wild-checklist-finds-all")
@by_defect
def test_the_checklist_finds_each_defect_and_no_repair(defect: Defect) -> None:
    before = [checklist.complaints(line, defect, defect.before) for line in checklist.LINES]
    after = [checklist.complaints(line, defect, defect.after) for line in checklist.LINES]
    assert True in before
    assert True not in after
    assert [each is None for each in before] == [each is None for each in after]


@pytest.mark.claim("wild-checklist-finds-all")
def test_the_checklist_has_nine_lines_each_with_a_defect_of_its_own() -> None:
    """All but lines 1 and 3; the page says what these are good for."""
    table = np.array([[checklist.complaints(line, d, d.before) is True for line in checklist.LINES] for d in DEFECTS])
    assert table.shape == (18, 9)
    needed = [k + 1 for k in range(9) if (table[:, k] & (table.sum(axis=1) == 1)).any()]
    assert needed == [2, 4, 5, 6, 7, 8, 9]
    assert table.any(axis=0).all()


# --- The page


def texts() -> list[str]:
    return [cell.source for cell in notebooks.read(CHAPTER).cells if cell.cell_type == "markdown"]


def test_each_excerpt_is_lines_of_the_modules_in_their_order() -> None:
    sources = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in (wild, wild_torch)]
    lines = [[line.strip() for line in source.splitlines()] for source in sources]
    excerpts = re.findall(r"```python\n(.+?)```", "\n".join(texts()), re.DOTALL)
    assert len(excerpts) >= 12
    for excerpt in excerpts:
        wanted = [line.strip() for line in excerpt.splitlines() if line.strip()]
        assert any(in_order(wanted, module) for module in lines), excerpt


def in_order(wanted: list[str], lines: list[str]) -> bool:
    rest = iter(lines[lines.index(wanted[0]) :]) if wanted[0] in lines else iter([])
    return all(line in rest for line in wanted)


@pytest.mark.parametrize(
    "project",
    [
        "karpathy/convnetjs", "kaldi-asr/kaldi", "ayrna/dlordinal", "mp2893/retain", "NVIDIA/apex",
        "bonlime/keras-deeplab-v3-plus", "tensorlayer/TensorLayerX", "karpathy/nanoGPT", "namisan/mt-dnn",
        "fartashf/vsepp", "PaddlePaddle/Paddle", "openai/guided-diffusion", "google/flax", "jwohlwend/boltz",
        "pytorch/pytorch",
    ],
)  # fmt: skip
def test_each_project_has_its_thread(project: str) -> None:
    assert re.search(rf"\]\(https://github\.com/{project}/(issues|pull)/\d+\)", "\n".join(texts()))


def test_each_defect_and_each_line_is_on_the_page() -> None:
    source = "\n".join(cell.source for cell in notebooks.read(CHAPTER).cells)
    told = "".join(re.findall(r"tell\((.*?)\)", source))
    assert all(f'"{name}"' in told or name in wild.WRONG_CONSTANTS for name in BY_NAME)
    assert "wild.WRONG_CONSTANTS" in told
    assert "Eighteen wrong versions" in source
    assert "fifteen projects" in source
