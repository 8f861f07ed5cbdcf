// What the page builder says of its own parts contradicts what a screen reader finds there.
addEventListener("DOMContentLoaded", () => {
  // "Show code cell source" is the name that is seen; another one hides it from who speaks it.
  for (const summary of document.querySelectorAll("summary[aria-label]")) summary.removeAttribute("aria-label");
  // A list whose entries are no list items is no list.
  for (const list of document.querySelectorAll(".citation-list[role=list]")) list.removeAttribute("role");
  // What may scroll in place must do so by keyboard too.
  for (const box of document.querySelectorAll("article .cell_output figure, .pst-scrollable-table-container")) box.tabIndex = 0;
});
