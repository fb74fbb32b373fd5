// The overview for whoever collects the answers.
"use strict";

const $ = (id) => document.getElementById(id);
const token = location.hash.slice(1);

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function link(text, address) {
  const made = element("a", text);
  made.href = address;
  return made;
}

function table(place, head, rows) {
  const line = (cells, tag) => {
    const row = document.createElement("tr");
    row.append(...cells.map((cell) => element(tag, cell)));
    return row;
  };
  place.replaceChildren(line(head, "th"), ...rows.map((row) => line(row, "td")));
  if (!rows.length) place.replaceChildren(line(["none yet"], "td"));
}

const share = ([count, of]) => (of ? `${count} of ${of}` : "");

function show(state) {
  const dropped = Object.entries(state.dropped).map(([reason, count]) => `${count} left out: ${reason}`);
  const people = state.each > 1 ? ` by ${state.each} people each` : "";
  $("questions").textContent = [
    `${state.answered} of ${state.questions} questions answered${people}`,
    ...(state.waiting ? [`${state.waiting} still to be sampled${state.sampling ? "" : " (stopped)"}`] : []),
    ...dropped,
  ].join("; ");
  $("notice").textContent = state.error;
  $("notice").className = "error";
  $("notice").hidden = !state.error;
  table($("annotators"),
    ["name", "answers", "skipped", "ties", "unsafe", "ideal", "comments", "median seconds", "gold right", "first one preferred"],
    state.annotators.map((row) => [row.name, row.answers, row.skipped, row.ties, row.unsafe, row.ideal,
      row.comments, row.seconds.toFixed(1), share(row.gold), share(row.first)]));
  $("agreement").replaceChildren(...state.agreement.map((line) => element("li", line)));
  table($("sources"), ["source", "pairs won", "pairs"],
    state.sources.map((row) => [row.name, `${Math.round(100 * row.share)}%`, row.pairs]));
  $("links").replaceChildren(...Object.entries(state.links).filter(([name]) => !name.startsWith("/"))
    .map(([name, address]) => {
      const item = document.createElement("li");
      item.append(link(name, location.origin + address));
      return item;
    }));
}

async function refresh() {
  try {
    const response = await fetch("/api/overview", {headers: {"Authorization": `Bearer ${token}`}});
    const state = await response.json();
    if (!response.ok) throw new Error(state.error);
    show(state);
  } catch (error) {
    $("notice").textContent = error instanceof TypeError ? "The server does not answer." : error.message;
    $("notice").className = "error";
    $("notice").hidden = false;
  }
  setTimeout(refresh, 5000);
}

const files = {preferences: "jsonl", "ideal answers": "ideal.jsonl", "every answer": "answers.jsonl"};
$("downloads").append("Download ", ...Object.entries(files).flatMap(([name, file], index) =>
  [index ? ", " : "", link(name, `/export/${file}?key=${token}`)]));
window.addEventListener("hashchange", () => location.reload());
refresh();
