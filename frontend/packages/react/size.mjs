/**
 * The size of the package in a product's page: bundled and minified as a product does it, compressed, without React and
 * react-query. The limits are for what a page loads at its start; other code follows when it is needed. With `--parts`, prints
 * the share of each file. Ends with 1 if a limit is exceeded.
 */
import { gzipSync } from "node:zlib";
import { rolldown } from "rolldown";

const everything = Object.keys(await import("./dist/index.js"));
const LIMITS = [
  ["the client and the flow alone", "@patchbay/client", ["createClient", "connectFlow"], 5_100],
  ["a provider and a button", "./dist/index.js", ["PatchbayProvider", "ConnectButton"], 9_216],
  ["everything", "./dist/index.js", everything, 16_384],
];

for (const [what, module, names, most] of LIMITS) {
  const chunks = await bundled(`import { ${names} } from "${module}"; console.log(${names})`);
  const initial = atStart(chunks);
  const later = chunks.filter((chunk) => !initial.has(chunk));
  const size = sizeOf([...initial]);
  console.log(`${what}: ${size} bytes, at most ${most}; ${sizeOf(later)} more when needed`);
  if (size > most) process.exitCode = 1;
  if (!process.argv.includes("--parts")) continue;
  for (const chunk of chunks) console.log(`  ${initial.has(chunk) ? "at the start" : "when needed"}: ${chunk.fileName}, ${sizeOf([chunk])} bytes`);
}

/** The files of a page with this code. */
async function bundled(code) {
  const entry = {
    name: "entry",
    resolveId: (id) => (id === "entry" ? id : null),
    load: (id) => (id === "entry" ? { code, moduleType: "js" } : null),
  };
  const external = ["react", "react/jsx-runtime", "@tanstack/react-query"];
  const bundle = await rolldown({ input: "entry", external, plugins: [entry], cwd: import.meta.dirname, preserveEntrySignatures: false });
  const { output } = await bundle.generate({ format: "esm", minify: true });
  return output.filter((part) => part.type === "chunk");
}

/** Those that are loaded with the entry. */
function atStart(chunks) {
  const found = new Set();
  const add = (chunk) => {
    if (!chunk || found.has(chunk)) return;
    found.add(chunk);
    for (const name of chunk.imports) add(chunks.find(({ fileName }) => fileName === name));
  };
  chunks.filter(({ isEntry }) => isEntry).forEach(add);
  return found;
}

function sizeOf(chunks) {
  return chunks.reduce((sum, { code }) => sum + gzipSync(code).length, 0);
}
