// What the page knows, and what is chosen. A row of B is one box: see browse/columns.py.
const at = (id) => document.getElementById(id);
const D = JSON.parse(at("data").textContent);
at("data").remove();
const P = D.pictures, N = P.name.length, RUNS = D.runs.length;
const START = Uint32Array.from(D.start);
const B = Object.fromEntries(Object.entries(D.boxes).map(([name, values]) => [name, Int32Array.from(values)]));
delete D.boxes;
const LONG = 10000;
const LABELS = 0, MISTAKES = RUNS + 1; // layers; between them the runs
const LAYERS = ["labels", ...D.runs.map((run) => run.name), "mistakes"];
const MISSED = D.findings.indexOf("missed"), CROWD = D.findings.indexOf("crowd");
const FIRST_SUSPECT = D.findings.indexOf(D.suspects[0]);
const isSuspect = (finding) => finding >= FIRST_SUSPECT && finding < CROWD;

// Chosen values of each filter; nothing chosen lets all through.
const GROUPS = ["split", "problem", "finding", "run", "class", "size"];
const chosen = Object.fromEntries(GROUPS.map((name) => [name, new Set()]));
let search = "", onlyMarked = false, order = RUNS ? "mistakes" : "name", turned = false;
const layers = LAYERS.map((_, layer) => layer === LABELS || layer === MISTAKES); // which are drawn
let shown = []; // the pictures that pass, in order
let withNames = true; // in the opened picture

const make = (tag, name, text) => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
};
const svg = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  return element;
};

const thumbnail = (i) => (P.width[i] ? `pictures/${i}.jpg` : "");
const wide = (i) => (P.width[i] ? P.width[i] * LONG / Math.max(P.width[i], P.height[i]) : LONG);
const high = (i) => (P.width[i] ? P.height[i] * LONG / Math.max(P.width[i], P.height[i]) : LONG * 0.75);
const problems = (i) => D.problems[i] || [];
const severity = (kind) => D.kinds[kind][1];
const isGrave = (i) => problems(i).some(([kind]) => severity(kind) !== "info");
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const score = (b) => (B.score[b] / 1000).toFixed(2);
const fileOf = (i) => P.name[i].slice(P.name[i].lastIndexOf("/") + 1);

function said(b) { // a box in words
  const name = D.classes[B.label[b]] ?? "?", finding = D.findings[B.finding[b]], layer = B.layer[b];
  const other = B.other[b] >= 0 ? D.classes[B.other[b]] : "";
  if (layer === MISTAKES) return `${D.said[finding]}: ${name}${other ? `, they say ${other}` : ""}`;
  if (layer === LABELS) return finding === "crowd" ? `${name}, crowd region` : name;
  if (finding === "missed") return `missed ${name}`;
  return `${name} ${score(b)}${finding ? `, ${finding}` : ""}${other ? ` on a ${other}` : ""}`;
}

// Marks stay in this browser, by name, so that the page may be written anew.
const STORE = `headway browse ${D.root}`;
const keyOf = (i) => `${D.splits[P.split[i]]}/${P.name[i]}`;
function storedMarks() {
  try {
    return new Set(JSON.parse(localStorage.getItem(STORE) || "[]"));
  } catch { // no storage here: marks last as long as the page is open
    return new Set();
  }
}
const marks = new Set(), stored = storedMarks();
for (let i = 0; i < N && stored.size; i++) if (stored.has(keyOf(i))) marks.add(i);

// Marks of pictures that another page of the same data has, such as one of another split, stay.
function keepMarks(pictures, on) {
  const kept = storedMarks();
  for (const i of pictures) if (on) kept.add(keyOf(i)); else kept.delete(keyOf(i));
  try {
    localStorage.setItem(STORE, JSON.stringify([...kept]));
  } catch { /* as above */ }
}

// What is chosen stands in the address, so that it comes back when the page is loaded again.
function keepChoice() {
  const words = new URLSearchParams();
  for (const name of GROUPS) if (chosen[name].size) words.set(name, [...chosen[name]].join("."));
  if (search) words.set("search", search);
  if (onlyMarked) words.set("marked", "1");
  words.set("order", order);
  if (turned) words.set("turned", "1");
  history.replaceState(null, "", `#${words}`);
}

function readChoice() {
  const words = new URLSearchParams(location.hash.slice(1));
  for (const name of GROUPS) {
    const known = new Set(VALUES[name].map(([value]) => String(value))); // the page may have been written anew
    for (const value of (words.get(name) || "").split(".")) if (known.has(value)) chosen[name].add(Number(value));
  }
  search = words.get("search") || "";
  onlyMarked = words.has("marked");
  turned = words.has("turned");
  if (Object.hasOwn(ORDERS, words.get("order"))) order = words.get("order");
}
