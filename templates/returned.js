const { message, origins } = JSON.parse(document.getElementById("message").textContent);
// Pages that open this window may cut its opener: the window closes all the same.
if (window.opener) {
  for (const origin of origins) window.opener.postMessage(message, origin);
}
window.close();
