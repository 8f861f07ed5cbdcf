// The mathematics: a dense net without biases that learns by one of six feedback rules, in the names of the page "Method".
// A matrix is a Float64Array, row after row. N images, I inputs and O outputs of a layer, K classes.
"use strict";

(() => {
  const Live = (globalThis.Live ??= {});

  const ACTIVATIONS = {
    relu: { value: (a) => (a > 0 ? a : 0), slope: (a) => (a > 0 ? 1 : 0) },
    tanh: { value: Math.tanh, slope: (a, x) => 1 - x * x },
    half_hardtanh: { value: (a) => Math.max(-1, Math.min(1, a / 2)), slope: (a) => (Math.abs(a) <= 2 ? 0.5 : 0) },
  };

  // path: the matrix F through which a layer sends the error back. B is fixed, or learned: then it takes every step of W.
  // decay: the decoupled weight decay of W and of a learned B. direct: the error of the scores comes straight to a layer's input.
  const RULES = {
    bp: { path: (layer) => layer.weight },
    fa: { path: (layer) => layer.feedback, feedback: "fixed" },
    shared_update: { path: (layer) => layer.feedback, feedback: "learned" },
    kp: { path: (layer) => layer.feedback, feedback: "learned", decay: 0.1 },
    usf: { path: (layer) => layer.weight.map((w) => Math.sign(w) * layer.scale) },
    dfa: { path: (layer) => layer.feedback, feedback: "fixed", direct: true },
  };

  const ADAM = { mean: 0.9, square: 0.999, epsilon: 1e-8 };

  // A stream of numbers in 0..1, one for each purpose of a seed: what one draws never shifts what another draws.
  function stream(seed, purpose) {
    let state = 2166136261;
    for (const letter of `${seed}/${purpose}`) state = Math.imul(state ^ letter.codePointAt(0), 16777619);
    return () => {
      state = (state + 0x9e3779b9) | 0;
      let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
      mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
      return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32;
    };
  }

  // Glorot and Bengio 2010: U(-s, s) times the square root of 3, s the standard deviation.
  function glorot(length, scale, random) {
    return Float64Array.from({ length }, () => (2 * random() - 1) * scale * Math.sqrt(3));
  }

  // c = a b': a (M, L), b (P, L) -> c (M, P). Four rows of a at once, so that the processor need not wait for each sum.
  function product(a, b, c, M, L, P) {
    let m = 0;
    for (; m + 4 <= M; m += 4) {
      const a0 = m * L;
      const a1 = a0 + L;
      const a2 = a1 + L;
      const a3 = a2 + L;
      for (let p = 0; p < P; p++) {
        let s0 = 0;
        let s1 = 0;
        let s2 = 0;
        let s3 = 0;
        for (let l = 0, row = p * L; l < L; l++) {
          const v = b[row + l];
          s0 += a[a0 + l] * v;
          s1 += a[a1 + l] * v;
          s2 += a[a2 + l] * v;
          s3 += a[a3 + l] * v;
        }
        const at = m * P + p;
        c[at] = s0;
        c[at + P] = s1;
        c[at + 2 * P] = s2;
        c[at + 3 * P] = s3;
      }
    }
    for (; m < M; m++) {
      for (let p = 0; p < P; p++) {
        let sum = 0;
        for (let l = 0; l < L; l++) sum += a[m * L + l] * b[p * L + l];
        c[m * P + p] = sum;
      }
    }
    return c;
  }

  // (M, P) -> (P, M)
  function transposed(a, M, P) {
    const turned = new Float64Array(M * P);
    for (let m = 0; m < M; m++) for (let p = 0; p < P; p++) turned[p * M + m] = a[m * P + p];
    return turned;
  }

  // f of every number; Float64Array.map takes twice the time
  function each(f, a) {
    const values = new Float64Array(a.length);
    for (let i = 0; i < a.length; i++) values[i] = f(a[i]);
    return values;
  }

  // Cross entropy of the softmax. scores (N, K), labels (N) -> mean loss, how many are right, the error (N, K) at the scores.
  function crossEntropy(scores, labels, N, K) {
    const error = new Float64Array(N * K);
    let [loss, right] = [0, 0];
    for (let n = 0; n < N; n++) {
      const row = scores.subarray(n * K, (n + 1) * K);
      const top = Math.max(...row);
      let total = 0;
      for (let k = 0; k < K; k++) total += error[n * K + k] = Math.exp(row[k] - top);
      for (let k = 0; k < K; k++) error[n * K + k] /= total * N;
      error[n * K + labels[n]] -= 1 / N;
      loss += (Math.log(total) + top - row[labels[n]]) / N;
      right += row.indexOf(top) === labels[n];
    }
    return { loss, right, error };
  }

  // The fraction of the rows of scores (N, K) that are largest at their label
  function accuracy(scores, labels) {
    return crossEntropy(scores, labels, labels.length, scores.length / labels.length).right / labels.length;
  }

  // The angle in degrees between two matrices taken as vectors; NaN where one is zero. Through the chord: exact near 0.
  function angle(a, b) {
    const norm = (v) => Math.sqrt(v.reduce((sum, x) => sum + x * x, 0));
    const [na, nb] = [norm(a), norm(b)];
    let square = 0;
    for (let i = 0; i < a.length; i++) square += (a[i] / na - b[i] / nb) ** 2;
    return (Math.asin(Math.min(1, Math.sqrt(square) / 2)) * 360) / Math.PI;
  }

  class Layer {
    // weight (O, I); feedback: that of the rule, or null; mean and square: the state of Adam, one for W and a learned B.
    constructor(inputs, outputs, weightRandom) {
      this.inputs = inputs;
      this.outputs = outputs;
      this.scale = Math.sqrt(2 / (inputs + outputs));
      this.weight = glorot(inputs * outputs, this.scale, weightRandom);
      this.feedback = null;
      this.mean = new Float64Array(inputs * outputs);
      this.square = new Float64Array(inputs * outputs);
    }

    // One step of Adam, W <- (1 - rate decay) W - u; a learned B takes the same u and decays alike.
    step(gradient, count, rate, decay, feedback) {
      const correction = Math.sqrt(1 - ADAM.square ** count);
      const stride = rate / (1 - ADAM.mean ** count);
      const kept = 1 - rate * decay;
      const { weight, mean, square } = this;
      for (let i = 0; i < weight.length; i++) {
        mean[i] += (1 - ADAM.mean) * (gradient[i] - mean[i]);
        square[i] = ADAM.square * square[i] + (1 - ADAM.square) * gradient[i] * gradient[i];
        const u = (stride * mean[i]) / (Math.sqrt(square[i]) / correction + ADAM.epsilon);
        weight[i] = weight[i] * kept - u;
        if (feedback) feedback[i] = feedback[i] * kept - u;
      }
    }
  }

  class Net {
    // sizes: inputs, hidden ..., classes. W and B depend on the seed and the place alone: every rule starts from the same.
    constructor(sizes, { rule, activation, seed }) {
      this.rule = RULES[rule];
      this.activation = ACTIVATIONS[activation];
      this.steps = 0;
      this.layers = sizes.slice(1).map((outputs, l) => new Layer(sizes[l], outputs, stream(seed, `weight ${l}`)));
      this.classes = sizes.at(-1);
      // the first layer sends no error back and has no B
      if (this.rule.feedback)
        this.layers.slice(1).forEach((layer, l) => this.attachFeedback(layer, stream(seed, `feedback ${l + 1}`)));
    }

    // B (O, I), or for direct feedback (K, I)
    attachFeedback(layer, random) {
      const outputs = this.rule.direct ? this.classes : layer.outputs;
      layer.feedback = glorot(outputs * layer.inputs, Math.sqrt(2 / (outputs + layer.inputs)), random);
    }

    // images (N, I) -> for each layer its inputs x and its outputs a = x W'; the last a are the scores
    forward(images, N) {
      let x = images;
      return this.layers.map((layer, l) => {
        const a = product(x, layer.weight, new Float64Array(N * layer.outputs), N, layer.inputs, layer.outputs);
        const passage = { x, a };
        if (l < this.layers.length - 1) x = each(this.activation.value, a);
        return passage;
      });
    }

    // Sends the error (N, K) at the scores back by a rule and returns every layer's dW = d' x, (O, I).
    backward(passages, error, N, rule = this.rule) {
      const gradients = [];
      let d = error;
      for (let l = this.layers.length - 1; l >= 0; l--) {
        const { inputs, outputs } = this.layers[l];
        const [dt, xt] = [transposed(d, N, outputs), transposed(passages[l].x, N, inputs)];
        gradients[l] = product(dt, xt, new Float64Array(outputs * inputs), outputs, N, inputs);
        if (l) d = this.below(l, passages, rule.direct ? error : d, N, rule);
      }
      return gradients;
    }

    // The error at the outputs of layer l - 1: (d F) times the slope
    below(l, passages, d, N, rule) {
      const { inputs } = this.layers[l];
      const rows = d.length / N;
      const sent = product(d, transposed(rule.path(this.layers[l]), rows, inputs), new Float64Array(N * inputs), N, rows, inputs);
      const [{ a }, { x }] = [passages[l - 1], passages[l]];
      for (let i = 0; i < sent.length; i++) sent[i] *= this.activation.slope(a[i], x[i]);
      return sent;
    }

    // One batch: images (N, I), labels (N) -> its mean loss, before the step
    train(images, labels, rate) {
      const N = labels.length;
      const passages = this.forward(images, N);
      const { loss, error } = crossEntropy(passages.at(-1).a, labels, N, this.classes);
      const gradients = this.backward(passages, error, N);
      const { decay = 0, feedback } = this.rule;
      this.steps += 1;
      this.layers.forEach((layer, l) => {
        layer.step(gradients[l], this.steps, rate, decay, feedback === "learned" ? layer.feedback : null);
      });
      return loss;
    }

    // images (N, I) -> (N, K)
    scores(images, N) {
      return this.forward(images, N).at(-1).a;
    }

    // The mean loss; and in degrees, a number a layer: between W and F (NaN where no F has the shape of W, or none is used), and
    // between dW and the true gradient
    measure(images, labels) {
      const N = labels.length;
      const passages = this.forward(images, N);
      const { loss, error } = crossEntropy(passages.at(-1).a, labels, N, this.classes);
      const [used, right] = [this.rule, RULES.bp].map((rule) => this.backward(passages, error, N, rule));
      return {
        loss,
        weight: this.layers.map((layer, l) => (l && !this.rule.direct ? angle(layer.weight, this.rule.path(layer)) : NaN)),
        gradient: used.map((gradient, l) => angle(gradient, right[l])),
      };
    }
  }

  Live.network = { ACTIVATIONS, RULES, Net, accuracy, stream };
})();
