"""The study of dropout's use: its conclusions, the stored results, and that the code still gives them.

The conclusions below and their rules were written before any result of the two blocks of eight seeds (0 to 7, 1000
to 1007) was seen. Intervals are 95 % intervals by Student's t of the mean over seeds, differences are taken seed by
seed. A conclusion is robust if its rule holds in both blocks; what both blocks found is stored with the scores, in
`dropoutlib/stored/does_it_help_*.json`. A test holds this list against the code.

Digits, 64-[128] x 2-10, 300 training rows unless said otherwise:

- digits-100-half-gains: n = 100: p = .5 is more accurate than none. Rule: test accuracy, difference from no dropout:
  interval above 0
- digits-100-half-lowers-nll: n = 100: p = .5 has a lower NLL. Rule: test NLL, difference from no dropout: interval
  below 0
- digits-300-half-gains: n = 300: p = .5 is more accurate than none. Rule: test accuracy, difference from no dropout:
  interval above 0
- digits-300-half-lowers-nll: n = 300: p = .5 has a lower NLL. Rule: test NLL, difference from no dropout: interval
  below 0
- digits-300-fifth-gains: n = 300: p = .2 is more accurate than none. Rule: test accuracy, difference from no dropout:
  interval above 0
- digits-300-fifth-lowers-nll: n = 300: p = .2 has a lower NLL. Rule: test NLL, difference from no dropout: interval
  below 0
- digits-1000-half-gains-nothing: n = 1,000: p = .5 is not seen to be more accurate than none. Rule: test accuracy,
  difference from no dropout: interval not above 0
- digits-1000-fifth-lowers-nll: n = 1,000: p = .2 has a lower NLL. Rule: test NLL, difference from no dropout:
  interval below 0
- digits-gain-falls-with-rows: p = .5 gains more accuracy at n = 100 than at n = 1,000. Rule: test accuracy above no
  dropout, difference: interval above 0
- digits-narrow-half-loses: width 16, n = 300: p = .5 costs more than .02. Rule: test accuracy, difference from no
  dropout: interval below -0.02
- digits-narrow-fifth-loses: width 16, n = 300: p = .2 is less accurate than none. Rule: test accuracy, difference
  from no dropout: interval below 0
- digits-narrow-fifth-raises-nll: width 16, n = 300: p = .2 has a higher NLL. Rule: test NLL, difference from no
  dropout: interval above 0
- digits-narrow-underfits: width 16, n = 300: p = .5 costs more than .03 of the training accuracy. Rule: final
  training accuracy, difference from no dropout: interval below -0.03
- digits-width-raises-gain: n = 300: p = .5 gains more at width 256 than at width 16. Rule: test accuracy above no
  dropout, difference: interval above 0
- digits-width-raises-gain-from-64: n = 300: p = .5 gains more at width 256 than at width 64. Rule: test accuracy
  above no dropout, difference: interval above 0
- digits-doubling-pays: n = 300: p = .5 at width 128 is more accurate than none at width 64. Rule: test accuracy,
  difference: interval above 0
- digits-doubling-alone: n = 300: without dropout, width 128 is as accurate as width 64 to .01. Rule: test accuracy,
  difference: interval within ±0.01
- digits-rates-flat: n = 300: p = .2 is as accurate as p = .5 to .01. Rule: test accuracy, difference: interval within
  ±0.01
- digits-high-p-raises-nll: n = 300: p = .8 has a higher NLL than none. Rule: test NLL, difference from no dropout:
  interval above 0
- digits-high-p-loses: n = 300: p = .8 is less accurate than none. Rule: test accuracy, difference from no dropout:
  interval below 0
- digits-input-half-loses: n = 300: input p = .5 alone is less accurate than none. Rule: test accuracy, difference
  from no dropout: interval below 0
- digits-input-fifth-gains-nothing: n = 300: input p = .2 alone is not seen to be more accurate than none. Rule: test
  accuracy, difference from no dropout: interval not above 0
- digits-input-spoils-half: n = 300: p = .5 with input p = .2 has a higher NLL than p = .5 alone. Rule: test NLL,
  difference: interval above 0
- digits-low-pair: n = 300: p = .2 with input p = .1 has a lower NLL than p = .5 alone. Rule: test NLL, difference:
  interval below 0
- digits-shallow-lowers-nll: one hidden layer, n = 300: p = .5 has a lower NLL. Rule: test NLL, difference from no
  dropout: interval below 0
- digits-deep-gains-nothing: four hidden layers, n = 300: p = .5 is not seen to be more accurate than none. Rule: test
  accuracy, difference from no dropout: interval not above 0
- digits-depth-spoils: n = 300: p = .5 lowers the NLL less with four hidden layers than with one. Rule: test NLL above
  no dropout, difference: interval above 0
- digits-short-loses: n = 1,000, 60 steps: p = .5 costs more than .02. Rule: test accuracy, difference from no
  dropout: interval below -0.02
- digits-long-same: n = 1,000, 3,000 steps: p = .5 is as accurate as none to .01. Rule: test accuracy, difference from
  no dropout: interval within ±0.01
- digits-tuned-dropout-gains: tuned: dropout is more accurate than neither. Rule: test accuracy, difference: interval
  above 0
- digits-tuned-dropout-lowers-nll: tuned: dropout has a lower NLL than neither. Rule: test NLL, difference: interval
  below 0
- digits-tuned-decay-gains: tuned: weight decay is more accurate than neither. Rule: test accuracy, difference:
  interval above 0
- digits-tuned-decay-lowers-nll: tuned: weight decay has a lower NLL than neither. Rule: test NLL, difference:
  interval below 0
- digits-tuned-same: tuned: dropout is as accurate as weight decay to .01. Rule: test accuracy, difference: interval
  within ±0.01
- digits-tuned-not-above: tuned: dropout is not seen to be more accurate than weight decay. Rule: test accuracy,
  difference: interval not above 0
- digits-tuned-lower-nll: tuned: dropout has a lower NLL than weight decay. Rule: test NLL, difference: interval below
  0
- digits-tuned-both-gain-nothing: tuned: both are not seen to be more accurate than weight decay alone. Rule: test
  accuracy, difference: interval not above 0
- digits-tuned-both-lower-nll: tuned: both have a lower NLL than weight decay alone. Rule: test NLL, difference:
  interval below 0
- digits-survives-removal: without half of its hidden units the dropout network is more than .1 more accurate than the
  plain one without half of its. Rule: accuracy without 0.5: interval above 0.1
- digits-decay-does-not-survive: weight decay gains less than half of that. Rule: accuracy without 0.5, gain less half
  of dropout's: interval below 0
- digits-helpful-in-more-contexts: dropout raises the share of random contexts in which a unit is helpful by more than
  .05. Rule: helpful in halves, difference: interval above 0.05
- digits-decay-not-helpful-in-more: weight decay raises that share by less than .05. Rule: helpful in halves,
  difference: interval below 0.05
- digits-less-correlated: dropout makes hidden units less correlated. Rule: mean |correlation|, difference: interval
  below 0
- digits-hardly-less-correlated: dropout changes their mean |correlation| by less than .05. Rule: mean |correlation|,
  difference: interval within ±0.05
- digits-decay-more-correlated: weight decay makes hidden units more correlated. Rule: mean |correlation|, difference:
  interval above 0
- digits-sparser: under dropout fewer hidden units are active. Rule: share of active units, difference: interval below
  0
- digits-gaussian-as-accurate: Gaussian noise of the same variance, which has no sub-networks, is as accurate as
  dropout to .01. Rule: final test accuracy, difference: interval within ±0.01
- digits-gaussian-nll: Gaussian noise is not seen to have a higher NLL than dropout. Rule: final test NLL, difference:
  interval not above 0
- digits-gaussian-survives: networks trained with Gaussian noise survive the removal of half of their units as well,
  to .03. Rule: accuracy without 0.5, difference: interval within ±0.03
- digits-one-sub-network: one sub-network is more than .02 less accurate than the whole network. Rule: accuracy
  without 0.5, difference from the whole: interval below -0.02
- digits-average-is-the-whole: the average of 50 sub-networks is as accurate as the whole network to .01. Rule:
  accuracy, difference: interval within ±0.01
- digits-average-gains-nothing: the average of 50 sub-networks is not seen to be more accurate than the whole. Rule:
  accuracy, difference: interval not above 0
- digits-geometric-is-the-whole: the geometric mean of 50 sub-networks has the whole network's NLL to .02. Rule: NLL,
  difference: interval within ±0.02
- digits-plain-average-recovers: averaged, 50 sub-networks of the plain network gain more than .1 over one of them.
  Rule: accuracy, difference: interval above 0.1
- digits-alone-beats-shared: a network of half the width, trained alone, is more accurate than one sub-network of the
  dropout network. Rule: accuracy, difference: interval above 0
- digits-averaging-gains: the average of 16 such networks has a lower NLL than one of them. Rule: NLL, difference:
  interval below 0
- digits-ensemble-same: the average of 16 such networks is as accurate as the dropout network to .01. Rule: accuracy,
  difference: interval within ±0.01
- digits-ensemble-nll: the average of 16 such networks has a lower NLL than the dropout network. Rule: NLL,
  difference: interval below 0

MNIST, 784-[128] x 2-10, 600 steps unless said otherwise:

- mnist-100-half-gains-nothing: n = 100: p = .5 is not seen to be more accurate than none. Rule: test accuracy,
  difference from no dropout: interval not above 0
- mnist-100-half-raises-final-nll: n = 100, without early stopping: p = .5 has a higher NLL. Rule: final test NLL,
  difference from no dropout: interval above 0
- mnist-100-both-gain: n = 100: p = .5 with input p = .2 is more accurate than none. Rule: test accuracy, difference
  from no dropout: interval above 0
- mnist-300-both-gain: n = 300: p = .5 with input p = .2 is more accurate than none. Rule: test accuracy, difference
  from no dropout: interval above 0
- mnist-1000-fifth-gains-nothing: n = 1,000: p = .2 is not seen to be more accurate than none. Rule: test accuracy,
  difference from no dropout: interval not above 0
- mnist-1000-half-gains-nothing: n = 1,000: p = .5 is not seen to be more accurate than none. Rule: test accuracy,
  difference from no dropout: interval not above 0
- mnist-1000-half-lowers-nll: n = 1,000: p = .5 has a lower NLL. Rule: test NLL, difference from no dropout: interval
  below 0
- mnist-1000-both-gain: n = 1,000: p = .5 with input p = .2 is more accurate than none. Rule: test accuracy,
  difference from no dropout: interval above 0
- mnist-1000-both-lower-nll: n = 1,000: p = .5 with input p = .2 has a lower NLL. Rule: test NLL, difference from no
  dropout: interval below 0
- mnist-early-stopping-shares: n = 1,000: p = .5 with input p = .2 lowers the NLL less if both are stopped early.
  Rule: test NLL above no dropout, difference: interval above 0
- mnist-3000-short-loses: n = 3,000, 600 steps: p = .5 is less accurate than none. Rule: test accuracy, difference
  from no dropout: interval below 0
- mnist-3000-short-underfits: n = 3,000, 600 steps: p = .5 costs more than .01 of the training accuracy. Rule: final
  training accuracy, difference from no dropout: interval below -0.01
- mnist-3000-long-both-gain-nothing: n = 3,000, 2,000 steps: p = .5 with input p = .2 is not seen to be more accurate
  than none. Rule: test accuracy, difference from no dropout: interval not above 0
- mnist-3000-long-both-lower-nll: n = 3,000, 2,000 steps: p = .5 with input p = .2 has a lower NLL. Rule: test NLL,
  difference from no dropout: interval below 0
- mnist-1000-long-both-gain: n = 1,000, 2,000 steps: p = .5 with input p = .2 is more accurate than none. Rule: test
  accuracy, difference from no dropout: interval above 0
- mnist-narrow-loses: width 16, n = 1,000: p = .5 costs more than .02. Rule: test accuracy, difference from no
  dropout: interval below -0.02
- mnist-wide-lowers-nll: width 256, n = 1,000: p = .5 has a lower NLL. Rule: test NLL, difference from no dropout:
  interval below 0
- mnist-input-fifth-gains: n = 1,000: input p = .2 alone is more accurate than none. Rule: test accuracy, difference
  from no dropout: interval above 0
- mnist-input-half-does-not-lose: n = 1,000: input p = .5 alone is not seen to be less accurate than none. Rule: test
  accuracy, difference from no dropout: interval not below 0
- mnist-tuned-dropout-gains: tuned: dropout is more accurate than neither. Rule: test accuracy, difference: interval
  above 0
- mnist-tuned-dropout-lowers-nll: tuned: dropout has a lower NLL than neither. Rule: test NLL, difference: interval
  below 0
- mnist-tuned-decay-gains: tuned: weight decay is more accurate than neither. Rule: test accuracy, difference:
  interval above 0
- mnist-tuned-decay-lowers-nll: tuned: weight decay has a lower NLL than neither. Rule: test NLL, difference: interval
  below 0
- mnist-tuned-same: tuned: dropout is as accurate as weight decay to .01. Rule: test accuracy, difference: interval
  within ±0.01
- mnist-tuned-not-above: tuned: dropout is not seen to be more accurate than weight decay. Rule: test accuracy,
  difference: interval not above 0
- mnist-tuned-lower-nll: tuned: dropout has a lower NLL than weight decay. Rule: test NLL, difference: interval below
  0
- mnist-tuned-both-gain-nothing: tuned: both are not seen to be more accurate than weight decay alone. Rule: test
  accuracy, difference: interval not above 0
- mnist-tuned-both-lower-nll: tuned: both have a lower NLL than weight decay alone. Rule: test NLL, difference:
  interval below 0
- mnist-survives-removal: without half of its hidden units the dropout network is more than .1 more accurate than the
  plain one without half of its. Rule: accuracy without 0.5: interval above 0.1
- mnist-decay-does-not-survive: weight decay gains less than half of that. Rule: accuracy without 0.5, gain less half
  of dropout's: interval below 0
- mnist-helpful-in-more-contexts: dropout raises the share of random contexts in which a unit is helpful by more than
  .05. Rule: helpful in halves, difference: interval above 0.05
- mnist-decay-not-helpful-in-more: weight decay raises that share by less than .05. Rule: helpful in halves,
  difference: interval below 0.05
- mnist-less-correlated: dropout makes hidden units less correlated. Rule: mean |correlation|, difference: interval
  below 0
- mnist-hardly-less-correlated: dropout changes their mean |correlation| by less than .05. Rule: mean |correlation|,
  difference: interval within ±0.05
- mnist-decay-more-correlated: weight decay makes hidden units more correlated. Rule: mean |correlation|, difference:
  interval above 0
- mnist-sparser: under dropout fewer hidden units are active. Rule: share of active units, difference: interval below
  0
- mnist-gaussian-as-accurate: Gaussian noise of the same variance, which has no sub-networks, is as accurate as
  dropout to .01. Rule: final test accuracy, difference: interval within ±0.01
- mnist-gaussian-nll: Gaussian noise is not seen to have a higher NLL than dropout. Rule: final test NLL, difference:
  interval not above 0
- mnist-gaussian-survives: networks trained with Gaussian noise survive the removal of half of their units as well, to
  .03. Rule: accuracy without 0.5, difference: interval within ±0.03
- mnist-one-sub-network: one sub-network is more than .02 less accurate than the whole network. Rule: accuracy without
  0.5, difference from the whole: interval below -0.02
- mnist-average-is-the-whole: the average of 50 sub-networks is as accurate as the whole network to .01. Rule:
  accuracy, difference: interval within ±0.01
- mnist-average-gains-nothing: the average of 50 sub-networks is not seen to be more accurate than the whole. Rule:
  accuracy, difference: interval not above 0
- mnist-geometric-is-the-whole: the geometric mean of 50 sub-networks has the whole network's NLL to .02. Rule: NLL,
  difference: interval within ±0.02
- mnist-plain-average-recovers: averaged, 50 sub-networks of the plain network gain more than .1 over one of them.
  Rule: accuracy, difference: interval above 0.1

The tabular set, 30-[128] x 2-2:

- cancer-50-gains-nothing: n = 50: p = .5 is not seen to be more accurate than none. Rule: test accuracy, difference
  from no dropout: interval not above 0
- cancer-300-gains-nothing: n = 300: p = .5 is not seen to be more accurate than none. Rule: test accuracy, difference
  from no dropout: interval not above 0
- cancer-300-same: n = 300: p = .5 is as accurate as none to .01. Rule: test accuracy, difference from no dropout:
  interval within ±0.01
- cancer-300-nll: n = 300: p = .5 is not seen to have a lower NLL. Rule: test NLL, difference from no dropout:
  interval not below 0
- cancer-300-final-nll: n = 300, without early stopping: p = .5 has a lower NLL. Rule: final test NLL, difference from
  no dropout: interval below 0
- cancer-tuned-gains-nothing: tuned: dropout is not seen to be more accurate than neither. Rule: test accuracy,
  difference: interval not above 0
- cancer-tuned-not-above: tuned: dropout is not seen to be more accurate than weight decay. Rule: test accuracy,
  difference: interval not above 0
- cancer-tuned-nll: tuned: dropout is not seen to have a lower NLL than weight decay. Rule: test NLL, difference:
  interval not below 0
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dropoutlib.stored import load
from studies import does_it_help, store
from studies import does_it_help_cases as cases
from studies.does_it_help import BLOCKS, CONCLUSIONS, PACKAGES, Block, between, conclusions, difference, gain, run
from studies.does_it_help_cases import ARMS, BASE, COLUMNS, CONTEXTS, hidden_units, sub_networks, usefulness
from studies.does_it_help_training import BATCH, CANCER, Case, Networks, scores, train
from studies.does_it_help_training import load as rows_of
from studies.store import code_digest, progress

DATA = tuple(CONCLUSIONS)
TINY = Case("cancer", 50, steps=20)


@pytest.mark.parametrize("data", DATA)
def test_the_stored_results_belong_to_this_code(data: str) -> None:
    stored = load(f"does_it_help_{data}")["code_sha256"]
    assert stored == code_digest(cases.__name__), f"run python -m studies.does_it_help {data} (some minutes)"


@pytest.mark.parametrize("data", DATA)
def test_the_stored_results_are_complete(data: str) -> None:
    stored = load(f"does_it_help_{data}")
    assert {block: list(seeds) for block, seeds in BLOCKS.items()} == stored["seeds"]
    assert not set(stored["seeds"]["first"]) & set(stored["seeds"]["second"])
    assert stored["columns"] == COLUMNS
    assert list(stored["versions"]) == ["python", *PACKAGES]
    assert stored["cases"] == {case.name: case._asdict() for case in cases.CASES[data]}
    assert len(stored["cases"]) == len(cases.CASES[data]), "two cases share a name"
    measured = {case.name for case in (*cases.MEASURED.get(data, []), *cases.ENSEMBLES.get(data, []))}
    for block in BLOCKS:
        assert {np.shape(values) for values in stored["scores"][block].values()} == {(8, len(COLUMNS))}
        assert set(stored["scores"][block]) == set(stored["cases"])
        assert set(stored["measures"][block]) == measured
        for found in stored["measures"][block].values():
            assert {np.shape(values) for values in found.values()} == {(8,)}


@pytest.mark.parametrize("data", DATA)
def test_the_stored_results_are_small(data: str) -> None:
    assert (store.STORED / f"does_it_help_{data}.json").stat().st_size < 150_000


@pytest.mark.parametrize("data", DATA)
def test_the_stored_conclusions_follow_from_the_stored_scores(data: str) -> None:
    stored = load(f"does_it_help_{data}")
    assert stored["conclusions"] == conclusions(data, stored)


def test_the_docstring_lists_every_conclusion_and_its_rule() -> None:
    listed = re.findall(r"^- (\S+): ((?:.|\n  )+)", str(__doc__), flags=re.MULTILINE)
    found = {key: re.sub(r"\s+", " ", text) for key, text in listed}
    every = [c for cs in CONCLUSIONS.values() for c in cs]
    assert found == {c.id: f"{c.statement}. Rule: {c.measured}: {c.rule.words}" for c in every}
    assert len(found) == len(every), "two conclusions share an id"


@pytest.mark.parametrize("data", DATA)
def test_every_arm_has_the_same_budget_and_shares_its_learning_rates(data: str) -> None:
    assert {len(set(arm)) for arm in ARMS[data].values()} == {8}
    for arm in ARMS[data].values():
        assert sorted({case.lr for case in arm}) == [2e-3, 5e-3]
        assert {(case.data, case.rows, case.width, case.depth, case.steps) for case in arm} == {
            (data, BASE[data].rows, 128, 2, 0)
        }
    assert all(case.p == case.p_input == 0 for case in ARMS[data]["weight decay"])
    assert all(case.weight_decay == 0 for case in ARMS[data]["dropout"])


@pytest.mark.parametrize(
    ("case", "block", "seed"),
    [
        (Case("digits", 300, 0.5, width=16), "first", 3),
        (Case("cancer", 300, 0.5, 0.2), "second", 1004),
        (Case("cancer", 300, lr=5e-3, weight_decay=1.0), "first", 7),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_training_anew_gives_the_stored_scores(case: Case, block: str, seed: int) -> None:
    """One seed alone, where the study trained eight side by side."""
    found, _ = run([case], [seed])
    stored = load(f"does_it_help_{case.data}")["scores"][block][case.name][BLOCKS[block].index(seed)]
    # Rounding differs between machines, and hundreds of steps let it grow.
    for name, one, other in zip(COLUMNS, found[case.name][0], stored, strict=True):
        assert one == pytest.approx(other, rel=0.3 if "NLL" in name else 0, abs=0.03), name


def test_a_tiny_run(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = [TINY, TINY._replace(p=0.5, p_input=0.2), TINY._replace(p=0.5, noise="gaussian")]
    found, measures = run(tiny, [3, 4], bar=progress)
    assert "3/3" in capsys.readouterr().err
    assert not measures
    for case in tiny:
        values = np.array(found[case.name])
        assert values.shape == (2, len(COLUMNS))
        accuracy = values[:, [i for i, name in enumerate(COLUMNS) if "accuracy" in name and "NLL" not in name]]
        assert np.all((accuracy > 0.5) & (accuracy <= 1))
        assert np.all(values > 0)


# --- training


def test_networks_side_by_side_are_the_networks_alone() -> None:
    case = TINY._replace(p=0.4, p_input=0.1)
    together, _ = train(case, [5, 6])
    alone, _ = train(case, [6])
    for both, one in zip(together.weights, alone.weights, strict=True):
        torch.testing.assert_close(both[1], one[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight_decay", [0.0, 0.7])
def test_training_without_noise_is_that_of_torch(weight_decay: float) -> None:
    case = TINY._replace(weight_decay=weight_decay, depth=1)
    rows = rows_of("cancer", 50, (5,))
    start = Networks(case, 30, [5], 0)
    layers = [nn.Linear(30, 128), nn.Linear(128, 2)]
    with torch.no_grad():
        for layer, weight, bias in zip(layers, start.weights, start.biases, strict=True):
            layer.weight.copy_(weight[0].T)
            layer.bias.copy_(bias[0, 0])
    network = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=case.lr, weight_decay=weight_decay)
    draws = np.random.Generator(np.random.PCG64([5, 3, 0])).integers(0, 50, (case.steps, BATCH))
    x, y = rows.train[0][0], rows.train[1][0]
    for batch in draws:
        optimizer.zero_grad()
        cross_entropy(network(x[batch]), y[batch]).backward()
        optimizer.step()
    found, checkpoints = train(case, [5])
    torch.testing.assert_close(found.logits(rows.test[0])[0], network(rows.test[0][0]), rtol=1e-3, atol=1e-3)
    expected = cross_entropy(network(rows.test[0][0]), rows.test[1][0]).detach()
    assert float(checkpoints[-1][0, 2]) == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.statistical(comparisons=8)
@pytest.mark.parametrize("p", [0.2, 0.7])
@pytest.mark.parametrize("noise", ["bernoulli", "gaussian"])
def test_both_noises_have_mean_1_and_the_variance_of_dropout(noise: str, p: float, seed: int, alarm: Any) -> None:
    networks = Networks(Case("cancer", 50, p, noise=noise), 30, [seed], 0)
    factors = networks._noisy(torch.ones(1, 400, 500), 1).double().flatten().numpy()
    v = p / (1 - p)
    # A normal draw has no bound; none of 200,000 is 8 standard deviations off but with a probability of 3e-10.
    bound = 8 * max(v, 1 / v) ** 0.5 if noise == "gaussian" else max(v, 1.0)
    alarm.total(factors.sum(), factors.size, factors.size * v, bound, "mean")
    squares = (factors - 1) ** 2
    fourth = 3 * v**2 if noise == "gaussian" else p + (1 - p) * v**4
    largest = 64 * v if noise == "gaussian" else max(1.0, v**2)
    alarm.total(squares.sum(), factors.size * v, factors.size * (fourth - v**2), largest, "variance")
    if noise == "bernoulli":
        assert set(np.unique(factors.round(5))) == {0.0, np.float64(1 / (1 - p)).round(5)}


def test_only_the_layers_of_the_case_are_noisy() -> None:
    networks = Networks(Case("cancer", 50, 0.3, 0.6), 30, [1], 0)
    assert networks.rates == [0.6, 0.3, 0.3]
    x = torch.rand(1, 7, 30)
    torch.testing.assert_close(networks.logits(x), networks.layers(x)[-1])
    assert not torch.equal(networks.training(x), networks.logits(x))
    still = Networks(Case("cancer", 50), 30, [1], 0)
    assert torch.equal(still.training(x), still.logits(x))


def test_rows_depend_on_the_seed_and_splits_do_not_overlap() -> None:
    one, other = rows_of("digits", 300, (0, 1)), rows_of("digits", 100, (0,))
    assert one.train[0].shape == (2, 300, 64)
    assert not torch.equal(one.train[0][0], one.train[0][1])
    assert torch.equal(one.test[0][0], one.test[0][1])
    assert torch.equal(one.train[0][0, :100], other.train[0][0]), "the smaller set is part of the larger one"
    table = rows_of("cancer", 300, (0, 1))
    assert [part[0].shape[1] for part in table] == list(CANCER)
    assert not torch.equal(table.test[0][0], table.test[0][1]), "the table is split anew for each seed"
    x = table.train[0][0].double()
    np.testing.assert_allclose(x.mean(dim=0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(dim=0, correction=0), 1, atol=1e-5)
    everything = torch.cat([part[0][0] for part in table])
    assert len(torch.unique(everything, dim=0)) == sum(CANCER) == 569


def test_scores_are_nll_and_accuracy() -> None:
    logits = torch.log(torch.tensor([[[0.9, 0.1], [0.4, 0.6]], [[0.2, 0.8], [0.5, 0.5]]]))
    found = scores(logits, torch.tensor([[0, 0], [1, 0]]))
    nll = -np.log([0.9 * 0.4, 0.8 * 0.5]) / 2
    np.testing.assert_allclose(found[:, 0], nll, rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], [0.5, 1.0])


# --- choices


def block(**by_case: Any) -> tuple[Block, list[Case]]:
    """Return a block with one case for each table of scores, (seeds, columns) each given by name."""
    made = [Case("digits", 300, lr=lr) for lr in (1e-3, 3e-3)]
    tables = []
    for name in ("one", "two"):
        columns = {column: np.zeros(2) for column in COLUMNS} | by_case[name]
        tables.append(np.array([columns[column] for column in COLUMNS]).T)
    return Block({case.name: table for case, table in zip(made, tables, strict=True)}, {}), made


def test_validation_rows_choose_by_what_is_compared_and_test_rows_never() -> None:
    found, made = block(
        one={"validation accuracy": [0.9, 0.8], "validation NLL": [0.3, 0.1], "test accuracy": [0.1, 0.2],
             "test NLL": [5.0, 6.0], "final training accuracy": [0.0, 0.0]},
        two={"validation accuracy": [0.8, 0.9], "validation NLL": [0.2, 0.4], "test accuracy": [0.7, 0.8],
             "test NLL": [7.0, 8.0], "final training accuracy": [1.0, 1.0]},
    )  # fmt: skip
    np.testing.assert_array_equal(found.score(made, "test accuracy"), [0.1, 0.8])
    np.testing.assert_array_equal(found.score(made, "test NLL"), [7.0, 6.0])
    np.testing.assert_array_equal(gain(made, made[0])(found), [0.0, 0.8 - 0.2])
    np.testing.assert_array_equal(difference(gain(made[1], made[0]), gain(made, made[0]))(found), [0.7 - 0.1, 0.0])
    np.testing.assert_array_equal(between(made[1], "test NLL", made[0], "test accuracy")(found), [6.9, 7.8])


def test_equal_accuracies_are_told_apart_by_the_nll() -> None:
    same = {"validation accuracy": [0.9, 0.9]}
    found, made = block(
        one={**same, "validation NLL where most accurate": [0.3, 0.2], "test accuracy": [0.1, 0.2]},
        two={**same, "validation NLL where most accurate": [0.2, 0.3], "test accuracy": [0.7, 0.8]},
    )
    np.testing.assert_array_equal(found.score(made, "test accuracy"), [0.7, 0.2])


def test_a_network_is_stopped_where_its_validation_rows_say(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = Networks(TINY, 30, [1], 0)
    # validation NLL, validation accuracy, test NLL, test accuracy
    checkpoints = torch.tensor([[[0.3, 0.9, 1.0, 0.5]], [[0.2, 0.8, 2.0, 0.6]], [[0.4, 0.9, 3.0, 0.7]]])
    monkeypatch.setattr(cases, "train", lambda case, seeds: (networks, list(checkpoints)))
    found = dict(zip(COLUMNS, cases.run(TINY, (1,)).scores[0], strict=True))
    assert (found["final test NLL"], found["final test accuracy"]) == (3.0, 0.7)
    assert (found["validation NLL"], found["test NLL"]) == (0.2, 2.0)
    assert (found["validation accuracy"], found["validation NLL where most accurate"]) == (0.9, 0.3)
    assert found["test accuracy"] == 0.5


# --- measures


def by_hand(hidden: int = 4) -> Networks:
    """Return a network that hands over its inputs as hidden units, and two classes."""
    networks = Networks(Case("cancer", 50, depth=1, width=hidden), hidden, [0], 0)
    with torch.no_grad():
        networks.weights[0].copy_(torch.eye(hidden)[None])
        networks.weights[1].zero_()
        networks.biases[0].zero_()
        networks.biases[1].zero_()
    return networks


@torch.no_grad()
def test_correlation_and_effective_units() -> None:
    draws = torch.rand(1, 2000, 4, generator=torch.Generator().manual_seed(0))
    apart = hidden_units(by_hand(), draws)
    assert float(apart["correlation"]) == pytest.approx(0, abs=0.1)
    assert float(apart["effective units"]) == pytest.approx(4, abs=0.1)
    assert float(apart["active"]) == 1.0
    same = draws[:, :, :1] * torch.tensor([1.0, 2.0, 3.0, 0.0])  # three alike, and one that is constant
    found = hidden_units(by_hand(), same)
    assert float(found["correlation"]) == pytest.approx(1, abs=1e-5)
    assert float(found["effective units"]) == pytest.approx(1, abs=1e-5)
    assert float(found["active"]) == 0.75


@torch.no_grad()
def test_a_unit_is_helpful_where_it_lowers_the_loss() -> None:
    networks = by_hand(2)
    y = torch.zeros(1, 100, dtype=torch.long)
    x = torch.rand(1, 100, 2, generator=torch.Generator().manual_seed(1)) + 0.5
    networks.weights[1][0] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # unit 0 speaks for class 0, which is right
    found = usefulness(networks, x, y)
    assert float(found["helpful in all"]) == 0.5
    assert float(found["helpful in halves"]) == 0.5
    networks.weights[1][0] = torch.tensor([[4.0, 0.0], [0.0, 0.0]])  # unit 1 says nothing
    assert float(usefulness(networks, x, y)["helpful in all"]) == 0.5
    x[:, :, 1] = 1.0  # a constant unit does not count
    assert float(usefulness(networks, x, y)["helpful in all"]) == 1.0


@torch.no_grad()
def test_a_unit_that_only_corrects_another_is_helpful_in_its_company_only() -> None:
    """Unit 1 takes back half of what unit 0 says too loudly; alone it is wrong."""
    networks = by_hand(2)
    x = torch.rand(1, 200, 2, generator=torch.Generator().manual_seed(2)) * 0.1 + 1.0
    y = torch.zeros(1, 200, dtype=torch.long)
    y[:, ::10] = 1  # one row in ten is of the other class: being too sure is costly
    networks.weights[1][0] = torch.tensor([[6.0, 0.0], [-4.0, 0.0]])
    found = usefulness(networks, x, y)
    assert float(found["helpful in all"]) == 1.0
    assert float(found["helpful in halves"]) < 0.9
    assert CONTEXTS == 10


@torch.no_grad()
def test_sub_networks_of_a_network_that_needs_one_unit() -> None:
    networks = by_hand(4)
    networks.weights[1][0, 0] = torch.tensor([5.0, -5.0])
    networks.biases[1][0, 0] = torch.tensor([-1.0, 0.0])
    x, y = torch.ones(1, 50, 4), torch.zeros(1, 50, dtype=torch.long)
    found = sub_networks(networks, x, y)
    # The unit is there, or it is not: 50 sub-networks, each right on all rows or on none.
    for share in cases.ABLATED:
        kept = float(found[f"accuracy without {share}"]) * cases.MASKS
        assert kept == pytest.approx(round(kept), abs=1e-3)
        assert abs(kept - cases.MASKS * (1 - share)) < 18
    assert float(found["arithmetic mean accuracy"]) in (0.0, 1.0)
    there, not_there = -np.log(1 / (1 + np.exp(-19))), -np.log(1 / (1 + np.e))
    share = float(found["accuracy without 0.5"])
    assert float(found["NLL without 0.5"]) == pytest.approx(share * there + (1 - share) * not_there, rel=1e-4)
    mean_logit = share * 19 - (1 - share)
    assert float(found["geometric mean NLL"]) == pytest.approx(np.log1p(np.exp(-mean_logit)), rel=1e-3, abs=1e-6)


def test_members_of_an_ensemble_share_rows_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = train(TINY, [5], member=0)
    other, _ = train(TINY, [5], member=1)
    assert not torch.equal(one.weights[0], other.weights[0])
    monkeypatch.setattr(cases, "MEMBERS", 3)
    found = {name: float(value) for name, value in cases.ensemble(TINY, [5]).items()}
    assert found["ensemble NLL"] < found["one member NLL"] - 1e-3, "members differ"
    assert found["one member accuracy"] > 0.5


# --- the command


def test_the_command_refuses_unknown_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["does_it_help", "wine"])
    with pytest.raises(SystemExit):
        does_it_help.main()
    assert "unknown data wine; known are digits, mnist, cancer" in capsys.readouterr().err


def test_judging_again_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = {}
    monkeypatch.setattr(does_it_help, "save", lambda name, results: saved.update({name: results}))
    monkeypatch.setattr(sys, "argv", ["does_it_help", "cancer", "--judge"])
    does_it_help.main()
    assert saved == {"does_it_help_cancer": load("does_it_help_cancer")}


class Reading(Block):
    """A block that remembers the cases that were asked for."""

    def __init__(self, scores: Mapping[str, Any], measures: Mapping[str, Any]) -> None:
        super().__init__(scores, measures)
        self.read: set[Case] = set()

    def score(self, cases: Case | Sequence[Case], column: str) -> np.ndarray[Any, Any]:
        self.read.update([cases] if isinstance(cases, Case) else cases)
        return super().score(cases, column)

    def measure(self, case: Case, name: str) -> np.ndarray[Any, Any]:
        self.read.add(case)
        return super().measure(case, name)


@pytest.mark.long
@pytest.mark.parametrize("data", DATA)
def test_the_second_block_anew_decides_as_stored(data: str) -> None:
    """Nearly all of the robust conclusions: where an interval nearly touches its bound, a machine may differ.

    Cases that none of them asks for are not trained.
    """
    study = load(f"does_it_help_{data}")
    stored = study["conclusions"]
    robust = [c for c in CONCLUSIONS[data] if stored[c.id]["first"]["holds"] and stored[c.id]["second"]["holds"]]
    known = Reading(study["scores"]["second"], study["measures"]["second"])
    for c in robust:
        does_it_help.judge(c, known)
    needed = [case for case in cases.CASES[data] if case in known.read]
    found = Block(*run(needed, BLOCKS["second"], workers=2, bar=progress))
    again = {c.id: does_it_help.judge(c, found) for c in robust}
    flipped = [name for name, row in again.items() if not row["holds"]]
    for name in flipped:
        print(name, stored[name]["second"]["interval"], again[name]["interval"])
    assert len(flipped) <= len(robust) // 20
