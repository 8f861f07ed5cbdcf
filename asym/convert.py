"""Gives an existing torch model a feedback rule, keeping its weights."""

import copy
import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from asym.checks import expect, expect_generator
from asym.layers import Conv2d, DirectFeedback, FeedbackLayer, Linear, UntiedConv2d
from asym.network import Network
from asym.rules import find

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")  # where torch keeps a module's
OTHERS = (  # torch's own
    *(nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase),
    torch.jit.ScriptModule,
)
TAKEN = "it takes nn.Linear and nn.Conv2d themselves, no subclass, and the layers of asym; parametrize after convert"
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
    subclass of torch's two (attention's projections among them, which torch calls without their forward). With one key a warning
    names the layers of torch that still send their error back through their own weights: these subclasses, parametrized and
    scripted ones, attention, recurrent layers and other convolutions. A layer used in several places stays one layer, and layers
    that share a weight share a B that moves with it. The first layer's B is never used if its input needs no gradient.
    "dfa" asks for the whole path to the logits: the model must be an nn.Sequential, the layer one of its steps (a nested
    nn.Sequential is undone unless it has hooks), example_input a batch for it; an asym.network.Network comes back, whose layers
    are steps.0, steps.1 and so on.
    Rules that move B between two steps ("brsf", "mirror") need asym.between_steps in the training loop.
    A B that moves with its weight ("shared_update", "kp") takes no part in what the weight gets elsewhere, as from an embedding
    that is tied to it: a warning names such modules. It stands still while its weight is frozen; under DDP, which waits for the
    gradient of whatever asks for one, freeze the whole layer after convert.
    ValueError for what is no model, rule, generator or tensor, for a model that DDP wraps, which would leave B to each process,
    for an unknown rule or layer name, for a model without such layers, with one whose weights are not real floating numbers or
    with a lazy one that has no size yet, for one that cannot be copied (pruned, or normalised by hooks), for dfa elsewhere or
    without example_input, and for a model that is wired for direct feedback already.
    """
    _check(model, rule, generator, example_input)
    model = _copy(model)
    found = {name: module for name, module in model.named_modules() if type(module) in LAYERS}
    rules = _chosen(model, found, rule)
    direct = any(find(key).direct for key in rules.values())
    if direct and not (_sequential(model) and example_input is not None):
        raise ValueError("rule 'dfa' wires hidden layers to the logits: it needs an nn.Sequential model and example_input")
    shared: dict[tuple[int, str], Tensor] = {}
    for name, key in rules.items():
        layer = found[name]
        layer.__class__ = LAYERS[type(layer)]  # in its place: what refers to the layer still does
        layer.attach_feedback(key, generator)
        if find(key).store == "parameter":
            layer.feedback = shared.setdefault((id(layer.weight), key), layer.feedback)
    _warn_of_others(model, rules)
    if not direct:
        return model
    network = Network(*_flatten(model), example_input=example_input, generator=generator)
    network.training = model.training
    return network


def _chosen(model: nn.Module, found: dict[str, nn.Module], rule: str | Mapping[str, str]) -> dict[str, str]:
    """The rule of each layer that gets one, in the model's order, which decides what the generator draws for whom."""
    rules = dict.fromkeys(found, rule) if isinstance(rule, str) else rule
    unknown = sorted(set(rules) - set(found))
    modules = dict(model.named_modules())
    if others := [name for name in unknown if name in modules]:
        raise ValueError(f"rule names {others}, which can have none: {TAKEN}; these can: {', '.join(found)}")
    if unknown:
        raise ValueError(f"rule names layers {unknown} that are not among the model's: {', '.join(found)}")
    lazy = [name for name, m in modules.items() if isinstance(m, LazyModuleMixin) and m.has_uninitialized_params()]
    if lazy:
        raise ValueError(f"model must have its sizes: run a batch through its lazy layers first ({', '.join(lazy)})")
    if not rules:
        raise ValueError(f"model has no layer to convert, or rule names none: {TAKEN}")
    if any(isinstance(module, DirectFeedback) for module in modules.values()):
        raise ValueError("model is wired for direct feedback already: convert the one that it came from")
    if isinstance(rule, str):
        _warn_of_kept(modules, found, rule)
    return {name: rules[name] for name in found if name in rules}


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:  # torch's, of a weight that is computed; Python's, of a lock or a file
        raise ValueError(f"model must be one that can be copied: prune or normalise weights after convert ({error})") from error


def _warn_of_kept(modules: Mapping[str, nn.Module], found: Mapping[str, nn.Module], rule: str) -> None:
    """Names the layers that the rule does not reach, which was meant for all."""
    kept = [name for name, module in modules.items() if isinstance(module, tuple(LAYERS)) and is_parametrized(module)]
    if kept:
        warnings.warn(f"parametrized layers stay as they are, parametrize after convert: {', '.join(kept)}", stacklevel=4)
    others: dict[str, list[str]] = {}  # by the rule that they have
    for name, module in modules.items():
        if isinstance(module, (*OTHERS, FeedbackLayer)) and name not in {*found, *kept}:
            others.setdefault(module.rule if isinstance(module, FeedbackLayer) else "bp", []).append(name)
    others.pop(rule, None)
    for key, names in others.items():
        warnings.warn(f"these layers stay as they are and send the error back by {key}: {', '.join(names)}", stacklevel=4)
    own = lambda module: "forward" in vars(module) and not hasattr(module, "_orig_mod")  # torch.compile's is made anew
    replaced = [name or "the model" for name, module in modules.items() if own(module)]
    if replaced:
        told = "these modules have a forward of their own, which knows no B and may call what was copied"
        warnings.warn(f"{told}: {', '.join(replaced)}", stacklevel=4)


def _check(model, rule, generator, example_input) -> None:
    expect("model", type(model).__name__, isinstance(model, nn.Module), "a torch.nn.Module")
    wrapped = any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules())
    expect("model", type(model).__name__, not wrapped, "converted before DistributedDataParallel wraps it")
    named = isinstance(rule, Mapping) and all(isinstance(name, str) for name in rule)
    expect("rule", rule, isinstance(rule, str) or named, "a rule's key, or a mapping of layer names to keys")
    expect_generator(generator)
    kind = type(example_input).__name__
    expect("example_input", kind, example_input is None or isinstance(example_input, Tensor), "a tensor or None")


def _warn_of_others(model: nn.Module, rules: Mapping[str, str]) -> None:
    """Names the modules that hold the weight of a B that moves with it, and do not move that B."""
    moving = {id(model.get_submodule(name).weight): key for name, key in rules.items() if find(key).store == "parameter"}
    others = [
        name
        for name, module in model.named_modules()
        for parameter in module.parameters(recurse=False)
        if id(parameter) in moving and rules.get(name) != moving[id(parameter)]
    ]
    if others:
        warnings.warn(f"B takes no part in what its weight gets elsewhere: {', '.join(others)} share it", stacklevel=3)


def _sequential(module: nn.Module) -> bool:
    """Whether calling the module is calling its children in turn, as one with a forward or a call of its own need not."""
    own = "forward" in vars(module) or type(module).__call__ is not nn.Module.__call__
    return type(module).forward is nn.Sequential.forward and not own


def _flatten(module: nn.Module) -> Iterator[nn.Module]:
    """The steps of nested nn.Sequential; one that has hooks is a step itself, since its own steps would not call them."""
    if not _sequential(module) or any(getattr(module, hooks) for hooks in HOOKS):
        yield module
    else:
        for step in module:
            yield from _flatten(step)
