import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [react()],
  server: {
    // One origin for the browser, so that nothing has to be allowed at Patchbay.
    proxy: {
      "/api": process.env.PATCHBAY_URL ?? "http://localhost:8000",
      "/sandbox": process.env.NANGO_URL ?? "http://localhost:8001",
    },
  },
});
