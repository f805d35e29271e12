/* Reading an injection scan: the slider, or pointing into a chart, chooses a coefficient; a rule stands there in every
   chart, and the table shows the values at it. Pointing at a row, or at a line's name, lifts its lines out. */

const minus = (text) => text.replace("-", "−");

export function start(section) {
  const coefficients = section.dataset.coefficients.split(" ");
  const slider = section.querySelector("input[type=range]");
  if (!slider) return; // a single coefficient
  const output = section.querySelector(".slider output");
  const charts = [...section.querySelectorAll("svg.curves")];
  const rules = charts.map((chart) => chart.querySelector(".reading"));
  const head = section.querySelector("[data-at]");
  const rows = [...section.querySelectorAll("tr[data-values]")].map((row) => ({
    values: row.dataset.values.split(" "),
    cell: row.querySelector("[data-value]"),
  }));
  for (const title of section.querySelectorAll("svg.curves .bin title")) title.remove(); // the table says it
  section.classList.add("is-read");

  function read() {
    const at = slider.valueAsNumber;
    const share = `${(100 * at) / (coefficients.length - 1)}%`;
    const coefficient = minus(coefficients[at]);
    for (const rule of rules) rule.setAttribute("x1", share), rule.setAttribute("x2", share);
    head.textContent = coefficient;
    for (const { values, cell } of rows) cell.textContent = minus(values[at]);
    output.textContent = `${coefficient}: logit ${minus(rows[0].values[at])}`;
    slider.setAttribute("aria-valuetext", `coefficient ${coefficient}, logit ${minus(rows[0].values[at])}`);
  }

  function point(event) {
    const box = event.currentTarget.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    slider.value = Math.round(share * (coefficients.length - 1));
    read();
  }

  function lift(event) {
    const part = event.type === "pointerleave" ? undefined : event.target.closest("[data-part]")?.dataset.part;
    for (const element of section.querySelectorAll(".is-lifted")) element.classList.remove("is-lifted");
    section.classList.toggle("has-lifted", part !== undefined);
    if (part !== undefined) for (const element of section.querySelectorAll(`[data-part="${part}"]`)) element.classList.add("is-lifted");
  }

  slider.addEventListener("input", read);
  for (const chart of charts) for (const kind of ["pointermove", "pointerdown"]) chart.addEventListener(kind, point);
  section.addEventListener("pointerover", lift);
  section.addEventListener("pointerleave", lift);
  read();
}
