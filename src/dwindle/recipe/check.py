"""This file finds what is wrong with a recipe before anything runs: needs that are not met, and steps out of order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from torch import nn

from dwindle.core.encoding import affine_of, codebook_of, support_of
from dwindle.core.granularity import Granularity, n_scales
from dwindle.errors import SelectionError, SettingError
from dwindle.network.compressed import CompressedModel, FoldedBatchNorm
from dwindle.network.edits import own_edits
from dwindle.network.integer_weights import has_kernel
from dwindle.network.select import Select
from dwindle.recipe.named import name_problems, student_of
from dwindle.recipe.plain import describe_step
from dwindle.recipe.significant import needs_of_selection, select_of
from dwindle.settings import nearest
from dwindle.technique import Needs, Technique, Trait

WHOLE_MODEL: Final = Trait.FOLDED | Trait.QUANTIZED_ACTIVATIONS | Trait.RESHAPED
"""Traits of the network, not of single weights."""
WORDS: Final = {
    Trait.SPARSE: "zeros",
    Trait.CLUSTERED: "codebooks",
    Trait.INTEGER: "integer codes",
    Trait.FOLDED: "folded batch norms",
    Trait.QUANTIZED_ACTIVATIONS: "quantized activations",
    Trait.KERNEL: "integer codes that engines compute with (8 bits or less, one scale for a tensor or for each output)",
    Trait.RESHAPED: "weights of other shapes than in the network given",
}
"""What a step that adds the trait leaves behind."""
REMEDIES: Final = {
    Needs.EXAMPLE: "Context(example=...), one input batch",
    Needs.CALIBRATION: "Context(calibration=...), input batches",
    Needs.LABELS: "Context(validation=...), labelled batches and a loss: network.labelled.Labelled",
    Needs.TRAINING: "Context(trainer=...), for example a FabricTrainer",
    Needs.TEACHER: "Context(teacher=...), the float network",
    Needs.REFERENCE: "Context(reference=...), the network as it was before it was quantized",
    Needs.EARLY: (
        "Context(early=...), the same network early in training (job.toml: [network] early = a checkpoint; a study: "
        "early = a stage)"
    ),
}

Scope = frozenset[str] | Select | None
"""Weights by name where the model is known, else the selection as written; None stands for everything."""


@dataclass(frozen=True, slots=True)
class _Held:
    """One trait, the weights that have it, and the number of the step that left it; 0 is the model given."""

    trait: Trait
    scope: Scope
    cause: int


def find_problems(
    steps: Sequence[Technique],
    offers: Needs,
    traits: Trait,
    *,
    model: CompressedModel | None = None,
    networks: Mapping[str, nn.Module] | None = None,
) -> list[str]:
    """Return everything that is wrong, in the order of the steps.

    Args:
        steps: the techniques in order.
        offers: what the context offers.
        traits: what the model is already.
        model: where given, traits are read from it and selections are resolved, so that steps on different weights
            never clash; without it, steps with different selections are taken to work on different weights.
        networks: by name, what the context offers beside the model's network; None where that is not known.
    """
    network = None if model is None else model.network
    problems: list[str] = []
    held = [_Held(trait, None, 0) for trait in traits] + ([] if model is None else _held_by(model))
    for number, step in enumerate(steps, start=1):
        label = f"step {number}, {describe_step(step)},"
        if missing := (step.needs | needs_of_selection(step)) & ~offers:
            remedy = " and ".join(REMEDIES[need] for need in missing)
            problems.append(f"{label} needs {missing.name}, which the context does not offer; give {remedy}")
        scope: Scope = None
        try:
            scope = _scope(step, network, is_folded=any(h.trait is Trait.FOLDED for h in held))
        except SelectionError as error:
            problems.append(f"{label} {error}")
        problems.extend(f"{label} {problem}" for problem in _order_problems(steps, number, scope=scope, held=held))
        if network is not None and isinstance(scope, frozenset):
            problems.extend(f"{label} {problem}" for problem in _shape_problems(step, network, scope=scope, held=held))
            problems.extend(f"{label} {problem}" for problem in _width_problems(step, network, scope=scope))
        if networks is not None:
            problems.extend(f"{label} {problem}" for problem in name_problems(step, networks))
        if (student := student_of(step)) is not None:
            network = (networks or {}).get(student)
        held = _after(held, step, scope=scope, number=number)
    return problems


def traits_of(model: CompressedModel) -> Trait:
    """Return what `model` is already."""
    traits = Trait.NOTHING
    for held in _held_by(model):
        traits |= held.trait
    return traits


def _held_by(model: CompressedModel) -> list[_Held]:
    structures = {Trait.SPARSE: support_of, Trait.CLUSTERED: codebook_of, Trait.INTEGER: affine_of}
    held: list[_Held] = []
    for trait, part_of in structures.items():
        names = frozenset(name for name, encoding in model.encodings.items() if part_of(encoding) is not None)
        if names:
            held.append(_Held(trait, names, 0))
    engine_ready = frozenset(name for name, encoding in model.encodings.items() if has_kernel(encoding))
    if engine_ready:
        held.append(_Held(Trait.KERNEL, engine_ready, 0))
    if any(isinstance(edit, FoldedBatchNorm) for edit in own_edits(model.edits)):
        held.append(_Held(Trait.FOLDED, None, 0))
    if model.activations:
        held.append(_Held(Trait.QUANTIZED_ACTIVATIONS, None, 0))
    return held


def _scope(step: Technique, network: nn.Module | None, *, is_folded: bool) -> Scope:
    select = select_of(step)
    if select is None:
        return None
    if select.significance is not None:  # which weights these are is not known yet; two sides of one choice never meet
        if network is not None and not is_folded:
            select.pool(network)
        return select
    if network is None or is_folded:  # folding renames and adds parameters: names can no longer be resolved here
        return None if select == Select() else select
    return frozenset(select.resolve(network))


def _overlap(a: Scope, b: Scope) -> bool:
    if isinstance(a, frozenset) and isinstance(b, frozenset):
        return bool(a & b)
    if isinstance(a, Select) and isinstance(b, Select):
        return a == b
    return True


def _covers(outer: Scope, inner: Scope) -> bool:
    if isinstance(outer, frozenset) and isinstance(inner, frozenset):
        return inner <= outer
    return outer is None or outer == inner


def _order_problems(steps: Sequence[Technique], number: int, *, scope: Scope, held: Sequence[_Held]) -> list[str]:
    step = steps[number - 1]
    met = [h for h in held if _overlap(scope, h.scope)]
    missing = [WORDS[trait] for trait in step.effect.requires if not any(h.trait is trait for h in met)]
    problems = (
        [f"needs a model that has {' and '.join(missing)}; put a step that leaves them before it"] if missing else []
    )
    clashes: dict[int, Trait] = {}
    for trait in step.effect.refused:  # the earliest cause is enough: a step that comes before it comes before all
        if causes := [h.cause for h in met if h.trait is trait]:
            clashes[min(causes)] = clashes.get(min(causes), Trait.NOTHING) | trait
    return problems + [_describe_clash(steps, number, cause=cause, clash=clash) for cause, clash in clashes.items()]


def _shape_problems(step: Technique, network: nn.Module, *, scope: frozenset[str], held: Sequence[_Held]) -> list[str]:
    """Return which weights the granularity of `step` does not fit; centroids share one scale, so codebooks do."""
    granularity = getattr(step, "granularity", None)
    if not isinstance(granularity, Granularity):
        return []
    clustered = [h.scope for h in held if h.trait is Trait.CLUSTERED]
    problems: list[str] = []
    for name, parameter in network.named_parameters():
        if name in scope and not any(_overlap(frozenset({name}), codebooks) for codebooks in clustered):
            try:
                n_scales(tuple(parameter.shape), granularity)
            except SettingError as error:
                problems.append(f"{name!r}: {error}")
    return problems


def _width_problems(step: Technique, network: nn.Module, *, scope: frozenset[str]) -> list[str]:
    """Return which patterns in `bits` match no selected layer; recurrent and embedding layers cannot have few bits."""
    bits: Mapping[str, int] | None = getattr(step, "bits", None)
    if not isinstance(bits, Mapping):
        return []
    others = (nn.RNNBase, nn.RNNCellBase, nn.Embedding, nn.EmbeddingBag)
    owners = {name: network.get_submodule(name.rpartition(".")[0]) for name in scope}
    names = [n for n, _ in network.named_parameters() if n in scope and not isinstance(owners[n], others)]
    return [
        f"bits names {pattern!r}, which matches no convolution or linear layer; {nearest(pattern, names)}"
        for pattern in bits
        if not any(fnmatchcase(name, pattern) for name in names)
    ]


def _describe_clash(steps: Sequence[Technique], number: int, *, cause: int, clash: Trait) -> str:
    step = steps[number - 1]
    reason = f", because {' and '.join(step.effect.refuses[trait] for trait in clash)}"
    left = " and ".join(WORDS[trait] for trait in clash)
    if cause == 0:
        return f"cannot start from a model that has {left}{reason}; start from the model before it had them"
    before = steps[cause - 1]
    mutual = bool(before.effect.refused & step.effect.adds)
    remedy = f"keep one of the steps {cause} and {number}" if mutual else f"put step {number} before step {cause}"
    return f"cannot follow step {cause}, {describe_step(before)}, which leaves {left}{reason}; {remedy}"


def _after(held: Sequence[_Held], step: Technique, *, scope: Scope, number: int) -> list[_Held]:
    effect = step.effect
    kept = [h for h in held if not (h.trait & effect.removes and _covers(scope, h.scope))]
    added = [_Held(trait, None if trait & WHOLE_MODEL else scope, number) for trait in effect.adds]
    return [*kept, *added]
