"""The compiled products of untied convolution on the CPU: untied.cpp, built at its first use and kept in the user's cache."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from asym.atomic import whole
from asym.checks import constant
from asym.gemm import apart

FORMS = ("auto", "compiled", "torch")
SOURCE = Path(__file__).with_name("untied.cpp")
AUTO_WEIGHTS = 2**18  # a smaller layer gains less than it waits for the compiler
PATIENCE = 300  # seconds for the compiler, or for another process that compiles
OPERANDS = {"y": ("x", "w"), "x": ("y", "w"), "w": ("x", "y")}  # <e, y> is linear in x, in W and in e: each product's two factors


class Unavailable(Exception):
    """Why there is no kernel."""


def find_compiler() -> list[str]:
    try:
        asked = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise Unavailable(f"$CXX is no command ({error})") from None
    for name in [asked] if asked else (["c++"], ["g++"], ["clang++"]):
        if shutil.which(name[0]):
            return name
    raise Unavailable(f"no C++ compiler is installed ({asked[0] if asked else 'c++, g++, clang++'} not found)")


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "cpu family", "model", "CPU part"))}))


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"the compiler failed ({error})") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no message"]
        raise Unavailable(f"the compiler failed ({errors[0].strip()})")
    return done.stdout


def build() -> Path:
    """The library's file in the user's cache, compiled if it is not there; one process compiles, others wait for it."""
    import platformdirs  # here, because most runs need none of these
    from filelock import FileLock, Timeout

    compiler = find_compiler()
    native = "-march=native" if platform.machine().lower() in ("x86_64", "amd64", "i686") else "-mcpu=native"
    command = [*compiler, "-O3", native, "-std=c++17", "-shared", "-fPIC", "-pthread"]
    version = _run([*compiler, "--version"])
    facts = SOURCE.read_bytes(), *(text.encode() for text in (*command, version, _processor()))
    folder = Path(platformdirs.user_cache_dir("asym"))
    file = folder / f"untied-{hashlib.sha256(bytes(1).join(facts)).hexdigest()[:16]}.so"
    try:
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_suffix(".lock"), timeout=PATIENCE):
                if not file.exists():
                    with whole(file) as part:
                        _run([*command, str(SOURCE), "-o", str(part)])
    except (OSError, Timeout) as error:
        raise Unavailable(f"the cache folder cannot be used ({error})") from error
    return file


@cache
def load() -> ctypes.CDLL | str:
    """The kernel, once it has passed its check; or why there is none, said in a warning too."""
    try:
        try:
            library = ctypes.CDLL(str(build()))
        except OSError as error:
            raise Unavailable(f"the compiled library cannot be loaded ({error})") from error
        pointer = ctypes.c_void_p
        for name in OPERANDS:
            getattr(library, f"untied_{name}").argtypes = [pointer, ctypes.c_int, pointer, pointer, pointer]
        library.untied_enlarge_pages.argtypes = [pointer, ctypes.c_size_t]
        library.untied_lay.argtypes = [pointer, pointer, ctypes.c_int, pointer, pointer, ctypes.c_int64]
        apart(lambda: _check(library))
        return library
    except Unavailable as reason:
        warnings.warn(f"untied convolutions take up to twice as long, in torch alone: {reason}", RuntimeWarning, 2)
        return str(reason)


def _check(library: ctypes.CDLL) -> None:
    """Untied kernels that are all equal are a convolution."""
    generator = torch.Generator().manual_seed(0)
    shapes = (7, 17, 5, 4), (19, 17, 3, 3), (7, 19, 5, 4)
    x, kernel, e = (torch.randn(shape, generator=generator, dtype=torch.float32) for shape in shapes)
    weight = kernel.reshape(19, -1).t().expand(20, -1, -1).contiguous()
    shape = (17, 5, 4, 19, 5, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1)
    found = [multiply(library, kind, *pair, shape) for kind, pair in {"y": (x, weight), "x": (e, weight), "w": (x, e)}.items()]
    found[2] = found[2].sum(0).t().reshape(kernel.shape)
    geometry = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
    back = torch.ops.aten.convolution_backward(e, x, kernel, None, *geometry, [True, True, False])
    expected = F.conv2d(x, kernel, None, padding=1), *back[:2]
    if not all(torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4) for ours, theirs in zip(found, expected, strict=True)):
        raise Unavailable("the compiled library computes wrongly")


@constant
def untied_from() -> float:
    """The number of weights from which on an untied layer asks for the kernel, by $ASYM_UNTIED (ValueError for other names).

    "auto" (the default) asks for it in layers worth it, "compiled" in all, "torch" in none.
    """
    form = os.environ.get("ASYM_UNTIED") or "auto"
    if form not in FORMS:
        raise ValueError(f"$ASYM_UNTIED must be one of {', '.join(FORMS)}; got {form!r}")
    return {"auto": AUTO_WEIGHTS, "compiled": 0, "torch": float("inf")}[form]


@constant
def untied() -> str:
    """The form that large untied layers take on this CPU: "compiled" (built now if it is not yet), or "torch: " and the reason.

    ValueError for an unknown $ASYM_UNTIED.
    """
    if untied_from() == float("inf"):
        return "torch: $ASYM_UNTIED says so"
    library = load()
    return f"torch: {library}" if isinstance(library, str) else "compiled"


def _laid(library: ctypes.CDLL, images: Tensor) -> Tensor:
    """(N, C, H, W) in any layout -> (H * W, N, C) in fp32, where what a position needs of all samples lies together."""
    n, c, h, w = images.shape
    laid = torch.empty(h * w, n, c, dtype=torch.float32)  # whatever the default is
    size, steps = ((ctypes.c_int64 * 4)(*numbers) for numbers in (images.shape, images.stride()))
    bf16 = images.dtype == torch.bfloat16
    library.untied_lay(size, steps, bf16, images.data_ptr(), laid.data_ptr(), torch.get_num_threads())
    return laid


def _empty(kind: str, first: Tensor, shape: Sequence[int]) -> Tensor:
    c, h, w, o, oh, ow, kh, kw, *_, groups = shape
    if kind == "w":
        return first.new_empty(oh * ow, c // groups * kh * kw, o)
    channels, *size = (o, oh, ow) if kind == "y" else (c, h, w)
    shape = first.shape[0], channels, *size  # and no view of another: what is in place may follow
    return torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=torch.channels_last)


def multiply(library: ctypes.CDLL, kind: str, first: Tensor, second: Tensor, shape: Sequence[int]) -> Tensor:
    o, oh, ow = shape[3:6]
    n, a, b = first.shape[0], _laid(library, first), second
    steps = oh * ow * o, o
    if kind != "w":
        b = b.contiguous()
    elif b.dtype == torch.bfloat16 or not b.is_contiguous(memory_format=torch.channels_last):
        b, steps = _laid(library, b), (o, n * o)
    result = _empty(kind, first, shape)
    library.untied_enlarge_pages(result.data_ptr(), result.nbytes)
    shape = (ctypes.c_int64 * 19)(*shape, n, torch.get_num_threads(), *steps)
    bf16 = first.dtype == torch.bfloat16
    getattr(library, f"untied_{kind}")(shape, bf16, a.data_ptr(), b.data_ptr(), result.data_ptr())
    return result


@torch.library.custom_op("asym::untied_product", mutates_args=())
def untied_product(kind: str, first: Tensor, second: Tensor, shape: Sequence[int]) -> Tensor:
    """One of an untied convolution's products: kind "y" of x and W, "x" (dx) of e and W, "w" (dW) of x and e.

    Both fp32 or both bf16 on the CPU; shape is an asym.untied.Geometry. RuntimeError where there is no kernel.
    """
    library = load()
    if isinstance(library, str):
        raise RuntimeError(f"untied convolution has no compiled kernel: {library}")
    return multiply(library, kind, first, second, shape)


@untied_product.register_fake
def _(kind, first, second, shape):
    return _empty(kind, first, shape)


@untied_product.register_vmap
def _(info, in_dims, kind, first, second, shape):
    pairs = ([t] * info.batch_size if d is None else t.unbind(d) for t, d in zip((first, second), in_dims[1:3], strict=True))
    return torch.stack([untied_product(kind, *pair, shape) for pair in zip(*pairs, strict=True)]), 0


class Product(Function):
    """`untied_product` with its derivatives, which are the other two kinds."""

    generate_vmap_rule = True

    @staticmethod
    def forward(kind, first, second, shape):
        return untied_product(kind, first, second, shape)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.kind, first, second, ctx.shape = inputs
        ctx.save_for_backward(first, second)

    @staticmethod
    def backward(ctx, gradient):
        known = {ctx.kind: gradient} | dict(zip(OPERANDS[ctx.kind], ctx.saved_tensors, strict=True))
        gradients = []
        for kind, needed in zip(OPERANDS[ctx.kind], ctx.needs_input_grad[1:3], strict=True):
            gradients.append(Product.apply(kind, *(known[k] for k in OPERANDS[kind]), ctx.shape) if needed else None)
        return None, *gradients, None
