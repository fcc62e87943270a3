// Boxes as SVG over a picture: labels in the colour of their class, detections dashed, label mistakes thick.
const rectangle = (b) => `M${B.x1[b]} ${B.y1[b]}H${B.x2[b]}V${B.y2[b]}H${B.x1[b]}Z`;

// Whether a box is drawn: its layer is on, or it is what the filter looks for.
function isDrawn(b) {
  if ((isSet("finding") || isSet("run")) && fits(b)) return true;
  if (!layers[B.layer[b]]) return false;
  return B.finding[b] !== MISSED; // the label is there already
}

function styleOf(b) { // [class, colour]
  const layer = B.layer[b], finding = B.finding[b];
  if (layer === MISTAKES) return [`mistake ${D.findings[finding]}`, ""];
  if (layer !== LABELS) return [finding === MISSED ? "missed" : "found", D.colours[B.label[b]]];
  return [finding === CROWD ? "crowd" : "label", D.colours[B.label[b]]];
}

// One path for all boxes of one look, so that a page of pictures has few elements.
function overlay(i) {
  const drawing = svg("svg", { viewBox: `0 0 ${wide(i)} ${high(i)}`, "aria-hidden": "true" });
  const paths = new Map(), dim = BOX_GROUPS.some(isSet);
  for (let b = START[i]; b < START[i + 1]; b++) {
    if (!isDrawn(b)) continue;
    const [name, colour] = styleOf(b), faint = dim && !fits(b) ? " faint" : "";
    const key = `${B.layer[b] === MISTAKES ? 1 : 0}|${name}${faint}|${colour}`;
    paths.set(key, (paths.get(key) || "") + rectangle(b));
  }
  for (const key of [...paths.keys()].sort()) {
    const [, name, colour] = key.split("|");
    if (name.startsWith("mistake") && !name.endsWith("faint")) drawing.append(svg("path", { d: paths.get(key), class: "halo" }));
    drawing.append(svg("path", { d: paths.get(key), class: name, ...(colour && { stroke: colour }) }));
  }
  return drawing;
}

// Switches for what is drawn, wherever they stand; all follow each other.
const switches = [];
function addSwitches(place, letters) {
  LAYERS.forEach((name, layer) => {
    if (layer === MISTAKES && !RUNS) return;
    const button = make("button", `layer ${layer === LABELS ? "of-labels" : layer === MISTAKES ? "of-mistakes" : "of-run"}`);
    button.append(make("i"), make("span", "", name));
    button.title = `Show ${name}${letters[layer === LABELS ? 0 : layer === MISTAKES ? 1 : 2]}`;
    button.addEventListener("click", () => toggleLayers([layer]));
    switches.push([button, layer]);
    place.append(button);
  });
  showSwitches();
}

function showSwitches() {
  for (const [button, layer] of switches) button.setAttribute("aria-pressed", String(layers[layer]));
}

function toggleLayers(which) {
  const on = !which.some((layer) => layers[layer]);
  for (const layer of which) layers[layer] = on;
  showSwitches();
  redraw();
  if (at("opened").open) drawOpened();
}
