import { defineConfig } from "vite";

export default defineConfig({
  base: "/console/",
  build: {
    target: ["chrome123", "firefox128", "safari17.5"],
    // The service's policy lets nothing inline through.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: {
      // All of it is needed soon, and one file compresses better.
      output: { codeSplitting: false },
      // Packages mark what is for browsers only; all of this is.
      onLog: (level, log, handle) => log.code !== "MODULE_LEVEL_DIRECTIVE" && handle(level, log),
    },
  },
  server: {
    // `npm run dev` beside a running `patchbay sandbox`.
    proxy: { "/api": "http://localhost:8000", "/console/config.json": "http://localhost:8000" },
  },
});
