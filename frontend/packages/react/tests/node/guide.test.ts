// The update guide's code compiles as it is shown.
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import ts from "typescript";
import { expect, test } from "vitest";

const GUIDE = join(import.meta.dirname, "../../../../../docs/CONNECTORCATALOG_UPDATE_EXAMPLE.md");

/** The product's own modules, which the guide's code imports. */
const PRODUCT = {
  "catalog/App.tsx": `export function App() { return null }`,
  "catalog/auth.ts": `export declare const auth: { userId: string; getToken(wanted: { fresh: boolean }): Promise<string> };`,
  "catalog/vite.d.ts": `interface ImportMeta { env: { VITE_PATCHBAY_URL: string } }
declare module "@patchbay/react/styles.css";`,
  "ui.ts": `import type { ReactNode } from "react";
type Part = (props: { title?: string; children?: ReactNode }) => ReactNode;
export declare const Alert: Part, Card: Part, Spinner: Part;`,
};

test("update_guide_compiles_as_shown", async () => {
  const text = await readFile(GUIDE, "utf8");
  // The first one is the product before.
  const [, ...blocks] = [...text.matchAll(/```tsx\n([^]*?)```/g)].map((found) => found[1] ?? "");
  expect(blocks).toHaveLength(3);
  const folder = await mkdtemp(join(import.meta.dirname, "guide-"));
  try {
    const shown = blocks.map((block, index) => [`catalog/block${index}.tsx`, block] as const);
    await mkdir(join(folder, "catalog"));
    await Promise.all([...shown, ...Object.entries(PRODUCT)].map(([name, code]) => writeFile(join(folder, name), code)));
    const options: ts.CompilerOptions = {
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.ESNext,
      moduleResolution: ts.ModuleResolutionKind.Bundler,
      jsx: ts.JsxEmit.ReactJSX,
      strict: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: true,
      noEmit: true,
      types: [],
    };
    const names = [...shown.map(([name]) => name), "catalog/vite.d.ts"];
    const program = ts.createProgram(names.map((name) => join(folder, name)), options);
    const said = ts.getPreEmitDiagnostics(program).map(({ file, messageText }) => {
      return `${file?.fileName ?? ""}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`;
    });
    expect(said).toEqual([]);
  } finally {
    await rm(folder, { recursive: true });
  }
});
