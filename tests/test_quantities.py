"""Quantities: one value a seed, paired by seed, at the epoch that is asked for or the last that both sides reached."""

import math
import statistics
from dataclasses import replace
from functools import partial

import pytest
from made import record

from asym.cells import cell
from asym.quantities import Evidence, accuracy, best_epoch, chosen, diverged, jumps, level, measure, overfit, stopped


def run(network, reached=0.5, *, seed=0, epochs=10, part="a", planned=None, made=None, **options):
    """A cell and its made-up run; planned: what the plan asks for instead of what is run; made: options of the record."""
    asked = cell(part, network, seed=seed, epochs=epochs, **options)
    if planned:
        asked = replace(asked, plan=replace(asked.config, **planned))
    return asked, record(asked.config, reached, **(made or {}))


def told(name, quantity, *found):
    return {seed: getattr(value, name) for seed, value in quantity.of(Evidence(found)).items()}


values, whole = partial(told, "value"), partial(told, "whole")


# --- what is read ---------------------------------------------------------------------------------------------------------------


def test_an_accuracy_has_one_value_a_seed_in_percent():
    found = [run("DS0", reached, seed=seed) for seed, reached in ((3, 0.5), (0, 0.25))]
    assert values(accuracy("a", "DS0"), *found) == {3: 50, 0: 25}
    assert values(accuracy("a", "DS0", epoch=4), *found) == {3: 20, 0: 10}
    assert values(accuracy("a", "DS0", epoch=0), *found) == {3: 0, 0: 0}


def test_another_part_another_network_and_nothing_at_all_give_nothing():
    found = [run("DS0"), run("DS0", part="b"), run("DSR1")]
    assert values(accuracy("a", "DSR2"), *found) == values(accuracy("c", "DS0"), *found) == values(accuracy("a", "DS0")) == {}


@pytest.mark.parametrize(
    "name, value, other", [("loss", "hinge", "ce"), ("activation", "tanh", "relu"), ("optimizer", "sgd", "adam")]
)
def test_fields_tell_networks_of_one_name_apart_and_without_them_it_is_refused(name, value, other):
    found = [run("DS0", 0.5, **{name: other}), run("DS0", 0.25, **{name: value})]
    assert values(accuracy("a", "DS0", **{name: value}), *found) == {0: 25}
    assert values(accuracy("a", "DS0", **{name: other}), *found) == {0: 50}
    with pytest.raises(ValueError, match="DS0 of a is several networks; say which by loss, activation, optimizer"):
        values(accuracy("a", "DS0"), *found)


def test_a_measure_is_read_at_its_layer_shares_in_percent():
    found = [run("DSR2", epochs=4)]
    assert values(measure("weight_angle", "a", "DSR2", 3), *found) == {0: 34}
    assert values(measure("weight_angle", "a", "DSR2", 2, epoch=0), *found) == {0: 20}
    assert values(measure("idle", "a", "DSR2", 1, loss="ce"), *found) == {0: 1400}
    assert [measure(name, "a", "DSR2", 1).unit for name in ("weight_angle", "idle", "sign_agreement", "drift")] == [
        "°",
        "%",
        "%",
        "",
    ]


def test_a_measure_that_is_not_a_number_is_no_value():
    asked, made = run("DSR1", epochs=2)
    made.epochs[-1]["drift"][2] = math.nan
    assert values(measure("drift", "a", "DSR1", 3), (asked, made)) == {}
    assert values(measure("drift", "a", "DSR1", 3, epoch=1), (asked, made)) == {0: 31}


def test_overfitting_is_training_minus_test_accuracy():
    assert values(overfit("a", "DS0"), run("DS0", 0.25)) == {0: 25}
    assert values(overfit("a", "DS0", epoch=4), run("DS0", 0.25)) == {0: 10}


def test_the_text_says_what_is_read():
    assert accuracy("table 2", "DS0", loss="ce", epoch=7).text == "test_accuracy(table 2, DS0, ce, epoch 7)"
    assert measure("drift", "dense", "DSR2-U", 3).text == "drift(dense, DSR2-U, 3, last epoch)"
    minus = accuracy("a", "DSR1") - accuracy("a", "DS0")
    assert minus.text == "test_accuracy(a, DSR1, last epoch) - test_accuracy(a, DS0, last epoch)" and minus.unit == "points"
    assert (minus - minus).text == f"{minus.text} - ({minus.text})"


# --- diverged runs --------------------------------------------------------------------------------------------------------------


def test_a_diverged_run_stands_with_its_last_row_and_is_whole():
    found = [run("DS0", seed=0), run("DS0", seed=1, made={"diverged_at": 3})]
    assert values(accuracy("a", "DS0"), *found) == {0: 50, 1: 10}
    assert values(accuracy("a", "DS0", epoch=2), *found) == {0: 10, 1: pytest.approx(10)}  # before it diverged: 0.5 * 2 / 10
    assert whole(accuracy("a", "DS0"), *found) == {0: True, 1: True}


def test_how_many_runs_diverge():
    found = [run("DS0", seed=seed, made={"diverged_at": 3} if seed else None) for seed in range(3)]
    assert values(diverged("a", "DS0"), *found) == {0: 0, 1: 1, 2: 1} and diverged("a", "DS0").unit == "runs"


def test_the_jumps_are_the_deviation_over_the_last_epochs():
    """The made-up runs grow evenly, so that it is that of so many successive whole numbers; the start is no epoch."""
    found = [run("DS0", 0.5, seed=0, epochs=30), run("DS0", 0.25, seed=1, epochs=30)]
    step = statistics.stdev(range(20)) * 50 / 30
    assert values(jumps("a", "DS0"), *found) == {0: pytest.approx(step), 1: pytest.approx(step / 2)}
    assert values(jumps("a", "DS0"), run("DS0", epochs=20)) == {0: pytest.approx(statistics.stdev(range(20)) * 2.5)}
    assert values(jumps("a", "DS0"), run("DS0", epochs=19)) == {}  # of a short run most is the rise at its beginning
    assert values(jumps("a", "DS0"), run("DS0", epochs=30, made={"diverged_at": 9})) == {}
    lost = [*found, run("DS0", seed=2, epochs=30, made={"diverged_at": 25})]  # the survivors alone tell less than was asked
    assert values(jumps("a", "DS0"), *lost).keys() == {0, 1} and not any(whole(jumps("a", "DS0"), *lost).values())
    last = [*found, run("DS0", seed=2, epochs=30, made={"diverged_at": 30})]
    assert values(jumps("a", "DS0"), *last).keys() == {0, 1, 2} and all(whole(jumps("a", "DS0"), *last).values())
    short = run("DS0", epochs=20, planned={"epochs": 30})
    assert whole(jumps("a", "DS0"), short) == {0: False} and whole(jumps("a", "DS0"), *found) == {0: True, 1: True}


def test_the_level_is_the_mean_over_the_last_epochs():
    found = [run("DS0", 0.5, seed=0, epochs=30), run("DS0", 0.25, seed=1, epochs=30)]
    mean = statistics.mean(range(11, 31)) * 50 / 30
    assert values(level("a", "DS0"), *found) == {0: pytest.approx(mean), 1: pytest.approx(mean / 2)}
    assert values(level("a", "DS0"), run("DS0", epochs=19)) == {} and level("a", "DS0").unit == "points"
    earlier = statistics.mean(range(6, 26)) * 50 / 30
    assert values(level("a", "DS0", epoch=25), *found) == {0: pytest.approx(earlier), 1: pytest.approx(earlier / 2)}
    rise = level("a", "DS0", epoch=30) - level("a", "DS0", epoch=25)
    assert values(rise, *found) == {0: pytest.approx(mean - earlier), 1: pytest.approx((mean - earlier) / 2)}


@pytest.mark.parametrize("at", [9, 25])
def test_a_run_that_diverged_counts_in_a_level_as_it_ended(at):
    guess = run("DS0", 0.5, seed=2, epochs=30, made={"diverged_at": at})
    accuracies = {row["epoch"]: 100 * row["test_accuracy"] for row in guess[1].epochs}
    expected = statistics.mean(accuracies[min(epoch, at)] for epoch in range(11, 31))
    assert values(level("a", "DS0"), guess) == {2: pytest.approx(expected)} and whole(level("a", "DS0"), guess) == {2: True}


def test_the_best_epoch_is_the_largest_accuracy_up_to_where_both_sides_are_read():
    best, guess = best_epoch("a", "DS0"), run("DS0", 0.2, seed=1, epochs=10, made={"diverged_at": 9})
    assert values(best, run("DS0", 0.5, epochs=10), guess) == {0: 50, 1: pytest.approx(16)} and best.unit == "points"
    falling = run("DS0", 0.5, epochs=10)
    falling[1].epochs[-1]["test_accuracy"] = 0.1
    assert values(best, falling) == {0: 45} and values(accuracy("a", "DS0"), falling) == {0: 10}
    shorter = run("DSR1", 0.4, epochs=4, planned={"epochs": 10})  # where the longer one has 20 %
    assert values(best_epoch("a", "DSR1") - best, falling, shorter) == {0: pytest.approx(20)}
    assert whole(best, run("DS0", epochs=4, planned={"epochs": 10})) == {0: False}


def test_runs_of_two_copies_of_the_data_say_so_and_have_no_difference():
    found = [run(network, seed=seed) for network in ("DS0", "DSR1") for seed in (0, 1)]
    for (_, made), copy in zip(found, ("a" * 64, "a" * 64, "a" * 64, "b" * 64), strict=True):
        made.provenance["data_fingerprint"] = copy
    change = accuracy("a", "DSR1") - accuracy("a", "DS0")
    assert values(change, *found) == {0: 0} and values(change, *found[::2]) == {0: 0}
    said = partial(told, "data", accuracy("a", "DSR1"))
    alone = "cifar10, batch 500"
    assert said(*found) == {0: f"{alone}, copy aaaaaaaa", 1: f"{alone}, copy bbbbbbbb"} and said(*found[:3]) == {0: alone}
    del found[0][1].provenance["data_fingerprint"]
    assert values(change, *found) == {} and values(accuracy("a", "DS0"), *found) == {0: 50, 1: 50}


def test_a_run_in_bf16_says_so_is_whole_and_has_no_difference_from_one_in_fp32():
    half, full = (run("DSR2", precision="bf16", planned={"precision": "fp32"}), run("DS0"))
    alone = accuracy("a", "DSR2")
    assert told("data", alone, half) == {0: "cifar10, batch 500, in bf16"} and whole(alone, half) == {0: True}
    difference = accuracy("a", "DSR2") - accuracy("a", "DS0")
    assert values(difference, half, full) == {} and values(difference, half, run("DS0", precision="bf16")) == {0: 0}


def test_a_quantity_tells_data_and_epochs():
    found = [run("DS0"), run("DSR1")]
    read = lambda quantity: [*told("epochs", quantity, *found).values()]
    last = read(accuracy("a", "DS0"))[0]
    assert read(accuracy("a", "DS0", epoch=1)) == ["1"] and read(accuracy("a", "DSR1") - accuracy("a", "DS0")) == [last]
    assert read(accuracy("a", "DSR1") - accuracy("a", "DS0", epoch=1)) == [f"{last} and 1"]


def test_a_difference_is_moved_by_the_stand_ins_of_all_that_it_reads():
    found = [run(network) for network in ("DS0", "DSR1", "DSR2")]
    found[0][1].provenance["data_note"] = found[1][1].provenance["data_note"] = "3 stand-in images (1 train, 2 test)"
    moved = lambda quantity: [*told("doubt", quantity, *found).values()]
    control, one, two = (accuracy("a", network) for network in ("DS0", "DSR1", "DSR2"))
    assert moved(control) == moved(two - control) == [pytest.approx(0.02)] and moved(two) == [0]
    assert moved(one - control) == [pytest.approx(0.04)] and moved((one - control) - (two - control)) == [pytest.approx(0.06)]
    assert moved(level("a", "DS0")) == [] and moved(measure("weight_angle", "a", "DS0", 1)) == [0]


def test_a_deviation_is_moved_most_where_half_of_its_epochs_rise_and_half_fall():
    asked, made = run("DS0", 0, epochs=20)
    made.provenance["data_note"] = "3 stand-in images (1 train, 2 test)"
    (value,) = jumps("a", "DS0").of(Evidence([(asked, made)])).values()
    worst = statistics.stdev([0.02, -0.02] * 10)
    assert value.value == 0 and value.doubt == pytest.approx(worst)
    (value,) = level("a", "DS0").of(Evidence([(asked, made)])).values()
    assert value.doubt == pytest.approx(0.02)


def test_a_run_that_diverged_is_paired_like_any_other():
    found = [run("DSR1", made={"diverged_at": 1}), run("DS0", 0.5)]
    assert values(accuracy("a", "DSR1") - accuracy("a", "DS0"), *found) == {0: -40}


# --- differences ----------------------------------------------------------------------------------------------------------------


def test_a_difference_is_taken_seed_by_seed():
    found = [run("DSR1", reached, seed=seed) for seed, reached in ((0, 0.3), (1, 0.4), (2, 0.5))]
    found += [run("DS0", reached, seed=seed) for seed, reached in ((2, 0.1), (1, 0.2), (7, 0.9))]
    assert values(accuracy("a", "DSR1") - accuracy("a", "DS0"), *found) == {1: pytest.approx(20), 2: pytest.approx(40)}


def test_a_difference_with_a_side_that_has_not_run_is_empty():
    for minus in (accuracy("a", "DSR1") - accuracy("a", "DS0"), accuracy("a", "DS0") - accuracy("a", "DSR1")):
        assert values(minus, run("DS0")) == {}


@pytest.mark.parametrize(
    "other", [{"dataset": "mnist"}, {"subset": 5000}, {"test_subset": 500}, {"validation": 5000}, {"batch": 100}]
)
def test_runs_of_different_data_have_no_difference(other):
    quantity, control = accuracy("a", "DSR1") - accuracy("a", "DS0"), [run("DS0", 0.5, seed=seed) for seed in (0, 1)]
    assert values(quantity, *control, run("DSR1", 0.4, seed=0), run("DSR1", 0.4, seed=1, **other)) == {0: pytest.approx(-10)}
    assert values(quantity, *control, run("DSR1", 0.4, seed=1, **other)) == {}


def test_a_difference_is_read_at_the_last_epoch_that_both_sides_reached():
    longer = run("DSR1", 0.5, epochs=10, planned={"epochs": 100})
    shorter = run("DS0", 0.2, epochs=4, planned={"epochs": 100})
    minus = accuracy("a", "DSR1") - accuracy("a", "DS0")
    assert values(minus, longer, shorter) == {0: pytest.approx(20 - 20)}  # 0.5 * 4 / 10 and 0.2
    assert whole(minus, longer, shorter) == {0: False}
    early = accuracy("a", "DSR1", epoch=2) - accuracy("a", "DS0", epoch=2)
    assert values(early, longer, shorter) == {0: pytest.approx(10 - 10)} and whole(early, longer, shorter) == {0: True}


def test_a_difference_is_whole_where_both_sides_are():
    minus = accuracy("a", "DSR1") - accuracy("a", "DS0")
    small = {"planned": {"subset": 1000}}
    assert whole(minus, run("DSR1", **small), run("DS0")) == whole(minus, run("DSR1"), run("DS0", **small)) == {0: False}
    assert whole(minus, run("DSR1"), run("DS0")) == {0: True}


def test_different_epochs_are_compared_only_where_both_are_reached():
    """Epoch 8 of 10 beside the last of 4: each is read at its own, or not at all."""
    minus = accuracy("a", "DSR1", epoch=8) - accuracy("a", "DS0")
    assert values(minus, run("DSR1", 0.5), run("DS0", 0.2, epochs=4)) == {0: pytest.approx(40 - 20)}
    assert whole(minus, run("DSR1", 0.5), run("DS0", 0.2, epochs=4)) == {0: True}
    short = run("DSR1", 0.5, epochs=4, planned={"epochs": 10})
    assert values(minus, short, run("DS0", 0.2, epochs=4)) == {}
    assert values(minus, run("DSR1", 0.5), run("DS0", 0.2, epochs=3, planned={"epochs": 4})) == {}


def test_a_difference_of_differences_is_read_where_all_four_are():
    found = [run("DSR1", 0.4, epochs=8), run("DS0", 0.8, epochs=8), run("DDR1", 0.2, epochs=4), run("DD0", 0.6, epochs=4)]
    found = [(replace(asked, plan=replace(asked.config, epochs=16)), made) for asked, made in found]
    dense = accuracy("a", "DSR1") - accuracy("a", "DS0")
    deep = accuracy("a", "DDR1") - accuracy("a", "DD0")
    assert values(dense - deep, *found) == {0: pytest.approx((20 - 40) - (20 - 60))}
    assert whole(dense - deep, *found) == {0: False}


# --- whole ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "planned, is_whole",
    [
        ({}, True),
        ({"seed": 5}, True),
        ({"epochs": 11}, False),
        ({"epochs": 9}, True),
        ({"dataset": "cifar100"}, False),
        ({"subset": 1000}, False),
        ({"test_subset": 1000}, False),
        ({"validation": 500}, False),
        ({"batch": 100}, False),
    ],
)
def test_only_runs_of_the_planned_data_and_epochs_are_whole(planned, is_whole):
    found = run("DS0", planned=planned | {"lr": 0.5})
    assert whole(accuracy("a", "DS0"), found) == {0: is_whole}
    both = accuracy("a", "DS0", epoch=9) - accuracy("a", "DSR1", epoch=9)
    at_nine = is_whole or planned == {"epochs": 11}
    assert whole(both, found, run("DSR1")) == {0: at_nine}


def test_each_seed_is_whole_by_itself():
    found = [run("DS0", seed=0), run("DS0", seed=1, planned={"subset": 1000})]
    assert whole(accuracy("a", "DS0"), *found) == {0: True, 1: False}


# --- chosen ---------------------------------------------------------------------------------------------------------------------


def candidates(**validation):
    """Networks with a validation accuracy a seed each; the test accuracy is the contrary of it."""
    return [
        run("DSR1", 1 - score, seed=seed, name=name, validation=5000, made={"validation": score})
        for name, scores in validation.items()
        for seed, score in enumerate(scores)
    ]


def test_the_choice_is_by_validation_and_not_by_test_accuracy():
    best = chosen("a", ["low", "high"])
    assert values(best, *candidates(low=[0.4, 0.4], high=[0.5, 0.6])) == pytest.approx({0: 50, 1: 40})
    assert best.text == "test_accuracy(a, that of [low; high] with the best validation_accuracy, last epoch)"


def test_the_choice_is_one_for_all_seeds_by_their_mean():
    assert values(chosen("a", ["x", "y"]), *candidates(x=[0.9, 0.1], y=[0.2, 0.7])) == pytest.approx({0: 10, 1: 90})  # 0.5, 0.45


def test_the_choice_is_among_what_has_run_and_whole_where_all_have():
    best = chosen("a", ["x", "y", "z"])
    assert values(best, *candidates(y=[0.3])) == pytest.approx({0: 70}) and whole(best, *candidates(y=[0.3])) == {0: False}
    found = candidates(x=[0.2, 0.2], y=[0.3, 0.3, 0.3], z=[0.1, 0.1])
    assert whole(best, *found) == {0: True, 1: True, 2: False}
    assert values(best) == {}


def test_what_held_out_images_stop_is_read_and_chosen_at_their_best_epoch():
    """Each with a peak of its own, the first of two equal ones, after which the test accuracy goes on rising to 80 %."""
    options = {"validation": 5000, "made": {"validation": 0.1}}
    found = [run("DSR1", 0.8, seed=seed, name=name, **options) for name in "xy" for seed in (0, 1)]
    peaks = {("x", 0): (2, 0.5), ("x", 1): (7, 0.5), ("y", 0): (3, 0.9), ("y", 1): (6, 0.2)}  # means 0.5 and 0.55
    for asked, made in found:
        epoch, score = peaks[asked.network, asked.config.seed]
        for row in made.epochs[epoch : epoch + 2]:
            row["validation_accuracy"] = score
    read = lambda quantity: values(quantity, *found)
    assert read(stopped("a", "x")) == pytest.approx({0: 16, 1: 56})
    assert read(stopped("a", "x", column="validation_accuracy")) == pytest.approx({0: 50, 1: 50})
    best = chosen("a", ["x", "y"], stopped)
    assert read(best) == read(stopped("a", "y")) == pytest.approx({0: 24, 1: 48})
    assert best.text.startswith("the epoch with the best validation_accuracy of test_accuracy(a, that of [x; y] with the best")


def test_chosen_networks_are_compared_seed_by_seed():
    minus = chosen("a", ["x", "y"]) - chosen("a", ["z"])
    assert values(minus, *candidates(x=[0.2, 0.2], y=[0.3, 0.4], z=[0.5])) == pytest.approx({0: 70 - 50})
