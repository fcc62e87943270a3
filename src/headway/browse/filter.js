// Which pictures pass, in which order, and how many pass for each value of each filter.
const isSet = (group) => chosen[group].size > 0;
const BOX_GROUPS = ["finding", "run", "class", "size"];
const strength = new Int32Array(N); // the score of the surest label mistake that fits
const counts = Object.fromEntries(GROUPS.map((name) => [name, new Map()]));
const kindsOf = Array.from({ length: N }, (_, i) => [...new Set(problems(i).map(([kind]) => kind))]);
const lowered = P.name.map((name) => name.toLowerCase());

// A box has to fit class, size, finding and run at once. Without a finding or a run only labels are looked at.
const fitsClass = (b) => !isSet("class") || chosen.class.has(B.label[b]) || (B.other[b] >= 0 && chosen.class.has(B.other[b]));
const fitsSize = (b) => !isSet("size") || chosen.size.has(B.size[b]);
const fitsRun = (b) => !isSet("run") || B.layer[b] === MISTAKES || chosen.run.has(B.layer[b] - 1);
const isError = (b) => B.layer[b] > LABELS && B.layer[b] < MISTAKES && B.finding[b] > 0;
function fitsFinding(b) {
  if (isSet("finding")) return chosen.finding.has(B.finding[b]);
  return isSet("run") ? isError(b) : B.layer[b] === LABELS;
}
const fits = (b) => fitsClass(b) && fitsSize(b) && fitsRun(b) && fitsFinding(b);

function select() {
  for (const name of GROUPS) counts[name].clear();
  const byBoxes = BOX_GROUPS.some(isSet), wanted = search.toLowerCase();
  const seen = Object.fromEntries(BOX_GROUPS.map((name) => [name, new Map()]));
  shown = [];
  for (let i = 0; i < N; i++) {
    if ((onlyMarked && !marks.has(i)) || (wanted && !lowered[i].includes(wanted))) continue;
    const inSplit = !isSet("split") || chosen.split.has(P.split[i]);
    const hasProblem = !isSet("problem") || kindsOf[i].some((kind) => chosen.problem.has(kind));
    const fit = look(i, inSplit && hasProblem ? seen : null) || !byBoxes;
    if (fit && hasProblem) add(counts.split, P.split[i]);
    if (fit && inSplit) for (const kind of kindsOf[i]) add(counts.problem, kind);
    if (fit && inSplit && hasProblem) shown.push(i);
  }
  arrange();
}

const add = (count, value) => count.set(value, (count.get(value) || 0) + 1);

// Whether a box of the picture fits. seen: for each filter the last picture that had a value, to count it once.
function look(i, seen) {
  let found = false, best = -1;
  const once = (name, value) => {
    if (!seen || seen[name].get(value) === i) return;
    seen[name].set(value, i);
    add(counts[name], value);
  };
  for (let b = START[i]; b < START[i + 1]; b++) {
    const c = fitsClass(b), s = fitsSize(b), r = fitsRun(b), f = fitsFinding(b);
    if (c && s && r && f) found = true;
    if (c && s && r && B.finding[b]) once("finding", B.finding[b]);
    if (c && s && isError(b) && (!isSet("finding") || chosen.finding.has(B.finding[b]))) once("run", B.layer[b] - 1);
    if (s && r && f) once("class", B.label[b]);
    if (c && r && f) once("size", B.size[b]);
    if (B.layer[b] === MISTAKES && c && s && (!isSet("finding") || f)) best = Math.max(best, B.score[b]);
  }
  strength[i] = best;
  return found;
}

// The mean of a column of each run over the chosen runs, else over all that looked; -1 for none.
function mean(column, i) {
  const runs = isSet("run") ? [...chosen.run] : D.runs.map((_, run) => run);
  const known = runs.map((run) => P[column][run]?.[i] ?? null).filter((value) => value !== null);
  return known.length ? known.reduce((a, b) => a + b) / known.length : -1;
}
const shownMean = (column) => (i) => (mean(column, i) < 0 ? "" : `${column} ${mean(column, i).toFixed(2)}`);
const labelsOf = (i) => {
  let count = 0;
  for (let b = START[i]; b < START[i + 1] && B.layer[b] === LABELS; b++) count++;
  return count;
};
let ranks = null;
function rankOf(i) {
  if (!ranks) {
    const collator = new Intl.Collator("en", { numeric: true });
    const sorted = Array.from({ length: N }, (_, k) => k).sort((a, b) => collator.compare(P.name[a], P.name[b]));
    ranks = new Uint32Array(N);
    sorted.forEach((k, rank) => { ranks[k] = rank; });
  }
  return -ranks[i];
}

// Name of each order, what it sorts by (largest first), and what a picture shows of it.
const ORDERS = {
  mistakes: ["surest mistake first", (i) => strength[i], () => ""],
  cost: ["highest cost first", (i) => mean("cost", i), shownMean("cost")],
  loss: ["highest training loss first", (i) => mean("loss", i), shownMean("loss")],
  disagreement: [
    "runs differ most first", (i) => P.disagreement[i] ?? -1,
    (i) => (P.disagreement[i] === null ? "" : `differ ${P.disagreement[i].toFixed(2)}`),
  ],
  labels: ["most labels first", labelsOf, () => ""],
  name: ["by name", rankOf, () => ""],
};
if (!RUNS) for (const name of ["mistakes", "cost"]) delete ORDERS[name];
if (!P.loss.some(Boolean)) delete ORDERS.loss;
if (RUNS < 2) delete ORDERS.disagreement;

function arrange() {
  if (!ORDERS[order]) order = "name";
  const value = ORDERS[order][1], keys = new Float64Array(N), sign = turned ? -1 : 1;
  for (const i of shown) keys[i] = value(i);
  shown.sort((a, b) => sign * (keys[b] - keys[a]) || a - b);
}
