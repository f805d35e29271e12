/* A chat that two models answer, each with its own answers before it. */

export class Conversation {
  #turns = { default: [], steered: [] };

  /* The first message; empty before it. */
  get first() {
    return this.#turns.default[0]?.content ?? "";
  }

  /* Both have been told and have said the same so far. */
  get isSame() {
    return JSON.stringify(this.#turns.default) === JSON.stringify(this.#turns.steered);
  }

  /* The messages of each, a new one last. */
  with(message, system) {
    const before = system.trim() ? [{ role: "system", content: system }] : [];
    const all = (turns) => [...before, ...turns, { role: "user", content: message }];
    return { default: all(this.#turns.default), steered: all(this.#turns.steered) };
  }

  add(message, answers) {
    for (const [side, turns] of Object.entries(this.#turns))
      turns.push({ role: "user", content: message }, { role: "assistant", content: answers[side] });
  }

  /* Forget the last message and its answers. */
  takeBack() {
    for (const turns of Object.values(this.#turns)) turns.splice(-2);
  }

  clear() {
    this.#turns = { default: [], steered: [] };
  }
}
