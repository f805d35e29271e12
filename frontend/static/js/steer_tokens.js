/* Tokens as elements: what is known of each, how a text is cut at them, how one stands by itself. */

const CHARACTERS_A_PART = 16;
const NONE = { token: null, at: -1 };
const SIGNS = { " ": "·", "\n": "↵", "\t": "⇥" };

/* What the server told of a token, by its element. */
export const told = new WeakMap();

/* The text cut where its tokens meet: [{text, token, at}]. Tokens that do not stand in it as they are (parts of a character,
   special ones, a first one without its space) share what stands between the tokens around them, under the last of them. */
export function aligned(text, tokens) {
  const pieces = [];
  let from = 0;
  let parts = NONE;
  let nParts = 0;
  tokens.forEach((token, at) => {
    const start = token.token && !token.token.includes("\ufffd") ? text.indexOf(token.token, from) : -1;
    if (start < 0 || start - from > nParts * CHARACTERS_A_PART) return (parts = { token, at }), nParts++;
    if (start > from) pieces.push({ text: text.slice(from, start), ...parts });
    pieces.push({ text: token.token, token, at });
    from = start + token.token.length;
    nParts = 0;
    parts = NONE;
  });
  if (from < text.length) pieces.push({ text: text.slice(from), ...parts });
  return pieces;
}

export function make(name, className, ...content) {
  const made = document.createElement(name);
  made.className = className;
  made.append(...content);
  return made;
}

/* A token by itself, its white space as signs. */
export function signs(text) {
  return [...text].map((each) => (SIGNS[each] ? make("i", "", SIGNS[each]) : each));
}
