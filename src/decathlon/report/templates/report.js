"use strict";
// Headings that sort, and a field that filters the rows of its table. Without this script the tables are just as they are.

function valueOf(cell) {
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = text === "" ? NaN : Number(text);
  return Number.isNaN(number) ? { text } : { number };
}

function compare(a, b, sign) {
  const aEmpty = a.text === "" || a.text === "—";
  const bEmpty = b.text === "" || b.text === "—";
  if (aEmpty || bEmpty) return aEmpty - bEmpty; // what is missing comes last, whichever way
  if (a.number !== undefined && b.number !== undefined) return sign * (a.number - b.number);
  if (a.number !== undefined) return -1;
  if (b.number !== undefined) return 1;
  return sign * a.text.localeCompare(b.text, undefined, { numeric: true });
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row.cells[place]), row]);
      rows.sort((a, b) => compare(a[0], b[0], down ? -1 : 1));
      table.tBodies[0].append(...rows.map((pair) => pair[1]));
    });
  });
}

for (const part of document.querySelectorAll(".filterable")) {
  const field = part.querySelector("[data-filter]");
  const count = part.querySelector("[data-count]");
  const rows = [...part.querySelectorAll("tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, place) => {
      row.hidden = !words.every((word) => texts[place].includes(word));
      shown += !row.hidden;
    });
    count.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  });
}
