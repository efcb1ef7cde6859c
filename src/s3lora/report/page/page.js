/* What the page is in, and how its parts follow it. */

const data = JSON.parse(byId("data").textContent);
const state = {
  measure: 0, by: "value", module: null, cells: new Map(), chosen: new Set(),
  among: new Set(data.projections.map((_, at) => at)),
  policy: { kind: data.choice?.kind, value: data.choice?.value },
  sort: { column: data.kind === "rank" ? 1 : 0, down: false },
};
const measure = () => data.measures[state.measure];
const placeOf = (at) => state.places[state.measure].get(at);

state.pairs = data.measures.map((one) =>
  one.values.map((value, at) => [at, value]).filter((pair) => pair[1] !== null));
state.places = data.measures.map((one, which) =>
  new Map(ranked(state.pairs[which], one.sign).map((pair, at) => [pair[0], at + 1])));
state.z = state.pairs.map(robustZ);
state.columns = columnsOf();

const takeMeasure = (which) => {
  state.measure = which;
  state.order = ranked(state.pairs[which], measure().sign).map((pair) => pair[0]);
  [state.low, state.high] = extent(state.pairs[which].map((pair) => pair[1]));
  if (data.kind === "compare") [state.low, state.high] = [0, Math.max(state.high, 0) || 1];
};

/* After anything that changes what is chosen. */
const refresh = () => {
  choose();
  drawChoice();
  paintMaps();
  drawModule();
  markRows();
  if (data.kind === "rank") drawScatter();
};

const options = (select, names) => select.replaceChildren(...names.map((name, at) => html("option", { value: at }, name)));

const drawScatter = () => {
  if (!byId("scatter")) return;
  const [across, up] = [byId("across"), byId("up")].map((select) => Number(select.value));
  const [size, edge] = [360, 34];
  const most = Math.max(...state.places.map((places) => places.size), 1);
  const at = (place) => edge + ((size - 2 * edge) * (place - 1)) / Math.max(most - 1, 1);
  const dots = data.names.map((name, module) => {
    const [x, y] = [state.places[across].get(module), state.places[up].get(module)];
    if (x === undefined || y === undefined) return null;
    return svg("circle", { class: state.chosen.has(module) ? "dot chosen" : "dot", r: 4, cx: at(x), cy: size - at(y) },
      svg("title", {}, `${name}: ${x}, ${y}`));
  });
  const label = `Places by ${data.measures[across].name} and by ${data.measures[up].name}`;
  byId("scatter").replaceChildren(
    html("p", { class: "caption" }, `${label}; first places are at the lower left, chosen modules in the other colour.`),
    svg("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": label },
      svg("rect", { class: "axis", x: edge - 8, y: edge - 8, width: size - 2 * edge + 16, height: size - 2 * edge + 16 }), ...dots,
      svg("text", { x: size / 2, y: size - 6, "text-anchor": "middle" }, `place by ${data.measures[across].name} →`),
      svg("text", { x: 14, y: size / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${size / 2})` }, `place by ${data.measures[up].name} →`)));
};

const startScatter = () => {
  if (data.kind !== "rank" || !byId("scatter")) return;
  ["across", "up"].forEach((id, which) => {
    options(byId(id), data.measures.map((one) => one.name));
    byId(id).value = Math.min(which, data.measures.length - 1);
    byId(id).addEventListener("change", drawScatter);
  });
  for (const cell of document.querySelectorAll("[data-rho]")) {
    if (cell.dataset.rho === "") continue;
    const rho = Number(cell.dataset.rho);
    paint(cell, rho);
    cell.style.background = colour(rho);
    cell.style.color = rho > 0.5 ? "#000" : "#fff";
  }
};

const startTheme = () => {
  const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const tell = () => { byId("theme").textContent = dark() ? "Light" : "Dark"; };
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    tell();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
  tell();
};

const startMeasures = () => {
  options(byId("measure"), data.measures.map((one) => one.name));
  byId("measure").parentElement.hidden = data.measures.length < 2;
  byId("measure").addEventListener("change", (event) => {
    takeMeasure(Number(event.target.value));
    if (choosing()) {
      state.among = new Set(data.projections.map((_, at) => at));
      state.policy = { kind: "top-k", value: Math.min(state.chosen.size, state.order.length) };
      drawKinds();
      drawAmong();
      drawAmount();
    }
    drawLegend();
    refresh();
  });
  byId("by").addEventListener("change", (event) => {
    state.by = event.target.value;
    drawLegend();
    paintMaps();
  });
};

/* The module that changed most; else the first one that is not the same. */
const differing = () => {
  const [most] = state.order;
  if (measure().values[most] > 0) return most;
  return Math.max(data.statuses.findIndex((status) => status !== "same"), 0);
};

const start = () => {
  startTheme();
  if (!data.names.length) return;
  takeMeasure(0);
  state.policy.value = data.kind === "rank" ? Math.min(data.choice.value, state.order.length) : data.choice?.value;
  if (data.choice?.among) state.among = new Set(data.choice.among);
  for (const id of ["map", "choice", "rows"]) if (byId(id)) byId(id).hidden = false;
  choose();
  state.module = data.kind === "compare" ? differing() : state.order[0] ?? 0;
  startMeasures();
  startScatter();
  drawMaps();
  drawLegend();
  listenToMaps();
  if (choosing()) {
    drawKinds();
    drawAmong();
    drawAmount();
    listenToChoice();
  }
  drawHead();
  drawRows();
  listenToRows();
  refresh();
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
};

start();
