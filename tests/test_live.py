"""The page that trains in the browser: its mathematics is the package's, its data the package's images, and its controls do what they say."""

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
    const { Net } = Live.network;
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
    return { layers, losses, measures, accuracy: net.accuracy(images, labels) };
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
        const examples = { images: Float64Array.from({ length: 24 }, (_, i) => i), labels: Uint8Array.from({ length: 12 }, (_, n) => n) };
        const batches = new Live.tasks.Batches(examples, 4, Live.network.stream("1", "order"));
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
        """(rules) => rules.map((rule) => new Live.network.Net([100, 40, 40, 10], { rule, activation: "relu", seed: "3" }).layers
            .map(({ weight, feedback, inputs, outputs }) => ({ weight: [...weight], feedback: feedback && [...feedback], inputs, outputs })))""",
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
