import { useState, type CSSProperties, type ReactNode } from "react";

/** Props of `Picture`. */
interface PictureProps {
  /** The value of `data-patchbay`. */
  kind: "logo" | "avatar";
  /** The picture's address, if there is one. */
  src: string | null | undefined;
  /** The name that the initials are of. It stands beside the picture in words. */
  name: string;
  /** Decides the colour of the initials. */
  seed: string;
}

/** A picture of a connector or account; initials where there is none, or where it does not load. */
export function Picture({ kind, src, name, seed }: PictureProps): ReactNode {
  const [broken, setBroken] = useState<string | null>(null);
  const shown = src && src !== broken ? src : null;
  const hue = { "--patchbay-hue": hueOf(seed) } as CSSProperties;
  return (
    <span data-patchbay={kind} aria-hidden="true" style={shown ? undefined : hue} data-initials={shown ? undefined : ""}>
      {shown ? (
        <img src={shown} alt="" decoding="async" loading="lazy" referrerPolicy="no-referrer" onError={() => setBroken(shown)} />
      ) : (
        initials(name)
      )}
    </span>
  );
}

/** Two letters at the most: of the first two words, or of one. */
function initials(name: string): string {
  const words = name.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  const letters = words.length > 1 ? words.slice(0, 2).map((word) => Array.from(word)[0]) : Array.from(words[0] ?? "").slice(0, 2);
  return letters.join("").toUpperCase();
}

/** The same colour for a seed everywhere. */
function hueOf(seed: string): number {
  let hash = 0;
  for (const letter of seed) hash = (hash * 31 + (letter.codePointAt(0) ?? 0)) % 360;
  return hash;
}
