import { defineConfig } from "tsdown";

export default defineConfig({
  entry: ["src/index.ts"],
  format: "esm",
  platform: "browser",
  target: "es2022",
  dts: true,
  sourcemap: true,
  copy: ["src/styles.css"],
  outputOptions: {
    // What every page loads stays in one file: small ones compress worse.
    advancedChunks: { groups: [{ name: "core", test: /src.(react|components).(cache|context|messages|persistently|useConnectForm|FlowNotice|errorText|loadable|lazy|Button|provider|useConnect|useConnections|useKeptFocus|useConnector)\.tsx?$/ }] },
  },
});
