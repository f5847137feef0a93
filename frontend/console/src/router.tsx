import { useSyncExternalStore, type AnchorHTMLAttributes, type MouseEvent } from "react";
import { BASE } from "./base.js";

/** Which page the address names. */
export type Route =
  | { page: "catalog" }
  | { page: "connector"; slug: string }
  | { page: "connections" }
  | { page: "connection"; id: string }
  | { page: "unknown" };

export const paths = {
  catalog: BASE,
  connections: `${BASE}connections`,
  connector: (slug: string) => `${BASE}connectors/${encodeURIComponent(slug)}`,
  connection: (id: string) => `${BASE}connections/${encodeURIComponent(id)}`,
};

export function routeOf(pathname: string): Route {
  const [kind, name, ...rest] = pathname.slice(BASE.length).split("/").filter(Boolean).map(decodeURIComponent);
  if (rest.length > 0) return { page: "unknown" };
  if (kind === undefined) return { page: "catalog" };
  if (kind === "connections") return name === undefined ? { page: "connections" } : { page: "connection", id: name };
  if (kind === "connectors" && name !== undefined) return { page: "connector", slug: name };
  return { page: "unknown" };
}

/** How soon an address that the browser did not take is written again, in milliseconds. */
const REWRITE_MS = 500;

const listeners = new Set<() => void>();

/**
 * The address that the console shows. The browser's follows later where it changes often, as with a search that is typed
 * fast: browsers limit how often a page may change it.
 */
let address = new URL(location.href);
let rewrite: ReturnType<typeof setTimeout> | undefined;

function show(): void {
  for (const listener of listeners) listener();
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function write(push = false): void {
  clearTimeout(rewrite);
  try {
    if (push) history.pushState(null, "", address);
    else history.replaceState(history.state, "", address);
  } catch {
    // Firefox and Safari throw past their limit; Chromium does nothing.
  }
  if (location.href !== address.href) rewrite = setTimeout(write, REWRITE_MS);
}

let back = false;

/** Whether the page is the one before or after in the tab's history, rather than a new one. */
export function cameBack(): boolean {
  return back;
}

window.addEventListener("popstate", () => {
  back = true;
  clearTimeout(rewrite);
  address = new URL(location.href);
  show();
});

export function usePath(): string {
  return useSyncExternalStore(subscribe, () => address.pathname);
}

/** A parameter of the address; empty if it is missing. */
export function useParameter(name: string): string {
  return useSyncExternalStore(subscribe, () => address.searchParams.get(name) ?? "");
}

/** Changes parameters of the address; an empty one goes. With `replace`, Back leads past the change. */
export function setParameters(changes: Record<string, string>, replace: boolean): void {
  const query = new URLSearchParams(address.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  const search = query.toString();
  go(search ? `${address.pathname}?${search}` : address.pathname, replace);
}

export function go(path: string, replace = false): void {
  address = new URL(path, address);
  write(!replace);
  back = false;
  show();
}

type LinkProps = AnchorHTMLAttributes<HTMLAnchorElement> & { href: string };

/** A link within the console: followed without a new page, unless it is asked to open elsewhere. */
export function Link(props: LinkProps) {
  const follow = (event: MouseEvent<HTMLAnchorElement>) => {
    props.onClick?.(event);
    const elsewhere = event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey;
    if (event.defaultPrevented || elsewhere) return;
    event.preventDefault();
    go(props.href);
  };
  return <a {...props} onClick={follow} />;
}
