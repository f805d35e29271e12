/* Reading values: pointing at a firing token, or walking to it with the arrow keys from a focused line, shows its value
   at the token and on the scale, and says it to screen readers. Without scripts the tokens' titles do. */

export function start(section) {
  const output = section.querySelector("[data-readout]");
  const caret = section.querySelector(".caret");
  const width = Number(section.querySelector(".legend").dataset.width);
  const zero = section.dataset.minimum === undefined ? 0 : width / 2; // a signed feature's scale has its zero in the middle
  const tip = section.appendChild(document.createElement("div"));
  tip.className = "tip";
  tip.ariaHidden = "true"; // the readout says it
  let current = null;

  function prepare(part) {
    for (const mark of part.querySelectorAll("mark[title]")) {
      mark.dataset.value = mark.title; // the browser's own tooltip would come late and cover the text
      mark.removeAttribute("title");
    }
  }

  function read(mark) {
    current?.classList.remove("is-read");
    current = mark;
    caret.classList.toggle("is-set", Boolean(mark));
    tip.classList.toggle("is-set", Boolean(mark));
    if (!mark) return output.replaceChildren();
    mark.classList.add("is-read");
    const value = Number(mark.dataset.value.replace("−", "-"));
    const own = mark.closest("[data-maximum]").dataset; // a line may be of another feature than the rest
    const share = value < 0 ? value / Number(own.minimum) : value / Number(own.maximum);
    const x = Math.min(1, share) * (value < 0 ? -zero : width - zero) + zero;
    caret.setAttribute("transform", `translate(${Math.round(x)} 0)`);
    place(tip, mark);
    const token = mark.textContent.replaceAll(" ", "·").trimEnd();
    output.replaceChildren(part("b", mark.dataset.value), " ", part("span", `${Math.round(100 * share)}% of ${value < 0 ? "min" : "max"}`, "small"), " ", part("span", token, "token"));
  }

  prepare(section);
  section.addEventListener("shown", (event) => {
    if (current && !current.isConnected) read(null);
    prepare(event.target);
  });
  section.addEventListener("pointerover", (event) => {
    const mark = event.target.closest("mark");
    if (mark) read(mark);
  });
  addEventListener("scroll", () => tip.classList.remove("is-set"), { passive: true });
  section.addEventListener("pointerleave", () => read(null));
  section.addEventListener("focusin", (event) => {
    if (event.target.matches("summary:focus-visible")) read(hit(event.target));
  });
  section.addEventListener("focusout", () => read(null));
  section.addEventListener("keydown", (event) => {
    const line = event.target.closest("summary");
    if (!line || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const lines = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step) read(beside(line, current, step));
    else if (lines) neighbour(section, line, lines)?.focus();
    else return;
    event.preventDefault();
  });
}

function part(name, text, className = "") {
  const element = document.createElement(name);
  element.textContent = text;
  element.className = className;
  return element;
}

/* Above the token's first line, inside the window. */
function place(tip, mark) {
  const box = mark.getClientRects()[0] ?? mark.getBoundingClientRect();
  tip.textContent = mark.dataset.value;
  const left = Math.min(innerWidth - tip.offsetWidth - 4, Math.max(4, box.left));
  tip.style.transform = `translate(${left}px, ${box.top - tip.offsetHeight - 4}px)`;
}

const hit = (line) => line.querySelector(".after mark");

/* The next firing token in reading order: of the open text, else of those the line shows. */
function beside(line, current, step) {
  const details = line.parentElement;
  const marks = details.open ? [...details.querySelectorAll(".full mark")] : [...line.querySelectorAll("mark")].filter(isSeen);
  const at = marks.indexOf(current);
  if (at < 0) return details.open ? marks[0] : hit(line);
  return marks[Math.min(marks.length - 1, Math.max(0, at + step))];
}

function isSeen(mark) {
  const own = mark.getBoundingClientRect();
  const side = mark.closest(".before, .after").getBoundingClientRect();
  return own.right > side.left + 1 && own.left < side.right - 1;
}

function neighbour(section, line, step) {
  const all = [...section.querySelectorAll("summary")];
  return all[all.indexOf(line) + step];
}
