(function () {
  "use strict";
  var STALE_S = 60, EVERY_S = 15;
  var opened = Date.now() / 1000, stamp = null, changed = null;

  document.querySelectorAll("time[data-t]").forEach(function (t) {
    var date = new Date(t.dataset.t * 1000);
    t.title = t.textContent;
    t.textContent = date.toLocaleString([], {
      year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit"
    });
  });

  function ago(s) {
    return s < 90 ? Math.round(s) + " s" : s < 5400 ? Math.round(s / 60) + " min" :
      s < 129600 ? Math.round(s / 3600) + " h" : Math.round(s / 86400) + " days";
  }
  // Clocks may differ: once the stamp was seen to change, only the time since then by our own clock counts.
  function judge() {
    var alive = window.riverAlive, now = Date.now() / 1000;
    if (alive && alive !== stamp) {
      if (stamp !== null) { changed = now; }
      stamp = alive;
    }
    var quiet = changed !== null ? now - changed : Math.max(alive ? now - alive : Infinity, now - opened);
    var banner = document.getElementById("stale"), fresh = document.getElementById("fresh");
    banner.hidden = quiet < STALE_S;
    if (alive) {
      banner.textContent = "This page is stale: the host has told nothing since " +
        new Date(alive * 1000).toLocaleString() + " (" + ago(quiet) + " ago). What you see may have changed.";
      fresh.textContent = quiet < STALE_S ? "host seen " + ago(quiet) + " ago" : "host silent";
    }
    return quiet < STALE_S;
  }
  // Shows what is new: lists when their version is another, pages of jobs that are not over with each stamp.
  function renew(before) {
    var root = document.documentElement, version = (window.riverPages || {})[root.dataset.page];
    var other = version ? version !== root.dataset.version : document.querySelector("[data-live]") !== null;
    var busy = document.hidden || String(getSelection()) || /^(INPUT|SELECT)$/.test(document.activeElement.tagName);
    if (before !== null && window.riverAlive !== before && other && !busy) { location.reload(); }
  }
  function ask() {
    var old = document.getElementById("alive"), next = document.createElement("script"), before = stamp;
    next.id = "alive";
    next.src = old.getAttribute("src").split("?")[0] + "?" + Date.now();
    next.onload = function () { judge(); renew(before); };
    next.onerror = judge;
    old.replaceWith(next);
  }
  document.querySelectorAll("pre").forEach(function (log) { log.scrollTop = log.scrollHeight; });
  window.addEventListener("load", judge);
  setInterval(judge, 1000);
  setInterval(ask, EVERY_S * 1000);

  var form = document.getElementById("filters");
  if (!form) { return; }
  var NAMES = ["state", "node", "user", "text"];
  var rows = Array.prototype.slice.call(document.querySelectorAll("tr[data-state]"));
  function show() {
    var shown = 0, want = {};
    NAMES.forEach(function (n) { want[n] = form.elements[n].value; });
    var words = want.text.toLowerCase().split(/\s+/);
    rows.forEach(function (row) {
      var content = row.textContent.toLowerCase();
      var fits = (!want.state || row.dataset.state === want.state) &&
        (!want.node || row.dataset.node.split(" ").indexOf(want.node) >= 0) &&
        (!want.user || row.dataset.user === want.user) &&
        words.every(function (word) { return content.indexOf(word) >= 0; });
      row.hidden = !fits;
      shown += fits ? 1 : 0;
    });
    document.getElementById("shown").textContent = shown + " of " + rows.length + " shown";
  }
  function remember() {
    var parts = new URLSearchParams();
    NAMES.forEach(function (n) { if (form.elements[n].value) { parts.set(n, form.elements[n].value); } });
    history.replaceState(null, "", "#" + parts.toString());
    show();
  }
  function choose(field, value) {
    if (field.tagName === "SELECT" && value && !Array.prototype.some.call(field.options, function (o) { return o.value === value; })) {
      field.add(new Option(value));
    }
    field.value = value;
  }
  function recall() {
    var asked = new URLSearchParams(location.hash.slice(1));
    NAMES.forEach(function (n) { choose(form.elements[n], asked.get(n) || ""); });
    show();
  }
  form.hidden = false;
  form.addEventListener("input", remember);
  form.addEventListener("reset", function () { setTimeout(remember); });
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  window.addEventListener("hashchange", recall);
  recall();
})();
