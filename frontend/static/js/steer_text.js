/* The two texts: each token an element that holds its log-probability and what else could have stood there. Tokens that
   only one text has are marked. What comes faster than the screen is drawn is drawn once. */

import { differing } from "./steer_diff.js";
import { aligned, make, told } from "./steer_tokens.js";

const CHARACTERS_A_TOKEN = 5;
const CHARACTER_PX = 7.5;
const CHAT_LINES = 16;

export class Texts {
  #event = null;
  #frame = 0;
  #same = 0;

  constructor(section) {
    this.section = section;
    this.sides = Object.fromEntries([...section.querySelectorAll("[data-side]")].map((each) => [each.dataset.side, new Side(each)]));
  }

  get isBegun() {
    return this.#event !== null;
  }

  clear() {
    for (const side of Object.values(this.sides)) side.element.replaceChildren();
    this.section.style.removeProperty("--lines");
  }

  /* Room for the whole text is made at once, so nothing moves while it is written. */
  begin(prompt, { isChat, isReplaced, isSame, nTokens }) {
    cancelAnimationFrame(this.#frame);
    this.#event = null;
    const width = Math.max(...Object.values(this.sides).map(({ element }) => element.clientWidth));
    const nLines = Math.ceil(((prompt.length + nTokens * CHARACTERS_A_TOKEN) * CHARACTER_PX) / width) + 2;
    this.section.style.setProperty("--lines", isChat ? CHAT_LINES : nLines);
    for (const side of Object.values(this.sides)) {
      if (!isChat) side.element.replaceChildren();
      else if (isReplaced) side.takeBack();
      side.begin(prompt, { isChat, isSame });
    }
  }

  takeBack() {
    for (const side of Object.values(this.sides)) side.takeBack();
    if (!this.sides.default.element.children.length) this.clear();
  }

  show(event) {
    this.#event = event;
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#draw());
  }

  /* Draws what is still to be drawn; the last event. */
  end() {
    cancelAnimationFrame(this.#frame);
    if (this.#event) this.#draw();
    for (const side of Object.values(this.sides)) side.end();
    return this.#event ?? {};
  }

  answers() {
    return Object.fromEntries(Object.entries(this.sides).map(([name, { text }]) => [name, text]));
  }

  summary() {
    const [a, b] = [this.sides.default.tokens.length, this.sides.steered.tokens.length];
    const long = a === b ? `${a} token${a === 1 ? "" : "s"} each` : `${a} and ${b} tokens`;
    if (this.#same === a && a === b) return `${long}, and not one differs.`;
    return `${long}; they differ from token ${this.#same + 1} on, where underlined.`;
  }

  #draw() {
    const { default: left, steered: right } = this.sides;
    left.read(this.#event.DEFAULT, this.#event.defaultLogProbs);
    right.read(this.#event.STEERED, this.#event.steeredLogProbs);
    const found = differing(left.tokens.map(({ token }) => token), right.tokens.map(({ token }) => token));
    this.#same = found.same;
    left.draw(found.a);
    right.draw(found.b);
  }
}

class Side {
  constructor(element) {
    this.element = element;
  }

  begin(prompt, { isChat, isSame }) {
    this.element.ariaBusy = "true";
    this.written = make(isChat ? "p" : "span", "written");
    this.written.toggleAttribute("data-comparable", isSame);
    this.element.append(make(isChat ? "p" : "span", "asked", prompt), this.written);
    this.element.scrollTop = this.element.scrollHeight;
    this.read("", []);
  }

  end() {
    this.element.ariaBusy = "false";
  }

  takeBack() {
    for (const each of [...this.element.children].slice(-2)) each.remove();
  }

  /* A text, or a chat whose last message is it. */
  read(given, logprobs) {
    this.text = typeof given === "string" ? given : (given.chatTemplate.at(-1)?.content ?? "");
    this.tokens = (typeof given === "string" ? logprobs : given.logprobs) ?? [];
  }

  draw(isMarked) {
    const isAtEnd = this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight < 8;
    const pieces = aligned(this.text, this.tokens);
    pieces.forEach(({ text, token, at }, i) => {
      const span = this.written.children[i] ?? this.written.appendChild(make("span", "t"));
      if (span.textContent !== text) span.textContent = text;
      span.classList.toggle("is-own", Boolean(isMarked[at]));
      told.set(span, token);
    });
    while (this.written.children.length > pieces.length) this.written.lastChild.remove();
    if (isAtEnd) this.element.scrollTop = this.element.scrollHeight;
  }
}
