"""This file reads one outcome of a study from its ledger entry, and refuses what is not one."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, TypeVar, cast

import numpy as np
import numpy.typing as npt

from dwindle.bench.ledger import Entry
from dwindle.errors import StudyError
from dwindle.report.facts import items
from dwindle.studies.make import unpack_bits
from dwindle.studies.shown import CRITERION, LAYER, OF_LAYERS, Quantity

T = TypeVar("T")
Place = frozenset[tuple[str, str]]
"""Where on the axes: (axis, value)."""
TIMED: Final[Mapping[Quantity, str]] = {
    "test_seconds": "test_time",
    "test_cpu_seconds": "test_cpu_time",
    "speedup": "speedup",
    "latency_ms": "latency",
    "memory_bytes": "memory_added",
    "energy_mj": "energy",
}
"""Quantities that each seed has with an interval of its own, and their metrics."""
Label = tuple[str, str, int, str, Place]
"""What tells outcomes apart: network, data, seed, stage and place."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What one outcome's ledger entry says.

    Attributes:
        at: axis -> name of the value.
        key: of the outcome in the plan.
        n: examples of the test split.
        entry: all that was recorded.
        time: when it was recorded.
    """

    network: str
    data: str
    seed: int
    stage: str
    at: Mapping[str, str]
    preset: str
    is_as_published: bool
    key: str
    n: int
    entry: Mapping[str, Any]
    time: datetime

    @property
    def label(self) -> Label:
        """What tells it apart from the others of its variant."""
        return (self.network, self.data, self.seed, self.stage, frozenset(self.at.items()))

    @property
    def words(self) -> str:
        """What a person reads."""
        places = "".join(f", {value}" for value in self.at.values())
        return f"{self.network} on {self.data}, seed {self.seed}: {self.stage}{places}"

    @cached_property
    def right(self) -> npt.NDArray[np.float64]:
        """(n,) percent: 100 where the answer to an example of the test split is right, else 0."""
        return np.where(unpack_bits(self.entry["answers"]["right"], self.n), np.float64(100.0), np.float64(0.0))

    def exact(self, quantity: Quantity, at: Mapping[str, str] | None = None) -> float | None:
        """Return a figure other than accuracy and its drop, of a layer that `at` names; None where it was not recorded.

        Raises:
            StudyError: it is no finite number.
        """
        return self._of_layer(quantity, at or {}) if quantity in OF_LAYERS else _EXACT[quantity](self)

    def _of_layer(self, quantity: Quantity, at: Mapping[str, str]) -> float | None:
        layer = as_table(as_table(self.entry.get("layers")).get(at.get(LAYER, "")))
        if CRITERION in OF_LAYERS[quantity]:
            layer = as_table(as_table(layer.get("criteria")).get(at.get(CRITERION, "")))
        return self._finite(layer.get(quantity), quantity)

    def timed(self, quantity: Quantity) -> tuple[float, float] | None:
        """Return the interval of a time or of a ratio of times; None where `quantity` is neither.

        Raises:
            StudyError: an end of it is no finite number.
        """
        if (metric := TIMED.get(quantity)) is None or (found := self._measurement(metric, "onnx")) is None:
            return None
        low, high = (self._finite(found.get(end), f"{metric}.{end}") for end in ("low", "high"))
        return None if low is None or high is None else (low, high)

    def number(self, name: str) -> float | None:
        """Return the number called `name`; None where it was not recorded.

        Raises:
            StudyError: it is no finite number.
        """
        return self._finite(self.entry.get(name), name)

    @property
    def curve(self) -> list[Mapping[str, Any]]:
        """What each of its own epochs recorded, the first one first.

        Raises:
            StudyError: the history is none.
        """
        return [as_table(epoch) for record in self._records("history") for epoch in items(record, "curve")]

    @property
    def seconds_trained(self) -> float:
        """How long its epochs took, without loading, measuring and what was made again."""
        return sum(self._finite(epoch.get("seconds"), "seconds") or 0.0 for epoch in self.curve)

    def measured(self, metric: str, file: str = "dwn") -> float | None:
        """Return what was measured of the file of this format; None where it was not."""
        found = self._measurement(metric, file)
        return None if found is None else self._finite(found.get("value"), metric)

    def _measurement(self, metric: str, file: str) -> Mapping[str, Any] | None:
        """Return the first one; an entry that does not say which files it measured has one file, a `.dwn`."""
        digest = as_table(self.entry.get("files", {"dwn": None})).get(file, "")
        for measurement in self._records("measurements"):
            is_its = digest is None or measurement.get("artifact") == digest
            if is_its and as_table(measurement.get("metric")).get("name") == metric:
                return measurement
        return None

    @property
    def seconds_per_epoch(self) -> float | None:
        """How long one of its epochs took on average; None where it did not train."""
        seconds, epochs = self.seconds_trained, self.number("epochs")
        return seconds / epochs if seconds and epochs else None

    def times_smaller(self, metric: str) -> float | None:
        """Return the bytes of the dense fp32 weights over a size of the `.onnx`; None where it was not measured."""
        size, n = self.measured(metric, "onnx"), self.number("n_dense_weights")
        return 4.0 * n / size if size and n else None

    @property
    def zip_gain(self) -> float | None:
        """How many times smaller zip makes the `.onnx`."""
        before, after = self.measured("size", "onnx"), self.measured("zipped_size", "onnx")
        return before / after if before and after else None

    def percent(self, metric: str) -> float | None:
        """Return a share that was measured of the `.onnx`, in percent; None where it was not."""
        share = self.measured(metric, "onnx")
        return None if share is None else 100.0 * share

    @property
    def operators(self) -> Mapping[str, float]:
        """The share of each class of operations in the time of a call, in [0, 1]; empty where it was not profiled.

        Raises:
            StudyError: one of them is no finite number.
        """
        shares = as_table(as_table(self.entry.get("profile")).get("shares"))
        found = {name: self._finite(value, f"profile.{name}") for name, value in shares.items()}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def dequantize_share(self) -> float | None:
        """Percent of a call that quantizes or dequantizes; None where it was not profiled."""
        share = self._finite(as_table(self.entry.get("profile")).get("quantizing"), "profile.quantizing")
        return None if share is None else 100.0 * share

    @property
    def std_multiplier(self) -> float | None:
        """What pruning decided; None where nothing was pruned by it."""
        for record in reversed(self._records("history")):
            if "std_multiplier" in (decisions := as_table(record.get("decisions"))):
                return self._finite(decisions["std_multiplier"], "std_multiplier")
        return None

    @property
    def share_kept(self) -> float | None:
        """Weights that pruning kept, of all there are."""
        kept, dense = self.number("n_weights"), self.number("n_dense_weights")
        return None if kept is None or not dense else kept / dense

    def _records(self, name: str) -> list[Mapping[str, Any]]:
        records = self.entry.get(name, [])
        if not isinstance(records, list) or not all(isinstance(item, Mapping) for item in cast("list[Any]", records)):
            raise StudyError(f"{self.words}: {name} is no list of tables; the ledger was changed, restore it")
        return cast("list[Mapping[str, Any]]", records)

    def _finite(self, value: object, name: str) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise StudyError(f"{self.words}: {name} is {value!r}, not a finite number; make this outcome again")
        return float(value)


_EXACT: Final[Mapping[Quantity, Callable[[Outcome], float | None]]] = {
    "std_multiplier": lambda outcome: outcome.std_multiplier,
    "sparsity": lambda outcome: None if (share := outcome.share_kept) is None else 1.0 - share,
    "n_weights": lambda outcome: outcome.number("n_weights"),
    "weight_ratio": lambda outcome: 1.0 / share if (share := outcome.share_kept) else None,
    "size_bytes": lambda outcome: outcome.measured("size"),
    "compression_ratio": lambda outcome: outcome.measured("compression_ratio"),
    "epochs": lambda outcome: outcome.number("epochs"),
    "onnx_bytes": lambda outcome: outcome.measured("size", "onnx"),
    "onnx_ratio": lambda outcome: outcome.times_smaller("size"),
    "zipped_bytes": lambda outcome: outcome.measured("zipped_size", "onnx"),
    "zipped_ratio": lambda outcome: outcome.times_smaller("zipped_size"),
    "zip_gain": lambda outcome: outcome.zip_gain,
    "test_seconds": lambda outcome: outcome.measured("test_time", "onnx"),
    "test_cpu_seconds": lambda outcome: outcome.measured("test_cpu_time", "onnx"),
    "speedup": lambda outcome: outcome.measured("speedup", "onnx"),
    "seconds_per_epoch": lambda outcome: outcome.seconds_per_epoch,
    "top5_accuracy": lambda outcome: outcome.percent("top5_accuracy"),
    "precision": lambda outcome: outcome.percent("precision_macro"),
    "recall": lambda outcome: outcome.percent("recall_macro"),
    "f1": lambda outcome: outcome.percent("f1_macro"),
    "latency_ms": lambda outcome: outcome.measured("latency", "onnx"),
    "memory_bytes": lambda outcome: outcome.measured("memory_added", "onnx"),
    "energy_mj": lambda outcome: outcome.measured("energy", "onnx"),
    "estimated_energy_mj": lambda outcome: outcome.number("estimated_energy_mj"),
    "dequantize_share": lambda outcome: outcome.dequantize_share,
}


def read_outcome(entry: Entry) -> Outcome:
    """Return the outcome that `entry` records.

    Raises:
        StudyError: something of it is missing or is not what it should be.
    """
    data = as_table(entry.data)
    where = f"the outcome recorded at {entry.time}"
    answers = as_table(data.get("answers"))
    n = _of_type(int, answers.get("n"), "answers.n", where=where)
    _check_answers(answers.get("right"), n, where)
    at = as_table(data.get("at"))
    return Outcome(
        network=_of_type(str, data.get("network"), "network", where=where),
        data=_of_type(str, data.get("data"), "data", where=where),
        seed=_of_type(int, data.get("seed"), "seed", where=where),
        stage=_of_type(str, data.get("stage"), "stage", where=where),
        at={axis: _of_type(str, value, f"at.{axis}", where=where) for axis, value in at.items()},
        preset=_of_type(str, data.get("preset"), "preset", where=where),
        is_as_published=_of_type(bool, data.get("is_as_published"), "is_as_published", where=where),
        key=_of_type(str, data.get("key"), "key", where=where),
        n=n,
        entry=data,
        time=read_time(entry.time),
    )


def read_time(text: object) -> datetime:
    """Return the moment that an entry names; UTC where it names no zone.

    Raises:
        StudyError: it names none.
    """
    try:
        moment = datetime.fromisoformat(cast("str", text))
    except (TypeError, ValueError) as error:
        raise StudyError(f"an entry of the ledger says it was written at {text!r}; restore the ledger") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _check_answers(packed: object, n: int, where: str) -> None:
    """Refuse answers that are not `n` bits, eight to a byte; reading them must not invent any."""
    try:
        n_bytes = len(base64.b64decode(_of_type(str, packed, "answers.right", where=where), validate=True))
    except (binascii.Error, ValueError) as error:
        raise StudyError(f"{where}: answers.right is not base64 ({error}); make this outcome again") from error
    if n < 1 or n_bytes != -(-n // 8):
        raise StudyError(f"{where}: {n} answers cannot be packed into {n_bytes} bytes; make this outcome again")


def _of_type(kind: type[T], value: object, name: str, *, where: str) -> T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise StudyError(f"{where} has {name} = {value!r}, not a {kind.__name__}; make it again, or restore the ledger")
    return value


def as_table(value: object) -> Mapping[str, Any]:
    """Return `value` if it is a table, else an empty one."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
