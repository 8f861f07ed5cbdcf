"""The page that trains in the browser: its mathematics and its images are the package's, and its controls do what they say."""

import importlib.util
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from asym import nets
from asym.config import last
from asym.measures import Probe
from asym.rules import RULES

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "book/train_live.md"
LIVE = ROOT / "book/_extra/live"
MARKUP = re.search(r"```\{raw\} html\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
SCRIPTS = re.findall(r'src="live/([\w.]+)"', MARKUP)
KEYS = ("bp", "fa", "shared_update", "kp", "usf", "dfa")
LIMIT = 150_000  # bytes of all that the page loads of its own
INPUTS, CLASSES, WIDTH, N, STEPS, RATE = 6, 4, 7, 10, 4, 0.02

# The nets of a rule, given what the reference gave them, after the same batches
TRAINED = """({ sizes, rule, activation, weights, feedback, batches, rate }) => {
    const { Net, accuracy } = Live.network;
    const net = new Net(sizes, { rule, activation, seed: "1" });
    net.layers.forEach((layer, l) => {
        layer.weight.set(weights[l]);
        if (feedback[l]) layer.feedback.set(feedback[l]);
    });
    const [{ images, labels }] = batches;
    const measures = [net.measure(images, labels)];
    const losses = batches.map((batch) => net.train(Float64Array.from(batch.images), batch.labels, rate));
    measures.push(net.measure(images, labels));
    const layers = net.layers.map(({ weight, feedback }) => ({ weight: [...weight], feedback: feedback && [...feedback] }));
    return { layers, losses, measures, accuracy: accuracy(net.scores(images, labels.length), labels) };
}"""


@pytest.fixture(scope="module")
def mathematics(browser):
    """A blank page that has the scripts but for what is shown."""
    page = browser.new_page()
    for name in SCRIPTS:
        if name not in ("drawing.js", "page.js"):
            page.add_script_tag(path=LIVE / name)
    yield page
    page.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page's own part, in a document of its own beside its files."""
    folder = tmp_path_factory.mktemp("live")
    shutil.copytree(LIVE, folder / "live")
    (folder / "page.html").write_text(f'<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8">{MARKUP}')
    return (folder / "page.html").as_uri()


@pytest.fixture
def page(browser, address):
    page, faults, asked = browser.new_page(), [], []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    page.close()
    assert faults == [] and len(asked) == len(SCRIPTS) + 2  # the document and its style
    assert all(url.startswith(address.removesuffix("page.html")) for url in asked)


# --- the data -------------------------------------------------------------------------------------------------------------------


def test_the_images_are_those_of_the_package():
    spec = importlib.util.spec_from_file_location("live_images", ROOT / "book/live_images.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.FILE.read_text() == made.script(), "run python book/live_images.py"


def test_everything_is_small():
    assert sum(path.stat().st_size for path in LIVE.iterdir()) + len(MARKUP) < LIMIT
    assert {path.name for path in LIVE.iterdir()} == {*SCRIPTS, "live.css"}


def test_the_tasks_are_what_they_say(mathematics):
    tasks = mathematics.evaluate("""() => Object.values(Live.tasks.TASKS).map(({ inputs, classes, train, test, shown }) => ({
        inputs, classes, shown: shown.length, parts: [train, test].map(({ images, labels }) => [[...images], [...labels]]) }))""")
    for task in tasks:
        for images, labels in task["parts"]:
            assert len(images) == task["inputs"] * len(labels)
            counts = torch.bincount(torch.tensor(labels))
            assert len(counts) == task["classes"] and len(set(counts.tolist())) == 1
        assert task["shown"] % task["inputs"] == 0
    clothing = torch.tensor(tasks[1]["parts"][0][0], dtype=torch.float64)
    assert clothing.mean().abs() < 1e-12 and abs(clothing.std(correction=0) - 1) < 1e-12


def test_an_epoch_shows_every_example_once(mathematics):
    seen = mathematics.evaluate("""() => {
        const images = Float64Array.from({ length: 24 }, (_, i) => i), labels = Uint8Array.from({ length: 12 }, (_, n) => n);
        const batches = new Live.tasks.Batches({ images, labels }, 4, Live.network.stream("1", "order"));
        return [...Array(6)].map(() => batches.next()).map(({ images, labels }) => [[...images], [...labels]]);
    }""")
    assert all(images == [x for n in labels for x in (2 * n, 2 * n + 1)] for images, labels in seen)
    epochs = [[n for _, labels in seen[at : at + 3] for n in labels] for at in (0, 3)]
    assert epochs[0] != epochs[1] and [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2


# --- the mathematics ------------------------------------------------------------------------------------------------------------


def reference(rule, activation, depth):
    """The package's net, its batches, its optimiser and, of each layer but the first, the B that it uses."""
    rules = last(rule, depth, depth + 1)
    net = nets.dense((1, 1, INPUTS), CLASSES, rules, hidden=(WIDTH,) * depth, activation=activation, seed=depth).double()
    generator = torch.Generator().manual_seed(depth)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    batches = [(draw(N, 1, 1, INPUTS), torch.randint(CLASSES, (N,), generator=generator)) for _ in range(STEPS)]
    feedback = [layer.feedback for layer in net.layers[1:]] if not net.direct else [d.feedback for d in net.direct.values()]
    return net, batches, [None, *feedback]


def flat(tensor):
    return None if tensor is None else tensor.detach().flatten().tolist()


def close(found, expected):
    found = torch.tensor([math.nan if value is None else value for value in found], dtype=torch.float64)
    expected = torch.as_tensor(expected, dtype=torch.float64).detach().flatten()
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8, equal_nan=True)


@pytest.mark.parametrize("depth", [1, 3, 5])
@pytest.mark.parametrize("activation", nets.ACTIVATIONS)
@pytest.mark.parametrize("rule", KEYS)
def test_a_net_learns_as_the_packages_does(mathematics, monkeypatch, rule, activation, depth):
    monkeypatch.setenv("ASYM_GEMM", "stock")
    net, batches, feedback = reference(rule, activation, depth)
    started = [flat(layer.weight) for layer in net.layers]
    found = mathematics.evaluate(
        TRAINED,
        {
            "sizes": [INPUTS, *(WIDTH,) * depth, CLASSES], "rule": rule, "activation": activation, "rate": RATE,
            "weights": started, "feedback": list(map(flat, feedback)),
            "batches": [{"images": flat(x), "labels": y.tolist()} for x, y in batches],
        },
    )  # fmt: skip
    probe = Probe(net, *batches[0], F.cross_entropy, [nets.ACTIVATIONS[activation]()] * depth)
    measured, losses = [probe.measure()], []
    decay = mathematics.evaluate("(rule) => Live.network.RULES[rule].decay ?? 0", rule)
    assert (decay > 0) == RULES[rule].needs_decay
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=decay)
    for images, labels in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    measured.append(probe.measure())
    close(found["losses"], losses)
    for layer, weight, old, b in zip(found["layers"], (layer.weight for layer in net.layers), started, feedback, strict=True):
        assert flat(weight) != old
        close(layer["weight"], weight)
        assert (layer["feedback"] is None) == (b is None)
        if b is not None:
            close(layer["feedback"], b)
    for ours, theirs in zip(found["measures"], measured, strict=True):
        close(ours["weight"][1:], theirs["weight_angle"][1:])
        close(ours["gradient"], theirs["gradient_angle"])
    images, labels = batches[0]
    assert found["accuracy"] == (net(images).argmax(1) == labels).double().mean().item()


def test_what_the_page_offers_is_what_the_mathematics_has(mathematics):
    offered = re.findall(r'<option value="(\w+)" data-equation="([^"]+)"', MARKUP)
    assert offered == [(key, RULES[key].equation) for key in KEYS] * 2
    assert mathematics.evaluate("Object.keys(Live.network.RULES).sort()") == sorted(KEYS)
    nonlinearities = re.search(r'name="activation">(.*?)</select>', MARKUP, re.DOTALL)[1]
    assert re.findall(r"<option[^>]*>(\w+)", nonlinearities) == list(nets.ACTIVATIONS)
    assert mathematics.evaluate("Object.keys(Live.network.ACTIVATIONS)") == list(nets.ACTIVATIONS)


def test_every_rule_starts_from_the_same_glorot_weights(mathematics):
    drawn = mathematics.evaluate(
        """(rules) => rules.map((rule) => {
            const { layers } = new Live.network.Net([100, 40, 40, 10], { rule, activation: "relu", seed: "3" });
            const listed = (values) => values && [...values];
            return layers.map((layer) => ({ ...layer, weight: listed(layer.weight), feedback: listed(layer.feedback) }));
        })""",
        list(KEYS),
    )
    nets_ = dict(zip(KEYS, drawn, strict=True))
    assert len({str([layer["weight"] for layer in net]) for net in drawn}) == 1
    assert len({str([layer["feedback"] for layer in nets_[key]]) for key in ("fa", "shared_update", "kp")}) == 1
    assert nets_["dfa"][-1]["feedback"] == nets_["fa"][-1]["feedback"]  # there the two rules are one
    for layer in nets_["fa"][1:] + nets_["bp"]:
        for values in filter(None, (layer["weight"], layer["feedback"])):
            values, bound = torch.tensor(values, dtype=torch.float64), math.sqrt(6 / (layer["inputs"] + layer["outputs"]))
            assert values.abs().max() <= bound and values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
            assert values.mean().abs() < 4 * values.std() / math.sqrt(len(values))
    for layer in nets_["fa"][1:]:
        w, b = (torch.tensor(layer[name], dtype=torch.float64) for name in ("weight", "feedback"))
        assert F.cosine_similarity(w, b, 0).abs() < 0.2


PAIR = """([settings, steps]) => {
    const pair = new Live.pair.Pair({ task: "spirals", depth: 2, activation: "tanh", seed: "1", ...settings });
    const sights = [];
    for (const count of [0, ...steps]) {
        const pieces = pair.work(count, 0.01);
        while (!pieces.next().done);
        sights.push(pair.latest);
    }
    return sights;
}"""


def same(sights):
    return [str(sight["nets"][0]) == str(sight["nets"][1]) for sight in sights]


def test_two_nets_of_one_rule_are_one(mathematics):
    for rule in KEYS:
        assert all(same(mathematics.evaluate(PAIR, [{"rules": [rule, rule]}, [5]]))), rule
    other = mathematics.evaluate(PAIR, [{"rules": ["bp", "fa"]}, [5]])
    assert other[0]["nets"][0]["accuracy"] == other[0]["nets"][1]["accuracy"] and not same(other)[1]


def test_with_one_hidden_layer_direct_feedback_is_feedback_alignment(mathematics):
    for depth, expected in ((1, True), (2, False)):
        sights = mathematics.evaluate(PAIR, [{"rules": ["fa", "dfa"], "depth": depth}, [20]])
        (fa, dfa) = sights[-1]["nets"]
        assert (fa["gradient"] == dfa["gradient"] and fa["loss"] == dfa["loss"]) == expected


def test_the_curves_keep_the_start_the_present_and_a_bounded_number_between(mathematics):
    steps, lengths = mathematics.evaluate("""() => {
        const pair = new Live.pair.Pair({ task: "spirals", depth: 1, activation: "relu", seed: "1", rules: ["bp", "fa"] });
        const lengths = [];
        for (let step = 0; step < 2000; step++) {
            pair.keep({ step });
            lengths.push(pair.history.length);
        }
        return [pair.history.map(({ step }) => step), lengths];
    }""")
    assert lengths[:300] == list(range(1, 301)) and max(lengths) <= 302 and min(lengths[300:]) > 150
    gaps = {after - before for before, after in zip(steps[:-2], steps[1:-1], strict=True)}
    assert steps[0] == 0 and steps[-1] == 1999 and gaps == {8}


# --- what the prose says --------------------------------------------------------------------------------------------------------

DEEP = {"task": "clothing", "depth": 5, "activation": "relu"}
SEEDS = ("1", "2", "3")


def run(mathematics, rules, *steps, **settings):
    """The two nets at each of these steps, the first of them before any."""
    spans = [after - before for before, after in zip((0, *steps), steps, strict=False)]
    return [sight["nets"] for sight in mathematics.evaluate(PAIR, [{"rules": rules, **settings}, spans])]


def said(*texts):
    prose = " ".join(PAGE.read_text().replace(MARKUP, "").split())
    assert all(text in prose for text in texts), [text for text in texts if text not in prose]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_last_weight_turns_towards_its_feedback(mathematics, seed):
    said("By step 500 both nets have more than 90 %", "layer 3 began near 90° and is below 70°")
    said("layer 2 falls by a few degrees only", "less than 90° to it")
    (_, before), (bp, fa) = run(mathematics, ["bp", "fa"], 500, seed=seed)
    assert bp["accuracy"] > 0.9 and fa["accuracy"] > 0.9
    assert abs(before["weight"][2] - 90) < 10 and fa["weight"][2] < 70
    assert 0 < before["weight"][1] - fa["weight"][1] < 10
    assert all(10 < angle < 90 for angle in fa["gradient"][:2])


@pytest.mark.parametrize("seed", SEEDS)
def test_feedback_that_decays_becomes_the_weight(mathematics, seed):
    said("By step 1000 both of its angles are below 20°", "they stop at more than 20°")
    _, (kp, shared) = run(mathematics, ["kp", "shared_update"], 1000, seed=seed)
    assert max(kp["weight"][1:]) < 20 < min(shared["weight"][1:])
    assert max(kp["gradient"]) < 15


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_five_random_matrices_in_a_row_are_slow_and_five_of_signs_are_not(mathematics, seed):
    said("By step 200 net A has more than 70 %", "with `fa`, less than 50 %", "by step 200 it has more than 60 %")
    _, (bp, fa) = run(mathematics, ["bp", "fa"], 200, seed=seed, **DEEP)
    _, (usf, _) = run(mathematics, ["usf", "usf"], 200, seed=seed, **DEEP)
    assert bp["accuracy"] > 0.7 and fa["accuracy"] < 0.5 and usf["accuracy"] > 0.6


def test_the_sizes_in_the_prose_are_those_of_the_scripts(mathematics):
    sizes = mathematics.evaluate("""() => {
        const { pair, network, tasks: { TASKS: { spirals, clothing } } } = Live;
        const count = ({ labels }) => labels.length;
        return { hidden: pair.HIDDEN, batch: pair.BATCH, probe: pair.PROBE, decay: network.RULES.kp.decay, side: clothing.side,
            points: count(spirals.train), train: count(clothing.train), test: count(clothing.test) };
    }""")
    assert sizes["probe"] == 100
    said(
        "first hundred training examples", f"{sizes['hidden']} units", f"{sizes['batch']} examples",
        f"{sizes['points']} made points",
        f"{sizes['train']:,} training and {sizes['test']} test images", f"{sizes['side']} × {sizes['side']} pixels",
        f"decoupled weight decay of {sizes['decay']} for `kp`",
    )  # fmt: skip
    speeds = re.search(r'name="steps">(.*?)</select>', MARKUP, re.DOTALL)[1]
    said("between two pictures: {}, {} or {}".format(*re.findall(r'value="(\d+)"', speeds)))


# --- the page -------------------------------------------------------------------------------------------------------------------


def step(page):
    return int(page.inner_text("#live-count").removeprefix("step "))


def pixels(page, name):
    return page.evaluate("(id) => document.getElementById(id).toDataURL()", f"live-{name}")


def numbers(page):
    return page.eval_on_selector_all("td", "cells => cells.map((cell) => cell.textContent)")


def moved(page, beyond):
    page.wait_for_function("(n) => Number(document.getElementById('live-count').textContent.slice(5)) > n", arg=beyond)


def test_the_keyboard_starts_pauses_steps_and_resets(page):
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.name || document.activeElement.id"))
    buttons = ["live-run", "live-step", "live-reset"]
    assert reached[:11] == ["task", "depth", "activation", "rate", "steps", "seed", *buttons, "rule-a", "rule-b"]
    first = numbers(page)
    page.focus("#live-run")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Space")
    assert page.inner_text("#live-run") == "Pause" and "Running at step 0" in page.inner_text("#live-status")
    moved(page, 8)
    page.keyboard.press("Enter")
    paused = step(page)
    assert page.inner_text("#live-run") == "Start" and f"Paused at step {paused}." in page.inner_text("#live-status")
    page.focus("#live-step")
    page.keyboard.press("Enter")
    assert step(page) == paused + 1 and numbers(page) != first
    page.focus("#live-reset")
    page.keyboard.press("Enter")
    assert step(page) == 0 and numbers(page) == first and "new" in page.inner_text("#live-status")


def test_a_step_is_the_same_whether_made_alone_or_running(page):
    page.click("#live-run")
    moved(page, 8)
    page.click("#live-run")
    ran, count = numbers(page), step(page)
    page.click("#live-reset")
    for _ in range(count):
        page.click("#live-step")
    assert step(page) == count and numbers(page) == ran


def test_a_change_starts_both_nets_anew_but_the_learning_rate_and_the_speed_do_not(page):
    page.click("#live-step")
    page.select_option("[name=rate]", "0.03")
    page.select_option("[name=steps]", "16")
    assert step(page) == 1
    for name, value in (("task", "clothing"), ("depth", "5"), ("activation", "relu"), ("rule-b", "dfa")):
        page.select_option(f"[name={name}]", value)
        assert step(page) == 0, name
        page.click("#live-step")
    assert page.inner_text("#live-equation-b") == RULES["dfa"].equation
    accuracy, loss, weight, gradient = (numbers(page)[row : row + 2] for row in (0, 2, 4, 6))
    assert weight == [", ".join(["0°"] * 5), ", ".join(["none"] * 5)] and gradient[0] == weight[0]
    assert all(text.endswith(" %") for text in accuracy) and all(float(text) > 0 for text in loss)
    page.click("#live-run")
    page.select_option("[name=rule-b]", "kp")  # while they run
    moved(page, 0)
    assert page.inner_text("#live-run") == "Pause"


@pytest.mark.parametrize("seed", ["", "0", "1.5", "100000"])
def test_a_seed_that_is_none_becomes_the_first(page, seed):
    first = numbers(page)
    page.fill("[name=seed]", "7")
    page.keyboard.press("Tab")
    assert numbers(page) != first
    page.fill("[name=seed]", seed)
    page.keyboard.press("Tab")
    assert page.input_value("[name=seed]") == "1" and numbers(page) == first


def test_every_picture_is_named_in_words_that_follow_it(page):
    names = lambda: page.eval_on_selector_all("canvas[role=img]", "all => all.map((canvas) => canvas.getAttribute('aria-label'))")
    before = names()
    assert len(before) == page.locator("canvas").count() == 10
    page.click("#live-step")
    after = names()
    assert all("step 0" in name for name in before) and all("step 1" in name for name in after)
    cells = numbers(page)
    for cell in cells:
        assert any(cell in name for name in after), cell


def test_pictures_take_the_colours_of_the_theme(page):
    names = page.eval_on_selector_all("canvas", "all => all.map((canvas) => canvas.id.slice(5))")
    light = {name: pixels(page, name) for name in names}
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_function("(old) => document.getElementById('live-loss').toDataURL() !== old", arg=light["loss"])
    assert all(pixels(page, name) != old for name, old in light.items())


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_and_letters_stand_out_from_the_ground(page, theme):
    page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
    colours = page.evaluate("Live.drawing.palette(document.getElementById('live-root'))")
    ground = luminance(colours["ground"])
    for colour in (colours["text"], *colours["nets"], *colours["classes"]):
        brighter, darker = sorted((ground, luminance(colour)), reverse=True)
        assert (brighter + 0.05) / (darker + 0.05) >= 4.5, colour


def test_who_asks_for_less_motion_gets_few_pictures_and_all_steps(page):
    count = """async () => {
        const { drawing } = Live;
        const { surface } = drawing;
        let drawn = 0;
        drawing.surface = (...all) => { drawn += 1; surface(...all); };
        const start = performance.now();
        document.getElementById("live-run").click();
        await new Promise((done) => setTimeout(done, 2500));
        drawing.surface = surface;
        const seconds = (performance.now() - start) / 1000;
        document.getElementById("live-run").click();
        return [drawn / 2, seconds];
    }"""
    page.emulate_media(reduced_motion="reduce")
    calm, seconds = page.evaluate(count)
    assert 1 <= calm <= seconds + 1 and step(page) > 4 * (seconds + 1)
    page.emulate_media(reduced_motion="no-preference")
    lively, seconds = page.evaluate(count)
    assert lively > seconds + 1
