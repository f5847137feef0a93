/**
 * The most connections that are fetched one by one. A list that omits more than this is accepted as complete. In a file of its
 * own, because `sync.ts` is loaded later and must not depend on `cache.ts`, which would then be a separate file of the page.
 */
export const MAX_SINGLE_FETCHES = 3;
