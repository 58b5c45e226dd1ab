// Sorting, filtering and the switch between light and dark. The page shows everything without this.
"use strict";
(() => {
  const make = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };

  // --- light and dark: kept in the page only, nothing is stored ---
  const theme = document.getElementById("theme");
  const root = document.documentElement;
  const prefers = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefers.matches);
  const tell = () => {
    theme.textContent = isDark() ? "Light" : "Dark";
    theme.setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours");
  };
  theme.hidden = false;
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    tell();
  });
  prefers.addEventListener("change", tell);
  tell();

  // --- sorting ---
  const order = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort ?? cell.textContent.trim();
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      const numeric = header.classList.contains("number");
      const button = make("button", { type: "button" }, ...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        const before = header.getAttribute("aria-sort");
        const up = before ? before === "descending" : !numeric;
        for (const other of headers) other.removeAttribute("aria-sort");
        header.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        const compare = numeric
          ? (a, b) => Number(keyOf(a, column)) - Number(keyOf(b, column))
          : (a, b) => order.compare(keyOf(a, column), keyOf(b, column));
        rows.sort((a, b) => (up ? compare(a, b) : compare(b, a)));
        table.tBodies[0].append(...rows);
      });
    });
  }

  // --- filtering ---
  for (const table of document.querySelectorAll("table[data-filter]")) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 4) continue;
    const field = make("input", { type: "search", autocomplete: "off", spellcheck: false });
    const bar = make("div", { className: "filter" }, make("label", {}, make("span", {}, table.dataset.filter), field));
    let choice = null;
    if (table.dataset.kinds) {
      choice = make("select", {}, make("option", { value: "" }, "all"));
      for (const kind of table.dataset.kinds.split(";")) {
        const [value, words] = kind.split("=");
        choice.append(make("option", { value }, words));
      }
      bar.append(make("label", {}, make("span", {}, "Origin"), choice));
    }
    const shown = make("p", { className: "soft" });
    shown.setAttribute("role", "status");
    bar.append(shown);
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const apply = () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const row of rows) {
        const fits =
          words.every((word) => texts.get(row).includes(word)) &&
          (!choice || !choice.value || row.dataset.kind === choice.value);
        row.hidden = !fits;
        count += fits ? 1 : 0;
      }
      shown.textContent = count === rows.length ? `${rows.length} rows` : `${count} of ${rows.length} rows`;
    };
    field.addEventListener("input", apply);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && field.value) {
        field.value = "";
        apply();
      }
    });
    choice?.addEventListener("change", apply);
    table.parentElement.before(bar);
    apply();
  }

  // --- the map: what is pointed at, in full; a row that is sought must not be filtered away ---
  const status = document.getElementById("map-status");
  const nothing = status?.textContent;
  for (const link of document.querySelectorAll(".map a")) {
    const show = () => (status.textContent = link.title);
    const clear = () => (status.textContent = nothing);
    link.addEventListener("focus", show);
    link.addEventListener("mouseenter", show);
    link.addEventListener("blur", clear);
    link.addEventListener("mouseleave", clear);
    link.addEventListener("click", () => {
      const row = document.getElementById(link.hash.slice(1));
      if (row) row.hidden = false;
    });
  }

  // --- printing: logs stay folded, results of checks do not ---
  const folded = new Set();
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("#changes details, #checks > details")) {
      if (!details.open) folded.add(details);
      details.open = true;
    }
  });
  addEventListener("afterprint", () => {
    for (const details of folded) details.open = false;
    folded.clear();
  });
})();
