"""This file analyzes a network layer by layer: cost, time, dimension, sensitivity, and what to do with each."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from dwindle.bench.batches import as_arrays
from dwindle.bench.machine import this_machine
from dwindle.bench.probes.layer_times import LayerTimes, OperationTime, measure_layer_times
from dwindle.errors import DwindleError, NetworkError, SelectionError, SettingError
from dwindle.job.analysis import Action, Analysis, Judgement, LayerView, Timed
from dwindle.job.counting import counted_scores
from dwindle.job.criteria import BINARIZING, DEFAULT, MAX_VECTORS, NAMED, require_known
from dwindle.job.proposal import proposed_recipe, stored_bits
from dwindle.job.treatments import Findings, treatments
from dwindle.network.capture import capture, first_line
from dwindle.network.compressed import CompressedModel
from dwindle.network.first_use import in_order_of_use
from dwindle.network.inputs import take
from dwindle.network.layer_costs import LayerCost, layer_costs
from dwindle.network.placement import matmul_calls
from dwindle.network.select import Select, weight_names
from dwindle.network.significance.criterion import Evidence, LayerScore
from dwindle.network.significance.representations import Sampling, measure_passages
from dwindle.settings import to_plain
from dwindle.version import VERSION

N_SPECTRUM: Final = 64
"""Inputs whose values the explained variance is taken of."""
MOST_SPECTRA: Final = 12
"""Layers at most whose values these are, spread over the network."""
MAX_COMPONENTS: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a network is analyzed.

    Attributes:
        criteria: names of criteria (`job.criteria.NAMED`); the first that gives scores decides about layers.
        n_examples: how many examples each criterion looks at, at most; None: as many as a minute affords.
        threshold: a layer is significant where its score is above it, by every criterion of the first one's unit; None:
            the higher half of the layers is significant.
        n_runs: timed runs of the file; 0 times nothing.
        select: which weights.
    """

    criteria: tuple[str, ...] = DEFAULT
    n_examples: int | None = None
    threshold: float | None = None
    n_runs: int = 20
    select: Select = Select()  # ruff: ignore[function-call-in-dataclass-default-argument] (frozen)

    def __post_init__(self) -> None:
        require_known(self.criteria)
        if self.n_examples is not None and self.n_examples < 1:
            raise SettingError(f"n_examples must be at least 1, got {self.n_examples}")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise SettingError(f"threshold must be a finite number, got {self.threshold}")
        if self.n_runs < 0:
            raise SettingError(f"n_runs must be 0 (nothing is timed) or more, got {self.n_runs}")


DEFAULTS: Final = Settings()


def analyze(network: nn.Module, evidence: Evidence, *, settings: Settings = DEFAULTS, name: str = "") -> Analysis:
    """Return what is known about each layer of the float `network`, which stays as it is.

    What cannot be found is left out and said: a network that cannot be captured has neither times nor dimensions, and
    without labels no loss can be taken.

    Args:
        network: runs in eval mode.
        evidence: inputs for dimensions, labelled validation data for losses.
        settings: criteria, examples, threshold.
        name: of the page.

    Raises:
        SelectionError: no weight is selected.
        NetworkError: a weight is NaN or infinite.
    """
    names = _sound_names(network, settings.select)
    _report(evidence, "run the network", done=0)
    evidence = _with_graph(network, evidence)
    costs, remark = _costs(network, names, evidence)
    _report(evidence, "run the network", done=1)
    used = _used(network, names, evidence)
    judgements = _judgements(network, evidence, used, settings=settings, costs=costs)
    times, timed = _times(network, evidence, names, n_runs=settings.n_runs)
    decider = next((j for j in judgements if j.scores and j.judged), None)
    multiplied = () if evidence.captured is None else tuple(matmul_calls(evidence.captured))
    plans = treatments(
        Findings(costs=costs, decider=decider, used=used, multiplied=multiplied, **_binarizing(judgements))
    )
    actions: dict[str, Action] = {layer: plans[layer].action for layer in names}
    bits = stored_bits(actions, multiplied=multiplied)
    return Analysis(
        name=name or type(network).__name__,
        layers=tuple(
            LayerView(
                name=layer,
                cost=costs[layer],
                scores={j.name: j.scores[layer] for j in judgements if layer in j.scores},
                significant=tuple(j.name for j in judgements if layer in j.significant),
                treatment=plans[layer],
                stored_bits=bits[layer],
                **_timing(layer, times, names),
            )
            for layer in names
        ),
        judgements=judgements,
        decided_by=decider.name if decider else "",
        spectra=_spectra(network, evidence, names),
        other_bytes=_other_bytes(network, names),
        timed=timed,
        about={"version": VERSION, "seed": evidence.seed, "machine": this_machine().summary()},
        remarks=tuple(filter(None, (remark,))),
        recipe=proposed_recipe(actions, multiplied=multiplied),
    )


def _with_graph(network: nn.Module, evidence: Evidence) -> Evidence:
    """Return `evidence` with the network's graph, so that it is captured once; without where that fails."""
    try:
        return replace(evidence, captured=capture(network, evidence.example))
    except Exception:  # ruff: ignore[blind-except] - a user's own code; whoever needs the graph will say why
        return evidence


def _sound_names(network: nn.Module, select: Select) -> tuple[str, ...]:
    """Return the weights that are selected; refuse to go on with none, or with broken ones."""
    names = select.resolve(network) if weight_names(network) else ()
    if not names:
        raise SelectionError(f"{type(network).__name__} has no convolution, linear, embedding or recurrent layer")
    parameters = dict(network.named_parameters())
    for name in names:
        if not bool(torch.isfinite(parameters[name]).all()):
            raise NetworkError(f"the weights of {name!r} hold NaN or infinity; load a sound checkpoint")
    return names


def _costs(network: nn.Module, names: Sequence[str], evidence: Evidence) -> tuple[dict[str, LayerCost], str]:
    try:
        return layer_costs(network, names, evidence.example), ""
    except Exception as error:  # ruff: ignore[blind-except] - a user's own code; weights can still be judged
        problem = f"The network does not run on the example, so only its weights were judged: {first_line(error)}."
        return layer_costs(network, names, None), problem


def _used(network: nn.Module, names: Sequence[str], evidence: Evidence) -> tuple[str, ...] | None:
    """Return the layers that the network uses, in the order of use; None where it does not run."""
    try:
        return in_order_of_use(network, names, evidence.example)
    except Exception:  # ruff: ignore[blind-except] - a user's own code; what its costs are says why
        return None


def _judgements(
    network: nn.Module,
    evidence: Evidence,
    used: Sequence[str] | None,
    *,
    settings: Settings,
    costs: Mapping[str, LayerCost],
) -> tuple[Judgement, ...]:
    unit = NAMED[settings.criteria[0]].unit
    middle = _middle(costs, used)
    found: list[Judgement] = []
    for criterion in require_known(settings.criteria):
        judgement = _scored(criterion, network, evidence, n_examples=settings.n_examples, costs=costs)
        is_cut = settings.threshold is not None and judgement.unit in {unit, "dimensions", "components"}
        found.append(_cut(judgement, middle, threshold=settings.threshold if is_cut else None))
    return tuple(found)


def _scored(
    name: str, network: nn.Module, evidence: Evidence, *, costs: Mapping[str, LayerCost], n_examples: int | None
) -> Judgement:
    """Return the scores of one criterion, or why it has none."""
    named = NAMED[name]
    criterion = named.make(n_examples or named.n_affordable(costs.values()))
    started = time.process_time()
    judgement = Judgement(name=name, title=named.title, unit=named.unit, settings=to_plain(criterion))
    missing = _missing(criterion.needs_inputs and evidence.inputs is None, criterion.needs_labels, evidence)
    if missing:
        return replace(judgement, problem=missing)
    try:
        scores = counted_scores(criterion, network, evidence, names=tuple(costs))
    except DwindleError as error:
        return replace(judgement, problem=str(error), seconds=time.process_time() - started)
    except Exception as error:  # ruff: ignore[blind-except] - a user's own network; other criteria may still work
        return replace(judgement, problem=first_line(error), seconds=time.process_time() - started)
    ordered = {layer: scores[layer] for layer in costs if layer in scores and math.isfinite(scores[layer].value)}
    problem = "" if ordered else "it could judge no layer of this network"
    return replace(judgement, scores=ordered, problem=problem, seconds=time.process_time() - started)


def _missing(lacks_inputs: object, needs_labels: object, evidence: Evidence) -> str:
    if lacks_inputs:
        return "there are no inputs to look at"
    return "there are no labelled validation data" if needs_labels and evidence.validation is None else ""


def _middle(costs: Mapping[str, LayerCost], used: Sequence[str] | None) -> list[str]:
    """Return the layers that are called, less those that are used first and last; in the order of `costs`."""
    called = [name for name, cost in costs.items() if cost.n_calls != 0]
    order = used or called
    return [name for name in called if name not in {*order[:1], *order[-1:]}]


def _cut(judgement: Judgement, names: Sequence[str], *, threshold: float | None) -> Judgement:
    """Return it with what is significant among the layers `names`, those between the first and the last."""
    scores: dict[str, LayerScore] = {n: judgement.scores[n] for n in names if n in judgement.scores}
    if not scores:
        return judgement
    ordered = sorted((score.value for score in scores.values()), reverse=True)
    n_high = math.ceil(len(ordered) / 2)
    cut = threshold
    if cut is None:  # in the middle of the gap below the higher half
        cut = (ordered[n_high - 1] + ordered[n_high]) / 2 if n_high < len(ordered) else ordered[-1] - 1
    significant = tuple(name for name, score in scores.items() if score.value > cut)
    shown = cut if threshold is not None or n_high < len(ordered) else None
    return replace(judgement, judged=tuple(scores), significant=significant, cut=shown)


def _binarizing(judgements: Iterable[Judgement]) -> dict[str, Any]:
    found = next((j for j in judgements if j.name == BINARIZING and j.scores), None)
    if found is None:
        return {}
    base = next(iter(found.scores.values())).details.get("loss_before")
    return {"binarizing": {name: score.value for name, score in found.scores.items()}, "base_loss": base}


def _times(
    network: nn.Module, evidence: Evidence, names: Sequence[str], *, n_runs: int
) -> tuple[LayerTimes | None, Timed]:
    """Write the network as a fp32 `.onnx` file and profile the engine on one example."""
    if n_runs == 0:
        return None, Timed(problem="no time was asked for")
    from dwindle.exporters.graph import build_graph  # onnx is heavy and optional
    from dwindle.exporters.onnx import OnnxExporter

    _report(evidence, "time the layers", done=0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            dense = CompressedModel.dense(network)
            graph = build_graph(dense, evidence.example, captured=evidence.captured)
            file = OnnxExporter().export(dense, evidence.example, Path(folder) / "dense.onnx", graph=graph)
            inputs = as_arrays(take(evidence.example, slice(0, 1)))
            times = measure_layer_times(file, inputs, names, n_runs=n_runs)
    except Exception as error:  # ruff: ignore[blind-except] - torch, onnx and the user's code raise what they like
        reason = str(error) if isinstance(error, DwindleError) else first_line(error)
        return None, Timed(problem=reason)
    _report(evidence, "time the layers", done=1)
    timed = Timed(
        total_ms=times.total_ms,
        others=times.others,
        runtime=times.runtime,
        n_runs=times.n_runs,
        n_threads=times.n_threads,
    )
    return times, timed


def _timing(layer: str, times: LayerTimes | None, names: Sequence[str]) -> dict[str, Any]:
    """Return time, merged operations and companions of a layer; the first of companions carries the time."""
    operations: tuple[OperationTime, ...] = () if times is None else times.of(layer)
    if not operations:
        return {}
    together = [name for name in names if any(name in operation.layers for operation in operations)]
    return {
        "time_ms": sum(operation.ms for operation in operations) if together[0] == layer else 0.0,
        "operations": tuple(kind for operation in operations for kind in operation.operations),
        "timed_with": tuple(name for name in together if name != layer),
    }


def _spectra(network: nn.Module, evidence: Evidence, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Return by layer which share of the variance of its values the first components explain, most first."""
    noted: list[tuple[float, ...]] = []

    def note(points: Tensor) -> float:
        noted.append(explained_variance(points))
        return float(len(noted) - 1)

    if evidence.inputs is None:
        return {}
    sampling = Sampling(view="channels", n_examples=N_SPECTRUM, max_points=MAX_VECTORS, n_least=2)
    some = names[:: math.ceil(len(names) / MOST_SPECTRA)]
    try:
        passages = measure_passages(network, evidence, some, sampling=sampling, estimate=note)
    except Exception:  # ruff: ignore[blind-except] - the criteria have said why by then
        return {}
    found = {name: noted[int(calls[0].after)] for name, calls in passages.items()}
    return {name: found[name] for name in names if found.get(name)}


def explained_variance(points: Tensor) -> tuple[float, ...]:
    """Return the share of the variance of `points` (n, d) that their first 1, 2, ... principal components explain.

    Empty where the points do not vary.

    >>> explained_variance(torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]]))
    (1.0, 1.0)
    """
    centred = (points - points.mean(0)).double()
    scatter = centred.T @ centred if centred.shape[0] >= centred.shape[1] else centred @ centred.T
    values = torch.linalg.eigvalsh(scatter).clamp(min=0).flip(0)
    total = float(values.sum())
    if not total > 0:
        return ()
    shares = (values.cumsum(0) / total).clamp(max=1.0)
    return tuple(float(share) for share in shares[:MAX_COMPONENTS])


def _other_bytes(network: nn.Module, names: Sequence[str]) -> int:
    chosen = set(names)
    parameters = (tensor for name, tensor in network.named_parameters() if name not in chosen)
    return 4 * sum(tensor.numel() for tensor in (*parameters, *network.buffers()))


def _report(evidence: Evidence, what: str, *, done: int) -> None:
    if evidence.report_progress is not None:
        evidence.report_progress(what, done, 1)
