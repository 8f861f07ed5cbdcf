"""Invariants: what training must keep, what it must move, and by how much."""

import itertools
import math
import warnings
from functools import partial

import pytest
import reference
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import grad, jacrev

import asym
from asym import gemm, nets
from asym.config import last
from asym.network import Network
from asym.rules import RULES

FIXED = [key for key, rule in RULES.items() if rule.store == "buffer"]
LEARNED = [key for key, rule in RULES.items() if rule.store == "parameter"]
OPTIMIZERS = {
    "adamw": lambda p, decay: torch.optim.AdamW(p, 1e-2, weight_decay=decay),
    "sgd": lambda p, decay: torch.optim.SGD(p, 1e-2, weight_decay=decay),
    "nesterov": lambda p, decay: torch.optim.SGD(p, 1e-2, momentum=0.9, nesterov=True, weight_decay=decay),
}


def dense(*rules, seed=0, hidden=(8, 7)):
    return nets.dense((1, 3, 4), 5, rules, hidden=hidden, activation="tanh", seed=seed).double()


def mixed(rule):
    """One layer of each kind, the first by backpropagation."""
    options = {"bias": False, "dtype": torch.float64}
    steps = [asym.Conv2d(1, 3, 3, padding=1, **options), nn.Tanh()]
    steps += [asym.Conv2d(3, 3, (3, 2), padding=1, stride=2, rule=rule, **options), nn.Tanh()]
    steps += [asym.UntiedConv2d(3, 2, 2, (3, 4), rule=rule, **options), nn.Tanh(), nn.Flatten()]
    steps += [asym.Linear(12, 5, rule=rule, **options)]
    return Network(*steps, example_input=torch.zeros(1, 1, 5, 6, dtype=torch.float64)).double()


def train(net, shape, optimizer, steps, generator=None):
    labels = torch.arange(6) % 5
    for step in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(reference.draw(6, *shape, seed=step)), labels).backward()
        optimizer.step()
        asym.between_steps(net, generator)


def differences(net):
    return [(layer.weight - layer.feedback).detach().clone() for layer in net.layers if layer.feedback is not None]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_shared_update_never_moves_the_difference(optimizer):
    net = mixed("shared_update")
    before = differences(net)
    start = [layer.weight.detach().clone() for layer in net.layers]
    train(net, (1, 5, 6), OPTIMIZERS[optimizer](net.parameters(), 0.0), 15)
    assert all((layer.weight - w).abs().max() > 1e-3 for layer, w in zip(net.layers, start, strict=True))
    torch.testing.assert_close(differences(net), before, rtol=0, atol=1e-14)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_kp_shrinks_the_difference_by_the_decay(optimizer):
    net, steps, decay = mixed("kp"), 15, 2.0
    before = differences(net)
    train(net, (1, 5, 6), OPTIMIZERS[optimizer](net.parameters(), decay), steps)
    expected = [d * (1 - 1e-2 * decay) ** steps for d in before]
    torch.testing.assert_close(differences(net), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("rule", FIXED)
def test_fixed_feedback_is_a_buffer_that_training_leaves(rule):
    net = mixed(rule)
    fixed = {name: buffer.clone() for name, buffer in net.named_buffers()}
    assert not [name for name, _ in net.named_parameters() if "feedback" in name]
    if RULES[rule].between_steps is None:
        train(net, (1, 5, 6), torch.optim.AdamW(net.parameters(), 1e-2, weight_decay=1.0), 5)
        assert all(torch.equal(buffer, fixed[name]) for name, buffer in net.named_buffers())
    assert sum("feedback" in name for name in fixed) == 3
    other = mixed(rule)
    assert not torch.equal(other.layers[-1].feedback, net.layers[-1].feedback)
    other.load_state_dict(net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), net.state_dict().values(), strict=True))
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(other.buffers(), net.buffers(), strict=True))


@pytest.mark.parametrize("rule", LEARNED)
def test_learned_feedback_is_a_parameter_with_the_weights_gradient(rule):
    net = mixed(rule)
    assert sum("feedback" in name for name, _ in net.named_parameters()) == 3
    F.cross_entropy(net(reference.draw(6, 1, 5, 6)), torch.zeros(6, dtype=torch.long)).backward()
    for layer in net.layers[1:]:
        assert layer.weight.grad.any() and torch.equal(layer.weight.grad, layer.feedback.grad)
    other = mixed(rule)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.layers[2].feedback, net.layers[2].feedback)


@pytest.mark.parametrize("kind", reference.PLAIN)
@pytest.mark.parametrize("rule", ["usf", "frsf", "brsf"])
def test_sign_rules_follow_the_weight_and_pass_it_no_gradient(rule, kind):
    layer = reference.layer(kind, rule)
    first = layer.feedback_path()
    assert not first.requires_grad
    assert torch.equal(first.sign(), layer.weight.sign())
    with torch.no_grad():
        layer.weight.neg_()
    assert torch.equal(layer.feedback_path(), -first)
    if rule == "usf":
        assert torch.allclose(first.abs(), torch.full_like(first, reference.scale(layer)), rtol=1e-12)
    else:
        assert torch.equal(first.abs(), layer.feedback.abs())


@pytest.mark.parametrize("rule", RULES)
def test_feedback_gives_the_weight_no_gradient(rule):
    """dW of a net is that of stock operations for the error that arrives: F adds nothing to it."""
    layer = reference.layer("linear", rule)
    x = reference.images("linear").requires_grad_()
    y = layer(x)
    e = reference.draw(*y.shape, seed=3)
    y.backward(e)
    torch.testing.assert_close(layer.weight.grad, e.t() @ x.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", reference.PLAIN)
def test_brsf_redraws_between_steps_and_never_else(kind):
    layer, x = reference.layer(kind, "brsf"), reference.images(kind).requires_grad_()
    drawn = layer.feedback.clone()
    layer(x).sum().backward()
    layer.train(), layer.eval()
    assert torch.equal(layer.feedback, drawn)
    generator = torch.Generator().manual_seed(3)
    seen = [drawn]
    for _ in range(3):
        asym.between_steps(layer, generator)
        seen.append(layer.feedback.clone())
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])
    asym.between_steps(layer, torch.Generator().manual_seed(3))
    assert torch.equal(layer.feedback, seen[1])
    bound = reference.scale(layer) * math.sqrt(3)
    assert all(b.abs().max() <= bound for b in seen[1:])


@pytest.mark.parametrize("rule", [key for key, rule in RULES.items() if rule.between_steps is None])
def test_other_rules_stand_still_between_steps(rule):
    net = mixed(rule)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    asym.between_steps(net)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


MIRRORS = {
    "linear": lambda **o: asym.Linear(20, 10, **o),
    "conv2d": lambda **o: asym.Conv2d(4, 6, 3, padding=1, stride=2, groups=2, **o),
    "conv2d same dilated": lambda **o: asym.Conv2d(2, 4, (3, 2), padding="same", dilation=2, **o),
    "conv2d reflect": lambda **o: asym.Conv2d(2, 4, 3, padding=1, padding_mode="reflect", **o),
    "untied_conv2d": lambda **o: asym.UntiedConv2d(4, 6, 3, (5, 4), padding=1, stride=2, groups=2, **o),
    "untied_conv2d reflect": lambda **o: asym.UntiedConv2d(2, 4, 3, 4, padding=1, padding_mode="reflect", **o),
}


@pytest.mark.parametrize("name", MIRRORS)
def test_mirror_turns_towards_the_weight(name):
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    layer = MIRRORS[name](rule="mirror", generator=generator)
    weight = layer.weight.detach().clone()
    angles = [reference.angle(layer.weight, layer.feedback)]
    for _ in range(4):
        for _ in range(100):
            asym.between_steps(layer, generator)
        angles.append(reference.angle(layer.weight, layer.feedback))
    assert 60 < angles[0] < 120 and angles[1] < 60
    assert angles[-1] < 10
    assert 0.9 < layer.feedback.norm() / layer.weight.norm() < 1.1
    assert torch.equal(layer.weight, weight) and layer.weight.grad is None


@pytest.mark.parametrize("name", MIRRORS)
def test_mirror_needs_no_grad_mode_and_keeps_the_global_random_state(name):
    state, found = torch.get_rng_state(), []
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        layer = MIRRORS[name](rule="mirror", generator=torch.Generator().manual_seed(1))
        torch.set_rng_state(state)
        with mode():
            asym.between_steps(layer, torch.Generator().manual_seed(2))
        assert torch.equal(state, torch.get_rng_state())
        assert not layer.feedback.requires_grad and not layer.feedback.is_inference()
        found.append(layer.feedback)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_direct_feedback_leaves_the_logits_and_brings_their_error():
    net, plain = dense("bp", "dfa", "dfa"), dense("bp", "bp", "bp")
    x, labels, trace = reference.draw(6, 1, 3, 4), torch.arange(6) % 5, []
    logits = net(x, trace)
    assert torch.equal(logits, plain(x))
    hidden = [passage.input for passage in trace[1:]]
    e, *found = torch.autograd.grad(F.cross_entropy(logits, labels), [logits, *hidden])
    for gradient, index in zip(found, (3, 5), strict=True):
        torch.testing.assert_close(gradient, e @ net.direct[str(index)].feedback, rtol=1e-12, atol=1e-14)


def test_direct_feedback_to_the_last_hidden_layer_is_feedback_alignment():
    direct, through = dense("bp", "bp", "dfa"), dense("bp", "bp", "fa")
    direct.direct["5"].feedback.copy_(through.layers[2].feedback)
    for net in (direct, through):
        F.cross_entropy(net(reference.draw(6, 1, 3, 4)), torch.arange(6) % 5).backward()
    for ours, theirs in zip(direct.layers, through.layers, strict=True):
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("tail", [(nn.LogSoftmax(1),), (nn.Sigmoid(), nn.Unflatten(1, (5, 1)))], ids=["softmax", "sigmoid"])
def test_direct_feedback_takes_the_error_at_the_logits_whatever_follows_them(tail):
    """With one hidden layer it is feedback alignment, to whose layer a softmax sends the error of its own input too."""
    nets = {rule: Network(nn.Flatten(), *two_layers(rule), *tail, example_input=torch.zeros(1, 12)) for rule in ("dfa", "fa")}
    nets["dfa"].direct["3"].feedback.copy_(nets["fa"].layers[1].feedback)
    for net in nets.values():
        net(reference.draw(6, 12).float())[:, 0].sum().backward()
    for ours, theirs in zip(*(net.layers for net in nets.values()), strict=True):
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def two_layers(rule):
    torch.manual_seed(0)
    return asym.Linear(12, 7), nn.Tanh(), asym.Linear(7, 5, rule=rule)


def test_direct_feedback_from_a_net_without_logits_is_refused():
    layers, pooled = (asym.Conv2d(1, 3, 2), asym.Conv2d(3, 4, 2, rule="dfa")), (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    image = torch.zeros(2, 1, 5, 6)
    with pytest.raises(ValueError, match=r"example_input must give logits \(N, K\) for rule 'dfa'; of shape \(2, 1, 5, 6\)"):
        Network(*layers, example_input=image)
    with pytest.raises(ValueError, match="must give logits"):  # rows that are no longer the batch's
        Network(asym.Linear(6, 3), asym.Linear(3, 4, rule="dfa"), nn.Flatten(0, 2), example_input=image)
    net = Network(*layers, *pooled, nn.LogSoftmax(1), example_input=image)
    assert net.direct["1"].feedback.shape == (4, 3 * 4 * 5) and net.logits_step == 3
    net(image + 1)[:, 0].sum().backward()
    assert net.layers[0].weight.grad.any()


def test_direct_feedback_reaches_every_layer_of_a_mixed_net():
    net = mixed("dfa")
    assert {name: tuple(d.feedback.shape) for name, d in net.direct.items()} == {
        "2": (5, 3 * 5 * 6), "4": (5, 3 * 3 * 4), "7": (5, 12),
    }  # fmt: skip
    F.cross_entropy(net(reference.draw(6, 1, 5, 6)), torch.arange(6) % 5).backward()
    assert all(layer.weight.grad.any() for layer in net.layers)
    assert not [name for name, _ in net.named_parameters() if "direct" in name]
    assert sum("direct" in name for name in net.state_dict()) == 3


def test_a_layer_taught_directly_inside_a_step_is_refused():
    with pytest.raises(ValueError, match="a layer with rule 'dfa' must be a step of the network; got it inside one, as 2.0"):
        steps = asym.Linear(3, 4), nn.Tanh(), nn.Sequential(asym.Linear(4, 2, rule="dfa"))
        Network(*steps, example_input=torch.zeros(1, 3))


def test_building_a_network_leaves_statistics_and_random_numbers_alone():
    norm = nn.BatchNorm1d(4)
    layers = asym.Linear(3, 4), asym.Linear(4, 2, rule="dfa")
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    net = Network(layers[0], norm, nn.Dropout(0.5), layers[1], example_input=torch.ones(5, 3), generator=generator)
    assert torch.equal(state, torch.get_rng_state())
    assert not norm.running_mean.any() and norm.training and net.training


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_starts_from_the_same_weights(rule):
    for net, plain in (
        (dense("bp", rule, rule), dense("bp", "bp", "bp")),
        (nets.poggio((1, 8, 8), 5, last(rule, 4, 5)), nets.poggio((1, 8, 8), 5, last("bp", 4, 5))),
    ):
        assert all(torch.equal(a.weight, b.weight) for a, b in zip(net.layers, plain.layers, strict=True))
    assert not torch.equal(dense("bp", rule, rule, seed=1).layers[1].weight, dense("bp", rule, rule).layers[1].weight)


@pytest.mark.parametrize("rule", FIXED + LEARNED)
def test_a_layers_feedback_depends_on_seed_and_place_alone(rule):
    one, two = dense(*last(rule, 1, 3)), dense(*last(rule, 2, 3))
    assert torch.equal(one.layers[2].feedback, two.layers[2].feedback)
    assert torch.equal(two.layers[1].feedback, dense(*last("fa", 2, 3)).layers[1].feedback)
    assert not torch.equal(two.layers[1].feedback, dense(*last(rule, 2, 3), seed=1).layers[1].feedback)
    square = dense("bp", rule, rule, hidden=(8, 8)).layers[1]
    assert abs(90 - reference.angle(square.weight, square.feedback)) < 30


def test_the_generator_draws_feedback_and_leaves_the_global_random_state():
    drawn = []
    for _ in range(2):
        torch.manual_seed(len(drawn))
        drawn.append(asym.Linear(4, 3, rule="fa", generator=torch.Generator().manual_seed(5)).feedback)
    assert torch.equal(*drawn)
    assert drawn[0].abs().max() <= math.sqrt(6 / 7)


KINDS = {
    "linear": lambda **options: asym.Linear(4, 3, **options),
    "conv2d": lambda **options: asym.Conv2d(2, 3, 3, **options),
    "untied": lambda **options: asym.UntiedConv2d(2, 3, 3, 5, **options),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_a_layer_from_the_meta_device_draws_all_that_it_has(rule, kind):
    """torch's way to make a model without memory: to_empty, then reset_parameters."""
    layer = KINDS[kind](rule=rule, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            tensor.fill_(math.nan)
    layer.reset_parameters()
    found = layer.state_dict()
    assert all(tensor.isfinite().all() and tensor.any() for tensor in found.values())
    assert ("feedback" in found) == (RULES[rule].store is not None)
    direct = asym.DirectFeedback(6, 3, device="meta", dtype=torch.float64).to_empty(device="cpu")
    direct.feedback.fill_(math.nan)
    direct.reset_parameters()
    assert direct.feedback.isfinite().all() and direct.feedback.dtype == torch.float64


@pytest.mark.parametrize("kind", reference.PLAIN)
@pytest.mark.parametrize("rule", FIXED)
def test_fixed_feedback_does_not_learn_whatever_is_put_in_its_place(rule, kind):
    layer, x = reference.layer(kind, rule), reference.images(kind)
    layer.feedback = nn.Parameter(layer.feedback.clone())
    layer(x.requires_grad_()).square().sum().backward()
    assert layer.weight.grad.any() and layer.feedback.grad is None
    layer.feedback = None  # by backpropagation instead, in silence
    with pytest.raises(ValueError, match=f"feedback must be a tensor for rule '{rule}'; got None"):
        layer(x)


@pytest.mark.parametrize("kind", reference.PLAIN)
@pytest.mark.parametrize("rule", RULES)
def test_a_layer_whose_parameters_alone_are_cast_is_the_layer_cast(rule, kind):
    """As FSDP does where it computes in another dtype: buffers stay as they are."""
    whole, alone = reference.layer(kind, rule, bias=True).bfloat16(), reference.layer(kind, rule, bias=True)
    for parameter in alone.parameters():
        parameter.data = parameter.data.bfloat16()
    x, gradients = reference.images(kind, dtype=torch.bfloat16), []
    for layer in (whole, alone):
        y = layer(x.clone().requires_grad_(not RULES[rule].direct))
        y.square().sum().backward()
        gradients.append([y, *(parameter.grad for parameter in layer.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("second", RULES)
@pytest.mark.parametrize("first", RULES)
def test_a_layer_may_change_its_rule(first, second, kind):
    layer = KINDS[kind](rule=first)
    weight = layer.weight.detach().clone()
    layer.attach_feedback(second, torch.Generator().manual_seed(1))
    plain = KINDS[kind](rule=second, generator=torch.Generator().manual_seed(1))
    assert layer.rule == second and torch.equal(layer.weight, weight)
    assert layer._parameters.keys() == plain._parameters.keys() and layer._buffers.keys() == plain._buffers.keys()
    assert (layer.feedback is None) == (plain.feedback is None)
    assert layer.feedback is None or torch.equal(layer.feedback, plain.feedback)


def test_a_layer_taught_directly_outside_a_network_tells_that_it_stops_the_error():
    lower, upper = asym.Linear(4, 4), asym.Linear(4, 3, rule="dfa")
    with pytest.warns(UserWarning, match="'dfa' sends no error back: unless a Network wires it, nothing below it learns"):
        upper(lower(torch.randn(2, 4))).sum().backward()
    assert lower.weight.grad is None and upper.weight.grad.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        upper(torch.randn(2, 4))
        network = Network(lower, nn.Tanh(), upper, example_input=torch.zeros(1, 4))
        network(torch.randn(2, 4)).sum().backward()
    assert lower.weight.grad.any()
    with pytest.warns(UserWarning, match="sends no error back"):
        nn.Sequential(*network.steps)(torch.randn(2, 4))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("rule", LEARNED)
def test_a_learned_feedback_stands_still_with_its_frozen_weight(rule, when):
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    if when == "before":
        model[2].requires_grad_(False)
    net = asym.convert(model, rule)
    net[2].weight.requires_grad_(False)
    before = net[2].feedback.detach().clone()
    optimizer = torch.optim.AdamW(net.parameters(), 0.1, weight_decay=0.1)
    for freeze in (True, False):
        net[2].weight.requires_grad_(not freeze)
        optimizer.zero_grad()
        net(torch.randn(8, 4)).pow(2).mean().backward()
        optimizer.step()
        assert torch.equal(net[2].feedback, before) == freeze  # and moves again with it
    assert not asym.convert(model.requires_grad_(False), rule).requires_grad_(False)(torch.randn(2, 4)).requires_grad


def test_a_rule_cannot_be_set_alone():
    layer = asym.Linear(4, 5)
    with pytest.raises(AttributeError, match=r"rule cannot be set alone: attach_feedback\('fa'\) also makes the B"):
        layer.rule = "fa"
    assert layer.rule == "bp" and layer.feedback is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_derivative_of_what_is_asymmetric_is_refused(kind):
    """It would be neither the derivative of the update nor the Hessian."""
    shape = (3, 4) if kind == "linear" else (3, 2, 5, 5)
    for rule in ("fa", "shared_update", "usf", "bp"):
        layer = KINDS[kind](rule=rule)
        x = torch.randn(shape, requires_grad=True)
        (g,) = torch.autograd.grad(layer(x).tanh().sum(), layer.weight, create_graph=True)
        if rule == "bp":
            assert torch.autograd.grad(g.square().sum(), layer.weight)[0].any()
            continue
        with pytest.raises(RuntimeError, match="differentiate twice"):
            torch.autograd.grad(g.square().sum(), layer.weight, retain_graph=True)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            g.square().sum().backward()
        for nested in (jacrev(jacrev(partial(_loss, layer))), grad(lambda x, layer=layer: grad(partial(_loss, layer))(x).sum())):
            with pytest.raises(RuntimeError, match="differentiate twice"):
                nested(x)
    logits, hidden = torch.randn(2, 3, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    (g,) = torch.autograd.grad(asym.DirectFeedback(4, 3)(logits, hidden).square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        g.sum().backward()
    through = lambda hidden: asym.DirectFeedback(4, 3)(logits, hidden).square().sum()
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad(lambda hidden: grad(through)(hidden).sum())(hidden)


def _loss(layer, x):
    return layer(x).tanh().square().sum()


@pytest.mark.parametrize("library", gemm.LIBRARIES)
@pytest.mark.parametrize("form", ["torch", "compiled"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_a_layer_may_be_in_place(kind, form, library, monkeypatch):
    """By every way to multiply that this machine has."""
    monkeypatch.setenv("ASYM_GEMM", library if hasattr(torch.ops.mkldnn, "_linear_pointwise") else "stock")
    monkeypatch.setenv("ASYM_UNTIED", form)
    shapes = [(4,), (3, 4), (2, 3, 4)] if kind == "linear" else [(2, 5, 5), (3, 2, 5, 5)]
    for rule, bias, shape in itertools.product(("bp", "fa"), (True, False), shapes):
        layer = KINDS[kind](rule=rule, bias=bias)
        x = torch.randn(shape)
        found = []
        for inplace in (False, True):
            layer.weight.grad = None
            F.leaky_relu(layer(x), inplace=inplace).sum().backward()
            found.append(layer.weight.grad)
        assert torch.equal(*found) and found[0].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_parametrized_weight_is_read_once_a_forward(kind):
    """So that a random one, as DropConnect's, goes forward and backward as the same."""

    class Mask(nn.Module):
        def forward(self, weight):
            drawn.append(weight * torch.randint(2, weight.shape))
            return drawn[-1]

    for rule in RULES:
        layer, drawn = KINDS[kind](rule=rule), []
        torch.nn.utils.parametrize.register_parametrization(layer, "weight", Mask(), unsafe=True)
        drawn.clear()
        layer(torch.randn(3, 4) if kind == "linear" else torch.randn(3, 2, 5, 5))
        assert len(drawn) == 1
        if rule in ("usf", "frsf"):
            assert torch.equal(layer.feedback_path(drawn[0]) == 0, drawn[0] == 0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", reference.PLAIN)
def test_shapes_are_inferred_without_numbers(kind, rule):
    """On torch's meta device, which has no autocast to ask for."""
    layer, x = reference.layer(kind, rule), reference.images(kind)
    expected = layer(x).shape
    layer, x = layer.to("meta"), x.to("meta").requires_grad_()
    y = layer(x)
    y.backward(torch.empty_like(y))
    assert (y.shape, layer.weight.grad.shape, y.device.type) == (expected, layer.weight.shape, "meta")
    assert (x.grad is None) == RULES[rule].direct
