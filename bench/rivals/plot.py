"""The picture of the drain and of the latency on an idle worker, as SVG."""

import math
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

WIDTH, LINE, TOP, FOOT = 860, 34, 62, 34
NAMES_END, BARS_END, WAITS_START, WAITS_END = 150, 510, 580, 840
LEAST_MS, MOST_MS = 0.1, 1000.0
DRAIN, LATENCY = "drain", "latency"
BARS = (("1 worker, tasks/s", "one", 4), ("2 workers, tasks/s", "two", 15))
"""Label, class and place in the line of each product's bars."""
STYLE = """
    text { font: 12px system-ui, sans-serif; fill: #1c2b39 }
    .title { font-size: 14px; font-weight: 600 } .small { font-size: 10px; fill: #5b6875 } .end { text-anchor: end }
    .mid { text-anchor: middle } .ours { font-weight: 600 }
    .one { fill: #1f6f8b } .two { fill: #7fb7c9 } .memory .one { fill: #9a8f80 } .memory .two { fill: #cfc7bb }
    .ceiling .one, .ceiling .two { fill: none; stroke: #1c2b39; stroke-dasharray: 3 2 }
    .wait { stroke: #1f6f8b; stroke-width: 2 } .dot { fill: #1f6f8b } .grid { stroke: #dde3e8 }
"""


def draw(sections: Mapping[str, Any], path: Path, ours: str, ceiling: str) -> None:
    """Draw what is there; nothing when neither section is."""
    drain, latency = (_products(sections, name) for name in (DRAIN, LATENCY))
    names = [*dict.fromkeys([*drain, *latency])]
    if not names:
        return
    about = sections[DRAIN if drain else LATENCY]["about"]
    height = TOP + LINE * len(names) + FOOT
    most = max((drain[n][label]["max"] for n in drain for label, *_ in BARS), default=1.0)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">']
    parts.append(f"<title>Drain and latency</title><style>{STYLE}</style>")
    parts.append(f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>')
    parts += _headings(height)
    for line, name in enumerate(names):
        durable = about["products"].get(name, {}).get("durable", True)
        kind = "ceiling" if name == ceiling else "" if durable else "memory"
        parts.append(f'<g class="{kind}" transform="translate(0 {TOP + LINE * line})">')
        shown = f"{name}{'' if durable else ' *'}"
        parts.append(
            f'<text class="end {"ours" if name == ours else ""}" x="{NAMES_END - 8}" y="18">{escape(shown)}</text>'
        )
        parts += _bars(drain.get(name, {}), most)
        parts += _waits(latency.get(name, {}))
        parts.append("</g>")
    machine = (
        f"{about['cores']} cores, PostgreSQL {about['postgresql']} with fsync, {about['at'][:10]}"
    )
    foot = f"{machine}. {ceiling}: our statements without our Python. * Redis: not durable."
    parts.append(f'<text class="small" x="12" y="{height - 10}">{escape(foot)}</text></svg>')
    path.write_text("\n".join(parts) + "\n")


def _products(sections: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = sections.get(name, {})
    return {
        product: labels
        for product, labels in found.items()
        if product != "about" and "failed" not in labels
    }


def _headings(height: int) -> Iterator[str]:
    yield f'<text class="title" x="{NAMES_END}" y="22">No-op tasks per second</text>'
    yield f'<text class="small" x="{NAMES_END}" y="40">one worker process (dark), two (light); median and spread</text>'
    yield f'<text class="title" x="{WAITS_START}" y="22">Commit to handler, idle worker</text>'
    yield f'<text class="small" x="{WAITS_START}" y="40">milliseconds: median (dot) to 99th percentile</text>'
    for power in range(round(math.log10(LEAST_MS)), round(math.log10(MOST_MS)) + 1):
        x = _at(10.0**power)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{height - FOOT}"/>'
        yield f'<text class="small mid" x="{x:.1f}" y="{TOP - 8}">{10.0**power:g}</text>'


def _bars(labels: Mapping[str, Any], most: float) -> Iterator[str]:
    for label, kind, y in BARS:
        if label not in labels:
            continue
        figure = labels[label]
        wide, low, high = (
            (BARS_END - NAMES_END) * figure[name] / most for name in ("median", "min", "max")
        )
        yield f'<rect class="{kind}" x="{NAMES_END}" y="{y}" width="{wide:.1f}" height="10"/>'
        yield (
            f'<line x1="{NAMES_END + low:.1f}" x2="{NAMES_END + high:.1f}" y1="{y + 5}" y2="{y + 5}" stroke="#1c2b39"/>'
        )
        yield f'<text class="small" x="{NAMES_END + high + 4:.1f}" y="{y + 9}">{figure["median"]:,.0f}</text>'


def _waits(labels: Mapping[str, Any]) -> Iterator[str]:
    if "idle" in labels:
        middle, late = (_at(labels["idle"][name]) for name in ("p50", "p99"))
        yield f'<line class="wait" x1="{middle:.1f}" x2="{late:.1f}" y1="14" y2="14"/>'
        yield f'<circle class="dot" cx="{middle:.1f}" cy="14" r="4"/>'
        yield f'<line class="wait" x1="{late:.1f}" x2="{late:.1f}" y1="9" y2="19"/>'


def _at(milliseconds: float) -> float:
    """Where a wait lies on the logarithmic axis."""
    part = math.log10(min(max(milliseconds, LEAST_MS), MOST_MS) / LEAST_MS) / math.log10(
        MOST_MS / LEAST_MS
    )
    return WAITS_START + part * (WAITS_END - WAITS_START)
