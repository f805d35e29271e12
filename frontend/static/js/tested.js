/* A list's test text on one of its features, as the live worker answers; nothing where it does not. */

import { part } from "./ask.js";

export async function start(list) {
  try {
    list.replaceChildren(await part(list.dataset.url, "[data-text]"));
  } catch (error) {
    list.title = error.message;
  }
}
