"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const charts = read("charts"), main = read("main"), looks = read("looks");
  const root = document.documentElement;

  // --- looks ---------------------------------------------------------------------------------

  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let asked = null; // "light" or "dark", once the reader has said so
  let printing = false;
  const theme = () => (printing ? "light" : asked ?? (dark.matches ? "dark" : "light"));

  function dress() {
    root.dataset.theme = theme();
    button.textContent = theme() === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${button.textContent.toLowerCase()} colours`);
  }

  // --- charts --------------------------------------------------------------------------------

  const views = new Map();

  async function draw(element, spec) {
    const options = {
      config: looks[theme()],
      renderer: "svg",
      ast: true, // expressions are interpreted: the page allows no eval
      actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
      tooltip: { theme: "custom" },
      scaleFactor: 2,
      logLevel: 1, // errors: an empty layer is none
      ...spec.usermeta?.embedOptions,
    };
    views.get(element)?.finalize();
    views.delete(element);
    element.replaceChildren();
    try {
      views.set(element, await vegaEmbed(element, spec, options));
    } catch (error) { // of this chart alone; the others are drawn
      element.textContent = `This chart cannot be drawn: ${error.message}`;
    }
  }

  async function drawAll() {
    for (const element of document.querySelectorAll("[data-chart]")) {
      await draw(element, charts[element.dataset.chart]);
    }
  }

  // --- the main picture ----------------------------------------------------------------------

  const controls = document.getElementById("controls");

  function chosen() {
    const data = new FormData(controls);
    const task = controls.elements.task.selectedOptions[0];
    const baseline = data.get("baseline");
    return {
      axis: data.get("axis"),
      values: {
        task: data.get("task"),
        metric: task.dataset.metric,
        better: Number(task.dataset.better),
        shown: data.getAll("shown").filter((label) => lines().has(label)),
        difference: baseline !== "",
        baseline,
        front: data.has("front"),
        others: data.has("others"),
      },
    };
  }

  const cells = () => main.datasets.cells.filter((c) => c.task === controls.elements.task.value);
  const lines = () => new Set(cells().map((cell) => cell.label));

  function offer() {
    // Only what the task has.
    const here = lines(), methods = new Set(cells().map((cell) => cell.method));
    const boxes = [...controls.querySelectorAll("[name=shown]")];
    for (const box of boxes) box.parentElement.hidden = !here.has(box.value);
    for (const option of controls.elements.baseline.options) {
      option.hidden = option.disabled = option.value !== "" && !methods.has(option.value);
      if (option.disabled && option.selected) controls.elements.baseline.value = "";
    }
    const checked = boxes.filter((box) => box.checked && here.has(box.value)).length;
    document.getElementById("count").textContent = `${checked} of ${here.size} shown`;
    if (controls.elements.others) {
      const task = controls.elements.task.value;
      controls.elements.others.disabled =
        controls.elements.axis.value !== "weights" || !main.datasets.published.some((p) => p.task === task);
    }
  }

  async function drawMain() {
    const element = document.querySelector("[data-main]");
    if (!element) return;
    offer();
    const { axis, values } = chosen();
    if (!values.shown.length) {
      views.get(element)?.finalize();
      views.delete(element);
      element.textContent = "Choose a method.";
      return;
    }
    const spec = structuredClone(main.specs[axis]);
    for (const param of spec.params) param.value = values[param.name];
    await draw(element, { ...spec, datasets: main.datasets });
  }

  controls?.addEventListener("submit", (event) => event.preventDefault());
  controls?.addEventListener("change", drawMain);
  controls?.addEventListener("click", (event) => {
    const all = event.target.dataset.check;
    if (!all) return;
    for (const box of controls.querySelectorAll("[name=shown]")) box.checked = all === "all";
    drawMain();
  });

  // --- life ----------------------------------------------------------------------------------

  async function show() {
    dress();
    await drawMain();
    await drawAll();
    root.dataset.drawn = theme();
  }

  button.hidden = false;
  button.addEventListener("click", () => {
    asked = theme() === "dark" ? "light" : "dark";
    show();
  });
  dark.addEventListener("change", () => asked === null && show());
  addEventListener("beforeprint", () => {
    printing = true;
    if (root.dataset.theme === "dark") show();
  });
  addEventListener("afterprint", () => {
    printing = false;
    if (root.dataset.theme !== theme()) show();
  });
  show();
})();
