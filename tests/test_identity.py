"""Identity: a layer's value is op(x, W), its dx is op's through F, its dW is op's own, whatever the rule, layer and geometry."""

import pytest
import reference
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torch.func import functional_call

from asym import functional
from asym.rules import RULES

DIRECT = [key for key, rule in RULES.items() if rule.direct]
THROUGH = [key for key in RULES if key not in DIRECT]
OPERATIONS = {
    "linear": functional.linear,
    "conv2d": lambda x, w, f: functional.conv2d(x, w, f, None, (2, 1), (1, 2), (1, 1), 2),
    "untied_conv2d": lambda x, w, f: functional.untied_conv2d(
        x, w, f, kernel_size=(3, 2), stride=(2, 1), padding=(1, 2), groups=2
    ),
}
SHAPES = {"linear": ((3, 7), (5, 7)), "conv2d": ((2, 2, 4, 3), (4, 1, 3, 2)), "untied_conv2d": ((2, 2, 4, 3), (12, 6, 4))}


@pytest.fixture(autouse=True)
def stock(monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", "stock")


def stock_value(kind, layer, x):
    """torch's own operation; untied convolution has none there, so backpropagation's layer stands for it."""
    if kind == "linear":
        return F.linear(x, layer.weight)
    if kind.startswith("conv2d"):
        return F.conv2d(x, layer.weight, None, **reference.geometry(kind))
    twin = reference.layer(kind, "bp", dtype=x.dtype)
    return functional_call(twin, {"weight": layer.weight}, (x,))


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's own, of the stock operation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("kind", reference.KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_value_is_the_operations_own_to_the_last_bit(rule, kind, dtype):
    layer, x = reference.layer(kind, rule, dtype=dtype), reference.images(kind, dtype=dtype)
    assert torch.equal(layer(x), stock_value(kind, layer, x))


@pytest.mark.parametrize("kind", reference.KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_gradients_are_those_of_the_slow_twin(rule, kind):
    layer, x = reference.layer(kind, rule), reference.images(kind).requires_grad_()
    op, path = reference.operation(kind, layer), reference.path(layer)
    y = layer(x)
    e = reference.draw(*y.shape, seed=7)
    y.backward(e)
    torch.testing.assert_close(y, op(x, layer.weight), rtol=1e-12, atol=1e-12)
    _, dw = reference.gradients(op, x, layer.weight, e)
    torch.testing.assert_close(layer.weight.grad, dw, rtol=1e-12, atol=1e-12)
    if path is None:
        assert x.grad is None
    else:
        dx, _ = reference.gradients(op, x, path, e)
        torch.testing.assert_close(x.grad, dx, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", reference.KINDS)
@pytest.mark.parametrize("rule", THROUGH)
def test_gradients_are_those_of_the_generic_vjp(rule, kind):
    layer, x = reference.layer(kind, rule), reference.images(kind).requires_grad_()
    y = layer(x)
    e = reference.draw(*y.shape, seed=7)
    ours = torch.autograd.grad(y, (x, layer.weight), e)
    twin = reference.Generic.apply(reference.operation(kind, layer), x, layer.weight, reference.path(layer))
    theirs = torch.autograd.grad(twin, (x, layer.weight), e)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", [key for key, rule in RULES.items() if rule.store == "parameter"])
@pytest.mark.parametrize("kind", reference.KINDS)
def test_learned_feedback_gets_the_weights_gradient_as_a_tensor_of_its_own(kind, rule):
    layer, x = reference.layer(kind, rule), reference.images(kind)
    dw, db = torch.autograd.grad(layer(x).square().sum(), (layer.weight, layer.feedback))
    assert torch.equal(dw, db)
    assert dw.data_ptr() != db.data_ptr(), "one tensor: what clips both in place would clip twice"
    layer(x).square().sum().backward()
    assert layer.weight.grad.data_ptr() != layer.feedback.grad.data_ptr()


@pytest.mark.parametrize("op", OPERATIONS)
def test_gradcheck_passes_where_feedback_is_the_weight_and_fails_elsewhere(op):
    x, w = (reference.draw(*shape, seed=k).requires_grad_() for k, shape in enumerate(SHAPES[op]))
    other = reference.draw(*w.shape, seed=2)
    assert gradcheck(lambda x, w: OPERATIONS[op](x, w, w.detach().clone()), (x, w), fast_mode=True)
    assert gradcheck(lambda x, w: OPERATIONS[op](x, w, None), (x, w), fast_mode=True)
    assert not gradcheck(lambda x, w: OPERATIONS[op](x, w, other), (x, w), fast_mode=True, raise_exception=False)


@pytest.mark.parametrize("kind", reference.PLAIN)
@pytest.mark.parametrize("rule", RULES)
def test_gradcheck_of_a_layer_passes_only_where_its_path_is_its_weight(rule, kind):
    layer, x = reference.layer(kind, rule), reference.images(kind, 1).requires_grad_()

    def passes():
        return gradcheck(layer, (x,), fast_mode=True, raise_exception=False)

    assert passes() == (rule == "bp")
    with torch.no_grad():  # |W| = s everywhere, and B = W: then every rule's path is W
        layer.weight.copy_(layer.weight.sign() * layer.scale)
        if layer.feedback is not None:
            layer.feedback.copy_(layer.weight)
    assert passes() == (rule not in DIRECT)


@pytest.mark.parametrize("op", OPERATIONS)
def test_backpropagation_is_differentiable_twice(op):
    x, w = (reference.draw(*shape, seed=k).requires_grad_() for k, shape in enumerate(SHAPES[op]))
    call = lambda x, w: OPERATIONS[op](x, w, None).square()
    assert torch.autograd.gradgradcheck(call, (x, w), fast_mode=True)


def test_direct_feedback_brings_the_error_in_the_layout_of_hidden():
    logits, b, e = torch.randn(4, 5), torch.randn(5, 6 * 3 * 2), torch.randn(4, 5)
    for layout in (torch.contiguous_format, torch.channels_last):
        hidden = torch.randn(4, 6, 3, 2).to(memory_format=layout).requires_grad_()
        (brought,) = torch.autograd.grad(functional.direct_feedback(logits, hidden, b), hidden, e)
        assert brought.is_contiguous(memory_format=layout)
        torch.testing.assert_close(brought, (e @ b).reshape(4, 6, 3, 2))


def test_direct_feedback_passes_gradcheck_only_without_feedback():
    logits, hidden = reference.draw(3, 4, seed=1).requires_grad_(), reference.draw(3, 2, 5, seed=2).requires_grad_()
    none, some = torch.zeros(4, 10, dtype=torch.float64), reference.draw(4, 10, seed=3)
    assert torch.equal(functional.direct_feedback(logits, hidden, some), logits)
    assert gradcheck(lambda a, h: functional.direct_feedback(a, h, none), (logits, hidden), fast_mode=True)
    assert not gradcheck(
        lambda a, h: functional.direct_feedback(a, h, some), (logits, hidden), fast_mode=True, raise_exception=False
    )
    e = reference.draw(3, 4, seed=4)
    da, dh = torch.autograd.grad(functional.direct_feedback(logits, hidden, some), (logits, hidden), e)
    assert torch.equal(da, e)
    torch.testing.assert_close(dh, reference.linear(e, some.t()).reshape(3, 2, 5))


@pytest.mark.parametrize(
    ("op", "call"),
    {
        "linear": lambda b: functional.linear(torch.zeros(3, 7), torch.zeros(5, 7), b),
        "conv2d": lambda b: functional.conv2d(torch.zeros(3, 4, 5, 6), torch.zeros(6, 4, 3, 2), b),
        "untied_conv2d": lambda b: functional.untied_conv2d(
            torch.zeros(3, 4, 5, 6), torch.zeros(15, 24, 6), b, kernel_size=(3, 2)
        ),
        "direct_feedback": lambda b: functional.direct_feedback(torch.zeros(3, 5), torch.zeros(3, 7), b),
    }.items(),
)
def test_feedback_of_another_shape_is_refused_with_both_shapes(op, call):
    wrong = torch.zeros(7, 5)
    with pytest.raises(ValueError, match=r"feedback must have .*shape .*; got \(7, 5\)"):
        call(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": "full"}, "padding must be an int, a pair, 'same' or 'valid'; got 'full'"),
        ({"padding": "same", "stride": 2}, r"padding='same' needs stride 1; got stride \(2, 2\)"),
    ],
)
def test_padding_that_makes_no_sense_is_refused(arguments, message):
    w = torch.zeros(6, 4, 3, 2)
    with pytest.raises(ValueError, match=message):
        functional.conv2d(torch.zeros(3, 4, 5, 6), w, w, **arguments)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize("feedback", [None, torch.ones(3, 4)])
def test_nested_tensors_are_refused_by_name(feedback, layout):
    nested = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=layout)
    with pytest.raises(ValueError, match="x.is_nested must be False; got True"):
        functional.linear(nested, torch.ones(3, 4), feedback)


def test_untied_weight_for_another_input_size_is_refused():
    with pytest.raises(ValueError, match="weight holds 15 positions; an input of this size has 4 x 5"):
        functional.untied_conv2d(torch.zeros(3, 4, 6, 6), *[torch.zeros(15, 24, 6)] * 2, kernel_size=(3, 2))


@pytest.mark.parametrize("padding", [1, (1, 1), "same"])
def test_geometry_may_be_given_as_torch_takes_it(padding):
    x, w = reference.draw(2, 4, 5, 6), reference.draw(6, 4, 3, 3, seed=1)
    assert torch.equal(functional.conv2d(x, w, w, None, 1, padding, 1), F.conv2d(x, w, None, 1, padding, 1))
    kernels = w.reshape(6, -1).t().expand(30, -1, -1)
    untied = functional.untied_conv2d(x, kernels, kernels, kernel_size=3, stride=1, padding=padding, dilation=1)
    torch.testing.assert_close(untied, F.conv2d(x, w, None, 1, padding, 1))
