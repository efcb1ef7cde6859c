/* Elements, numbers and colours. Text goes into text nodes alone, never into markup. */

const byId = (id) => document.getElementById(id);

const build = (node, attributes, children) => {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
};
const html = (tag, attributes = {}, ...children) =>
  build(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const number = (value) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(3);
  return String(size >= 1e4 ? Math.round(value) : Number(value.toPrecision(4)));
};
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const plural = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

/* cividis (Nuñez, Anderton and Renslow, 2018): dark blue to yellow, its lightness rises evenly. */
const SCALE = [
  [0, 34, 78], [8, 51, 112], [53, 69, 108], [79, 87, 108], [102, 105, 112], [125, 124, 120],
  [148, 142, 119], [174, 163, 113], [200, 184, 102], [229, 207, 82], [254, 232, 56],
];
const colour = (heat) => {
  const at = Math.min(Math.max(heat, 0), 1) * (SCALE.length - 1);
  const low = SCALE[Math.floor(at)];
  const high = SCALE[Math.ceil(at)];
  return `rgb(${low.map((c, n) => Math.round(c + (high[n] - c) * (at % 1))).join(" ")})`;
};
const paint = (node, heat) => {
  node.style.setProperty("--colour", colour(heat));
  node.style.setProperty("--on", heat > 0.5 ? "#000" : "#fff");
};

/* Where a value lies between two ends, in [0, 1]; also for ends whose distance overflows. */
const between = (value, low, high) => (high > low ? (value / 2 - low / 2) / (high / 2 - low / 2) : 0.5);

/* One or two spectra: σ by number, from zero up. */
const spectra = (series, labels) => {
  const names = Object.keys(series).filter((name) => series[name].length).slice(0, 2);
  if (!names.length) return null;
  const [width, height, left, right, top, bottom] = [340, 180, 48, 10, 10, 24];
  const most = Math.max(...names.map((name) => series[name].length));
  const largest = Math.max(...names.map((name) => series[name][0])) || 1;
  const x = (at) => left + ((width - left - right) * (at + 0.5)) / most;
  const y = (value) => height - bottom - ((height - top - bottom) * value) / largest;
  const parts = [0, 0.5, 1].flatMap((share) => [
    svg("line", { class: "axis", x1: left, x2: width - right, y1: y(share * largest), y2: y(share * largest) }),
    svg("text", { x: left - 5, y: y(share * largest) + 4, "text-anchor": "end" }, number(share * largest)),
  ]);
  const step = Math.ceil(most / 8);
  for (let at = 0; at < most; at += step) {
    parts.push(svg("text", { x: x(at), y: height - 6, "text-anchor": "middle" }, String(at + 1)));
  }
  names.forEach((name, which) => {
    const line = series[name].map((value, at) => `${x(at)},${y(value)}`).join(" ");
    parts.push(svg("polyline", { class: which ? "two" : "one", points: line }));
    series[name].forEach((value, at) => parts.push(dot(x(at), y(value), which, most)));
  });
  const told = names.map((name) => `${labels[name] || name}: ${series[name].slice(0, 8).map(number).join(", ")}`);
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": told.join("; ") }, ...parts);
};
const dot = (x, y, which, count) => {
  const size = count > 40 ? 1.6 : 3.2;
  return which
    ? svg("rect", { class: "two-mark", x: x - size, y: y - size, width: 2 * size, height: 2 * size })
    : svg("circle", { class: "one-mark", cx: x, cy: y, r: size });
};

/* All scores as ticks on a line, one of them marked. */
const strip = (values, value, chosen) => {
  const [width, height, edge] = [340, 58, 12];
  const known = values.filter((one) => one !== null);
  const [low, high] = extent(known);
  const x = (one) => edge + (width - 2 * edge) * between(one, low, high);
  const ticks = values.map((one, at) => one === null ? null :
    svg("line", { class: chosen.has(at) ? "tick chosen" : "tick", x1: x(one), x2: x(one), y1: 16, y2: 38 }));
  const at = x(value);
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label":
    `${number(value)} among ${known.length} values from ${number(low)} to ${number(high)}` },
    svg("line", { class: "axis", x1: edge, x2: width - edge, y1: 38, y2: 38 }), ...ticks,
    svg("path", { class: "mark", d: `M${at - 6},2h12l-6,11z` }),
    svg("text", { x: edge, y: 53 }, number(low)),
    svg("text", { x: width - edge, y: 53, "text-anchor": "end" }, number(high)));
};
const extent = (values) => {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return [low, high];
};
