// What the nets learn: two spirals in the plane, and pictures of clothing. Examples are { images (N, I), labels (N) }.
"use strict";

(() => {
  const Live = (globalThis.Live ??= {});
  const { stream } = Live.network;

  const SPIRALS = { train: 400, test: 200, turns: 1.25, noise: 0.05, reach: 2 };
  const PLANE = { edge: 2.4, cells: 30 };
  const PICTURES = 100; // test images that are shown

  // Points of two arms in turn. The third input is always 1: the nets have no biases, and could not leave the origin without it.
  function arms(count, random) {
    const { turns, noise, reach } = SPIRALS;
    const images = new Float64Array(3 * count);
    const labels = new Uint8Array(count);
    for (let n = 0; n < count; n++) {
      const radius = Math.sqrt(0.02 + 0.98 * random());
      const turn = 2 * Math.PI * (turns * radius + n / 2);
      const blur = () => noise * (random() + random() + random() - 1.5);
      images.set([reach * (radius * Math.cos(turn) + blur()), reach * (radius * Math.sin(turn) + blur()), 1], 3 * n);
      labels[n] = n % 2;
    }
    return { images, labels };
  }

  // The middles of the plane's cells, the top row first
  function plane({ edge, cells }) {
    const place = (index) => edge * ((2 * index + 1) / cells - 1);
    const images = new Float64Array(3 * cells ** 2);
    for (let n = 0; n < cells ** 2; n++) images.set([place(n % cells), -place(Math.floor(n / cells)), 1], 3 * n);
    return images;
  }

  function spirals() {
    const [train, test] = ["train", "test"].map((part) => arms(SPIRALS[part], stream("spirals", part)));
    return { inputs: 3, classes: 2, train, test, shown: plane(PLANE), ...PLANE };
  }

  // base64, two pixels a byte -> greys 0..15
  function unpacked(text) {
    const bytes = atob(text);
    const greys = new Float64Array(2 * bytes.length);
    for (let i = 0; i < bytes.length; i++) greys.set([bytes.charCodeAt(i) >> 4, bytes.charCodeAt(i) & 15], 2 * i);
    return greys;
  }

  // Greys made standard with the mean and the standard deviation of the training set
  function clothing() {
    const { side, classes, ...packed } = Live.images;
    const greys = { train: unpacked(packed.train), test: unpacked(packed.test) };
    const mean = greys.train.reduce((sum, grey) => sum + grey, 0) / greys.train.length;
    const deviation = Math.sqrt(greys.train.reduce((sum, grey) => sum + (grey - mean) ** 2, 0) / greys.train.length);
    const [train, test] = ["train", "test"].map((part) => ({
      images: greys[part].map((grey) => (grey - mean) / deviation),
      labels: Uint8Array.from({ length: greys[part].length / side ** 2 }, (_, n) => n % classes),
    }));
    const shown = first(PICTURES, test).images;
    return { inputs: side ** 2, classes, train, test, shown, side, greys: greys.test.subarray(0, shown.length) };
  }

  // The first examples
  function first(count, { images, labels }) {
    return { images: images.subarray(0, (images.length / labels.length) * count), labels: labels.subarray(0, count) };
  }

  // Batches of so many examples, in a new random order each epoch; the number of examples is a multiple of size.
  class Batches {
    constructor(examples, size, random) {
      Object.assign(this, { examples, size, random, order: [] });
    }

    next() {
      const { images, labels } = this.examples;
      if (!this.order.length) this.order = this.shuffled(labels.length);
      const chosen = this.order.splice(0, this.size);
      const inputs = images.length / labels.length;
      const batch = { images: new Float64Array(this.size * inputs), labels: Uint8Array.from(chosen, (n) => labels[n]) };
      chosen.forEach((n, row) => batch.images.set(images.subarray(n * inputs, (n + 1) * inputs), row * inputs));
      return batch;
    }

    shuffled(count) {
      const order = Array.from({ length: count }, (_, n) => n);
      for (let n = count - 1; n > 0; n--) {
        const other = Math.floor(this.random() * (n + 1));
        [order[n], order[other]] = [order[other], order[n]];
      }
      return order;
    }
  }

  // A task has inputs I, classes K, train and test; shown (M, I): the inputs whose scores the page paints, with what it needs for
  // that, of a plane its edge and cells, of pictures their side and greys (0..15).
  Live.tasks = { TASKS: { spirals: spirals(), clothing: clothing() }, Batches, first };
})();
