"""Each sickness is named first and its consequences beneath; healthy models give no finding; nothing is changed."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from dropoutlib.frameworks import Report, adapter
from dropoutlib.frameworks.check import ROUNDING, deployment_check, exported_check
from dropoutlib.frameworks.parameters import compare
from tests.frameworks.models import ARCHITECTURES, FRAMEWORKS, batches, healthy, images
from tests.frameworks.sick import CASES, EXPECTED, RATE, example, faulty, sick

SEEDS = pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))])


def report(model: Any, x: Any, reference: Any = None, data: Any = None) -> Report:
    return deployment_check(adapter(model), model, x, reference, data)


def finding(found: Report, check: str) -> Any:
    return next(each for each in found.findings if each.check == check)


# --- The six sicknesses, and health


@SEEDS
@pytest.mark.parametrize(("framework", "sickness"), CASES)
def test_each_sickness_is_named_first_and_explains_the_rest(framework: str, sickness: str, seed: int) -> None:
    check, words = EXPECTED[sickness]
    model, x, reference = sick(framework, sickness, seed)
    found = exported_check(model, x, reference)
    assert found.first is not None
    assert found.first.check == check
    assert words in found.first.evidence
    assert found.first.because is None
    # One cause, so that every other failure hangs beneath it, directly or over another one.
    causes = {each.check: each.because for each in found.failed}
    for each in found.failed[1:]:
        cause = each.because
        while cause is not None and cause != check:
            cause = causes[cause]
        assert cause == check, each
    lines = str(found).splitlines()
    assert lines[0] == f"fail: {check}"


@pytest.mark.parametrize(
    ("framework", "sickness", "consequences"),
    [
        ("pytorch", "train-mode", {"no-active-dropout", "rows-independent"}),
        ("flax", "train-mode", {"no-active-dropout", "rows-independent"}),
        ("linen", "train-mode", {"no-active-dropout", "rows-independent"}),
        ("keras", "always-on", {"rows-independent"}),
        ("pytorch", "traced-in-train-mode", {"no-active-dropout", "rows-independent"}),
        ("keras", "traced-in-train-mode", {"no-active-dropout", "rows-independent"}),
        ("flax", "traced-in-train-mode", {"no-active-dropout", "rows-independent"}),
        ("pytorch", "batch-statistics", set()),
        ("keras", "wrong-checkpoint", set()),
    ],
)
def test_consequences_are_found_too(framework: str, sickness: str, consequences: set[str]) -> None:
    model, x, reference = sick(framework, sickness)
    assert {each.check for each in exported_check(model, x, reference).failed[1:]} == consequences


@SEEDS
@pytest.mark.parametrize(("framework", "architecture"), list(itertools.product(FRAMEWORKS, ARCHITECTURES)))
def test_healthy_models_pass_every_check(framework: str, architecture: str, seed: int) -> None:
    model = healthy(framework, architecture, seed)
    reference = dict(adapter(model).parameters(model))
    found = report(model, images(framework, architecture), reference, batches(framework, architecture))
    assert found.passed, found
    assert {each.check for each in found.findings} == {
        *("evaluation-mode", "no-active-dropout", "rows-independent", "parameters", "normalisation-statistics")
    }


def test_what_was_not_given_cannot_be_told_and_has_not_passed() -> None:
    found = report(healthy("pytorch", "cnn"), images("pytorch", "cnn"))
    untold = [each.check for each in found.findings if each.verdict == "cannot tell"]
    assert untold == ["parameters", "normalisation-statistics"]
    assert not found.failed
    assert not found.passed


def test_the_report_is_json_too() -> None:
    model, x, _ = sick("pytorch", "train-mode")
    told = json.loads(report(model, x).to_json())
    assert told["first"] == "evaluation-mode"
    assert told["findings"][1]["because"] == "evaluation-mode"


# --- Causes


def test_dropout_that_survives_evaluation_mode_is_a_cause_of_its_own() -> None:
    model = faulty("pytorch", "always-on", 0).train()
    found = report(model, example("pytorch"))
    assert [each.check for each in found.failed if each.because is None] == ["evaluation-mode", "no-active-dropout"]
    assert "still in evaluation mode: (model)" in finding(found, "no-active-dropout").evidence
    # BatchNorm in training mode is what couples the rows, and that ends with the mode.
    assert finding(found, "rows-independent").because == "evaluation-mode"


def test_batch_statistics_that_survive_evaluation_mode_are_a_cause_of_their_own() -> None:
    model = faulty("pytorch", "batch-statistics", 0).train()
    found = report(model, example("pytorch"))
    assert [each.check for each in found.failed if each.because is None] == ["evaluation-mode", "rows-independent"]
    assert finding(found, "no-active-dropout").because == "evaluation-mode"


def test_both_faults_of_the_code_are_told_apart() -> None:
    import torch
    from torch import nn

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(64, track_running_stats=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(self.norm(x), 0.2)

    found = report(Both().eval(), example("pytorch"))
    assert [(each.check, each.because) for each in found.failed] == [
        ("no-active-dropout", None),
        ("rows-independent", None),
    ]
    assert "norm" in finding(found, "rows-independent").evidence


def test_one_module_left_in_training_mode_is_named() -> None:
    model = healthy("pytorch", "mlp")
    model[5].train()
    found = report(model, images("pytorch", "mlp"))
    assert found.first is not None
    assert found.first.evidence == "in training mode: 5"
    assert "5 (Dropout, p = 0.2)" in finding(found, "no-active-dropout").evidence


def test_dropout_of_rate_zero_is_harmless() -> None:
    from torch import nn

    found = report(nn.Sequential(nn.Linear(64, 4), nn.Dropout(0.0)).train(), example("pytorch"))
    assert [each.check for each in found.failed] == ["evaluation-mode"]


@pytest.mark.parametrize(("size", "verdict"), [(1e-6, "pass"), (1e-4, "fail")])
def test_runs_that_differ_by_rounding_draw_nothing(size: float, verdict: str) -> None:
    import torch
    from torch import nn

    class Threads(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + size * torch.rand(()).item()

    found = report(Threads().eval(), example("pytorch"))
    if verdict == "pass":
        assert next(each for each in found.findings if each.check == "rows-independent").verdict == "pass"
    told = finding(found, "no-active-dropout")
    assert ("agree" in told.evidence) == (verdict == "pass")


@pytest.mark.parametrize("sickness", ["train-mode", "always-on", "batch-statistics", "wrong-checkpoint"])
def test_checking_changes_nothing(sickness: str) -> None:
    import torch

    model, x, reference = sick("pytorch", sickness)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    stream = torch.get_rng_state()
    report(model, x, reference, [x] * 3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), stream)


def test_checking_a_traced_module_changes_nothing() -> None:
    import torch

    model, x, _ = sick("pytorch", "traced-in-train-mode")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stream = torch.get_rng_state()
    exported_check(model, x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_code_asks_for_the_mode() -> None:
    import torch
    from torch import nn

    scripted = torch.jit.script(nn.Sequential(nn.Linear(64, 4), nn.Dropout(RATE)))
    found = exported_check(scripted.train(), example("pytorch"))
    assert [(each.check, each.because) for each in found.failed] == [
        ("evaluation-mode", None),
        ("exported-program", "evaluation-mode"),
        ("no-active-dropout", "exported-program"),
        ("rows-independent", "exported-program"),
    ]
    assert "1" in finding(found, "evaluation-mode").evidence
    assert not exported_check(scripted.eval(), example("pytorch")).failed


# --- Rows


def rows(forward: Any, x: Any) -> Any:
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1, dtype=getattr(torch, str(np.asarray(x[0]).dtype))))

        def forward(self, *inputs: Any) -> Any:
            return forward(*inputs)

    return finding(report(Model().eval(), x), "rows-independent")


@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0, 1e3])
def test_a_small_dependence_is_seen_at_any_scale(size: float) -> None:
    x = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32) * np.float32(size)
    assert rows(lambda x: x * 3, x).verdict == "pass"
    assert rows(lambda x: x + 1e-3 * x.mean(0), x).verdict == "fail"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_tolerance_comes_from_the_dtype(dtype: Any) -> None:
    x = np.random.default_rng(1).standard_normal((6, 5)).astype(dtype)
    eps = float(np.finfo(dtype).eps)
    largest = float(np.abs(x).max())
    below, above = 0.5 * ROUNDING * eps * largest, 8 * ROUNDING * eps * largest
    for shift, verdict in ((below, "pass"), (above, "fail")):
        told = rows(lambda x, shift=shift: x + shift * (x[:1] * 0 + (len(x) == 1)), x)
        assert told.verdict == verdict


def test_what_the_network_magnifies_is_no_dependence() -> None:
    x = np.linspace(1.499, 1.501, 30, dtype=np.float32).reshape(6, 5)
    # The order of the sum depends on the number of rows, and the subtraction magnifies what that rounds off.
    told = rows(lambda x: 1e4 * ((x * (1 + 1e-7 * (len(x) == 1))) - 1.5), x)
    assert told.verdict == "pass"


@pytest.mark.parametrize(
    ("forward", "x", "words"),
    [
        (lambda x: x, np.ones((1, 3), np.float32), "one row"),
        (lambda x: x, np.ones((4, 3), np.float32), "all 4 rows of the example are equal"),
        (lambda x: x.sum(), np.arange(12, dtype=np.float32).reshape(4, 3), "no row for each"),
        (lambda x, y: x, (np.ones((4, 3), np.float32), np.ones((2, 3), np.float32)), "different numbers of rows"),
    ],
)
def test_what_says_nothing_about_rows_cannot_be_told(forward: Any, x: Any, words: str) -> None:
    told = rows(forward, x)
    assert told.verdict == "cannot tell"
    assert words in told.evidence


def test_rows_of_whole_numbers_are_compared_exactly() -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert rows(lambda x: x.argmax(1), x).verdict == "pass"
    assert rows(lambda x: (x > x.mean()).int(), x).verdict == "fail"


def test_nan_in_a_row_is_compared_too() -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    x[2, 1] = np.nan
    assert rows(lambda x: x, x).verdict == "pass"
    assert rows(lambda x: x + x.mean(), x).verdict == "fail"


# --- Statistics


@pytest.mark.parametrize(("factor", "verdict"), [(1.15, "pass"), (0.87, "pass"), (1.4, "fail"), (0.7, "fail")])
def test_shifted_variances_are_found(factor: float, verdict: str) -> None:
    model = healthy("pytorch", "cnn")
    model[4].running_var *= factor
    told = finding(report(model, images("pytorch", "cnn"), None, batches("pytorch", "cnn")), "normalisation-statistics")
    assert told.verdict == verdict
    if verdict == "fail":
        assert "'4'" in told.evidence
        assert "'1'" not in told.evidence


@pytest.mark.parametrize(("distance", "verdict"), [(0.3, "pass"), (0.8, "fail")])
def test_shifted_means_are_found(distance: float, verdict: str) -> None:
    model = healthy("pytorch", "cnn")
    model[4].running_mean += distance * model[4].running_var.sqrt()
    data = batches("pytorch", "cnn")
    told = finding(report(model, images("pytorch", "cnn"), None, data), "normalisation-statistics")
    assert told.verdict == verdict


def test_few_rows_cannot_tell_a_variance() -> None:
    data = batches("pytorch", "cnn", count=3)
    told = finding(report(healthy("pytorch", "cnn"), images("pytorch", "cnn"), None, data), "normalisation-statistics")
    assert told.verdict == "cannot tell"
    assert "192 rows are too few" in told.evidence


def test_one_array_in_place_of_batches_is_refused() -> None:
    data = np.concatenate(list(batches("pytorch", "cnn")))
    with pytest.raises(TypeError, match=r"batches must be an iterable of inputs, such as \[x\], got ndarray"):
        report(healthy("pytorch", "cnn"), images("pytorch", "cnn"), None, data)


def test_a_batch_in_a_list_has_as_many_rows_as_its_array() -> None:
    data = [[x] for x in batches("pytorch", "cnn")]
    told = finding(report(healthy("pytorch", "cnn"), images("pytorch", "cnn"), None, data), "normalisation-statistics")
    assert told.verdict == "pass"


def test_dropout_before_a_batch_norm_shifts_its_statistics() -> None:
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 16), nn.Dropout(0.5), nn.BatchNorm1d(16)).train()
        for x in batches("pytorch", "mlp", count=16):
            model(torch.from_numpy(x))
    told = finding(
        report(model.eval(), example("pytorch"), None, batches("pytorch", "mlp")), "normalisation-statistics"
    )
    assert told.verdict == "fail"


# --- Parameters


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"1.weight": (8, 5), "1.bias": (8,), "2.weight": (3, 8), "2.bias": (3,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize(
    ("power", "words"),
    [
        (1, "q for p = {p}, folded once more than"),
        (2, "q² for p = {p}, folded twice more"),
        (-1, "1/q for p = {p}, folded once less"),
        (-2, "1/q² for p = {p}, folded twice less"),
    ],
)
def test_a_constant_ratio_names_the_folding_error(
    weights: dict[str, np.ndarray], p: float, power: int, words: str
) -> None:
    q = np.float32(1) - np.float32(p)
    model = {**weights, "2.weight": weights["2.weight"] * q**power}
    for rates in ([p], []):
        told = compare(model, weights, rates)
        assert told.verdict == "fail"
        assert "'2.weight' is" in told.evidence
        assert "1.weight" not in told.evidence
        assert words.format(p=p) in told.evidence
        # A known rate leaves no doubt; without one a ratio may be q or the square of another q.
        assert ("; or " in told.evidence) == (not rates)
    assert compare(weights, weights, [p]).verdict == "pass"


def test_two_layers_with_their_own_rates_are_told_apart(weights: dict[str, np.ndarray]) -> None:
    model = {
        **weights,
        "1.weight": weights["1.weight"] * np.float32(0.9),
        "2.weight": weights["2.weight"] * np.float32(0.6),
    }
    evidence = compare(model, weights, [0.1, 0.4]).evidence
    assert "'1.weight' is 0.9 times the reference's: q for p = 0.1" in evidence
    assert "'2.weight' is 0.6 times the reference's: q for p = 0.4" in evidence


def test_other_differences_are_another_checkpoint(weights: dict[str, np.ndarray]) -> None:
    noise = weights["2.weight"].copy()
    noise[1, 2] += 0.25
    told = compare({**weights, "2.weight": noise}, weights)
    assert told.verdict == "fail"
    assert "wrong checkpoint: 1 of 4 arrays differ" in told.evidence
    assert "the largest difference is 0.25, in '2.weight'" in told.evidence


def test_a_wrong_shape_is_another_checkpoint(weights: dict[str, np.ndarray]) -> None:
    told = compare({**weights, "2.bias": np.zeros(4, np.float32)}, weights)
    assert told.verdict == "fail"
    assert "shape (4,) against (3,)" in told.evidence


def test_equal_arrays_under_exchanged_names_are_a_finding(weights: dict[str, np.ndarray]) -> None:
    reference = {"a": weights["1.bias"], "b": weights["1.bias"][::-1].copy()}
    exchanged = {"a": reference["b"], "b": reference["a"]}
    assert compare(exchanged, reference).verdict == "fail"
    assert compare(exchanged, reference, named=False).verdict == "fail"


@pytest.mark.parametrize("change", ["renamed", "empty"])
def test_names_that_the_model_lacks_are_an_error(weights: dict[str, np.ndarray], change: str) -> None:
    reference = {f"net.{name}": array for name, array in weights.items()} if change == "renamed" else {}
    with pytest.raises(ValueError, match="give the checkpoint of this model"):
        compare(weights, reference)


def test_what_the_reference_lacks_cannot_be_told(weights: dict[str, np.ndarray]) -> None:
    reference = {name: array for name, array in weights.items() if name != "2.bias"}
    told = compare(weights, reference)
    assert told.verdict == "cannot tell"
    assert "'2.bias' is not in the reference" in told.evidence


def test_counters_do_not_count(weights: dict[str, np.ndarray]) -> None:
    told = compare({**weights, "n.num_batches_tracked": np.array(5)}, weights)
    assert told.verdict == "pass"
    told = compare(weights, {**weights, "n.num_batches_tracked": np.array(5)})
    assert told.verdict == "pass"


def test_a_reference_in_another_precision_is_rounded_first(weights: dict[str, np.ndarray]) -> None:
    half = {name: array.astype(np.float16) for name, array in weights.items()}
    assert compare(half, weights).verdict == "pass"
    assert compare(weights, {name: array.astype(np.float64) for name, array in weights.items()}).verdict == "pass"
    scaled = {**half, "2.weight": half["2.weight"] * np.float16(0.75)}
    assert "q for p = 0.25" in compare(scaled, weights, [0.25]).evidence


@pytest.mark.parametrize(
    "layout",
    [lambda a: a.T, lambda a: a.reshape(a.shape[0], 2, -1), lambda a: a.T.reshape(2, -1, a.shape[0])],
)
def test_unnamed_arrays_are_found_by_value_in_any_layout(layout: Any) -> None:
    weights = {
        "kernel": np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32),
        "other": np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32),
    }
    model = {f"constant {number}": layout(array) for number, array in enumerate(weights.values())}
    told = compare(model, weights, named=False)
    assert told.verdict == "pass"
    assert "2 found by value" in told.evidence
    halved = {name: array * np.float32(0.5) for name, array in model.items()}
    assert "folding error: 'kernel', 'other' are 0.5 times" in compare(halved, weights, named=False).evidence


def test_unnamed_arrays_of_another_checkpoint_are_a_finding(weights: dict[str, np.ndarray]) -> None:
    model = {f"constant {number}": array for number, array in enumerate(weights.values())}
    other = {name: array[::-1].copy() for name, array in weights.items()}
    told = compare(model, other, named=False)
    assert told.verdict == "fail"
    assert "wrong checkpoint: 4 of 4" in told.evidence


def test_unnamed_arrays_of_another_architecture_are_an_error(weights: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="no counterpart"):
        compare({"constant": np.ones((2, 2), np.float32)}, weights, named=False)


@pytest.fixture
def folded() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A convolution and its normalisation, and the two arrays that an exporter makes of the six."""
    rng = np.random.default_rng(3)
    reference = {
        "conv.weight": rng.standard_normal((4, 2, 3, 3)),
        "conv.bias": rng.standard_normal(4),
        "norm.weight": rng.uniform(0.5, 2, 4),
        "norm.bias": rng.standard_normal(4),
        "norm.running_mean": rng.standard_normal(4),
        "norm.running_var": rng.uniform(0.5, 2, 4),
    }
    scale = reference["norm.weight"] / np.sqrt(reference["norm.running_var"] + 1e-5)
    shift = reference["norm.bias"] + (reference["conv.bias"] - reference["norm.running_mean"]) * scale
    model = {"conv.weight": reference["conv.weight"] * scale[:, None, None, None], "conv.bias": shift}
    return (
        {name: array.astype(np.float32) for name, array in model.items()},
        {name: array.astype(np.float32) for name, array in reference.items()},
    )


@pytest.mark.parametrize("rename", [False, True])
def test_a_folded_normalisation_is_recognised(folded: Any, rename: bool) -> None:
    model, reference = folded
    if rename:
        model = {f"constant {number}": array for number, array in enumerate(model.values())}
    told = compare(model, reference, named=False)
    assert told.verdict == "pass", told.evidence
    assert "normalisation 'norm' folded into its neighbours (epsilon 1e-05)" in told.evidence


@pytest.mark.parametrize("name", ["conv.weight", "conv.bias"])
def test_a_folded_normalisation_of_another_checkpoint_is_a_finding(folded: Any, name: str) -> None:
    model, reference = folded
    for changed in (model[name] * np.float32(0.7), model[name][::-1].copy()):
        assert compare({**model, name: changed}, reference, named=False).verdict == "fail"
    for other in ("norm.running_var", "norm.bias"):
        wrong = {**reference, other: reference[other][::-1].copy()}
        assert compare(model, wrong, named=False).verdict == "fail"
