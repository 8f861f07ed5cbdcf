"""Gives an existing torch model a feedback rule, keeping its weights."""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from asym.checks import expect, expect_generator
from asym.layers import Conv2d, DirectFeedback, Linear, UntiedConv2d
from asym.network import Network
from asym.rules import find

LAYERS = {nn.Linear: Linear, nn.Conv2d: Conv2d} | {kind: kind for kind in (Linear, Conv2d, UntiedConv2d)}


def convert(
    model: nn.Module,
    rule: str | dict[str, str],
    *,
    generator: torch.Generator | None = None,
    example_input: Tensor | None = None,
) -> nn.Module:
    """A copy of the model whose linear and convolutional layers follow the rule, with the same weights and a B drawn for each.

    These are torch's nn.Linear and nn.Conv2d, and this package's three layers, whose rule and B are then new. rule is one key for
    all of them, or {layer name: key} for some (names as in model.named_modules()); the others stay as they are, and so does every
    subclass of torch's two (attention's projections among them, which torch calls without their forward). A layer used in several
    places stays one layer. The first layer's B is never used if its input needs no gradient. "dfa" needs the whole path to the
    logits: the model must be an nn.Sequential, the layer one of its steps, example_input a batch for it.
    ValueError for what is no model, rule, generator or tensor, for an unknown rule or layer name, for a model without such layers
    or with one whose weights are not real floating numbers, for dfa elsewhere or without example_input, and for a model that is
    wired for direct feedback already.
    """
    _check(model, rule, generator, example_input)
    model = copy.deepcopy(model)
    found = {name: module for name, module in model.named_modules() if type(module) in LAYERS}
    rules = dict.fromkeys(found, rule) if isinstance(rule, str) else rule
    unknown = sorted(set(rules) - set(found))
    if unknown:
        raise ValueError(f"rule names layers {unknown} that are not among the model's: {', '.join(found)}")
    if not rules:
        raise ValueError("model has no nn.Linear, nn.Conv2d or layer of asym to convert, or rule names none")
    if any(isinstance(module, DirectFeedback) for module in model.modules()):
        raise ValueError("model is wired for direct feedback already: convert the one that it came from")
    direct = {name for name, key in rules.items() if find(key).direct}
    if direct and not (_sequential(model) and example_input is not None):
        raise ValueError("rule 'dfa' wires hidden layers to the logits: it needs an nn.Sequential model and example_input")
    new = {found[name]: _with_rule(found[name], key, generator) for name, key in rules.items()}
    model = _replace(model, new)
    if not direct:
        return model
    network = Network(*_flatten(model), example_input=example_input, generator=generator)
    network.training = model.training
    return network


def _check(model, rule, generator, example_input) -> None:
    expect("model", type(model).__name__, isinstance(model, nn.Module), "a torch.nn.Module")
    named = isinstance(rule, Mapping) and all(isinstance(name, str) for name in rule)
    expect("rule", rule, isinstance(rule, str) or named, "a rule's key, or a mapping of layer names to keys")
    expect_generator(generator)
    kind = type(example_input).__name__
    expect("example_input", kind, example_input is None or isinstance(example_input, Tensor), "a tensor or None")


def _with_rule(layer: nn.Module, rule: str, generator: torch.Generator | None) -> nn.Module:
    """The layer's namesake here, holding the very same weight and bias."""
    new = LAYERS[type(layer)].__new__(LAYERS[type(layer)])
    new.__dict__ = layer.__dict__
    new.attach_feedback(rule, generator)
    return new


def _replace(model: nn.Module, new: dict[nn.Module, nn.Module]) -> nn.Module:
    if model in new:
        return new[model]
    places = [(name, new[module]) for name, module in model.named_modules(remove_duplicate=False) if module in new]
    for name, layer in places:
        model.set_submodule(name, layer)
    return model


def _sequential(module: nn.Module) -> bool:
    """Whether calling the module is calling its children in turn, as a subclass with a forward of its own need not."""
    return type(module).forward is nn.Sequential.forward


def _flatten(model: nn.Sequential) -> Iterator[nn.Module]:
    for step in model:
        if _sequential(step):
            yield from _flatten(step)
        else:
            yield step
