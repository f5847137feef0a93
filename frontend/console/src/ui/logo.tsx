import { logoUrl, usePatchbay } from "@patchbay/react";
import { useState } from "react";
import { Mark } from "./parts.js";

/** A connector's logo, or initials where it does not load. */
export function Logo({ slug, name, size = "" }: { slug: string; name: string; size?: "" | "large" }) {
  const { baseUrl } = usePatchbay();
  const [isBroken, setBroken] = useState(false);
  if (isBroken) return <Mark name={name} seed={slug} size={size} />;
  return (
    <span className={`mark logo ${size}`} aria-hidden="true">
      <img src={logoUrl(baseUrl, slug)} alt="" decoding="async" onError={() => setBroken(true)} />
    </span>
  );
}
