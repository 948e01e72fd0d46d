"""Laws for what you add to dwindle: subclass a law class in your tests, name your implementation, run pytest."""

from dwindle.testing.small import PlainTrainer, small_context, small_network
from dwindle.testing.technique_laws import TechniqueLaws

__all__ = ["PlainTrainer", "TechniqueLaws", "small_context", "small_network"]
