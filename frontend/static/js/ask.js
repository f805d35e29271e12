/* What another page of the site holds: the part of it that a selector names, ready to be put into this one. A page that
   tells of an error has the part too, with the reason in it. */

export async function part(url, selector, signal, sent = {}) {
  let answer, text;
  try {
    answer = await fetch(url, { ...sent, signal, headers: { accept: "text/html" } });
    text = await answer.text();
  } catch (error) {
    throw signal?.aborted ? error : new Error("The site does not answer. Is it running?");
  }
  const page = new DOMParser().parseFromString(text, "text/html");
  const found = page.querySelector(selector);
  if (!found) throw new Error(page.querySelector("main p")?.textContent ?? `The site refused this (status ${answer.status}).`);
  return document.adoptNode(found);
}
