// Pictures on canvases: curves, the plane with its two spirals, small photographs, matrices. Nothing here knows of nets.
"use strict";

(() => {
  const Live = (globalThis.Live ??= {});

  const MARGIN = { left: 42, right: 20, top: 8, bottom: 18 };
  const LABEL = 11; // pixels between two labels
  const DASHES = [[], [7, 3], [2, 3], [10, 3, 2, 3], [4, 2]];
  const FONT = "11px system-ui, sans-serif";

  // The colours of the page's present theme, by their names in live.css
  function palette(element) {
    const style = getComputedStyle(element);
    const colour = (name) => style.getPropertyValue(`--live-${name}`).trim();
    return {
      ground: colour("ground"),
      text: colour("text"),
      grid: colour("grid"),
      nets: [colour("net-0"), colour("net-1")],
      classes: [colour("class-0"), colour("class-1")],
    };
  }

  // A canvas made as large as it is shown, in the screen's own pixels, and empty
  function fresh(canvas) {
    const { clientWidth: width, clientHeight: height } = canvas;
    const ratio = globalThis.devicePixelRatio || 1;
    const size = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = FONT;
    return { context, width, height };
  }

  // The places of labels, near those wanted and none over another. wanted: pixels downwards; lowest: the last place there is.
  function apart(wanted, lowest) {
    const order = wanted.map((_, index) => index).sort((a, b) => wanted[a] - wanted[b]);
    const places = [...wanted];
    for (let i = 1; i < order.length; i++) places[order[i]] = Math.max(places[order[i]], places[order[i - 1]] + LABEL);
    for (let i = order.length - 1, limit = lowest; i >= 0; i--, limit -= LABEL)
      places[order[i]] = Math.min(places[order[i]], limit);
    return places;
  }

  function axes(context, { x, y, ticks, steps, unit }, colours, right) {
    context.strokeStyle = colours.grid;
    context.fillStyle = colours.text;
    context.lineWidth = 1;
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const tick of ticks) {
      context.beginPath();
      context.moveTo(MARGIN.left, y(tick));
      context.lineTo(right, y(tick));
      context.stroke();
      context.fillText(`${tick}${unit}`, MARGIN.left - 4, y(tick));
    }
    context.textBaseline = "top";
    context.fillText(`step ${steps}`, right, y(0) + 4);
    context.textAlign = "left";
    context.fillText("0", x(0), y(0) + 4);
  }

  function line(context, xs, ys) {
    context.beginPath();
    let pen = false;
    ys.forEach((y, index) => {
      if (Number.isNaN(y)) return void (pen = false);
      if (pen) context.lineTo(xs[index], y);
      else context.moveTo(xs[index], y);
      pen = true;
    });
    context.stroke();
  }

  // steps: of the points. lines: [{ label, values, colour, dash: 0..4 }], NaN is a gap. ticks: numbers of the y axis, from 0 up.
  function curves(canvas, { steps, lines, ticks, unit = "" }, colours) {
    const { context, width, height } = fresh(canvas);
    const [right, bottom, top] = [width - MARGIN.right, height - MARGIN.bottom, ticks.at(-1)];
    const last = Math.max(1, steps.at(-1));
    const x = (step) => MARGIN.left + (step / last) * (right - MARGIN.left);
    const y = (value) => bottom - (value / top) * (bottom - MARGIN.top);
    axes(context, { x, y, ticks, unit, steps: steps.at(-1) }, colours, right);
    const xs = steps.map(x);
    const drawn = lines.filter(({ values }) => !Number.isNaN(values.at(-1)));
    const labels = apart(
      drawn.map(({ values }) => y(Math.min(top, values.at(-1)))),
      bottom,
    );
    context.lineWidth = 2;
    context.textBaseline = "middle";
    drawn.forEach(({ label, values, colour, dash }, index) => {
      context.strokeStyle = context.fillStyle = colour;
      context.setLineDash(DASHES[dash]);
      line(
        context,
        xs,
        values.map((value) => y(Math.min(top, value))),
      );
      context.fillText(label, right + 5, labels[index]);
    });
    context.setLineDash([]);
  }

  // "#rrggbb" -> [r, g, b]
  function channels(colour) {
    return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  }

  // Pixels (side, side) given by paint(index) -> [r, g, b], as a canvas
  function painted(side, paint) {
    const small = Object.assign(document.createElement("canvas"), { width: side, height: side });
    const image = new ImageData(side, side);
    for (let n = 0; n < side ** 2; n++) image.data.set([...paint(n), 255], 4 * n);
    small.getContext("2d").putImageData(image, 0, 0);
    return small;
  }

  // scores (cells * cells, 2) of the plane, |x| and |y| up to edge; points { images (N, 3), labels }: discs and squares
  function surface(canvas, { scores, cells, edge, points }, colours) {
    const { context, width, height } = fresh(canvas);
    const [ground, ...classes] = [colours.ground, ...colours.classes].map(channels);
    const small = painted(cells, (n) => {
      const sure = Math.tanh((scores[2 * n + 1] - scores[2 * n]) / 2); // the difference of the two probabilities
      const colour = classes[sure > 0 ? 1 : 0];
      return ground.map((channel, c) => channel + 0.55 * Math.abs(sure) * (colour[c] - channel));
    });
    context.drawImage(small, 0, 0, width, height);
    const radius = width / 120;
    context.lineWidth = 1;
    context.strokeStyle = colours.ground;
    points.labels.forEach((label, n) => {
      const [x, y] = [(1 + points.images[3 * n] / edge) * (width / 2), (1 - points.images[3 * n + 1] / edge) * (height / 2)];
      context.fillStyle = colours.classes[label];
      context.beginPath();
      if (label) context.rect(x - radius, y - radius, 2 * radius, 2 * radius);
      else context.arc(x, y, 1.2 * radius, 0, 2 * Math.PI);
      context.stroke();
      context.fill();
    });
  }

  // greys (M, side * side) in 0..15 of ten times ten pictures; those for which wrong(index) are struck out
  function pictures(canvas, { greys, side, wrong }, colours) {
    const { context, width } = fresh(canvas);
    const row = 10;
    const [ground, ink] = [colours.ground, colours.text].map(channels);
    const small = painted(row * side, (n) => {
      const [x, y] = [n % (row * side), Math.floor(n / (row * side))];
      const picture = row * Math.floor(y / side) + Math.floor(x / side);
      const grey = greys[picture * side ** 2 + (y % side) * side + (x % side)] / 15;
      return ground.map((channel, c) => channel + grey * (ink[c] - channel));
    });
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, width, width);
    const cell = width / row;
    context.strokeStyle = colours.classes[1];
    context.lineWidth = 2.5;
    for (let n = 0; n < row ** 2; n++) {
      if (!wrong(n)) continue;
      const [x, y] = [(n % row) * cell, Math.floor(n / row) * cell];
      line(context, [x + 3, x + cell - 3], [y + 3, y + cell - 3]);
      line(context, [x + 3, x + cell - 3], [y + cell - 3, y + 3]);
    }
  }

  // Matrices of the same shape (rows, columns), turned on their side next to each other on an upright canvas, else one below the
  // other: [{ label, values }]. Colour is the sign, strength the size.
  function matrices(canvas, { shown, rows, columns }, colours) {
    const { context, width, height } = fresh(canvas);
    const upright = height > width;
    const room = upright ? { x: 0, y: 16, gap: 10 } : { x: 18, y: 0, gap: 6 };
    const [across, down] = upright ? [rows, columns] : [columns, rows];
    const spare = room.gap * (shown.length - 1);
    const cell = {
      width: upright ? (width - spare) / shown.length / across : (width - room.x) / across,
      height: upright ? (height - room.y) / down : (height - spare) / shown.length / down,
    };
    context.textBaseline = upright ? "top" : "middle";
    shown.forEach(({ label, values }, place) => {
      const left = room.x + (upright ? place * (across * cell.width + room.gap) : 0);
      const top = room.y + (upright ? 0 : place * (down * cell.height + room.gap));
      const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      context.globalAlpha = 1;
      context.fillStyle = colours.text;
      context.fillText(label, upright ? left : 0, upright ? 0 : top + (down * cell.height) / 2);
      values.forEach((value, index) => {
        const [row, column] = [Math.floor(index / columns), index % columns];
        const [x, y] = upright ? [row, column] : [column, row];
        context.globalAlpha = Math.abs(value) / largest;
        context.fillStyle = colours.classes[value > 0 ? 1 : 0];
        context.fillRect(left + x * cell.width, top + y * cell.height, cell.width - 0.5, cell.height - 0.5);
      });
    });
    context.globalAlpha = 1;
  }

  Live.drawing = { palette, curves, surface, pictures, matrices };
})();
