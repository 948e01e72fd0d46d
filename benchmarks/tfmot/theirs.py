"""This file is TFMOT's side of the comparison, one seed; it runs in the peer's own environment (see README.md).

    /path/to/peer/bin/python benchmarks/tfmot/theirs.py --images IMAGES --folder FOLDER --seed N [--smoke] [--threads N]

Writes FOLDER/model.tflite, model.tflite.zip, answers.npy (right or wrong on each test image) and result.json, which
comes last and says how long each stage took, what it reached on the validation split and what TFMOT kept of zeros and
clusters, read back from the weights of each stage and from the .tflite file. Killed and called again, it goes on after
the last finished epoch.
"""

from __future__ import annotations

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # TFMOT knows Keras 2 only
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import fcntl
import json
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from settings import (
    BATCH_SIZE,
    MOMENTUM,
    N_BLOCKS,
    N_CLASSES,
    PADDING,
    STAGES,
    WARM_UP,
    WEIGHT_DECAY,
    WIDTHS,
    Settings,
    derive,
    settings_of,
)

# The guides for these take them from here, too: no public name has them.
from tensorflow_model_optimization.python.core.clustering.keras.cluster_config import GradientAggregation
from tensorflow_model_optimization.python.core.clustering.keras.experimental.cluster import cluster_weights

layers = keras.layers
PACKAGES = ("tensorflow", "tf_keras", "tensorflow-model-optimization")
EVALUATED_AT_ONCE = 500


class Images:
    """The splits, standardized batch by batch."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self._arrays = {name: file[name] for name in file.files}

    def inputs(self, split: str, part: slice | np.ndarray) -> np.ndarray:
        """Return (n, 32, 32, 3) standardized images."""
        pixels = self._arrays[f"{split}_images"][part].astype(np.float32)
        return (pixels / np.float32(255) - self._arrays["mean"]) / self._arrays["std"]

    def labels(self, split: str) -> np.ndarray:
        """Return (n,) class numbers."""
        return self._arrays[f"{split}_labels"]

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training split."""
        return max(1, len(self.labels("train")) // BATCH_SIZE)

    def shuffled(self, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the batches of an epoch, cropped and flipped; an incomplete last one is left out, as on our side."""
        order = np.random.default_rng(derive(seed, epoch, "order")).permutation(len(self.labels("train")))
        rng = np.random.default_rng(derive(seed, epoch, "augment"))
        for step in range(self.steps_per_epoch):
            numbers = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
            yield crop_and_flip(self.inputs("train", numbers), rng), self.labels("train")[numbers]

    def ordered(self, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield every example once."""
        labels = self.labels(split)
        for start in range(0, len(labels), EVALUATED_AT_ONCE):
            part = slice(start, start + EVALUATED_AT_ONCE)
            yield self.inputs(split, part), labels[part]


def crop_and_flip(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pad (n, height, width, channels) with zeros, cut at a random place, mirror half of the images."""
    n, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    tops, lefts = rng.integers(0, 2 * PADDING + 1, (2, n))
    rows = (tops[:, None] + np.arange(height))[:, :, None]
    columns = (lefts[:, None] + np.arange(width))[:, None, :]
    cut = padded[np.arange(n)[:, None, None], rows, columns]
    return np.where((rng.random(n) < 0.5)[:, None, None, None], cut[:, :, ::-1], cut)


def network(*, seed: int, weight_decay: float) -> keras.Model:
    """Return ResNet-18 of width 16 as `dwindle.zoo.resnet_cifar` has it, in Keras; the decay is half of an L2 term."""
    seeds = iter(range(1000))
    decay = keras.regularizers.l2(weight_decay / 2) if weight_decay else None

    def start() -> keras.initializers.Initializer:
        number = derive(seed, next(seeds), "weights") % 2**31
        return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal", seed=number)

    def convolved(x: object, width: int, *, size: int, stride: int) -> object:
        x = layers.Conv2D(
            width, size, stride, "same", use_bias=False, kernel_initializer=start(), kernel_regularizer=decay
        )(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    def block(x: object, width: int, *, stride: int) -> object:
        residual = layers.ReLU()(convolved(x, width, size=3, stride=stride))
        residual = convolved(residual, width, size=3, stride=1)
        shortcut = x if x.shape[-1] == width else convolved(x, width, size=1, stride=stride)
        return layers.ReLU()(layers.Add()([residual, shortcut]))

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(convolved(inputs, WIDTHS[0], size=3, stride=1))
    for width in WIDTHS:
        for number in range(N_BLOCKS):
            x = block(x, width, stride=2 if number == 0 and width != WIDTHS[0] else 1)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(N_CLASSES, kernel_initializer=start(), kernel_regularizer=decay)(x)
    return keras.Model(inputs, outputs)


class WarmUpCosine(keras.optimizers.schedules.LearningRateSchedule):
    """The schedule of both sides."""

    def __init__(self, rate: float, n_steps: int) -> None:
        self.rate, self.n_steps = rate, n_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Return the learning rate of a step."""
        progress = tf.cast(step, tf.float32) / self.n_steps
        falling = 0.5 * (1.0 + tf.cos(np.pi * (progress - WARM_UP) / (1.0 - WARM_UP)))
        return self.rate * tf.where(progress < WARM_UP, 0.1 + 0.9 * progress / WARM_UP, falling)

    def get_config(self) -> dict[str, object]:
        """Return what it was made of."""
        return {"rate": self.rate, "n_steps": self.n_steps}


def wrapped(stage: str, plain: keras.Model, settings: Settings, *, n_steps: int) -> keras.Model:
    """Return the model that a stage trains, made of the plain network that the stage before left."""
    if stage == "pruned":
        frequency = settings.prune_frequency
        # TFMOT prunes at multiples of the frequency only: the last of them has to be the end, or sparsity is missed.
        end = max(1, round(settings.prune_end * n_steps / frequency)) * frequency
        schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, settings.sparsity, 0, end, power=3, frequency=frequency)
        return tfmot.sparsity.keras.prune_low_magnitude(plain, pruning_schedule=schedule)
    if stage == "clustered":
        return cluster_weights(
            plain,
            settings.n_levels,
            tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
            preserve_sparsity=True,
            cluster_gradient_aggregation=GradientAggregation.AVG,
        )
    if stage == "quantized":
        scheme = tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True)
        return tfmot.quantization.keras.quantize_apply(tfmot.quantization.keras.quantize_annotate_model(plain), scheme)
    return plain


def stripped(stage: str, model: keras.Model) -> keras.Model:
    if stage == "pruned":
        return tfmot.sparsity.keras.strip_pruning(model)
    return tfmot.clustering.keras.strip_clustering(model) if stage == "clustered" else model


@dataclass
class Training:
    """One training of one stage at one learning rate; its state is written after every epoch."""

    path: Path
    model: keras.Model
    images: Images
    seed: int
    n_steps: int
    rate: float
    curve: list[dict[str, float]] = field(default_factory=list)

    def finish(self, *, is_pruning: bool) -> keras.Model:
        """Train from the last whole epoch to the end."""
        optimizer = keras.optimizers.SGD(WarmUpCosine(self.rate, self.n_steps), momentum=MOMENTUM, nesterov=True)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(optimizer, loss)
        optimizer.build(self.model.trainable_variables)
        self._read(optimizer)
        callbacks = [tfmot.sparsity.keras.UpdatePruningStep()] if is_pruning else []
        firsts = range(0, self.n_steps, self.images.steps_per_epoch)
        for epoch, first in list(enumerate(firsts))[len(self.curve) :]:
            started = time.perf_counter()
            history = self.model.fit(
                self.images.shuffled(self.seed, epoch),
                epochs=epoch + 1,
                initial_epoch=epoch,
                steps_per_epoch=min(self.images.steps_per_epoch, self.n_steps - first),
                callbacks=callbacks,
                verbose=0,
            )
            seconds, reached = time.perf_counter() - started, self.validate()
            figures = {"epoch": epoch + 1, "loss": history.history["loss"][-1], "validation_accuracy": reached}
            self.curve.append({**figures, "seconds": seconds})
            self._write(optimizer)
            print(f"{self.path.stem}: {json.dumps(self.curve[-1])}", flush=True)
        return self.model

    def validate(self) -> float:
        """Return the accuracy on the validation split."""
        right = [self.model.predict_on_batch(x).argmax(1) == y for x, y in self.images.ordered("validation")]
        return float(np.concatenate(right).mean())

    def _variables(self, optimizer: keras.optimizers.Optimizer) -> list[tf.Variable]:
        return list({id(v): v for v in (*self.model.variables, *optimizer.variables)}.values())

    def _write(self, optimizer: keras.optimizers.Optimizer) -> None:
        values = {f"v{number}": v.numpy() for number, v in enumerate(self._variables(optimizer))}
        part = self.path.with_suffix(".part.npz")
        np.savez(part, curve=json.dumps(self.curve), **values)
        part.replace(self.path)

    def _read(self, optimizer: keras.optimizers.Optimizer) -> None:
        if not self.path.exists():
            return
        with np.load(self.path) as file:
            for number, variable in enumerate(self._variables(optimizer)):
                variable.assign(file[f"v{number}"])
            self.curve = json.loads(str(file["curve"]))


@dataclass
class Run:
    """All stages of one seed."""

    folder: Path
    images: Images
    seed: int
    settings: Settings
    stages: list[dict[str, object]] = field(default_factory=list)

    def finish(self) -> keras.Model:
        """Return the model after the last stage."""
        weights: list[np.ndarray] | None = None
        model = None
        for stage in STAGES:
            rate, tried = self._best_rate(stage, weights)
            training = self._training(stage, weights, rate=rate, epochs=self.settings.epochs[stage], name=stage)
            model = stripped(stage, training.finish(is_pruning=stage == "pruned"))
            self.stages.append({"stage": stage, "rate": rate, "tried": tried, "curve": training.curve})
            if stage != "quantized":
                weights = model.get_weights()
                kernels = {layer.name: layer.kernel.numpy() for layer in model.layers if hasattr(layer, "kernel")}
                self.stages[-1]["kept"] = {name: counts(kernel) for name, kernel in kernels.items()}
        return model

    def _best_rate(self, stage: str, weights: list[np.ndarray] | None) -> tuple[float, dict[str, float]]:
        rates = self.settings.rates["theirs"][stage]
        if len(rates) == 1:
            return rates[0], {}
        tried = {rate: self._tried(stage, weights, rate=rate) for rate in rates}
        return max(rates, key=lambda rate: tried[rate]), {str(rate): reached for rate, reached in tried.items()}

    def _tried(self, stage: str, weights: list[np.ndarray] | None, *, rate: float) -> float:
        training = self._training(
            stage, weights, rate=rate, epochs=self.settings.trial_epochs, name=f"{stage}-try-{rate}"
        )
        training.finish(is_pruning=stage == "pruned")
        return training.curve[-1]["validation_accuracy"]

    def _training(
        self, stage: str, weights: list[np.ndarray] | None, *, rate: float, epochs: float, name: str
    ) -> Training:
        keras.backend.clear_session()
        keras.utils.set_random_seed(derive(self.seed, STAGES.index(stage), "stage") % 2**31)
        # L2 on a kernel that stands for its cluster would pull it away from its centroid.
        plain = network(seed=self.seed, weight_decay=WEIGHT_DECAY if stage in {"dense", "pruned"} else 0.0)
        if weights is not None:
            plain.set_weights(weights)
        n_steps = max(1, round(epochs * self.images.steps_per_epoch))
        model = wrapped(stage, plain, self.settings, n_steps=n_steps)
        seed = derive(self.seed, STAGES.index(stage), "data")
        return Training(self.folder / f"{name}.npz", model, self.images, seed=seed, n_steps=n_steps, rate=rate)


def counts(weights: np.ndarray) -> dict[str, float]:
    """Return the share of zeros and the number of distinct values other than zero."""
    distinct = np.unique(weights)
    return {
        "n": int(weights.size),
        "zeros": float((weights == 0).mean()),
        "values": int((distinct != 0).sum()),
    }


def converted(model: keras.Model) -> bytes:
    stripped_model = tfmot.experimental.combine.strip_clustering_cqat(model)
    converter = tf.lite.TFLiteConverter.from_keras_model(stripped_model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter.convert()


def kept_in_file(interpreter: tf.lite.Interpreter) -> dict[str, dict[str, float]]:
    """Return what is left of zeros and clusters in the integer weights of each convolution and linear layer."""
    found: dict[str, dict[str, float]] = {}
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    for operator in interpreter._get_ops_details():
        if operator["op_name"] not in {"CONV_2D", "FULLY_CONNECTED"}:
            continue
        index = int(operator["inputs"][1])
        codes = interpreter.get_tensor(index)
        by_channel = max(int((np.unique(channel) != 0).sum()) for channel in codes)
        found[details[index]["name"]] = {
            **counts(codes),
            "values_of_a_channel": by_channel,
            "dtype": str(codes.dtype),
            "n_scales": len(details[index]["quantization_parameters"]["scales"]),
        }
    return found


def answers(interpreter: tf.lite.Interpreter, batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return whether the file is right, image by image."""
    right: list[np.ndarray] = []
    source, sink = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    for inputs, labels in batches:
        interpreter.resize_tensor_input(source, inputs.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source, inputs)
        interpreter.invoke()
        right.append(interpreter.get_tensor(sink).argmax(1) == labels)
    return np.concatenate(right)


def write_whole(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def zipped(path: Path) -> Path:
    """Zip a file alone, as TFMOT's guides do before they weigh it; at the highest level."""
    archive = path.with_name(path.name + ".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.write(path, path.name)
    return archive


def main() -> None:
    options = _options()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    settings = settings_of(is_smoke=options.smoke)
    options.folder.mkdir(parents=True, exist_ok=True)
    with (options.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of a driver that was killed, the child may still be at work: wait for it
        make(options, settings)


def make(options: argparse.Namespace, settings: Settings) -> None:
    """Train, export and measure."""
    images, started = Images(options.images), time.process_time()
    run = Run(options.folder, images, options.seed, settings)
    file = options.folder / "model.tflite"
    write_whole(file, converted(run.finish()))
    archive = zipped(file)
    interpreter = tf.lite.Interpreter(str(file), num_threads=options.threads)
    interpreter.allocate_tensors()
    kept = kept_in_file(interpreter)
    validated = answers(interpreter, images.ordered("validation"))
    right = answers(interpreter, images.ordered("test"))
    np.save(options.folder / "answers.npy", right)
    result = {
        "stages": run.stages,
        "kept": kept,
        "file_bytes": file.stat().st_size,
        "zipped_bytes": archive.stat().st_size,
        "validation_accuracy": float(validated.mean()),
        "accuracy": float(right.mean()),
        "n_test": len(right),
        "cpu_seconds": time.process_time() - started,
        "packages": {name: version(name) for name in PACKAGES},
    }
    write_whole(options.folder / "result.json", json.dumps(result, indent=1).encode())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="the .npz file that run.py writes")
    parser.add_argument("--folder", type=Path, required=True, help="of this seed")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--smoke", action="store_true", help="one epoch a stage: does it run")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
