// Two nets that start alike, meet the same batches and differ in their rule; and what is seen of them on the way.
"use strict";

(() => {
  const Live = (globalThis.Live ??= {});
  const { Net, accuracy, stream } = Live.network;
  const { TASKS, Batches, first } = Live.tasks;

  const HIDDEN = 32; // units of a hidden layer
  const BATCH = 40;
  const PROBE = 100; // the first training examples, on which angles and loss are taken
  const PIECE = 100; // inputs at a time
  const KEPT = 300; // sights in the curves

  // settings: { task, depth, activation, seed, rules: two keys }
  class Pair {
    constructor({ task, depth, activation, seed, rules }) {
      this.task = TASKS[task];
      const sizes = [this.task.inputs, ...Array(depth).fill(HIDDEN), this.task.classes];
      this.nets = rules.map((rule) => new Net(sizes, { rule, activation, seed }));
      this.batches = new Batches(this.task.train, BATCH, stream(seed, "order"));
      this.probe = first(PROBE, this.task.train);
      this.kept = [];
      this.every = 1;
      this.count = 0;
    }

    // So many steps of both nets, then a sight of them. A generator, which pauses after each piece of a few milliseconds at most.
    *work(steps, rate) {
      for (let step = 0; step < steps; step++) {
        const { images, labels } = this.batches.next();
        for (const net of this.nets) {
          net.train(images, labels, rate);
          yield;
        }
      }
      yield* this.look();
    }

    // Adds a sight, { step, nets: for each { accuracy, loss, weight, gradient } } with the test accuracy, the rest is the probe's.
    // Sets scores, for each net those of what is shown.
    *look() {
      const sight = { step: this.nets[0].steps, nets: [] };
      const scores = [];
      const { test, shown } = this.task;
      for (const net of this.nets) {
        const tested = yield* this.scored(net, test.images);
        sight.nets.push({ accuracy: accuracy(tested, test.labels), ...net.measure(this.probe.images, this.probe.labels) });
        yield;
        scores.push(yield* this.scored(net, shown));
      }
      this.scores = scores;
      this.keep(sight);
    }

    // images (M, I) -> their scores (M, K)
    *scored(net, images) {
      const { inputs, classes } = this.task;
      const scores = new Float64Array((images.length / inputs) * classes);
      for (let at = 0; at * inputs < images.length; at += PIECE) {
        const piece = images.subarray(at * inputs, (at + PIECE) * inputs);
        scores.set(net.scores(piece, piece.length / inputs), at * classes);
        yield;
      }
      return scores;
    }

    // The curves keep every sight at first, and later every second, fourth ... of them.
    keep(sight) {
      this.latest = sight;
      if (this.count++ % this.every) return;
      this.kept.push(sight);
      if (this.kept.length <= KEPT) return;
      this.kept = this.kept.filter((_, index) => index % 2 === 0);
      this.every *= 2;
    }

    // From the start to now, in the order of steps
    get history() {
      return this.kept.at(-1) === this.latest ? this.kept : [...this.kept, this.latest];
    }
  }

  Live.pair = { Pair, HIDDEN, BATCH, PROBE };
})();
