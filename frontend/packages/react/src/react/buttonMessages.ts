import type { MessageOverrides } from "./messages.js";

/** The messages that a connect button shows before a click. A page with nothing else loads the others when they are needed. */
export interface ButtonMessages {
  /** What the opened window shows until it is sent to the provider. */
  windowTitle: string;
  windowText: string;
  connect: (name: string) => string;
  reconnect: (name: string) => string;
  connected: (name: string) => string;
  connecting: (name: string) => string;
}

/** The English messages of a connect button before a click. */
export const buttonMessages: ButtonMessages = {
  windowTitle: "Connecting…",
  windowText: "Connecting…",
  connect: (name) => `Connect ${name}`,
  reconnect: (name) => `Reconnect ${name}`,
  connected: (name) => `${name} connected`,
  connecting: (name) => `Connecting ${name}…`,
};

/** Messages with others in the place of some. */
export function mergeMessages<Some extends ButtonMessages>(messages: Some, overrides: MessageOverrides | undefined): Some {
  const merged = { ...messages } as Record<string, unknown>;
  for (const [key, value] of Object.entries(overrides ?? {})) {
    const before = merged[key];
    merged[key] = isGroup(before) && isGroup(value) ? { ...before, ...value } : (value ?? before);
  }
  return merged as Some;
}

function isGroup(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
