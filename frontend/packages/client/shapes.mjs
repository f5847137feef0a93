/**
 * Writes what responses have to look like into `src/shapes.gen.ts`, from the service's OpenAPI document. With `--check`,
 * fails if the file is stale.
 */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** The schemas of the responses that the client reads; those that they refer to follow. */
const RESPONSES = ["ConnectorList", "ConnectionList", "ConnectResponse", "CallbackResponse", "DisconnectResponse", "EventList"];
const FILE = join(import.meta.dirname, "src/shapes.gen.ts");

const { components } = JSON.parse(await readFile(join(import.meta.dirname, "../../../docs/openapi.json"), "utf8"));
const shapes = new Map();
RESPONSES.forEach(add);

function add(name) {
  if (shapes.has(name)) return;
  const { properties, required = [] } = components.schemas[name];
  const shape = {};
  shapes.set(name, shape);
  for (const field of required) {
    const type = typeOf(properties[field]);
    if (type) shape[field] = type === "s" ? field : `${field}:${type}`;
  }
}

/**
 * A schema in short: `[` is a list; then `s` (a text), `n`, `b`, `d` (a date), `o` (an object) or a shape's name. Null for
 * what may be null: whatever reads it has to bear that.
 */
function typeOf(schema) {
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    // A newer service may have values that this client does not know yet.
    const target = components.schemas[name];
    if (target.enum || target.anyOf) return "s";
    if (!target.properties) return typeOf(target);
    add(name);
    return name;
  }
  const options = schema.allOf;
  if (options?.length === 1) return typeOf(options[0]);
  if (typeof schema.type !== "string") return null;
  if (schema.type === "array") return `[${typeOf(schema.items)}`;
  if (schema.type === "string") return schema.format === "date-time" ? "d" : "s";
  return { integer: "n", number: "n", boolean: "b", object: "o" }[schema.type];
}

const lines = [...shapes]
  .sort(([one], [other]) => one.localeCompare(other))
  .map(([name, shape]) => `  ${name}: "${Object.values(shape).join(" ")}",`);
const text = `/** Fields that have to be there, as \`name:type\`, or the name alone of a text. Written by shapes.mjs: \`npm run types\`. */
export const SHAPES: Readonly<Record<string, string>> = {
${lines.join("\n")}
};
`;
if (!process.argv.includes("--check")) await writeFile(FILE, text);
else if ((await readFile(FILE, "utf8")) !== text) {
  console.error("src/shapes.gen.ts is stale: npm run types -w @patchbay/client");
  process.exitCode = 1;
}
