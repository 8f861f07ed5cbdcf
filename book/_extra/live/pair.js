// Two nets that start alike, meet the same batches and differ in their rule; and what is seen of them on the way.
"use strict";

(() => {
  const Live = (globalThis.Live ??= {});
  const { Net, stream } = Live.network;
  const { TASKS, Batches, first } = Live.tasks;

  const HIDDEN = 32; // units of a hidden layer
  const BATCH = 40;
  const PROBE = 100; // the first training examples, on which angles and loss are taken
  const PIECE = 300; // inputs painted at a time
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

    // Adds a sight, { step, nets: for each { accuracy, loss, weight, gradient } } with the test set's accuracy and the probe's loss;
    // and sets scores, for each net those of what is shown.
    *look() {
      const sight = { step: this.nets[0].steps, nets: [] };
      const scores = [];
      for (const net of this.nets) {
        const accuracy = net.accuracy(this.task.test.images, this.task.test.labels);
        yield;
        sight.nets.push({ accuracy, ...net.measure(this.probe.images, this.probe.labels) });
        yield;
        scores.push(yield* this.painted(net));
      }
      this.scores = scores;
      this.keep(sight);
    }

    // The scores (M, K) of what is shown
    *painted(net) {
      const { shown, inputs, classes } = this.task;
      const scores = new Float64Array((shown.length / inputs) * classes);
      for (let at = 0; at * inputs < shown.length; at += PIECE) {
        const piece = shown.subarray(at * inputs, (at + PIECE) * inputs);
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
