"""The pages of the live view: HTML, its style and its script, and the headers around them. Pure.

1. Nothing is loaded from anywhere else, nothing is inline: the policy says so to the browser.
2. Names are escaped in the page, and only ever set as text by the script.
"""

from collections.abc import Collection
from html import escape
from urllib.parse import quote

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; }
h1 { font-size: 1.2rem; margin: 0; }
header { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: baseline; }
nav { display: flex; flex-wrap: wrap; gap: .5rem; }
nav a { border: 1px solid #8888; border-radius: .4rem; color: inherit; padding: .1rem .6rem;
  text-decoration: none; }
nav a[aria-current] { background: #2a6fdb; border-color: #2a6fdb; color: #fff; }
main { display: grid; gap: 1rem; margin-top: 1rem; }
@media (min-width: 60rem) { main { grid-template-columns: minmax(0, 2fr) minmax(18rem, 1fr); } }
img { background: #8882; border-radius: .4rem; height: auto; max-width: 100%; width: 100%; }
pre { background: #8882; border-radius: .4rem; font-size: .8rem; margin: 0; max-height: 80vh;
  overflow: auto; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
h2 { font-size: .95rem; margin: 0 0 .4rem; }
.note { opacity: .75; }
input, button { font: inherit; padding: .2rem .6rem; }
"""

SCRIPT = """
"use strict";
const latest = document.querySelector("#latest");
const note = document.querySelector("#note");
const picture = document.querySelector("#picture");
if (picture) {
  picture.addEventListener("error", () => {
    note.textContent = "No picture just now: too many viewers, or the pipeline has stopped.";
    setTimeout(() => { picture.src = picture.dataset.source + "?again=" + Date.now(); }, 5000);
  });
  picture.addEventListener("load", () => { note.textContent = ""; });
}
async function refresh() {
  try {
    const answer = await fetch("/api/pipelines", {credentials: "same-origin"});
    if (!answer.ok) throw new Error(answer.status);
    const all = (await answer.json()).pipelines;
    const ours = all.find((pipeline) => pipeline.pipeline === latest.dataset.pipeline);
    latest.textContent = ours && ours.latest ? JSON.stringify(ours.latest, null, 2)
      : "Nothing decided yet.";
  } catch (error) {
    latest.textContent = "The device does not answer.";
  }
  setTimeout(refresh, 1000);
}
if (latest) refresh();
"""


def main_page(pipelines: Collection[str], *, shown: str, has_pictures: bool) -> str:
    """Return the page that shows one pipeline, with links to the others."""
    links = "".join(_link(name, is_shown=name == shown) for name in pipelines)
    if not shown:
        return _page(f"<p>No pipeline runs.</p><nav>{links}</nav>")
    source = f"/stream/{quote(shown, safe='')}.mjpeg"
    picture = (
        f'<img id="picture" src="{source}" data-source="{source}" alt="{escape(shown)}, live">'
        if has_pictures
        else '<p class="note">This pipeline has had no pictures so far; reload to look again.</p>'
    )
    return _page(
        f"<header><h1>Live</h1><nav>{links}</nav></header>"
        f'<main><section>{picture}<p id="note" class="note"></p></section>'
        f'<section><h2>Latest decision</h2><pre id="latest" data-pipeline="{escape(shown)}">'
        "</pre></section></main>"
    )


def _link(name: str, *, is_shown: bool) -> str:
    mark = ' aria-current="page"' if is_shown else ""
    return f'<a href="/?pipeline={quote(name, safe="")}"{mark}>{escape(name)}</a>'


def token_page() -> str:
    """Return the page that asks for the token."""
    return _page(
        "<h1>Live</h1><p>This view wants its token. The device keeps it in <code>live.token</code> "
        "beside its identity, or where <code>token_file</code> says.</p>"
        '<form method="get" action="/"><input type="password" name="token" autocomplete="off" '
        'aria-label="Token" required> <button>Show</button></form>'
    )


def _page(body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Live</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="/page.css"></head>'
        f'<body>{body}<script src="/page.js" defer></script></body></html>'
    )
