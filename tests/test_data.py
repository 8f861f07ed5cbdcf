"""Data sets: what is published loads, in every layout; anything else is refused, and nothing of it is run or written."""

import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch

from asym import _download, data
from asym._formats import decode_binary, decode_idx, decode_pickle
from asym._published import SOURCES, Download
from asym.data import DataError, batches, load

REAL = Path(os.environ.get("ASYM_DATA") or "/nonexistent")
LAYOUTS = [(name, k) for name, source in SOURCES.items() for k in range(len(source.layouts))]
PACKED = [(name, k) for name, k in LAYOUTS if SOURCES[name].layouts[k].archive]
PUBLISHED_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """An empty $ASYM_DATA, and an empty in-process cache."""
    data._load.cache_clear()
    monkeypatch.setenv("ASYM_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    yield tmp_path / "data"
    data._load.cache_clear()


@pytest.fixture(scope="module")
def fashion():
    return load("fashion_mnist")


# Small data sets: the same layouts with 1/500 of the images, and their own checksums.


def encode(decode, source, file, images, labels):
    """The bytes of one file in a layout; what `decode` reads."""
    if decode is decode_idx:
        if "images" in file.name:
            return struct.pack(">4I", 2051, *images.shape[:1], *images.shape[2:]) + images.tobytes()
        return struct.pack(">2I", 2049, len(labels)) + labels.astype(np.uint8).tobytes()
    rows = images.reshape(len(images), -1)
    if decode is decode_binary:
        coarse = [labels[:, None] // 5] if source.classes == 100 else []
        return np.concatenate([*coarse, labels[:, None], rows], 1).astype(np.uint8).tobytes()
    return pickle.dumps({"fine_labels" if source.classes == 100 else "labels": labels.tolist(), "data": rows}, 4)


def contents(name, k):
    """The small data set in its k-th layout, {file name: bytes}; the same images and labels in each layout."""
    source, files = SOURCES[name], {}
    layout = source.layouts[k]
    for seed, split in enumerate((layout.train, layout.test)):
        random = np.random.default_rng(seed)
        total = sum(file.count for file in split) // 500 // (2 if layout.decode is decode_idx else 1)
        images = random.integers(0, 256, (total, *source.shape), np.uint8)
        labels = random.integers(0, source.classes, total)
        done = 0
        for file in split:
            part = slice(None) if layout.decode is decode_idx else slice(done, done + file.count // 500)
            files[file.name] = encode(layout.decode, source, file, images[part], labels[part])
            done += file.count // 500
    return files


def shrink(monkeypatch, name):
    """Put the small data set in place of what is published, in every layout."""

    def small(k, layout):
        made = contents(name, k)
        fit = lambda file: replace(file, count=file.count // 500, checksum="sha1:" + hashlib.sha1(made[file.name]).hexdigest())
        return replace(layout, train=tuple(map(fit, layout.train)), test=tuple(map(fit, layout.test)))

    source = SOURCES[name]
    made = {k: contents(name, k) for k in range(len(source.layouts))}
    small_source = replace(source, layouts=tuple(small(k, layout) for k, layout in enumerate(source.layouts)))
    monkeypatch.setitem(SOURCES, name, small_source)
    return made


def write(folder, layout, files):
    for name, content in files.items():
        path = folder / layout.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def pack(path, members):
    """A .tar.gz of {member name: bytes, or a TarInfo for a link}."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name) if isinstance(content, bytes) else content
            entry.size = len(content) if isinstance(content, bytes) else 0
            tar.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)


def everything(root):
    return {path.relative_to(root) for path in root.rglob("*")}


# The embedded set


def test_embedded_files_are_the_published_ones():
    for name, md5 in PUBLISHED_MD5.items():
        assert hashlib.md5((data.EMBEDDED / "fashion-mnist" / name).read_bytes()).hexdigest() == md5
    assert "Zalando SE" in (data.EMBEDDED / "fashion-mnist" / "LICENSE").read_text()


def test_fashion_mnist(fashion):
    assert fashion.verified and fashion.note == "" and fashion.shape == (1, 28, 28) and fashion.classes == 10
    assert fashion.train_images.shape == (60000, 1, 28, 28) and fashion.train_images.dtype == torch.uint8
    assert fashion.test_images.shape == (10000, 1, 28, 28) and fashion.test_labels.dtype == torch.int64
    assert fashion.train_labels.bincount().tolist() == [6000] * 10 and fashion.test_labels.bincount().tolist() == [1000] * 10
    assert fashion.train_labels[:5].tolist() == [9, 0, 0, 3, 0]
    joined = b"".join(
        t.numpy().tobytes() for t in (fashion.train_images, fashion.train_labels, fashion.test_images, fashion.test_labels)
    )
    assert fashion.fingerprint == hashlib.sha256(joined).hexdigest()
    assert fashion.fingerprint.startswith("ece172613115fb18")


def test_standardised_training_set_has_mean_0_and_deviation_1(fashion):
    images = fashion.standardise(fashion.train_images)
    assert images.dtype == torch.float32 and images.is_contiguous()
    assert abs(images.mean().item()) < 1e-4 and abs(images.std().item() - 1) < 1e-4


def test_standardise_is_the_formula_and_keeps_strides_and_input(fashion):
    few = fashion.train_images[:9]
    kept = few.clone()
    expected = (few.double() / 255 - fashion.mean.double().view(-1, 1, 1)) / fashion.std.double().view(-1, 1, 1)
    torch.testing.assert_close(fashion.standardise(few).double(), expected, rtol=0, atol=1e-5)
    floats = few.float()
    torch.testing.assert_close(fashion.standardise(floats), fashion.standardise(few))
    assert torch.equal(few, kept) and torch.equal(floats, few.float())
    coloured = replace(fashion, mean=torch.rand(3), std=torch.rand(3) + 0.1)
    last = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    assert coloured.standardise(last).is_contiguous(memory_format=torch.channels_last)


def test_subset_keeps_the_statistics(fashion):
    few = fashion.subset(100)
    assert torch.equal(few.train_images, fashion.train_images[:100]) and len(few.train_labels) == 100
    assert few.mean is fashion.mean and few.std is fashion.std and few.test_images is fashion.test_images
    assert len(fashion.subset(60000).train_labels) == 60000
    for n in (0, -1, 60001):
        with pytest.raises(ValueError, match="subset must be a whole number in 1..60000"):
            fashion.subset(n)


def test_load_reads_once_and_moves():
    assert load("fashion_mnist") is load("fashion_mnist", device=torch.device("cpu"))
    moved = load("fashion_mnist", device="meta")
    assert all(t.device.type == "meta" for t in (moved.train_images, moved.test_labels, moved.mean, moved.std))


def test_unknown_name():
    with pytest.raises(ValueError, match="fashion_mnist, mnist, cifar10, cifar100; got 'svhn'"):
        load("svhn")


# Batches


def test_batches_are_seeded_cover_and_drop_the_partial():
    draw = lambda seed: list(batches(103, 10, torch.Generator().manual_seed(seed)))
    first = draw(0)
    assert len(first) == 10 and all(batch.shape == (10,) for batch in first)
    assert len(set(torch.cat(first).tolist())) == 100 and set(torch.cat(first).tolist()) <= set(range(103))
    assert torch.equal(torch.cat(first), torch.cat(draw(0))) and not torch.equal(torch.cat(first), torch.cat(draw(1)))
    generator = torch.Generator().manual_seed(0)
    epochs = [torch.cat(list(batches(20, 10, generator))) for _ in range(2)]
    assert not torch.equal(*epochs) and all(epoch.sort().values.equal(torch.arange(20)) for epoch in epochs)


@pytest.mark.parametrize("size", [0, -1, 11])
def test_batches_refuses_sizes_at_once(size):
    with pytest.raises(ValueError, match="size must be a whole number in 1..10"):
        batches(10, size, torch.Generator())


# Layouts


@pytest.mark.parametrize("name", SOURCES)
def test_each_layout_gives_the_same_tensors(monkeypatch, tmp_path, name):
    prints = set()
    for k, files in shrink(monkeypatch, name).items():
        layout = SOURCES[name].layouts[k]
        write(tmp_path / f"{k}", layout, files)
        monkeypatch.setenv("ASYM_DATA", str(tmp_path / f"{k}"))
        found = load(name)
        assert found.verified and found.shape == SOURCES[name].shape and found.train_labels.max() < found.classes
        prints.add(found.fingerprint)
        if layout.archive:
            (tmp_path / f"packed{k}").mkdir()
            pack(
                tmp_path / f"packed{k}" / layout.archive, {f"{layout.folder}/{file}": content for file, content in files.items()}
            )
            before = everything(tmp_path)
            monkeypatch.setenv("ASYM_DATA", str(tmp_path / f"packed{k}"))
            prints.add(load(name).fingerprint)
            assert everything(tmp_path) == before
    assert len(prints) == 1


def test_torchvision_layout_of_the_real_fashion_mnist(folder, fashion):
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for k, name in enumerate(PUBLISHED_MD5):
        content = (data.EMBEDDED / "fashion-mnist" / name).read_bytes()
        raw.joinpath(name if k % 2 else name.removesuffix(".gz")).write_bytes(content if k % 2 else gzip.decompress(content))
    found = load("fashion_mnist")
    assert found.verified and found.fingerprint == fashion.fingerprint


def test_pickles_as_python_2_wrote_them(folder, monkeypatch):
    """The published CIFAR pickles: protocol 2, strings for bytes, numpy's old module name."""
    text = lambda s: b"U" + bytes([len(s)]) + s
    whole = lambda n: b"K" + bytes([n]) if n < 256 else b"M" + struct.pack("<H", n)
    source = replace(SOURCES["cifar10"], layouts=SOURCES["cifar10"].layouts[1:2])
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), np.uint8)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n"
        b"cnumpy\nndarray\n" + whole(0) + b"\x85" + text(b"b") + b"\x87R(" + whole(1) + whole(4) + whole(3072) + b"\x86"
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + whole(0)
        + whole(1)
        + b"\x87R("
        + whole(3)
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        + whole(0)
        + b"tb\x89"
        + b"T"
        + struct.pack("<I", pixels.size)
        + pixels.tobytes()
        + b"tb"
    )
    labels = b"](" + b"".join(map(whole, (3, 1, 4, 1))) + b"e"
    content = b"\x80\x02}(" + text(b"data") + array + text(b"labels") + labels + text(b"batch_label") + text(b"one") + b"u."
    assert pickle.loads(content, encoding="bytes")[b"data"].tobytes() == pixels.tobytes()
    layout = source.layouts[0]
    fit = lambda file: replace(file, count=4, checksum="md5:" + hashlib.md5(content).hexdigest())
    layout = replace(layout, train=tuple(map(fit, layout.train)), test=tuple(map(fit, layout.test)))
    monkeypatch.setitem(SOURCES, "cifar10", replace(source, layouts=(layout,)))
    write(folder, layout, {file.name: content for file in layout.train + layout.test})
    found = load("cifar10")
    assert found.verified and found.test_labels.tolist() == [3, 1, 4, 1]
    assert np.array_equal(found.train_images[:4].reshape(4, -1).numpy(), pixels)


# Refusals


def test_the_set_is_not_in_the_folder(folder):
    for name in ("mnist", "cifar10", "cifar100"):
        with pytest.raises(DataError, match="ASYM_DATA") as error:
            load(name)
        assert str(folder) in str(error.value) and SOURCES[name].layouts[0].folder in str(error.value)
    assert load("fashion_mnist").verified  # falls through to the package's copy


def test_no_such_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("ASYM_DATA", str(tmp_path / "typo"))
    with pytest.raises(DataError, match="typo: no such folder"):
        load("fashion_mnist")


@pytest.mark.parametrize("name,k", LAYOUTS)
def test_a_changed_bit_is_refused_and_taken_only_when_told(monkeypatch, folder, name, k):
    files, layout = shrink(monkeypatch, name)[k], SOURCES[name].layouts[k]
    first = layout.train[0]
    changed = bytearray(files[first.name])
    changed[len(changed) - 200] ^= 1  # a pixel; in a pickle too
    files[first.name] = bytes(changed)
    write(folder, layout, files)
    with pytest.raises(DataError) as error:
        load(name)
    found = hashlib.sha1(changed).hexdigest()
    assert all(
        part in str(error.value) for part in (first.name, first.checksum, found, "--unverified-data", "unverified_data=True")
    )
    taken = load(name, unverified=True)
    assert (
        not taken.verified
        and "unverified copy" in taken.note
        and len(taken.train_labels) == (120 if taken.shape[0] == 1 else 100)
    )


@pytest.mark.parametrize("name,k", LAYOUTS)
@pytest.mark.parametrize("unverified", [False, True])
@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "missing", "huge"])
def test_damaged_files_are_refused(monkeypatch, folder, name, k, unverified, damage):
    files, layout = shrink(monkeypatch, name)[k], SOURCES[name].layouts[k]
    last = layout.test[-1].name
    content = files.pop(last)
    if damage != "missing":
        files[last] = {"cut": content[:-7], "longer": content + content[-3073:], "empty": b"", "huge": bytes(10**7)}[damage]
    if damage == "longer" and layout.decode is decode_pickle:
        files[last] = pickle.dumps({"labels": [0], "fine_labels": [0], "data": np.zeros((1, 3072), np.uint8)})
    write(folder, layout, files)
    with pytest.raises(DataError, match=last):
        load(name, unverified=unverified)


@pytest.mark.parametrize("name,k", LAYOUTS)
def test_labels_out_of_range_are_refused(monkeypatch, folder, name, k):
    files, layout, source = shrink(monkeypatch, name)[k], SOURCES[name].layouts[k], SOURCES[name]
    file = layout.train[-1]
    images = np.zeros((file.count, *source.shape), np.uint8)
    files[file.name] = encode(layout.decode, source, file, images, np.full(file.count, source.classes))
    write(folder, layout, files)
    with pytest.raises(DataError, match=f"{file.name}.*0..{source.classes - 1}"):
        load(name, unverified=True)


def test_a_constant_channel_is_refused(monkeypatch, folder):
    shrink(monkeypatch, "cifar10")
    layout = SOURCES["cifar10"].layouts[0]
    write(folder, layout, {file.name: bytes(file.count * 3073) for file in layout.train + layout.test})
    with pytest.raises(DataError, match="constant"):
        load("cifar10", unverified=True)


@pytest.mark.parametrize("bomb", ["idx", "tar"])
def test_gzip_bombs_are_refused(monkeypatch, folder, bomb):
    name = {"idx": "mnist", "tar": "cifar10"}[bomb]
    files, layout = shrink(monkeypatch, name)[0], SOURCES[name].layouts[0]
    zeros = gzip.compress(bytes(10**8), 1)
    if bomb == "tar":
        (folder / layout.archive).write_bytes(zeros)
    else:
        write(folder, layout, {f"{file}.gz": zeros for file in files})
    with pytest.raises(DataError, match="holds more than"):
        load(name, unverified=True)


def test_damaged_gzip_is_refused(monkeypatch, folder):
    files, layout = shrink(monkeypatch, "mnist")[0], SOURCES["mnist"].layouts[0]
    packed = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    labels = packed["t10k-labels-idx1-ubyte.gz"]
    for damaged in (labels[:-9], labels[:20] + b"\xff\xff\xff" + labels[23:], b"not gzip"):
        write(folder, layout, {**packed, "t10k-labels-idx1-ubyte.gz": damaged})
        with pytest.raises(DataError, match="t10k-labels-idx1-ubyte.gz: cannot be read"):
            load("mnist", unverified=True)


@pytest.mark.parametrize("name,k", PACKED)
def test_archives_write_nothing_and_follow_no_link(monkeypatch, tmp_path, folder, name, k):
    files, layout = shrink(monkeypatch, name)[k], SOURCES[name].layouts[k]
    members = {f"{layout.folder}/{file}": content for file, content in files.items()}
    last = f"{layout.folder}/{layout.test[0].name}"
    link, secret = tarfile.TarInfo(last), tmp_path / "secret"
    link.type, link.linkname = tarfile.SYMTYPE, str(secret)
    secret.write_bytes(members[last])
    rest = {member: content for member, content in members.items() if member != last}
    for outside in (f"../{last}", f"/{tmp_path}/{last}", f"./{last}"):
        pack(folder / layout.archive, {**rest, outside: members[last]})
        before = everything(tmp_path)
        with pytest.raises(DataError, match=f"{layout.archive}.*missing"):
            load(name, unverified=True)
        assert everything(tmp_path) == before
    pack(folder / layout.archive, {**rest, last: link})
    with pytest.raises(DataError, match="not a plain file"):
        load(name, unverified=True)
    (folder / layout.archive).write_bytes(gzip.compress(b"not a tar archive" * 100))
    with pytest.raises(DataError, match=layout.archive):
        load(name, unverified=True)
    pack(folder / layout.archive, {**members, "../../outside": b"harmless: never read"})
    before = everything(tmp_path)
    assert load(name).verified and everything(tmp_path) == before


class Run:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("name,k", [("cifar10", 1), ("cifar100", 1)])
@pytest.mark.parametrize("attack", ["system", "eval", "numpy", "dotted", "garbage", "array"])
@pytest.mark.parametrize("checksum_met", [False, True])
def test_malicious_pickles_run_nothing(monkeypatch, tmp_path, folder, name, k, attack, checksum_met):
    files, layout = shrink(monkeypatch, name)[k], SOURCES[name].layouts[k]
    mark = tmp_path / "executed"
    zeros = np.zeros((layout.train[0].count, 3072), np.uint8)
    bad = {
        "system": lambda: pickle.dumps(Run(os.system, f"touch {mark}")),
        "eval": lambda: pickle.dumps({"data": Run(eval, f"open({str(mark)!r}, 'w')"), "labels": []}),
        "numpy": lambda: pickle.dumps(Run(np.save, str(mark), zeros)),
        "dotted": lambda: b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93" + pickle.dumps((zeros, str(mark)))[2:-1] + b"R.",
        "garbage": lambda: os.urandom(1000),
        "array": lambda: pickle.dumps(
            {"data": zeros.astype(np.int8), "labels": [0] * len(zeros), "fine_labels": [0] * len(zeros)}
        ),
    }[attack]()
    if checksum_met:
        fit = lambda file: replace(file, checksum="md5:" + hashlib.md5(bad).hexdigest()) if file is layout.train[0] else file
        changed = replace(layout, train=tuple(map(fit, layout.train)))
        monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], layouts=(changed,)))
    write(folder, layout, {**files, layout.train[0].name: bad})
    before = everything(tmp_path)
    with pytest.raises(DataError, match="is not a plain CIFAR pickle"):
        load(name, unverified=True)
    assert not mark.exists() and everything(tmp_path) == before


# Which copy


def test_a_verified_copy_is_preferred_then_the_one_with_standins(monkeypatch, folder):
    made, layouts = shrink(monkeypatch, "cifar10"), SOURCES["cifar10"].layouts
    flip = lambda content: content[:-1] + bytes([content[-1] ^ 1])
    write(folder, layouts[0], {name: flip(content) for name, content in made[0].items()})
    write(folder, layouts[2], {name: flip(content) for name, content in made[2].items()})
    (folder / layouts[2].folder / "standins.json").write_text(json.dumps([1, 99, 100, 119]))
    with pytest.raises(DataError) as error:
        load("cifar10")
    assert layouts[0].folder in str(error.value) and layouts[2].folder in str(error.value)
    taken = load("cifar10", unverified=True)
    assert not taken.verified and taken.note == "4 stand-in images (2 train, 2 test)"
    write(folder, layouts[1], made[1])
    data._load.cache_clear()
    for unverified in (False, True):
        found = load("cifar10", unverified=unverified)
        assert found.verified and found.note == "" and found.fingerprint != taken.fingerprint


@pytest.mark.parametrize("text", ["", "{", "7", '["a"]', "[[]]", "[120]", "[-1]"])
def test_standins_that_make_no_sense_are_not_believed(monkeypatch, folder, text):
    made, layout = shrink(monkeypatch, "cifar10")[2], SOURCES["cifar10"].layouts[2]
    write(folder, layout, {name: content[:-1] + bytes([content[-1] ^ 1]) for name, content in made.items()})
    (folder / layout.folder / "standins.json").write_text(text)
    assert load("cifar10", unverified=True).note == "unverified copy (cifar-10-incomplete)"


# Downloads, from a server on this machine


class Server(ThreadingHTTPServer):
    """Serves {path: bytes}; with `cuts`, so many answers stop halfway; `ranges` says whether it can go on."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.cuts, self.ranges, self.asked = {}, 0, True, []

    def url(self, path):
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Answer(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        content = server.files.get(self.path[1:])
        start = int(wanted[6:-1]) if wanted and server.ranges else 0
        if content is None or start >= len(content):
            self.send_error(404 if content is None else 416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = len(content)
        if server.cuts:
            server.cuts -= 1
            end = (start + len(content)) // 2
        self.wfile.write(content[start:end])


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server with a small cifar10 and mnist, from which load() downloads; its cache is `tmp_path/cache`."""
    monkeypatch.delenv("ASYM_DATA")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache")
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    server = Server()
    for name in ("cifar10", "mnist"):
        files, layout, downloads = shrink(monkeypatch, name)[0], SOURCES[name].layouts[0], []
        for published in SOURCES[name].downloads:
            file = Path(published.place).name
            if layout.archive:
                pack(tmp_path / file, {f"{layout.folder}/{member}": content for member, content in files.items()})
                server.files[file] = (tmp_path / file).read_bytes()
            else:
                server.files[file] = gzip.compress(files[file.removesuffix(".gz")])
            md5 = hashlib.md5(server.files[file]).hexdigest()
            downloads.append(Download(server.url(file), f"md5:{md5}", published.place))
        monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], downloads=tuple(downloads)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name,files", [("cifar10", 1), ("mnist", 4)])
def test_download_once(server, name, files):
    assert load(name).verified and len(server.asked) == files
    data._load.cache_clear()
    assert load(name).verified and len(server.asked) == files


def left(tmp_path):
    """What the cache holds beside locks."""
    return {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"}


def asked_from(wanted):
    """The first byte of a Range header."""
    return int(wanted[6:-1]) if wanted else 0


def test_a_cut_download_goes_on(server, tmp_path):
    size, server.cuts = len(server.files["cifar-10-binary.tar.gz"]), 2
    assert load("cifar10").verified
    first, second, third = map(asked_from, server.asked)
    assert first == 0 and 0 <= size // 2 - second < _download.CHUNK  # what came of the last chunk is asked for again
    assert 0 <= (second + size) // 2 - third < _download.CHUNK
    assert left(tmp_path) == {"cifar-10-binary.tar.gz"}


def test_a_cut_download_goes_on_in_a_later_call(server, monkeypatch, tmp_path):
    monkeypatch.setattr(_download, "RETRIES", 0)
    size, server.cuts = len(server.files["cifar-10-binary.tar.gz"]), 1
    with pytest.raises(DataError, match="partial download goes on"):
        load("cifar10")
    assert left(tmp_path) == {"cifar-10-binary.tar.gz.part"}
    assert load("cifar10").verified and 0 <= size // 2 - asked_from(server.asked[1]) < _download.CHUNK


def test_a_server_that_cannot_go_on_starts_anew(server, tmp_path):
    server.ranges, server.cuts = False, 1
    assert load("cifar10").verified and len(server.asked) == 2 and left(tmp_path) == {"cifar-10-binary.tar.gz"}


@pytest.mark.parametrize("part", ["whole", "longer", "wrong"])
def test_a_part_left_behind(server, tmp_path, part):
    content = server.files["cifar-10-binary.tar.gz"]
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cifar-10-binary.tar.gz.part").write_bytes(
        {"whole": content, "longer": content + b"x", "wrong": b"x" * 99}[part]
    )
    assert load("cifar10").verified and left(tmp_path) == {"cifar-10-binary.tar.gz"}
    assert len(server.asked) == (1 if part == "whole" else 2)


def test_a_download_that_is_not_the_published_file(server, tmp_path):
    server.files["cifar-10-binary.tar.gz"] += b"\0"
    with pytest.raises(DataError, match="does not match the known hash") as error:
        load("cifar10", unverified=True)
    assert server.url("cifar-10-binary.tar.gz") in str(error.value) and left(tmp_path) == set()


def test_no_network_and_no_file(server, monkeypatch, tmp_path):
    del server.files["cifar-10-binary.tar.gz"]
    with pytest.raises(DataError, match="404.*ASYM_DATA"):
        load("cifar10")
    closed = Download("http://127.0.0.1:9/x.gz", "md5:0", "x.gz")
    monkeypatch.setitem(SOURCES, "cifar10", replace(SOURCES["cifar10"], downloads=(closed,)))
    with pytest.raises(DataError, match="http://127.0.0.1:9/x.gz: cannot be downloaded.*ASYM_DATA"):
        load("cifar10")


def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(DataError, match="cannot be downloaded"):
        load("cifar10")


# The real CIFAR files, where there are any


def only(folder, *places):
    """$ASYM_DATA with nothing but these of the real folders."""
    for place in places:
        if not (REAL / place).is_dir():
            pytest.skip(f"$ASYM_DATA has no {place}")
        (folder / place).symlink_to(REAL / place)


def test_real_cifar100(folder):
    only(folder, "cifar-100-binary")
    found = load("cifar100")
    assert found.verified and found.shape == (3, 32, 32) and found.classes == 100
    assert found.train_labels.bincount().tolist() == [500] * 100 and found.test_labels.bincount().tolist() == [100] * 100
    torch.testing.assert_close(found.mean, torch.tensor([0.5071, 0.4865, 0.4409]), rtol=0, atol=1e-4)
    assert found.fingerprint.startswith("283e80e15e3841cc")


def test_real_cifar10_with_standins(folder):
    only(folder, "cifar-10-incomplete")
    with pytest.raises(DataError, match="data_batch_1.bin: expected sha1:aadd24ac"):
        load("cifar10")
    found = load("cifar10", unverified=True)
    assert not found.verified and found.note == "92 stand-in images (72 train, 20 test)"
    assert found.train_labels.bincount().tolist() == [5000] * 10 and found.test_labels.bincount().tolist() == [1000] * 10
    assert found.fingerprint.startswith("ddd5fede3a19c3c5")


def test_real_cifar10(folder):
    place = next((place for place in ("cifar-10-batches-bin", "cifar-10-batches-py") if any((REAL / place).glob("data_*"))), None)
    if place is None:
        pytest.skip("$ASYM_DATA has no CIFAR-10")
    only(folder, place)
    found = load("cifar10", unverified=True)
    assert found.train_images.shape == (50000, 3, 32, 32) and found.train_labels.bincount().tolist() == [5000] * 10
