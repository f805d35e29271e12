/* How far files are: a bar for each, and how fast they go. */

export function meter(part, chosen) {
  const total = chosen.reduce((sum, { file }) => sum + file.size, 0);
  const bars = new Map(chosen.map(({ name, file }) => [name, Object.assign(document.createElement("progress"), { max: file.size, value: 0, ariaLabel: name })]));
  part.list.replaceChildren(...chosen.map(({ name, file }) => row([name, bars.get(name), size(file.size)])));
  let first = null;
  return {
    onlost: () => (part.speed.textContent = "no connection; trying again"),
    onprogress(name, offset) {
      bars.get(name).value = offset;
      const sent = [...bars.values()].reduce((sum, bar) => sum + bar.value, 0);
      const now = performance.now();
      first ??= { now, sent };
      const perSecond = ((sent - first.sent) / (now - first.now)) * 1000;
      const left = perSecond > 0 ? `, ${size(perSecond)} a second, ${duration((total - sent) / perSecond)} left` : "";
      part.speed.textContent = `${size(sent)} of ${size(total)}${left}`;
    },
  };
}

const size = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`);
const duration = (s) => (s < 90 ? `${Math.ceil(s)} s` : s < 5400 ? `${Math.ceil(s / 60)} min` : `${(s / 3600).toFixed(1)} h`);
export const element = (name, content) => { const made = document.createElement(name); made.append(content); return made; };
export const row = (cells) => { const made = document.createElement("tr"); made.append(...cells.map((cell) => element("td", cell))); return made; };
