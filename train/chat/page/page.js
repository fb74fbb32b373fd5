// The page of a conversation. The conversation is here; the server answers and remembers nothing.
"use strict";

const $ = (id) => document.getElementById(id);
let models = [];
let turns = []; // {question, answers: [text of each model]}
let draws = 0; // answers asked for, of which each has a random key
let asking = null; // the AbortController of the answer that is being written

const ready = fetch("/api/about").then((response) => response.json()).then((about) => {
  models = about.models;
  const judge = about.scorer && ` · scored by ${about.scorer}`;
  $("models").textContent = models.join(" and ") + judge;
  $("temperature").value = about.temperature;
  $("system").value = about.system;
  $("notice").textContent = about.notice;
  $("notice").hidden = !about.notice;
});

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

// Scrolls to the end after a change, unless the reader has scrolled up.
function following(change) {
  const view = document.querySelector("main");
  const follows = view.scrollHeight - view.scrollTop - view.clientHeight < 60;
  change();
  if (follows) view.scrollTop = view.scrollHeight;
}

function messages(index, question) {
  const system = $("system").value.trim();
  const list = system ? [{role: "system", content: system}] : [];
  for (const turn of turns) {
    list.push({role: "user", content: turn.question});
    list.push({role: "assistant", content: turn.answers[index]});
  }
  return [...list, {role: "user", content: question}];
}

// Asks one model; returns the text as far as it was read. Throws if the question is refused.
async function answer(index, question, draw, card, signal) {
  const text = card.appendChild(element("div", "text"));
  const mark = (words) => following(() => card.append(element("p", "mark", words)));
  const body = {
    model: index, messages: messages(index, question), draw,
    temperature: $("temperature").valueAsNumber,
  };
  let written = "";
  try {
    const response = await fetch("/api/answer", {
      method: "POST", signal, body: JSON.stringify(body),
      headers: {"Content-Type": "application/json"},
    });
    if (!response.ok) throw new Error((await response.json()).error);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let ended = false;
    for (let rest = "";;) {
      const {done, value} = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const event of lines.map((line) => JSON.parse(line))) {
        if (event.note) text.before(element("p", "mark", event.note));
        if (event.waiting) status("Waiting: the model writes another answer…");
        if (event.html === undefined) continue;
        status("Writing…");
        written = event.text;
        following(() => { text.innerHTML = event.html; }); // HTML of train/chat/markdown.py
        (event.marks ?? []).forEach(mark);
        ended = "end" in event;
      }
    }
    if (!ended) throw new Error("the server stopped; the answer is incomplete");
  } catch (error) {
    if (!signal.aborted) throw error;
    mark("… stopped");
  } finally {
    card.setAttribute("aria-busy", "false");
  }
  return written;
}

// Asks all models. Nothing is lost if they refuse or are stopped before the first word: the turn that
// is written again comes back, and a new question returns to its field.
async function ask(question, before = null) {
  const draw = draws++;
  asking = new AbortController();
  $("send").textContent = "Stop";
  $("again").hidden = true;
  status("Reading…");
  const item = element("li", "turn");
  item.append(element("div", "question", question));
  const grid = item.appendChild(element("div", "answers"));
  const cards = models.map((name) => {
    const card = grid.appendChild(element("article", "answer"));
    card.setAttribute("aria-busy", "true");
    card.append(element("h2", "", name));
    return card;
  });
  following(() => $("turns").append(item));
  const {signal} = asking;
  const replies = cards.map((card, i) => answer(i, question, draw, card, signal));
  const results = await Promise.allSettled(replies);
  const failed = results.find((result) => result.status === "rejected");
  const answers = results.map((result) => result.value ?? "");
  asking = null;
  $("send").textContent = "Send";
  if (!item.isConnected) return; // a new conversation was begun
  if ((failed || signal.aborted) && answers.every((text) => !text)) {
    item.remove();
    if (before) {
      turns.push(before.turn);
      before.item.hidden = false;
    } else {
      $("question").value ||= question;
    }
  } else {
    before?.item.remove();
    turns.push({question, answers});
  }
  $("again").hidden = !turns.length;
  status(failed ? failed.reason.message : signal.aborted ? "Stopped." : "", Boolean(failed));
}

function stop() {
  asking?.abort();
}

async function send() {
  await ready;
  const question = $("question").value.trim();
  if (!question || asking) return;
  if (!$("temperature").checkValidity() || $("temperature").value === "") {
    document.querySelector("details").open = true;
    $("temperature").reportValidity();
    status("The temperature is a number from 0 to 100.", true);
    return;
  }
  $("question").value = "";
  ask(question);
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  asking ? stop() : send();
});

$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});

$("again").addEventListener("click", () => {
  if (asking) return;
  const before = {turn: turns.pop(), item: $("turns").lastElementChild};
  before.item.hidden = true;
  $("question").focus();
  ask(before.turn.question, before);
});

$("new").addEventListener("click", () => {
  stop();
  turns = [];
  $("turns").replaceChildren();
  $("again").hidden = true;
  status("A new conversation.");
  $("question").focus();
});
