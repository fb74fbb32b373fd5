"""The template of report.html: its styles, which other pages share, and the placeholders that
train/report/html.py fills.

Without its script the page is complete: sections are opened by hand, and on paper stay as they are.
"""

from string import Template

STYLE = """:root {
  --paper: #faf9f5; --card: #ffffff; --ink: #22251f; --soft: #5d6157; --line: #dedcd2;
  --green: #2a7449; --amber: #8a5600; --orange: #b84f13; --grey: #8f9287;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #151714; --card: #1e211d; --ink: #e7e6df; --soft: #a9ad9f; --line: #383c35;
    --green: #70c793; --amber: #f0b65a; --orange: #f0995a; --grey: #7d8277;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1.25rem 3rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; -webkit-text-size-adjust: 100%;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.02em;
  overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0; letter-spacing: -.01em; }
h3 { font-size: .85rem; margin: 0; color: var(--soft); }
h4 { font-size: .8rem; margin: 0; color: var(--soft); font-weight: 600; }
p { margin: 0 0 .5rem; max-width: 46rem; }
header p { color: var(--soft); }
.times { list-style: none; display: flex; flex-wrap: wrap; gap: .4rem; margin: .75rem 0;
  padding: 0; }
.times li { border: 1px solid var(--line); border-radius: 1rem; padding: .05rem .7rem;
  font-size: .875rem; }
.times span { color: var(--soft); font-variant-numeric: tabular-nums; }
.version { font-size: .875rem; }
article, figure, .bars, dl, .section > .scroll, pre { background: var(--card);
  border: 1px solid var(--line); border-radius: .75rem; padding: .8rem 1rem; }
summary { cursor: pointer; }
.cards { display: grid; gap: .75rem; margin-top: .75rem;
  grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); }
.result h2 { color: var(--soft); font-size: .875rem; letter-spacing: 0; overflow-wrap: anywhere; }
.result h2 span { font-weight: 400; }
.result strong { display: block; font-size: 1.25rem; line-height: 1.3; margin: .1rem 0 .15rem;
  letter-spacing: -.01em; }
.result em { display: block; font-style: normal; font-size: .875rem; margin-bottom: .15rem; }
.result .reason { font-weight: 600; }
.lead { margin-top: 1rem; border-left: .35rem solid var(--grey); }
.result.lead strong { font-size: 1.6rem; }
.good strong, .good .reason { color: var(--green); }
.caution strong, .caution .reason { color: var(--amber); }
.lead.good { border-left-color: var(--green); }
.lead.caution { border-left-color: var(--amber); }
.meaning { font-size: .875rem; color: var(--soft); }
.meaning p { margin: .2rem 0 0; }
.section { margin-top: 1rem; border-top: 1px solid var(--line); padding-top: 1rem; }
.section > summary h2 { display: inline; }
.section > p { color: var(--soft); margin: .4rem 0 .75rem; font-size: .925rem; }
.charts { display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); }
figure { margin: 0; padding: .8rem .9rem .6rem; }
figcaption { font-size: .875rem; font-weight: 600; margin-bottom: .3rem; }
figcaption span { display: block; min-height: 1.5em; color: var(--orange); font-weight: 400;
  font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11px; }
.grid { stroke: var(--line); } .axis { stroke: var(--grey); fill: none; }
.train { fill: none; stroke: var(--green); stroke-width: 1.8; stroke-linejoin: round;
  stroke-linecap: round; }
.heldout { fill: var(--orange); stroke: var(--card); stroke-width: 1.5; }
.section b.line { color: var(--green); } .section b.dots { color: var(--orange); }
.bars { display: grid; gap: 1rem 2.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
.bars h3 { color: var(--ink); }
.bar { display: grid; grid-template-columns: 5.8rem 1fr 3.4rem 6.3rem; gap: .4rem;
  align-items: center; font-size: .85rem; line-height: 1.45; }
.bar > span { color: var(--soft); overflow-wrap: anywhere; }
.bar b { font-weight: 600; font-variant-numeric: tabular-nums; text-align: right; }
.bar small { color: var(--soft); font-size: .75rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.track { display: block; position: relative; height: .6rem; border-radius: .3rem;
  background: var(--line); }
.track::after { content: ""; position: absolute; left: calc(50% - 1px);
  top: -.15rem; bottom: -.15rem; border-left: 2px solid var(--ink); opacity: .5; }
.track i { display: block; height: 100%; border-radius: .3rem; background: var(--grey); }
.track .who0 { background: var(--green); }
.track, .track i { print-color-adjust: exact; }
.section > article { margin-top: .75rem; }
.answers { display: grid; gap: .75rem 1.25rem; margin-top: .6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(12.5rem, 100%), 1fr)); }
.answer { border-left: 3px solid var(--line); padding-left: .75rem; min-width: 0; }
.answer.wanted { border-color: var(--green); }
.section article p, .long { margin: .1rem 0 0; font-size: .9rem; overflow-wrap: anywhere;
  white-space: pre-wrap; }
.section article > p, .section article > .long { font-weight: 600; }
.answer em { color: var(--soft); }
.answer .cut { color: var(--amber); font-size: .8rem; font-weight: 600; }
.long > summary { list-style: none; } .long > summary::-webkit-details-marker { display: none; }
.long[open] > summary .start, .long:not([open]) > summary .less { display: none; }
.long u { color: var(--green); font-size: .8rem; font-weight: 600; }
dl { margin: 0 0 .75rem; font-size: .875rem; }
dl div { display: grid; grid-template-columns: 6rem 1fr; gap: .75rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .875rem; width: 100%; }
th, td { text-align: left; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
code { font-size: .92em; }
pre { font-size: .8rem; margin: .25rem 0 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media print {
  @page { margin: 1.5cm; }
  body { padding: 0; max-width: none; background: none; font-size: .8rem; }
  article, figure, .bars, dl, tr { break-inside: avoid; }
  h1, h2, h3, summary, .section > p { break-after: avoid; }
  .long u, .meaning > summary { display: none; }
  .cards, .charts { grid-template-columns: repeat(3, 1fr); }
  .bars { grid-template-columns: repeat(2, 1fr); }
  .answers { grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); }
  pre { columns: 2; }
}
"""


def page_head(kind: str) -> str:
    """The beginning of the template of a page, up to the end of the shared style."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Seedpod {kind}: $name</title>
<style>
{STYLE}"""


PAGE = Template(
    page_head("report")
    + """</style>
</head>
<body>
<header>
<h1>$name</h1>
<p>$summary</p>
<ul class="times">$times</ul>
<p class="version">$version</p>
</header>
<main>
$results
$bars
$curves
$answers
$settings
</main>
<script>
const all = selector => [...document.querySelectorAll(selector)];
if (matchMedia("(min-width: 50rem)").matches) all("details.wide").forEach(d => d.open = true);
let opened = [];
addEventListener("beforeprint", () => {
  opened = all("details:not([open])");
  opened.forEach(d => d.open = true);
});
addEventListener("afterprint", () => opened.forEach(d => d.open = false));
</script>
</body>
</html>
"""
)
