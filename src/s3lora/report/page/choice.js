/* The control for the policy: which modules would go, how much that is, and the command for it. */

const KINDS = {
  "top-k": ["the top K", "How many modules (K)", "--top-k"],
  threshold: ["a threshold", "Score at or beyond (T)", "--threshold"],
  outliers: ["outliers", "Robust standard deviations from the median (Z)", "--outliers"],
};

const choosing = () => data.kind !== "compare";
const scored = () => {
  const pairs = [];
  measure().values.forEach((value, at) => { if (value !== null) pairs.push([at, value]); });
  return pairs;
};
const present = () => [...new Set(scored().map(([at]) => data.projection[at]))].sort((a, b) => a - b);
const kept = () => scored().filter(([at]) => state.among.has(data.projection[at]));
const parametersOf = (at) => data.rank[at] * (data.shape[at][0] + data.shape[at][1]);

const choose = () => {
  if (!choosing()) return;
  const { kind, value } = state.policy;
  const whole = kind === "asked" ? data.choice.chosen : chosenBy(kind, value, kept(), measure().sign);
  state.chosen = new Set(whole);
};

/* A step that gives about 200 positions, a power of ten; the ends widened to whole steps. */
const span = (low, high) => {
  const step = 10 ** Math.floor(Math.log10((high - low) / 200));
  if (!Number.isFinite(step) || step === 0 || high - low === 0) return [low, high, "any"];
  const round = (value) => Number(value.toPrecision(12));
  return [round(Math.floor(low / step) * step), round(Math.ceil(high / step) * step), round(step)];
};

const rangeOf = (kind) => {
  if (kind === "top-k") return [0, kept().length, 1];
  if (kind === "threshold") return state.order.length ? span(state.low, state.high) : [0, 1, "any"];
  const [low, high] = extent([...robustZ(kept()).values(), 0]);
  return [0, Math.max(8, Math.ceil(measure().sign > 0 ? high : -low)), 0.1];
};

const startOf = (kind) => {
  if (kind === "top-k") return Math.min(Math.max(state.chosen.size, 1), kept().length);
  if (kind === "outliers") return 3;
  const places = ranked(scored(), measure().sign);
  const at = Math.min(Math.max(state.chosen.size, 1), places.length) - 1;
  return at < 0 ? 0 : places[at][1];
};

const drawAmount = () => {
  const { kind, value } = state.policy;
  byId("amount").hidden = kind === "asked";
  byId("among").parentElement.hidden = kind === "asked" || present().length < 2;
  if (kind === "asked") return;
  const [low, high, step] = rangeOf(kind);
  Object.assign(byId("slider"), { min: low, max: high, step, value });
  Object.assign(byId("number"), { step: kind === "top-k" ? 1 : "any", value });
  byId("number").min = kind === "top-k" ? 0 : "";
  byId("number").max = kind === "top-k" ? high : "";
  byId("amount-label").textContent = KINDS[kind][1];
};

const take = (text, from) => {
  const { kind } = state.policy;
  let value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) return;
  if (kind === "top-k") value = Math.min(Math.max(Math.trunc(value), 0), kept().length);
  state.policy.value = value;
  const other = byId(from === "slider" ? "number" : "slider");
  other.value = value;
  refresh();
};

const drawKinds = () => {
  const kinds = Object.keys(KINDS).concat(data.choice.kind === "asked" ? ["asked"] : []);
  byId("kinds").replaceChildren(...kinds.map((kind) => {
    const input = html("input", { type: "radio", name: "kind", value: kind });
    input.checked = kind === state.policy.kind;
    input.addEventListener("change", () => {
      const value = kind === "asked" ? null : startOf(kind);
      state.policy = { kind, value };
      drawAmount();
      refresh();
    });
    return html("label", {}, input, ` ${kind === "asked" ? `as it was asked for (${data.choice.name})` : KINDS[kind][0]}`);
  }));
};

const drawAmong = () => {
  byId("among").replaceChildren(...present().map((at) => {
    const input = html("input", { type: "checkbox", value: at });
    input.checked = state.among.has(at);
    input.addEventListener("change", () => {
      if (input.checked) state.among.add(at);
      else state.among.delete(at);
      if (state.policy.kind === "top-k") {
        state.policy.value = Math.min(state.policy.value, kept().length);
      }
      drawAmount();
      refresh();
    });
    return html("label", {}, input, " ", html("span", { class: "name" }, data.projections[at].name || "(no name)"));
  }));
};

/* The words that ask for the choice; null if they cannot be written. */
const words = () => {
  const { kind, value } = state.policy;
  if (kind === "asked") return data.choice.words;
  const flag = KINDS[kind][2];
  if (typeof value !== "number" || !Number.isFinite(value)) return null;
  const told = `${flag}${value < 0 ? "=" : " "}${value}`;
  const all = present();
  const some = all.filter((at) => state.among.has(at));
  if (some.length === all.length) return told;
  const parts = some.map((at) => data.projections[at].word);
  return parts.includes(null) || !parts.length ? null : `${told} --among=${parts.join(",")}`;
};

const commandOf = () => {
  const frame = measure().command;
  const asked = words();
  return frame && asked !== null ? `${frame.head} ${asked} ${frame.tail}` : "";
};

const noteOf = () => {
  if (state.policy.kind !== "asked" && !kept().length) return "No projection is ticked: there is nothing to choose among.";
  if (!commandOf()) return "A name in this choice cannot be written on a command line; choose in the library.";
  if (!state.chosen.size) return "Nothing is chosen, so the command changes nothing.";
  if (data.drops && state.chosen.size === data.names.length) {
    return "No module would stay; prune refuses that. Use the base model without the adapter.";
  }
  return measure().command.note;
};

const share = (values) => {
  let [part, whole] = [0, 0];
  values.forEach((value, at) => {
    if (value === null) return;
    whole += value;
    if (state.chosen.has(at)) part += value;
  });
  return whole > 0 ? part / whole : null;
};

const sumOf = () => {
  const told = [`${state.chosen.size} of ${plural(data.names.length, "module")}`];
  const parameters = share(data.names.map((_, at) => parametersOf(at)));
  if (parameters !== null) told.push(`${percent(parameters)} of the parameters`);
  const largest = Math.max(...extent(data.norm.map((norm) => norm ?? 0)), 0);
  const known = data.norm.filter((norm) => norm !== null).length;
  const energy = share(data.norm.map((norm) => (norm === null || !largest ? null : (norm / largest) ** 2)));
  if (energy !== null) {
    const of = known < data.norm.length ? ` (known of ${known} modules)` : "";
    told.push(`${percent(energy)} of Σ‖ΔW‖²${of}`);
  }
  return `${told.join(" · ")}`;
};

const drawChoice = () => {
  if (!choosing()) return;
  byId("sum").textContent = sumOf();
  byId("command").textContent = commandOf();
  byId("command-box").hidden = !commandOf();
  byId("command-note").textContent = noteOf();
  byId("chosen").replaceChildren(...[...state.chosen].slice(0, LOOSE)
    .map((at) => html("li", { "data-at": at }, html("span", { class: "name" }, data.names[at]))));
};

const copy = async () => {
  const button = byId("copy");
  try {
    await navigator.clipboard.writeText(byId("command").textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(byId("command"));
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
};

const listenToChoice = () => {
  byId("policy").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["slider", "number"]) byId(id).addEventListener("input", (event) => take(event.target.value, id));
  byId("number").addEventListener("change", drawAmount);
  byId("copy").addEventListener("click", copy);
};
