"""This file lists the criteria that can say how much a layer matters."""

from __future__ import annotations

from dwindle.network.significance.curvature import FisherTrace, HessianTrace
from dwindle.network.significance.deviation import WeightDeviation
from dwindle.network.significance.dimension import LevinaBickelChange, PCAChange, TwoNNChange
from dwindle.network.significance.sensitivity import LossSensitivity

AnyCriterion = (
    TwoNNChange | PCAChange | LevinaBickelChange | LossSensitivity | FisherTrace | HessianTrace | WeightDeviation
)
