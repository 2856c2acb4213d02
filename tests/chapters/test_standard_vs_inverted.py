"""The claims of the chapter "standard-vs-inverted", each decided by running it.

Most are identities, checked over several p. Two conclusions come from trained networks (digits, 64-100-100-10, standard
dropout at p = .2, .5 and .8, Adam, 300 steps; scored on the test split, nothing chosen on it). Their rules were set on
seeds 0 to 3 and 10 to 13 before the other block below was run.

1. The evaluation pass is nearer to the geometric than to the arithmetic mean over masks: in each network its distance
   to the first is less than half of that to the second.
2. At p = .5 a wrong factor on the followers moves the mean accuracy by less than .015, and the mean NLL grows at least
   1.2-fold if the fold is forgotten and 4-fold if it is done twice or inverted.
3. At p = .2 a forgotten fold raises the NLL by less than a tenth; at p = .8 folding twice costs over .3 of accuracy.

All held in both blocks:

==  ==============================================  ==================  ====================
    figure                                          seeds 0 to 3        seeds 100 to 107
                                                    (chapter)           (long)
==  ==============================================  ==================  ====================
1   distance to the geometric mean, .2, .5, .8      .004, .011, .040    .004, .011, .039
1   distance to the arithmetic mean, .2, .5, .8     .034, .105, .145    .033, .106, .145
2   accuracy right, forgotten, twice, divided, .5   .960 .958 .960      .962 .960 .962 .960
                                                    .958
2   NLL right, forgotten, twice, divided, .5        .147 .213 .903      .143 .191 .898 .696
                                                    .790
3   NLL right and forgotten, .2                     .089 .092           .089 .089
3   accuracy right and twice, .8                    .851 .348           .851 .297
==  ==============================================  ==================  ====================
"""

import itertools
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from dropoutlib.convert import inverted_weights, optimizer_settings, standard_weights
from dropoutlib.data import Dataset, digits
from dropoutlib.layers import InvertedDropout, StandardDropout
from dropoutlib.metrics import accuracy, nll
from dropoutlib.network import Adam, Linear, Sequential, log_softmax, softmax, softmax_cross_entropy
from dropoutlib.twins import Network, multilayer_perceptron, train_twins

RATES = (0.2, 0.5, 0.8)
SETTINGS = {
    "SGD": {"optimizer": "SGD", "lr": 0.1},
    "momentum": {"optimizer": "SGD", "lr": 0.05, "momentum": 0.9},
    "L2": {"optimizer": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3},
    "Adam": {"optimizer": "Adam", "lr": 1e-3},
    "AdamW": {"optimizer": "AdamW", "lr": 1e-3, "weight_decay": 0.1},
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits()


def layer_and_input(seed: int, inputs: int = 10, outputs: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((outputs, inputs)), rng.standard_normal(outputs), rng.standard_normal(inputs)


def all_masks(n: int, p: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2**n masks and the probability of each."""
    masks = np.array(list(itertools.product([0, 1], repeat=n)))
    return masks, np.prod(np.where(masks, 1 - p, p), axis=1)


# --- two functions -------------------------------------------------------------------------------------------------


@pytest.mark.claim("demo-equivalent-inference")
@pytest.mark.parametrize("p", RATES)
def test_with_one_weight_matrix_the_outputs_differ_by_q_everywhere(p: float) -> None:
    rng = np.random.default_rng(0)
    x, W = rng.standard_normal((32, 100)), 0.01 * rng.standard_normal((64, 100))
    standard, inverted = (layer(p).eval()(x) @ W.T for layer in (StandardDropout, InvertedDropout))
    np.testing.assert_allclose(standard, (1 - p) * inverted, rtol=1e-9, atol=1e-12)
    assert not np.allclose(standard, inverted)


@pytest.mark.claim("equivalent-only-if-weights-scaled")
@pytest.mark.parametrize("p", [0.1, *RATES])
def test_outputs_agree_for_mapped_weights_and_for_no_other_factor(p: float) -> None:
    W, b, x = layer_and_input(0)
    for training in (True, False):
        standard, inverted = StandardDropout(p, seed=3), InvertedDropout(p, seed=3)
        standard.training = inverted.training = training
        expected = W @ inverted(x) + b
        h = standard(x)
        np.testing.assert_allclose(standard_weights(W, p) @ h + b, expected, rtol=0, atol=1e-12)
        for factor in (1.0, 1 - p, 1.01 / (1 - p)):
            assert not np.allclose(factor * W @ h + b, expected, rtol=0, atol=1e-6)


@pytest.mark.claim("scale-is-not-one-over-p")
@pytest.mark.parametrize("p", [0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
def test_scaling_by_one_over_p_misses_the_mean_except_at_one_half(p: float) -> None:
    n = 1_000_000
    kept = StandardDropout(p, seed=1)(np.ones(n)).mean()
    bound = 7 * np.sqrt(p * (1 - p) / n)  # two-sided false-alarm rate 2.6e-12
    assert abs(kept / (1 - p) - 1) < bound / (1 - p)
    assert abs(kept / p - (1 - p) / p) < bound / p
    assert abs((1 - p) / p - 1) > 0.5, "the wrong factor is far from 1"


@pytest.mark.claim("scale-is-not-one-over-p")
def test_at_one_half_both_scales_coincide() -> None:
    assert 1 / 0.5 == 1 / (1 - 0.5)


@pytest.mark.claim("same-expected-output-if-affine")
@pytest.mark.parametrize("p", [0.1, *RATES])
def test_average_over_all_masks_is_the_evaluation_pass_of_an_affine_layer(p: float) -> None:
    W, b, x = layer_and_input(1)
    masks, probability = all_masks(10, p)
    standard = probability @ ((masks * x) @ W.T + b)
    inverted = probability @ ((masks * x / (1 - p)) @ W.T + b)
    np.testing.assert_allclose(standard, W @ StandardDropout(p).eval()(x) + b, rtol=0, atol=1e-12)
    np.testing.assert_allclose(inverted, W @ InvertedDropout(p).eval()(x) + b, rtol=0, atol=1e-12)


@pytest.mark.claim("same-expected-output-if-affine")
def test_dependent_masks_keep_the_mean_of_an_affine_layer_too() -> None:
    W, b, x = layer_and_input(2)
    p = 0.3  # all elements dropped together, or none
    average = p * b + (1 - p) * (W @ x + b)
    np.testing.assert_allclose(average, W @ ((1 - p) * x) + b, rtol=0, atol=1e-12)


@pytest.mark.claim("relu-breaks-expectation")
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("seed", range(5))
def test_average_after_relu_lies_above_the_evaluation_pass(p: float, seed: int) -> None:
    W, b, x = layer_and_input(seed)
    masks, probability = all_masks(10, p)
    average = probability @ np.maximum((masks * x) @ W.T + b, 0)
    evaluation = np.maximum((1 - p) * W @ x + b, 0)
    assert np.all(average >= evaluation - 1e-12)
    assert (average - evaluation).max() > 1e-3


@pytest.mark.claim("nwgm-exact-for-one-softmax")
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("seed", range(5))
def test_geometric_mean_over_all_masks_is_the_evaluation_pass_of_one_softmax_layer(p: float, seed: int) -> None:
    W, b, x = layer_and_input(seed)
    masks, probability = all_masks(10, p)
    log_probs = log_softmax((masks * x) @ W.T + b)
    evaluation = softmax((1 - p) * W @ x + b)
    np.testing.assert_allclose(softmax(probability @ log_probs), evaluation, rtol=0, atol=1e-12)
    assert np.abs(probability @ np.exp(log_probs) - evaluation).max() > 1e-3


@pytest.mark.claim("nwgm-exact-for-one-softmax")
def test_geometric_mean_is_not_exact_behind_a_hidden_layer() -> None:
    V, a, x = layer_and_input(0, outputs=8)
    W, b, _ = layer_and_input(1, inputs=8)
    masks, probability = all_masks(10, 0.3)
    log_probs = log_softmax(np.maximum((masks * x) @ V.T + a, 0) @ W.T + b)
    evaluation = softmax(np.maximum(0.7 * V @ x + a, 0) @ W.T + b)
    assert np.abs(softmax(probability @ log_probs) - evaluation).max() > 1e-3


# --- trained networks ----------------------------------------------------------------------------------------------


def trained(data: Dataset, p: float, seed: int) -> Network:
    network = multilayer_perceptron(StandardDropout, p, seed)
    optimizer, rng = Adam(network.net.parameters(), lr=2e-3), np.random.default_rng(seed)
    for _ in range(300):
        rows = rng.integers(0, data.train.y.size, 100)
        _, gradient = softmax_cross_entropy(network.net(data.train.x[rows]), data.train.y[rows])
        network.net.backward(gradient)
        optimizer.step()
    return network


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(range(4), id="chapter"),
        pytest.param(range(100, 108), id="other", marks=pytest.mark.long),
    ],
)
def networks(request: pytest.FixtureRequest, data: Dataset) -> dict[float, list[Network]]:
    return {p: [trained(data, p, seed) for seed in request.param] for p in RATES}


@pytest.mark.claim("deep-net-nearer-geometric")
@pytest.mark.parametrize("p", RATES)
def test_evaluation_pass_of_trained_networks_is_nearer_to_the_geometric_mean(
    data: Dataset, networks: dict[float, list[Network]], p: float
) -> None:
    distances = []
    for network in networks[p]:
        evaluation = softmax(network.net.eval()(data.test.x))
        network.net.train()
        log_probs = np.array([log_softmax(network.net(data.test.x)) for _ in range(200)])
        means = softmax(log_probs.mean(axis=0)), np.exp(log_probs).mean(axis=0)
        distances.append([np.abs(mean - evaluation).sum(axis=1).mean() / 2 for mean in means])
    geometric, arithmetic = np.transpose(distances)
    print(f"p = {p}, {len(geometric)} networks: geometric {geometric.mean():.3f}, arithmetic {arithmetic.mean():.3f}")
    assert np.all(geometric < arithmetic / 2)


def evaluated(data: Dataset, network: Network, weight_factor: float, bias_factor: float = 1.0) -> np.ndarray:
    """Return test probabilities of the bare network with its followers' weights and biases scaled."""
    linears = [layer for layer in network.net.layers if isinstance(layer, Linear)]
    h = data.test.x
    for k, linear in enumerate(linears):
        scale, shift = (weight_factor, bias_factor) if k else (1.0, 1.0)
        h = h @ (scale * linear.weight.value).T + shift * linear.bias.value
        h = np.maximum(h, 0) if k < len(linears) - 1 else h
    return softmax(h)


@pytest.mark.claim("folding-is-exact")
@pytest.mark.parametrize("p", RATES)
def test_folded_network_without_dropout_code_equals_standard_evaluation(
    data: Dataset, networks: dict[float, list[Network]], p: float
) -> None:
    for network in networks[p]:
        expected = softmax(network.net.eval()(data.test.x))
        np.testing.assert_allclose(evaluated(data, network, 1 - p), expected, rtol=0, atol=1e-12)


@pytest.mark.claim("folding-is-exact")
def test_folded_weights_are_the_inverted_networks_weights() -> None:
    W, _, _ = layer_and_input(0)
    for p in RATES:
        np.testing.assert_allclose(inverted_weights(standard_weights(W, p), p), W, rtol=1e-15)


@pytest.mark.claim("fold-only-followers-once")
@pytest.mark.parametrize("p", RATES)
def test_scaling_biases_or_the_first_layer_or_folding_twice_changes_the_function(
    data: Dataset, networks: dict[float, list[Network]], p: float
) -> None:
    q = 1 - p
    for network in networks[p]:
        right = evaluated(data, network, q)
        wrong = {
            "biases too": evaluated(data, network, q, q),
            "twice": evaluated(data, network, q * q),
        }
        first = network.net.layers[0]
        assert isinstance(first, Linear)
        original = first.weight.value
        first.weight.value = q * original
        wrong["all weights"] = evaluated(data, network, q)
        first.weight.value = original
        for name, probs in wrong.items():
            assert np.abs(probs - right).max() > 1e-3, name


@pytest.mark.claim("fold-only-followers-once")
def test_a_network_folded_once_needs_nothing_at_later_inferences(
    data: Dataset, networks: dict[float, list[Network]]
) -> None:
    network = networks[0.2][0]
    linears = [layer for layer in network.net.layers if isinstance(layer, Linear)]
    folded = [(lin.weight.value * (0.8 if k else 1.0), lin.bias.value) for k, lin in enumerate(linears)]
    for _ in range(2):
        h = data.test.x
        for k, (W, b) in enumerate(folded):
            h = h @ W.T + b
            h = np.maximum(h, 0) if k < 2 else h
        np.testing.assert_allclose(softmax(h), softmax(network.net.eval()(data.test.x)), rtol=0, atol=1e-12)


@pytest.mark.claim("accuracy-hides-scale-bugs")
def test_wrong_folds_keep_accuracy_and_spoil_the_likelihood(
    data: Dataset, networks: dict[float, list[Network]]
) -> None:
    def means(p: float, factor: float) -> np.ndarray:
        probs = [evaluated(data, network, factor) for network in networks[p]]
        found = np.mean([[accuracy(f, data.test.y), nll(f, data.test.y)] for f in probs], axis=0)
        print(f"p = {p}, factor {factor:.2f}, {len(probs)} networks: accuracy {found[0]:.3f}, NLL {found[1]:.3f}")
        return found

    right = means(0.5, 0.5)
    for factor, growth in ((1.0, 1.2), (0.25, 4.0), (2.0, 4.0)):
        wrong = means(0.5, factor)
        assert abs(wrong[0] - right[0]) < 0.015
        assert wrong[1] > growth * right[1]
    forgotten_at_low_p = means(0.2, 1.0) / means(0.2, 0.8)
    assert abs(forgotten_at_low_p[0] - 1) < 0.015
    assert forgotten_at_low_p[1] < 1.1, "at p = .2 neither score shows it"
    assert means(0.8, 0.2)[0] - means(0.8, 0.04)[0] > 0.3, "at p = .8 folding twice shows in both"


@pytest.mark.claim("inverted-needs-no-fold")
@pytest.mark.parametrize("p", RATES)
def test_inverted_evaluation_is_bit_for_bit_the_network_without_dropout(data: Dataset, p: float) -> None:
    network = multilayer_perceptron(InvertedDropout, p, seed=0).net.eval()
    bare = Sequential(*(layer for layer in network.layers if not isinstance(layer, InvertedDropout)))
    np.testing.assert_array_equal(network(data.test.x), bare(data.test.x))


# --- two trainings -------------------------------------------------------------------------------------------------


@pytest.mark.claim("exact-training-maps")
@pytest.mark.parametrize("p", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("name", SETTINGS)
def test_exact_maps_give_the_same_training_over_300_steps(data: Dataset, name: str, p: float) -> None:
    run = train_twins(data, SETTINGS[name], p)
    assert run.gaps.size == 300
    assert run.gaps.max() <= 1e-12
    assert run.accuracy_inverted > 0.5, "the networks do learn"
    if p == 0.5:
        assert run.gaps.max() == 0.0


@pytest.mark.claim("exact-training-maps")
@pytest.mark.parametrize("name", SETTINGS)
def test_exact_maps_hold_for_another_seed(data: Dataset, name: str) -> None:
    assert train_twins(data, SETTINGS[name], 0.3, seed=17).gaps.max() <= 1e-12


def wrong_maps(p: float) -> dict[str, tuple[str, dict[str, object]]]:
    l2, adam, adamw = (optimizer_settings(SETTINGS[name], p) for name in ("L2", "Adam", "AdamW"))
    return {
        "same weights, same settings": ("L2", {"initial": "same", "after_dropout": SETTINGS["L2"]}),
        "same weights": ("L2", {"initial": "same"}),
        "same learning rate": ("L2", {"after_dropout": {**l2, "lr": 0.05}}),
        "lr / q": ("L2", {"after_dropout": {**l2, "lr": 0.05 / (1 - p)}}),
        "lr / q**2 on all parameters": ("L2", {"others": l2}),
        "same L2 penalty": ("L2", {"after_dropout": {**l2, "weight_decay": 1e-3}}),
        "Adam with SGD's map": ("Adam", {"after_dropout": {**adam, "lr": 1e-3 / (1 - p) ** 2}}),
        "AdamW with L2's map": ("AdamW", {"after_dropout": {**adamw, "weight_decay": 0.1 * (1 - p) ** 2}}),
        "AdamW with the same decay": ("AdamW", {"after_dropout": {**adamw, "weight_decay": 0.1}}),
    }


@pytest.mark.claim("wrong-training-maps")
@pytest.mark.parametrize("p", [0.3, 0.5])
@pytest.mark.parametrize("wrong", wrong_maps(0.5))
def test_wrong_maps_give_another_training(data: Dataset, wrong: str, p: float) -> None:
    name, keywords = wrong_maps(p)[wrong]
    assert train_twins(data, SETTINGS[name], p, **keywords).gaps[-1] > 1e-3  # type: ignore[arg-type]


@pytest.mark.claim("wrong-training-maps")
@pytest.mark.parametrize("p", [0.3, 0.5])
def test_adam_with_an_unmapped_eps_drifts(data: Dataset, p: float) -> None:
    exact = optimizer_settings(SETTINGS["Adam"], p)
    assert train_twins(data, SETTINGS["Adam"], p, after_dropout={**exact, "eps": 1e-8}).gaps[-1] > 1e-6


@pytest.mark.claim("global-norm-clipping-has-no-map")
@pytest.mark.parametrize("p", [0.3, 0.5])
@pytest.mark.parametrize("name", ["SGD", "momentum"])
def test_global_norm_clipping_breaks_the_map(data: Dataset, name: str, p: float) -> None:
    assert train_twins(data, SETTINGS[name], p, clip_grad_norm=0.5).gaps[-1] > 1e-2
    with pytest.raises(ValueError, match="global norm"):
        optimizer_settings({**SETTINGS[name], "clip_grad_norm": 0.5}, p)


def train_with_batchnorm(data: Dataset, p: float, inverted: bool, eps: float) -> tuple[list[np.ndarray], np.ndarray]:
    """Train 64-100-100-10 with dropout, Linear, BatchNorm in PyTorch; return parameters and running statistics."""
    import torch

    generator = torch.Generator().manual_seed(0)
    sizes = [(64, 100), (100, 100), (100, 10)]
    first, follower, last = (torch.nn.Linear(*size).double() for size in sizes)
    norm = torch.nn.BatchNorm1d(100, eps=eps).double()
    modules = torch.nn.ModuleList([first, follower, norm, last])
    with torch.no_grad():
        for linear in (first, follower, last):
            linear.weight.normal_(0, (2 / linear.in_features) ** 0.5, generator=generator)
            linear.bias.zero_()
    optimizer = torch.optim.SGD(modules.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.tensor(data.train.x), torch.tensor(data.train.y)
    for _ in range(100):
        rows = torch.randint(0, len(y), (100,), generator=generator)
        h = torch.relu(first(x[rows]))
        mask = torch.rand(h.shape, generator=generator, dtype=torch.float64) >= p
        h = torch.relu(norm(follower(h * mask / ((1 - p) if inverted else 1.0))))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(last(h), y[rows]).backward()
        optimizer.step()
    statistics = np.stack([norm.running_mean.numpy(), norm.running_var.numpy()])
    return [parameter.detach().numpy() for parameter in modules.parameters()], statistics


@pytest.mark.claim("batchnorm-cancels-the-factor")
@pytest.mark.parametrize("p", [0.3, 0.8])
def test_behind_batchnorm_the_same_weights_and_settings_give_the_same_training(data: Dataset, p: float) -> None:
    q, eps = 1 - p, 1e-5
    inverted, statistics_i = train_with_batchnorm(data, p, True, eps)
    standard, statistics_s = train_with_batchnorm(data, p, False, q**2 * eps)
    default, _ = train_with_batchnorm(data, p, False, eps)
    gap = max(np.abs(a - b).max() for a, b in zip(inverted, standard, strict=True))
    drift = max(np.abs(a - b).max() for a, b in zip(inverted, default, strict=True))
    assert gap < 1e-9
    assert drift > 1e-4, "with one eps for both they drift"
    np.testing.assert_allclose(statistics_s[0], q * statistics_i[0], atol=1e-9)
    # Running variances start from 1 in both networks: 0.9**100 of that start is left.
    np.testing.assert_allclose(statistics_s[1], q**2 * statistics_i[1], rtol=1e-3)


# --- what the libraries do -----------------------------------------------------------------------------------------

Probe = Callable[..., object]


def torch_functional() -> Probe:
    import torch

    return lambda x, p, training: torch.nn.functional.dropout(torch.from_numpy(x), p, training).numpy()


def torch_module() -> Probe:
    import torch

    def probe(x: np.ndarray, p: float, training: bool) -> np.ndarray:
        result: np.ndarray = torch.nn.Dropout(p).train(training)(torch.from_numpy(x)).numpy()
        return result

    return probe


def keras_layer() -> Probe:
    import keras

    return lambda x, rate, training: np.asarray(keras.layers.Dropout(rate)(x, training=training))


def tensorflow_2() -> Probe:
    import tensorflow as tf

    return lambda x, rate: tf.nn.dropout(x, rate).numpy()


def tensorflow_1() -> Probe:
    import tensorflow as tf

    return lambda x, keep_prob: tf.compat.v1.nn.dropout(x, keep_prob=keep_prob).numpy()


def flax_linen() -> Probe:
    import flax.linen
    import jax

    keys = itertools.count()

    def probe(x: np.ndarray, rate: float, training: bool) -> np.ndarray:
        layer = flax.linen.Dropout(rate, deterministic=not training)
        return np.asarray(layer.apply({}, x, rngs={"dropout": jax.random.key(next(keys))}))

    return probe


def flax_nnx() -> Probe:
    from flax import nnx

    seeds = itertools.count()

    def probe(x: np.ndarray, rate: float, training: bool) -> np.ndarray:
        return np.asarray(nnx.Dropout(rate, deterministic=not training, rngs=nnx.Rngs(next(seeds)))(x))

    return probe


def jax_stax() -> Probe:
    import jax
    from jax.example_libraries import stax

    keys = itertools.count()

    def probe(x: np.ndarray, rate: float, training: bool) -> np.ndarray:
        _, apply = stax.Dropout(rate, mode="train" if training else "test")
        return np.asarray(apply((), x, rng=jax.random.key(next(keys))))

    return probe


def onnx_operator() -> Probe:
    import onnx
    from onnx.reference import ReferenceEvaluator

    info = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Dropout", ["x", "ratio", "training"], ["y"])
    inputs = [
        info("x", onnx.TensorProto.FLOAT, None),
        info("ratio", onnx.TensorProto.FLOAT, []),
        info("training", onnx.TensorProto.BOOL, []),
    ]
    graph = onnx.helper.make_graph([node], "dropout", inputs, [info("y", onnx.TensorProto.FLOAT, None)])
    session = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)]))

    def probe(x: np.ndarray, ratio: float, training: bool) -> object:
        return session.run(None, {"x": x, "ratio": np.float32(ratio), "training": np.bool_(training)})[0]

    return probe


INVERTED_DROPS = {
    "torch function": torch_functional,
    "torch module": torch_module,
    "keras": keras_layer,
    "flax linen": flax_linen,
    "flax nnx": flax_nnx,
    "onnx": onnx_operator,
}


@pytest.mark.claim("who-is-inverted")
@pytest.mark.parametrize("library", INVERTED_DROPS)
def test_libraries_with_inverted_dropout_whose_number_drops(library: str) -> None:
    from dropoutlib.checks import identify

    found = identify(INVERTED_DROPS[library]())
    assert (found.convention, found.argument, found.active_in_evaluation) == ("inverted", "drop", False)


@pytest.mark.claim("who-is-inverted")
def test_tensorflow_2_scales_in_training_and_its_number_drops() -> None:
    probe, x = tensorflow_2(), np.ones((500, 400), np.float32)
    for rate in (0.2, 0.7):
        y = np.asarray(probe(x, rate))
        np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)
        assert abs((y == 0).mean() - rate) < 0.01  # more than 8 standard deviations


@pytest.mark.claim("argument-drop-or-keep")
def test_in_tensorflow_1_the_number_keeps() -> None:
    probe, x = tensorflow_1(), np.ones((500, 400), np.float32)
    for keep in (0.2, 0.9):
        y = np.asarray(probe(x, keep))
        np.testing.assert_allclose(y[y != 0], 1 / keep, rtol=1e-6)
        assert abs((y == 0).mean() - (1 - keep)) < 0.01  # more than 8 standard deviations


@pytest.mark.claim("argument-drop-or-keep")
def test_in_stax_the_number_keeps() -> None:
    from dropoutlib.checks import identify

    found = identify(jax_stax())
    assert (found.convention, found.argument, found.active_in_evaluation) == ("inverted", "keep", False)


PADDLE = """
import sys, warnings
warnings.simplefilter("ignore")
import paddle
from dropoutlib.checks import identify

def dropout(x, p, training):
    y = paddle.nn.functional.dropout(paddle.to_tensor(x), p, training=training, mode=sys.argv[1])
    return y.numpy()

found = identify(dropout)
print(found.convention, found.argument, found.active_in_evaluation)
"""


def paddle_found(mode: str) -> str:
    """Identify Paddle's dropout in a process of its own, since it crashes beside TensorFlow."""
    run = subprocess.run([sys.executable, "-c", PADDLE, mode], capture_output=True, text=True, check=True)
    return run.stdout.splitlines()[-1]


@pytest.mark.claim("paddle-still-standard")
def test_paddle_downscale_mode_is_standard_dropout() -> None:
    assert paddle_found("downscale_in_infer") == "standard drop False"


@pytest.mark.claim("who-is-inverted")
def test_paddle_default_mode_is_inverted_dropout() -> None:
    assert paddle_found("upscale_in_train") == "inverted drop False"
