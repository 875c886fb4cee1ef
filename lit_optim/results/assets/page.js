"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const memory = `lit-optim ${location.pathname}`;
  const only = new Set(); // places of choices; empty: all
  const collator = new Intl.Collator(undefined, {numeric: true});
  const marks = {run: new Map(), row: new Map()}; // what figures show of each
  for (const kind of ["run", "row"])
    for (const mark of all(`.mark[data-${kind}]`)) {
      const place = mark.getAttribute(`data-${kind}`);
      if (!marks[kind].has(place)) marks[kind].set(place, []);
      marks[kind].get(place).push(mark);
    }

  // light and dark

  function readStore(store, key) {
    try { return store().getItem(key); } catch { return null; } // forbidden for files
  }
  function writeStore(store, key, value) {
    try { store().setItem(key, value); } catch { /* then it lasts as long as the page */ }
  }
  const root = document.documentElement;
  const chosen = readStore(() => localStorage, "lit-optim theme");
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  one("#theme").addEventListener("click", () => {
    const isDark = getComputedStyle(root).colorScheme === "dark";
    root.dataset.theme = isDark ? "light" : "dark";
    writeStore(() => localStorage, "lit-optim theme", root.dataset.theme);
  });

  // copying

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // no permission, or an old browser
      const area = document.body.appendChild(document.createElement("textarea"));
      area.value = text;
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }
  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    await copy(button.dataset.command);
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1500);
  });

  // sorting

  function valueOf(cell, isNumber) {
    const text = cell.dataset.value ?? cell.textContent.trim();
    if (text === "" || text === "-") return null;
    return isNumber ? Number(text) : text;
  }
  function sort(table, column, isDescending) {
    const rows = [...table.tBodies[0].rows];
    const texts = rows.map((row) => valueOf(row.cells[column], false));
    const isNumber = texts.every((text) => text === null || !Number.isNaN(Number(text)));
    const values = new Map(rows.map((row) => [row, valueOf(row.cells[column], isNumber)]));
    const sign = isDescending ? -1 : 1;
    rows.sort((a, b) => {
      const [x, y] = [values.get(a), values.get(b)];
      if (x === null || y === null) return (x === null) - (y === null); // without one: last
      if (x === y) return 0;
      return sign * (isNumber ? x - y : collator.compare(x, y));
    });
    table.tBodies[0].append(...rows);
    all("th[aria-sort]", table.tHead).forEach((head) => head.removeAttribute("aria-sort"));
    const head = table.tHead.rows[0].cells[column];
    head.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
  }
  for (const table of all("table"))
    for (const head of all("tr.head th", table))
      head.addEventListener("click", () => {
        sort(table, head.cellIndex, head.getAttribute("aria-sort") === "ascending");
        remember();
      });

  // filtering

  function makeTest(filter) {
    const compared = filter.match(/^(<=|>=|<|>|=)\s*([-+\d.eE]+)$/);
    if (compared) {
      const limit = Number(compared[2]);
      const test = {
        "<": (x) => x < limit, ">": (x) => x > limit, "=": (x) => x === limit,
        "<=": (x) => x <= limit, ">=": (x) => x >= limit,
      }[compared[1]];
      return (cell) => { const x = valueOf(cell, true); return x !== null && test(x); };
    }
    const between = filter.match(/^([-+\d.eE]+)\.\.([-+\d.eE]+)$/);
    if (between) {
      const [low, high] = [Number(between[1]), Number(between[2])];
      return (cell) => { const x = valueOf(cell, true); return x !== null && low <= x && x <= high; };
    }
    const isNot = filter.startsWith("!") && filter.length > 1;
    const word = (isNot ? filter.slice(1) : filter).toLowerCase();
    return (cell) => cell.textContent.toLowerCase().includes(word) !== isNot;
  }
  function filter() {
    for (const table of all("table")) {
      const tests = all(".filters input", table)
        .filter((input) => input.value.trim())
        .map((input) => [input.closest("td").cellIndex, makeTest(input.value.trim())]);
      const isRuns = table.id === "runs";
      for (const row of table.tBodies[0].rows) {
        const isChosen = !isRuns || only.size === 0 || only.has(row.dataset.row);
        row.hidden = !(isChosen && tests.every(([column, test]) => test(row.cells[column])));
        if (isRuns)
          for (const mark of marks.run.get(row.dataset.run) ?? [])
            mark.classList.toggle("out", row.hidden);
      }
    }
    for (const [place, found] of marks.row)
      for (const mark of found) mark.classList.toggle("out", only.size > 0 && !only.has(place));
    const rows = [...(one("#runs")?.tBodies[0].rows ?? [])]; // a tournament's are on other pages
    const shown = rows.filter((row) => !row.hidden).length;
    if (rows.length) one("#shown").textContent = shown === rows.length ? "" : `${shown} of ${rows.length}`;
    for (const button of all("[data-only]"))
      button.setAttribute("aria-pressed", String(only.has(button.dataset.only)));
  }
  document.addEventListener("input", (event) => {
    if (event.target.closest(".filters")) { filter(); remember(); }
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-only]");
    if (!button) return;
    const place = button.dataset.only;
    if (only.has(place)) only.delete(place); else only.add(place);
    filter();
    remember();
  });

  // pointing: at a mark, at a row of a table, at an entry of the legend

  const tip = one("#tip");
  let shown = [];
  function show(kind, place) {
    shown.forEach((element) => element.classList.remove("on"));
    shown = [];
    document.body.classList.toggle("dimmed", place !== null);
    if (place === null) return;
    const rows = kind === "run" ? [place]
      : all(`#runs tr[data-row="${place}"]`).map((row) => row.dataset.run);
    shown = rows.flatMap((run) => marks.run.get(run) ?? []);
    if (kind === "row") {
      shown = shown.filter((mark) => !mark.classList.contains("hidden"));
      shown.push(...(marks.row.get(place) ?? []));
    }
    const row = document.getElementById(`${kind}-${place}`);
    if (row) shown.push(row);
    shown.forEach((element) => element.classList.add("on"));
  }
  function tell(kind, place, x, y) {
    const row = document.getElementById(`${kind}-${place}`);
    if (!row) return;
    const table = row.closest("table");
    const name = document.createElement("b");
    name.textContent = row.dataset.name;
    const facts = document.createElement("span");
    const heads = [...table.tHead.rows[0].cells];
    facts.textContent = heads
      .map((head, column) => [head.textContent, row.cells[column], head])
      .filter(([, cell]) => cell.matches(".number") || one(".status", cell))
      .map(([title, cell]) => [title, cell.textContent.trim()])
      .filter(([, text]) => text && text !== "-" && text !== "0")
      .map(([title, text]) => `${title} ${text}`)
      .join(" · ");
    tip.replaceChildren(name, facts);
    const button = one(".copy", row);
    if (button) {
      const command = document.createElement("code");
      command.textContent = button.dataset.command;
      tip.append(command);
    }
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, x + 14), innerWidth - box.width - 8);
    const top = y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  }
  function find(target) {
    const mark = target.closest?.(".mark[data-run], .mark[data-row], .legend [data-row]");
    if (mark) return mark.dataset.run !== undefined ? ["run", mark.dataset.run] : ["row", mark.dataset.row];
    const row = target.closest?.("tbody tr");
    return row?.id ? row.id.split("-") : null;
  }
  function point(event) {
    const found = find(event.target);
    if (!found) { show(null, null); tip.hidden = true; return; }
    show(...found);
    if (event.target.closest("svg.figure")) tell(...found, event.clientX, event.clientY);
    else tip.hidden = true;
  }
  document.addEventListener("pointerover", point);
  document.addEventListener("pointermove", (event) => { if (!tip.hidden) point(event); });
  document.addEventListener("pointerleave", (event) => {
    if (event.pointerType !== "touch") { show(null, null); tip.hidden = true; }
  });
  document.addEventListener("focusin", (event) => {
    if (event.target.matches(":focus-visible")) point(event);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { show(null, null); tip.hidden = true; }
  });
  for (const figure of all("svg.figure"))
    figure.addEventListener("click", (event) => { // to the row, where its command can be copied
      if (event.pointerType === "touch") return; // the first touch is how to point
      const found = find(event.target);
      const row = found && document.getElementById(found.join("-"));
      if (!row || row.hidden) return;
      row.scrollIntoView({block: "center"});
      row.focus({preventScroll: true});
    });

  // a page that is written again while runs go on

  const nameOf = (place) => document.getElementById(`row-${place}`)?.dataset.name;
  function remember() {
    const tables = all("table").map((table) => {
      const head = one("th[aria-sort]", table.tHead);
      return {
        id: table.id,
        column: head?.textContent,
        isDescending: head?.getAttribute("aria-sort") === "descending",
        filters: all(".filters input", table).map((input) => [input.ariaLabel, input.value]),
      };
    });
    writeStore(() => sessionStorage, memory, JSON.stringify({tables, only: [...only].map(nameOf)}));
  }
  function restore() {
    const state = JSON.parse(readStore(() => sessionStorage, memory) ?? "null");
    for (const {id, column, isDescending, filters} of state?.tables ?? []) {
      const table = document.getElementById(id);
      const head = all("tr.head th", table).find((head) => head.textContent === column);
      if (head) sort(table, head.cellIndex, isDescending);
      for (const input of all(".filters input", table))
        input.value = filters.find(([label]) => label === input.ariaLabel)?.[1] ?? "";
    }
    for (const row of all("#choices tbody tr")) // places change with the ranks
      if (state?.only.includes(row.dataset.name)) only.add(row.dataset.row);
    filter();
  }
  try { restore(); } catch { filter(); }
  const seconds = Number(document.body.dataset.refresh);
  if (seconds > 0) {
    addEventListener("beforeunload", remember);
    setInterval(() => { if (!document.hidden) location.reload(); }, 1000 * seconds);
  }
})();
