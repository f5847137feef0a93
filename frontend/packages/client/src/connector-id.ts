/** The namespace of connector ids, the same in every installation. */
const NAMESPACE = "2c2a2ccce2384925a3683230f5e32781";

const UUID = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i;

/**
 * A connector's id, for use in addresses: ad blockers refuse requests whose address contains a slug such as `google-analytics`.
 * It is the UUIDv5 of the slug. A page served without TLS cannot compute it, and uses the slug.
 */
export async function connectorId(connector: string): Promise<string> {
  const { subtle } = crypto as Partial<Crypto>;
  if (UUID.test(connector) || !subtle) return encodeURIComponent(connector);
  const namespace = NAMESPACE.match(/../g)?.map((byte) => parseInt(byte, 16)) ?? [];
  const hash = await subtle.digest("SHA-1", new Uint8Array([...namespace, ...new TextEncoder().encode(connector)]));
  const id = Array.from(new Uint8Array(hash, 0, 16), (byte, index) => {
    if (index === 6) byte = (byte & 0x0f) | 0x50;
    if (index === 8) byte = (byte & 0x3f) | 0x80;
    return byte.toString(16).padStart(2, "0");
  });
  return id.join("").replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5");
}
