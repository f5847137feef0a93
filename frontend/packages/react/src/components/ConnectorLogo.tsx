import type { CSSProperties, ReactNode } from "react";
import { usePatchbay, type LogoOf } from "../react/context.js";

/** A connector's logo, if the provider around has one, or its initials. Its name stands beside it in words. */
export function ConnectorLogo({ connector }: { connector: LogoOf }): ReactNode {
  const { logo } = usePatchbay();
  const drawn = logo?.(connector);
  const hue = { "--patchbay-hue": hueOf(connector.slug) } as CSSProperties;
  return (
    <span data-patchbay="logo" aria-hidden="true" style={drawn ? undefined : hue} data-initials={drawn ? undefined : ""}>
      {drawn ?? initials(connector.name)}
    </span>
  );
}

/** Two letters at the most: of the first two words, or of one. */
export function initials(name: string): string {
  const words = name.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  const letters = words.length > 1 ? words.slice(0, 2).map((word) => Array.from(word)[0]) : Array.from(words[0] ?? "").slice(0, 2);
  return letters.join("").toUpperCase();
}

/** The same colour for a connector everywhere. */
function hueOf(slug: string): number {
  let hash = 0;
  for (const letter of slug) hash = (hash * 31 + (letter.codePointAt(0) ?? 0)) % 360;
  return hash;
}
