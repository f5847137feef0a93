import { render, screen, waitFor } from "@testing-library/react";
import { expect, test } from "vitest";
import { lazyModule, loadable } from "../src/components/loadable.js";

test("module_that_fails_to_load_is_loaded_once_for_all", async () => {
  let loads = 0;
  const parts = lazyModule(async () => {
    loads += 1;
    if (loads < 3) throw new TypeError("Failed to fetch dynamically imported module");
    return { Part: ({ text }: { text: string }) => <p>{text}</p> };
  });
  const Part = loadable(parts, (module) => module.Part);
  render(Array.from({ length: 50 }, (_, index) => <Part key={index} text="shown" />));
  expect(screen.queryAllByText("shown")).toHaveLength(0);
  await waitFor(() => expect(screen.queryAllByText("shown")).toHaveLength(50), { timeout: 20_000 });
  expect(loads).toBe(3);
});
