/* The table: sorted by any column, narrowed by a search. */

const ROWS = 2000;

const columnsOf = () => {
  const name = { title: "module", text: true, value: (at) => data.names[at], order: (at) => at };
  if (data.kind === "compare") {
    return [name, { title: "status", text: true, value: (at) => data.statuses[at] },
      ...data.measures.map((one) => ({ title: one.name, figure: (at) => one.values[at] }))];
  }
  const shape = [
    { title: "r", figure: (at) => data.rank[at] },
    { title: "m × n", value: (at) => data.shape[at].join(" × "), order: (at) => data.shape[at][0] * data.shape[at][1] }];
  if (data.kind === "rank") {
    return [name, ...data.measures.flatMap((one, which) => [{
      title: one.name, figure: (at) => state.places[which].get(at) ?? null,
      value: (at) => one.values[at] === null ? "–" : `${state.places[which].get(at)} · ${number(one.values[at])}`,
    }]), ...shape];
  }
  return [
    { title: "#", figure: (at) => state.places[0].get(at) ?? null }, name,
    { title: "score", figure: (at) => measure().values[at], value: (at) => scoreText(at) },
    { title: "z", figure: (at) => state.z[0].get(at) ?? null, value: (at) => state.z[0].get(at)?.toFixed(1) ?? "–" },
    { title: "‖ΔW‖", figure: (at) => data.norm[at] }, ...shape];
};
const scoreText = (at) => {
  const value = measure().values[at];
  if (value === null) return "none";
  return Math.abs(value) < 1000 && Math.abs(value) >= 0.01 ? value.toFixed(4) : number(value);
};

const keyOf = (column) => column.order || column.figure || column.value;

/* A missing figure comes last, whichever way the column is sorted. */
const compared = (key, down) => (a, b) => {
  const [x, y] = [key(a), key(b)];
  if (x === null || y === null) return (x === null) - (y === null) || a - b;
  const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
  return (down ? -order : order) || a - b;
};

const rowOf = (at) => html("tr", { "data-at": at, class: state.chosen.has(at) ? "chosen" : null },
  ...state.columns.map((column) => {
    const text = column.value ? column.value(at) : number(column.figure(at));
    if (column.title !== "module") return html("td", { class: column.text ? "text" : null }, text);
    const button = html("button", { type: "button", class: "name" }, text);
    const label = state.chosen.has(at) ? html("small", {}, " chosen") : null;
    return html("td", { class: "text" }, button, label);
  }));

const drawRows = () => {
  const wanted = byId("search").value.toLowerCase();
  const column = state.columns[state.sort.column];
  const found = data.names.map((_, at) => at).filter((at) => data.names[at].toLowerCase().includes(wanted));
  found.sort(compared(keyOf(column), state.sort.down));
  byId("table").tBodies[0].replaceChildren(...found.slice(0, ROWS).map(rowOf));
  const cut = found.length > ROWS ? `, the first ${ROWS} shown` : "";
  byId("count").textContent = `${found.length} of ${plural(data.names.length, "module")}${cut}`;
};

const drawHead = () => {
  const row = html("tr", {}, ...state.columns.map((column, at) => {
    const sorted = state.sort.column === at;
    const arrow = sorted ? (state.sort.down ? " ▼" : " ▲") : "";
    const button = html("button", { type: "button" }, `${column.title}${arrow}`);
    button.addEventListener("click", () => {
      state.sort = { column: at, down: sorted ? !state.sort.down : false };
      drawHead();
      drawRows();
      byId("table").tHead.querySelectorAll("button")[at].focus();
    });
    return html("th", { scope: "col", class: column.text ? "text" : null,
      "aria-sort": sorted ? (state.sort.down ? "descending" : "ascending") : "none" }, button);
  }));
  byId("table").tHead.replaceChildren(row);
};

const markRows = () => {
  for (const row of byId("table").tBodies[0].rows) {
    const at = Number(row.dataset.at);
    const chosen = state.chosen.has(at);
    if (row.classList.contains("chosen") !== chosen) row.replaceWith(rowOf(at));
  }
};

const listenToRows = () => {
  byId("search").addEventListener("input", drawRows);
  byId("table").addEventListener("click", (event) => {
    const row = event.target.closest("tbody tr");
    if (!row || !event.target.closest("button")) return;
    showModule(Number(row.dataset.at), true);
    if (!matchMedia("(max-width: 900px)").matches) {
      byId("map").scrollIntoView({ block: "nearest" });
    }
  });
};
