/* Keeps what changes while jobs run up to date: fetches the page that data-url names and puts its part in this one's
   place, unless the reader is in it. When the state it tells is no longer live, the page is loaded anew, because more
   than this part has changed. */

const EVERY_MS = 1000;
const SLOWEST_MS = 15000;

export function start(part) {
  let wait = EVERY_MS;

  async function update() {
    try {
      const answer = await fetch(part.dataset.url);
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-state]");
      if (fresh?.dataset.live === undefined) return location.reload();
      if (!part.contains(document.activeElement)) part.replaceChildren(...fresh.childNodes);
      delete part.dataset.lost;
      wait = EVERY_MS;
    } catch {
      part.dataset.lost = "";
      wait = Math.min(SLOWEST_MS, 2 * wait);
    }
    schedule();
  }

  function schedule() {
    setTimeout(() => (document.hidden ? document.addEventListener("visibilitychange", update, { once: true }) : update()), wait);
  }

  if (part.dataset.live !== undefined) schedule();
}
