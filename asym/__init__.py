"""Asymmetric backpropagation: layers whose error returns through a feedback matrix B instead of the transposed weight."""

from asym.convert import convert
from asym.layers import Conv2d, DirectFeedback, Linear, UntiedConv2d, between_steps
from asym.rules import RULES, Rule

__version__ = "0.1.0"
__all__ = ["RULES", "Rule", "Conv2d", "DirectFeedback", "Linear", "UntiedConv2d", "between_steps", "convert"]
