"use strict";
// Asks for the inner part of this page again and again, and puts it in place when it has changed. What a person is
// doing right now (typing, an open menu) is left alone.
(() => {
  const EVERY_MS = 2000, SLOWEST_MS = 30000;
  const main = document.getElementById("main"), live = document.getElementById("live");
  const signedIn = document.querySelector(".who") !== null;
  let tag = "", pause = EVERY_MS;

  const soon = [["s", 60], ["min", 60], ["h", 24], ["d", Infinity]];
  const apart = (seconds) => {
    let amount = Math.abs(seconds);
    for (const [unit, size] of soon) {
      if (amount < size) return `${Math.floor(amount)} ${unit}`;
      amount /= size;
    }
  };
  const tellTimes = () => {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const seconds = (Date.now() - Date.parse(time.dateTime)) / 1000;
      if (!Number.isNaN(seconds)) time.textContent = seconds >= 0 ? `${apart(seconds)} ago` : `in ${apart(seconds)}`;
    }
  };

  const isBusy = () => {
    const at = document.activeElement;
    return main.querySelector("form[data-sent]") !== null
      || (main.contains(at) && at.matches("input"))
      || [...main.querySelectorAll("input[name=reason]")].some((input) => input.value !== "");
  };
  const replace = (html) => {
    const open = new Set([...main.querySelectorAll("details[open][id]")].map((each) => each.id));
    main.innerHTML = html;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    tellTimes();
  };

  const look = async () => {
    if (document.hidden || isBusy()) return;
    try {
      const headers = { "x-fragment": "1", ...(tag && { "if-none-match": tag }) };
      const answer = await fetch(location.href, { headers, redirect: "error" });
      if (answer.status === 401) return location.reload();
      if (answer.status === 200) {
        const html = await answer.text();
        if (!isBusy()) { tag = answer.headers.get("etag") ?? ""; replace(html); }
      }
      const well = answer.status === 200 || answer.status === 304;
      live.hidden = !well;
      pause = well ? EVERY_MS : Math.min(pause * 2, SLOWEST_MS);
    } catch {
      live.hidden = true;
      pause = Math.min(pause * 2, SLOWEST_MS);
    }
  };
  const follow = () => setTimeout(async () => { await look(); follow(); }, pause);

  // A decision is sent once, however often it is clicked.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches("[data-once]")) return;
    if (form.dataset.sent) return event.preventDefault();
    form.dataset.sent = "1";
    for (const button of form.querySelectorAll("button")) button.setAttribute("aria-disabled", "true");
  });
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  tellTimes();
  setInterval(tellTimes, 1000);
  if (signedIn && document.querySelector("[role=alert]") === null) follow();
})();
