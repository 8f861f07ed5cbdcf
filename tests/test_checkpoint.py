"""Checkpoints: a training that was stopped, however often, ends with the very numbers of one that was not."""

import errno
import functools
import multiprocessing
import os
import pickle
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from test_grid import numbers, until

from asym import grid, stacked
from asym import train as training
from asym.checkpoint import Checkpoint
from asym.config import Config, last
from asym.results import Store
from asym.rules import RULES

DENSE = Config(subset=200, test_subset=50, hidden=(12, 10), rules=last("fa", 2, 3), batch=50, epochs=4)
POGGIO = Config(subset=40, test_subset=20, net="poggio", rules=last("fa", 4, 5), batch=20, epochs=4)
CASES = {
    **{rule: replace(DENSE, rules=last(rule, 2, 3), weight_decay=0.1 if rule == "kp" else 0.0) for rule in RULES},
    "sgd": replace(DENSE, optimizer="sgd", lr=0.1),
    "nesterov": replace(DENSE, optimizer="nesterov", lr=0.05, rules=last("shared_update", 2, 3)),
    "clipped, held out": replace(DENSE, clip_norm=0.05, clip_weight=0.05, clip_feedback=True, l2=0.01, validation=50),
    "bf16": replace(DENSE, precision="bf16"),
    "conv, dropout": replace(POGGIO, dropout=0.3, rules=last("brsf", 3, 5)),
    "pretrained": replace(POGGIO, frozen=(0,), pretrained=2),
    "pretrained, untied, tanh": replace(POGGIO, net="poggio_untied", frozen=(0,), pretrained=2, activation="tanh"),
    "diverging": replace(DENSE, optimizer="sgd", lr=1e18, rules=("bp",) * 3),
}
MADE_BY = {"code": "this"}


class Stopped(Exception):
    pass


def at(epoch):
    """An on_epoch that stops the training after an epoch, before its checkpoint."""

    def stop(row):
        if row["epoch"] == epoch:
            raise Stopped

    return stop


def checkpoint(path, every=0.0, **made_by):
    return Checkpoint(path, MADE_BY | made_by, every)


def outcome(histories):
    rows = [[{**row, "seconds": 0} for row in history.epochs] for history in histories]
    return repr([(h.config, h.diverged, h.data_fingerprint) for h in histories]) + repr(rows)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.checkpoint"


@pytest.mark.parametrize("case", CASES)
def test_a_training_that_was_stopped_twice_ends_as_one_that_was_not(case, path, monkeypatch):
    config = CASES[case]
    whole = training.train(config)
    training._KERNELS.clear()
    for stop in (2, 3) if len(whole.epochs) > 4 else ():
        with pytest.raises(Stopped):
            training.train(config, on_epoch=at(stop), checkpoint=checkpoint(path))
        training._KERNELS.clear()
        monkeypatch.setattr(training, "_pretrained", lambda *_: pytest.fail("its convolution is in the checkpoint"))
    last = checkpoint(path)
    made = []
    again = training.train(config, on_epoch=made.append, checkpoint=last)
    assert outcome([again]) == outcome([whole])
    if len(whole.epochs) > 4:
        assert [row["epoch"] for row in made] == [3, 4] and last.sittings == 3
        seconds = [row["seconds"] for row in again.epochs]
        assert seconds == sorted(seconds) and seconds[3] > last.seconds >= seconds[2] > 0
    else:
        assert whole.diverged and last.sittings == 1


@pytest.mark.parametrize("seeds", [(0,), (0, 3)])
def test_a_first_convolution_goes_on_being_learned(seeds, path, monkeypatch):
    """Stopped in its second epoch, and of two seeds in that of the second."""
    configs = [replace(CASES["pretrained"], pretrained=3, seed=seed) for seed in seeds]
    train = lambda **options: stacked.train(configs, **options)
    whole, real, done = train(), training.Trainer.epoch, []
    training._KERNELS.clear()

    def counting(self):
        if len(done) == 3 * len(seeds) - 1:
            raise Stopped
        done.append(self.config)
        return real(self)

    monkeypatch.setattr(training.Trainer, "epoch", counting)
    with pytest.raises(Stopped):
        train(checkpoint=checkpoint(path))
    training._KERNELS.clear()
    monkeypatch.setattr(training.Trainer, "epoch", lambda self: done.append(self.config) or real(self))
    again = checkpoint(path)
    assert outcome(train(checkpoint=again)) == outcome(whole) and again.sittings == 2
    assert [config.seed for config in done] == [seed for seed in seeds for _ in range(3)]  # none was learned twice


def test_the_state_of_the_start_is_not_held(path):
    stopped(path)
    again, held = checkpoint(path), []
    training.train(DENSE, checkpoint=again, on_epoch=lambda row: held.append(dict(again.state)))
    assert again.sittings == 2 and held == [{}] * 2


def test_a_sitting_keeps_half_of_its_time(path, monkeypatch):
    clock, kept = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    keeper = Checkpoint(path, MADE_BY)
    for second in range(2000):
        clock[0] = float(second)
        keeper.keep(lambda: kept.append(clock[0]) or {})
    assert kept[:8] == [20, 40, 80, 160, 320, 620, 920, 1220]


@pytest.mark.parametrize("case", ["shared_update", "brsf", "mirror", "nesterov", "pretrained"])
def test_a_stack_goes_on_too(case, path, monkeypatch):
    configs = [replace(CASES[case], seed=seed) for seed in (0, 3)]
    whole = stacked.train(configs)
    real = stacked.Stack.epoch

    def failing(self, done=[0]):  # noqa: B006
        done[0] += 1
        if done[0] == 3:
            raise Stopped
        return real(self)

    monkeypatch.setattr(stacked.Stack, "epoch", failing)
    with pytest.raises(Stopped):
        stacked.train(configs, checkpoint=checkpoint(path))
    last = checkpoint(path)
    assert outcome(stacked.train(configs, checkpoint=last)) == outcome(whole) and last.sittings == 2


def test_a_seed_that_has_diverged_stays_where_it_ended(path, monkeypatch):
    configs = [replace(DENSE, seed=seed) for seed in (0, 3)]
    real, done = stacked.Stack.epoch, []

    def diverging(self):
        done.append(None)
        losses = real(self)
        return [(float("nan"), losses[0][1]), losses[1]] if len(done) in (2, 7) else losses

    monkeypatch.setattr(stacked.Stack, "epoch", diverging)
    whole = stacked.train(configs)
    assert [len(history.epochs) for history in whole] == [3, 5]
    done[:] = [None] * 5
    monkeypatch.setattr(training.Trainer, "accuracies", stop_after(7, training.Trainer.accuracies))
    with pytest.raises(Stopped):
        stacked.train(configs, checkpoint=checkpoint(path))
    monkeypatch.undo()
    assert outcome(stacked.train(configs, checkpoint=checkpoint(path))) == outcome(whole)


def stop_after(calls, real):
    left = [calls]

    def counted(self):
        left[0] -= 1
        if left[0] < 0:
            raise Stopped
        return real(self)

    return counted


def stopped(path, config=DENSE, **made_by):
    with pytest.raises(Stopped):
        training.train(config, on_epoch=at(3), checkpoint=checkpoint(path, **made_by))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("config", "made_by", "differs"),
    [
        (DENSE, {"code": "that"}, "code"),
        (replace(DENSE, seed=1), {}, "configs"),
        (replace(DENSE, epochs=5), {}, "configs"),
        (replace(DENSE, seed=1), {"threads": 2}, "configs, threads"),
    ],
)
def test_what_another_training_has_left_is_named_and_not_gone_on_from(config, made_by, differs, path):
    left = stopped(path, config, **made_by)
    new = checkpoint(path, every=1e9, threads=1) if "threads" in made_by else checkpoint(path, every=1e9)
    with pytest.warns(UserWarning, match=rf"run\.checkpoint: not gone on from \({differs}\); the training begins again"):
        again = training.train(DENSE, checkpoint=new)
    assert outcome([again]) == outcome([training.train(DENSE)]) and new.sittings == 1
    assert path.read_bytes() == left  # until this training has something to keep


def test_images_that_differ_are_another_training(path, monkeypatch):
    stopped(path)
    real = training.data.load
    monkeypatch.setattr(training.data, "load", lambda *args, **options: replace(real(*args, **options), fingerprint="other"))
    with pytest.warns(UserWarning, match=r"not gone on from \(data\)"):
        training.train(DENSE, checkpoint=checkpoint(path))


class Run:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


@pytest.mark.parametrize("damage", ["half", "empty", "text", "code", "other"])
def test_a_damaged_file_is_told_and_nothing_of_it_is_executed(damage, path, tmp_path, monkeypatch):
    content = stopped(path)
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    if damage == "code":
        torch.save({"made_by": MADE_BY, "state": Run()}, path)
    elif damage == "other":
        torch.save([1, 2], path)
    else:
        path.write_bytes({"half": content[: len(content) // 2], "empty": b"", "text": b"{}"}[damage])
    with pytest.warns(UserWarning, match="it cannot be read.*the training begins again"):
        again = training.train(DENSE, checkpoint=checkpoint(path))
    assert outcome([again]) == outcome([training.train(DENSE)])
    assert not (tmp_path / "evil").exists()
    pickle.dumps(Run())  # it would have run
    with pytest.raises(FileExistsError):
        pickle.loads(pickle.dumps(Run())), pickle.loads(pickle.dumps(Run()))


def test_nothing_is_written_before_its_time_nor_after_the_last_epoch(path):
    training.train(DENSE, checkpoint=checkpoint(path, every=3600))
    assert not path.exists()
    training.train(DENSE, checkpoint=checkpoint(path))
    assert torch.load(path)["state"]["histories"][0][0][-1]["epoch"] == DENSE.epochs - 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device; "),
        (
            RuntimeError("[enforce fail] unexpected pos 896 vs 790"),
            r"unexpected pos 896 vs 790 \(so torch tells of a full disk\); ",
        ),
    ],
)
def test_a_full_disk_does_not_stop_the_training(error, told, path, monkeypatch):
    def full(*_):
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.warns(UserWarning, match=f"{told}the training goes on"):
        history = training.train(DENSE, checkpoint=checkpoint(path))
    assert outcome([history]) == outcome([training.train(DENSE)]) and list(path.parent.iterdir()) == []


# The grid

LONG = replace(DENSE, subset=500, epochs=150)


@pytest.fixture
def often(monkeypatch):
    """Grids whose workers write after every epoch; forked, so that they know."""

    @contextmanager
    def forked(jobs, teller):
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
            pools.append(pool)
            try:
                yield pool
            finally:
                for worker in list((pool._processes or {}).values()):
                    worker.kill()

    pools = []
    monkeypatch.setattr(grid, "_processes", forked)
    monkeypatch.setattr(grid, "Checkpoint", functools.partial(Checkpoint, every=0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        yield pools


def half_done(path):
    """Whether the file holds some epochs; a reader never sees half of it."""
    return path.exists() and len(torch.load(path)["state"]["histories"][0][0]) > 5


@contextmanager
def killing(path, pools):
    """Kills the first worker when it has done some epochs."""

    def kill():
        until(lambda: half_done(path))
        (worker,) = pools[0]._processes.values()
        worker.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    yield
    killer.join()
    assert len(pools) == 2


def test_a_run_whose_process_is_killed_goes_on_where_it_was(store, often):
    with killing(store.checkpoint(LONG), often):
        assert grid.run([LONG], store, jobs=1) == grid.Outcome(1, 0, 0)
    record = store.load(LONG)
    assert record.provenance["sittings"] == 2 and numbers(record) == numbers(grid.perform(LONG))
    assert not store.checkpoint(LONG).exists()


def test_a_run_longer_than_the_budget_is_finished_in_several_calls(store, often):
    calls = 0
    while store.load(LONG) is None and calls < 50:
        assert grid.run([LONG], store, jobs=1, budget=1.0).left in (0, 1)
        calls += 1
    record = store.load(LONG)
    assert 1 < record.provenance["sittings"] <= calls < 50 and numbers(record) == numbers(grid.perform(LONG))
    assert record.provenance["seconds"] >= record.epochs[-1]["seconds"] > record.epochs[-2]["seconds"]


def test_a_stack_keeps_its_state_until_its_last_record_is_saved(store, often, monkeypatch):
    configs = [replace(DENSE, seed=seed, epochs=20) for seed in (0, 1)]
    there = []
    real = Store.save

    def save(self, record):
        there.append(store.checkpoint(configs[1]).exists())
        real(self, record)

    monkeypatch.setattr(Store, "save", save)
    with killing(store.checkpoint(configs[1]), often):
        assert grid.run(configs, store, jobs=1, stack=2) == grid.Outcome(2, 0, 0)
    assert there == [True, True] and not list(store.folder.glob("*.checkpoint"))
    for config, history in zip(configs, stacked.train(configs), strict=True):
        record = store.load(config)
        assert record.provenance["sittings"] == 2 and record.provenance["stacked"] == 2
        assert outcome([replace(history, epochs=record.epochs)]) == outcome([history])


def test_a_worker_that_does_not_reach_the_store_keeps_nothing(tmp_path):
    away = tmp_path / "elsewhere" / "run.checkpoint"
    (made,) = grid.perform_task((replace(DENSE, epochs=1),), keep=away)
    assert "sittings" not in made.provenance and not away.parent.exists()


def test_a_checkpoint_is_no_record(store):
    store.folder.mkdir()
    stopped(store.checkpoint(DENSE))
    assert list(store.records()) == [] and store.load(DENSE) is None and store.leftovers() == {}
    other = Store(store.folder.parent / "other")
    merged = other.merge(store.folder)
    assert (merged.new, merged.refused) == ([], {})
