"""This file holds the whole chain on ResNet-50: every zero and every cluster is found again in the exported files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.utils.data import TensorDataset

import dwindle as dw
from dwindle.container.reader import read
from dwindle.container.records import CodebookRecord, ScaledRecord, SparseRecord
from dwindle.core.encoding import Codebook, Sparse, codebook_of
from dwindle.network.select import weight_names
from dwindle.zoo.resnet import resnet50

CODEBOOK_SIZE = 16


@pytest.mark.slow
def test_resnet50_keeps_every_zero_and_every_cluster_through_aware_training(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(24, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (24,), generator=generator)
    torch.manual_seed(0)
    dense = dw.CompressedModel.dense(resnet50(n_classes=10))
    trainer = dw.FabricTrainer(train=TensorDataset(images, labels), batch_size=8, learning_rate=0.01)
    context = dw.Context(example=images[:2], calibration=[images[:8]], trainer=trainer)
    structured = dw.Recipe((dw.PruneWeights(sparsity=0.7), dw.Cluster(codebook_size=CODEBOOK_SIZE))).run(dense, context)
    trained = dw.Recipe((dw.QuantizeAware(epochs=1.0),)).run(structured, context)
    files = dw.deploy(trained, images[:2], tmp_path, formats=("dwn", "onnx")).artifacts

    records = read(files["dwn"].path).records
    graph = onnx.load(files["onnx"].path).graph
    tables = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name.endswith("table")
    }
    names = weight_names(dense.network)
    assert len(names) == 54
    n_merged = 0
    for name in names:
        before = structured.encodings[name]
        assert isinstance(before, Sparse)
        assert isinstance(before.values, Codebook)
        record = records[name]
        inner = record.values if isinstance(record, ScaledRecord) else record
        assert isinstance(inner, SparseRecord), name
        assert isinstance(inner.values, CodebookRecord), name
        np.testing.assert_array_equal(inner.support, before.support.numpy(), err_msg=name)
        inside = before.support.numpy()
        found, clusters = inner.values.indices[inside], before.values.indices.numpy()[inside]
        for cluster in np.unique(clusters):
            assert len(np.unique(found[clusters == cluster])) == 1, name
        size = len(inner.values.centroids.codes)
        assert size == len(np.unique(inner.values.centroids.codes)) <= before.values.codebook_size <= CODEBOOK_SIZE
        n_merged += before.values.codebook_size - size
        # One entry more is the zero; a second half mirrors the channels whose batch norm turns the sign.
        assert len(tables[f"{name}/table"]) in {size + 1, 2 * (size + 1)}
    assert n_merged < 0.1 * sum(codebook_of(structured.encodings[name]).codebook_size for name in names)
