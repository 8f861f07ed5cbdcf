"""Untied convolution: both of its forms against the slow twin, and how the compiled one is chosen, built, shared and given up."""

import os
import subprocess
import sys

import pytest
import reference
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

import asym
from asym import functional, kernels
from asym.rules import RULES

GEOMETRIES = reference.CONVOLUTIONS | {
    "one pixel": {"kernel_size": (1, 1)},
    "all of it": {"kernel_size": (5, 6)},
    "even": {"kernel_size": (4, 2), "padding": (2, 1)},
    "gaps": {"kernel_size": (1, 2), "stride": (3, 3)},
    "beyond": {"kernel_size": (3, 2), "padding": (4, 4), "stride": (2, 3), "dilation": (2, 1)},
    "rest": {"kernel_size": (2, 3), "stride": (2, 2)},
}
CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.bfloat16: {"rtol": 0.01, "atol": 0.01}}


@pytest.fixture
def compiled(monkeypatch):
    try:
        kernels.find_compiler()
    except kernels.Unavailable as reason:
        pytest.skip(str(reason))
    monkeypatch.setenv("ASYM_UNTIED", "compiled")
    assert kernels.untied() == "compiled"


@pytest.fixture(params=["torch", "compiled"])
def form(request, monkeypatch):
    if request.param == "compiled":
        request.getfixturevalue("compiled")
    monkeypatch.setenv("ASYM_UNTIED", request.param)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A process that has not asked for the kernel yet, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("ASYM_UNTIED", "compiled")
    kernels.load.cache_clear()
    yield tmp_path
    kernels.load.cache_clear()


def layer(name, channels=(6, 10), rule="fa", size=(5, 6), dtype=torch.float32):
    options = {"kernel_size": (3, 2)} | GEOMETRIES[name]
    made = asym.UntiedConv2d(*channels, input_size=size, rule=rule, bias=False, dtype=torch.float64, **options)
    for index, tensor in enumerate((made.weight, made.feedback)):
        if tensor is not None:
            tensor.data.copy_(reference.draw(*tensor.shape, seed=index) / tensor.shape[1] ** 0.5)
    return made.to(dtype)


def check(name, dtype, n=7, **options):
    """One layer's y, dx and dW against the twin's, in float64, of the same rounded numbers."""
    ours = layer(name, dtype=dtype, **options)
    x = reference.draw(n, ours.in_channels, *ours.input_size, seed=3).to(dtype).requires_grad_()
    y = ours(x)
    e = reference.draw(*y.shape, seed=4).to(dtype)
    y.backward(e)
    exact = {k: v for k, v in GEOMETRIES[name].items() if k != "kernel_size"}
    op = lambda x, w: reference.untied_conv2d(x, ours.as_kernels(w), **exact)
    x64, w64, f64, e64 = (t.detach().double() for t in (x, ours.weight, ours.feedback, e))
    found, expected = (y, x.grad, ours.weight.grad), (op(x64, w64), None, None)
    expected = expected[0], reference.gradients(op, x64, f64, e64)[0], reference.gradients(op, x64, w64, e64)[1]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        scale = max(1.0, theirs.std().item())
        torch.testing.assert_close(ours.double() / scale, theirs / scale, **CLOSE[dtype])


@pytest.mark.parametrize("dtype", CLOSE, ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_both_forms_are_the_slow_twin(name, dtype, form):
    check(name, dtype)


@pytest.mark.parametrize("dtype", CLOSE, ids=["fp32", "bf16"])
@pytest.mark.parametrize("channels", [(1, 1), (3, 32), (70, 5), (34, 150)], ids=str)
def test_any_number_of_channels(channels, dtype, form):
    """Fewer than a vector holds, and more than a panel; sums longer than a block."""
    check("padding", dtype, channels=channels, size=(4, 3))


@pytest.mark.parametrize("n", [1, 6, 300])
def test_any_number_of_samples(n, form):
    check("same even", torch.float32, n=n, size=(3, 2))


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_learns_alike_by_both_forms(rule, compiled, monkeypatch):
    found = []
    for name in ("torch", "compiled"):
        monkeypatch.setenv("ASYM_UNTIED", name)
        ours = reference.layer("untied_conv2d, all", rule, bias=True, dtype=torch.float32)
        x = reference.images("untied_conv2d", dtype=torch.float32).requires_grad_()
        ours(x).square().sum().backward()
        found.append([x.grad, *(p.grad for p in ours.parameters())])
    assert RULES[rule].direct == (found[0][0] is None) == (found[1][0] is None)
    torch.testing.assert_close(found[1][found[0][0] is None :], found[0][found[0][0] is None :], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", ["channels_last", "transposed", "every second", "expanded"])
def test_the_layout_of_what_comes_in_is_free(change, form):
    ours = layer("padding", size=(6, 6))
    x = reference.draw(8, 6, 6, 6).float()
    if change == "expanded":
        x = x[:1].expand(8, -1, -1, -1)
    other = {
        "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
        "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
        "every second": lambda t: t.repeat_interleave(2, 1)[:, ::2],
        "expanded": lambda t: t[:1].expand_as(t),
    }[change]
    found = []
    for lay in (torch.Tensor.contiguous, other):
        images = lay(x).requires_grad_()
        y = ours(images)
        e = reference.draw(*y.shape, seed=1).float()[:1].expand_as(y)
        found.append((y, *torch.autograd.grad(y, (images, ours.weight), lay(e))))
    assert lay(x).stride() != x.contiguous().stride()
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    assert found[0][0].is_contiguous(memory_format=torch.channels_last), "what follows in a net would copy it"


def test_an_empty_batch(form):
    ours, x = layer("padding"), torch.zeros(0, 6, 5, 6, requires_grad=True)
    ours(x).sum().backward()
    assert x.grad.shape == x.shape and not ours.weight.grad.any()


def test_threads_share_the_work_to_the_last_bit(compiled):
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        ours, x = layer("all"), reference.draw(40, 6, 5, 6).float().requires_grad_()
        y = ours(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), (x, ours.weight))))
    torch.set_num_threads(1)
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_the_product_is_a_torch_operation(compiled):
    shape = [4, 5, 6, 6, 3, 5, 3, 2, 1, 1, 1, 1, 0, 0, 1]
    x, e, weight = torch.randn(3, 4, 5, 6), torch.randn(3, 6, 3, 5), torch.randn(15, 24, 6)
    for kind, pair in {"y": (x, weight), "x": (e, weight), "w": (x, e)}.items():
        torch.library.opcheck(kernels.untied_product, (kind, *pair, shape))


def test_transforms_are_those_of_the_torch_form(compiled, monkeypatch):
    ours, x = layer("padding"), reference.draw(5, 6, 5, 6).float()
    weights = torch.stack([ours.weight.detach(), -ours.weight.detach()])
    loss = lambda w, x: functional_call(ours, {"weight": w}, (x,)).pow(3).mean()
    found = []
    for form in ("torch", "compiled"):
        monkeypatch.setenv("ASYM_UNTIED", form)
        each = vmap(grad(lambda w, x: loss(w, x[None]), (0, 1)), (None, 0))(weights[0], x)
        found.append((grad(loss, (0, 1))(weights[0], x), each, vmap(grad(loss, (0, 1)), (0, None))(weights, x)))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_backpropagation_is_differentiable_twice(form):
    found = []
    for dtype in (torch.float64, torch.float32):
        ours, x = layer("all", rule="bp", dtype=dtype), reference.draw(3, 6, 5, 6).to(dtype).requires_grad_()
        first = torch.autograd.grad(ours(x).pow(3).sum(), (x, ours.weight), create_graph=True)
        found.append(torch.autograd.grad(sum(t.square().sum() for t in first), (x, ours.weight)))
    for exact, single in zip(*found, strict=True):
        torch.testing.assert_close(single.double() / exact.std(), exact / exact.std(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_compiled_by_dynamo_in_one_graph(form):
    torch._dynamo.reset()
    ours, x = layer("padding"), reference.draw(5, 6, 5, 6).float().requires_grad_()
    found = []
    for call in (ours, torch.compile(ours, backend="aot_eager", fullgraph=True)):
        y = call(x)
        with torch.no_grad():
            alone = call(x)
        found.append((y, alone, *torch.autograd.grad(y.square().sum(), (x, ours.weight))))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


def test_autocast_hands_bf16_to_the_kernel(compiled, monkeypatch):
    seen, multiply = [], kernels.multiply
    monkeypatch.setattr(kernels, "multiply", lambda *a: seen.append(a[2].dtype) or multiply(*a))
    ours, x = layer("padding"), reference.draw(5, 6, 5, 6).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(x)
    y.float().square().sum().backward()
    assert seen == [torch.bfloat16] * 3 and x.grad.dtype == ours.weight.grad.dtype == torch.float32


# How a form is chosen


def calls(monkeypatch):
    """The kinds of products that reach the kernel."""
    seen, multiply = [], kernels.multiply
    monkeypatch.setattr(kernels, "multiply", lambda library, kind, *rest: seen.append(kind) or multiply(library, kind, *rest))
    return seen


@pytest.mark.parametrize("wants", ["x", "w", "xw", ""])
def test_the_kernel_computes_only_what_is_asked_for(wants, compiled, monkeypatch):
    ours, x = layer("padding").requires_grad_("w" in wants), torch.ones(2, 6, 5, 6, requires_grad="x" in wants)
    seen = calls(monkeypatch)
    (ours(x).sum() + torch.zeros((), requires_grad=True)).backward()
    assert sorted(seen) == sorted(f"y{wants}")


@pytest.mark.parametrize(("form", "expected"), [("auto", "big"), ("", "big"), ("compiled", "all"), ("torch", "none")])
def test_the_variable_says_which_layers_are_compiled(form, expected, compiled, monkeypatch):
    monkeypatch.setenv("ASYM_UNTIED", form)
    monkeypatch.setattr(kernels, "AUTO_WEIGHTS", 1000)
    seen = calls(monkeypatch)
    for channels, kind in ((1, "all"), (20, "big")):
        ours = layer("plain", channels=(channels, 2))
        assert (ours.weight.numel() >= 1000) == (kind == "big")
        ours(torch.ones(2, channels, 5, 6))
        assert seen == (["y"] if expected == kind or expected == "all" else [])
        seen.clear()
        assert ours.double()(torch.ones(2, channels, 5, 6).double()).dtype == torch.float64 and not seen
    assert kernels.untied() == ("torch: $ASYM_UNTIED says so" if form == "torch" else "compiled")


def test_another_form_is_refused(monkeypatch):
    monkeypatch.setenv("ASYM_UNTIED", "cuda")
    with pytest.raises(ValueError, match=r"\$ASYM_UNTIED must be one of auto, compiled, torch; got 'cuda'"):
        layer("plain")(torch.ones(1, 6, 5, 6))
    with pytest.raises(ValueError, match="got 'cuda'"):
        kernels.untied()


def test_small_layers_build_nothing(fresh, monkeypatch):
    monkeypatch.setenv("ASYM_UNTIED", "auto")
    monkeypatch.setattr(kernels, "build", lambda: pytest.fail("built"))
    layer("plain")(torch.ones(1, 6, 5, 6)).sum().backward()


# How it is given up


def gives_up(reason):
    """The layer still works, with one warning, and `untied` tells why."""
    x, kernel = reference.draw(2, 6, 5, 6).float(), reference.draw(10, 6, 3, 2, seed=1).float()
    ours = layer("plain")
    ours.tie_(kernel)
    with pytest.warns(RuntimeWarning, match=reason) as warnings:
        y = ours(x)
        ours(x).sum().backward()
    assert len(warnings) == 1
    torch.testing.assert_close(y, F.conv2d(x, kernel), rtol=1e-4, atol=1e-4)
    assert kernels.untied().startswith("torch: ")
    with pytest.raises(RuntimeError, match=reason):
        kernels.untied_product("w", x, y, [6, 5, 6, 10, 3, 5, 3, 2, 1, 1, 1, 1, 0, 0, 1])


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("no-such-compiler -x", r"no C\+\+ compiler is installed \(no-such-compiler not found\)"),
        ("g++ '", r"\$CXX is no command \(No closing quotation\)"),
        ("false", r"the compiler failed \(no message\)"),
        (f"{sys.executable} -c 'raise SystemExit(\"error: no\")'", r"the compiler failed \(error: no\)"),
    ],
)
def test_a_compiler_that_is_missing_or_broken(compiler, reason, fresh, monkeypatch):
    monkeypatch.setenv("CXX", compiler)
    gives_up(reason)


def test_a_compiler_that_takes_too_long(fresh, monkeypatch):
    monkeypatch.setattr(kernels, "PATIENCE", 0.2)
    monkeypatch.setenv("CXX", f"{sys.executable} -c 'import time; time.sleep(60)'")
    gives_up("the compiler failed .*timed out")


def test_a_cache_that_cannot_be_written(fresh, compiled_source, monkeypatch):
    file = fresh / "a file"
    file.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    gives_up("the cache folder cannot be used")


def test_a_library_that_is_none(fresh, monkeypatch):
    file = fresh / "broken.so"
    file.write_bytes(b"\x7fELF, but no more")
    monkeypatch.setattr(kernels, "build", lambda: file)
    gives_up("the compiled library cannot be loaded")


def test_a_library_that_computes_wrongly(fresh, compiled_source, monkeypatch, tmp_path):
    source = tmp_path / "untied.cpp"
    source.write_text(kernels.SOURCE.read_text().replace("sum[m][v] += factor * columns[v]", "sum[m][v] -= factor * columns[v]"))
    monkeypatch.setattr(kernels, "SOURCE", source)
    gives_up("the compiled library computes wrongly")


@pytest.fixture
def compiled_source():
    try:
        kernels.find_compiler()
    except kernels.Unavailable as reason:
        pytest.skip(str(reason))


# How it is built

WORKER = """
import pathlib, sys, time, warnings
warnings.simplefilter("error")
import asym, torch
folder, wait = pathlib.Path(sys.argv[1]), time.sleep
torch.set_num_threads(1)
assert not list(folder.glob("cache/**/*.so")) and "platformdirs" not in sys.modules, "importing asym built"
pathlib.Path(folder, f"ready {sys.argv[2]}").touch()
while len(list(folder.glob("ready *"))) < 2:
    wait(0.01)
from asym import kernels
layer = asym.UntiedConv2d(3, 5, 3, (8, 8), bias=False)
y = layer(torch.ones(2, 3, 8, 8))
print(kernels.untied(), [round(v, 4) for v in y[0, 0, 0].tolist()] == [round(v.item(), 4) for v in layer.weight.sum(1)[:6, 0]])
"""


def test_two_processes_build_once(compiled_source, tmp_path):
    """The compiler is a script that notes each of its compilations."""
    compiler, log = tmp_path / "compiler", tmp_path / "log"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *-shared*) echo x >> "{log}";; esac\nexec {kernels.find_compiler()[0]} "$@"\n')
    compiler.chmod(0o755)
    environment = os.environ | {"CXX": str(compiler), "ASYM_UNTIED": "compiled", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    options = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([*command, str(k)], **options) for k in (0, 1)]
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        assert (out.strip(), err, worker.returncode) == ("compiled True", "", 0)
    assert log.read_text() == "x\n"
    assert sorted(path.suffix for path in (tmp_path / "cache/asym").iterdir()) in ([".so"], [".lock", ".so"])


def test_the_kernel_is_built_anew_for_another_compiler_or_source(fresh, compiled_source, monkeypatch):
    """The name alone: the compilation itself is left out."""
    names, run = set(), kernels._run
    monkeypatch.setattr(kernels, "_run", lambda command: open(command[-1], "w").close() if "-o" in command else run(command))
    for options, source in (("", ""), (" -g", ""), ("", "// changed")):
        monkeypatch.setenv("CXX", f"{kernels.find_compiler()[0]}{options}")
        copy = fresh / f"{len(names)}.cpp"
        copy.write_text(kernels.SOURCE.read_text() + source)
        monkeypatch.setattr(kernels, "SOURCE", copy)
        names.add(kernels.build().name)
        monkeypatch.delenv("CXX")
    assert len(names) == 3
    assert not list(fresh.rglob("*.part"))


def test_the_public_function_takes_the_form_too(form):
    """asym.functional.untied_conv2d: a kernel that is the same everywhere is a convolution."""
    x, kernel = reference.draw(4, 6, 7, 5).float(), reference.draw(8, 3, 3, 3, seed=1).float()
    weight = kernel.reshape(8, -1).t().expand(35, -1, -1)
    y = functional.untied_conv2d(x, weight, None, kernel_size=3, padding="same", groups=2)
    torch.testing.assert_close(y, F.conv2d(x, kernel, None, padding="same", groups=2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16, torch.float64])
def test_the_default_dtype_changes_nothing(default, form):
    """The kernel's own buffers are of fp32: half as large, they would be written beyond their end."""
    ours = layer("padding", channels=(16, 32), size=(9, 9))
    x = reference.draw(64, 16, 9, 9, seed=3).float()
    expected = ours(x)
    torch.set_default_dtype(default)
    try:
        assert torch.equal(ours(x), expected)
        if form == "compiled":
            kernels._check(kernels.load())
    finally:
        torch.set_default_dtype(torch.float32)
