"use strict";
const rows = JSON.parse(document.getElementById("rows").textContent);
const names = JSON.parse(document.getElementById("names").textContent);
const [form, list, count, more] = ["filters", "answers", "count", "more"].map(
  id => document.getElementById(id));
const STEP = 20;
let chosen = [], shown = 0;

// Everything is text, never HTML.
function element(tag, text, className, ...children) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function answerOf(answer, index) {
  const head = element("h4", names[index]);
  if (answer.s !== undefined) head.append(element("span", String(answer.s)));
  answer.m.forEach(mark => head.append(element("em", mark)));
  const text = element("p", answer.t || "(nothing)");
  text.dir = "auto";
  return element("div", "", index === names.length - 1 ? "answer people" : "answer", head, text);
}

function rowOf(row) {
  const head = element("h3", row.k);
  if (row.r) head.append(element("b", row.r));
  head.append(element("span", row.w));
  const item = element("li", "", "", head);
  if (row.c.length) {
    const before = element("details", "", "", element("summary", `context: ${row.c.length}`));
    row.c.forEach(([role, text]) => before.append(element("p", `${role}: ${text}`)));
    item.append(before);
  }
  const question = element("p", row.q, "question");
  question.dir = "auto";
  item.append(question, element("div", "", "answers", ...row.a.map(answerOf)));
  return item;
}

function showMore() {
  list.append(...chosen.slice(shown, shown + STEP).map(rowOf));
  shown = Math.min(shown + STEP, chosen.length);
  more.hidden = shown === chosen.length;
}

const KINDS = {
  all: () => true,
  worse: row => row.f || row.g < 0,
  better: row => !row.f && row.g > 0,
  marked: row => row.a[0].m.length > 0,
};
const ORDERS = {
  worst: (a, b) => a.n - b.n,
  best: (a, b) => b.n - a.n,
  long: (a, b) => b.a[0].t.length - a.a[0].t.length,
};

function filter() {
  const words = form.search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = form.kind.value, isKind = KINDS[kind];
  chosen = rows.filter(row =>
    (form.category.value === "*" || row.k === form.category.value)
    && (isKind ? isKind(row) : row.f === kind || row.a[0].m.includes(kind))
    && words.every(word => row.text.includes(word)));
  chosen.sort(ORDERS[form.order.value]);
  list.replaceChildren();
  shown = 0;
  count.textContent = `${chosen.length} of ${rows.length} answers`;
  showMore();
}

rows.forEach((row, n) => {
  row.n = n;
  row.text = [row.w, row.k, row.q, ...row.c.map(c => c[1]), ...row.a.map(a => a.t)]
    .join("\n").toLowerCase();
});
form.addEventListener("input", filter);
form.addEventListener("submit", event => event.preventDefault());
more.addEventListener("click", showMore);
document.getElementById("browser").hidden = false;
filter();
