/*
Builds frontend/dist from frontend/static: `node build.mjs`.

1. static/js/main.js and static/css/main.css are bundled with what they import, and minified.
2. Every other file of static, outside js/ and css/, is copied.
3. Each gets a digest of its bytes in its name, so that browsers may keep it for ever, and manifest.json says which
   name is which: {"main.js": "main-1A2B3C4D.js", "icon.svg": "icon-5E6F7A8B.svg"}.
4. What the new manifest does not name is deleted last: a running server never points at a missing file.
*/

import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, extname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const source = join(here, "static");
const target = join(here, "dist");

const bundles = await build({
  absWorkingDir: here,
  entryPoints: ["static/js/main.js", "static/css/main.css"],
  outdir: "dist",
  entryNames: "[name]-[hash]",
  assetNames: "[name]-[hash]",
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022", "chrome111", "firefox113", "safari16.4"],
  loader: { ".svg": "file", ".png": "file", ".woff2": "file" },
  metafile: true,
  logLevel: "warning",
}).catch(() => process.exit(1)); // esbuild has said what is wrong

const manifest = {};
const kept = new Set(["manifest.json"]);
for (const [path, output] of Object.entries(bundles.metafile.outputs)) {
  const name = relative("dist", path);
  kept.add(name);
  if (output.entryPoint) manifest[`main${extname(path)}`] = name;
}

for (const entry of await readdir(source, { recursive: true, withFileTypes: true })) {
  const path = join(entry.parentPath ?? entry.path, entry.name);
  const name = relative(source, path).split(sep).join("/");
  if (!entry.isFile() || entry.name.startsWith(".") || /^(js|css)\//.test(name)) continue;
  const bytes = await readFile(path);
  const digest = createHash("sha256").update(bytes).digest("hex").slice(0, 8).toUpperCase();
  const extension = extname(name);
  const hashed = `${name.slice(0, name.length - extension.length)}-${digest}${extension}`;
  await mkdir(dirname(join(target, hashed)), { recursive: true });
  await writeFile(join(target, hashed), bytes);
  manifest[name] = hashed;
  kept.add(hashed);
}

const sorted = Object.fromEntries(Object.entries(manifest).sort());
await writeFile(join(target, "manifest.json.new"), `${JSON.stringify(sorted, null, 2)}\n`);
await rename(join(target, "manifest.json.new"), join(target, "manifest.json"));

for (const entry of await readdir(target, { recursive: true, withFileTypes: true })) {
  const path = join(entry.parentPath ?? entry.path, entry.name);
  if (entry.isFile() && !kept.has(relative(target, path).split(sep).join("/"))) await rm(path);
}
