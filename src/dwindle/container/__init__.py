"""This file is the door to the `.dwn` format: a device opens it with NumPy and constriction, without torch."""

from dwindle.container.contents import Contents
from dwindle.container.limits import Limits
from dwindle.container.reader import parse, read, read_weights
from dwindle.container.writer import serialize, write

__all__ = ["Contents", "Limits", "parse", "read", "read_weights", "serialize", "write"]
