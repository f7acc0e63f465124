// Tables that sort and filter, a command to copy, players that do not play over one another.

function valueOf(row, column) {
  const cell = row.cells[column];
  const given = cell.dataset.value ?? cell.textContent.trim();
  const plain = given.replace("−", "-").replace(/^([+-]?)(?:inf|∞)$/, "$1Infinity");
  const number = given === "" || given === "nan" || given === "None" ? NaN : Number(plain);
  return { number, text: cell.textContent.trim(), empty: given === "" || given === "nan" || given === "None" || given === "–" };
}

function sortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    if (!("sort" in heading.dataset)) return;
    const button = element("button", { type: "button" }, null, heading.textContent);
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
      rows.sort(([a], [b]) => {
        if (a.empty || b.empty) return Number(a.empty) - Number(b.empty); // what is undefined stands last either way
        const words = Number.isNaN(a.number) || Number.isNaN(b.number);
        const byNumber = Number(a.number > b.number) - Number(a.number < b.number); // infinities have no difference
        const order = words ? a.text.localeCompare(b.text, "en", { numeric: true }) : byNumber;
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

function filtering(input) {
  const table = document.getElementById(input.dataset.filter);
  const holder = input.closest(".filter");
  holder.hidden = false;
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    const left = rows.filter((row) => !row.hidden).length;
    holder.querySelector("output").textContent = wanted ? `${left} of ${rows.length} shown` : "";
  });
}

function copying(button) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const code = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
  });
}

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("input[data-filter]").forEach(filtering);
document.querySelectorAll("button[data-copy]").forEach(copying);

document.addEventListener("play", (event) => {
  for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
}, true);

function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  const inside = target.parentElement.querySelector(":scope > details");
  if (inside && target.tagName === "H2") inside.open = true;
}
addEventListener("hashchange", openTarget);
openTarget();
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
