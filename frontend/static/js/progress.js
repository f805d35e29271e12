/* Keeps the progress of a job up to date: fetches the same part of the page from the server and puts it in place.
   When the job has ended, the page is loaded anew, because more than this part has changed. */

const EVERY_MS = 1000;
const SLOWEST_MS = 15000;

export function start(part) {
  let wait = EVERY_MS;

  async function update() {
    try {
      const answer = await fetch(part.dataset.url);
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-state]");
      part.replaceChildren(...fresh.childNodes);
      if (fresh.dataset.state !== part.dataset.state && !fresh.hasAttribute("data-live")) return location.reload();
      part.dataset.state = fresh.dataset.state;
      wait = EVERY_MS;
    } catch {
      wait = Math.min(SLOWEST_MS, wait * 2);
      part.dataset.lost = "";
    }
    schedule();
  }

  function schedule() {
    setTimeout(() => (document.hidden ? document.addEventListener("visibilitychange", update, { once: true }) : update()), wait);
  }

  if (part.hasAttribute("data-live")) schedule();
}
