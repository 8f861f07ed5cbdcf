"""Measures: angles against closed forms and against errors sent back by hand, and a probe that leaves no trace."""

import copy
import math

import pytest
import reference
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

import asym
from asym import nets
from asym.config import last
from asym.measures import MEASURES, PIECE, Probe, angle
from asym.network import Network
from asym.rules import RULES

SHAPE, CLASSES = (1, 6, 5), 4


@pytest.fixture(autouse=True)
def stock(monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", "stock")


def dense(*rules, activation="tanh"):
    return nets.dense(SHAPE, CLASSES, rules, hidden=(9, 8), activation=activation).double()


def conv(*rules):
    """A tied, an untied and a dense layer."""
    generator = torch.Generator().manual_seed(1)
    options = {"bias": False, "generator": generator}
    steps = [asym.Conv2d(1, 3, 3, padding=1, rule=rules[0], **options), nn.Tanh()]
    steps += [asym.Conv2d(3, 4, 3, padding=1, stride=2, rule=rules[1], **options), nn.Tanh(), nn.AvgPool2d(2, 1)]
    steps += [asym.UntiedConv2d(4, 3, (2, 1), (2, 2), rule=rules[2], **options), nn.Tanh(), nn.Flatten()]
    steps += [asym.Linear(6, CLASSES, rule=rules[3], **options)]
    return Network(*steps, example_input=torch.zeros(1, *SHAPE), generator=generator).double()


def probe(net, activation=torch.tanh, n=12):
    images, labels = reference.draw(n, *SHAPE, seed=4), torch.arange(n) % CLASSES
    return Probe(net, images, labels, F.cross_entropy, [activation] * (len(net.layers) - 1))


def unit(degrees):
    return torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))], dtype=torch.float64)


@pytest.mark.parametrize("degrees", [0, 1e-9, 1e-5, 1e-3, 1, 30, 60, 89.999, 90, 120, 179, 180])
def test_angle_is_the_closed_form(degrees):
    tolerance = 1e-5 if degrees > 179 else 1e-12
    found = angle(unit(0) * 3, unit(degrees) * 0.1).item()
    assert found == pytest.approx(degrees, rel=1e-6, abs=tolerance)


def test_angle_of_any_shape_and_scale():
    a, b = reference.draw(3, 4, 2), reference.draw(3, 4, 2, seed=1)
    for scale in (1e-150, 1, 1e100):
        assert angle(a * scale, b).item() == pytest.approx(reference.angle(a, b), abs=1e-9)
    assert angle(a, a).item() == pytest.approx(0, abs=1e-6) and angle(a, -a).item() == pytest.approx(180, abs=1e-5)
    assert angle(a.float(), a.float()).dtype == torch.float64


def test_angle_is_of_all_elements_however_many_there_are():
    a, b = reference.draw(2, PIECE), reference.draw(2, PIECE, seed=1)
    assert angle(a, b).item() == pytest.approx(reference.angle(a, b), abs=1e-9)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_angle_with_no_direction_is_nan(bad):
    a, b = torch.ones(3), torch.full((3,), bad)
    assert angle(a, b).isnan() and angle(b, a).isnan() and angle(b, b).isnan()


@pytest.mark.parametrize("size", [1e160, 1e-170])
def test_angle_with_a_norm_that_is_no_number_of_float64_is_nan(size):
    a, b = torch.ones(2, dtype=torch.float64), torch.full((2,), size, dtype=torch.float64)
    assert angle(a, b).isnan() and angle(b, a).isnan() and angle(b, b).isnan()


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (None, "a tensor of .*; got None"),
        ([1.0, 2.0], r"a tensor of .*; got \[1.0, 2.0\]"),
        (torch.ones(2, dtype=torch.int64), "a tensor of .*; got torch.int64"),
        (torch.ones(2, dtype=torch.complex64), "a tensor of .*; got torch.complex64"),
        (torch.ones(0), r"of a shape that has elements; got \(0,\)"),
    ],
)
def test_what_has_no_direction_is_refused_by_name(name, bad, told):
    with pytest.raises(ValueError, match=f"{name} must be {told}"):
        angle(**{"a": torch.ones(2), "b": torch.ones(2)} | {name: bad})


def test_a_probe_asks_for_a_network_and_its_nonlinearities():
    net = dense("bp", "fa", "fa")
    images, labels = torch.ones(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="net must be an asym.network.Network; got 'Sequential'"):
        Probe(nn.Sequential(), images, labels, F.cross_entropy, [F.relu] * 2)
    with pytest.raises(ValueError, match="activations must be one a layer but the last, 2; got 1"):
        Probe(net, images, labels, F.cross_entropy, [F.relu])


@pytest.mark.parametrize("compute", [parametrizations.weight_norm, lambda layer: prune.identity(layer, "weight")])
def test_a_weight_that_is_computed_is_not_measured(compute):
    net = dense("bp", "fa", "fa")
    compute(net.layers[1])
    told = (
        r"net must be one whose weights are parameters, no parametrized or pruned ones; got 'computed ones in the layers \[2\]'"
    )
    with pytest.raises(ValueError, match=told):
        probe(net)


def test_tensors_of_two_shapes_have_no_angle():
    with pytest.raises(ValueError, match=r"b must be of a's shape \(3, 4\); got \(4, 3\)"):
        angle(torch.ones(3, 4), torch.ones(4, 3))


@pytest.mark.parametrize("net", [dense("bp", "bp", "bp"), conv("bp", "bp", "bp", "bp")], ids=["dense", "conv"])
def test_backpropagation_agrees_with_itself(net):
    found = probe(net).measure()
    layers = len(net.layers)
    assert set(found) == set(MEASURES) and all(len(values) == layers for values in found.values())
    assert found["weight_angle"] == [0.0] * layers and found["feedback_ratio"] == [1.0] * layers
    assert found["sign_agreement"] == [1.0] * layers
    assert all(value < 1e-5 for value in found["gradient_angle"])
    assert math.isnan(found["delta_angle"][0]) and found["delta_angle"][1:] == [0.0] * (layers - 1)
    assert all(math.isnan(value) for value in found["drift"])


@pytest.mark.parametrize("rule", [key for key, rule in RULES.items() if key != "bp" and not rule.direct])
@pytest.mark.parametrize("make", [dense, conv])
def test_what_weight_and_feedback_tell(make, rule):
    count = 3 if make is dense else 4
    net = make(*last(rule, count - 1, count))
    looking = probe(net)
    starts = [(layer.weight - reference.path(layer)).detach() for layer in net.layers[1:]]
    with torch.no_grad():
        for index, layer in enumerate(net.layers):
            layer.weight.add_(reference.draw(*layer.weight.shape, seed=index), alpha=0.1)
    found = looking.measure()
    for index, (layer, start) in enumerate(zip(net.layers[1:], starts, strict=True), 1):
        w, path = layer.weight.detach(), reference.path(layer)
        assert found["weight_angle"][index] == pytest.approx(reference.angle(w, path))
        assert found["feedback_ratio"][index] == pytest.approx((path.pow(2).sum() / w.pow(2).sum()).sqrt().item())
        agreeing = sum(a * b > 0 for a, b in zip(w.flatten().tolist(), path.flatten().tolist(), strict=True))
        assert found["sign_agreement"][index] == pytest.approx(agreeing / w.numel())
        drift = (w - path - start).pow(2).sum().sqrt() / start.pow(2).sum().sqrt()
        assert found["drift"][index] == pytest.approx(drift.item())
    if rule in ("usf", "frsf", "brsf"):
        assert found["sign_agreement"] == [1.0] * count


def test_a_feedback_that_came_after_the_probe_has_no_drift():
    net = dense("bp", "bp", "bp")
    looking = probe(net)
    net.layers[1].attach_feedback("fa")
    found = looking.measure()
    assert math.isnan(found["drift"][1]) and 0 < found["weight_angle"][1] < 180


def test_direct_feedback_has_no_angle_to_the_weight():
    found = probe(dense("bp", "dfa", "dfa")).measure()
    for name in ("weight_angle", "feedback_ratio", "sign_agreement", "drift"):
        assert all(math.isnan(value) for value in found[name][1:]), name
    assert all(0 < value < 180 for value in found["delta_angle"][1:] + found["gradient_angle"][:2])
    assert found["gradient_angle"][2] < 1e-5


def by_hand(net, rule, images, labels):
    """Errors of the dense tanh net: what arrives at each hidden output, and what W would have sent there."""
    w1, w2, w3 = (layer.weight.detach() for layer in net.layers)
    x = images.flatten(1)
    h1 = torch.tanh(x @ w1.t())
    h2 = torch.tanh(h1 @ w2.t())
    e3 = (torch.softmax(h2 @ w3.t(), 1) - F.one_hot(labels, CLASSES)) / len(labels)
    slope1, slope2 = 1 - h1**2, 1 - h2**2
    if rule == "dfa":
        e2, e1 = e3 @ net.direct["5"].feedback * slope2, e3 @ net.direct["3"].feedback * slope1
    else:
        e2 = e3 @ reference.path(net.layers[2]) * slope2
        e1 = e2 @ reference.path(net.layers[1]) * slope1
    local = {2: (e2, e3 @ w3 * slope2), 1: (e1, e2 @ w2 * slope1)}
    right2 = e3 @ w3 * slope2
    used = (e1.t() @ x, e2.t() @ h1, e3.t() @ h2)
    right = ((right2 @ w2 * slope1).t() @ x, right2.t() @ h1, e3.t() @ h2)
    return local, used, right


@pytest.mark.parametrize("rule", [key for key in RULES if key != "bp"])
def test_dense_angles_are_those_of_the_errors_by_hand(rule):
    net = dense("bp", rule, rule)
    looking = probe(net)
    found = looking.measure()
    local, used, right = by_hand(net, rule, looking.images, looking.labels)
    for index, (sent, wanted) in local.items():
        assert found["delta_angle"][index] == pytest.approx(reference.angle(sent, wanted), abs=1e-6)
    for index in range(3):
        assert found["gradient_angle"][index] == pytest.approx(reference.angle(used[index], right[index]), abs=1e-5)


@pytest.mark.parametrize("rule", [key for key in RULES if key != "bp"])
def test_what_works_in_place_after_a_layer_changes_no_measure(rule):
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        options = {"bias": False, "dtype": torch.float64}
        steps = [asym.Linear(6, 5, **options), nn.ELU(inplace=inplace), asym.Linear(5, 4, rule=rule, **options)]
        steps += [nn.ELU(inplace=inplace), asym.Linear(4, CLASSES, rule=rule, **options)]
        net = Network(*steps, example_input=torch.zeros(1, 6, dtype=torch.float64))
        found.append(Probe(net, reference.draw(12, 6), torch.arange(12) % CLASSES, F.cross_entropy, [F.elu] * 2).measure())
    assert all(value > 0 for value in found[0]["delta_angle"][1:])
    for name, values in found[0].items():
        assert found[1][name] == pytest.approx(values, nan_ok=True), name


@pytest.mark.parametrize("rule", ["fa", "dfa"])
def test_convolution_angles_are_those_of_the_errors_by_hand(rule):
    net = conv(*last(rule, 3, 4))
    looking = probe(net)
    found, trace = looking.measure(), []
    net(looking.images, trace)
    z1, z2, z3 = (passage.output.detach() for passage in trace[:3])
    untied, out = net.layers[2], net.layers[3]
    h3 = torch.tanh(z3).flatten(1)
    e4 = (torch.softmax(h3 @ out.weight.detach().t(), 1) - F.one_hot(looking.labels, CLASSES)) / len(looking.labels)

    def below_out(matrix):
        return (e4 @ matrix).reshape(z3.shape) * (1 - torch.tanh(z3) ** 2)

    def below_untied(e, weight):  # through the 2x1 kernels of the one row of two positions, then the 2x2 pool of stride 1
        kernels = untied.as_kernels(weight.detach())
        dx = torch.zeros(len(e), 4, 2, 2, dtype=torch.float64)
        for column in (0, 1):
            dx[:, :, :, column] = torch.einsum("no,ock->nck", e[:, :, 0, column], kernels[0, column, ..., 0])
        return unpool(dx) * (1 - torch.tanh(z2) ** 2)

    def unpool(e):
        dx = torch.zeros_like(z2)
        for i in (0, 1):
            for j in (0, 1):
                dx[:, :, i : i + 2, j : j + 2] += e / 4
        return dx

    def below_conv(e, weight):
        dx = F.conv_transpose2d(e, weight.detach(), stride=2, padding=1, output_padding=(1, 0))
        return dx * (1 - torch.tanh(z1) ** 2)

    if rule == "fa":
        e3 = below_out(out.feedback)
        e2 = below_untied(e3, untied.feedback)
        e1 = below_conv(e2, net.layers[1].feedback)
    else:
        e3 = below_out(net.direct["8"].feedback)
        pooled = (e4 @ net.direct["5"].feedback).reshape(-1, 4, 2, 2)
        e2 = unpool(pooled) * (1 - torch.tanh(z2) ** 2)
        e1 = (e4 @ net.direct["2"].feedback).reshape(z1.shape) * (1 - torch.tanh(z1) ** 2)
    pairs = (e3, below_out(out.weight)), (e2, below_untied(e3, untied.weight)), (e1, below_conv(e2, net.layers[1].weight))
    for index, (sent, wanted) in zip((3, 2, 1), pairs, strict=True):
        assert found["delta_angle"][index] == pytest.approx(reference.angle(sent, wanted), abs=1e-6)
    right = below_conv(below_untied(below_out(out.weight), untied.weight), net.layers[1].weight)
    gradients = [
        torch.nn.grad.conv2d_weight(looking.images, net.layers[0].weight.shape, e, padding=1) for e in (e1, right)
    ]  # fmt: skip
    assert found["gradient_angle"][0] == pytest.approx(reference.angle(*gradients), abs=1e-6)


def test_dead_relus_and_saturated_tanhs_are_idle():
    net = dense("bp", "fa", "fa", activation="relu")
    looking = probe(net, torch.relu)
    looking.images = looking.images.abs()
    with torch.no_grad():
        net.layers[0].weight.abs_()
        net.layers[0].weight[:3].neg_()  # never active on positive images
    assert looking.measure()["idle"][0] == pytest.approx(3 / 9)
    assert math.isnan(looking.measure()["idle"][-1])
    net = dense("bp", "fa", "fa")
    with torch.no_grad():
        net.layers[0].weight[:2].mul_(1e6)
    assert probe(net).measure()["idle"][0] == pytest.approx(2 / 9)


def test_each_layer_is_idle_by_its_own_nonlinearity():
    net = dense("bp", "fa", "fa")
    looking = probe(net)
    looking.images = looking.images.abs()
    looking.activations = [torch.relu, torch.tanh]
    with torch.no_grad():
        net.layers[0].weight.abs_()
        net.layers[0].weight[:3].neg_()  # of a relu never active, of a tanh never near its end
        net.layers[1].weight[:2].mul_(1e6)
    first, second, last_layer = looking.measure()["idle"]
    assert (first, second) == pytest.approx((3 / 9, 2 / 8)) and math.isnan(last_layer)


def test_a_unit_is_idle_only_if_it_is_so_on_every_image():
    net = dense("bp", "fa", "fa", activation="relu")
    assert probe(net, torch.relu, n=1).measure()["idle"][0] > 0.2
    assert probe(net, torch.relu, n=100).measure()["idle"][0] == 0


@pytest.mark.parametrize("rule", RULES)
def test_measuring_leaves_no_trace(rule):
    net = dense("bp", rule, rule)
    looking = probe(net)
    F.cross_entropy(net(looking.images), looking.labels).backward()
    before = copy.deepcopy(net)
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    for training in (True, False):
        net.train(training)
        state = torch.get_rng_state()
        first, second = looking.measure(), looking.measure()
        assert torch.equal(state, torch.get_rng_state())
        assert all(module.training == training for module in net.modules())
        assert repr(first) == repr(second)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.state_dict().values(), strict=True))
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), gradients, strict=True))


def test_measuring_leaves_each_module_in_its_mode_whatever_happens():
    steps = [nn.Flatten(), asym.Linear(30, 6), nn.BatchNorm1d(6), nn.Tanh(), asym.Linear(6, CLASSES, rule="fa")]
    net = Network(*steps, example_input=torch.zeros(2, *SHAPE)).double().train()
    net.steps[2].eval()  # whose statistics are frozen
    modes = [module.training for module in net.modules()]
    looking = probe(net)
    looking.measure()
    assert [module.training for module in net.modules()] == modes
    with torch.no_grad(), pytest.raises(RuntimeError, match="does not require grad"):
        looking.measure()
    assert [module.training for module in net.modules()] == modes


def test_measuring_leaves_dropout_out():
    net = nets.dense(SHAPE, CLASSES, ("bp", "fa", "fa"), hidden=(9, 8), dropout=0.5).double()
    assert repr(probe(net.train(), torch.relu).measure()) == repr(probe(net.eval(), torch.relu).measure())


def test_the_twin_follows_the_weights():
    net = dense("bp", "fa", "fa")
    looking = probe(net)
    assert all(ours.weight is theirs.weight for ours, theirs in zip(net.layers, looking.twin.layers, strict=True))
    first = looking.measure()["gradient_angle"]
    with torch.no_grad():
        for layer in net.layers[1:]:
            layer.weight.copy_(layer.feedback)
    assert first[0] > 10 and max(looking.measure()["gradient_angle"]) < 1e-4


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)])
@pytest.mark.parametrize("rule", RULES)
def test_frozen_layers_have_no_gradient_angle_and_nothing_breaks(rule, frozen):
    net = dense("bp", rule, rule)
    for index in frozen:
        net.layers[index].requires_grad_(False)
    found = probe(net).measure()
    assert {i for i, value in enumerate(found["gradient_angle"]) if math.isnan(value)} == set(frozen)
    full = probe(dense("bp", rule, rule)).measure()
    for index in range(3):
        for name in ("delta_angle", "gradient_angle"):
            value = found[name][index]
            assert math.isnan(value) or value == pytest.approx(full[name][index], abs=1e-4)
        assert repr(found["weight_angle"][index]) == repr(full["weight_angle"][index])


def test_a_net_that_diverged_is_measured_without_an_error():
    net = dense("bp", "fa", "dfa")
    looking = probe(net)
    with torch.no_grad():
        net.layers[1].weight.fill_(math.nan)
    found = looking.measure()
    assert math.isnan(found["weight_angle"][1]) and all(math.isnan(value) for value in found["gradient_angle"])
