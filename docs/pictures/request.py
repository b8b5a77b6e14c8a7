#!/usr/bin/env python3
"""Writes request.svg beside this file: how a request goes through hearth. Uses the standard library only."""

from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 1000, 436
INK, SOFT, LINE = "#1f2430", "#565d6d", "#8a91a1"
PAPER, HOST, STAYS, DROPPED = "#fbfaf7", "#ffffff", "#e6f0ea", "#fdeee2"
GREEN, ORANGE = "#2f7d57", "#b8571b"

parts = []


def rect(x, y, w, h, fill, stroke, dashed=False, radius=8):
    dash = ' stroke-dasharray="6 5"' if dashed else ""
    parts.append(
        f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="{radius}" fill="{fill}" stroke="{stroke}" '
        f'stroke-width="1.5"{dash}/>'
    )


def text(x, y, words, size=13, colour=SOFT, bold=False, anchor="middle"):
    weight = ' font-weight="600"' if bold else ""
    parts.append(
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'
    )


def box(x, y, w, h, title, lines, stroke=LINE):
    """A box with a title and lines below it, all centred."""
    rect(x, y, w, h, HOST, stroke)
    step = 18
    top = y + h / 2 - step * len(lines) / 2 + 5
    text(x + w / 2, top, title, 15, INK, bold=True)
    for number, line in enumerate(lines, 1):
        text(x + w / 2, top + step * number, line)


def arrow(points, both=False, colour=INK):
    start = ' marker-start="url(#tip)"' if both else ""
    path = " ".join(f"{x},{y}" for x, y in points)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8" marker-end="url(#tip)"{start}/>')


def picture():
    rect(1, 1, WIDTH - 2, HEIGHT - 2, PAPER, "#d8d4ca", radius=12)

    # What ends with the request, and what stays.
    rect(738, 80, 244, 336, DROPPED, ORANGE, dashed=True)
    text(860, 404, "dropped after the request", 13, ORANGE, bold=True)
    rect(168, 262, 508, 154, STAYS, GREEN)
    text(422, 404, "shared by all functions; models stay loaded", 13, GREEN, bold=True)

    box(20, 104, 104, 84, "client", ["a request"])
    box(168, 104, 130, 84, "HTTP", ["limits on head,", "body and time"])
    box(334, 104, 176, 84, "function@version", ["with its grants", "and limits"])
    box(546, 104, 130, 84, "place", ["waits for one,", "or gets a 429"])
    box(756, 104, 208, 84, "fresh instance", ["of the compiled component,", "or of its init snapshot"], ORANGE)
    box(756, 292, 208, 84, "tensors", ["of this request only,", "charged to its account"], ORANGE)
    box(186, 292, 226, 84, "models", ["weights are in memory once,", "on onnxruntime or rten"], GREEN)
    box(432, 292, 226, 84, "operators", ["on images and tensors,", "by the CPU or a GPU"], GREEN)

    for left, right in [(124, 168), (298, 334), (510, 546), (676, 756)]:
        arrow([(left + 3, 146), (right - 3, 146)])
    arrow([(860, 191), (860, 289)], both=True)
    text(850, 245, "handles only", anchor="end")
    arrow([(679, 334), (753, 334)], both=True)
    arrow([(860, 101), (860, 50), (72, 50), (72, 101)])
    text(466, 38, "answer, and a receipt of what the request used if the client asks for it")


def main():
    picture()
    body = "\n".join(parts)
    svg = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" \
font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" role="img" aria-label="How a request goes through hearth">
<!-- Written by docs/pictures/request.py -->
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">\
<path d="M0 0 L8 4 L0 8 Z" fill="{INK}"/></marker></defs>
{body}
</svg>
"""
    Path(__file__).with_suffix(".svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
