"""Conversion: a torch model gets a rule and keeps everything else."""

import copy
import threading
import warnings

import pytest
import reference
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import asym
from asym.network import Network
from asym.rules import RULES


@pytest.fixture(autouse=True)
def stock(monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", "stock")
    torch.manual_seed(0)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.heads = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4, bias=False)])

    def forward(self, x):
        return self.heads[1](self.heads[0](x + self.conv(x)))


def sequential():
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(60, 6), nn.ReLU(), nn.Linear(6, 4))


def nested():
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Sequential(Residual(), nn.ReLU()), nn.Flatten(), nn.Linear(60, 4))


def images(n=6):
    return reference.draw(n, 1, 5, 4).float()


def converted(rule, model):
    options = {"example_input": images()} if RULES[rule].direct else {}
    return asym.convert(model, rule, **options)


@pytest.mark.parametrize("rule", RULES)
def test_weights_values_and_original_are_kept(rule):
    model = sequential()
    before = copy.deepcopy(model.state_dict())
    new = converted(rule, model)
    assert torch.equal(new(images()), model(images()))
    layers = [m for m in new.modules() if isinstance(m, asym.layers.FeedbackLayer)]
    stock = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for ours, theirs in zip(layers, stock, strict=True):
        assert ours.rule == rule and type(ours).__name__ == type(theirs).__name__
        assert torch.equal(ours.weight, theirs.weight) and ours.weight.data_ptr() != theirs.weight.data_ptr()
    F.cross_entropy(new(images()), torch.arange(6) % 4).backward()
    assert all(layer.weight.grad.any() for layer in layers)
    assert type(model[0]) is nn.Conv2d and model[0].weight.grad is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        layers[0].weight.add_(1)
    assert torch.equal(model[0].weight, before["0.weight"])


def test_backpropagation_gives_the_models_own_gradients():
    model = nested()
    new = asym.convert(model, "bp")
    for net in (model, new):
        net(images()).square().sum().backward()
    for ours, theirs in zip(new.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("rule", [key for key, rule in RULES.items() if not rule.direct])
def test_nested_models_are_converted_throughout(rule):
    new = asym.convert(nested(), rule)
    names = [name for name, m in new.named_modules() if isinstance(m, asym.layers.FeedbackLayer)]
    assert names == ["0", "1.0.conv", "1.0.heads.0", "1.0.heads.1", "3"]
    assert new[1][0].heads[1].bias is None
    F.cross_entropy(new(images()), torch.arange(6) % 4).backward()


def test_a_dictionary_converts_what_it_names():
    new = asym.convert(nested(), {"1.0.heads.0": "fa", "3": "kp"})
    rules = {name: m.rule for name, m in new.named_modules() if isinstance(m, asym.layers.FeedbackLayer)}
    assert rules == {"1.0.heads.0": "fa", "3": "kp"}
    assert type(new[0]) is nn.Conv2d


def test_the_generator_decides_the_feedback():
    drawn = [asym.convert(sequential(), "fa", generator=torch.Generator().manual_seed(s))[3].feedback for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_a_single_layer_is_a_model():
    layer = nn.Linear(4, 3, dtype=torch.float64)
    layer.weight.requires_grad_(False)
    new = asym.convert(layer.eval(), "fa")
    assert type(new) is asym.Linear and new.feedback.dtype == torch.float64
    assert not new.training and not new.weight.requires_grad


def test_geometry_and_hooks_survive():
    model = nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), groups=2, padding_mode="reflect", bias=False)
    called = []
    model.register_forward_hook(lambda *_: called.append(0))
    new = asym.convert(model, "fa")
    x = reference.draw(2, 4, 5, 6).float()
    assert torch.equal(new(x), model(x)) and len(called) == 2


@pytest.mark.parametrize("rule", ["shared_update", "kp"])
def test_a_learned_feedback_that_misses_gradients_of_its_weight_is_told(rule):
    """Those that the weight gets as another module's; not of a module whose layer moves that B too."""
    model = nn.ModuleDict(
        {"embed": nn.Embedding(5, 4), "hidden": nn.Linear(4, 4), "head": nn.Linear(4, 5), "twin": nn.Linear(4, 5)}
    )
    model["head"].weight = model["twin"].weight = model["embed"].weight
    with pytest.warns(UserWarning, match="B takes no part in what its weight gets elsewhere: embed share it"):
        asym.convert(model, rule)
    with pytest.warns(UserWarning, match="elsewhere: embed, twin share it"):
        asym.convert(model, {"head": rule})
    del model["embed"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asym.convert(model, rule)
        asym.convert(model, {"head": "fa"})


def test_direct_feedback_loses_no_hook():
    """A container that has one is not undone: it stays a step, or is named where that cannot be."""
    called = []
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 3))
    model[1].register_forward_hook(lambda *_: called.append(0))
    x = torch.randn(2, 4)
    new = asym.convert(model, {"2": "dfa"}, example_input=x)
    called.clear()
    assert torch.equal(new(x), model(x)) and len(called) == 2
    with pytest.raises(ValueError, match="a layer with rule 'dfa' must be a step of the network; got it inside one, as 1.0"):
        asym.convert(model, "dfa", example_input=x)
    model.register_forward_pre_hook(lambda *_: None)
    with pytest.raises(ValueError, match="got it inside one, as 0.2"):
        asym.convert(model, {"2": "dfa"}, example_input=x)


@pytest.mark.parametrize("kind", ["forward_pre", "forward", "full_backward_pre", "full_backward"])
def test_a_container_with_a_hook_of_any_kind_is_not_undone(kind):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 3))
    getattr(model[1], f"register_{kind}_hook")(lambda *_: None)
    new = asym.convert(model, {"2": "dfa"}, example_input=torch.randn(2, 4))
    assert [type(step) for step in new.steps] == [nn.Linear, nn.Sequential, asym.Linear]


def test_a_layer_used_twice_stays_one_layer():
    layer = nn.Linear(4, 4)
    block = nn.Sequential(layer, nn.ReLU())
    new = asym.convert(nn.Sequential(layer, nn.ReLU(), layer, block, block), "fa")
    assert type(new[0]) is asym.Linear
    assert new[0] is new[2] is new[3][0] is new[4][0]
    assert len(list(new.parameters())) == 2


def test_subclasses_are_left_to_their_owners():
    class Mine(nn.Linear):
        pass

    model = nn.ModuleDict({"mine": Mine(4, 4), "attention": nn.MultiheadAttention(4, 2), "plain": nn.Linear(4, 4)})
    with pytest.warns(UserWarning, match="send the error back by bp: mine, attention, attention.out_proj$"):
        new = asym.convert(model, "fa")
    assert type(new["mine"]) is Mine
    assert type(new["attention"].out_proj) is type(model["attention"].out_proj)
    x = torch.randn(3, 2, 4)
    assert torch.equal(new["attention"](x, x, x)[0], model["attention"](x, x, x)[0])
    assert new["plain"].rule == "fa"
    encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    with pytest.warns(UserWarning, match="by bp: self_attn, self_attn.out_proj$"):
        ours = asym.convert(encoder, "fa")
    torch.testing.assert_close(ours(x), encoder(x))
    ours(x).sum().backward()
    assert ours.linear1.weight.grad.any()


def test_direct_feedback_is_wired_to_the_logits():
    model = sequential()
    new = asym.convert(model, "dfa", example_input=images())
    assert isinstance(new, Network)
    assert {name: tuple(d.feedback.shape) for name, d in new.direct.items()} == {"3": (4, 60), "5": (4, 6)}
    x, labels = images(), torch.arange(6) % 4
    hidden, trace = [], []
    logits = new(x, trace)
    hidden = [passage.input for passage in trace[1:]]
    e, *found = torch.autograd.grad(F.cross_entropy(logits, labels), [logits, *hidden])
    for gradient, direct in zip(found, new.direct.values(), strict=True):
        torch.testing.assert_close(gradient, e @ direct.feedback)


def test_direct_feedback_in_a_part_of_the_net():
    model = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(20, 6)), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    new = asym.convert(model, {"2": "dfa"}, example_input=images())
    assert list(new.direct) == ["3"]
    assert torch.equal(new(images()), model(images()))
    F.cross_entropy(new(images()), torch.arange(6) % 4).backward()
    assert all(p.grad.any() for p in new.parameters())


def test_direct_feedback_keeps_batch_statistics_and_mode():
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 4))
    new = asym.convert(model.eval(), "dfa", example_input=images())
    assert not new.training and not any(m.training for m in new.steps)
    assert not new.steps[2].running_mean.any()
    assert torch.equal(new(images()), model(images()))


def test_direct_feedback_keeps_the_mode_of_each_step():
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
    model[2].eval()
    new = asym.convert(model, "dfa", example_input=images())
    assert new.training and [step.training for step in new.steps] == [True, True, False, True]


class Locked(nn.Identity):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def weight_norm():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))


class Branching(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    ("model", "rule", "options", "message"),
    [
        (nested(), "hebb", {}, f"rule must be one of {', '.join(RULES)}; got 'hebb'"),
        (nested(), {"3": "hebb"}, {}, "rule must be one of .*; got 'hebb'"),
        (nested(), {"3": "fa", "9": "fa", "head": "fa"}, {}, r"\['9', 'head'\] that are not among the model's: 0, 1.0.conv"),
        (nested(), {"2": "fa", "3": "fa"}, {}, r"rule names \['2'\], which can have none: it takes nn.Linear .* themselves.* 3"),
        (weight_norm(), {"0": "fa"}, {}, r"rule names \['0'\], which can have none: .*; parametrize after convert"),
        (weight_norm(), "fa", {}, "no layer to convert, or rule names none: it takes .*; parametrize after convert"),
        (nn.Sequential(nn.Linear(4, 4), Locked()), "fa", {}, "model must be one that can be copied: .*lock"),
        (nested(), {}, {}, "model has no layer to convert, or rule names none: it takes nn.Linear and nn.Conv2d themselves"),
        (nn.Sequential(nn.ReLU()), "fa", {}, "model has no layer to convert, or rule names none"),
        (sequential(), "dfa", {}, "needs an nn.Sequential model and example_input"),
        (Residual(), "dfa", {"example_input": torch.zeros(1, 3, 4, 4)}, "needs an nn.Sequential model"),
        (Branching(nn.Linear(4, 4), nn.Linear(4, 4)), "dfa", {"example_input": torch.zeros(1, 4)}, "needs an nn.Sequential"),
        (
            nested(),
            "dfa",
            {"example_input": images()},
            "a layer with rule 'dfa' must be a step of the network; got it inside one",
        ),
    ],
)
def test_what_cannot_be_converted_is_refused(model, rule, options, message):
    with pytest.raises(ValueError, match=message):
        asym.convert(model, rule, **options)


class Thrice(nn.Sequential):
    def __call__(self, x):
        return 3 * super().__call__(x)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_sequential_that_is_called_otherwise_stays_one_step_and_is_not_wired_itself(replaced):
    inner = nn.Sequential(nn.Linear(4, 4)) if replaced else Thrice(nn.Linear(4, 4))
    if replaced:
        inner.forward = lambda x: -x
    model, x = nn.Sequential(nn.Linear(4, 4), inner, nn.Linear(4, 3)), reference.draw(2, 4).float()
    new = asym.convert(model, {"0": "fa", "2": "dfa"}, example_input=x)
    assert torch.equal(new(x), model(x))
    with pytest.raises(ValueError, match="rule 'dfa' wires hidden layers to the logits: it needs an nn.Sequential"):
        asym.convert(inner, {"0": "dfa"}, example_input=x)


def test_a_model_that_is_wrapped_already_is_refused():
    """Its wrapper has listed what it keeps in step, and would leave B out."""
    wrapped = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)  # which wants several processes
    nn.Module.__init__(wrapped)
    wrapped.module = nn.Linear(4, 3)
    for model in (wrapped, nn.Sequential(wrapped)):
        with pytest.raises(ValueError, match="model must be converted before DistributedDataParallel wraps it"):
            asym.convert(model, "fa")


def test_a_sequential_with_a_forward_of_its_own_stays_one_step():
    model = nn.Sequential(nn.Linear(4, 4), Branching(nn.Linear(4, 4)), nn.Linear(4, 3))
    new = asym.convert(model, {"0": "fa", "2": "dfa"}, example_input=torch.zeros(1, 4))
    x = reference.draw(2, 4).float()
    assert torch.equal(new(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_direct_feedback_is_of_the_models_dtype(dtype):
    model = sequential().to(dtype)
    new = asym.convert(model, "dfa", example_input=images().to(dtype))
    assert {direct.feedback.dtype for direct in new.direct.values()} == {dtype}
    F.cross_entropy(new(images().to(dtype)), torch.arange(6) % 4).backward()
    assert all(p.grad.any() for p in new.parameters())


@pytest.mark.parametrize("first", RULES)
@pytest.mark.parametrize("second", RULES)
def test_a_converted_model_takes_another_rule(first, second):
    model = nested() if "dfa" not in (first, second) else nn.Sequential(nn.Flatten(), nn.Linear(60, 4))
    x = images() if "dfa" not in (first, second) else torch.zeros(6, 3, 4, 5)
    once = asym.convert(model, first, **({"example_input": x} if first == "dfa" else {}))
    if first == "dfa":
        once = nn.Sequential(*once.steps)
    twice = asym.convert(once, second, **({"example_input": x} if second == "dfa" else {}))
    layers = [m for m in twice.modules() if isinstance(m, asym.layers.FeedbackLayer)]
    plain = asym.convert(model, second, **({"example_input": x} if second == "dfa" else {}))
    assert {layer.rule for layer in layers} == {second} and layers
    shapes = lambda net: {name.removeprefix("steps."): t.shape for name, t in net.state_dict().items()}
    assert shapes(twice) == shapes(plain)
    assert [n for n, _ in twice.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert torch.equal(twice(x), model(x))


def test_a_model_that_is_wired_for_direct_feedback_is_not_wired_again():
    once = asym.convert(sequential(), "dfa", example_input=images())
    with pytest.raises(ValueError, match="wired for direct feedback already"):
        asym.convert(once, "fa")


@pytest.mark.parametrize("rule", ["fa", "shared_update", "mirror"])
def test_of_a_layer_that_is_frozen_nothing_asks_for_a_gradient(rule):
    """As DDP needs, which waits for whatever does."""
    new = asym.convert(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)), rule)
    new[0].requires_grad_(False)
    new(torch.ones(2, 4)).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in new.parameters())
    assert not any(p.requires_grad for p in new[0].parameters()) and all(p.requires_grad for p in new[1].parameters())


def test_a_model_that_cannot_be_copied_is_refused_with_the_way_out():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    prune.random_unstructured(model[0], "weight", 0.5)
    with pytest.raises(ValueError, match="model must be one that can be copied: prune or normalise weights after convert"):
        asym.convert(model, "fa")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv1d(4, 4, 1),
        lambda: nn.ConvTranspose2d(4, 4, 1),
        lambda: nn.LSTM(4, 4),
        lambda: nn.GRUCell(4, 4),
        lambda: nn.Bilinear(4, 4, 4),
        lambda: torch.jit.trace(nn.Linear(4, 4), torch.zeros(1, 4)),
    ],
)
def test_layers_that_a_rule_for_all_does_not_reach_are_named(make):
    model = nn.ModuleDict({"norm": nn.LayerNorm(4), "embed": nn.Embedding(4, 4), "other": make(), "head": asym.Linear(4, 3)})
    with pytest.warns(UserWarning, match="these layers stay as they are and send the error back by bp: other$"):
        asym.convert(model, "fa")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asym.convert(model, {"head": "fa"})
        asym.convert(model, "bp")


def test_layers_of_ours_that_it_does_not_reach_are_named_with_their_rule():
    class Mine(asym.Linear):
        pass

    model = nn.ModuleDict({"mine": Mine(4, 4), "signs": Mine(4, 4, rule="usf"), "head": nn.Linear(4, 3)})
    with pytest.warns(UserWarning) as told:
        new = asym.convert(model, "usf")
    assert [str(warning.message) for warning in told] == ["these layers stay as they are and send the error back by bp: mine"]
    assert new["mine"].rule == "bp" and new["head"].rule == "usf"


@pytest.mark.parametrize("place, name", [("0", "0"), ("1", "1"), ("", "the model")])
def test_a_module_whose_forward_was_replaced_is_named(place, name):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 3)))
    module = model.get_submodule(place)
    module.forward = module.forward  # as libraries do that put their own around it
    with pytest.warns(UserWarning, match=f"these modules have a forward of their own, .*: {name}$"):
        asym.convert(model, "fa")


class Listed(nn.Module):
    """Reaches its layers by a list of its own too."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
        self.order = [self.a, self.b]

    def forward(self, x):
        for layer in self.order:
            x = torch.tanh(layer(x))
        return x


def test_a_layer_is_converted_wherever_the_model_refers_to_it():
    model = Listed()
    new = asym.convert(model, "fa")
    assert [type(layer) for layer in (*new.order, *model.order)] == [asym.Linear] * 2 + [nn.Linear] * 2
    x = torch.randn(2, 4)
    new(x).sum().backward(), model(x).sum().backward()
    assert not torch.allclose(new.a.weight.grad, model.a.weight.grad)
    compiled = asym.convert(torch.compile(nn.Linear(4, 5), backend="eager"), "fa")
    assert type(compiled._orig_mod) is asym.Linear and compiled._orig_mod.rule == "fa"


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


@pytest.mark.parametrize("rule", ["shared_update", "fa"])
def test_a_weight_that_layers_share_has_one_b_that_moves_with_it(rule):
    new = asym.convert(Tied(), rule)
    assert new.a.weight is new.b.weight and (new.a.feedback is new.b.feedback) == (rule == "shared_update")
    if rule == "fa":
        return
    before = (new.a.weight - new.a.feedback).detach()
    optimizer = torch.optim.SGD(new.parameters(), 0.05)
    for _ in range(20):
        optimizer.zero_grad()
        x = torch.randn(8, 6)
        (new(x) - x).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close((new.a.weight - new.a.feedback).detach(), before, rtol=0, atol=1e-6)


def test_the_order_of_a_dictionary_decides_nothing():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    one, other = (
        asym.convert(model, dict.fromkeys(names, "fa"), generator=torch.Generator().manual_seed(1)) for names in ("01", "10")
    )
    assert all(torch.equal(a.feedback, b.feedback) for a, b in zip(one, other, strict=True))


def test_lazy_layers_are_refused_and_parametrized_ones_named():
    with pytest.raises(ValueError, match=r"run a batch through its lazy layers first \(1\)"):
        asym.convert(nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(3)), "fa")
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    with pytest.warns(UserWarning, match="parametrized layers stay as they are, parametrize after convert: 0$"):
        new = asym.convert(model, "fa")
    assert [hasattr(layer, "feedback") for layer in new] == [False, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asym.convert(model, {"1": "fa"})
