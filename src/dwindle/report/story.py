"""This file tells how it was done: the stages with seeds and digests, the machine, the method, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from dwindle.report.comparison import best, judged_metric
from dwindle.report.confusion import confusion_of
from dwindle.report.curves import learning_charts
from dwindle.report.facts import ROLES, Data, Facts, items, metric_name, number, table, text
from dwindle.report.layers import histograms_of
from dwindle.report.words import as_name, duration, human_bytes, settings, shape_words

_MAX_DECISION: Final = 2_000
_MAX_LINES: Final = 60
_MACHINE_LABELS: Final = {"cpu": "CPU", "n_cores": "Cores", "memory_bytes": "Memory", "os": "OS", "python": "Python"}
_RUN_LABELS: Final = {
    "name": "Run",
    "version": "dwindle",
    "seed": "Seed",
    "command": "Command",
    "baseline": "Dense baseline",
    "deployed": "Deployed",
}
_DATA_LABELS: Final = {
    "name": "Data set",
    "n_train": "Training examples",
    "n_validation": "Validation examples",
    "n_test": "Test examples",
    "input_shape": "Input shape",
    "input_shapes": "Input shapes",
}

_TIMED: Final = (
    "One call at a time; loading and warm-up are not counted; repeated until the interval of the mean is narrow, or, "
    "marked unstable, until a limit was reached."
)
_PROTOCOLS: Final = {
    "bytes on disk": "The length of the file.",
    "wilson": "Wilson score interval for a share of right answers.",
    "t": "Mean over the examples with its t-interval.",
    "bootstrap": "A figure of all examples together; the interval is that of the same figure on examples drawn again.",
    "cpu time": "Processor time of all threads together, in blocks of calls; other work hardly changes it.",
    "load time": "From the name of the file to a session that is ready; the file was read before.",
    "fresh process": "What a fresh process holds while it loads the file and runs it.",
    "engine's plan": "The memory that the engine itself set aside for what it computes, read out of it; nothing runs.",
    "energy, idle subtracted": "Rest, load, rest in blocks: what a sensor counts during calls, beyond rest.",
    "paired": "Both networks answer the same examples; the interval is that of the difference.",
    "latency": _TIMED,
    "latency, interleaved": f"Dense and compressed take turns in short blocks. {_TIMED}",
    "parity": "The same inputs through the file and through the compressed network in memory.",
}
"""Words of `Measurement.protocol`, in the words of people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of the history, as text."""

    technique: str
    settings: str
    seed: str
    epochs: str
    seconds: str
    digest: str
    decisions: tuple[tuple[str, tuple[str, ...]], ...]


def stages_of(facts: Facts) -> list[Stage]:
    """Return the steps of the recipe in the order they ran."""
    return [_stage(stage) for stage in facts.stages]


def run_details(facts: Facts) -> list[tuple[str, str]]:
    """Return name, version, seed, command and data set of the run, as far as they are known."""
    run = [(label, as_name(facts.run[key])) for key, label in _RUN_LABELS.items() if facts.run.get(key) is not None]
    data = table(facts.run, "data")
    shown = [(_DATA_LABELS.get(key, _label(key)), _shape_or_text(key, value)) for key, value in data.items()]
    shown += [(_label(key), settings(value)) for key, value in table(facts.run, "task").items()]
    seconds = number(facts.summary, "seconds")
    return [*run, *shown, *([("Wall time of the whole run", duration(seconds))] if seconds is not None else [])]


def machine_details(facts: Facts) -> list[tuple[str, str]]:
    """Return the machine's facts: the run's, else the sentence that the measurements carry."""
    machine = table(facts.run, "machine")
    if machine:
        return [(_MACHINE_LABELS.get(key, _label(key)), _machine_text(key, value)) for key, value in machine.items()]
    written = dict.fromkeys(text(m, "machine") for m in facts.measurements)
    return [("Machine", summary) for summary in written if summary]


def files_of(facts: Facts) -> list[tuple[str, ...]]:
    """Return role, file name, format, size and digest of each artifact."""
    rows: list[tuple[str, ...]] = []
    for a in facts.artifacts:
        n_bytes = number(a, "size_bytes")
        size = "" if n_bytes is None else f"{n_bytes:,} bytes"
        rows.append((text(a, "role"), text(a, "path"), text(a, "format"), size, text(a, "sha256"), text(a, "origin")))
    return rows


def method_of(facts: Facts) -> list[tuple[str, str, str]]:
    """Return each protocol, what it means where that is known, and the metrics it was used for."""
    by_protocol: dict[str, list[str]] = {}
    for m in facts.measurements:
        name = metric_name(m).replace("_", " ")
        protocol = text(m, "protocol")
        if protocol and name not in by_protocol.setdefault(protocol, []):
            by_protocol[protocol].append(name)
    return [(protocol, _PROTOCOLS.get(protocol, ""), ", ".join(names)) for protocol, names in by_protocol.items()]


def missing_from(facts: Facts) -> list[str]:
    """Return what a whole ledger would hold and this one does not, a phrase each."""
    quality = judged_metric(facts)
    words = quality.replace("_", " ")
    is_about_classes = quality == "accuracy" or facts.confusions
    checks: list[tuple[object, str]] = [
        (facts.run, "the run itself (name, seed, data)"),
        (table(facts.run, "machine"), "the machine"),
        (text(facts.run, "recipe_toml"), "the recipe"),
        (facts.stages, "the stages of the recipe"),
        (learning_charts(facts), "learning curves (no stage trained, or none reported its epochs)"),
        *((any(text(a, "role") == role for a in facts.artifacts), f"the {role} file") for role in ROLES),
        *((best(facts, role, quality), f"the {words} of the {role} file") for role in ROLES),
        (best(facts, "compressed", f"{quality}_drop"), f"the paired {words} drop as a measurement"),
        (best(facts, "compressed", "compression_ratio"), "the compression ratio as a measurement"),
        *((best(facts, role, "latency_median"), f"the latency of the {role} file") for role in ROLES),
        (best(facts, "compressed", "parity"), "the parity of the compressed file"),
        (facts.tensors, "the bytes of each tensor"),
        (histograms_of(facts), "weight histograms"),
        *((_has_samples(facts, role), f"single latencies of the {role} file") for role in ROLES),
        (confusion_of(facts) or not is_about_classes, "a confusion matrix"),
        (facts.summary, "the summary that a finished run writes"),
    ]
    return [phrase for found, phrase in checks if not found]


def _stage(stage: Data) -> Stage:
    curve = items(stage, "curve")
    seconds = number(stage, "seconds")
    decisions = table(stage, "decisions")
    return Stage(
        technique=text(stage, "technique") or "unnamed stage",
        settings=settings({k: v for k, v in table(stage, "settings").items() if k != "type"}),
        seed=text(stage, "seed"),
        epochs=f"{len(curve):,} epoch{'' if len(curve) == 1 else 's'}" if curve else "",
        seconds="" if seconds is None else duration(seconds),
        digest=text(stage, "digest"),
        decisions=tuple((_label(str(key)), _lines(value)) for key, value in decisions.items()),
    )


def _lines(value: Any) -> tuple[str, ...]:
    """One line for each layer where a decision was made for several, else one line in all."""
    if not isinstance(value, Mapping) or len(cast("Data", value)) < 2:
        return (_shortened(settings(value)),)
    lines = [f"{key}: {_shortened(settings(item))}" for key, item in cast("Data", value).items()]
    if len(lines) > _MAX_LINES:
        lines[_MAX_LINES:] = [f"and {len(lines) - _MAX_LINES:,} more in the ledger"]
    return tuple(lines)


def _shortened(words: str) -> str:
    return words if len(words) <= _MAX_DECISION else f"{words[:_MAX_DECISION]} … (cut here; the ledger has all of it)"


def _label(key: str) -> str:
    words = key.removeprefix("n_").replace("_", " ")
    return words if any(letter.isupper() or letter == "." for letter in words) else words[:1].upper() + words[1:]


def _shape_or_text(key: str, value: Any) -> str:
    if key == "input_shapes" and isinstance(value, list | tuple):
        return " and ".join(shape_words(shape) for shape in cast("list[Any]", value))
    return shape_words(value) if key == "input_shape" and isinstance(value, list | tuple) else settings(value)


def _machine_text(key: str, value: Any) -> str:
    if key.endswith("_bytes") and isinstance(value, int | float) and not isinstance(value, bool):
        return human_bytes(value)
    return settings(value)


def _has_samples(facts: Facts, role: str) -> bool:
    return any(text(s, "role") == role and items(s, "samples_ms") for s in facts.latency_samples)
