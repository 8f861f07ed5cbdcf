"""The experiments' nets: their shapes, sizes, order and first weights."""

import copy
import math
import pickle

import pytest
import reference
import torch
import torch.nn.functional as F
from torch import nn

import asym
from asym import nets
from asym.config import last
from asym.measures import Probe, angle
from asym.network import Network
from asym.rules import RULES, Rule
from asym.train import train

CIFAR = (3, 32, 32)


def names(net):
    return [type(step).__name__ for step in net.steps]


def weights(net):
    return sum(layer.weight.numel() for layer in net.layers)


def test_dense_net():
    net = nets.dense(CIFAR, 10, last("fa", 2, 3), hidden=(512, 256))
    assert names(net) == ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert weights(net) == 3072 * 512 + 512 * 256 + 256 * 10
    assert [layer.rule for layer in net.layers] == ["bp", "fa", "fa"]
    assert net(torch.zeros(2, *CIFAR)).shape == (2, 10)
    assert names(nets.dense(CIFAR, 10, ("bp",), hidden=())) == ["Flatten", "Linear"]


def test_tied_poggio_net():
    net = nets.poggio(CIFAR, 10, last("fa", 4, 5))
    block = ["Conv2d", "ReLU", "AvgPool2d"]
    expected = ["Conv2d", "MaxPool2d", "ReLU", *block, *block, "Flatten", "Linear", "ReLU", "Linear"]
    assert names(net) == expected
    assert weights(net) == 3 * 25 * 32 + 32 * 25 * 64 + 64 * 25 * 64 + 64 * 16 * 128 + 128 * 10
    assert net(torch.zeros(2, *CIFAR)).shape == (2, 10)
    pools = [step for step in net.steps if isinstance(step, nn.MaxPool2d | nn.AvgPool2d)]
    assert all((pool.kernel_size, pool.stride, pool.padding) == (3, 2, 1) for pool in pools)
    assert all(pool.count_include_pad for pool in pools[1:])
    sizes, x = [], torch.zeros(1, *CIFAR)
    for step in net.steps:
        x = step(x)
        if step in pools:
            sizes.append(tuple(x.shape[1:]))
    assert sizes == [(32, 16, 16), (64, 8, 8), (64, 4, 4)]


def test_untied_poggio_net_stores_a_kernel_for_each_position():
    net = nets.poggio(CIFAR, 10, last("bp", 4, 5), untied=True)
    tied_part = 64 * 16 * 128 + 128 * 10
    assert weights(net) == 1024 * 75 * 32 + 256 * 800 * 64 + 64 * 1600 * 64 + tied_part == 22_250_752
    assert [type(layer).__name__ for layer in net.layers] == ["UntiedConv2d"] * 3 + ["Linear"] * 2
    assert [layer.output_size for layer in net.layers[:3]] == [(32, 32), (16, 16), (8, 8)]


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_poggio_net_runs_with_every_rule_on_small_images(rule, untied):
    net = nets.poggio((1, 6, 5), 4, last(rule, 4, 5), untied=untied)
    net(torch.ones(2, 1, 6, 5)).square().sum().backward()
    assert all(layer.weight.grad is not None and layer.bias is None for layer in net.layers)
    assert len(net.direct) == (4 if RULES[rule].direct else 0)


def test_no_biases():
    for net in (nets.dense((1, 4, 4), 3, last("fa", 2, 3)), nets.poggio((1, 8, 8), 3, last("fa", 4, 5), untied=True)):
        assert not [name for name, _ in net.named_parameters() if "bias" in name]


@pytest.mark.parametrize("untied", [False, True])
def test_weights_and_feedback_are_glorot_uniform(untied):
    net = nets.poggio((1, 12, 12), 10, last("fa", 4, 5), untied=untied)
    kernels = [(1, 32), (32, 64), (64, 64)]
    fans = [(c * 25, o * 25) for c, o in kernels] + [(64 * 4, 128), (128, 10)]
    for layer, (fan_in, fan_out) in zip(net.layers, fans, strict=True):
        bound = math.sqrt(6 / (fan_in + fan_out))
        for tensor in (layer.weight, layer.feedback):
            if tensor is not None:
                assert tensor.abs().max() <= bound
                assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
                assert abs(tensor.mean().item()) < 0.1 * bound


def test_tied_start_copies_the_tied_nets_kernels():
    rules, shape = last("fa", 4, 5), (1, 8, 8)
    tied = nets.poggio(shape, 4, rules, seed=3)
    started = nets.poggio(shape, 4, rules, seed=3, untied=True, tied_start=True)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(started(x), tied(x), rtol=1e-4, atol=1e-5)
    free = nets.poggio(shape, 4, rules, seed=3, untied=True)
    kernels = free.layers[1].as_kernels(free.layers[1].weight)
    assert not torch.equal(kernels[0, 0], kernels[0, 1])
    assert all(torch.equal(a.feedback, b.feedback) for a, b in zip(started.layers[1:], free.layers[1:], strict=True))


def test_dropout_stands_after_every_hidden_dense_layer_or_every_pooling():
    dense = names(nets.dense((1, 4, 4), 3, last("fa", 2, 3), dropout=0.5))
    assert dense == ["Flatten", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    poggio = names(nets.poggio((1, 8, 8), 3, last("fa", 4, 5), dropout=0.25))
    assert [poggio[i - 1] for i, name in enumerate(poggio) if name == "Dropout"] == ["ReLU", "AvgPool2d", "AvgPool2d"]


@pytest.mark.parametrize(("untied", "dropped"), [(True, 2), (False, 3)])
def test_dropout_of_an_untied_net_stands_after_its_untied_convolutions(untied, dropped):
    """Not after a given first one, which is tied."""
    first = torch.zeros(32, 1, 5, 5)
    net = names(nets.poggio((1, 8, 8), 3, last("fa", 4, 5), untied=untied, first=first, dropout=0.25))
    assert [net[i - 1] for i, name in enumerate(net) if name == "Dropout"] == ["ReLU", "AvgPool2d", "AvgPool2d"][3 - dropped :]
    whole = names(nets.poggio((1, 8, 8), 3, last("fa", 4, 5), untied=untied, dropout=0.25))
    assert whole.count("Dropout") == 3


def test_dropout_changes_no_first_weight():
    for options in ({}, {"dropout": 0.5}):
        layer = nets.dense((1, 4, 4), 3, last("fa", 2, 3), **options).layers[1]
        assert torch.equal(layer.weight, nets.dense((1, 4, 4), 3, last("fa", 2, 3)).layers[1].weight)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_of_elements_and_keeps_the_mean(p):
    n = 200_000
    x = torch.ones(400, n // 400, requires_grad=True)
    y = nets.Dropout(p, seed=3)(x)
    kept = y != 0
    deviation = math.sqrt(p * (1 - p) / n)
    assert abs(kept.double().mean().item() - (1 - p)) < 4 * deviation
    assert abs(y.double().mean().item() - 1) < 4 * deviation / (1 - p)
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p)))
    assert kept.any(0).all() and kept.any(1).all() and not kept.all(0).any() and not kept.all(1).any()
    y.sum().backward()
    assert torch.equal(x.grad, y)


def masks(step, count):
    return [step(torch.ones(100, 100)) != 0 for _ in range(count)]


def test_no_two_masks_of_dropout_are_alike():
    """Whether of two calls, two layers or two seeds: two independent masks agree in half of the elements."""
    rules = last("fa", 3, 4)
    built = [nets.dense((1, 4, 4), 3, rules, hidden=(5, 5, 5), dropout=0.5, seed=seed) for seed in (0, 1)]
    drops = [step for net in built for step in net.steps if isinstance(step, nets.Dropout)]
    drawn = [mask for step in drops for mask in masks(step, 4)]
    assert len(drops) == 6 and len(drawn) == 24
    for i, mask in enumerate(drawn):
        for other in drawn[:i]:
            assert (mask == other).float().mean().item() == pytest.approx(0.5, abs=0.03)  # 6 standard deviations


def test_dropout_is_the_identity_in_evaluation_and_its_masks_go_on_as_if_it_had_not_been():
    step, undisturbed = nets.Dropout(0.5, seed=5), nets.Dropout(0.5, seed=5)
    x = torch.randn(3, 4)
    found = masks(step, 2)
    assert torch.equal(step.eval()(x), x) and torch.equal(step(x), x)
    torch.manual_seed(1)
    found += masks(step.train(), 2)
    assert all(torch.equal(a, b) for a, b in zip(found, masks(undisturbed, 4), strict=True))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_on_with_the_masks_of_the_original(copied):
    net = nets.poggio((1, 8, 8), 3, last("fa", 4, 5), dropout=0.5).train()
    x = torch.randn(4, 1, 8, 8)
    first = net(x)
    twin = copied(net)
    ours = [net(x) for _ in range(3)]  # before the copy draws: they share nothing
    theirs = [twin(x) for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip([first, *ours], ours, strict=False))


@pytest.mark.parametrize("untied", [False, True])
def test_a_given_first_convolution_is_tied_and_copied_and_leaves_the_other_layers_alone(untied):
    options = {"untied": untied, "activation": "tanh", "seed": 3}
    kernels = torch.randn(32, 2, 5, 5)
    given = nets.poggio((2, 8, 8), 3, last("fa", 4, 5), first=kernels, **options)
    without = nets.poggio((2, 8, 8), 3, last("fa", 4, 5), **options)
    kind = "UntiedConv2d" if untied else "Conv2d"
    assert names(given)[:6] == ["Conv2d", "MaxPool2d", "ReLU", kind, "Tanh", "AvgPool2d"]
    assert names(given).count("ReLU") == 1 and names(given)[6:] == names(without)[6:]
    first, *others = given.layers
    assert torch.equal(first.weight, kernels) and first.weight.data_ptr() != kernels.data_ptr()
    for layer, other in zip(others, without.layers[1:], strict=True):
        assert torch.equal(layer.weight, other.weight) and torch.equal(layer.feedback, other.feedback)
    with pytest.raises(ValueError, match=r"first must have shape \(32, 2, 5, 5\); got \(32, 1, 5, 5\)"):
        nets.poggio((2, 8, 8), 3, last("fa", 4, 5), first=kernels[:, :1], **options)


@pytest.mark.parametrize(("pooling", "name"), [("average", "AvgPool2d"), ("max", "MaxPool2d")])
def test_pooling_is_that_of_the_second_and_third_convolution(pooling, name):
    found = [n for n in names(nets.poggio((1, 8, 8), 3, last("fa", 4, 5), pooling=pooling)) if "Pool" in n]
    assert found == ["MaxPool2d", name, name]


@pytest.mark.parametrize("pooling", nets.POOLINGS)
@pytest.mark.parametrize("untied", [False, True])
def test_the_layout_and_precision_in_which_a_conv_net_trains_change_no_gradient_beyond_rounding(untied, pooling):
    expected = reference.poggio_gradients(untied, pooling)
    found = reference.poggio_gradients(untied, pooling, torch.float32, torch.channels_last)
    assert all((ours - theirs).norm() < 1e-5 * theirs.norm() for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shifted", [(), ("cpu",)])
def test_an_average_whose_padding_is_laid_beforehand_is_the_same_to_the_bit(shifted, layout, monkeypatch):
    """Its gradient too, so that what is done on a GPU is what torch does here; tests/test_gpu.py compares the two devices."""
    monkeypatch.setattr(nets, "SHIFTED", shifted)
    x = torch.randn(3, 4, 9, 8).contiguous(memory_format=layout).requires_grad_()
    e, found = torch.randn(3, 4, 5, 4), []
    for kind in (nn.AvgPool2d, nets.AvgPool2d):
        y = kind(3, stride=2, padding=1)(x)
        found.append((y, torch.autograd.grad(y, x, e)[0]))
    assert all(torch.equal(ours, theirs) and ours.stride() == theirs.stride() for theirs, ours in zip(*found, strict=True))
    by_hand = F.conv2d(x.double(), torch.full((4, 1, 3, 3), 1 / 9, dtype=torch.float64), None, 2, 1, 1, 4)
    torch.testing.assert_close(found[1][0].double(), by_hand, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        found[1][1].double(), torch.autograd.grad(by_hand, x, e.double())[0].double(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", nets.ACTIVATIONS)
def test_a_maximum_before_the_nonlinearity_is_the_maximum_after_it(name):
    pool, nonlinearity = nn.MaxPool2d(3, stride=2, padding=1), nets.ACTIVATIONS[name]()
    x = torch.randn(3, 4, 9, 9).mul_(2).requires_grad_()
    x.data[0, 0] = -x.data[0, 0].abs()  # windows without a positive number, whose relu are all equal
    e = torch.randn(3, 4, 5, 5)
    before, after = nonlinearity(pool(x)), pool(nonlinearity(x))
    gradients = (torch.autograd.grad(y, x, e)[0] for y in (before, after))
    torch.testing.assert_close(before, after)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", nets.ACTIVATIONS)
def test_activation_is_used_throughout(name):
    expected = nets.ACTIVATIONS[name]
    for net in (
        nets.dense((1, 4, 4), 3, last("fa", 2, 3), activation=name),
        nets.poggio((1, 8, 8), 3, last("fa", 4, 5), activation=name),
    ):
        assert sum(isinstance(step, expected) for step in net.steps) == len(net.layers) - 1


def test_half_hardtanh():
    x = torch.tensor([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0])
    assert nets.HalfHardtanh()(x).tolist() == [-1.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("make", [nets.dense, nets.poggio])
def test_a_rule_for_each_layer(make):
    count = 3 if make is nets.dense else 5
    with pytest.raises(ValueError, match=f"one rule for each of the net's {count} layers; got 2"):
        make((1, 8, 8), 3, ("bp", "fa"))


def test_streams_differ_by_seed_and_purpose():
    seeds = {nets.stream(seed, purpose).initial_seed() for seed in range(20) for purpose in ("weight 0", "weight 1", "order")}
    assert len(seeds) == 60
    assert nets.stream(0, "order").initial_seed() == nets.stream(0, "order").initial_seed()


def test_twin_shares_every_tensor():
    net = nets.dense((1, 4, 4), 3, ("bp", "kp", "dfa"))
    twin = net.twin()
    assert [layer.rule for layer in twin.layers] == ["bp"] * 3 and not twin.direct
    assert all(a.weight is b.weight for a, b in zip(net.layers, twin.layers, strict=True))
    assert [layer.rule for layer in net.layers] == ["bp", "kp", "dfa"] and len(net.direct) == 1
    assert len(list(twin.parameters())) == 3


def test_twin_of_a_converted_net_shares_what_is_no_feedback_layer():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    net = asym.convert(model, "dfa", example_input=torch.zeros(2, 4))
    twin = net.twin()
    assert twin.steps[1].weight is net.steps[1].weight and twin.steps[1].running_mean is net.steps[1].running_mean
    x = torch.randn(6, 4)
    net(x)
    assert torch.equal(net.eval()(x), twin.eval()(x))


class Residual(nn.Module):
    """A layer with feedback inside a step."""

    def __init__(self):
        super().__init__()
        self.inner = asym.Linear(4, 4, rule="fa", bias=False)

    def forward(self, x):
        return x + torch.tanh(self.inner(x))


def test_the_twin_learns_by_backpropagation_inside_its_steps_too():
    x, labels = torch.randn(6, 5), torch.arange(6) % 3
    net = Network(asym.Linear(5, 4, bias=False), Residual(), asym.Linear(4, 3, bias=False), example_input=x)

    def sent(model):
        """What reaches the first weight."""
        return torch.autograd.grad(nn.functional.cross_entropy(model(x), labels), next(model.parameters()))[0]

    twin, right = net.twin(), asym.convert(net, "bp")
    assert twin.steps[1].inner.rule == "bp" and twin.steps[1].inner.weight is net.steps[1].inner.weight
    assert torch.equal(sent(twin), sent(right)) and not torch.allclose(sent(net), sent(right))
    assert net.steps[1].inner.rule == "fa"
    told = Probe(net, x, labels, nn.functional.cross_entropy, [torch.tanh]).measure()["gradient_angle"]
    assert told[0] == pytest.approx(float(angle(sent(net), sent(right)))) and told[0] > 1


@pytest.mark.parametrize("rule", ["fa", "bp", "usf"])
def test_a_layer_taught_directly_follows_the_rule_that_it_is_given_next(rule):
    x = torch.randn(6, 4)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    net = asym.convert(model, "dfa", example_input=x)

    def first(net):
        return torch.autograd.grad(net(x).square().sum(), next(net.parameters()))[0]

    taught = first(net)
    net.layers[1].attach_feedback(rule, torch.Generator().manual_seed(1))
    alike = asym.convert(model, {"2": rule})
    alike[2].attach_feedback(rule, torch.Generator().manual_seed(1))
    assert torch.equal(first(net), first(alike)) and not torch.allclose(first(net), taught)
    net.layers[1].attach_feedback("dfa")
    assert torch.equal(first(net), taught)


def test_a_rule_a_network_and_a_training_are_made_of_what_they_name():
    with pytest.raises(ValueError, match="store must be None, 'buffer' or 'parameter'; got 'buffers'"):
        Rule(key="x", equation="", source="", store="buffers", path=lambda weight, feedback, scale: feedback)
    with pytest.raises(ValueError, match="example_input must be a tensor; got 'list'"):
        Network(nn.Linear(1, 2), example_input=[1.0])
    with pytest.raises(ValueError, match="config must be an asym.Config; got {'epochs': 1}"):
        train({"epochs": 1})
