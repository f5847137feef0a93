import type { ReactNode } from "react";
import { usePatchbay, type LogoOf } from "../react/context.js";
import { Picture } from "./Picture.js";

/** A connector's logo: the one that the provider around draws, or Patchbay's. Its name stands beside it in words. */
export function ConnectorLogo({ connector }: { connector: LogoOf }): ReactNode {
  const { baseUrl, logo } = usePatchbay();
  const drawn = logo?.(connector);
  if (drawn) {
    return (
      <span data-patchbay="logo" aria-hidden="true">
        {drawn}
      </span>
    );
  }
  const { slug, name } = connector;
  return <Picture kind="logo" src={logoUrl(baseUrl, slug)} name={name} seed={slug} />;
}

/** The address of a connector's logo, which needs no token. */
export function logoUrl(baseUrl: string, slug: string): string {
  return `${baseUrl.replace(/\/+$/, "")}/api/v1/connectors/${encodeURIComponent(slug)}/logo`;
}
