"""This file describes each tensor of the deployed file for the ledger: bytes, structure, histogram, centroids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch

from dwindle.container.inspect import FileSizes
from dwindle.core.encoding import Encoding, Scaled, affine_of, codebook_of, decode, support_of
from dwindle.network.compressed import CompressedModel

N_BINS: Final = 80


def tensor_entries(model: CompressedModel, sizes: FileSizes) -> Iterator[dict[str, Any]]:
    """Yield a ledger entry of kind `tensor` for each tensor of the file; histograms count the weights that are kept."""
    for tensor in sizes.tensors:
        encoding = model.encodings[tensor.name]
        codes = affine_of(encoding)
        yield {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "structure": tensor.structure,
            "n_weights": tensor.n_weights,
            "raw_bytes": tensor.raw_bytes,
            "encoded_bytes": tensor.encoded_bytes,
            "runtime_bytes": tensor.runtime_bytes,
            "sparsity": tensor.sparsity,
            **({} if codes is None else {"n_bits": codes.n_bits}),
            **_distribution(encoding),
        }


def _distribution(encoding: Encoding) -> dict[str, Any]:
    """Return the histogram and the centroids on one scale: where channels have factors, both before these."""
    encoding = encoding.values if isinstance(encoding, Scaled) else encoding
    values, support = decode(encoding).detach(), support_of(encoding)
    if not values.is_floating_point() or values.ndim < 2:
        return {}
    kept = (values if support is None else values[support]).flatten().float()
    if kept.numel() == 0:
        return {}
    counts, edges = torch.histogram(kept, bins=N_BINS)
    found: dict[str, Any] = {"histogram": {"edges": edges.tolist(), "counts": [int(c) for c in counts.tolist()]}}
    codebook = codebook_of(encoding)
    if codebook is not None:
        found["centroids"] = decode(codebook.centroids).tolist()
    return found
