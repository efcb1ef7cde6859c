/* The heat map: a button for each module, coloured; one tab stop, arrow keys move. */

const LOOSE = 3000;
const narrow = matchMedia("(max-width: 700px)");

const mark = (at) => {
  if (data.statuses && measure().name === "change") {
    return { "only in A": "A", "only in B": "B", "not comparable": "?" }[data.statuses[at]] || "";
  }
  return "";
};

const said = (at) => {
  const value = measure().values[at];
  const place = placeOf(at);
  const parts = [data.names[at]];
  if (value === null) {
    parts.push(data.statuses ? `no ${measure().name}` : `no score: ${measure().why[at] || "not told"}`);
  } else {
    parts.push(`${measure().name} ${value}`, `place ${place} of ${state.order.length}`);
  }
  if (data.statuses) parts.push(data.statuses[at]);
  if (state.chosen.has(at)) parts.push("chosen");
  return parts.join(", ");
};

const cellOf = (at) => html("button", {
  type: "button", class: "cell", "data-at": at, tabindex: "-1", role: "gridcell",
});

const mapOf = (stack, number) => {
  const lines = stack.projections.map(() => []);
  data.places.forEach((place, at) => {
    if (place && place[0] === number) lines[place[2]].push([place[1], at]);
  });
  const every = stack.layers.length > 40 ? 10 : stack.layers.length > 16 ? 5 : 1;
  const heads = stack.layers.map((layer, l) => {
    const minor = every > 1 && Number(layer) % every !== 0;
    const head = html("span", { role: "columnheader", class: minor ? "layer minor" : "layer" }, layer);
    head.style.setProperty("--l", l);
    return head;
  });
  const rows = stack.projections.map((projection, p) => {
    const head = html("span", { role: "rowheader", class: "projection", title: projection }, projection);
    head.style.setProperty("--p", p);
    return html("div", { role: "row" }, head, ...lines[p].sort((a, b) => a[0] - b[0]).map(([l, at]) => {
      const cell = cellOf(at);
      cell.style.setProperty("--l", l);
      cell.style.setProperty("--p", p);
      return cell;
    }));
  });
  const grid = html("div", { role: "grid", class: "grid", "aria-label": `${stack.path}: layers and projections` },
    html("div", { role: "row" }, html("span", { role: "columnheader" }), ...heads), ...rows);
  grid.style.setProperty("--layers", stack.layers.length);
  grid.style.setProperty("--projections", stack.projections.length);
  return html("div", { class: "stack" }, html("h3", { class: "name" }, stack.path || "layers"),
    html("div", { class: "scroll" }, grid));
};

const looseOf = (modules) => {
  const cells = modules.slice(0, LOOSE).map((at) => {
    const cell = cellOf(at);
    cell.setAttribute("role", "button");
    cell.append(html("span", { class: "name" }, data.names[at]));
    return cell;
  });
  const more = modules.length - cells.length;
  return html("div", { class: "stack" }, html("h3", {}, "Not in a layer, or not in a regular one"),
    html("div", { class: "loose", role: "group", "aria-label": "modules outside the layers" }, ...cells),
    more ? html("p", { class: "hint" }, `… and ${more} more, in the table below`) : null);
};

const drawMaps = () => {
  const loose = data.names.map((_, at) => at).filter((at) => !data.places[at]);
  byId("maps").replaceChildren(...data.stacks.map(mapOf), ...(loose.length ? [looseOf(loose)] : []));
  state.cells = new Map([...byId("maps").querySelectorAll(".cell")].map((c) => [Number(c.dataset.at), c]));
  const first = state.cells.get(state.module) || state.cells.values().next().value;
  if (first) first.tabIndex = 0;
};

const heatOf = (at) => {
  const value = measure().values[at];
  if (value === null) return null;
  if (state.by === "place") {
    return state.order.length > 1 ? 1 - (placeOf(at) - 1) / (state.order.length - 1) : 1;
  }
  const heat = between(value, state.low, state.high);
  return measure().sign > 0 ? heat : 1 - heat;
};

const select = (cell, shown) => {
  cell.classList.toggle("shown", shown);
  cell.setAttribute(cell.getAttribute("role") === "gridcell" ? "aria-selected" : "aria-pressed", shown);
};

const paintMaps = () => {
  for (const [at, cell] of state.cells) {
    const heat = heatOf(at);
    cell.classList.toggle("none", heat === null);
    cell.classList.toggle("chosen", state.chosen.has(at));
    cell.setAttribute("aria-label", said(at));
    select(cell, at === state.module);
    if (heat === null) cell.style.removeProperty("--colour");
    else paint(cell, heat);
    if (cell.parentElement.className !== "loose") {
      cell.replaceChildren(...(mark(at) ? [html("span", {}, mark(at))] : []));
    }
  }
};

const drawLegend = () => {
  const ends = measure().sign > 0 ? [state.low, state.high] : [state.high, state.low];
  const texts = state.by === "place" ? ["last place", "first place"] : ends.map(number);
  const ramp = html("span", { class: "ramp" });
  ramp.style.background = `linear-gradient(to right, ${SCALE.map((_, n) => colour(n / (SCALE.length - 1))).join(", ")})`;
  ramp.style.printColorAdjust = "exact";
  const key = (kind, text) => html("span", { class: "key" }, html("span", { class: `cell ${kind}` }), text);
  const keys = [];
  if (state.order.length) {
    keys.push(html("span", { class: "key" }, texts[0], ramp, `${texts[1]}${data.statuses ? "" : ", to look at first"}`));
  }
  if (!data.statuses) keys.push(key("chosen", "chosen"));
  if (state.order.length < data.names.length) keys.push(key("none", data.statuses ? "none" : "no score"));
  if (data.statuses) keys.push("A, B: in one adapter only");
  byId("legend").replaceChildren(...keys);
};

/* The cell that an arrow key leads to: the next one in that direction that holds a module. */
const next = (cell, key) => {
  const at = Number(cell.dataset.at);
  const place = data.places[at];
  const loose = [...state.cells.keys()].filter((one) => !data.places[one]);
  if (!place) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[key];
    if (step) return loose[loose.indexOf(at) + step];
    return { Home: loose[0], End: loose.at(-1) }[key];
  }
  const turn = narrow.matches ? [2, 1] : [1, 2];
  const axis = ["ArrowLeft", "ArrowRight", "Home", "End"].includes(key) ? turn[0] : turn[1];
  const same = axis === 1 ? 2 : 1;
  const line = [...state.cells.keys()].filter((one) => {
    const other = data.places[one];
    return other && other[0] === place[0] && other[same] === place[same];
  }).sort((a, b) => data.places[a][axis] - data.places[b][axis]);
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[key];
  return step ? line[line.indexOf(at) + step] : key === "Home" ? line[0] : line.at(-1);
};

const KEYS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"];
const onKey = (event) => {
  const cell = event.target.closest(".cell");
  if (!cell || !KEYS.includes(event.key)) return;
  event.preventDefault();
  const to = state.cells.get(next(cell, event.key));
  if (!to) return;
  cell.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
};

const showTip = (event) => {
  const cell = event.target.closest("#maps .cell");
  const tip = byId("tip");
  tip.hidden = !cell;
  if (!cell) return;
  tip.textContent = said(Number(cell.dataset.at));
  const box = cell.getBoundingClientRect();
  const size = tip.getBoundingClientRect();
  const above = box.top - size.height - 10;
  tip.style.left = `${Math.max(4, Math.min(box.left, innerWidth - size.width - 4))}px`;
  tip.style.top = `${above > 4 ? above : box.bottom + 10}px`;
};
const hideTip = () => { byId("tip").hidden = true; };

const listenToMaps = () => {
  const maps = byId("maps");
  maps.addEventListener("keydown", onKey);
  maps.addEventListener("click", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) showModule(Number(cell.dataset.at), true);
  });
  for (const kind of ["pointerover", "focusin"]) maps.addEventListener(kind, showTip);
  for (const kind of ["pointerleave", "focusout"]) maps.addEventListener(kind, hideTip);
  addEventListener("scroll", hideTip, true);
  addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
};
