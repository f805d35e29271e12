/* Reading tokens: pointing at one, or walking to it with the arrow keys in a focused text, shows how likely it was and what
   else could have stood there; beside it the other text's shares, as long as both have said the same. */

import { make, signs, told } from "./steer_tokens.js";

export function start(section) {
  const tip = section.appendChild(make("div", "odds"));
  tip.role = "status";
  let current = null;
  for (const token of section.querySelectorAll(".t[title]")) token.removeAttribute("title"); // would come late and cover the text

  function read(token) {
    current?.classList.remove("is-read");
    current = token && known(token) ? token : null;
    tip.classList.toggle("is-set", Boolean(current));
    if (!current) return tip.replaceChildren();
    current.classList.add("is-read");
    tip.replaceChildren(...odds(current, section));
    place(tip, current);
  }

  section.addEventListener("pointerover", ({ target }) => read(target.closest(".t")));
  section.addEventListener("pointerleave", ({ pointerType }) => pointerType !== "touch" && read(null)); // a finger leaves at once
  document.addEventListener("pointerdown", ({ target }) => section.contains(target) || read(null));
  section.addEventListener("focusout", () => read(null));
  addEventListener("scroll", () => current && place(tip, current), { passive: true, capture: true });
  section.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape" && current) read(null);
    if (!step || !event.target.matches("[data-side]")) return;
    event.preventDefault();
    const all = [...event.target.querySelectorAll(".t")];
    const at = all.indexOf(current);
    const next = all[at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + step))];
    if (!next) return;
    next.scrollIntoView({ block: "nearest" });
    read(next);
  });
}

/* {token, logprob, topLogprobs}; a page from the server has it in the element. */
function known(token) {
  if (!told.has(token)) told.set(token, JSON.parse(token.dataset.told ?? "null"));
  return told.get(token);
}

/* The token, and a table of what could have stood there, likeliest first, with the shares in this text and the other. */
function odds(token, section) {
  const mine = known(token);
  const other = twin(token, section);
  const here = shares(mine);
  const there = other && shares(known(other));
  const rows = [...here].sort(([, a], [, b]) => b - a).map(([text, logprob]) => {
    const made = row("td", make("span", "token", ...signs(text)), percent(logprob), ...(there ? [percent(there.get(text))] : []));
    made.classList.toggle("is-chosen", text === mine.token);
    return made;
  });
  const heads = there ? [row("th", "", name(token), name(other))] : [];
  const said = make("p", "", make("span", "token", ...signs(mine.token)), ` log-prob ${mine.logprob.toFixed(2).replace("-", "−")}`);
  return [said, make("table", "", ...heads, ...rows)];
}

const shares = (all) => new Map([...all.topLogprobs, all].map(({ token, logprob }) => [token, logprob]));
const name = (token) => document.getElementById(token.closest("[data-side]").getAttribute("aria-labelledby")).textContent.toLowerCase();

/* The token of the other text at the same place, if both have been asked and have said the same before it. */
function twin(token, section) {
  const written = token.parentElement;
  const mine = written.parentElement;
  const other = [...section.querySelectorAll("[data-side]")].find((each) => each !== mine)?.children[[...mine.children].indexOf(written)];
  if (!other?.hasAttribute("data-comparable")) return null;
  const at = [...written.children].indexOf(token);
  const isSame = (i) => written.children[i].textContent === other.children[i]?.textContent;
  if (![...Array(at).keys()].every(isSame)) return null;
  return other.children[at] && known(other.children[at]) ? other.children[at] : null;
}

function row(kind, ...cells) {
  return make("tr", "", ...cells.map((cell, i) => make(kind, i ? "number" : "", cell)));
}

function percent(logprob) {
  if (logprob === undefined) return "–";
  const share = 100 * Math.exp(logprob);
  return share < 0.1 ? "<0.1%" : `${share.toFixed(1)}%`;
}

/* Below the token's last line, or above its first where there is no room. */
function place(tip, token) {
  const boxes = token.getClientRects();
  if (!boxes.length) return;
  const [first, last] = [boxes[0], boxes[boxes.length - 1]];
  const left = Math.min(innerWidth - tip.offsetWidth - 8, Math.max(8, last.left));
  const below = last.bottom + 6;
  const top = below + tip.offsetHeight > innerHeight ? first.top - tip.offsetHeight - 6 : below;
  tip.style.transform = `translate(${left}px, ${top}px)`;
}
