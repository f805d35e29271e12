/* The chosen features. A card is rendered by the server, as a part of this very page with one feature in its address. */

export class Cards {
  constructor(form, part, changed) {
    Object.assign(this, { form, part, changed });
    part.cards.addEventListener("input", (event) => this.#slide(event));
    part.cards.addEventListener("change", (event) => this.#choose(event));
    part.cards.addEventListener("click", (event) => this.#click(event));
    this.#settle();
  }

  /* `source/index`, or with `:strength` behind it; one that is there already is led to. */
  async add(name) {
    const known = this.#named(name.split(":")[0]);
    if (known) return known.querySelector("[data-strength]").focus();
    this.#say("");
    try {
      const answer = await fetch(`${this.form.dataset.page}?feature=${name}`);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const card = page.querySelector("[data-push]");
      if (!card) return this.#say((page.querySelector("[data-part=problems]") ?? page.querySelector("main p"))?.textContent || `status ${answer.status}`);
      if (!this.#named(card.dataset.push)) this.part.cards.append(document.adoptNode(card));
    } catch (error) {
      return this.#say(error.message);
    }
    this.part.announced.textContent = `${name.split(":")[0]} is added.`;
    this.#settle();
    this.changed();
  }

  #named(name) {
    return this.part.cards.querySelector(`[data-push="${CSS.escape(name)}"]`);
  }

  #say(text) {
    this.part.problems.textContent = text;
    this.part.problems.hidden = !text;
  }

  #settle() {
    this.part.none.hidden = this.part.cards.children.length > 0;
    for (const card of this.part.cards.children) show(card);
  }

  #slide({ target }) {
    const card = target.closest("[data-push]");
    if (target.matches("[data-slider]")) card.querySelector("[data-strength]").value = target.value;
    else if (target.matches("[data-strength]")) card.querySelector("[data-slider]").value = target.value;
    show(card);
  }

  #choose({ target }) {
    if (!target.matches("[data-method]")) return;
    const card = target.closest("[data-push]");
    const { title, dataset } = target.selectedOptions[0];
    card.querySelector("[data-meaning]").textContent = title;
    for (const each of card.querySelectorAll("[data-slider], [data-strength], [data-preset]")) each.disabled = "noStrength" in dataset;
    count(card, "multiples" in dataset);
    show(card);
  }

  #click({ target }) {
    const card = target.closest("[data-push]");
    if (target.matches("[data-preset]")) {
      for (const name of ["strength", "slider"]) card.querySelector(`[data-${name}]`).value = target.dataset.preset;
      show(card);
      this.changed();
    } else if (target.matches("[data-remove]")) {
      const next = (card.nextElementSibling ?? card.previousElementSibling)?.querySelector("[data-remove]") ?? this.part.find;
      card.remove();
      this.part.announced.textContent = `${card.dataset.push} is removed.`;
      next.focus();
      this.#settle();
      this.changed();
    }
  }
}

/* Strengths in multiples of the largest activation, or in its units: the same push in other numbers. */
function count(card, isMultiples) {
  if (isMultiples === "isMultiples" in card.dataset) return;
  card.toggleAttribute("data-is-multiples", isMultiples);
  const factor = isMultiples ? 1 / Number(card.dataset.maximum) : Number(card.dataset.maximum);
  const changed = (text) => String(Number((Number(text) * factor).toPrecision(3)));
  const [slider, strength] = ["slider", "strength"].map((name) => card.querySelector(`[data-${name}]`));
  strength.value = changed(strength.value);
  for (const name of ["step", "min", "max"]) slider[name] = changed(slider[name]);
  slider.value = strength.value;
  for (const preset of card.querySelectorAll("[data-preset]")) preset.dataset.preset = changed(preset.dataset.preset);
}

/* Which preset the strength is. */
function show(card) {
  const strength = Number(card.querySelector("[data-strength]").value);
  for (const preset of card.querySelectorAll("[data-preset]")) preset.ariaPressed = String(Number(preset.dataset.preset) === strength);
}
