const { message, origins } = JSON.parse(document.getElementById("message").textContent);
if (window.opener) {
  for (const origin of origins) window.opener.postMessage(message, origin);
  window.close();
}
