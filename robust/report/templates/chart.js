"use strict";
// Curves from embedded numbers: legend, reading by pointer and by keyboard.

const SVG = "http://www.w3.org/2000/svg";
const DASHES = ["", "7 4", "2 3", "9 3 2 3", "12 4", "4 4"];
const COLOURS = 6;

function element(name, attributes = {}, parent = null, text = null) {
  const made = document.createElement(name);
  return finish(made, attributes, parent, text);
}

function shape(name, attributes = {}, parent = null, text = null) {
  return finish(document.createElementNS(SVG, name), attributes, parent, text);
}

function finish(made, attributes, parent, text) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const digits = (value) => String(Number(value.toPrecision(3))).replace("-", "−");

function mark(kind, x, y, size, attributes, parent) {
  const s = size;
  const paths = [
    `M${-s} 0a${s} ${s} 0 1 0 ${2 * s} 0a${s} ${s} 0 1 0 ${-2 * s} 0`,
    `M${-s} ${-s}h${2 * s}v${2 * s}h${-2 * s}z`,
    `M0 ${-1.4 * s}L${1.4 * s} 0L0 ${1.4 * s}L${-1.4 * s} 0z`,
    `M0 ${-1.3 * s}L${1.3 * s} ${s}H${-1.3 * s}z`,
    `M0 ${1.3 * s}L${1.3 * s} ${-s}H${-1.3 * s}z`,
    `M${-s} ${-0.4 * s}h${2 * s}v${0.8 * s}h${-2 * s}z`,
  ];
  return shape("path", { d: paths[kind % paths.length], transform: `translate(${x} ${y})`, ...attributes }, parent);
}

function ticksOf(low, high, log) {
  if (log) {
    const decades = Math.log10(high / low);
    const steps = decades > 2.5 ? [1] : decades > 1 ? [1, 3] : [1, 2, 5];
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      for (const step of steps) found.push(step * 10 ** power);
    }
    return found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  }
  const rough = (high - low) / 5 || 1;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((value) => value >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(value);
  return found;
}

function words(chart, line, index) {
  const [level, score, low, high] = line.points[index];
  const unit = chart.unit ? ` ${chart.unit}` : "";
  const ends = low === null || high === null ? "" : `, 95 % interval ${(100 * low).toFixed(1)} to ${percent(high)}`;
  return [`${chart.axis} ${digits(level)}${unit}`, `${chart.metric} ${percent(score)}${ends}`];
}

function drawChart(home, chart) {
  const shown = chart.lines.map(() => true);
  const at = chart.lines.map(() => 0);
  const legend = element("div", { class: "legend", role: "group", "aria-label": `Lines of ${chart.title}` }, home);
  const stage = element("div", { class: "stage" }, home);
  const tip = element("div", { class: "tip", "aria-hidden": "true", hidden: "" }, home);

  chart.lines.forEach((line, place) => {
    const button = element("button", { type: "button", "aria-pressed": "true" }, legend);
    const sample = shape("svg", { viewBox: "0 0 34 12", "aria-hidden": "true", style: `--c:var(--c${place % COLOURS})` }, button);
    shape("path", { d: "M0 6H34", class: "line", style: "stroke:var(--c);stroke-width:2", "stroke-dasharray": DASHES[place % DASHES.length] }, sample);
    mark(place, 17, 6, 3.5, { style: "fill:var(--c)" }, sample);
    button.append(line.name);
    button.addEventListener("click", () => {
      shown[place] = !shown[place];
      button.setAttribute("aria-pressed", String(shown[place]));
      draw();
    });
  });

  function draw() {
    const focused = stage.contains(document.activeElement) ? document.activeElement.dataset.place : null;
    stage.replaceChildren();
    tip.hidden = true;
    const width = Math.max(280, home.clientWidth);
    const height = Math.min(380, Math.max(260, width * 0.5));
    const box = { left: 54, right: width - 14, top: 10, bottom: height - 46 };
    const levels = chart.lines.flatMap((line) => line.points.map((point) => point[0])).concat(chart.marks.map((found) => found[0]));
    if (levels.length === 0) return;
    const [low, high] = [Math.min(...levels), Math.max(...levels)];
    const scale = chart.log ? Math.log : (value) => value;
    const span = scale(high) - scale(low) || 1;
    const inset = 22;
    const x = (value) => {
      const share = (scale(value) - scale(low)) / span;
      return box.left + inset + (chart.harder === "down" ? 1 - share : share) * (box.right - box.left - inset - 6);
    };
    const y = (share) => box.bottom - share * (box.bottom - box.top);
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label": chart.title }, stage);
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      shape("path", { d: `M${box.left} ${y(share)}H${box.right}`, class: "grid" }, svg);
      shape("text", { x: box.left - 12, y: y(share) + 4, "text-anchor": "end" }, svg, `${100 * share}`);
    }
    for (const value of ticksOf(low, high, chart.log)) {
      shape("path", { d: `M${x(value)} ${box.bottom}v5`, class: "frame" }, svg);
      shape("text", { x: x(value), y: box.bottom + 19, "text-anchor": "middle" }, svg, digits(value));
    }
    shape("path", { d: `M${box.left} ${box.top}V${box.bottom}H${box.right}`, class: "frame" }, svg);
    chart.marks.forEach(([level, word]) => {
      const after = x(level) + 120 < box.right;
      shape("path", { d: `M${x(level)} ${box.top}V${box.bottom}`, class: "ceiling", "stroke-dasharray": "2 3" }, svg);
      shape("text", { x: x(level) + (after ? 5 : -5), y: box.top + 12, "text-anchor": after ? "start" : "end" }, svg, word);
    });
    const unit = chart.unit ? ` (${chart.unit})` : "";
    shape("text", { x: (box.left + box.right) / 2, y: height - 8, "text-anchor": "middle" }, svg, `${chart.axis}${unit}`);
    shape("text", { transform: `translate(12 ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, svg, `${chart.metric} (%)`);
    const here = shape("circle", { r: 8, class: "here", visibility: "hidden" });

    const tell = (place, index) => {
      const line = chart.lines[place];
      const [level, score] = line.points[index];
      here.setAttribute("cx", x(level));
      here.setAttribute("cy", y(score));
      here.setAttribute("visibility", "visible");
      tip.replaceChildren(element("strong", {}, null, line.name));
      for (const part of words(chart, line, index)) element("div", {}, tip, part);
      tip.hidden = false;
      const beside = x(level) + 14 + tip.offsetWidth > home.clientWidth ? x(level) - 14 - tip.offsetWidth : x(level) + 14;
      tip.style.left = `${Math.max(0, beside)}px`;
      tip.style.top = `${stage.offsetTop + Math.max(0, y(score) - tip.offsetHeight - 6)}px`;
    };
    const hush = () => {
      here.setAttribute("visibility", "hidden");
      tip.hidden = true;
    };

    chart.lines.forEach((line, place) => {
      if (!shown[place] || line.points.length === 0) return;
      const last = line.points.length - 1;
      const group = shape("g", {
        role: "slider", tabindex: "0", "data-place": place, style: `--c:var(--c${place % COLOURS})`,
        "aria-label": `${line.name}${line.clean === null ? "" : `, clean ${percent(line.clean)}`}`,
        "aria-valuemin": 0, "aria-valuemax": last,
      }, svg);
      const banded = line.points.filter((point) => point[2] !== null && point[3] !== null);
      const upper = banded.map((point) => `${x(point[0])} ${y(point[3])}`);
      const lower = banded.map((point) => `${x(point[0])} ${y(point[2])}`).reverse();
      if (banded.length > 1) shape("path", { class: "band", d: `M${[...upper, ...lower].join("L")}z` }, group);
      shape("path", { class: "line", "stroke-dasharray": DASHES[place % DASHES.length], d: `M${line.points.map((point) => `${x(point[0])} ${y(point[1])}`).join("L")}` }, group);
      for (const point of line.points) mark(place, x(point[0]), y(point[1]), 3.2, { class: "point" }, group);
      if (line.clean !== null) mark(place, box.left, y(line.clean), 4.5, { class: "clean" }, group);
      const move = (index) => {
        at[place] = Math.min(last, Math.max(0, index));
        group.setAttribute("aria-valuenow", at[place]);
        group.setAttribute("aria-valuetext", words(chart, line, at[place]).join(", "));
      };
      move(at[place]);
      group.addEventListener("focus", () => tell(place, at[place]));
      group.addEventListener("blur", hush);
      group.addEventListener("keydown", (event) => {
        const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -last, End: last };
        if (!(event.key in steps)) return;
        event.preventDefault();
        move(at[place] + steps[event.key]);
        tell(place, at[place]);
      });
      if (focused === String(place)) group.focus();
    });
    svg.append(here);

    svg.addEventListener("pointermove", (event) => {
      const frame = svg.getBoundingClientRect();
      let best = null;
      chart.lines.forEach((line, place) => {
        if (!shown[place]) return;
        line.points.forEach((point, index) => {
          const far = Math.hypot(x(point[0]) - event.clientX + frame.left, y(point[1]) - event.clientY + frame.top);
          if (best === null || far < best.far) best = { far, place, index };
        });
      });
      if (best && best.far < 60) tell(best.place, best.index);
      else hush();
    });
    svg.addEventListener("pointerleave", hush);
  }

  draw();
  let drawn = home.clientWidth;
  new ResizeObserver(() => {
    if (home.clientWidth !== drawn) {
      drawn = home.clientWidth;
      draw();
    }
  }).observe(home);
}

const charts = JSON.parse(document.getElementById("charts").textContent);
for (const chart of charts) drawChart(document.querySelector(`[data-chart="${chart.key}"]`), chart);
