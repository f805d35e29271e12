/* Starts each behaviour on the elements that ask for it: data-controller="name other". */

import { start as adding } from "./adding.js";
import { start as copy } from "./copy.js";
import { start as graph } from "./graph.js";
import { start as explanations } from "./explanations.js";
import { start as embedding } from "./embedding.js";
import { start as importing } from "./importing.js";
import { start as keys } from "./keys.js";
import { start as progress } from "./progress.js";
import { start as readout } from "./readout.js";
import { start as scan } from "./scan.js";
import { start as searching } from "./searching.js";
import { start as steer } from "./steer.js";
import { start as tokens } from "./steer_readout.js";
import { start as tested } from "./tested.js";
import { start as theme } from "./theme.js";
import { start as trying } from "./trying.js";
import { start as whitespace } from "./whitespace.js";

const controllers = {
  adding,
  copy,
  embedding,
  explanations,
  graph,
  importing,
  keys,
  progress,
  readout,
  scan,
  searching,
  steer,
  tested,
  theme,
  tokens,
  trying,
  whitespace,
};

for (const element of document.querySelectorAll("[data-controller]"))
  for (const name of element.dataset.controller.split(" ")) controllers[name](element);
