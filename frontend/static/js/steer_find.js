/* Finds features to choose: types of text are a token, which the table of a source is searched for, an index, and an
   address such as `model/source/index`. A combobox: arrows walk the list, Enter chooses, Escape closes. */

import { make, signs } from "./steer_tokens.js";
import { ask } from "./transfer.js";

const PAUSE_MS = 150;
const N_SHOWN = 8;
const REFERENCE = /(?:^|\/)([A-Za-z0-9][A-Za-z0-9._-]*)\/(\d{1,9})\/?(?:[?#].*)?$/;

export function find(part, choose) {
  const { find: input, found: list, from, pick } = part;
  let at = -1;
  let timer = 0;
  let asked = new AbortController();

  function open(found) {
    const options = document.activeElement === input ? found : []; // one may have left while it was searched
    list.replaceChildren(...options);
    list.hidden = !options.length;
    input.ariaExpanded = String(!list.hidden);
    walk(-1);
  }

  function walk(to) {
    const options = list.querySelectorAll("[role=option]");
    at = options.length ? (to + options.length + 1) % (options.length + 1) : -1;
    if (at === options.length) at = -1; // past the last: none again
    options.forEach((each, i) => (each.ariaSelected = String(i === at)));
    if (at < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", options[at].id);
    options[at].scrollIntoView({ block: "nearest" });
  }

  async function search() {
    asked.abort();
    asked = new AbortController();
    const text = input.value;
    if (!text.trim()) return open([]);
    const named = reference(text);
    if (named) return open([option(0, named, named)]);
    const query = new URLSearchParams({ token: text, sort: "max_activation", descending: "1", per_page: String(N_SHOWN) });
    try {
      const { rows } = await ask(`${pick.dataset.features}/${encodeURIComponent(from.value)}?${query}`, { signal: asked.signal });
      open(rows.length ? rows.map((row, i) => option(i, `${from.value}/${row.index}`, ...described(row))) : [note(`No feature of ${from.value} fires on or promotes a token with “${text}”.`)]);
    } catch (error) {
      if (error.name !== "AbortError") open([note(error.message)]);
    }
  }

  /* An index is one of the source that is chosen. */
  function reference(text) {
    if (/^\d{1,9}$/.test(text.trim())) return `${from.value}/${text.trim()}`;
    const match = REFERENCE.exec(text.trim());
    return match && `${match[1]}/${match[2]}`;
  }

  function take(each) {
    clearTimeout(timer);
    asked.abort();
    input.value = "";
    open([]);
    choose(each.dataset.name);
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(search, PAUSE_MS);
  });
  input.addEventListener("focus", search);
  input.addEventListener("keydown", async (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") walk(at + (event.key === "ArrowDown" ? 1 : -1));
    else if (event.key === "Escape" && !list.hidden) open([]), event.stopPropagation();
    else if (event.key === "Enter") {
      event.preventDefault();
      clearTimeout(timer);
      if (at < 0) await search();
      const chosen = list.querySelectorAll("[role=option]")[Math.max(at, 0)];
      if (chosen) take(chosen);
      return;
    } else return;
    event.preventDefault();
  });
  input.addEventListener("blur", () => open([]));
  list.addEventListener("pointerdown", (event) => event.preventDefault()); // the box keeps the focus
  list.addEventListener("click", ({ target }) => target.closest("[role=option]") && take(target.closest("[role=option]")));
}

function option(i, name, ...content) {
  const made = make("li", "", ...(content.length > 1 ? content : [make("span", "ref", name)]));
  made.role = "option";
  made.id = `found-${i}`;
  made.dataset.name = name;
  made.ariaSelected = "false";
  return made;
}

function described(row) {
  const tokens = (texts) => texts.slice(0, 4).flatMap((text) => [make("span", "token", ...signs(text)), " "]);
  return [make("span", "ref", String(row.index)), make("span", "tokens", ...tokens(row.fires_on)), make("span", "tokens promoted-tokens", "→ ", ...tokens(row.promotes)), make("span", "number", row.max_activation.toPrecision(3))];
}

function note(text) {
  const made = make("li", "none", text);
  made.role = "presentation";
  return made;
}
