// The page's script is in `<prefix>/console/assets/`: a proxy may serve the service below a path of its own.
const here = new URL(import.meta.url).pathname;

/** The path of the console, with a slash at its end. */
export const BASE = here.slice(0, here.lastIndexOf("/console/") + "/console/".length);

/** The path of the service, without a slash at its end: that of `PUBLIC_URL`. */
export const SERVICE = BASE.slice(0, -"/console/".length);
