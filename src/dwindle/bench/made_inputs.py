"""This file makes inputs for a file that comes without any: random ones of the shapes it declares, or those of a .npz.

How fast a network runs hardly depends on the values, but indices must be in range: whole numbers wider than a byte are
0, which every table has.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dwindle.bench.batches import Batch, is_finite
from dwindle.errors import DataError, SettingError
from dwindle.runtimes.protocol import Array, InputSpec
from dwindle.settings import nearest

TARGETS = ("targets", "target", "labels", "y")
"""Names under which a .npz may hold what is true."""
_ARRAY = b"\x93NUMPY"
"""First bytes of a single array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """What to fill in where a file leaves a size open.

    Attributes:
        batch: the first axis; None is 1, or what the file fixes.
        by_name: whole shapes of single inputs, batch included.
        seed: of the random values.
    """

    batch: int | None = None
    by_name: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise SettingError(f"the batch must be at least 1, got {self.batch}")
        for name, shape in self.by_name.items():
            if any(size < 1 for size in shape):
                raise SettingError(f"the shape {shape} of {name!r} holds a size below 1")


def made_inputs(specs: Sequence[InputSpec], shapes: Shapes) -> tuple[Array, ...]:
    """Return one array for each input.

    Raises:
        DataError: a size that the file leaves open is not given, contradicts the file, or a type cannot be made.
    """
    names = [spec.name for spec in specs]
    for name in shapes.by_name:
        if name not in names:
            raise DataError(f"the file has no input {name!r}; {nearest(name, names)}")
    generator = np.random.default_rng(shapes.seed)
    return tuple(_values(spec, _shape(spec, shapes), generator) for spec in specs)


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Return the name and the shape in `name=1x3x224x224`.

    Raises:
        SettingError: it is not of that form.

    >>> parse_shape("image=1x3x8x8")
    ('image', (1, 3, 8, 8))
    """
    name, _, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.lower().split("x"))
    except ValueError:
        shape = ()
    if not name or not shape:
        raise SettingError(f"--shape {text!r} is no shape; write it as name=1x3x224x224")
    return name, shape


def read_npz(path: Path) -> dict[str, Array]:
    """Return the arrays of the .npz file at `path`.

    Raises:
        DataError: it cannot be read, is no .npz, or holds Python objects.
    """
    try:
        with path.open("rb") as file:
            _require_archive(file.read(len(_ARRAY)), path)
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return {name: _numbers(stored, name, path) for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path} cannot be read as .npz ({error}); write it with numpy.savez") from error


def _require_archive(start: bytes, path: Path) -> None:
    """Say what a file is that is no archive: NumPy takes everything unknown for a pickle."""
    if start.startswith(_ARRAY):
        raise DataError(f"{path} is a single array; save it with numpy.savez and a name for each array")
    if not start.startswith(b"PK"):
        raise DataError(
            f"{path} cannot be read as .npz: it is no archive of arrays (its first bytes are {start!r}); write it with "
            "numpy.savez"
        )


def _numbers(stored: Mapping[str, Array], name: str, path: Path) -> Array:
    try:
        return stored[name]
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise DataError(
            f"{path}: {name!r} holds Python objects, not numbers (rows of several lengths, say); save numbers"
        ) from error


def inputs_of(arrays: Mapping[str, Array], specs: Sequence[InputSpec], *, path: Path) -> tuple[Array, ...]:
    """Return the arrays for the inputs of a file in its order; of a single one the name does not matter.

    Raises:
        DataError: an input is missing, or holds values that are not finite: quantizers turn NaN into a number, so the
            answers of one file would tell and those of another would not.
    """
    given = {name: array for name, array in arrays.items() if name not in TARGETS}
    names = [spec.name for spec in specs]
    if not all(map(is_finite, given.values())):
        raise DataError(f"the inputs in {path} hold NaN or infinite values; repair the data")
    if len(names) == len(given) == 1:
        return tuple(given.values())
    if missing := [name for name in names if name not in given]:
        raise DataError(
            f"{path} lacks {', '.join(missing)} (it holds {', '.join(arrays) or 'nothing'}); save an array for each "
            f"input under its name: {', '.join(names)}"
        )
    return tuple(given[name] for name in names)


def labelled_batch(path: Path, specs: Sequence[InputSpec]) -> Batch:
    """Return the inputs and targets in the .npz file at `path`, all in one batch.

    Raises:
        DataError: there are no targets, or the arrays differ in number of examples.
    """
    arrays = read_npz(path)
    named = next((name for name in TARGETS if name in arrays), None)
    if named is None:
        raise DataError(
            f"{path} holds {', '.join(arrays) or 'nothing'} but no targets; save them under the name {TARGETS[0]!r}"
        )
    inputs, targets = inputs_of(arrays, specs, path=path), arrays[named]
    lengths = {array.shape[:1] for array in (*inputs, targets)}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise DataError(f"{path} holds {shapes}; inputs and targets need one first axis of equal length, not empty")
    return Batch(inputs=inputs, targets=targets)


def cut(batch: Batch, size: int) -> list[Batch]:
    """Return `batch` in batches of `size`."""
    return [
        replace(batch.part(slice(start, start + size)), number=start // size) for start in range(0, len(batch), size)
    ]


def repeated(inputs: tuple[Array, ...], n: int) -> tuple[Array, ...]:
    """Return a batch of `n` examples: `inputs` over and over."""
    return tuple(np.resize(array, (n, *array.shape[1:])) if array.ndim else array for array in inputs)


def _shape(spec: InputSpec, shapes: Shapes) -> tuple[int, ...]:
    if (given := shapes.by_name.get(spec.name)) is not None:
        if len(given) != len(spec.shape) or any(
            isinstance(size, int) and size != got for size, got in zip(spec.shape, given, strict=True)
        ):
            raise DataError(f"input {spec} cannot take the shape {given}; give one that fits")
        return given
    return tuple(_size(spec, axis, shapes) for axis in range(len(spec.shape)))


def _size(spec: InputSpec, axis: int, shapes: Shapes) -> int:
    size = spec.shape[axis]
    if axis == 0 and shapes.batch is not None:
        if isinstance(size, int) and size != shapes.batch:
            raise DataError(f"input {spec} is fixed to a batch of {size}, not {shapes.batch}; leave the batch out")
        return shapes.batch
    if isinstance(size, int):
        return size
    if axis == 0:
        return 1
    example = "x".join(str(s) if isinstance(s, int) else ("1" if i == 0 else "8") for i, s in enumerate(spec.shape))
    raise DataError(f"input {spec} leaves sizes open; give its shape, such as --shape {spec.name}={example}")


def _values(spec: InputSpec, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    dtype = spec.dtype
    if dtype is None:
        raise DataError(f"input {spec} has a type that no values can be made for; give them in a .npz file")
    if np.issubdtype(dtype, np.floating):
        return generator.standard_normal(shape, dtype=np.float32).astype(dtype)
    if dtype in {np.dtype(np.uint8), np.dtype(np.int8)}:
        limits = np.iinfo(dtype)
        return generator.integers(limits.min, limits.max, size=shape, dtype=dtype, endpoint=True)
    return np.zeros(shape, dtype=dtype)
