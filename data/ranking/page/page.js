// The page of an annotator. An answer is saved when the server says so; until then it is kept as a
// draft in this browser, under an id by which the server knows it again.
"use strict";

const $ = (id) => document.getElementById(id);
const token = location.hash.slice(1);
const tab = remembered(sessionStorage, "tab", randomId());
const PLACES = ["1st", "2nd", "3rd", "4th"];

let question = null; // as the server shows it
let previous = null; // the number of the question answered before
let draft = null; // {id, levels: [[number of an answer]], unsafe, comment, ideal, seconds}
let equal = false; // the next number joins the last level
let flagging = false; // the next number is flagged
let busy = false; // an answer is being sent
let watch = {since: 0, seconds: 0}; // the time for which the question was seen

function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

function remembered(storage, key, value) {
  try {
    storage.setItem(key, storage.getItem(key) ?? value);
    return storage.getItem(key);
  } catch {
    return value; // storage is blocked: this page forgets when it is closed
  }
}

const draftKey = () => `draft/${token}/${question.id}/${question.answer?.id ?? ""}`;

function keepDraft() {
  draft.seconds = seconds(); // a page that is loaded again goes on counting
  try {
    localStorage.setItem(draftKey(), JSON.stringify(draft));
  } catch { /* blocked or full: the page itself has it */ }
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function status(text, isError = false) {
  $("status").textContent = text;
  $("status").className = isError ? "error" : "";
}

function notice(text, isError = false) {
  $("notice").textContent = text;
  $("notice").className = isError ? "error" : "";
  $("notice").hidden = !text;
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// Asks the server until it answers. Throws the reason of a refusal, an Error with a `status`.
async function call(path, body = undefined) {
  const headers = {"Authorization": `Bearer ${token}`, "X-Tab": tab};
  const options = {headers};
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, {method: "POST", body: JSON.stringify(body)});
  }
  for (let wait = 300;; wait = Math.min(2 * wait, 5000)) {
    try {
      const response = await fetch(path, options);
      const result = await response.json();
      if (response.ok) return result;
      throw Object.assign(new Error(result.error), {status: response.status});
    } catch (error) {
      if (error.status < 500) throw error;
      const why = error.status ? error.message : "The server does not answer";
      notice(`${why}; what you wrote is kept here. Trying again…`, true);
      await sleep(wait);
    }
  }
}

function show(state) {
  notice(state.error || (state.elsewhere
    ? `${state.annotator} is open on another page too. If that is somebody else, ask for a link of your own.` : ""),
    Boolean(state.error));
  ({question, previous} = state);
  $("name").textContent = state.annotator;
  const total = state.done + state.left;
  $("count").textContent = `${state.done} of ${total}${state.sampling ? " so far" : ""}`;
  $("progress").max = Math.max(total, 1);
  $("progress").value = state.done;
  $("undo").disabled = previous === null;
  $("onward").hidden = !question?.answer;
  $("form").hidden = $("asked").hidden = $("answers").hidden = !question;
  $("finished").hidden = Boolean(question);
  if (!question) {
    $("finished").textContent = state.sampling ? "The next answers are being written…"
      : "There is nothing left to compare. Thank you!";
    setTimeout(() => { if (!question && !busy) next(); }, state.sampling ? 1500 : 10000);
    return;
  }
  const own = question.answer;
  const saved = {id: randomId(), levels: levelsOf(own?.rank), unsafe: own?.unsafe ?? [],
    comment: own?.comment ?? "", ideal: own?.ideal ?? ""};
  draft = JSON.parse(remembered(localStorage, draftKey(), JSON.stringify(saved)));
  equal = flagging = false;
  watch = {since: document.hidden ? 0 : performance.now(), seconds: draft.seconds ?? 0};
  $("comment").value = draft.comment;
  $("ideal").value = draft.ideal;
  toggle("comment", Boolean(draft.comment));
  toggle("ideal", Boolean(draft.ideal));
  $("asked").replaceChildren(...question.messages.map((message) => {
    const shown = element("div", `message ${message.role}`);
    shown.append(element("b", "", message.role), message.content);
    return shown;
  }));
  for (const shown of $("asked").children) { // the end of a long message, where its question is
    if (shown.scrollHeight > shown.clientHeight) shown.tabIndex = 0;
    shown.scrollTop = shown.scrollHeight;
  }
  $("answers").replaceChildren(...question.candidates.map(card));
  document.querySelector("main").scrollTop = 0;
  document.activeElement?.blur();
  draw();
  status(!own ? "" : own.rank === null ? "You skipped this. Send replaces it." : "Your answer. Send or Skip replaces it.");
}

function card(candidate, number) {
  const made = element("article", "answer");
  made.setAttribute("aria-label", `Answer ${number + 1}`);
  const title = element("h2", "");
  title.append(element("span", "", `Answer ${number + 1}`), element("span", "place"));
  made.append(title, element("div", "text", candidate.text));
  if (candidate.cut) made.append(element("p", "mark", "… cut at the limit of length"));
  const tools = made.appendChild(element("div", "tools"));
  const pick = tools.appendChild(element("button", "pick"));
  pick.append("Rank ", element("kbd", "", number + 1));
  pick.addEventListener("click", () => rank(number));
  const flag = tools.appendChild(element("button", "flag", "Unsafe"));
  flag.addEventListener("click", () => flagUnsafe(number));
  for (const button of [pick, flag]) button.type = "button";
  return made;
}

// Shows the draft.
function draw() {
  const ranked = draft.levels.flat();
  [...$("answers").children].forEach((made, number) => {
    const level = draft.levels.findIndex((level) => level.includes(number));
    made.classList.toggle("ranked", level >= 0);
    made.classList.toggle("best", level === 0 && draft.levels[0].length < question.candidates.length);
    const place = level < 0 ? "" : PLACES[level] + (draft.levels[level].length > 1 ? " =" : "");
    made.querySelector(".place").textContent = place;
    made.querySelector(".pick").setAttribute("aria-pressed", level >= 0);
    const unsafe = draft.unsafe.includes(number);
    made.classList.toggle("unsafe", unsafe);
    made.querySelector(".flag").setAttribute("aria-pressed", unsafe);
  });
  $("equal").setAttribute("aria-pressed", equal);
  $("equal").disabled = !ranked.length || ranked.length === question.candidates.length;
  $("equal").hidden = question.candidates.length < 3;
  const words = draft.levels.map((level) => level.map((number) => number + 1).join(" = "));
  const rest = question.candidates.length - ranked.length;
  if (words.length && rest) words.push(rest === 1 ? "the other" : "the others");
  status(flagging ? "Press the number of the unsafe answer." : words.join(" > "));
}

function changed() {
  keepDraft();
  draw();
}

function levelsOf(rank) {
  const levels = [];
  (rank ?? []).forEach((place, number) => { (levels[place] ??= []).push(number); });
  return levels.filter(Boolean);
}

function rank(number) {
  if (busy || number >= question.candidates.length) return;
  const level = draft.levels.findIndex((level) => level.includes(number));
  if (level >= 0) {
    draft.levels[level].splice(draft.levels[level].indexOf(number), 1);
    draft.levels = draft.levels.filter((level) => level.length);
  } else if (question.candidates.length === 2 && draft.levels.length) {
    draft.levels = [[number]]; // of two, the one pressed last is the better
  } else if (equal && draft.levels.length) {
    draft.levels.at(-1).push(number);
  } else {
    draft.levels.push([number]);
  }
  equal = false;
  changed();
}

function flagUnsafe(number) {
  flagging = false;
  if (busy || number >= question.candidates.length) return;
  draft.unsafe = draft.unsafe.includes(number)
    ? draft.unsafe.filter((other) => other !== number) : [...draft.unsafe, number];
  changed();
}

function tie() {
  draft.levels = [question.candidates.map((_, number) => number)];
  changed();
}

function clearRanks() {
  draft.levels = [];
  equal = flagging = false;
  changed();
}

function toggle(name, open) {
  $(`${name}-field`).hidden = !open;
  $(name === "ideal" ? "edit" : "remark").setAttribute("aria-expanded", open);
}

function write(name) {
  const opens = $(`${name}-field`).hidden;
  toggle(name, opens || Boolean($(name).value));
  if (name === "ideal" && !$(name).value) {
    $(name).value = question.candidates[draft.levels[0]?.[0] ?? 0].text;
    draft.ideal = $(name).value;
    keepDraft();
    toggle(name, true);
  }
  if (!$(`${name}-field`).hidden) $(name).focus();
}

// The time for which the question was seen, in seconds.
function seconds() {
  if (watch.since) watch.seconds += (performance.now() - watch.since) / 1000;
  watch.since = document.hidden ? 0 : performance.now();
  return watch.seconds;
}

async function send(skipped = false) {
  if (busy || !question) return;
  if (!skipped && !draft.levels.length) {
    status("Rank an answer first: press its number. T: all are equal, S: skip.", true);
    return;
  }
  const last = draft.levels.length;
  const rankOf = (_, number) => {
    const level = draft.levels.findIndex((level) => level.includes(number));
    return level < 0 ? last : level;
  };
  const untouched = question.candidates.some((candidate) => candidate.text === draft.ideal.trim());
  const body = {
    question: question.id, id: draft.id, replaces: question.answer?.id ?? "",
    rank: skipped ? null : question.candidates.map(rankOf), unsafe: draft.unsafe,
    comment: draft.comment.trim(), ideal: untouched ? "" : draft.ideal.trim(), seconds: seconds(),
  };
  const key = draftKey();
  await working("Saving…", async () => {
    const state = await call("/api/answer", body);
    try {
      localStorage.removeItem(key);
    } catch { /* there is none */ }
    show(state);
  });
}

// Does one thing at a time, and shows why the server refuses it.
async function working(text, action) {
  busy = true;
  status(text);
  try {
    await action();
  } catch (error) {
    notice(error.message, true);
    if (error.status === 409) {
      show(await call(`/api/question/${question.id}`));
      notice(error.message, true);
    }
  } finally {
    busy = false;
  }
}

const next = () => working("", async () => show(await call("/api/next")));

function undo() {
  if (busy || previous === null) return;
  const number = previous;
  working("", async () => show(await call(`/api/question/${number}`)));
}

const KEYS = {
  "=": () => { equal = draft.levels.length > 0 && question.candidates.length > 2; draw(); },
  t: tie, "0": tie, s: () => send(true), u: undo, f: () => { flagging = true; draw(); },
  e: () => write("ideal"), c: () => write("comment"), backspace: clearRanks, enter: () => send(),
};

document.addEventListener("keydown", (event) => {
  const writing = event.target.matches("textarea");
  if (event.key === "Escape") {
    event.target.blur();
    $("help").open = flagging = false;
    if (question) draw();
  } else if (writing && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    event.target.blur();
    send();
  } else if (event.key === "?" && !writing) {
    $("help").open = !$("help").open;
  }
  if (writing || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
  const key = event.key.toLowerCase();
  if (key === "u") { undo(); return; }
  if (!question || busy) return;
  if (key === "n" && question.answer) { next(); return; }
  if (key === "enter" && event.target.matches("button, summary, a")) return;
  if (/^[1-4]$/.test(key)) {
    flagging ? flagUnsafe(key - 1) : rank(key - 1);
  } else if (key in KEYS) {
    event.preventDefault();
    KEYS[key]();
  }
});

document.addEventListener("visibilitychange", () => (question ? keepDraft() : seconds()));
window.addEventListener("pagehide", () => {
  fetch("/api/leave", {method: "POST", keepalive: true,
    headers: {"Authorization": `Bearer ${token}`, "X-Tab": tab}}).catch(() => {});
});
window.addEventListener("pageshow", (event) => { if (event.persisted) next(); });
window.addEventListener("hashchange", () => location.reload());
for (const name of ["comment", "ideal"]) {
  $(name).addEventListener("input", () => { draft[name] = $(name).value; keepDraft(); });
}
$("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("undo").addEventListener("click", undo);
$("onward").addEventListener("click", next);
$("equal").addEventListener("click", () => KEYS["="]());
$("tie").addEventListener("click", tie);
$("skip").addEventListener("click", () => send(true));
$("edit").addEventListener("click", () => write("ideal"));
$("remark").addEventListener("click", () => write("comment"));

next();
