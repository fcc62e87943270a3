// The pictures that are in view, and no others: the page keeps the place of the rest by its height.
const view = at("view"), space = at("space");
const GAP = 12, CAPTION = 46, AROUND = 2; // pixels; rows beyond the edges
let cell = 230, columns = 1, width = 0, rowHeight = 1, focused = 0;
const nodes = new Map(); // place in `shown` -> element

function layout() {
  const style = getComputedStyle(view);
  const inside = view.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const wanted = Math.min(cell, Math.max(120, (inside - GAP) / 2)); // two beside each other on a telephone
  columns = Math.max(1, Math.floor((inside + GAP) / (wanted + GAP)));
  width = Math.floor((inside - GAP * (columns - 1)) / columns);
  rowHeight = Math.round(width * 0.75) + CAPTION + GAP;
  space.style.height = `${Math.ceil(shown.length / columns) * rowHeight}px`;
}

// keep: the picture that stays at the top.
function relayout(keep) {
  layout();
  redraw();
  if (keep !== undefined) view.scrollTop = Math.floor(keep / columns) * rowHeight;
  drawView();
}

function redraw() {
  const held = space.contains(document.activeElement);
  for (const node of nodes.values()) node.remove();
  nodes.clear();
  drawView();
  const node = held && nodes.get(focused);
  if (node) node.firstChild.focus({ preventScroll: true });
}

function drawView() {
  const first = Math.max(0, Math.floor(view.scrollTop / rowHeight) - AROUND) * columns;
  const rows = Math.ceil(view.clientHeight / rowHeight) + 2 * AROUND + 1;
  const last = Math.min(shown.length, first + rows * columns);
  for (const [place, node] of nodes) {
    if ((place >= first && place < last) || node.contains(document.activeElement)) continue;
    node.remove();
    nodes.delete(place);
  }
  const fresh = document.createDocumentFragment();
  for (let place = first; place < last; place++) {
    if (nodes.has(place)) continue;
    const node = draw(place);
    nodes.set(place, node);
    fresh.append(node);
  }
  space.append(fresh);
  const here = nodes.get(focused) ? focused : first;
  for (const [place, node] of nodes) node.firstChild.tabIndex = place === here ? 0 : -1;
}

function draw(place) {
  const i = shown[place], item = make("article", "cell");
  item.setAttribute("role", "listitem");
  item.setAttribute("aria-setsize", shown.length);
  item.setAttribute("aria-posinset", place + 1);
  item.dataset.place = place;
  item.style.cssText =
    `width:${width}px;left:${(place % columns) * (width + GAP)}px;top:${Math.floor(place / columns) * rowHeight}px`;
  const open = make("button", "open"), frame = make("span", "frame");
  frame.style.height = `${Math.round(width * 0.75)}px`;
  if (P.width[i]) {
    const image = make("img");
    image.src = thumbnail(i);
    image.alt = "";
    image.decoding = "async";
    frame.append(image, overlay(i));
  } else {
    frame.append(make("span", "gone", "cannot be read"));
  }
  const caption = make("span", "caption");
  caption.append(make("b", "", fileOf(i)), about(i));
  open.append(frame, caption);
  open.title = P.name[i];
  open.setAttribute("aria-label", `${P.name[i]}, ${caption.lastChild.textContent}`);
  item.append(open, flag(i));
  return item;
}

function about(i) {
  const line = make("span", "soft"), parts = [], mistakes = mistakesOf(i);
  if (mistakes) parts.push(`${mistakes} doubtful${strength[i] < 0 ? "" : ` (${(strength[i] / 1000).toFixed(2)})`}`);
  if (ORDERS[order][2](i)) parts.unshift(ORDERS[order][2](i));
  parts.push(plural(labelsOf(i), "label"));
  line.append(parts.join(" · "));
  if (isGrave(i)) {
    const sign = make("span", "sign", "problem");
    sign.title = problems(i).map(([kind, detail]) => `${D.kinds[kind][2]}: ${detail}`).join("\n");
    line.append(" ", sign);
  }
  return line;
}

function mistakesOf(i) {
  let count = 0;
  for (let b = START[i + 1] - 1; b >= START[i] && B.layer[b] === MISTAKES; b--) count++;
  return count;
}

function flag(i) {
  const button = make("button", "flag", "⚑");
  button.tabIndex = -1;
  button.title = "Mark (m)";
  button.setAttribute("aria-label", `Mark ${P.name[i]}`);
  button.setAttribute("aria-pressed", String(marks.has(i)));
  return button;
}

function setMark(pictures, on) {
  for (const i of pictures) if (on) marks.add(i); else marks.delete(i);
  keepMarks(pictures, on);
  for (const [place, node] of nodes) {
    node.lastChild.setAttribute("aria-pressed", String(marks.has(shown[place])));
  }
  showMarks();
}

function focusOn(place) {
  if (!shown.length) return;
  focused = Math.min(Math.max(place, 0), shown.length - 1);
  const top = Math.floor(focused / columns) * rowHeight;
  if (top < view.scrollTop) view.scrollTop = top;
  const below = top + rowHeight - view.clientHeight;
  if (below > view.scrollTop) view.scrollTop = below;
  drawView();
  nodes.get(focused).firstChild.focus({ preventScroll: true });
}
