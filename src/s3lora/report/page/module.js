/* One module: its numbers, where it stands among the others, its spectrum. */

const SPECTRA = {
  update: "the update", rebuild: "its robust rebuild", a: "the update in A", b: "the update in B",
};

const numbers = (pairs) => html("dl", { class: "numbers" }, ...pairs
  .filter(([, value]) => value !== null && value !== undefined)
  .flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, String(value))]));

const scoresOf = (at) => [
  ...(data.statuses ? [["status", data.statuses[at]]] : []),
  ...data.measures.flatMap((_, which) => scoreOf(which, at))];

const factsOf = (at) => {
  const shape = data.shape[at];
  const pairs = Object.entries(measure().parts || {}).map(([key, values]) => [key, values[at] === null ? null : number(values[at])]);
  if (data.norm[at] !== null && !(measure().parts && measure().parts.frobenius)) pairs.push(["‖ΔW‖", number(data.norm[at])]);
  if (data.rank[at] !== null) {
    pairs.push(["rank r", data.rank[at]], ["shape m × n", `${shape[0]} × ${shape[1]}`],
      ["parameters", parametersOf(at).toLocaleString("en")]);
  }
  return pairs;
};

const scoreOf = (which, at) => {
  const one = data.measures[which];
  const value = one.values[at];
  if (value === null) return [[one.name, data.statuses ? "–" : `none: ${one.why[at] || "not told"}`]];
  if (data.kind === "compare") return [[one.name, number(value)]];
  const place = state.places[which].get(at);
  if (data.kind === "rank") return [[one.name, `${number(value)} · place ${place}`]];
  const z = state.z[which].get(at);
  return [["score", String(value)], ["place", `${place} of ${state.order.length}`],
    ["robust z", z === undefined ? null : z.toFixed(2)]];
};

const spectrumOf = (at) => {
  const drawn = spectra(data.spectra[at], SPECTRA);
  if (!drawn) return [html("p", { class: "caption" }, "No spectrum was taken of it.")];
  const names = Object.keys(data.spectra[at]).filter((name) => data.spectra[at][name].length).slice(0, 2);
  const shown = Math.max(...names.map((name) => data.spectra[at][name].length));
  const key = (name, which) => html("span", { class: "key" }, svg("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" },
    svg("line", { class: which ? "two" : "one", x1: 0, x2: 26, y1: 6, y2: 6 }), dot(13, 6, which, 1)), SPECTRA[name] || name);
  const cut = data.lengths[at] > shown ? `, the first ${shown} of ${data.lengths[at]}` : "";
  return [html("p", { class: "caption" }, `Singular values σ by number${cut}`),
    html("p", { class: "legend spectra-key" }, ...names.map(key)), drawn];
};

const drawModule = () => {
  const at = state.module;
  if (at === null) {
    byId("module").replaceChildren(html("p", {}, "No module to show."));
    return;
  }
  const value = measure().values[at];
  const among = value === null ? [] : [
    html("p", { class: "caption" }, `Where it stands by ${measure().name}`),
    strip(measure().values, value, state.chosen)];
  byId("module").replaceChildren(
    html("h3", { id: "module-name", class: "name" }, data.names[at]),
    numbers(scoresOf(at)), ...among, ...spectrumOf(at), numbers(factsOf(at)));
};

const showModule = (at, asked = false) => {
  const before = state.cells.get(state.module);
  state.module = at;
  for (const cell of [before, state.cells.get(at)]) {
    if (cell) select(cell, cell === state.cells.get(at));
  }
  drawModule();
  if (asked && matchMedia("(max-width: 900px)").matches) {
    hideTip();
    byId("module").scrollIntoView({ block: "start" });
  }
};
