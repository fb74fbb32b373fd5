"""The template of sweep.html: the report's style, and what a sweep adds to it."""

from __future__ import annotations

from string import Template

from train.report.page import page_head

# Okabe and Ito's colours, which colour-blind readers can tell apart, for light and for dark paper.
PAGE = Template(
    page_head("sweep")
    + """
:root { --c0: #00704e; --c1: #b84f00; --c2: #0068a8; --c3: #a3487c; --c4: #8a6d00; --c5: #2b8fbd;
  --c6: #5b4b9e; --c7: #22251f; }
@media screen and (prefers-color-scheme: dark) {
  :root { --c0: #3ccf9e; --c1: #f08a3c; --c2: #58b0ea; --c3: #e09cc4; --c4: #e0c23c; --c5: #8fd3f4;
    --c6: #b3a4f0; --c7: #e7e6df; }
}
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
.other { --c: var(--grey); }
.line { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round;
  stroke-linecap: round; }
.other.line { opacity: .6; stroke-width: 1; }
.band { fill: var(--c); opacity: .16; } .dot { fill: var(--c); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 0 0 .75rem;
  padding: 0; font-size: .875rem; overflow-wrap: anywhere; }
.legend i, td i { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem;
  background: var(--c); margin-right: .4rem; vertical-align: -.05rem;
  print-color-adjust: exact; }
.lead li { margin: .15rem 0; } .lead ul { margin: .3rem 0 0; padding-left: 1.1rem; }
.lead strong { overflow-wrap: anywhere; }
section { margin-top: 1.25rem; border-top: 1px solid var(--line); padding-top: 1rem; }
section > p { color: var(--soft); font-size: .925rem; }
section h2 { margin-bottom: .5rem; }
section > .scroll { background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  padding: .8rem 1rem; }
td.number, th.number { text-align: right; }
.failed { color: var(--amber); overflow-wrap: anywhere; }
</style>
</head>
<body>
<header>
<h1>$name</h1>
<p>$summary</p>
</header>
<main>
$verdict
$curves
$table
$failures
$settings
</main>
</body>
</html>
"""
)
