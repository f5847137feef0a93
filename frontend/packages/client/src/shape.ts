import { SHAPES } from "./shapes.gen.js";

const TYPES: Record<string, string> = { s: "string", d: "string", n: "number", b: "boolean", o: "object" };

/** Whether a value has a shape, named as in `SHAPES`. Other fields may be there. */
export function fits(value: unknown, shape: string): boolean {
  if (shape[0] === "[") return Array.isArray(value) && value.every((one) => fits(one, shape.slice(1)));
  const fields = SHAPES[shape];
  if (value === null || typeof value !== (fields ? "object" : TYPES[shape])) return false;
  if (shape === "d") return !Number.isNaN(Date.parse(value as string));
  return !fields || fields.split(" ").every((field) => {
    const [name = "", type = "s"] = field.split(":");
    return fits((value as Record<string, unknown>)[name], type);
  });
}
