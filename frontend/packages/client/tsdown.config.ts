import { defineConfig } from "tsdown";

export default defineConfig({
  entry: ["src/index.ts"],
  format: "esm",
  platform: "browser",
  target: "es2022",
  dts: true,
  sourcemap: true,
  outputOptions: {
    // What every page loads stays in one file: small ones compress worse.
    advancedChunks: { groups: [{ name: "core", test: /src.(backoff|random|error|listeners|shape|shapes\.gen|flow.state|flow.window)\.ts$/ }] },
  },
});
