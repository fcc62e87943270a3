// Filters, keys, marks: what ties the parts together.
const TITLES = {
  split: "Split", problem: "Problem", finding: "Finding", run: "Errors of", class: "Class", size: "Size of a box",
};
const VALUES = {
  split: D.splits.map((name, value) => [value, name]),
  problem: D.kinds.map(([, , meaning], value) => [value, meaning]),
  finding: RUNS ? [
    ...D.suspects.map((name) => [D.findings.indexOf(name), D.said[name]]),
    ...D.errors.map((name) => [D.findings.indexOf(name), `error: ${name}`]),
  ] : [],
  run: RUNS > 1 ? D.runs.map((run, value) => [value, run.name]) : [],
  class: D.classes.map((name, value) => [value, name]),
  size: D.sizes.map((name, value) => [value, name]),
};
if (B.finding.includes(CROWD)) VALUES.finding.push([CROWD, "crowd region"]);
const LONG_LIST = 12; // values from which on a filter shows only those with pictures, and scrolls
const boxesOf = {};

function buildFilters() {
  const top = make("div", "top");
  const clear = make("button", "", "Clear filters");
  clear.id = "clear";
  clear.addEventListener("click", clearAll);
  const only = make("label", "choice"), box = make("input");
  box.type = "checkbox";
  box.id = "only-marked";
  box.addEventListener("change", () => { onlyMarked = box.checked; update(); });
  only.append(box, make("span", "", "marked only"), make("span", "number"));
  top.append(clear, only);
  at("side").append(top);
  for (const group of GROUPS) {
    const worth = group === "split" || group === "class" ? VALUES[group].length > 1 : VALUES[group].length > 0;
    if (worth) at("side").append(buildGroup(group));
  }
  const note = make("p", "soft", RUNS ? "Class, size and finding have to fit the same box. Without a finding they look at the labels." : "Class and size have to fit the same box.");
  at("side").append(note);
}

function buildGroup(group) {
  const part = make("fieldset", "group"), list = make("div", "values");
  part.dataset.group = group;
  part.append(make("legend", "", TITLES[group]), list);
  boxesOf[group] = VALUES[group].map(([value, name]) => {
    const label = make("label", "choice"), box = make("input"), text = make("span", "", name), number = make("span", "number");
    box.type = "checkbox";
    box.value = value;
    label.title = name;
    label.append(box, text, number);
    if (group === "class") text.prepend(dotOf(value));
    if (group === "finding" && isSuspect(value)) text.prepend(make("i", `kind ${D.findings[value]}`));
    if (group === "problem") text.classList.add(severity(value));
    box.addEventListener("change", () => {
      if (box.checked) chosen[group].add(value); else chosen[group].delete(value);
      update();
    });
    list.append(label);
    return [value, box, number, label];
  });
  if (VALUES[group].length > LONG_LIST) list.classList.add("long");
  return part;
}

function dotOf(label) {
  const dot = make("i", "dot");
  dot.style.background = D.colours[label];
  return dot;
}

function showFilters() {
  at("only-marked").checked = onlyMarked;
  at("only-marked").closest("label").lastChild.textContent = marks.size || "";
  for (const [group, boxes] of Object.entries(boxesOf)) {
    for (const [value, box, number, label] of boxes) {
      const count = counts[group].get(value) || 0;
      box.checked = chosen[group].has(value);
      number.textContent = count ? count.toLocaleString("en") : "";
      label.classList.toggle("none", !count);
      label.hidden = !count && !box.checked && group === "class" && boxes.length > LONG_LIST;
    }
  }
  const active = GROUPS.filter(isSet).length + Boolean(search) + onlyMarked;
  at("filters").textContent = active ? `Filters (${active})` : "Filters";
  at("clear").disabled = !active;
}

function update() {
  select();
  showFilters();
  at("count").textContent = shown.length === N ? plural(N, "picture") : `${shown.length.toLocaleString("en")} of ${plural(N, "picture")}`;
  at("nothing").hidden = shown.length > 0;
  at("nothing").textContent = "No picture fits all filters.";
  at("turn").setAttribute("aria-pressed", String(turned));
  view.scrollTop = 0;
  focused = 0;
  relayout();
  showMarks();
  keepChoice();
}

function clearAll() {
  for (const group of GROUPS) chosen[group].clear();
  search = at("search").value = "";
  onlyMarked = false;
  update();
}

function showMarks() {
  at("marked").textContent = `${marks.size.toLocaleString("en")} marked`;
  at("marks").classList.toggle("some", marks.size > 0);
  for (const id of ["copy", "save", "unmark"]) at(id).disabled = !marks.size;
  at("mark-all").disabled = !shown.length;
  const number = at("only-marked").closest("label").lastChild;
  number.textContent = marks.size || "";
  if (dialog.open) at("mark").setAttribute("aria-pressed", String(marks.has(shown[place])));
}

const inOrder = () => [...marks].sort((a, b) => a - b);

async function copyNames() {
  const text = inOrder().map((i) => P.name[i]).join("\n");
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch { // where the page may not, as in some browsers from the disk
    const area = make("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
  }
  at("said").textContent = done ? `${plural(marks.size, "name")} copied` : "this browser does not let the page copy";
}

function saveMarks() {
  const marked = inOrder().map((i) => {
    const scale = Math.max(P.width[i], P.height[i]) / LONG, doubtful = [];
    for (let b = START[i]; b < START[i + 1]; b++) {
      if (B.layer[b] !== MISTAKES) continue;
      doubtful.push({
        kind: D.findings[B.finding[b]], class: D.classes[B.label[b]], other: D.classes[B.other[b]] ?? null,
        box: ["x1", "y1", "x2", "y2"].map((side) => Math.round(B[side][b] * scale * 10) / 10), score: B.score[b] / 1000,
      });
    }
    return {
      file: P.name[i], split: D.splits[P.split[i]], suspects: doubtful,
      problems: problems(i).map(([kind, detail]) => ({ kind: D.kinds[kind][0], detail })),
    };
  });
  const text = JSON.stringify({ data: D.root, marked }, null, 1);
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "marked.json";
  link.click();
  URL.revokeObjectURL(link.href);
  at("said").textContent = `${plural(marks.size, "picture")} saved as marked.json`;
}

function buildTools() {
  for (const [name, [text]] of Object.entries(ORDERS)) at("sort").append(new Option(text, name));
  at("sort").value = order;
  at("sort").addEventListener("change", () => { order = at("sort").value; update(); });
  at("turn").addEventListener("click", () => { turned = !turned; update(); });
  at("zoom").value = cell;
  at("zoom").addEventListener("input", () => {
    const top = Math.floor(view.scrollTop / rowHeight) * columns;
    cell = Number(at("zoom").value);
    relayout(top);
  });
  at("search").value = search;
  at("search").addEventListener("input", () => { search = at("search").value.trim(); update(); });
  at("filters").addEventListener("click", () => {
    const on = document.body.classList.toggle("filtering");
    at("filters").setAttribute("aria-expanded", String(on));
  });
  addSwitches(at("layers"), [" (l)", " (s)", " (d)"]);
  addSwitches(at("its-layers"), [" (l)", " (s)", " (d)"]);
  at("keys").addEventListener("click", () => at("help").showModal());
  at("help-close").addEventListener("click", () => at("help").close());
  at("mark-all").addEventListener("click", () => setMark(shown, true));
  at("unmark").addEventListener("click", () => { setMark([...marks], false); if (onlyMarked) update(); });
  at("copy").addEventListener("click", copyNames);
  at("save").addEventListener("click", saveMarks);
  at("previous").addEventListener("click", () => openAt(place - 1));
  at("next").addEventListener("click", () => openAt(place + 1));
  at("close").addEventListener("click", () => dialog.close());
  at("mark").addEventListener("click", () => toggleMark(place));
}

const toggleMark = (number) => setMark([shown[number]], !marks.has(shown[number]));
const runLayers = D.runs.map((_, run) => run + 1);
const ANYWHERE = {
  l: () => toggleLayers([LABELS]), s: () => RUNS && toggleLayers([MISTAKES]), d: () => RUNS && toggleLayers(runLayers),
  "?": () => at("help").showModal(),
};
const OPENED = {
  ArrowRight: () => openAt(place + 1), ArrowLeft: () => openAt(place - 1), m: () => toggleMark(place),
  n: () => step(1), p: () => step(-1), "+": () => zoomBy(0.8), "=": () => zoomBy(0.8), "-": () => zoomBy(1.25),
  0: () => { chosenBox = -1; fitPicture(); drawOpened(); }, t: () => { withNames = !withNames; drawOpened(); },
};
const GRID = {
  ArrowRight: () => focusOn(focused + 1), ArrowLeft: () => focusOn(focused - 1),
  ArrowDown: () => focusOn(focused + columns), ArrowUp: () => focusOn(focused - columns),
  PageDown: () => focusOn(focused + columns * Math.max(1, Math.floor(view.clientHeight / rowHeight))),
  PageUp: () => focusOn(focused - columns * Math.max(1, Math.floor(view.clientHeight / rowHeight))),
  Home: () => focusOn(0), End: () => focusOn(shown.length - 1), m: () => shown.length && toggleMark(focused),
  "/": () => at("search").focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || at("help").open) return;
  if (event.target.closest("input[type=search], select, textarea")) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target === at("search"))) event.target.blur();
    return;
  }
  if (event.target.closest("input[type=range], aside") && event.key.length > 1) return;
  const action = (dialog.open ? OPENED : GRID)[event.key] || ANYWHERE[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
space.addEventListener("click", (event) => {
  const item = event.target.closest("article");
  if (!item) return;
  focused = Number(item.dataset.place);
  if (event.target.closest(".flag")) toggleMark(focused); else openAt(focused);
});
dialog.addEventListener("close", () => focusOn(place));
let waiting = false;
view.addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; drawView(); });
}, { passive: true });
new ResizeObserver(() => relayout(Math.floor(view.scrollTop / rowHeight) * columns)).observe(view);

if (RUNS) {
  const runs = D.runs.map((run) => `${run.name} from score ${run.threshold.toFixed(2)} on`).join(", ");
  const least = Math.min(D.agree, RUNS);
  const alone = `One run is enough from score ${D.runs.map((run) => (D.given ?? run.sure).toFixed(2)).join(", ")} on.`;
  at("about").textContent = `Found: ${runs}. Doubtful is what ${least > 1 ? `${least} runs agree on` : "the run says"} against the labels, and a label that no run finds. ${least > 1 ? "" : alone}`;
} else {
  at("about").textContent = "With runs this page also shows label mistakes: headway browse DATA RUN ...";
}
readChoice();
buildFilters();
buildTools();
update();
