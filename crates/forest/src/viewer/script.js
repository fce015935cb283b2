"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const trees = all("section.tree[id]");
  const items = all(".tasks li");
  const filter = document.getElementById("filter");
  const withPairs = document.getElementById("with-pairs");
  let current = null;

  // One tree at a time; without this script all of them stand below each other.
  function show(tree) {
    if (!tree) return;
    current = tree;
    for (const other of trees) other.hidden = other !== tree;
    for (const item of items) {
      const link = item.querySelector("a");
      const isCurrent = link.hash === "#" + tree.id;
      link.setAttribute("aria-current", String(isCurrent));
      if (isCurrent) link.scrollIntoView({ block: "nearest" });
    }
  }

  function follow(hash) {
    const target = hash.length > 1 && document.getElementById(decodeURIComponent(hash.slice(1)));
    const tree = target && target.closest("section.tree[id]");
    if (!tree) return false;
    show(tree);
    for (let at = target.parentElement; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    const focus = target === tree ? tree.querySelector("h2") : target.querySelector("summary") || target;
    focus.focus({ preventScroll: true });
    if (target === tree) window.scrollTo({ top: Math.max(0, tree.offsetTop - 80) });
    else target.scrollIntoView({ block: "center" });
    return true;
  }

  function narrow() {
    const wanted = filter.value.trim().toLowerCase();
    let count = 0;
    for (const item of items) {
      item.hidden = !item.dataset.name.includes(wanted) || (withPairs.checked && item.dataset.pairs === "0");
      if (!item.hidden) count += 1;
    }
    document.querySelector(".tasks .none").hidden = count > 0;
  }

  function step(by) {
    const links = items.filter((item) => !item.hidden).map((item) => item.querySelector("a"));
    const at = links.findIndex((link) => current && link.hash === "#" + current.id);
    const next = links[Math.min(links.length - 1, Math.max(0, at + by))];
    if (next) location.hash = next.hash;
  }

  function move(by) {
    const visible = all("summary", current || document).filter((summary) => summary.offsetParent !== null);
    const at = visible.indexOf(document.activeElement);
    const next = visible[at < 0 ? 0 : Math.min(visible.length - 1, Math.max(0, at + by))];
    if (next) next.focus();
  }

  function fold(open) {
    const details = document.activeElement && document.activeElement.closest("details");
    if (details) details.open = open;
    if (details && !open) details.querySelector("summary").focus();
  }

  function nextPair() {
    const pairs = all(".pair", current || document);
    const at = pairs.findIndex((pair) => pair === document.activeElement);
    const next = pairs[(at + 1) % pairs.length];
    if (next) { next.focus(); next.scrollIntoView({ block: "center" }); }
  }

  const keys = {
    "/": () => filter.focus(), "[": () => step(-1), "]": () => step(1),
    j: () => move(1), k: () => move(-1), ArrowLeft: () => fold(false), ArrowRight: () => fold(true),
    e: () => all("details", current).forEach((one) => { one.open = true; }),
    c: () => all("details", current).forEach((one) => { one.open = false; }),
    p: nextPair,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof HTMLInputElement) { if (event.key === "Escape") event.target.blur(); return; }
    const action = keys[event.key];
    if (action && current) { event.preventDefault(); action(); }
  });
  filter.addEventListener("input", narrow);
  withPairs.addEventListener("change", narrow);
  window.addEventListener("hashchange", () => follow(location.hash));
  if (!follow(location.hash)) show(trees.find((tree) => tree.querySelector(".pair")) || trees[0]);
})();
