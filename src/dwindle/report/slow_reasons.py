"""This file says in words why pruning or integers made a network faster, or why they did not: from two profiles.

Each rule reads figures alone: the profiles of a file before and after, what the two files multiply with, and what the
processor can do. A rule whose figures are missing says nothing. Times are those of profiled calls, so they are
compared with each other and never called a latency.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from dwindle.bench.layer_facts import FileFacts, LayerFacts, is_byte
from dwindle.bench.probes.operator_classes import ENGINE, MULTIPLYING
from dwindle.bench.probes.operator_times import Operation, OperatorProfile
from dwindle.bench.profiled import Profiled
from dwindle.processor import INT8
from dwindle.report.words import fixed, significant

Kind = Literal[
    "zeros", "fewer weights", "integers", "floats", "stored", "islands", "quantizers", "processor", "engine", "rest"
]
WORTH_SAYING: Final = 0.05
"""Shares of the time, and of the weights, below this explain nothing."""
MUCH_BESIDE: Final = 0.2
"""Of a call, outside operations; on a busy machine some of it is noise."""
MUCH_FASTER: Final = 1.2
"""A ratio of profiled times that noise on a busy machine does not reach."""
MUCH_SMALLER: Final = 0.7
"""What is left of a file whose weights are stored in fewer bits."""
LEAST_QUANTIZERS: Final = 2
"""One at the input and one at the output belong to every integer network."""
MOST_NAMED: Final = 3
_MAY_BE_MERGED: Final = ("activation", "normalization", "pooling", "elementwise")


@dataclass(frozen=True, slots=True)
class Reason:
    """One sentence or two, and what they speak of."""

    kind: Kind
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A network before and after compression, on one engine.

    Attributes:
        facts_before: None where the file is opened by its own engine alone; so are `facts_after`.
        bytes_before: of the file; 0 where it is unknown, as in `bytes_after`.
        cpu_features: instructions of the processor, by the names of `processor.FEATURES`; empty where they are unknown.
    """

    before: OperatorProfile
    after: OperatorProfile
    facts_before: FileFacts | None = None
    facts_after: FileFacts | None = None
    bytes_before: int = 0
    bytes_after: int = 0
    cpu_features: Sequence[str] = ()

    @property
    def engine(self) -> str:
        """Name of the engine without its version."""
        return self.after.runtime.partition(" ")[0]

    @property
    def products_before_ms(self) -> float:
        """What convolutions, matrix products and recurrent layers take before."""
        return self.before.ms_of(*MULTIPLYING)

    @property
    def products_after_ms(self) -> float:
        """The same after."""
        return self.after.ms_of(*MULTIPLYING)


def pair_of(before: Profiled, after: Profiled, *, cpu_features: Sequence[str] = ()) -> Pair:
    """Return two profiled files as a pair."""
    return Pair(
        before=before.profile,
        after=after.profile,
        facts_before=before.facts,
        facts_after=after.facts,
        bytes_before=before.size_bytes,
        bytes_after=after.size_bytes,
        cpu_features=cpu_features,
    )


def reasons(pair: Pair) -> tuple[Reason, ...]:
    """Return what the figures say, the reasons that weigh most first in the order of the rules.

    The first that speaks of the time of all products tells it for the others.
    """
    found = [reason for rule in _RULES for reason in rule(pair)]
    times = f": {_products(pair)}"
    telling = next((reason for reason in found if times in reason.words), None)
    return tuple(r if r is telling else replace(r, words=r.words.replace(times, "")) for r in found)


def _zeros(pair: Pair) -> Iterator[Reason]:
    """Say what zeros do for the time: nothing, where the kernels are those of dense weights."""
    after, before = pair.facts_after, pair.facts_before
    if after is None or after.sparsity < WORTH_SAYING or (before and after.sparsity < before.sparsity + WORTH_SAYING):
        return
    kernels = pair.after.of(*MULTIPLYING)
    if any("sparse" in operation.kind.lower() for operation in kernels):
        return
    advice = (
        "Zeros make a file smaller; only whole channels that are cut out, or kernels made for sparse weights, make it "
        "faster."
    )
    if pair.products_before_ms > MUCH_FASTER * pair.products_after_ms:
        advice = "What became faster became so for another reason."
    yield Reason(
        "zeros",
        f"{_percent(after.sparsity)} of the weights are zero, but {pair.engine} multiplies them like any other number "
        f"({_kinds(kernels)}): {_products(pair)}. {advice}",
    )


def _fewer_weights(pair: Pair) -> Iterator[Reason]:
    after, before = pair.facts_after, pair.facts_before
    if after is None or before is None or before.n_weights == 0 or after.n_weights == 0:
        return
    left = after.n_weights / before.n_weights
    if left < 1 - WORTH_SAYING:
        yield Reason("fewer weights", f"{_percent(left)} of the weights are left to multiply: {_products(pair)}.")


def _integers(pair: Pair) -> Iterator[Reason]:
    """Say how many layers run on integers, and why the others do not."""
    facts = pair.facts_after
    kernels = [o for o in pair.after.of(*MULTIPLYING) if o.numbers]
    n = sum(is_byte(operation.numbers) for operation in kernels)
    asks_for_it = facts is not None and not all(map(_is_plain, facts.layers))
    if not kernels or not (n or asks_for_it):
        return
    if n == len(kernels):
        yield Reason("integers", f"All {_operations(kernels)} run on 8-bit integers: {_products(pair)}.")
        return
    why = "; ".join(_why_float(facts, n_integer=n)) if facts is not None else ""
    lead = f"{n} of the {_operations(kernels)} {'run' if n > 1 else 'runs'} on 8-bit integers"
    if n == 0:
        lead = f"None of the {_by_class(kernels)} operations runs on 8-bit integers"
        if len(kernels) == 1:
            lead = f"The {kernels[0].group} operation does not run on 8-bit integers"
    yield Reason("floats", f"{lead}{f' ({why})' if why else ''}: {_products(pair)}.")


def _why_float(facts: FileFacts, *, n_integer: int) -> list[str]:
    found = Counter(reason for layer in facts.layers if (reason := _obstacle(layer)))
    without_kernel = sum(layer.is_int8 and not _obstacle(layer) for layer in facts.layers) - n_integer
    words = [f"{count} layer{_s(count)} {_read(count)} {reason}" for reason, count in found.most_common()]
    if without_kernel > 0:
        words.append(f"{without_kernel} could by what the file says, but the engine has no integer kernel for them")
    return words


def _obstacle(layer: LayerFacts) -> str:
    """Return why integer kernels cannot run a layer, by what the file says; empty where nothing hinders them."""
    if is_byte(layer.inputs):
        return "" if is_byte(layer.weights) else "float weights"
    if layer.inputs.endswith("int16"):
        return "16-bit activations, for which engines on this kind of processor have no kernels"
    return "values that nothing quantizes"


def _is_plain(layer: LayerFacts) -> bool:
    """Return whether a layer is one of floats from end to end."""
    return all(numbers.startswith("float") for numbers in (layer.weights, layer.inputs, layer.outputs))


def _stored(pair: Pair) -> Iterator[Reason]:
    """Say where a file only stores its weights in fewer bits: the engine computes what it computed before."""
    facts, before = pair.facts_after, pair.facts_before
    is_smaller = 0 < pair.bytes_after < MUCH_SMALLER * pair.bytes_before
    if facts is None or before is None or facts.n_quantizers or not is_smaller:
        return
    kernels = pair.after.of(*MULTIPLYING)
    same_numbers = {o.numbers for o in kernels} == {o.numbers for o in pair.before.of(*MULTIPLYING)}
    if facts.n_weights == before.n_weights and same_numbers:
        yield Reason(
            "stored",
            f"The file is {significant(pair.bytes_before / pair.bytes_after, 2)} times smaller, but its weights are "
            f"turned back into floats when it is loaded: {pair.engine} multiplies as many as before, in the same way "
            f"({_kinds(kernels)}).",
        )


def _islands(pair: Pair) -> Iterator[Reason]:
    """Say which operations between integer ones compute in floats, so that values go to floats and back for them."""
    has_integers = any(is_byte(operation.numbers) for operation in pair.after.of(*MULTIPLYING))
    islands = [o for o in pair.after.of(*_MAY_BE_MERGED) if o.numbers.startswith("float")]
    if not has_integers or not islands or pair.after.quantizing.n_operations <= LEAST_QUANTIZERS:
        return
    share = sum(operation.share for operation in islands)
    yield Reason(
        "islands",
        f"Between integer operations {len(islands)} compute{'' if len(islands) > 1 else 's'} in floats "
        f"({_kinds(islands)}; {_percent(share)} of the time), and values go to floats and back for them.",
    )


def _quantizers(pair: Pair) -> Iterator[Reason]:
    """Say what quantizing and dequantizing cost as operations of their own."""
    found, facts = pair.after.quantizing, pair.facts_after
    in_file = 0 if facts is None else facts.n_quantizers
    if found.n_operations == 0:
        if in_file:
            yield Reason(
                "quantizers",
                f"Quantizing and dequantizing take no time of their own: {pair.engine} runs {_none_of(in_file)} of the "
                "file as an operation; they are part of others, or left out.",
            )
        return
    n = found.n_operations
    share = f"{_percent(found.share)} [{_bare(found.low)}, {_bare(found.high)}] of the time of a call"
    merged = f"; the file has {in_file} quantizers, the others are part of other operations"
    yield Reason(
        "quantizers",
        f"Quantizing and dequantizing take {share} ({n} operation{_s(n)} of {'its' if n == 1 else 'their'} own, "
        f"{pair.after.n_runs} runs){merged if in_file > n else ''}.",
    )


def _processor(pair: Pair) -> Iterator[Reason]:
    """Say where integers gain little because the processor has no instruction for them."""
    if not pair.cpu_features or set(INT8) & set(pair.cpu_features):
        return
    kernels = [o for o in pair.after.of(*MULTIPLYING) if is_byte(o.numbers)]
    if kernels:
        yield Reason(
            "processor",
            "This processor has no instruction that sums products of 8-bit integers (VNNI, dot product), so int8 gains "
            "less here than on one that has it.",
        )


def _engine(pair: Pair) -> Iterator[Reason]:
    """Say where a network is so small that an engine is busy with itself: from a call that nothing profiled."""
    whole, n = pair.after.unprofiled_ms, len(pair.after.operations)
    inside = pair.after.wall_ms * pair.after.coverage_of_operations
    beside = (whole - inside) / whole
    if n and beside >= MUCH_BESIDE:
        yield Reason(
            "engine",
            f"{_percent(beside)} of a call passes outside the {n} operations, each of which takes {_ms(inside / n)}. "
            "Smaller numbers do not shorten that; fewer operations or larger batches do.",
        )


def _rest(pair: Pair) -> Iterator[Reason]:
    """Say how much of the time compression of weights could not touch: the bound of Amdahl's law."""
    rest = [c for c in pair.before.classes if c.group not in {*MULTIPLYING, ENGINE}]
    rest_ms = sum(c.ms for c in rest)
    total = rest_ms + pair.products_before_ms
    if total <= 0 or rest_ms / total < 2 * WORTH_SAYING:
        return
    named = ", ".join(f"{c.group} {_percent(c.ms / total)}" for c in rest[:MOST_NAMED] if c.ms >= WORTH_SAYING * total)
    bound = f"at most {significant(total / rest_ms, 2)} times as fast"
    yield Reason(
        "rest",
        f"Before, {_percent(rest_ms / total)} of the time in operations did not go into multiplying with weights"
        f"{f' ({named})' if named else ''}: if multiplying were free, the operations would be {bound}.",
    )


_RULES: Final[tuple[Callable[[Pair], Iterable[Reason]], ...]] = (
    _zeros, _fewer_weights, _integers, _stored, _quantizers, _islands, _processor, _engine, _rest,
)  # fmt: skip


def headline(pair: Pair) -> str:
    """Return what happened to a call, in one sentence."""
    before, after = pair.before.unprofiled_ms, pair.after.unprofiled_ms
    return f"A call took about {_ms(before)} before and {_ms(after)} after ({_ratio_words(before, after)})."


def _products(pair: Pair) -> str:
    """Return what became of the time of all products."""
    before, after = pair.products_before_ms, pair.products_after_ms
    return (
        f"what multiplies takes {_ms(after)} of a call, and took {_ms(before)} before ({_ratio_words(before, after)})"
    )


def _ratio_words(before: float, after: float) -> str:
    """Return how two times compare, where that is more than noise.

    >>> _ratio_words(4.0, 1.0), _ratio_words(4.0, 4.1), _ratio_words(1.0, 2.0)
    ('4.0 times as fast', 'about the same', '2.0 times slower')
    """
    if min(before, after) <= 0:
        return "which no ratio describes"
    ratio = before / after
    if ratio >= MUCH_FASTER:
        return f"{significant(ratio, 2)} times as fast"
    return f"{significant(1 / ratio, 2)} times slower" if ratio <= 1 / MUCH_FASTER else "about the same"


def _operations(kernels: Sequence[Operation]) -> str:
    return f"{len(kernels)} operation{_s(len(kernels))} that multiply ({_by_class(kernels)})"


def _by_class(kernels: Sequence[Operation]) -> str:
    """Return how many operations there are of each class."""
    return " and ".join(f"{n} {group}" for group, n in Counter(o.group for o in kernels).most_common())


def _kinds(kernels: Sequence[Operation]) -> str:
    kinds = Counter(operation.kind for operation in kernels)
    return ", ".join(kind for kind, _ in kinds.most_common(MOST_NAMED))


def _read(count: int) -> str:
    return "reads" if count == 1 else "read"


def _none_of(count: int) -> str:
    return "not the one quantizer" if count == 1 else f"none of the {count} quantizers"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _ms(value: float) -> str:
    return f"{significant(value)} ms"


def _percent(share: float) -> str:
    return f"{_bare(share)} %"


def _bare(share: float) -> str:
    return fixed(100 * share, 0 if share >= 0.095 else 1)
