"""The run store: a record is there whole or not at all, a damaged one is named and left out."""

import errno
import hashlib
import json
import math
import os
import subprocess
from dataclasses import replace

import pytest

from asym import grid, results
from asym.atomic import whole
from asym.cells import Cell
from asym.config import Config
from asym.measures import MEASURES
from asym.results import COLUMNS, Record, Store

BP = Config(subset=500, hidden=(8,), rules=("bp", "bp"))
FA = replace(BP, rules=("bp", "fa"), epochs=2)
DEEP = replace(BP, hidden=(8, 8), rules=("bp", "kp", "dfa"), weight_decay=0.1, seed=5)
DIVERGED = replace(FA, optimizer="sgd", lr=1e30, epochs=5)


@pytest.fixture(scope="module")
def made():
    """Real runs, one of them diverged; on this file's own copy of the data and with no process started."""
    return [grid.perform(config) for config in (BP, FA, DEEP, DIVERGED)]


def text(record):
    """All of a record as text: unlike ==, it takes NaN for NaN and 1 for other than 1.0. Infinity is NaN, as it is stored."""
    content = json.dumps([record.config.to_dict(), record.epochs, record.diverged, record.provenance], sort_keys=True)
    return content.replace("-Infinity", "NaN").replace("Infinity", "NaN")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def sealed(body):
    """A record's text as some other program would write it, its checksum right."""
    body = {k: v for k, v in body.items() if k != "sha256"}
    return json.dumps(body | {"sha256": hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()})


# --- round trip -----------------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was(store, made):
    for record in made:
        store.save(record)
    assert names(store.folder) == sorted(f"{record.config.hash}.json" for record in made)
    for record in made:
        back = store.load(record.config)
        assert text(back) == text(record) and isinstance(back.config.rules, tuple)
        assert all(type(row["epoch"]) is int for row in back.epochs)
        assert set(back.epochs[0]) == {*COLUMNS, *MEASURES}
    assert sorted(map(text, store.records())) == sorted(map(text, made))


def test_what_the_round_trip_must_keep_is_in_these_runs(made):
    bp, fa, deep, diverged = made
    assert math.isnan(bp.epochs[0]["train_loss"]) and math.isnan(bp.epochs[1]["drift"][1])
    assert len(deep.epochs[1]["weight_angle"]) == 3 and not math.isnan(fa.epochs[2]["weight_angle"][1])
    assert diverged.diverged and len(diverged.epochs) < 6 and diverged.epochs[-1]["test_accuracy"] == 0.1
    assert bp.provenance["threads"] == 1 and bp.provenance["seconds"] > 0


def test_infinity_is_stored_as_nan_in_json_that_any_reader_reads(store, made):
    rows = [made[0].epochs[0] | {"train_loss": math.inf, "drift": [-math.inf, 1.5]}]
    store.save(Record(BP, rows, True, {}))
    json.loads(store.path(BP).read_text(), parse_constant=lambda name: pytest.fail(name))
    (row,) = store.load(BP).epochs
    assert math.isnan(row["train_loss"]) and math.isnan(row["drift"][0]) and row["drift"][1] == 1.5


def test_what_is_not_there_is_none_and_an_absent_folder_is_empty(store):
    assert store.load(BP) is None and list(store.records()) == [] and not store.folder.exists()


def test_find_gives_the_cells_that_have_run_in_their_order(store, made):
    wanted = [Cell(part="p", network=str(k), config=record.config) for k, record in enumerate(made)]
    store.save(made[2])
    store.save(made[0])
    assert [(cell.network, record.config) for cell, record in store.find(wanted)] == [("0", BP), ("2", DEEP)]


def test_the_folder_is_the_one_given_or_that_of_the_environment_or_runs(monkeypatch, tmp_path, made):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASYM_RUNS", str(tmp_path / "elsewhere"))
    Store().save(made[0])
    assert names(tmp_path / "elsewhere") == [f"{BP.hash}.json"]
    assert Store("mine").folder.name == "mine"
    for unset in (lambda: monkeypatch.setenv("ASYM_RUNS", ""), lambda: monkeypatch.delenv("ASYM_RUNS")):
        unset()
        assert Store().folder.resolve() == tmp_path / "runs"


# --- writing --------------------------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_earlier_record_and_nothing_else(store, made, monkeypatch):
    bp, fa, *_ = made
    store.save(bp)
    earlier = store.path(BP).read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for record in (fa, replace(bp, diverged=True)):
        with pytest.raises(OSError, match="No space left"):
            store.save(record)
    assert names(store.folder) == [f"{BP.hash}.json"] and store.path(BP).read_bytes() == earlier


def test_a_record_is_never_seen_half_written(store, made, monkeypatch):
    """Up to the last moment before the rename the earlier record stands; then the folder goes to the disk too."""
    store.save(made[0])
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(store.load(BP)))
    store.save(replace(made[0], diverged=True))
    assert [record.diverged for record in seen] == [False, True]


def test_a_record_that_cannot_be_written_leaves_nothing(store, made):
    with pytest.raises(TypeError, match="JSON"):
        store.save(replace(made[0], provenance={"device": object()}))
    assert names(store.folder) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the right to mount a small tmpfs: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk(small_disk, made):
    store = Store(small_disk)
    store.save(made[0])
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(OSError, match="No space left"):
        store.save(made[1])
    assert names(small_disk) == sorted([f"{BP.hash}.json", "ballast"])
    ballast.unlink()
    store.save(made[1])
    assert [text(store.load(record.config)) for record in made[:2]] == [text(record) for record in made[:2]]


def test_two_writers_of_one_run_are_not_in_each_others_way(store, made, monkeypatch):
    """Whatever their process ids: two machines may share a store."""
    monkeypatch.setattr(os, "getpid", lambda: 123)
    with whole(store.path(BP)) as one, whole(store.path(BP)) as other:
        assert one != other
        for path, record in ((one, made[0]), (other, replace(made[0], diverged=True))):
            path.write_text(results._dump(record))
    assert names(store.folder) == [f"{BP.hash}.json"] and not store.load(BP).diverged  # the last to end


# --- damage ---------------------------------------------------------------------------------------------------------------------


def _without_measure(content):
    body = json.loads(content)
    del body["epochs"]["drift"]
    return sealed(body)


def _ragged(content):
    body = json.loads(content)
    body["epochs"]["test_accuracy"].pop()
    return sealed(body)


DAMAGE = {
    "empty": lambda content: "",
    "truncated": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "not json": lambda content: "a text",
    "not text": lambda content: b"\xff\xfe\x00",
    "zeros": lambda content: bytes(len(content)),
    "a list": lambda content: "[]",
    "a number": lambda content: "3",
    "no checksum": lambda content: json.dumps({k: v for k, v in json.loads(content).items() if k != "sha256"}),
    "edited": lambda content: content.replace('"diverged": false', '"diverged": true'),
    "other schema": lambda content: sealed(json.loads(content) | {"schema": 2}),
    "no schema": lambda content: sealed({k: v for k, v in json.loads(content).items() if k != "schema"}),
    "no epochs": lambda content: sealed(json.loads(content) | {"epochs": []}),
    "a measure less": _without_measure,
    "ragged": _ragged,
    "unknown field": lambda content: sealed(json.loads(content) | {"config": {"colour": "red"}}),
    "wrong config": lambda content: sealed(json.loads(content) | {"config": {"epochs": 0}}),
    "other run": lambda content: sealed(json.loads(content) | {"config": FA.to_dict()}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_record_is_named_and_left_out(store, made, damage):
    for record in made[:2]:
        store.save(record)
    path = store.path(BP)
    damaged = damage(path.read_text())
    path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    with pytest.warns(UserWarning, match=f"{path}: no sound record, left out as if it were not there") as told:
        assert store.load(BP) is None and store.load(BP) is None
        assert [record.config for record in store.records()] == [FA]
    assert len(told) == 1
    store.save(made[0])
    assert text(store.load(BP)) == text(made[0])


def test_a_record_under_another_runs_name_is_refused(store, made):
    store.save(made[1])
    store.path(FA).rename(store.path(BP))
    with pytest.warns(UserWarning, match=f"it holds the run {FA.hash}"):
        assert store.load(BP) is None


@pytest.mark.filterwarnings("ignore:.*no sound record")
def test_no_flipped_bit_gives_another_record(store, made):
    store.save(made[0])
    path, right = store.path(BP), text(made[0])
    content, refused = path.read_bytes(), 0
    for place in range(0, len(content), 5):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        record = store.load(BP)
        refused += record is None
        assert record is None or text(record) == right  # a number's last digit may stand for the same number
    assert refused > len(content) // 5 * 0.95


def test_a_warning_points_at_the_caller(store, made):
    store.save(made[0])
    store.path(BP).write_text("")
    for read in (Store(store.folder).load, lambda config: list(Store(store.folder).records())):
        with pytest.warns(UserWarning) as caught:
            read(BP)
        assert [warning.filename for warning in caught] == [__file__]


def test_left_over_temporary_files_and_strangers_are_ignored(store, made):
    store.save(made[0])
    for name in (f"{FA.hash}.123.tmp", f"{BP.hash}.123.tmp", "notes.txt"):
        (store.folder / name).write_text("half a rec")
    assert [record.config for record in store.records()] == [BP] and store.load(FA) is None


# --- merging --------------------------------------------------------------------------------------------------------------------


def test_merging_takes_what_is_lacking_and_keeps_ours(store, made, tmp_path):
    theirs = Store(tmp_path / "theirs")
    for run in made[:3]:
        theirs.save(run)
    store.save(made[0])
    other = replace(made[1], epochs=[row | {"test_accuracy": 0.5} for row in made[1].epochs])
    store.save(other)
    merged = store.merge(theirs.folder)
    assert [run.config for run in merged.new] == [DEEP] and [run.config for run in merged.alike] == [BP]
    assert [(text(ours), text(run)) for ours, run in merged.differ] == [(text(other), text(made[1]))] and not merged.refused
    assert [text(store.load(run.config)) for run in (made[0], other, made[2])] == list(map(text, (made[0], other, made[2])))
    again = store.merge(theirs.folder)
    assert not again.new and len(again.alike) == 2 and len(again.differ) == 1


def test_the_time_that_a_run_took_makes_no_difference(store, made, tmp_path):
    store.save(made[0])
    slow = replace(made[0], epochs=[row | {"seconds": 1e6} for row in made[0].epochs])
    Store(tmp_path / "theirs").save(slow)
    assert len(store.merge(tmp_path / "theirs").alike) == 1


def test_runs_of_the_same_numbers_differ_where_one_diverged_or_saw_another_copy_of_the_data(store, made, tmp_path):
    store.save(made[1])
    copied = replace(made[1], provenance=made[1].provenance | {"data_fingerprint": 64 * "0"})
    for theirs in (replace(made[1], diverged=True), copied):
        Store(tmp_path / "theirs").save(theirs)
        assert len(store.merge(tmp_path / "theirs").differ) == 1


def test_the_first_difference_of_two_runs_is_of_their_numbers_whatever_time_they_took(made):
    slow = [row | {"seconds": 1e6, "test_accuracy": row["test_accuracy"] / (1 + (row["epoch"] > 0))} for row in made[1].epochs]
    assert results.first_difference(made[1], replace(made[1], epochs=slow)) == "first apart at epoch 1, in test_accuracy"


FOREIGN = {
    "diverged in words": lambda body: body | {"diverged": "no"},
    "accuracy in words": lambda body: _epochs(body, test_accuracy=["high"] * 2),
    "accuracy a list": lambda body: _epochs(body, test_accuracy=[[0.1], [0.2]]),
    "accuracy a truth": lambda body: _epochs(body, test_accuracy=[True, True]),
    "a layer less": lambda body: _epochs(body, drift=[[0.0]] * 2),
    "a measure a number": lambda body: _epochs(body, drift=[0.0] * 2),
    "an epoch less": lambda body: body | {"epochs": {name: values[:1] for name, values in body["epochs"].items()}},
    "epochs out of order": lambda body: _epochs(body, epoch=[1, 0]),
    "no epoch": lambda body: body | {"epochs": {name: [] for name in body["epochs"]}},
    "no provenance": lambda body: body | {"provenance": []},
    "no device": lambda body: body | {"provenance": {k: v for k, v in body["provenance"].items() if k != "device"}},
    "a device that is a number": lambda body: body | {"provenance": body["provenance"] | {"device": 3}},
}


def _epochs(body, **columns):
    return body | {"epochs": body["epochs"] | columns}


@pytest.mark.parametrize("damage", [*DAMAGE.values(), *FOREIGN.values()], ids=[*DAMAGE, *FOREIGN])
def test_a_file_that_is_no_sound_record_of_a_whole_run_is_refused(store, made, tmp_path, damage):
    theirs = Store(tmp_path / "theirs")
    for run in made[:2]:
        theirs.save(run)
    path = theirs.path(BP)
    content = path.read_text()
    damaged = sealed(damage(json.loads(content))) if damage in FOREIGN.values() else damage(content)
    path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    merged = store.merge(theirs.folder)
    assert list(merged.refused) == [path] and merged.refused[path]
    assert [run.config for run in merged.new] == [FA] and names(store.folder) == [f"{FA.hash}.json"]


def test_merging_refuses_what_would_block_or_fill_the_memory(store, tmp_path, monkeypatch):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.mkfifo(theirs / f"{BP.hash}.json")
    (theirs / f"{FA.hash}.json").write_text("[" * 100_000)
    (theirs / f"{DEEP.hash}.json").mkdir()
    with (theirs / f"{DIVERGED.hash}.json").open("wb") as file:
        file.truncate(2**40)  # takes no space
    assert len(store.merge(theirs).refused) == 4 and not store.folder.exists()


@pytest.mark.parametrize("place", ["nowhere", "a file"])
def test_merging_refuses_what_is_no_folder(store, tmp_path, place):
    (tmp_path / "a file").write_text("")
    with pytest.raises(NotADirectoryError, match=f"folder must be a folder of records; got '{tmp_path / place}'"):
        store.merge(tmp_path / place)


def test_what_is_written_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    """An empty file after a power cut would take a good one's place."""
    path, calls, real = tmp_path / "file.json", [], os.fsync
    path.write_text("old")

    def fsync(descriptor):
        calls.append((os.readlink(f"/proc/self/fd/{descriptor}"), path.read_text()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with whole(path) as temporary:
        temporary.write_text("new")
    assert calls == [(str(temporary), "old"), (str(tmp_path), "new")] and list(tmp_path.iterdir()) == [path]
