// One picture, large: the small copy at once, the picture itself as soon as it is loaded; zoom, names, findings.
const dialog = at("opened"), stage = at("stage");
const lacking = new Set(); // pictures that are not where they were
let place = -1, near = { x: 0, y: 0, unit: 1 }, chosenBox = -1, rows = [];

// near: the left upper corner that is in view, and how much of the picture one pixel shows.
function fitPicture() {
  const i = shown[place], unit = Math.max(wide(i) / stage.clientWidth, high(i) / stage.clientHeight) || 1;
  near = { unit, x: (wide(i) - stage.clientWidth * unit) / 2, y: (high(i) - stage.clientHeight * unit) / 2 };
}

function fitBox(b) {
  const i = shown[place], long = Math.max(B.x2[b] - B.x1[b], B.y2[b] - B.y1[b], LONG / 40) * 2.6;
  const unit = Math.min(long / Math.min(stage.clientWidth, stage.clientHeight), Math.max(wide(i), high(i)) / 200);
  near = {
    unit, x: (B.x1[b] + B.x2[b] - stage.clientWidth * unit) / 2, y: (B.y1[b] + B.y2[b] - stage.clientHeight * unit) / 2,
  };
}

function zoomBy(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  const unit = Math.min(Math.max(near.unit * factor, 0.2), 60);
  near = { unit, x: near.x + x * (near.unit - unit), y: near.y + y * (near.unit - unit) };
  showNear();
}

function showNear() {
  stage.setAttribute("viewBox", [near.x, near.y, stage.clientWidth * near.unit, stage.clientHeight * near.unit].join(" "));
  placeNames();
}

function openAt(number) {
  if (number < 0 || number >= shown.length) return;
  place = number;
  chosenBox = -1;
  if (!dialog.open) dialog.showModal();
  fitPicture();
  drawOpened();
  at("list").scrollTop = 0;
}

function drawOpened() {
  const i = shown[place];
  at("name").textContent = P.name[i];
  at("where").textContent = `${place + 1} of ${shown.length}`;
  at("previous").disabled = place === 0;
  at("next").disabled = place === shown.length - 1;
  at("mark").setAttribute("aria-pressed", String(marks.has(i)));
  at("facts").textContent = factsOf(i);
  at("broken").hidden = Boolean(P.width[i]);
  at("broken").textContent = "This picture cannot be read.";
  stage.setAttribute("aria-label", `${P.name[i]}: ${factsOf(i)}`);
  const size = { width: wide(i), height: high(i), preserveAspectRatio: "none" };
  const held = stage.dataset.picture === String(i) ? [...stage.querySelectorAll("image")] : [];
  stage.replaceChildren(...held);
  if (!held.length && P.width[i]) {
    stage.append(svg("image", { ...size, href: thumbnail(i) }));
    if (P.original[i] && !lacking.has(i)) stage.append(original(i, size));
  }
  stage.dataset.picture = i;
  drawBoxes(i);
  listFindings(i);
  showNear();
}

function original(i, size) {
  const image = svg("image", { ...size, href: P.original[i], class: "original" });
  image.addEventListener("error", () => {
    image.remove();
    lacking.add(i);
    if (shown[place] === i) at("facts").textContent = factsOf(i);
  });
  return image;
}

function factsOf(i) {
  const facts = [D.splits[P.split[i]], P.width[i] ? `${P.width[i]} × ${P.height[i]} pixels` : "", plural(labelsOf(i), "label")];
  D.runs.forEach((run, r) => {
    if (P.loss[r]) facts.push(`loss${RUNS > 1 ? ` of ${run.name}` : ""} ${(P.loss[r][i] ?? NaN).toFixed(2)}`);
    if (P.cost[r][i] !== null) facts.push(`cost${RUNS > 1 ? ` of ${run.name}` : ""} ${P.cost[r][i].toFixed(2)}`);
  });
  if (P.disagreement[i] !== null) facts.push(`runs differ by ${P.disagreement[i].toFixed(2)}`);
  if (lacking.has(i)) facts.push("only the small copy is here, the picture is not");
  return facts.filter(Boolean).join(" · ");
}

function drawBoxes(i) {
  const boxes = [];
  for (let b = START[i]; b < START[i + 1]; b++) if (isDrawn(b) || b === chosenBox) boxes.push(b);
  const doubted = new Set(boxes.filter((b) => B.layer[b] === MISTAKES).map(rectangle));
  const area = (b) => (B.x2[b] - B.x1[b]) * (B.y2[b] - B.y1[b]);
  boxes.sort((a, b) => (B.layer[a] === MISTAKES) - (B.layer[b] === MISTAKES) || area(b) - area(a));
  for (const b of boxes) {
    const [name, colour] = styleOf(b), picked = b === chosenBox ? " picked" : "";
    stage.append(svg("path", { d: rectangle(b), class: "halo" }));
    const shape = svg("path", { d: rectangle(b), class: name + picked, ...(colour && { stroke: colour }) });
    const title = svg("title");
    title.textContent = said(b);
    shape.append(title);
    stage.append(shape);
    const isNamed = withNames && (boxes.length <= 60 || B.layer[b] === MISTAKES || picked);
    if (isNamed && !(B.layer[b] === LABELS && doubted.has(rectangle(b)))) stage.append(nameOf(b));
  }
}

function nameOf(b) {
  const text = svg("text", { class: `name ${B.layer[b] === MISTAKES ? "strong" : ""}` });
  text.textContent = B.layer[b] === MISTAKES ? `${D.classes[B.label[b]]}${B.other[b] >= 0 ? ` → ${D.classes[B.other[b]]}` : " ?"}` : said(b);
  text.dataset.box = b;
  return text;
}

function placeNames() { // in pixels of the screen, whatever the zoom
  for (const text of stage.querySelectorAll("text")) {
    const b = text.dataset.box, below = B.layer[b] === MISTAKES;
    text.setAttribute("font-size", 12.5 * near.unit);
    text.setAttribute("stroke-width", 3 * near.unit);
    text.setAttribute("x", B.x1[b] + 1 * near.unit);
    text.setAttribute("y", below ? B.y2[b] + 14 * near.unit : B.y1[b] - 4 * near.unit);
  }
}

// What there is to look at: problems, label mistakes, errors of the runs, labels.
function listFindings(i) {
  const list = at("list");
  rows = [];
  list.replaceChildren();
  const group = (title, boxes, hint) => {
    if (!boxes.length) return;
    list.append(make("h3", "", `${title} (${boxes.length})`));
    if (hint) list.append(make("p", "soft", hint));
    for (const b of boxes.slice(0, 300)) list.append(row(b));
  };
  if (problems(i).length) list.append(make("h3", "", `Problems (${problems(i).length})`));
  for (const [kind, detail] of problems(i)) {
    const line = make("p", `problem ${severity(kind)}`);
    line.append(make("b", "", D.kinds[kind][2]), make("span", "soft", detail));
    list.append(line);
  }
  const of = (test) => Array.from({ length: START[i + 1] - START[i] }, (_, k) => START[i] + k).filter(test);
  const sorted = (boxes) => boxes.sort((a, b) => B.score[b] - B.score[a]);
  group("Label mistakes?", sorted(of((b) => B.layer[b] === MISTAKES)));
  D.runs.forEach((run, r) => {
    const errors = of((b) => B.layer[b] === r + 1 && B.finding[b]);
    group(`Errors of ${run.name}`, sorted(errors), `by the labels, from score ${run.threshold.toFixed(2)} on`);
  });
  group("Labels", of((b) => B.layer[b] === LABELS));
  if (!list.children.length) list.append(make("p", "soft", "Nothing is labelled here."));
}

function row(b) {
  const button = make("button", b === chosenBox ? "row picked" : "row"), [name, colour] = styleOf(b);
  const dot = make("i", name);
  if (colour) dot.style.borderColor = colour;
  button.append(dot, make("span", "", said(b)));
  if (B.layer[b] === MISTAKES) button.append(make("span", "soft", score(b)));
  button.addEventListener("click", () => pick(b));
  rows.push([b, button]);
  return button;
}

function pick(b) {
  chosenBox = chosenBox === b ? -1 : b;
  if (chosenBox < 0) fitPicture(); else fitBox(b);
  drawOpened();
  const found = rows.find(([other]) => other === b);
  if (found) {
    found[1].scrollIntoView({ block: "nearest" });
    found[1].focus({ preventScroll: true });
  }
}

function step(by) { // through the findings of this picture
  if (!rows.length) return;
  const here = rows.findIndex(([b]) => b === chosenBox);
  const next = here < 0 ? (by > 0 ? 0 : rows.length - 1) : (here + by + rows.length) % rows.length;
  if (rows[next][0] !== chosenBox) pick(rows[next][0]);
}

// Drag to move, two fingers or the wheel to zoom.
const fingers = new Map();
stage.addEventListener("pointerdown", (event) => {
  fingers.set(event.pointerId, event);
  stage.setPointerCapture(event.pointerId);
});
stage.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const other = [...fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
  fingers.set(event.pointerId, event);
  if (!other) {
    near.x -= (event.clientX - before.clientX) * near.unit;
    near.y -= (event.clientY - before.clientY) * near.unit;
    showNear();
    return;
  }
  const apart = (a) => Math.hypot(a.clientX - other.clientX, a.clientY - other.clientY) || 1;
  const box = stage.getBoundingClientRect();
  zoomBy(apart(before) / apart(event), (event.clientX + other.clientX) / 2 - box.x, (event.clientY + other.clientY) / 2 - box.y);
});
for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => fingers.delete(event.pointerId));
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = stage.getBoundingClientRect();
  zoomBy(Math.exp(Math.sign(event.deltaY) * 0.18), event.clientX - box.x, event.clientY - box.y);
}, { passive: false });
stage.addEventListener("dblclick", () => { fitPicture(); showNear(); });
new ResizeObserver(() => { if (dialog.open && chosenBox < 0) { fitPicture(); showNear(); } }).observe(stage);
