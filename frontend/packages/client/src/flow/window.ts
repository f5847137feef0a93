/** What an opened window shows until it is sent to the provider. */
export interface WindowWords {
  title: string;
  text: string;
}

const WORDS: WindowWords = { title: "Connecting…", text: "Connecting…" };

const WIDTH = 560;
const HEIGHT = 760;

/**
 * Opens an empty window; null if the browser blocks it. Call it in the click itself: browsers block windows that are
 * opened later. Opens a tab rather than a popup where a popup would fill the screen anyway.
 *
 * The window has no opener: a provider's page could otherwise navigate the page that opened it. Once it has left this
 * origin, this page can see whether it is open and focus it, but no longer navigate or close it.
 */
export function openWindow(words = WORDS): Window | null {
  const opened = window.open("", "_blank", roomForPopup() ? popupFeatures() : "");
  if (!opened || opened.closed) return null;
  try {
    opened.opener = null;
  } catch {
    // The link that is offered for a blocked window has no opener either.
    opened.close();
    return null;
  }
  try {
    const page = opened.document;
    page.title = words.title;
    page.documentElement.style.colorScheme = "light dark";
    const text = page.createElement("p");
    text.textContent = words.text;
    text.style.cssText = "font: 1rem/1.5 system-ui, sans-serif; text-align: center; margin-top: 30vh";
    page.body.replaceChildren(text);
  } catch {
    // A browser that isolates even an empty window shows it empty.
  }
  return opened;
}

function roomForPopup(): boolean {
  const coarse = typeof matchMedia === "function" && matchMedia("(pointer: coarse)").matches;
  return !coarse && window.innerWidth >= 640;
}

function popupFeatures(): string {
  const left = window.screenX + (window.outerWidth - WIDTH) / 2;
  const top = window.screenY + (window.outerHeight - HEIGHT) / 2;
  return `popup,width=${WIDTH},height=${HEIGHT},left=${left},top=${top}`;
}
