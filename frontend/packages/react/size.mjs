/**
 * What a product's users download of the package: bundled and minified as a product does it, compressed, without what
 * the product brings. Ends with 1 where that is more than is meant.
 */
import { gzipSync } from "node:zlib";
import { rolldown } from "rolldown";

const MOST = [
  ["the client and the flow alone", `export { createClient, connectFlow } from "@patchbay/client"`, 8_700],
  ["a provider and a button", `export { PatchbayProvider, ConnectButton } from "./dist/index.js"`, 15_400],
  ["everything", `export * from "./dist/index.js"`, 21_500],
];

let tooMuch = false;
for (const [what, code, most] of MOST) {
  const entry = {
    name: "entry",
    resolveId: (id) => (id === "entry" ? id : null),
    load: (id) => (id === "entry" ? { code, moduleType: "js" } : null),
  };
  const external = ["react", "react/jsx-runtime", "@tanstack/react-query"];
  const bundle = await rolldown({ input: "entry", external, plugins: [entry], cwd: import.meta.dirname });
  const { output } = await bundle.generate({ format: "esm", minify: true });
  const size = output.reduce((sum, part) => sum + (part.type === "chunk" ? gzipSync(part.code).length : 0), 0);
  console.log(`${what}: ${size} bytes, at most ${most}`);
  tooMuch ||= size > most;
}
process.exitCode = tooMuch ? 1 : 0;
