/* The page where a model is steered: runs what is chosen, shows both texts as they are written, and keeps the address
   saying what is chosen. */

import { Cards } from "./steer_cards.js";
import { Conversation } from "./steer_chat.js";
import { find } from "./steer_find.js";
import { address, body, firstProblem, gist } from "./steer_form.js";
import { follow } from "./steer_stream.js";
import { Texts } from "./steer_text.js";

const SAID_MS = 1500;
const NO_ANSWER = "The server does not answer. Run it again in a moment.";

export function start(form) {
  const part = Object.fromEntries([...form.querySelectorAll("[data-part]")].map((each) => [each.dataset.part, each]));
  const cards = new Cards(form, part, changed);
  const texts = new Texts(part.texts);
  const chat = new Conversation();
  let running = null; // an AbortController
  let last = ""; // what the texts shown answer to
  let state = "none"; // of the last message of a chat: none, running, answered

  const isChat = () => form.elements.mode.value === "chat";

  /* What is to be gone on with or answered; where there is nothing yet, the example. */
  function text() {
    const { prompt } = form.elements;
    if (!prompt.value.trim() && prompt.placeholder) prompt.value = prompt.placeholder;
    changed();
    return prompt.value;
  }

  function changed() {
    part.gist.textContent = gist(form);
    history.replaceState(null, "", address(form, isChat() ? chat.first : ""));
  }

  function arrange() {
    for (const each of form.querySelectorAll("[data-shown-for]")) each.hidden = each.dataset.shownFor !== form.elements.mode.value;
    part["prompt-label"].textContent = isChat() ? "Message" : "Text";
    form.elements.prompt.placeholder = isChat() ? "" : form.elements.prompt.dataset.example;
    restart();
  }

  function restart() {
    running?.abort();
    running = null;
    last = "";
    state = "none";
    chat.clear();
    texts.clear();
    part.shared.classList.remove("is-set");
    refuse("");
    part.status.textContent = "";
    settle();
  }

  /* The buttons as what is shown wants them. */
  function settle() {
    part.run.textContent = running ? "Stop" : isChat() ? "Send" : "Run";
    part.again.disabled = !last && !running;
    part.restart.hidden = !chat.first;
  }

  function refuse(text) {
    part.refusal.textContent = text;
    part.refusal.hidden = !text;
  }

  async function run(prompt, { isAgain = false } = {}) {
    running?.abort();
    refuse("");
    const problem = firstProblem(form, prompt);
    if (problem) return refuse(problem);
    const isReplaced = state === "running" || (isAgain && state === "answered");
    if (isAgain && state === "answered") chat.takeBack();
    state = "running";
    const mine = (running = new AbortController());
    const asked = body(form, isChat() ? chat.with(prompt, form.elements.system.value) : prompt);
    last = prompt;
    part.shared.classList.remove("is-set");
    texts.begin(prompt, { isChat: isChat(), isReplaced, isSame: chat.isSame, nTokens: asked.n_tokens });
    part.status.textContent = "Waiting for the model.";
    settle();
    try {
      await follow(isChat() ? form.dataset.chatApi : form.dataset.api, asked, mine.signal, (event) => {
        if (mine.signal.aborted) return;
        if (!texts.isBegun) part.status.textContent = "Writing.";
        texts.show(event);
      });
      if (mine !== running) return;
      share(texts.end());
      finish(prompt, "");
    } catch (error) {
      if (mine !== running) return; // another run has taken its place
      texts.end();
      if (texts.isBegun) finish(prompt, mine.signal.aborted ? "Stopped. " : "Broken off. ");
      else texts.takeBack(), (part.status.textContent = ""), (state = "none");
      if (!mine.signal.aborted) refuse(error instanceof TypeError ? NO_ANSWER : error.message);
    } finally {
      if (mine === running) running = null;
      settle();
    }
  }

  function finish(prompt, how) {
    part.status.textContent = how + texts.summary();
    state = "answered";
    if (!isChat()) return;
    chat.add(prompt, texts.answers());
    if (form.elements.prompt.value === prompt) form.elements.prompt.value = "";
    changed();
  }

  function share({ id, shareUrl }) {
    part.shared.classList.toggle("is-set", Boolean(id));
    if (id) part.link.href = shareUrl;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) running.abort();
    else run(text());
  });
  form.elements.prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    run(text());
  });
  part.again.addEventListener("click", () => {
    form.elements.seed.value = String(crypto.getRandomValues(new Uint32Array(1))[0] % 100_000_000);
    changed();
    run(isChat() ? last : text(), { isAgain: true });
  });
  part.restart.addEventListener("click", () => (restart(), changed(), form.elements.prompt.focus()));
  part.copy.hidden = !navigator.clipboard; // not there over plain http
  part.copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(part.link.href);
    part.copy.textContent = "Copied";
    setTimeout(() => (part.copy.textContent = "Copy its link"), SAID_MS);
  });
  form.addEventListener("change", ({ target }) => (target.name === "mode" && arrange(), changed()));
  form.addEventListener("click", ({ target }) => target.dataset.add && cards.add(target.dataset.add));
  find(part, (name) => cards.add(name));
  part.gist.textContent = gist(form);
  arrange();
}
