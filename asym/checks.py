"""What every public boundary asks of a value; a value that is refused is named with what is allowed and what was given."""

import sys
from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch

LARGEST = 2**63 - 1  # of the whole numbers that torch, JSON's readers and Parquet take
SHOWN = 300  # characters of a refused value


def expect(name: str, value: Any, holds: bool, allowed: str | None) -> None:
    """ValueError "name must be allowed; got value" unless it holds."""
    if not holds:
        raise ValueError(f"{name} must be {allowed}; got {in_short(value)}")


def constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compiler.assume_constant_result without its import of torch's compiler, which takes as long as that of torch."""
    function._dynamo_marked_constant = True
    return function


def transforming() -> bool:
    """Whether a transform of torch.func is at work. RuntimeError for one that is compiled itself: torch.compile takes the forward
    pass of a Function apart there and loses its backward pass, in silence (pytorch issue 193279)."""
    return _transforming(torch.compiler.is_dynamo_compiling())


@constant
def _transforming(compiled: bool) -> bool:
    active = torch._C._are_functorch_transforms_active()
    if active and compiled:
        from torch._dynamo.symbolic_convert import InstructionTranslator
        from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters

        outside = InstructionTranslator.current_tx().output.functorch_layers  # those at work when torch.compile began
        if len(retrieve_all_functorch_interpreters()) > len(outside):
            raise RuntimeError(
                "torch.compile around a transform of torch.func loses the feedback path: compile what is inside it"
            )
    return active


def expect_device(device: Any) -> torch.device:
    """The device, None being torch's default one; ValueError unless torch has it here."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, TypeError, AssertionError, ImportError) as error:  # of a torch built without it
        raise ValueError(f"device must be one that torch has here; got {in_short(device)} ({error})") from None


def expect_generator(generator: Any) -> None:
    """ValueError unless it is a generator, or None for torch's global one."""
    expect("generator", generator, generator is None or isinstance(generator, torch.Generator), "a torch.Generator or None")


def is_whole(value: Any, least: int, most: int = LARGEST) -> bool:
    """Whether a value is a whole number in least..most; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def in_short(value: Any) -> str:
    """A value as a message shows it: cut short, and by its class where it has no text (a whole number of 5,000 digits)."""
    try:
        text = repr(value)
    except Exception:
        text = f"{type(value).__name__} without a text"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
