/** Bundle the page: `node bundle.mjs DIRECTORY`. The same sources make the same bytes, so that a test can compare them. */

import { build } from "esbuild";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

const out = process.argv[2];
const LIBRARIES = ["preact", "htm", "@dagrejs/dagre", "@dagrejs/graphlib", "uplot"];

/** Return the heading and the licence of a library that is part of the bundle. */
async function licence(name) {
  const directory = join("node_modules", name);
  const { version, license } = JSON.parse(await readFile(join(directory, "package.json"), "utf8"));
  const text = await readFile(join(directory, "LICENSE"), "utf8");
  return `${name} ${version} (${license})\n\n${text.replaceAll("\r", "").trim()}\n`;
}

await mkdir(out, { recursive: true });
await build({
  entryPoints: { page: "src/main.js" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  legalComments: "none",
  logLevel: "warning",
});
await copyFile("src/page.html", join(out, "page.html"));
await writeFile(join(out, "LICENSES"), (await Promise.all(LIBRARIES.map(licence))).join(`\n${"-".repeat(80)}\n\n`));
