"""Transforms: torch.func, compile, autocast, copies, processes and the second matrix library treat our layers as torch's own."""

import copy
import faulthandler
import os
import pickle
import socket
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import reference
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

import asym
from asym import gemm, nets
from asym.network import Network
from asym.rules import RULES

ONEDNN, LIBRARIES = reference.ONEDNN, reference.LIBRARIES
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
DEADLINE = 45  # seconds for two processes; they need 5


@pytest.fixture(autouse=True)
def stock(monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", "stock")


def network(rule, seed=0):
    """Three layers of one rule on one of backpropagation."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    options = {"rule": rule, "generator": generator}
    steps = [asym.Conv2d(1, 3, 3, padding=1), nn.Tanh(), asym.UntiedConv2d(3, 2, 2, (5, 4), **options), nn.Tanh()]
    steps += [nn.Flatten(), asym.Linear(24, 6, **options), nn.Tanh(), asym.Linear(6, 4, **options)]
    return Network(*steps, example_input=torch.zeros(1, 1, 5, 4), generator=generator)


def batch(n=6):
    return reference.draw(n, 1, 5, 4).float(), torch.arange(n) % 4


def loss(net, tensors, x, labels):
    return F.cross_entropy(functional_call(net, tensors, (x,)), labels)


def learned(net):
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


def backward(net, *inputs):
    F.cross_entropy(net(inputs[0]), inputs[1]).backward()
    return {name: parameter.grad for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("rule", RULES)
def test_func_grad_is_the_backward_pass(rule, library, monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", library)
    net = network(rule)
    found = grad(lambda p: loss(net, p, *batch()))(learned(net))
    torch.testing.assert_close(found, backward(net, *batch()), **CLOSE)
    pointers = [gradient.data_ptr() for gradient in found.values()]
    assert len(set(pointers)) == len(pointers), "two gradients in one memory"


@pytest.mark.parametrize("kind", reference.PLAIN)
@pytest.mark.parametrize("rule", RULES)
def test_vmap_over_seeds_of_a_layer_is_the_loop(rule, kind):
    layers = [reference.layer(kind, rule, bias=True, seed=seed) for seed in range(3)]
    parameters, buffers = stack_module_state(layers)
    x = reference.images(kind)
    call = lambda p, b: functional_call(layers[0], (p, b), (x,)).square().sum()
    found = vmap(grad(call))({name: p.detach() for name, p in parameters.items()}, buffers)
    for seed, layer in enumerate(layers):
        layer(x).square().sum().backward()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(found[name][seed], parameter.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("rule", RULES)
def test_vmap_over_seeds_of_a_network_is_the_loop(rule, library, monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", library)
    models = [network(rule, seed) for seed in range(3)]
    parameters, buffers = stack_module_state(models)
    x, labels = batch()
    call = lambda p, b: loss(models[0], (p, b), x, labels)
    found = vmap(grad(call))({name: p.detach() for name, p in parameters.items()}, buffers)
    for seed, model in enumerate(models):
        for name, gradient in backward(model, *batch()).items():
            torch.testing.assert_close(found[name][seed], gradient, **CLOSE)


@pytest.mark.parametrize("around", ["a plain backward pass", "grad"])
@pytest.mark.parametrize("rule", RULES)
def test_an_ensemble_under_vmap_learns_as_its_nets_alone(rule, around):
    """With the transform inside what is differentiated, where a layer cannot see whether its weight requires a gradient."""
    models = [network(rule, seed) for seed in range(3)]
    parameters, buffers = stack_module_state(models)
    x, labels = batch()
    total = lambda p: vmap(lambda p, b: loss(models[0], (p, b), x, labels))(p, buffers).sum()
    if around == "grad":
        found = grad(total)({name: p.detach() for name, p in parameters.items()})
    else:
        total(parameters).backward()
        found = {name: p.grad for name, p in parameters.items()}
    for seed, model in enumerate(models):
        for name, gradient in backward(model, *batch()).items():
            torch.testing.assert_close(found[name][seed], gradient, **CLOSE)


@pytest.mark.parametrize("kind", reference.PLAIN)
def test_a_frozen_weight_holds_its_b_under_transforms_too(kind):
    layers = [reference.layer(kind, "shared_update", seed=seed) for seed in range(2)]
    parameters, buffers = stack_module_state(layers)
    x = reference.images(kind)
    weight, feedback = parameters["weight"].detach(), parameters["feedback"]
    call = lambda w, b: functional_call(layers[0], {"weight": w, "feedback": b}, (x,)).square().sum()
    vmap(call)(weight, feedback).sum().backward()
    assert feedback.grad is None or not feedback.grad.any()
    found = vmap(grad(call, argnums=1))(weight, feedback.detach())
    assert not found.any()


@pytest.mark.parametrize("rule", RULES)
def test_vmap_over_samples_sums_to_the_batch_gradient(rule):
    net = network(rule)
    x, labels = batch()
    each = vmap(grad(lambda p, x, y: loss(net, p, x[None], y[None])), in_dims=(None, 0, 0))(learned(net), x, labels)
    for name, gradient in backward(net, x, labels).items():
        torch.testing.assert_close(each[name].mean(0), gradient, **CLOSE)


@pytest.fixture
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_compiled_network_is_the_eager_one(rule, fresh):
    net = network(rule)
    compiled = torch.compile(copy.deepcopy(net), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(batch()[0]), net(batch()[0]), **CLOSE)
    theirs = {name.removeprefix("_orig_mod."): gradient for name, gradient in backward(compiled, *batch()).items()}
    torch.testing.assert_close(theirs, backward(net, *batch()), **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["fa", "kp", "usf"])
def test_a_transform_of_a_compiled_network_is_the_eager_one(rule, fresh):
    net, images = nets.dense((1, 5, 4), 4, ("bp", rule, rule), hidden=(6, 5)), batch()
    compiled = torch.compile(net, backend="eager")
    found = grad(lambda p: F.cross_entropy(functional_call(compiled, p, (images[0],)), images[1]))(learned(net))
    torch.testing.assert_close(found, backward(net, *images), **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["parts", "one graph"])
@pytest.mark.parametrize("kind", [*reference.PLAIN, "direct feedback", pytest.param("onednn", marks=ONEDNN)])
def test_a_transform_that_is_compiled_is_refused(kind, whole, fresh, monkeypatch):
    """It would lose what the layers send back, or B's gradient, in silence."""
    monkeypatch.setenv("ASYM_GEMM", "onednn" if kind == "onednn" else "stock")
    x, w = torch.ones(2, 3), torch.ones(4, 3)
    if kind == "direct feedback":
        call = lambda p: asym.functional.direct_feedback(p @ w.t(), p, w).square().sum()
    elif kind == "onednn":
        call = lambda p: gemm.linear(p, w).square().sum()
    else:
        layer, x = reference.layer(kind, "fa"), reference.images(kind)
        call = lambda p: layer(p).square().sum()
    for transformed in (grad(call), lambda p: vmap(call)(p[None]).sum()):
        with pytest.raises(Exception, match="loses the feedback path: compile what is inside it"):
            torch.compile(transformed, backend="eager", fullgraph=whole)(x)


@pytest.mark.slow
@pytest.mark.parametrize("kind", reference.PLAIN)
def test_compiled_layer_sends_the_error_through_its_feedback(kind, fresh):
    layer, x = reference.layer(kind, "fa", bias=True), reference.images(kind).requires_grad_()
    layer(x).square().sum().backward()
    eager, x.grad = x.grad, None
    torch.compile(layer, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    torch.testing.assert_close(x.grad, eager)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["bp", "kp"])
@ONEDNN
def test_compiled_layer_multiplies_through_onednn(rule, fresh, monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", "onednn")
    layer, x = reference.layer("linear", rule, dtype=torch.float32), reference.images("linear", dtype=torch.float32)
    graphs = []
    compiled = torch.compile(layer, backend=lambda graph, _: graphs.append(graph) or graph.forward, fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x), **CLOSE)
    modules = [module for graph in graphs for module in graph.modules() if isinstance(module, torch.fx.GraphModule)]
    assert any("onednn_linear" in module.code for module in modules)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found = [torch.autograd.grad(call(x).square().sum(), layer.weight)[0] for call in (compiled, layer)]
    torch.testing.assert_close(*found, **CLOSE)


@pytest.mark.slow
def test_compiled_by_inductor(fresh):
    net = nets.dense((1, 5, 4), 4, ("bp", "fa", "kp"), hidden=(6, 5))
    expected = backward(copy.deepcopy(net), *batch())
    found = backward(torch.compile(net, fullgraph=True), *batch())
    torch.testing.assert_close({name.removeprefix("_orig_mod."): g for name, g in found.items()}, expected, **CLOSE)


@pytest.mark.parametrize("rule", RULES)
def test_autocast_computes_in_bf16_and_keeps_fp32_gradients(rule):
    net, full = network(rule), network(rule)
    exact = backward(full, *batch())
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(batch()[0])
        value = F.cross_entropy(logits, batch()[1])
    value.backward()
    assert logits.dtype == torch.bfloat16
    for name, parameter in net.named_parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert (parameter.grad - exact[name]).norm() <= 0.05 * exact[name].norm(), name


@pytest.mark.parametrize("kind", reference.PLAIN)
@pytest.mark.parametrize("rule", RULES)
def test_autocast_of_one_layer_is_close_and_leaves_fp64_alone(rule, kind):
    layer, x = reference.layer(kind, rule, bias=True), reference.images(kind)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.float64
        low = copy.deepcopy(layer).float()(x.float())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.double(), layer(x), rtol=0.05, atol=0.2)


def test_direct_feedback_keeps_fp32_logits_under_autocast():
    logits, hidden = torch.full((2, 3), 1.001), torch.zeros(2, 4, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        joined = asym.DirectFeedback(4, 3)(logits, hidden)
    joined.sum().backward()
    assert torch.equal(joined, logits) and joined.dtype == torch.float32
    assert hidden.grad.dtype == torch.bfloat16 and hidden.grad.any()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("rule", RULES)
def test_a_copy_learns_alike_and_apart(rule, copied):
    net = network(rule)
    twin = copied(net)
    torch.testing.assert_close(backward(twin, *batch()), backward(net, *batch()), rtol=0, atol=0)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("rule", RULES)
def test_state_dict_brings_the_whole_layer(rule):
    net, other = network(rule), network(rule, seed=1)
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(backward(other, *batch()), backward(net, *batch()), rtol=0, atol=0)


@pytest.mark.parametrize("rule", [key for key, rule in RULES.items() if rule.store == "buffer"])
def test_to_moves_fixed_feedback_along(rule):
    net = network(rule).to(torch.float64)
    assert all(layer.feedback.dtype == torch.float64 for layer in net.layers[1:])
    assert net.to("meta").layers[1].feedback.is_meta


@ONEDNN
@pytest.mark.parametrize("rule", RULES)
def test_both_libraries_give_the_same_gradients(rule, monkeypatch):
    net = network(rule)
    found = []
    for library in gemm.LIBRARIES:
        monkeypatch.setenv("ASYM_GEMM", library)
        net.zero_grad()
        found.append(backward(net, *batch()))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@ONEDNN
def test_onednn_product_is_a_torch_operation(monkeypatch):
    x, w = (reference.draw(*shape).float() for shape in ((6, 7), (5, 7)))
    torch.library.opcheck(gemm.onednn_linear, (x, w))
    monkeypatch.setenv("ASYM_GEMM", "onednn")
    calls = []
    monkeypatch.setattr(gemm, "onednn_linear", lambda x, w: calls.append(0) or x @ w.t())
    gemm.linear(x, w)
    assert calls
    gemm.linear(x.double(), w.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert gemm.linear(x, w).dtype == torch.bfloat16
    assert len(calls) == 1, "oneDNN is for fp32 outside autocast"


@ONEDNN
def test_backpropagation_through_onednn_is_differentiable_twice(monkeypatch):
    found = []
    for library in gemm.LIBRARIES:
        monkeypatch.setenv("ASYM_GEMM", library)
        x, w = (reference.draw(*shape).float().requires_grad_() for shape in ((6, 7), (5, 7)))
        (dx,) = torch.autograd.grad(gemm.linear(x, w).pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(dx.square().sum(), (x, w)))
    torch.testing.assert_close(*found, **CLOSE)


def test_unknown_library_is_refused(monkeypatch):
    monkeypatch.setenv("ASYM_GEMM", "blas")
    with pytest.raises(ValueError, match=r"\$ASYM_GEMM must be one of stock, onednn; got 'blas'"):
        gemm.linear(torch.ones(2, 2), torch.ones(2, 2))


def test_the_measured_library_is_one_of_the_two(monkeypatch):
    monkeypatch.delenv("ASYM_GEMM")
    assert gemm.library() in gemm.LIBRARIES


def _together(rank, make, rounds, folder):
    """One of two processes; they meet through a file and talk over loopback, whatever the machine's name and network are."""
    os.environ["ASYM_GEMM"] = "stock"
    os.environ["GLOO_SOCKET_IFNAME"] = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    faulthandler.dump_traceback_later(DEADLINE - 5, exit=True)  # says where it hangs, even in native code
    torch.set_num_threads(1)
    meeting = {"init_method": f"file://{folder}/meeting", "timeout": timedelta(seconds=DEADLINE / 2)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2, **meeting)
    x, labels = batch()
    found = {}
    for each in rounds:
        net = make(each, seed=rank)  # rank 1 starts elsewhere: DDP must bring it rank 0's weights and feedback
        parallel = nn.parallel.DistributedDataParallel(net)
        half = slice(3 * rank, 3 * rank + 3)
        backward(parallel, x[half], labels[half])
        gradients = {name: p.grad for name, p in net.named_parameters()}
        found[each] = gradients, {name: b.clone() for name, b in net.named_buffers()}
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.barrier()  # neither leaves while the other still needs it
    torch.distributed.destroy_process_group()


def stock_network(_, seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(60, 4))


def two_processes(make, rounds, folder, attempts=2):
    """What both saved; an error where they twice do not end by the deadline, and no process left behind."""
    folder.mkdir()
    # daemons: they end with this process, should the test be given up
    context = torch.multiprocessing.spawn(_together, (make, rounds, folder), nprocs=2, join=False, daemon=True)
    end = time.monotonic() + DEADLINE
    try:
        while not context.join(timeout=1):
            if time.monotonic() > end:
                raise TimeoutError(f"two processes of gloo had not ended after {DEADLINE} s")
    except (TimeoutError, torch.multiprocessing.ProcessExitedException):  # not an exception of what they ran
        if attempts == 1:
            raise
        return two_processes(make, rounds, folder.with_name(f"{folder.name}-again"), attempts - 1)
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.fixture
def gloo(tmp_path):
    """Skips where torch's own layers cannot be trained in two processes: some sandboxes' loopback hangs gloo for ever."""
    try:
        two_processes(stock_network, range(len(RULES)), tmp_path / "stock")
    except Exception as error:
        pytest.skip(f"torch's own DistributedDataParallel over gloo does not work on this machine: {error}")


@pytest.mark.slow
def test_two_processes_average_to_one(gloo, tmp_path):
    found = two_processes(network, list(RULES), tmp_path / "ours")
    for rule in RULES:
        single = network(rule)
        expected = backward(single, *batch())
        for gradients, buffers in (found[0][rule], found[1][rule]):
            torch.testing.assert_close(gradients, expected, **CLOSE)
            torch.testing.assert_close(buffers, dict(single.named_buffers()), rtol=0, atol=0)


@pytest.mark.parametrize("kind", reference.PLAIN)
def test_autocast_does_not_hide_a_float64_input(kind):
    layer, x = copy.deepcopy(reference.layer(kind, "fa")).float(), reference.images(kind)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="weight must be of x's dtype torch.float64; got"):
        layer(x)


def test_importing_the_package_does_not_import_torchs_compiler():
    """It would double the time; what stands in its decorator's place does what that does."""
    says = "import sys, asym; print('torch._dynamo' in sys.modules, 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", says], capture_output=True, text=True, check=True).stdout == "False False\n"
    assert vars(gemm.constant(lambda: 0)) == vars(torch.compiler.assume_constant_result(lambda: 0)) != {}


FIRST = """
import sys, torch, asym
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
torch.set_num_threads(1)
untied, linear = asym.UntiedConv2d(16, 16, 3, 16, padding=1, rule="fa"), asym.Linear(6, 5, rule="fa")
x, flat = torch.randn(2, 16, 16, 16), torch.randn(4, 6)
if sys.argv[1] == "vmap":
    torch.vmap(torch.func.grad(lambda x: untied(x).sum()))(x)
elif sys.argv[1] == "export":
    torch.export.export(untied, (x,))
    assert len(torch.export.export(linear, (flat,)).graph.nodes) < 20
elif sys.argv[1] == "fake":
    with FakeTensorMode():
        asym.UntiedConv2d(16, 16, 3, 16, rule="fa")(torch.randn(2, 16, 16, 16))
elif sys.argv[1] == "device":
    with torch.device("meta"):
        untied(x)
elif sys.argv[1] == "dtype":
    torch.set_default_dtype(torch.float64)
    linear(flat), untied(x)
elif sys.argv[1] == "flops":
    with FlopCounterMode(display=False) as counter:
        linear(flat)
    assert counter.get_total_flops() <= 2 * 4 * 6 * 5, counter.get_total_flops()
print("sound")
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["vmap", "export", "fake", "device", "dtype", "flops"])
def test_what_is_measured_and_built_at_first_use_is_out_of_the_callers_mode(mode, tmp_path):
    """In a fresh process with an empty cache, the first call of all under a transform, a mode or another default."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASYM_")}
    command = [sys.executable, "-c", FIRST, mode]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"XDG_CACHE_HOME": str(tmp_path)})
    assert (done.returncode, done.stdout) == (0, "sound\n"), done.stderr[-2000:]
