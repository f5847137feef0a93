import { cleanup, configure } from "@testing-library/react";
import { afterEach } from "vitest";

// Testing Library does it by itself only where the test functions are global.
afterEach(cleanup);

// Long enough for a busy machine. Each wait ends as soon as its state is reached.
configure({ asyncUtilTimeout: 20_000 });
