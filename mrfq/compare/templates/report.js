"use strict";
// Sort a table by the column that is clicked; references stay on top.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => {
      const cell = row.cells[column];
      if (column === 0) return cell.textContent.trim();
      return cell.dataset.sort === "" ? null : Number(cell.dataset.sort);
    };
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return (up ? 1 : -1) * (typeof x === "string" ? x.localeCompare(y) : x - y);
    };
    const rows = [...table.tBodies[0].rows];
    const top = rows.filter(row => row.classList.contains("reference"));
    const rest = rows.filter(row => !row.classList.contains("reference")).sort(order);
    table.tBodies[0].append(...top, ...rest);
  }));
}
// Point at a solver, in a table, a key or a figure, to see its line and its row.
for (const part of document.querySelectorAll(".problem")) {
  const show = name => {
    part.classList.toggle("pointing", name !== null);
    for (const item of part.querySelectorAll("[data-solver]"))
      item.classList.toggle("on", item.dataset.solver === name);
  };
  const drawn = new Set([...part.querySelectorAll(".line")].map(line => line.dataset.solver));
  part.addEventListener("pointerover", event => {
    const item = event.target.closest("[data-solver]");
    show(item && drawn.has(item.dataset.solver) ? item.dataset.solver : null);
  });
  part.addEventListener("pointerleave", () => show(null));
}
