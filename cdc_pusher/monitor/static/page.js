// Keeps what a page shows as it is now: the page is asked for again, and its parts marked data-live are put in place of the former ones.
"use strict";

const LOOK_MS = 2000;
const stale = () => document.getElementById("stale");

async function look() {
  const began = performance.now();
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    const found = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const now = found.getElementById(part.id);
      if (now && now.innerHTML !== part.innerHTML && !selecting(part)) {
        const held = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
        const scrolled = [...part.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
        part.innerHTML = now.innerHTML;
        if (held) [...part.querySelectorAll("a")].find((one) => one.getAttribute("href") === held)?.focus({ preventScroll: true });
        part.querySelectorAll(".scroll").forEach((one, i) => { one.scrollLeft = scrolled[i] ?? 0; });
      }
    }
    if (found.title) document.title = found.title;
    stale().textContent = answer.ok ? "" : "· this is not new: the daemon cannot tell";
  } catch {
    stale().textContent = "· this is not new: the daemon does not answer";
  }
  const took = performance.now() - began;
  setTimeout(lookWhenSeen, Math.max(LOOK_MS, 5 * took));
}

function selecting(part) {
  const chosen = getSelection();
  return chosen && !chosen.isCollapsed && part.contains(chosen.anchorNode);
}

function lookWhenSeen() {
  if (document.visibilityState === "visible") look();
  else document.addEventListener("visibilitychange", look, { once: true });
}

for (const form of document.querySelectorAll("[data-filter]")) {
  form.addEventListener("change", (event) => { if (event.target.tagName === "SELECT") form.requestSubmit(); });
}
setTimeout(lookWhenSeen, LOOK_MS);
