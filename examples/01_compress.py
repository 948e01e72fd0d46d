"""Prune, share and quantize a small network in memory, then write and measure the file. Runs in seconds, needs no data.

python examples/01_compress.py
"""

from pathlib import Path

import torch
from torch.utils.data import TensorDataset

import dwindle as dw
from dwindle.data.digits import load_digits_splits
from dwindle.zoo.quantnet import quantnet

splits = load_digits_splits()
trainer = dw.FabricTrainer(train=splits.train, validation=splits.validation, batch_size=32, learning_rate=0.02)
torch.manual_seed(0)
network = quantnet(in_channels=1, n_classes=10, image_size=8)
trainer(network, steps=15 * trainer.steps_per_epoch, seed=0, stage="dense")

inputs, targets = splits.train.tensors
recipe = dw.Recipe((
    dw.PruneWeights(sparsity=0.8, scope="global"),
    dw.FineTune(epochs=4),
    dw.Cluster(codebook_size=16),
    dw.QuantizeStatic(weights=8, activations=8),
))  # fmt: skip
context = dw.Context(seed=0, example=inputs[:1], calibration=[inputs[:256]], trainer=trainer)
compressed = recipe.run(dw.CompressedModel.dense(network), context)

out = Path("out/example_01")
dense = dw.deploy(dw.CompressedModel.dense(network), inputs[:8], out, formats=("onnx",), name="dense")
deployment = dw.deploy(compressed, inputs[:8], out)
found = dw.measure(deployment, TensorDataset(*splits.test.tensors), dense=dense.artifacts["onnx"])
for name in ("size", "compression_ratio", "accuracy", "accuracy_drop"):
    m = found.find(name)
    print(f"{name:18} {m.value:12.4f}  [{m.low:.4f}, {m.high:.4f}]  {m.metric.unit}, n = {m.n}")
