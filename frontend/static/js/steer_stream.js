/* Asks for a stream of events and hands each over as it comes. */

import { Refusal } from "./transfer.js";

/* Resolves when the stream ends; rejects with a Refusal, in the server's words, or as fetch does. */
export async function follow(url, body, signal, onevent) {
  const headers = { "content-type": "application/json", accept: "text/event-stream" };
  const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!answer.ok) throw new Refusal(answer.status, await answer.json().catch(() => ({})));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) hand(part, onevent);
  }
}

function hand(part, onevent) {
  const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
  if (!data) return;
  const event = JSON.parse(data);
  if (event.error) throw new Refusal(0, event);
  onevent(event);
}
