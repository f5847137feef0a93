import { createRequire } from "node:module";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

/** Where React 18 is installed, beside the 19 that everything else uses. */
const eighteen = createRequire(new URL("./react-18/package.json", import.meta.url));
const packageOf = (name: string) => dirname(eighteen.resolve(`${name}/package.json`));
const alias = {
  react: packageOf("react"),
  "react-dom": packageOf("react-dom"),
  // Its CommonJS build, which is taken otherwise, would require the other React.
  "@testing-library/react": fileURLToPath(import.meta.resolve("@testing-library/react")).replace(
    /index\.js$/,
    "@testing-library/react.esm.js",
  ),
};

const browser = {
  environment: "jsdom",
  environmentOptions: { jsdom: { url: "http://product.test/" } },
  setupFiles: ["packages/client/tests/setup.ts"],
};

export default defineConfig({
  test: {
    globalSetup: ["packages/client/tests/sandbox.ts"],
    // One sandbox for all, whose faults are everybody's.
    fileParallelism: false,
    testTimeout: 60_000,
    projects: [
      { extends: true, test: { name: "node", include: ["packages/*/tests/node/*.test.ts"] } },
      { extends: true, test: { ...browser, name: "client", include: ["packages/*/tests/*.test.ts"] } },
      { extends: true, test: { ...browser, name: "react 19", setupFiles: ["packages/client/tests/setup.ts", "packages/react/tests/cleanup.ts"], include: ["packages/react/tests/*.test.tsx"] } },
      {
        extends: true,
        resolve: { alias },
        test: {
          ...browser,
          name: "react 18",
          setupFiles: ["packages/client/tests/setup.ts", "packages/react/tests/cleanup.ts"],
          include: ["packages/react/tests/*.test.tsx"],
          env: { REACT_MAJOR: "18" },
          server: { deps: { inline: [/react-query/, /testing-library/] } },
        },
      },
    ],
  },
});
