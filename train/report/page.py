"""The template of report.html: its styles, and the placeholders that train/report/html.py fills."""

from string import Template

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Seedpod report</title>
<style>
:root {
  --paper: #faf9f5; --card: #ffffff; --ink: #22251f; --soft: #666a5f; --line: #e2e1d8;
  --green: #2e7d4f; --orange: #c8591b; --grey: #a9aca0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #151714; --card: #1e211d; --ink: #e7e6df; --soft: #a0a497; --line: #343831;
    --green: #70c793; --orange: #f0995a; --grey: #6f746a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; -webkit-text-size-adjust: 100%;
}
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.02em; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
h4 { font-size: .8rem; margin: 0; color: var(--soft); font-weight: 600; }
p { margin: 0 0 .75rem; max-width: 46rem; }
header p, section > p { color: var(--soft); }
.times { list-style: none; display: flex; flex-wrap: wrap; gap: .4rem; margin: 1rem 0; padding: 0; }
.times li { border: 1px solid var(--line); border-radius: 1rem; padding: .1rem .75rem;
  font-size: .875rem; }
.times span { color: var(--soft); font-variant-numeric: tabular-nums; }
.cards { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); }
article, figure, .bars, details { background: var(--card); border: 1px solid var(--line);
  border-radius: .75rem; padding: 1rem 1.25rem; }
.cards h3 { margin: 0; color: var(--soft); font-size: .875rem; }
.cards strong { display: block; font-size: 1.35rem; line-height: 1.3; margin: .15rem 0 .25rem;
  color: var(--green); letter-spacing: -.01em; }
.cards em { display: block; font-style: normal; font-size: .875rem; font-weight: 600;
  margin-bottom: .5rem; }
.cards p { font-size: .9rem; margin: 0; }
.charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); }
figure { margin: 0; padding: .9rem 1rem .6rem; }
figcaption { font-size: .875rem; font-weight: 600; margin-bottom: .4rem; }
figcaption span { display: block; min-height: 1.55em; color: var(--orange); font-weight: 400;
  font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11px; }
.grid { stroke: var(--line); } .axis { stroke: var(--grey); }
.train { fill: none; stroke: var(--green); stroke-width: 1.8; stroke-linejoin: round; }
.heldout { fill: var(--orange); stroke: var(--card); stroke-width: 1.5; }
.key { font-size: .875rem; } .key b { font-weight: 600; }
.key b:first-of-type { color: var(--green); } .key b:last-of-type { color: var(--orange); }
.bars { display: grid; gap: 1.1rem 2.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); }
.bars h4 { color: var(--ink); }
.bar { display: grid; grid-template-columns: 6.5rem 1fr 3.4rem; gap: .6rem; align-items: center;
  font-size: .85rem; line-height: 1.45; }
.bar > span { color: var(--soft); }
.bar b { font-weight: 600; font-variant-numeric: tabular-nums; text-align: right; }
.track { display: block; position: relative; height: .6rem; border-radius: .3rem;
  background: var(--line); }
.track::after { content: ""; position: absolute; left: calc(50% - 1px);
  top: -.15rem; bottom: -.15rem; border-left: 2px solid var(--ink); opacity: .5; }
.track i { display: block; height: 100%; border-radius: .3rem; background: var(--grey); }
.track .who0 { background: var(--green); }
section > article { margin-top: 1rem; }
section > article h3 { margin: 0 0 .6rem; overflow-wrap: anywhere; }
.answers { display: grid; gap: .75rem 1.25rem;
  grid-template-columns: repeat(auto-fit, minmax(min(12.5rem, 100%), 1fr)); }
.answer { border-left: 3px solid var(--line); padding-left: .75rem; }
.answer.wanted { border-color: var(--green); }
.answer p { margin: .15rem 0 0; font-size: .9rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.answer em { color: var(--soft); }
details { margin-top: 3rem; } summary { cursor: pointer; font-weight: 600; }
details p { margin-top: 1rem; font-size: .9rem; color: var(--soft); }
.scroll { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
code { font-size: .92em; }
pre { font-size: .8rem; margin: .25rem 0 1rem; overflow-x: auto; }
</style>
</head>
<body>
<header>
<h1>What this run grew</h1>
<p>A language model of $size parameters, trained with Seedpod from one stage to the next on
$device, in <b>$total</b>.</p>
<ul class="times">$times</ul>
</header>
<section>
<h2>Results</h2>
<p>All measured on held-out data.</p>
<div class="cards">$results</div>
</section>
$bars
<section>
<h2>Curves</h2>
<p class="key"><b>Line</b>: training data. <b>Dots</b>: held-out data.</p>
<div class="charts">$curves</div>
</section>
$answers
$settings
</body>
</html>
""")
