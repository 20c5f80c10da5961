"""The page of a policy that learns: its curves, and how it compares with constants."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from trainer_service.study.report.drawing import BLUE, GREY, ORANGE, cells, png

PAGE = "curves.html"
Curves = Sequence[dict[str, float]]

_PARTS = (
    ("score", "mean test score of the children that it learns on"),
    ("value", "mean value that they ran under"),
    ("std", "deviation of exploration, about, in [-1, 1]"),
    ("explained", "share of the returns' variance that the value explains"),
)
_HEAD = """<!doctype html><meta charset="utf-8"><title>Learning across problems</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
img{max-width:100%}td,th{padding:.2rem .8rem;text-align:right}th:first-child,td:first-child{
text-align:left}</style>"""


def write_page(folder: Path, curves: Curves, *, title: str) -> Path:
    """Write the page into a folder and return its path; it holds its pictures itself."""
    parts = [_HEAD, f"<h1>{escape(title)}</h1>", _summary(curves)]
    parts += [_image(_drawn(curves)), "<h2>On problems that it does not learn on</h2>"]
    compared = [c for c in curves if "compared value" in c]
    parts += [_image(_compared(compared)), _table(compared)] if compared else ["not compared yet"]
    page = folder / PAGE
    page.write_text("\n".join(parts), "utf-8")
    return page


def _summary(curves: Curves) -> str:
    if not curves:
        return "<p>Nothing is learned yet.</p>"
    last, seconds = curves[-1], sum(c["seconds"] for c in curves)
    children = int(last["children"])
    return (
        f"<p>{children:,} children in {int(last['updates']):,} updates, {seconds / 3600:.1f} hours "
        f"of training, {children / seconds:.1f} children a second.</p>"
    )


def _image(picture: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'


def _drawn(curves: Curves) -> bytes:
    figure, axes = cells(len(_PARTS), columns=2)
    for place, (name, title) in zip(axes, _PARTS, strict=True):
        place.plot([c["children"] for c in curves], [c[name] for c in curves], color=BLUE)
        place.set_title(title)
        place.set_xlabel("children")
    return png(figure)


def _compared(curves: Curves) -> bytes:
    figure, axes = cells(2, columns=2)
    for place, moment in zip(axes, ("last", "best"), strict=True):
        for against, colour in (("default", ORANGE), ("grid", BLUE)):
            name = f"compared {moment} against {against}"
            children = [c["children"] for c in curves]
            middle = [c[name] for c in curves]
            half = [c[f"{name} +-"] for c in curves]
            place.plot(children, middle, color=colour, label=f"less the {_WORDS[against]}")
            low = [m - h for m, h in zip(middle, half, strict=True)]
            high = [m + h for m, h in zip(middle, half, strict=True)]
            place.fill_between(children, low, high, color=colour, alpha=0.2, lw=0)
        place.axhline(0, color=GREY, lw=1)
        place.set_title(f"test score, {_MOMENTS[moment]}")
        place.set_xlabel("children")
        place.legend(fontsize="small", frameon=False)
    return png(figure)


_WORDS = {"default": "best default", "grid": "best of a grid by validation"}
_MOMENTS = {"last": "at the end", "best": "where validation was best"}


def _table(curves: Curves) -> str:
    rows = ["<table><tr><th>children<th>mean value<th>spread"]
    names = [f"{m} against {a}" for m in _MOMENTS for a in _WORDS]
    rows += [f"<th>{_MOMENTS[m]},<br>less the {_WORDS[a]}" for m in _MOMENTS for a in _WORDS]
    for c in curves:
        rows.append(f"<tr><td>{int(c['children']):,}<td>{c['compared value']:.2f}")
        rows.append(f"<td>{c['compared spread']:.2f}")
        for name in names:
            middle, half = c[f"compared {name}"], c[f"compared {name} +-"]
            rows.append(f"<td>{middle:+.4f} &plusmn; {half:.4f}")
    return "".join([*rows, "</table>"])
