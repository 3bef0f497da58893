"use strict";
// Sorting, filtering, unfolding and downloads of a leaderboard. Every number is in the page already; nothing is fetched.
document.documentElement.classList.add("js");
addEventListener("DOMContentLoaded", () => {
  const $ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const state = new URLSearchParams(location.hash.slice(1));
  const value = (cell) => cell.dataset.v ?? (cell.cellIndex ? cell.textContent : cell.querySelector("a").textContent).trim().replace("\u2013", "-");
  const compare = new Intl.Collator("en", { numeric: true }).compare;

  function remember(key, text) {
    text ? state.set(key, text) : state.delete(key);
    history.replaceState(null, "", "#" + state);
  }

  // Widths that stay as they are need no second look at every cell.
  function freeze(table) {
    if (table.style.tableLayout) return;
    const heads = [...table.tHead.rows[0].cells], widths = heads.map((head) => head.offsetWidth), all = table.offsetWidth;
    heads.forEach((head, at) => { head.style.width = `${widths[at]}px`; });
    table.style.minWidth = `${all}px`;
    table.style.tableLayout = "fixed";
  }

  // Keys are read once for a column and rows are put back in one go.
  function sort(table, column, down) {
    freeze(table);
    const rows = [...table.tBodies].map((body) => ({ body, key: value(body.rows[0].cells[column]) }));
    const known = rows.filter((row) => row.key !== "" && row.key !== "-");
    const numbers = known.every((row) => !isNaN(parseFloat(row.key)));
    if (numbers) known.forEach((row) => { row.key = parseFloat(row.key); });
    known.sort((one, other) => (numbers ? one.key - other.key : compare(one.key, other.key)) * (down ? -1 : 1));
    const hidden = document.createDocumentFragment();
    for (const { body } of [...known, ...rows.filter((row) => !known.includes(row))]) hidden.append(body);
    table.append(hidden);
    for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
    table.tHead.rows[0].cells[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  }

  function filter() {
    const text = (state.get("q") ?? "").toLowerCase(), plan = state.get("plan") ?? "", verdict = state.get("verdict") ?? "";
    for (const part of $("section.part")) {
      part.hidden = plan !== "" && part.dataset.plan !== plan;
      let shown = 0;
      const seen = new Map();
      for (const body of $("tbody", part)) {
        const fits = (!text || body.textContent.toLowerCase().includes(text)) && (!verdict || body.dataset.verdict === verdict);
        body.classList.toggle("gone", !fits);
        seen.set(body.dataset.key, fits);
        shown += fits;
      }
      for (const mark of $(".mark a", part)) mark.parentNode.classList.toggle("off", seen.get(mark.getAttribute("href").slice(7, -5)) === false);
      const count = part.querySelector(".count");
      if (count) count.textContent = `${shown === seen.size ? shown : `${shown} of ${seen.size}`} method${seen.size === 1 ? "" : "s"}`;
    }
  }

  for (const table of $("table.board")) {
    const id = table.id;
    $("th .sort", table).forEach((button) => button.addEventListener("click", () => {
      const head = button.closest("th"), before = head.getAttribute("aria-sort");
      const down = before ? before === "ascending" : head.dataset.first === "down";
      sort(table, head.cellIndex, down);
      remember(`sort-${id}`, `${head.dataset.name}:${down ? "down" : "up"}`);
    }));
    const [name, way] = (state.get(`sort-${id}`) ?? "").split(/:(?=[a-z]+$)/);
    const head = $("th", table).find((one) => one.dataset.name === name);
    if (head) sort(table, head.cellIndex, way === "down");
  }

  // What only a script can use, a script makes: boxes to tick and buttons that unfold.
  const made = (name, wanted) => Object.assign(document.createElement(name), wanted);
  for (const body of $("table.board tbody")) {
    const cell = body.rows[0].cells[0], name = cell.textContent.trim();
    const several = body.rows.length > 1;
    cell.prepend(several ? made("button", { className: "fold", type: "button", textContent: "\u25b8", ariaLabel: "Seeds of " + name }) : made("span", { className: "pad" }));
    if (body.closest("section.part").querySelector(".versus")) {
      cell.prepend(made("input", { className: "tick-box", type: "checkbox", value: body.dataset.key, ariaLabel: "Compare " + name }));
    }
  }

  const opened = new Set((state.get("open") ?? "").split(",").filter(Boolean));
  $("tbody .fold").forEach((button) => {
    const body = button.closest("tbody"), key = body.dataset.key;
    const show = (open) => { body.classList.toggle("open", open); button.setAttribute("aria-expanded", open); };
    show(opened.has(key));
    button.addEventListener("click", () => {
      opened.has(key) ? opened.delete(key) : opened.add(key);
      show(opened.has(key));
      remember("open", [...opened].join(","));
    });
  });

  for (const input of $("[data-state]")) {
    const key = input.dataset.state, fresh = state.get(key);
    if (input.type === "radio") {
      if (fresh === input.value) input.checked = true;
      input.addEventListener("change", () => remember(key, input.dataset.usual !== undefined ? "" : input.value));
    } else {
      if (fresh) input.value = fresh;
      input.addEventListener("input", () => { remember(key, input.value); filter(); });
    }
  }
  filter();

  // Two ticked methods lead to their comparison.
  const ticked = [];
  $(".tick-box").forEach((box) => box.addEventListener("change", () => {
    const part = box.closest("section.part"), link = part.querySelector(".versus");
    box.checked ? ticked.push(box) : ticked.splice(ticked.indexOf(box), 1);
    while (ticked.length > 2 || ticked.some((one) => !part.contains(one))) ticked.shift().checked = false;
    const ready = ticked.length === 2;
    link.setAttribute("aria-disabled", !ready);
    if (!ready) { link.removeAttribute("href"); return; }
    const [one, other] = ticked.map((each) => each.value).sort();
    link.href = link.dataset.pattern.replace("ONE", one).replace("OTHER", other);
  }));

  // What is shown, as a file: the links lead to whole files, and a script narrows them.
  const shownRows = (table) => $("tbody:not(.gone)", table).flatMap((body) => [body.rows[0], ...(body.classList.contains("open") ? $("tr.seed", body) : [])]);
  const heads = (table) => [...table.tHead.rows[0].cells].map((head) => head.dataset.name);
  const cells = (row) => [...row.cells].map((cell) => value(cell));
  const quoted = (text) => (/^[=+@\t-](?![\d.]+$)/.test(text) ? "'" : "") + text;
  const csv = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const ESCAPES = { "\\": "\\textbackslash{}", "^": "\\^{}", "~": "\\textasciitilde{}", "<": "\\ensuremath{<}", ">": "\\ensuremath{>}" };
  const tex = (text) => text.replace(/[\\^~<>&%$#_{}]/g, (mark) => ESCAPES[mark] ?? "\\" + mark);
  const FORMS = {
    csv: (table) => [heads(table), ...shownRows(table).map(cells)].map((line) => line.map((cell) => csv(quoted(cell))).join(",")).join("\n") + "\n",
    json: (table) => JSON.stringify(shownRows(table).map((row) => Object.fromEntries(cells(row).map((cell, at) => [heads(table)[at], cell !== "" && !isNaN(cell) ? Number(cell) : cell]))), null, 2) + "\n",
    tex: (table) => `% needs \\usepackage{booktabs}\n\\begin{table}\n\\centering\n\\begin{tabular}{l${"r".repeat(heads(table).length - 1)}}\n\\toprule\n` +
      [heads(table), ...shownRows(table).map(cells)].map((line) => line.map(tex).join(" & ") + " \\\\").join("\n").replace("\\\\\n", "\\\\\n\\midrule\n") +
      `\n\\bottomrule\n\\end{tabular}\n\\caption{${tex(table.dataset.caption)}}\n\\label{tab:${table.id}}\n\\end{table}\n`,
  };
  $("a[data-form]").forEach((link) => link.addEventListener("click", (event) => {
    event.preventDefault();
    const table = link.closest("section.part").querySelector("table.board");
    const href = URL.createObjectURL(new Blob([FORMS[link.dataset.form](table)], { type: "text/plain" }));
    made("a", { href, download: link.getAttribute("href").split("/").pop() }).click();
    URL.revokeObjectURL(href);
  }));
});
