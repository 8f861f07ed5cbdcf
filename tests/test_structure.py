"""Structure: what must agree by construction with torch's own layers, and what a layer must not compute."""

import pytest
import reference
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import asym
from asym.rules import RULES

GEOMETRIES = {
    "stride": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 2)},
    "same even": {"kernel_size": (2, 4), "padding": "same", "dilation": (1, 2)},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "replicate": {"kernel_size": 3, "padding": 2, "padding_mode": "replicate", "stride": 2},
    "circular": {"kernel_size": (3, 2), "padding": "same", "padding_mode": "circular"},
}
IMAGE, LIBRARIES = reference.IMAGE, reference.LIBRARIES


@pytest.fixture(autouse=True)
def stock(monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", "stock")
    monkeypatch.setenv("ASYM_UNTIED", "torch")


def pair(name, rule):
    """A tied and an untied layer of one geometry, the untied one with the tied one's W and B at every position."""
    options = GEOMETRIES[name] | {"rule": rule, "dtype": torch.float64}
    tied = asym.Conv2d(4, 6, **options)
    untied = asym.UntiedConv2d(4, 6, input_size=IMAGE[1:], **options)
    untied.tie_(tied.weight)
    with torch.no_grad():
        untied.bias.copy_(tied.bias[:, None, None].expand_as(untied.bias))
        if tied.feedback is not None:
            untied.feedback.copy_(tied.feedback.reshape(6, -1).t())
    return tied, untied


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("rule", RULES)
def test_untied_layer_with_equal_kernels_is_the_convolution(rule, name):
    found = []
    for layer in pair(name, rule):
        x = reference.draw(3, *IMAGE, seed=1).requires_grad_()
        y = layer(x)
        y.backward(reference.draw(*y.shape, seed=2))
        found.append((layer, y, x.grad))
    (tied, y, dx), (untied, untied_y, untied_dx) = found
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(untied_y, y, **close)
    torch.testing.assert_close(untied_dx, dx, **close)
    torch.testing.assert_close(untied.as_kernels(untied.weight.grad).sum((0, 1)), tied.weight.grad, **close)
    torch.testing.assert_close(untied.bias.grad.sum((1, 2)), tied.bias.grad, **close)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_tie_puts_the_kernel_at_every_position(name):
    tied, untied = pair(name, "fa")
    kernels = untied.as_kernels(untied.weight)
    assert kernels.shape == (*untied.output_size, *tied.weight.shape)
    assert torch.equal(kernels, tied.weight.expand_as(kernels))
    untied.reset_parameters()
    assert not torch.equal(untied.as_kernels(untied.weight)[0, 0], untied.as_kernels(untied.weight)[0, 1])


def test_the_fans_are_those_that_torch_counts():
    tied, untied = asym.Conv2d(4, 6, (3, 2), groups=2), asym.UntiedConv2d(4, 6, (3, 2), 5, groups=2)
    assert tied.fans == untied.fans == nn.init._calculate_fan_in_and_fan_out(tied.weight)


def test_tie_and_as_kernels_refuse_other_shapes():
    _, untied = pair("groups", "fa")
    with pytest.raises(ValueError, match=r"kernel must have shape \(6, 2, 3, 3\); got \(6, 4, 3, 3\)"):
        untied.tie_(torch.zeros(6, 4, 3, 3))
    with pytest.raises(ValueError, match=r"tensor must have the weight's shape \(30, 18, 6\); got \(6,\)"):
        untied.as_kernels(torch.zeros(6))


STOCK = {
    "linear": (asym.Linear, nn.Linear, (7, 5), {}),
    **{f"conv2d {name}": (asym.Conv2d, nn.Conv2d, (4, 6), options) for name, options in GEOMETRIES.items()},
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's own, of the stock layer
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", STOCK)
def test_backpropagation_layers_are_torchs_layers(name, bias):
    ours, stock, sizes, options = STOCK[name]
    torch.manual_seed(0)
    ours = ours(*sizes, bias=bias, **options)
    torch.manual_seed(0)
    stock = stock(*sizes, bias=bias, **options)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    results = []
    for layer in (ours, stock):
        x = reference.draw(3, *((7,) if name == "linear" else IMAGE)).float().requires_grad_()
        layer(x).square().sum().backward()
        results.append((layer(x), x.grad, *(p.grad for p in layer.parameters())))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    assert torch.equal(results[0][0], results[1][0])


@pytest.mark.parametrize("kind", reference.KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_bias_is_added_to_the_value_and_gets_the_sum_of_the_errors(rule, kind):
    layer, x = reference.layer(kind, rule, bias=True), reference.images(kind)
    bare = reference.layer(kind, rule)
    y = layer(x)
    e = reference.draw(*y.shape, seed=5)
    y.backward(e)
    spread = layer.bias.reshape(*layer.bias.shape, *[1] * (y.dim() - 1 - layer.bias.dim()))
    torch.testing.assert_close(y, bare(x) + spread, rtol=1e-12, atol=1e-12)
    axes = [0, *range(1 + layer.bias.dim(), y.dim())]
    torch.testing.assert_close(layer.bias.grad, e.sum(axes), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", reference.KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_one_input_without_a_batch(rule, kind):
    layer, x = reference.layer(kind, rule, bias=True), reference.images(kind, 1)
    x.requires_grad_()
    single = x[0]
    assert torch.allclose(layer(single), layer(x)[0], rtol=1e-12)
    layer(single).square().sum().backward()
    alone = layer.weight.grad.clone(), x.grad
    layer.zero_grad()
    x.grad = None
    layer(x).square().sum().backward()
    torch.testing.assert_close((layer.weight.grad, x.grad), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_linear_takes_more_axes_than_one(rule):
    layer, x = reference.layer("linear", rule), reference.draw(2, 3, 7).requires_grad_()
    flat = x.detach().reshape(6, 7).requires_grad_()
    for inputs in (x, flat):
        layer(inputs).reshape(6, 5).square().sum().backward()
    torch.testing.assert_close(layer(x).reshape(6, 5), layer(flat))
    assert x.grad is None if RULES[rule].direct else torch.allclose(x.grad.reshape(6, 7), flat.grad)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", reference.KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_an_empty_batch_gives_an_empty_value_and_zero_gradients(rule, kind, library, monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", library)
    layer = reference.layer(kind, rule, dtype=torch.float32)
    x = reference.images(kind, 0, dtype=torch.float32).requires_grad_()
    full = layer(reference.images(kind, 1, dtype=torch.float32))
    y = layer(x)
    y.sum().backward()
    assert y.shape == (0, *full.shape[1:])
    assert not layer.weight.grad.any() and layer.weight.grad.shape == layer.weight.shape
    assert RULES[rule].direct or x.grad.shape == x.shape


def test_an_empty_batch_passes_direct_feedback():
    hidden = torch.zeros(0, 4, requires_grad=True)
    y = asym.DirectFeedback(4, 3)(torch.zeros(0, 3), hidden)
    y.sum().backward()
    assert y.shape == (0, 3) and hidden.grad.shape == (0, 4)


class Products(TorchDispatchMode):
    """Which quantities a backward pass computes: 'dx' and 'dw' of convolutions, one 'product' for a matrix product."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name == "convolution_backward":
            self.found += [kind for kind, wanted in zip(("dx", "dw"), args[-1], strict=False) if wanted]
        elif name in ("mm", "bmm", "baddbmm", "addmm", "matmul", "convolution", "onednn_linear"):
            self.found.append("product")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", reference.PLAIN)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("wants", ["both", "weight alone", "input alone", "neither"])
def test_nothing_is_computed_that_nobody_asked_for(rule, kind, wants, library, monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", library)
    layer, x = reference.layer(kind, rule, dtype=torch.float32), reference.images(kind, dtype=torch.float32)
    probe = torch.zeros((), requires_grad=True)  # so that there always is a backward pass
    x.requires_grad_(wants in ("both", "input alone"))
    for parameter in layer.parameters():
        parameter.requires_grad_(wants in ("both", "weight alone"))
    loss = layer(x).sum() + probe
    with Products() as products:
        loss.backward()
    count = (wants in ("both", "weight alone")) + (wants in ("both", "input alone") and not RULES[rule].direct)
    each = layer.output_size[0] * layer.kernel_size[0] if kind.startswith("untied") else 1  # one for each pair of rows
    assert len(products.found) == count * each, products.found
    if "dx" in products.found or "dw" in products.found:
        assert ("dx" in products.found) == (x.grad is not None)
    assert (layer.weight.grad is not None) == (wants in ("both", "weight alone"))


@pytest.mark.parametrize("kind", reference.PLAIN)
@pytest.mark.parametrize("rule", [key for key, rule in RULES.items() if not rule.direct])
def test_a_frozen_weight_still_sends_the_error_back(rule, kind):
    layer, x = reference.layer(kind, rule), reference.images(kind).requires_grad_()
    layer(x).square().sum().backward()
    free, x.grad = x.grad, None
    layer.requires_grad_(False)
    layer.zero_grad()
    layer(x).square().sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, free, rtol=0, atol=0)


@pytest.mark.parametrize("kind", reference.PLAIN)
@pytest.mark.parametrize("rule", RULES)
def test_noncontiguous_input_changes_nothing(rule, kind):
    layer, x = reference.layer(kind, rule), reference.images(kind)
    y = layer(x)
    strided = x.transpose(-1, 0).contiguous().transpose(-1, 0)
    assert strided.stride() != x.stride()
    torch.testing.assert_close(layer(strided), y, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(layer(inputs).square().sum(), layer.weight)[0] for inputs in (x, strided)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "feedback"}, "rule must be one of bp, fa, .*; got 'feedback'"),
        ({"kernel_size": 9}, r"kernel_size must be within the padded input \(5, 6\) .*; got \(9, 9\)"),
        ({"groups": 3}, "groups must be a divisor of the 4 input and 6 output channels; got 3"),
        ({"padding": "same", "stride": 2}, "padding='same' is not supported for strided"),
        ({"padding": "full"}, "Invalid padding string 'full'"),
        ({"padding_mode": "mirror"}, "padding_mode must be one of"),
    ],
)
def test_untied_layer_refuses_what_it_cannot_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        asym.UntiedConv2d(4, 6, **({"kernel_size": 3, "input_size": (5, 6)} | arguments))


@pytest.mark.parametrize("shape", [(3, 4, 6, 6), (3, 2, 5, 6), (5, 6)])
def test_untied_layer_refuses_an_input_of_another_size(shape):
    layer = asym.UntiedConv2d(4, 6, 3, (5, 6))
    with pytest.raises(ValueError, match=r"input must end in \(channels, height, width\) = \(4, 5, 6\); got"):
        layer(torch.zeros(shape))


@pytest.mark.parametrize("kind", [asym.Linear, asym.Conv2d])
def test_unknown_rules_are_refused_with_the_list(kind):
    with pytest.raises(ValueError, match=f"rule must be one of {', '.join(RULES)}; got 'hebb'"):
        kind(4, 6, 3, rule="hebb") if kind is asym.Conv2d else kind(4, 6, rule="hebb")


def test_layers_tell_their_rule():
    assert "rule='fa'" in repr(asym.Linear(4, 6, rule="fa"))
    text = repr(asym.UntiedConv2d(4, 6, 3, 5, rule="kp"))
    assert "rule='kp'" in text and "input_size=(5, 5)" in text


def test_padding_same_of_an_even_kernel():
    """The odd column of zeros stands right and below, as in torch."""
    x, w = reference.draw(1, 1, 3, 3), torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64)
    assert torch.equal(asym.functional.conv2d(x, w, w, padding="same"), x)
