"use strict";
// Lines over time as inline SVG. A series is { label, color, value(sample) → number or null, format(number) }.

const SVG = "http://www.w3.org/2000/svg";
const WINDOW = [40, 200]; // seconds shown at least and at most: 100 samples, one every 2 s
const GAP = 7; // seconds without a sample after which a line is interrupted

function svg(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// The stretches of a series without holes, as [[x, y], …].
function stretches(samples, series, x, y) {
  const found = [];
  let last = null;
  for (const sample of samples) {
    const value = series.value(sample);
    if (value === null || value === undefined || !Number.isFinite(value)) { last = null; continue; }
    const time = sample.timestamp_epoch;
    if (last === null || time - last > GAP) found.push([]);
    found[found.length - 1].push([x(time), y(value)]);
    last = time;
  }
  return found;
}

// Seconds from the left edge to the right one.
function spanOf(samples) {
  const age = samples.length ? samples[samples.length - 1].timestamp_epoch - samples[0].timestamp_epoch : 0;
  return Math.max(WINDOW[0], Math.min(WINDOW[1], age));
}

// [seconds ago, label] for the axis of time.
function ticksOf(span) {
  const step = span > 100 ? 60 : span > 50 ? 20 : 10, ticks = [];
  for (let ago = 0; ago < span * 0.97; ago += step) ticks.push([ago, ago === 0 ? "now" : step === 60 ? `${ago / 60} min` : `${ago} s`]);
  return ticks;
}

const path = (points) => "M" + points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L");

function drawSpark(box, samples, series, top) {
  const end = samples.length ? samples[samples.length - 1].timestamp_epoch : 0;
  const values = samples.map(series.value).filter(Number.isFinite);
  const high = top || Math.max(1, ...values) * 1.15;
  const span = spanOf(samples);
  const x = (time) => 200 - ((end - time) * 200) / span;
  const y = (value) => 42 - (Math.min(value, high) / high) * 38;
  const node = svg("svg", { viewBox: "0 0 200 44", preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const points of stretches(samples, series, x, y)) {
    if (points.length === 1) points.push([points[0][0] + 1, points[0][1]]);
    node.append(
      svg("path", { d: `${path(points)}L${points[points.length - 1][0]},44L${points[0][0]},44Z`, fill: series.color, "fill-opacity": ".13" }),
      svg("path", { d: path(points), fill: "none", stroke: series.color, "stroke-width": "1.6", "vector-effect": "non-scaling-stroke", "stroke-linejoin": "round" }),
    );
  }
  box.replaceChildren(node);
}

// 1, 2 or 5 times a power of ten, at least `value` in `parts` steps.
function niceTop(value, parts) {
  const step = value / parts;
  const power = 10 ** Math.floor(Math.log10(step));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= step - 1e-9) * parts;
}

class Chart {
  constructor(box, legend, name, series, options) {
    Object.assign(this, { box, name, series, samples: [], picked: null, top: options.top || null, least: options.least || 1, axis: options.axis });
    this.values = series.map((one) => {
      const line = document.createElement("i"), value = document.createElement("b"), item = document.createElement("li");
      line.style.background = one.color;
      item.append(line, one.label, value);
      legend.append(item);
      return value;
    });
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    this.canvas = document.createElement("div");
    this.canvas.style.height = "100%";
    box.append(this.canvas, this.tip);
    box.tabIndex = 0;
    box.setAttribute("role", "img");
    box.addEventListener("pointermove", (event) => this.pickAt(event.clientX - box.getBoundingClientRect().left));
    box.addEventListener("pointerleave", () => this.pick(null));
    box.addEventListener("blur", () => this.pick(null));
    box.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (steps === undefined || !this.samples.length) return;
      event.preventDefault();
      const last = this.samples.length - 1;
      const from = this.picked ? this.samples.indexOf(this.picked) : last + (steps < 0 ? 1 : 0);
      this.pick(this.samples[Math.max(0, Math.min(last, from + steps))]);
    });
    new ResizeObserver(() => this.draw()).observe(box);
  }

  update(samples) {
    this.samples = samples;
    if (this.picked && !samples.includes(this.picked)) this.picked = null;
    this.draw();
  }

  draw() {
    const width = this.box.clientWidth, height = this.box.clientHeight;
    if (!width || !height) return;
    const left = 44, right = width - 12, low = height - 24, high = 10, samples = this.samples;
    const end = samples.length ? samples[samples.length - 1].timestamp_epoch : 0;
    const values = samples.flatMap((sample) => this.series.map((one) => one.value(sample))).filter(Number.isFinite);
    const top = this.top || niceTop(Math.max(this.least, ...values), 4);
    const span = spanOf(samples);
    const x = (time) => right - ((end - time) * (right - left)) / span;
    const y = (value) => low - (Math.min(value, top) / top) * (low - high);
    this.x = x;
    const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    for (let part = 0; part <= 4; part += 2) {
      const value = (top * part) / 4;
      node.append(
        svg("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }),
        svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, this.axis(value)),
      );
    }
    for (const [ago, label] of ticksOf(span)) {
      node.append(svg("text", { x: x(end - ago), y: height - 6, "text-anchor": ago ? "middle" : "end" }, label));
    }
    for (const one of this.series) {
      for (const points of stretches(samples, one, x, y)) {
        const visible = points.filter(([at]) => at >= left - 1);
        if (!visible.length) continue;
        if (visible.length === 1) visible.unshift([visible[0][0] - 2, visible[0][1]]);
        node.append(
          svg("path", { d: `${path(visible)}L${visible[visible.length - 1][0]},${low}L${visible[0][0]},${low}Z`, fill: one.color, "fill-opacity": ".08" }),
          svg("path", { d: path(visible), fill: "none", stroke: one.color, "stroke-width": "1.8", "stroke-linejoin": "round", "stroke-linecap": "round" }),
        );
      }
    }
    const now = samples[samples.length - 1];
    const texts = this.series.map((one) => textOf(one, now));
    this.values.forEach((value, index) => { value.textContent = texts[index]; });
    this.box.setAttribute("aria-label", `${this.name}: ` + this.series.map((one, index) => `${one.label} ${texts[index]}`).join(", "));
    if (this.picked) this.drawPick(node, x, y, low, high);
    this.canvas.replaceChildren(node);
  }

  drawPick(node, x, y, low, high) {
    const sample = this.picked, at = x(sample.timestamp_epoch);
    node.append(svg("line", { class: "cross", x1: at, x2: at, y1: high, y2: low }));
    const list = document.createElement("ul"), time = document.createElement("p");
    time.textContent = new Date(sample.timestamp_epoch * 1000).toLocaleTimeString();
    for (const one of this.series) {
      const value = one.value(sample);
      if (Number.isFinite(value)) node.append(svg("circle", { cx: at, cy: y(value), r: 3.5, fill: one.color, stroke: "#11141c", "stroke-width": 2 }));
      const dot = document.createElement("i"), text = document.createElement("b"), item = document.createElement("li");
      dot.style.background = one.color;
      text.textContent = textOf(one, sample);
      item.append(dot, one.label, text);
      list.append(item);
    }
    this.tip.replaceChildren(time, list);
    this.tip.hidden = false;
    const width = this.tip.offsetWidth;
    this.tip.style.left = `${at + 14 + width > this.box.clientWidth ? at - width - 14 : at + 14}px`;
  }

  pickAt(position) {
    let best = null;
    for (const sample of this.samples) {
      const distance = Math.abs(this.x(sample.timestamp_epoch) - position);
      if (best === null || distance < best.distance) best = { sample, distance };
    }
    this.pick(best && best.distance < 40 ? best.sample : null);
  }

  pick(sample) {
    this.picked = sample;
    this.tip.hidden = sample === null;
    this.draw();
  }
}

function textOf(series, sample) {
  const value = sample === undefined ? null : series.value(sample);
  return Number.isFinite(value) ? series.format(value) : "–";
}
