"""This file keeps float ONNX graphs, so that many models of one structure are translated once.

torch.onnx takes most of the time of a small file, and gives the same graph for every pruned, clustered or trained
version of one network. A cache belongs to whoever makes it and lives as long as that; two callers never meet in one.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from dwindle.errors import SettingError
from dwindle.exporters.program_key import program_key
from dwindle.network.capture import Captured
from dwindle.network.compressed import CompressedModel

if TYPE_CHECKING:
    from dwindle.exporters.float_graph import FloatGraph


class GraphCache:
    """Float graphs without weights, by all that decides them; nothing about compression or activations is in them.

    Every network is captured anew, and only the translation of an equal captured program is reused. So folded batch
    norms, constants in the code, other input shapes and control flow show up before anything is looked up.

    Not for several threads at once.
    """

    def __init__(self, *, size: int = 16) -> None:
        """Keep at most `size` graphs, those used last.

        Raises:
            SettingError: `size` is below 1.
        """
        if size < 1:
            raise SettingError(f"a GraphCache keeps size=1 graph or more, got {size}; leave the cache out to keep none")
        self._size = size
        self._graphs: OrderedDict[str, FloatGraph] = OrderedDict()

    def __len__(self) -> int:
        """Return how many graphs are kept."""
        return len(self._graphs)

    def float_graph(self, model: CompressedModel, captured: Captured) -> FloatGraph:
        """Return what `float_graph.float_graph` returns for these, which the caller may change.

        Raises:
            ExportError: torch has no ONNX form for an operation of the network.
        """
        from dwindle.exporters.float_graph import float_graph  # onnx is heavy and optional

        key = program_key(captured, weights=model.encodings.keys(), aliases=model.aliases)
        if key is None:
            return float_graph(model, captured)
        if key not in self._graphs:
            self._graphs[key] = float_graph(model, captured)
            if len(self._graphs) > self._size:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key].copy()
