// The page: its controls, what they start, and everything that is shown and said. Bound to the ids of train_live.md.
"use strict";

(() => {
  const { drawing, pair } = globalThis.Live;

  const BUDGET = 6; // milliseconds of work a frame: of 16 in all, the rest is for drawing and the browser
  const WORDS = 250; // milliseconds between two updates of numbers in words
  const CALM = 1000; // and between two pictures, where the visitor asks for less motion
  const NETS = ["a", "b"];

  const find = (name) => document.getElementById(`live-${name}`);
  const root = find("root");
  const form = find("controls");
  const less = matchMedia("(prefers-reduced-motion: reduce)");

  let now; // the Pair that is shown
  let work; // what is left of its work until the next picture
  let running = false;
  let asked; // the browser's number for the next frame
  let colours;
  const last = { drawn: 0, told: 0 };

  const rules = () => NETS.map((net) => form.elements[`rule-${net}`].value);
  const degrees = (angle) => (Number.isNaN(angle) ? "none" : `${Math.round(angle)}°`);
  const percent = (fraction) => `${(100 * fraction).toFixed(1)} %`;

  function more() {
    return now.work(Number(form.elements.steps.value), Number(form.elements.rate.value));
  }

  function label(canvas, text) {
    find(canvas).setAttribute("aria-label", text);
  }

  function complete(pieces) {
    while (!pieces.next().done);
  }

  // --- what is drawn --------------------------------------------------------------------------------------------------------

  // The layers' lines, dashed by place; the last layer's is solid
  function byLayer(history, net, measure, layers) {
    return layers.map((layer) => ({
      label: String(layer + 1),
      values: history.map(({ nets }) => nets[net][measure][layer]),
      colour: colours.nets[net],
      dash: layers.at(-1) - layer,
    }));
  }

  // A line a net
  function byNet(history, measure, factor) {
    return NETS.map((name, net) => ({
      label: name.toUpperCase(),
      values: history.map(({ nets }) => factor * nets[net][measure]),
      colour: colours.nets[net],
      dash: net,
    }));
  }

  // 0, the middle and a round number not below what is to be shown
  function ticks(largest) {
    const power = 10 ** Math.floor(Math.log10(largest));
    const top = [1, 2, 4, 10].find((step) => step * power >= largest) * power;
    return [0, top / 2, top].map((tick) => Number(tick.toPrecision(2)));
  }

  function drawPicture(net) {
    const { task } = now;
    const scores = now.scores[net];
    if (task.greys) {
      const best = (n) => scores.subarray(n * task.classes, (n + 1) * task.classes);
      const wrong = (n) => best(n).indexOf(Math.max(...best(n))) !== task.test.labels[n];
      drawing.pictures(find(`picture-${NETS[net]}`), { ...task, wrong }, colours);
    } else drawing.surface(find(`picture-${NETS[net]}`), { ...task, scores, points: task.train }, colours);
  }

  function drawMatrices(net) {
    const { layers, rule } = now.nets[net];
    const { weight, inputs, outputs } = layers.at(-1);
    const shown = [
      { label: "W", values: weight },
      { label: "F", values: rule.path(layers.at(-1)) },
    ];
    drawing.matrices(find(`matrices-${NETS[net]}`), { shown, rows: outputs, columns: inputs }, colours);
  }

  function draw() {
    const { history } = now;
    const steps = history.map(({ step }) => step);
    const depth = now.nets[0].layers.length;
    const layers = [...Array(depth).keys()];
    NETS.forEach((name, net) => {
      drawPicture(net);
      drawMatrices(net);
      const weight = byLayer(history, net, "weight", layers.slice(1));
      const gradient = byLayer(history, net, "gradient", layers.slice(0, -1));
      drawing.curves(find(`weight-${name}`), { steps, lines: weight, ticks: [0, 30, 60, 90, 120], unit: "°" }, colours);
      drawing.curves(find(`gradient-${name}`), { steps, lines: gradient, ticks: [0, 30, 60, 90, 120], unit: "°" }, colours);
    });
    const losses = byNet(history, "loss", 1);
    const most = losses.reduce((largest, { values }) => Math.max(largest, ...values), 0);
    drawing.curves(find("accuracy"), { steps, lines: byNet(history, "accuracy", 100), ticks: [0, 50, 100], unit: " %" }, colours);
    drawing.curves(find("loss"), { steps, lines: losses, ticks: ticks(most) }, colours);
  }

  // --- what is said ---------------------------------------------------------------------------------------------------------

  // The same as the pictures, in numbers: a table, and the pictures' names
  function tell() {
    const { step, nets } = now.latest;
    find("count").textContent = `step ${step}`;
    NETS.forEach((name, net) => {
      const { accuracy, loss, weight, gradient } = nets[net];
      const said = {
        accuracy: percent(accuracy),
        loss: loss.toFixed(3),
        weight: weight.slice(1).map(degrees).join(", "),
        gradient: gradient.slice(0, -1).map(degrees).join(", "),
      };
      for (const [measure, text] of Object.entries(said)) find(`said-${measure}-${name}`).textContent = text;
      const title = `net ${name.toUpperCase()} (${rules()[net]}), step ${step}`;
      const seen = now.task.greys
        ? "A hundred test images, the wrong ones crossed out"
        : "The two spirals on the decision surface";
      label(`picture-${name}`, `${seen}: ${title}, ${said.accuracy} of the test set right`);
      label(`matrices-${name}`, `The cells of the last W and F: ${title}, angle ${degrees(weight.at(-1))}`);
      label(`weight-${name}`, `Angle between W and F: ${title}, from layer 2 up ${said.weight}`);
      label(`gradient-${name}`, `Angle between update and gradient: ${title}, from layer 1 up ${said.gradient}`);
    });
    const both = (measure) =>
      NETS.map((name) => `net ${name.toUpperCase()} ${find(`said-${measure}-${name}`).textContent}`).join(", ");
    label("accuracy", `Test accuracy up to step ${step}: ${both("accuracy")}`);
    label("loss", `Loss up to step ${step}: ${both("loss")}`);
  }

  function announce(event) {
    const { step, nets } = now.latest;
    const results = NETS.map((name, net) => `${name.toUpperCase()} (${rules()[net]}) ${percent(nets[net].accuracy)}`).join(", ");
    find("status").textContent = `${event} at step ${step}. Test accuracy: ${results}.`;
  }

  function show() {
    draw();
    tell();
  }

  // --- what the controls do -------------------------------------------------------------------------------------------------

  // Both nets anew, from what the controls say
  function begin() {
    const { task, depth, activation, seed } = form.elements;
    if (!seed.checkValidity()) seed.value = seed.defaultValue;
    const settings = { task: task.value, depth: Number(depth.value), activation: activation.value, seed: seed.value };
    now = new pair.Pair({ ...settings, rules: rules() });
    complete(now.look());
    work = more();
    NETS.forEach((name) => {
      find(`equation-${name}`).textContent = form.elements[`rule-${name}`].selectedOptions[0].dataset.equation;
    });
    show();
  }

  function setRunning(wanted) {
    running = wanted;
    find("run").textContent = running ? "Pause" : "Start";
    if (running) asked = requestAnimationFrame(frame);
    else cancelAnimationFrame(asked);
  }

  function pause() {
    setRunning(false);
    complete(work);
    work = more();
    show();
  }

  // Works until the frame's time is over or the next picture is due, never more than one picture a frame
  function frame(time) {
    const end = performance.now() + BUDGET;
    let due = false;
    while (!due && performance.now() < end) due = work.next().done;
    if (due) {
      work = more();
      if (!less.matches || time - last.drawn >= CALM) {
        draw();
        last.drawn = time;
      }
      if (time - last.told >= (less.matches ? CALM : WORDS)) {
        tell();
        last.told = time;
      }
    }
    asked = requestAnimationFrame(frame);
  }

  function toggle() {
    if (running) {
      pause();
      announce("Paused");
    } else {
      setRunning(true);
      announce("Running");
    }
  }

  function step() {
    if (running) pause();
    complete(now.work(1, Number(form.elements.rate.value)));
    show();
    announce("One step made; paused");
  }

  function reset() {
    setRunning(false);
    begin();
    announce("Both nets are new; paused");
  }

  // A change of the learning rate or the speed meets the nets as they are; any other starts both anew.
  function changed({ target }) {
    if (["rate", "steps"].includes(target.name)) return;
    begin();
    announce(`Both nets are new; ${running ? "running" : "paused"}`);
  }

  function repaint() {
    colours = drawing.palette(root);
    if (now) draw();
  }

  repaint();
  begin();
  find("run").addEventListener("click", toggle);
  find("step").addEventListener("click", step);
  find("reset").addEventListener("click", reset);
  form.addEventListener("change", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  new ResizeObserver(repaint).observe(root);
})();
