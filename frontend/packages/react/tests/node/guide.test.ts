// The update guide's code compiles as it is shown.
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import ts from "typescript";
import { expect, test } from "vitest";

const GUIDE = join(import.meta.dirname, "../../../../../docs/CONNECTORCATALOG_UPDATE_EXAMPLE.md");

/** The product's own modules, which the guide's code imports. */
const PRODUCT = `
interface ImportMeta { env: { VITE_PATCHBAY_URL: string } }
declare module "./App" { export function App(): import("react").ReactNode }
declare module "./auth" {
  export const auth: { userId: string; getToken(wanted: { fresh: boolean }): Promise<string> };
}
declare module "../ui" {
  type Part = (props: { title?: string; children?: import("react").ReactNode }) => import("react").ReactNode;
  export const Alert: Part, Card: Part, Spinner: Part;
}
`;

test("update_guide_compiles_as_shown", async () => {
  const text = await readFile(GUIDE, "utf8");
  // The first one is the product before.
  const [, ...blocks] = [...text.matchAll(/```tsx\n([^]*?)```/g)].map((found) => found[1] ?? "");
  expect(blocks).toHaveLength(3);
  const folder = await mkdtemp(join(import.meta.dirname, "guide-"));
  try {
    const files = blocks.map((_, index) => join(folder, `block${index}.tsx`));
    await Promise.all(files.map((file, index) => writeFile(file, blocks[index] ?? "")));
    await writeFile(join(folder, "product.d.ts"), `${PRODUCT}declare module "@patchbay/react/styles.css";`);
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
    const program = ts.createProgram([...files, join(folder, "product.d.ts")], options);
    const said = ts.getPreEmitDiagnostics(program).map(({ file, messageText }) => {
      return `${file?.fileName ?? ""}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`;
    });
    expect(said).toEqual([]);
  } finally {
    await rm(folder, { recursive: true });
  }
});
