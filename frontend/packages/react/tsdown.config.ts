import { defineConfig } from "tsdown";

export default defineConfig({
  entry: ["src/index.ts"],
  format: "esm",
  platform: "browser",
  target: "es2022",
  dts: true,
  sourcemap: true,
  copy: ["src/styles.css"],
  // A file for each module, so that a product's bundler leaves to a lazy part what only that part needs.
  unbundle: true,
});
