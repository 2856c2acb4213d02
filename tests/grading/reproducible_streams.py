"""Answers to the code questions of "reproducible-streams"."""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from dropoutlib import masks
from tests.grading.proof import Proof, returns

Array = np.ndarray[Any, Any]

# 1


def drawn(rng: np.random.Generator, shape: Any, p: float) -> Any:
    return rng.random(shape) >= p


def by_sequence(shape: Any, p: float, seed: int, layer: int, step: int) -> Any:
    return drawn(np.random.default_rng([seed, layer, step]), shape, p)


def by_spawn_key(shape: Any, p: float, seed: int, layer: int, step: int) -> Any:
    sequence = np.random.SeedSequence(seed, spawn_key=(layer, step))
    return np.random.Generator(np.random.SFC64(sequence)).binomial(1, 1 - p, shape) == 1


def by_philox(shape: Any, p: float, seed: int, layer: int, step: int) -> Any:
    rng = np.random.Generator(np.random.Philox(key=[seed, layer], counter=[0, 0, 0, step]))
    mask = np.empty(shape, bool)
    for i in np.ndindex(mask.shape):
        mask[i] = rng.random() >= p
    return mask


def by_hash(shape: Any, p: float, seed: int, layer: int, step: int) -> Any:
    digest = hashlib.sha256(f"{seed}/{layer}/{step}".encode()).digest()
    return drawn(np.random.default_rng(int.from_bytes(digest, "big")), shape, p)


def by_counters(shape: Any, p: float, seed: int, layer: int, step: int) -> Any:
    """One hash for each element, cut to 64 bits: no generator at all."""
    limit = math.ceil((1 - p) * 2**64)
    flat = []
    for i in range(math.prod(shape)):
        digest = hashlib.blake2b(f"{seed},{layer},{step},{i}".encode(), digest_size=8).digest()
        flat.append(int.from_bytes(digest, "big") < limit)
    return np.array(flat, bool).reshape(shape)


def by_bits(shape: Any, p: float, seed: int, layer: int, step: int) -> Any:
    mask = masks.keyed_mask(shape, p, seed, layer, step)
    return masks.unpack(masks.pack(mask), shape)


def in_place(shape: Any, p: float, seed: int, layer: int, step: int) -> Any:
    draws = np.empty(shape)
    np.random.default_rng((seed << 128) + (layer << 64) + step).random(out=draws)
    return np.greater_equal(draws, p)


def keyed(entropy: Callable[[int, int, int], Any]) -> Callable[..., Any]:
    """Return an answer that seeds a generator by something made of the three numbers."""
    return lambda shape, p, seed, layer, step: drawn(np.random.default_rng(entropy(seed, layer, step)), shape, p)


def by_text(seed: int, layer: int, step: int) -> int:
    return int(hashlib.md5(f"{seed}{layer}{step}".encode()).hexdigest(), 16)


COUNTER = itertools.count()


def with_a_counter(shape: Any, p: float, seed: int, layer: int, step: int) -> Any:
    return drawn(np.random.default_rng([seed, layer, step, next(COUNTER)]), shape, p)


def advanced(shape: Any, p: float, seed: int, layer: int, step: int) -> Any:
    generator = np.random.PCG64(np.random.SeedSequence([seed, layer]))
    return drawn(np.random.Generator(generator.advance(step)), shape, p)


def partly_shared(shape: Any, p: float, seed: int, layer: int, step: int) -> Any:
    mask = by_sequence(shape, p, seed, layer, step)
    if mask.ndim == 2:
        half = shape[0] // 2
        mask[:half] = by_sequence((half, shape[1]), p, seed, 0, 0)
    return mask


KEYED = Proof(
    right={
        "a sequence of three numbers": by_sequence,
        "spawn keys and binomial numbers": by_spawn_key,
        "Philox and a loop": by_philox,
        "SHA-256 of a text": by_hash,
        "a hash for each element": by_counters,
        "the package's own, packed": by_bits,
        "shifted into one number, in place": in_place,
    },
    wrong=(
        (keyed(lambda s, a, t: [a, t]), "The seed is not used"),
        (keyed(lambda s, a, t: [s, t]), "The layer is not used"),
        (keyed(lambda s, a, t: [s, a]), "The step is not used"),
        (keyed(lambda s, a, t: s + a + t), "Adding the numbers up"),
        (keyed(lambda s, a, t: [s, a + t]), "Adding the numbers up"),
        (keyed(lambda s, a, t: [s + t, a]), "Adding the numbers up"),
        (keyed(lambda s, a, t: [s, *sorted((a, t))]), "Layer and step are exchangeable"),
        (keyed(lambda s, a, t: [s, a ^ t]), "exchangeable"),
        (keyed(by_text), "1 and 11 look like 11 and 1"),
        (keyed(lambda s, a, t: [s, a * t, a]), "A product is 0"),
        (keyed(lambda s, a, t: [s, a * t, a > t, 0 if a else t]), "Keep the three numbers apart"),
        (keyed(lambda s, a, t: [s, a, t % 2**32]), "above the 32nd bit"),
        (keyed(lambda s, a, t: [s, 1000 * a + t]), "each weight must be larger"),
        (keyed(lambda s, a, t: [s, 2**16 * a + t]), "each weight must be larger"),
        (with_a_counter, "no generator, counter or clock from outside"),
        (lambda shape, p, *key: np.random.default_rng().random(shape) >= p, "from the arguments alone"),
        (advanced, "their masks overlap"),
        (partly_shared, "a part in common"),
        (lambda *a: ~by_sequence(*a), "does your comparison with p select"),
        (lambda shape, p, *key: np.broadcast_to(by_sequence(shape[-1:], p, *key), shape), "a draw of its own"),
        (lambda shape, p, *key: by_sequence(shape, p or 0.2, *key), "p = 0 drops nothing"),
    ),
)


# 2


class Stream:
    """Keeps a generator; its state is the generator's."""

    def __init__(self, p: float, seed: int) -> None:
        self.p, self.rng = p, np.random.default_rng(seed)

    def draw(self, shape: Any) -> Any:
        return self.rng.random(shape) >= self.p

    def state(self) -> Any:
        return {"p": self.p, "rng": self.rng.bit_generator.state}

    def restore(self, state: Any) -> None:
        self.p = state["p"]
        self.rng.bit_generator.state = state["rng"]


class Counting:
    """Keeps how many numbers were drawn, and draws them again after a break."""

    def __init__(self, p: float, seed: int) -> None:
        self.p, self.seed, self.drawn = p, seed, 0

    def draw(self, shape: Any) -> Any:
        n = math.prod(shape)
        draws = np.random.default_rng(self.seed).random(self.drawn + n)[self.drawn :]
        self.drawn += n
        return (draws >= self.p).reshape(shape)

    def state(self) -> Any:
        return [self.p, self.seed, self.drawn]

    def restore(self, state: Any) -> Any:
        self.p, self.seed, self.drawn = state
        return self


class Keyed:
    """Has no stream: each mask follows from the seed and the number of the mask."""

    def __init__(self, p: float, seed: int) -> None:
        self.p, self.seed, self.step = p, seed, 0

    def draw(self, shape: Any) -> Any:
        self.step += 1
        return masks.keyed_mask(shape, self.p, self.seed, 0, self.step)

    def state(self) -> Any:
        return {"p": self.p, "seed": self.seed, "step": self.step}

    def restore(self, state: Any) -> None:
        vars(self).update(state)


class OldGenerator:
    """The old generator, whose state is a tuple with an array, turned into lists."""

    def __init__(self, p: float, seed: int) -> None:
        self.p, self.rng = p, np.random.RandomState(seed)

    def draw(self, shape: Any) -> Any:
        mask = np.empty(shape, bool)
        for i in np.ndindex(mask.shape):
            mask[i] = self.rng.random_sample() >= self.p
        return mask

    def state(self) -> Any:
        name, words, *rest = self.rng.get_state()
        return [self.p, name, np.asarray(words).tolist(), *rest]

    def restore(self, state: Any) -> None:
        self.p, name, words, *rest = state
        self.rng.set_state((name, np.array(words, np.uint32), *rest))


class RawWords:
    """SFC64 with the package's own masks; its state holds an array of words."""

    def __init__(self, p: float, seed: int) -> None:
        self.p, self.bits = p, np.random.SFC64(seed)

    def draw(self, shape: Any) -> Any:
        return masks.unpack(masks.pack(masks.bernoulli_mask(shape, self.p, self.bits)), shape)

    def state(self) -> Any:
        state: Any = copy.deepcopy(self.bits.state)
        state["state"]["state"] = [int(word) for word in state["state"]["state"]]
        return {"p": self.p, **state}

    def restore(self, state: Any) -> None:
        rest = {key: value for key, value in state.items() if key != "p"}
        rest["state"] = {"state": np.array(rest["state"]["state"], np.uint64)}
        self.p, self.bits.state = state["p"], rest


class OnlyTheSeed(Stream):
    def __init__(self, p: float, seed: int) -> None:
        super().__init__(p, seed)
        self.seed = seed

    def state(self) -> Any:
        return {"p": self.p, "seed": self.seed}

    def restore(self, state: Any) -> None:
        self.__init__(state["p"], state["seed"])  # type: ignore[misc]


class WithoutTheRate(Stream):
    def restore(self, state: Any) -> None:
        self.rng.bit_generator.state = state["rng"]


class CountsMasks(Counting):
    """Counts masks where it should count numbers."""

    def restore(self, state: Any) -> None:
        self.p, self.seed, self.drawn = state

    def state(self) -> Any:
        return [self.p, self.seed, self.drawn // 60]


class PeeksByDrawing(Stream):
    def state(self) -> Any:
        self.rng.random()
        return super().state()


class GoesOnTooLate(Stream):
    def restore(self, state: Any) -> None:
        super().restore(state)
        self.rng.random()


class GoesOnTooEarly(Counting):
    def state(self) -> Any:
        return [self.p, self.seed, max(0, self.drawn - 1)]


class GivesTheGenerator(Stream):
    def state(self) -> Any:
        return self.rng


class GivesWords(RawWords):
    def state(self) -> Any:
        return {"p": self.p, "words": self.bits.state["state"]}  # type: ignore[typeddict-item]


class RestoresNothing(Stream):
    def restore(self, state: Any) -> None:
        self.p = state["p"]


class SeedAtEachDraw(Keyed):
    def draw(self, shape: Any) -> Any:
        return np.random.default_rng(self.seed).random(shape) >= self.p


class NoSeed(Stream):
    def __init__(self, p: float, seed: int) -> None:
        super().__init__(p, None)  # type: ignore[arg-type]


class OneSeed(Stream):
    def __init__(self, p: float, seed: int) -> None:
        super().__init__(p, 1)


class Swapped(Stream):
    def draw(self, shape: Any) -> Any:
        return ~super().draw(shape)


class OnceOnly(Keyed):
    """Restores once, and ignores an older state later."""

    def restore(self, state: Any) -> None:
        if state["step"] + 1 >= self.step or state["seed"] != self.seed:
            super().restore(state)


class TupleKeys(Keyed):
    def state(self) -> Any:
        return {"p": self.p, 1: self.seed, 2: self.step}

    def restore(self, state: Any) -> None:
        self.p, self.seed, self.step = state["p"], state[1], state[2]


STREAM = Proof(
    right={
        "the generator's state": Stream,
        "how many numbers were drawn": Counting,
        "no stream but a key": Keyed,
        "the old generator, in a loop": OldGenerator,
        "raw words and packed masks": RawWords,
    },
    wrong=(
        (OnlyTheSeed, "begin again from the start"),
        (WithoutTheRate, "The rate belongs to the state too"),
        (CountsMasks, "All of that belongs to the state"),
        (PeeksByDrawing, "must not change the stream"),
        (GoesOnTooLate, "1 numbers too late"),
        (GoesOnTooEarly, "1 numbers too early"),
        (GivesTheGenerator, "generators and NumPy's values do not"),
        (GivesWords, "generators and NumPy's values do not"),
        (RestoresNothing, "All of that belongs to the state"),
        (SeedAtEachDraw, "make the generator once"),
        (NoSeed, "The seed decides the whole stream"),
        (OneSeed, "The seed is not used"),
        (Swapped, "does your comparison with p select"),
        (OnceOnly, "also on the same object"),
        (TupleKeys, "keys are text"),
    ),
)


# 3


def spawned(seed: int, workers: int) -> list[int]:
    children = np.random.SeedSequence(seed).spawn(workers)
    return [int(child.generate_state(1, np.uint64)[0]) for child in children]


def hashed(seed: int, workers: int) -> list[int]:
    return [int(hashlib.sha256(f"{seed}:{k}".encode()).hexdigest()[:32], 16) for k in range(workers)]


def from_a_generator(seed: int, workers: int) -> Any:
    return np.random.default_rng(seed).integers(0, 2**63, workers)


def from_raw_words(seed: int, workers: int) -> list[int]:
    return [int(word) for word in np.random.SFC64(seed).random_raw(workers)]


def paired(seed: int, workers: int) -> tuple[int, ...]:
    return tuple((seed << 64) + k for k in range(workers))


def by_keyed_philox(seed: int, workers: int) -> list[int]:
    found = []
    for k in range(workers):
        high, low = np.random.Philox(key=[seed, k]).random_raw(2).tolist()
        found.append(high << 64 | low)
    return found


WORKERS = Proof(
    right={
        "spawned": spawned,
        "hashed": hashed,
        "an array from a generator": from_a_generator,
        "raw words": from_raw_words,
        "a pair in one number": paired,
        "Philox in a loop": by_keyed_philox,
    },
    wrong=(
        (lambda seed, workers: [seed + k for k in range(workers)], "Adding the worker's number"),
        (lambda seed, workers: [seed ^ k for k in range(workers)], "Adding the worker's number"),
        (lambda seed, workers: [seed] * workers, "Two workers with one seed"),
        (lambda seed, workers: [seed * workers + k for k in range(workers)], "must not depend on how many"),
        (lambda seed, workers: [(seed * workers + k) << 64 for k in range(workers)], "must not depend on how many"),
        (lambda seed, workers: [seed * 1000 + k for k in range(workers)], "60 bits or more"),
        (lambda seed, workers: [(seed * 1000 + k) << 60 for k in range(workers)], "lie on ranges that meet"),
        (lambda seed, workers: np.random.default_rng(seed).integers(0, 2**31, workers), "60 bits or more"),
        (lambda seed, workers: np.random.default_rng().integers(0, 2**63, workers), "A run that cannot be repeated"),
        (lambda seed, workers: np.random.default_rng(seed).random(workers).tolist(), "A seed is a whole number"),
        (lambda seed, workers: [-(2**60) - seed * 5000 - k for k in range(workers)], "Seeds are not negative"),
        (
            lambda seed, workers: np.random.default_rng([seed, workers]).integers(0, 2**63, workers),
            "depend on how many",
        ),
    ),
)


# 4


def by_sigmas(sigmas: float = 7.0, chance: Any = None, sides: int = 2) -> Callable[..., bool]:
    """Return a right test, or one with a weakness."""

    def answer(first: Array, second: Array, p: float) -> bool:
        expected = p * p + (1 - p) ** 2 if chance is None else chance(p)
        error = np.sqrt(expected * (1 - expected) / first.size)
        excess = (np.mean(first == second) - expected) / error
        return bool((abs(excess) if sides == 2 else excess) < sigmas)

    return answer


def by_correlation(first: Array, second: Array, p: float) -> Any:
    return abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 8 / np.sqrt(first.size)


def by_table(first: Array, second: Array, p: float) -> Any:
    table = np.einsum("ia,ib->ab", *(np.stack([~m.ravel(), m.ravel()], 1).astype(int) for m in (first, second)))
    expected = np.outer([p, 1 - p], [p, 1 - p]) * first.size
    return np.sum((table - expected) ** 2 / expected) < 80


def by_counting(first: Array, second: Array, p: float) -> bool:
    agree = 0
    for u, v in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True):
        agree += u == v
    share = p * p + (1 - p) ** 2
    return abs(agree - share * first.size) < 7 * (first.size * share * (1 - share)) ** 0.5


def by_packed(first: Array, second: Array, p: float) -> Any:
    differ = np.bitwise_xor(np.packbits(first), np.packbits(second))
    share = np.bitwise_count(differ).sum() / first.size if hasattr(np, "bitwise_count") else (first != second).mean()
    return abs(share - 2 * p * (1 - p)) < 0.03


def by_permutation(first: Array, second: Array, p: float) -> bool:
    rng = np.random.default_rng(0)
    by_chance = [np.mean(first.ravel() == rng.permutation(second.ravel())) for _ in range(8)]
    return bool(abs(np.mean(first == second) - np.mean(by_chance)) < 9 * np.sqrt(p * (1 - p) / first.size))


INDEPENDENT = Proof(
    right={
        "seven standard errors": by_sigmas(),
        "the correlation": by_correlation,
        "a table by einsum": by_table,
        "a loop": by_counting,
        "packed masks, a fixed tolerance": by_packed,
        "permutations": by_permutation,
    },
    wrong=(
        (lambda first, second, p: not np.array_equal(first, second), "agree nowhere"),
        (lambda first, second, p: True, "equal in every element"),
        (lambda first, second, p: False, "were suspected"),
        (by_sigmas(chance=lambda p: 0.5), "That depends on p"),
        (by_sigmas(chance=lambda p: (1 - p) ** 2), "That depends on p"),
        (by_sigmas(chance=lambda p: 2 * p * (1 - p)), "That depends on p"),
        (by_sigmas(sigmas=0.001), "never exact"),
        (by_sigmas(sides=1), "Too little agreement"),
        (
            lambda first, second, p: bool(-0.03 < np.mean(first == second) - p * p - (1 - p) ** 2 < 0.12),
            "Compare the excess with its standard error",
        ),
        (lambda first, second, p: bool(0.04 < np.mean(first == second) < 0.9), "Too little agreement"),
        (
            lambda first, second, p: bool(
                np.mean(first == second) < 0.99 and np.mean(first == second) > p * p + (1 - p) ** 2 - 0.02
            ),
            "Equal in most elements",
        ),
        (lambda first, second, p: bool(abs(np.mean(first) - np.mean(second)) < 0.05), "equal in every element"),
        (lambda first, second, p: bool(np.mean(first == second) < 0.95 and by_sigmas(70)(first, second, p)), "agree"),
    ),
)


# 5

N, P = 300_000, 0.3
PAIRS, SHARE = N * (N - 1) / 2 / 2**32, 0.58


def exactly() -> tuple[Fraction, Fraction]:
    p = Fraction(3, 10)
    return Fraction(math.comb(N, 2), 2**32), p**2 + (1 - p) ** 2


def added_up() -> list[float]:
    return [float(np.arange(N, dtype=np.float64).sum() / 2.0**32), 1 - 2 * P * (1 - P)]


def sampled() -> Array:
    u, v = np.random.default_rng(2).random((2, 1_000_000)) >= P
    return np.array([PAIRS, np.mean(u == v)])


COLLISIONS = Proof(
    given={"N": N, "P": P},
    right={
        "formulas": returns(PAIRS, SHARE),
        "rounded to three digits": returns(10.5, 0.58),
        "fractions": exactly,
        "added up, as a list": added_up,
        "sampled, as an array": sampled,
    },
    wrong=(
        (returns(N / 2**32, SHARE), "How many pairs are there"),
        (returns(N * N / 2**32, SHARE), "Each pair is counted twice"),
        (returns(PAIRS * 2, SHARE), "Each pair is counted twice"),
        (returns(PAIRS / 2**32, SHARE), "the first may be anything"),
        (returns(PAIRS * 2**32 / 32, SHARE), "32 bits have 2^32 values"),
        (returns(PAIRS * 2**32, SHARE), "How likely is it that a pair collides"),
        (returns(1.0, SHARE), "not the probability of at least one"),
        (returns(PAIRS, 0.5), "One half is right at p = .5 only"),
        (returns(PAIRS, 0.49), "They also agree where both drop"),
        (returns(PAIRS, 0.09), "They also agree where both keep"),
        (returns(PAIRS, 0.42), "how often they differ"),
        (returns(PAIRS, 0.7), "Agreement takes two"),
        (returns(PAIRS, 0.99), "Work it out again"),
    ),
)

QUESTIONS = {
    "reproducible-streams.1": KEYED,
    "reproducible-streams.2": STREAM,
    "reproducible-streams.3": WORKERS,
    "reproducible-streams.4": INDEPENDENT,
    "reproducible-streams.5": COLLISIONS,
}
