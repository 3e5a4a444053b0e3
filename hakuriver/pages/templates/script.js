(function () {
  "use strict";
  var STALE_S = 60;
  document.querySelectorAll("time[data-t]").forEach(function (t) {
    t.title = t.textContent;
    t.textContent = new Date(t.dataset.t * 1000).toLocaleString();
  });
  function judge() {
    var banner = document.getElementById("stale");
    var age = Date.now() / 1000 - (window.riverAlive || 0);
    banner.hidden = age < STALE_S;
    if (window.riverAlive) {
      banner.textContent = "This page is stale: the host has told nothing since " +
        new Date(window.riverAlive * 1000).toLocaleString() + ". What you see may have changed.";
    }
  }
  function ask() {
    var old = document.getElementById("alive"), next = document.createElement("script");
    next.id = "alive";
    next.src = old.getAttribute("src").split("?")[0] + "?" + Date.now();
    next.onload = next.onerror = judge;
    old.replaceWith(next);
  }
  window.addEventListener("load", judge);
  setInterval(ask, 15000);
  var form = document.getElementById("filters");
  if (!form) { return; }
  var rows = Array.prototype.slice.call(document.querySelectorAll("tr[data-state]"));
  function show() {
    var shown = 0, want = {};
    ["state", "node", "user", "text"].forEach(function (n) { want[n] = form.elements[n].value; });
    var text = want.text.toLowerCase();
    rows.forEach(function (row) {
      var nodes = row.dataset.node.split(" ");
      var fits = (!want.state || row.dataset.state === want.state) && (!want.node || nodes.indexOf(want.node) >= 0) &&
        (!want.user || row.dataset.user === want.user) && (!text || row.textContent.toLowerCase().indexOf(text) >= 0);
      row.hidden = !fits;
      shown += fits ? 1 : 0;
    });
    document.getElementById("shown").textContent = shown + " of " + rows.length + " shown";
  }
  function remember() {
    var parts = new URLSearchParams(new FormData(form));
    Array.from(parts.keys()).forEach(function (n) { if (!parts.get(n)) { parts.delete(n); } });
    history.replaceState(null, "", "#" + parts.toString());
    show();
  }
  function recall() {
    new URLSearchParams(location.hash.slice(1)).forEach(function (value, name) {
      if (form.elements[name]) { form.elements[name].value = value; }
    });
    show();
  }
  form.hidden = false;
  form.addEventListener("input", remember);
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  window.addEventListener("hashchange", recall);
  recall();
})();
