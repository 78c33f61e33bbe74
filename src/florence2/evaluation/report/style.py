"""The dress of the page: light, dark, on paper, on a phone."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --raised: #f6f7f9; --ink: #1b1f24; --faint: #667080; --line: #dfe3e8;
  --main: #0b6bb0; --gap: #d55e00; --mark: #fff3d6; --mark-ink: #7a5200; --bad: #b3261e;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --raised: #1d2126; --ink: #e4e7eb; --faint: #98a2b0; --line: #333a43;
    --main: #56b4e9; --gap: #f0935a; --mark: #3d3115; --mark-ink: #f3d48a; --bad: #f2918b;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2.5rem 1.5rem 5rem; max-width: 74rem; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Noto Sans", sans-serif;
  overflow-wrap: anywhere;
}
a { color: var(--main); text-decoration: none; }
a:hover { text-decoration: underline; }
h1, h2, h3, h4 { line-height: 1.25; text-wrap: balance; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; margin: 3rem 0 .8rem; }
h3 { font-size: 1.15rem; margin: 0; }
h4 { font-size: .95rem; margin: 1.8rem 0 .6rem; }
p { margin: .5rem 0; max-width: 46rem; }
small, .faint { color: var(--faint); font-size: .86em; }
code, pre { font: .88em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre {
  margin: .6rem 0; padding: .7rem .9rem; background: var(--raised); border: 1px solid var(--line); border-radius: 6px;
  white-space: pre-wrap;
}

.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .38rem .8rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; min-width: 8rem; }
th:last-child, td:last-child { padding-right: 1.3rem; }
tr > :not(:first-child) { white-space: nowrap; }
tbody th { font-weight: 400; }
thead th { font-weight: 600; vertical-align: bottom; border-bottom: 2px solid var(--line); }
tbody tr:last-child > * { border-bottom-color: var(--line); }
.summary { width: 100%; }
.summary th:first-child { min-width: 13rem; }
tbody tr.main > * { font-weight: 650; }
td b, .summary b { font-weight: 650; }
tr.group th { padding-top: 1.3rem; font-weight: 600; color: var(--faint); font-size: .88rem; }
.words td, .words th { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.words th { color: var(--faint); white-space: nowrap; vertical-align: top; }
td.bad, .bad { color: var(--bad); }
.badge {
  display: inline-block; padding: .05rem .5rem; border-radius: 1rem; background: var(--mark); color: var(--mark-ink);
  font-size: .76rem; font-weight: 600; vertical-align: .12em; white-space: nowrap;
}
ol.sources { padding-left: 1.3rem; font-size: .86rem; color: var(--faint); }
sup { line-height: 0; font-size: .72em; font-weight: 400; }
sup a { padding: 0 .1em; }
td sup { display: inline-block; width: 0; }

section.benchmark { margin: 1.6rem 0 2.8rem; padding-top: 1.3rem; border-top: 1px solid var(--line); }
.plots { display: flex; flex-wrap: wrap; gap: 1.2rem 2rem; margin: 1.2rem 0; align-items: flex-start; }
figure { margin: 0; }
.plots figure { flex: 1 1 17rem; max-width: 23rem; min-width: 0; }
.plots svg { display: block; width: 100%; height: auto; }
.plots svg text { font-family: inherit !important; }
figcaption { font-size: .88rem; }
.plots figcaption { margin-bottom: .3rem; }
ul.key { list-style: none; margin: .3rem 0 0; padding: 0; font-size: .84rem; }
ul.key li { display: inline-flex; align-items: center; gap: .4rem; margin-right: .9rem; }
ul.key i { width: 1.1rem; height: .35rem; border-radius: 2px; flex: none; }

.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 16.5rem), 1fr)); }
.cards.wide { grid-template-columns: minmax(0, 1fr); }
.card { border: 1px solid var(--line); border-radius: 8px; overflow: hidden; background: var(--raised); min-width: 0; }
.card header {
  display: flex; justify-content: space-between; gap: .8rem; padding: .45rem .8rem; font-size: .84rem;
  color: var(--faint);
}
.card .case { color: var(--ink); font-weight: 600; white-space: nowrap; }
.pair { display: flex; gap: 2px; align-items: flex-start; }
.pair figure { flex: 1 1 0; min-width: 0; position: relative; }
.pair img { display: block; width: 100%; height: auto; }
.pair figcaption { padding: 0 .8rem .25rem; font-size: .78rem; color: var(--faint); }
.placeholder {
  display: flex; align-items: center; justify-content: center; aspect-ratio: 4 / 3; padding: 1rem; text-align: center;
  color: var(--faint); font-size: .86rem; border: 1px dashed var(--line);
}
.card dl { margin: 0; padding: .5rem .8rem .7rem; font-size: .86rem; }
.card dl > div { display: grid; grid-template-columns: 4.4rem minmax(0, 1fr); gap: .5rem; padding: .12rem 0; }
.wide .card { display: grid; grid-template-columns: minmax(0, 2.5fr) minmax(0, 1fr); }
.wide .card header { grid-column: 1 / -1; }
.wide .card dl { padding-top: 1.1rem; }
.wide .card dl > div { display: block; padding-bottom: .5rem; }
.wide .pair { max-width: 51rem; }
dt { color: var(--faint); }
dd { margin: 0; unicode-bidi: plaintext; }
dd ul { margin: 0; padding-left: 1rem; }

details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; font-size: .93rem; }
details > .scroll { max-height: 34rem; overflow: auto; }

@media (max-width: 40rem) {
  body { padding: 1.4rem 1rem 3rem; font-size: 16px; }
  h1 { font-size: 1.5rem; }
  th, td { padding: .35rem .55rem; }
  .plots figure { max-width: none; flex-basis: 100%; }
  .summary th:first-child { min-width: 9.5rem; }
  .wide .card { display: block; }
  .pair { flex-wrap: wrap; }
  .pair figure { flex-basis: 17rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .card, .plots figure, tr { break-inside: avoid; }
  h2, h3, h4, thead { break-after: avoid; }
  .scroll, details > .scroll { overflow: visible; max-height: none; }
  .cards { grid-template-columns: repeat(4, 1fr); }
  a { color: inherit; }
}
"""
