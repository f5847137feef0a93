import { ownError } from "./error.js";

/** All pages of a list, one request after another. */
export async function allPages<Page extends { next_cursor?: string | null | undefined }>(
  fetchPage: (cursor: string | undefined) => Promise<Page>,
): Promise<Page[]> {
  const pages: Page[] = [];
  for (let cursor: string | undefined; ; ) {
    const page = await fetchPage(cursor);
    pages.push(page);
    const next = page.next_cursor ?? undefined;
    if (next === undefined) return pages;
    // A cache that ignores the query would answer with the first page for ever.
    if (next === cursor) throw ownError("unreadable", "The next page is the same page again");
    cursor = next;
  }
}
