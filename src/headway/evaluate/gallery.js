// The worst errors as pictures: filter, page, open. The errors lie in #errors as JSON.
(() => {
  "use strict";
  const PAGE = 24;
  const all = JSON.parse(document.getElementById("errors").textContent);
  const at = (id) => document.getElementById(id);
  const [grid, dialog] = [at("grid"), at("opened")];
  const filters = ["run", "kind", "class", "size"].map((name) => [name, at(`by-${name}`)]);
  let shown = [], page = 0, open = -1;

  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };
  const picture = (error) => {
    if (!error.picture) return make("span", error.problem, "gone");
    const image = make("img");
    image.src = error.picture;
    image.alt = `${error.kind}: ${error.text} in ${error.file}`;
    return image;
  };

  for (const [name, select] of filters) {
    const values = [...new Set(all.map((error) => error[name]))];
    select.append(...["all", ...values].map((value, i) => new Option(value, i ? value : "")));
    select.closest("label").hidden = values.length < 2;
    select.addEventListener("change", filter);
  }

  function filter() {
    shown = all.filter((error) => filters.every(([name, select]) => !select.value || error[name] === select.value));
    if (at("sort").value === "low") shown.reverse();
    page = 0;
    draw();
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    grid.replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map((error, i) => {
      const button = make("button");
      button.append(picture(error), make("b", error.kind), make("span", error.text), make("span", error.file, "soft"));
      button.addEventListener("click", () => look(page * PAGE + i));
      return button;
    }));
    at("where").textContent = shown.length ? `${shown.length} errors, page ${page + 1} of ${pages}` : "no such error";
    at("before").disabled = page === 0;
    at("after").disabled = page === pages - 1;
  }

  function look(number) {
    if (number < 0 || number >= shown.length) return;
    open = number;
    const error = shown[open];
    at("large").replaceChildren(picture(error));
    at("title").textContent = `${error.kind}: ${error.text}`;
    const about = [error.run, error.file, error.detail].filter(Boolean).join(" · ");
    at("about").textContent = `${open + 1} of ${shown.length} · ${about}`;
    if (!dialog.open) dialog.showModal();
  }

  function turn(step) {
    if (dialog.open) look(open + step);
    else { page += step; draw(); }
  }

  at("before").addEventListener("click", () => turn(-1));
  at("after").addEventListener("click", () => turn(1));
  at("previous").addEventListener("click", () => look(open - 1));
  at("next").addEventListener("click", () => look(open + 1));
  at("close").addEventListener("click", () => dialog.close());
  at("sort").addEventListener("change", filter);
  dialog.addEventListener("close", () => {
    page = Math.floor(open / PAGE);
    draw();
    const button = grid.children[open % PAGE];
    if (button) button.focus();
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("select, input") || !grid.offsetParent && !dialog.open) return;
    if (event.key === "ArrowRight") turn(1);
    if (event.key === "ArrowLeft") turn(-1);
  });
  filter();
})();
