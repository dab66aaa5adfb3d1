#!/usr/bin/env python3
"""Makes the tables and charts of a run of compare.sh: medians, spreads and ratios. Usage: table.py [--goals] RESULTS [INTO]

RESULTS holds measurements.jsonl (one measurement a line) and settings.tsv. INTO, which is RESULTS if it is not named, gets results.md and results.svg; of a
run with --full, full.md and full.svg; of one with --growth, growth.md and an SVG for each plot. Nothing else is read, so they can be made again at any time.
With --goals nothing is written: it prints what the project has set itself, and whether it is reached.

A ratio is one of two measurements of the same round; what counts is the median of the ratios, shown with the least and the greatest. Processor time is that
of all nodes of a contender together, over the operations that it has counted itself. Runs from before either was measured are shown without it.
"""

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Callable, NamedTuple
from xml.sax.saxutils import escape

NAMES = {
    "local": "kvmesh `local`, everysec",
    "majority": "kvmesh `majority`, everysec",
    "always": "kvmesh `majority`, always",
    "alone": "kvmesh, one node, everysec",
    "local-stopped": "kvmesh `local`, node 3 stopped",
    "redis": "Redis 1+2, AOF everysec",
    "redis-wait": "Redis 1+2, AOF everysec, `WAIT 1`",
    "redis-alone": "Redis, one, AOF everysec",
    "etcd": "etcd, three members",
    "limit": "the limit: a session without a store",
}
# With --growth their number is on the axis.
WITHOUT_NUMBER = {**NAMES, "redis": "Redis, AOF everysec"}
# Who is held against whom, where both were measured in a cell.
PAIRS = [
    ("local", "redis"),
    ("majority", "redis"),
    ("majority", "redis-wait"),
    ("always", "etcd"),
    ("alone", "redis-alone"),
    ("local-stopped", "local"),
]
LIMIT = "limit"
# What is compared, and shown in one table with the processor time; and what stands for itself.
SPEEDS = ["per_second", "p50_us"]
COSTS = ["bytes", "took_us"]
# What the project has set itself: cell, the one, the other, what is compared, and at least or at most so much. Printed by --goals, and on no page.
GOALS = [
    ("replicated:get:c50:d1", "local", "redis", "per_second", ">=", 1.08),
    ("replicated:set:c50:d1", "local", "redis", "per_second", ">=", 1.4),
    ("replicated:get:c50:d16", "local", "redis", "per_second", ">=", 1.35),
    ("replicated:get:c50:d16", "local", LIMIT, "per_second", ">=", 0.95),
    ("replicated:set:c50:d16", "local", "redis", "per_second", ">=", 3.0),
    ("replicated:set:c50:d16", "majority", "redis", "per_second", ">=", 2.0),
    ("replicated:set:c50:d1", "majority", "redis", "per_second", ">=", 1.05),
    ("replicated:set-wait:c1:d1", "majority", "redis-wait", "per_second", ">=", 1.1),
    ("durable:set:c50:d1", "always", "etcd", "per_second", ">=", 5.0),
    ("durable:set:c50:d16", "always", "etcd", "per_second", ">=", 15.0),
    ("durable:set:c1:d1", "always", "etcd", "p50_us", "<=", 0.45),
    ("million:memory", "local", "redis", "bytes", "<=", 0.70),
    ("idle:connections", "alone", "redis-alone", "bytes", "<=", 1.1),
    ("million:full-sync", "local", "redis", "took_us", "<=", 0.35),
    ("million:restart", "local", "redis", "took_us", "<=", 0.40),
    ("replicated:get:c50:d1", "local", "redis", "cpu_us", "<=", 1.0),
    ("replicated:get:c50:d16", "local", "redis", "cpu_us", "<=", 0.70),
    ("replicated:set:c50:d1", "local", "redis", "cpu_us", "<=", 0.60),
    ("replicated:set:c50:d16", "local", "redis", "cpu_us", "<=", 0.38),
    ("replicated:set:c50:d1", "majority", "redis", "cpu_us", "<=", 1.0),
    ("replicated:set:c50:d16", "majority", "redis", "cpu_us", "<=", 0.48),
    ("stopped:set:c50:d16", "local-stopped", "local", "per_second", ">=", 1.0),
]


# ---------------------------------------------------------------------------------------------------------------- what was measured


class Results:
    """The measurements of a run that count, by cell, contender and round. Each is a dict of figures: `per_second`, `cpu_us` of one operation, `bytes` …"""

    def __init__(self, folder):
        self.settings = [line.split("\t", 1) for line in (folder / "settings.tsv").read_text().splitlines()]
        said = dict(self.settings)
        # It had another name once.
        self.mode = said["mode"].replace("goals", "main")
        self.unpublishable = said.get("not for publication")
        # The server that stood in the place of Redis.
        self.rival = "Valkey" if "Valkey" in said else "Redis"
        self.figures = {}
        self.about = {}
        self.failed = []
        for line in (folder / "measurements.jsonl").read_text().splitlines():
            measured = json.loads(line)
            if "failed" in measured:
                self.failed.append(measured)
                continue
            flatten(measured)
            self.about.setdefault(measured["cell"], measured)
            self.figures.setdefault(measured["cell"], {}).setdefault(measured["contender"], {})[measured["round"]] = measured

    def values(self, cell, contender, metric):
        """By round."""
        rounds = self.figures.get(cell, {}).get(contender, {})
        return {number: measured[metric] for number, measured in sorted(rounds.items()) if metric in measured}

    def name(self, contender):
        return NAMES[contender].replace("Redis", self.rival)

    def ratios(self, cell, one, other, metric):
        ones, others = self.values(cell, one, metric), self.values(cell, other, metric)
        return [ones[number] / others[number] for number in ones if ones[number] > 0 and others.get(number, 0) > 0]


def flatten(measured):
    """The processor time of one operation, and the report of `kvctl bench` under the names of the other generators."""
    operations, used_us = measured.pop("cpu_operations", 0), measured.pop("cpu_us", 0)
    if operations > 0 and used_us > 0:
        measured["cpu_us"] = used_us / operations
    report = measured.pop("report", None)
    if report is None:
        return
    measured["per_second"] = report["operations_per_second"]
    for theirs, ours in [("p50", "p50_us"), ("p99", "p99_us"), ("p99.9", "p999_us"), ("max", "max_us")]:
        if theirs in report["round_us"]:
            measured[ours] = report["round_us"][theirs]


def is_check(cell):
    """Measured with the second generator, to see whether both agree."""
    return ":check:" in cell


# ---------------------------------------------------------------------------------------------------------------- words


def number(value):
    """Three digits that count, and spaces between thousands."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}".replace(",", " ") if digits else f"{round(value, 2 - math.floor(math.log10(abs(value)))):,.0f}".replace(",", " ")


def grouped(value):
    """A whole number with spaces between thousands."""
    return f"{value:,}".replace(",", " ")


def size_words(value):
    if value < 1 << 10:
        return f"{value} bytes"
    return f"{value >> 10} KiB" if value < 1 << 20 else f"{value >> 20} MiB"


def quantity(metric, value):
    if metric == "per_second":
        return f"{number(value)}/s"
    if metric.endswith("_us"):
        return f"{number(value / 1e6)} s" if value >= 1e6 else f"{number(value / 1e3)} ms" if value >= 1e3 else f"{number(value)} µs"
    if abs(value) >= 1 << 20:
        return f"{number(value / (1 << 20))} MiB"
    return f"{number(value / 1024)} KiB"


def times(value):
    return f"{number(value)}×"


def spread(values, say):
    values = list(values)
    if not values:
        return "not measured"
    if len(values) == 1:
        return f"{say(values[0])} (one round)"
    return f"{say(statistics.median(values))} ({say(min(values))} to {say(max(values))})"


def title(cell, about):
    if cell == "million:memory":
        return "memory (VmRSS) at a million keys of 16 + 64 bytes"
    if cell == "million:full-sync":
        return "a blank node takes a million keys"
    if cell == "million:restart":
        return "restart from disk with a million keys"
    if cell == "idle:connections":
        return f"memory of one of {about.get('connections', 0)} idle connections"
    words = [about.get("op", "").replace("MIXED", "90 % GET, 10 % SET")]
    connections = about.get("connections", 0)
    words.append("one connection" if connections == 1 else f"{connections} connections")
    words.append(f"depth {about.get('depth')}")
    size = about.get("value_size", 64)
    if size != 64:
        words.append(size_words(size))
    if ":" in cell and cell.startswith("stopped"):
        words.append("one peer stopped, or none")
    return ", ".join(words)


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


# ---------------------------------------------------------------------------------------------------------------- the page


def comparisons(results, metrics):
    """Every pair that was measured, in the order of the cells: cell, one, other, metric."""
    found = []
    for cell, contenders in results.figures.items():
        if is_check(cell):
            continue
        for one, other in PAIRS:
            if one in contenders and other in contenders:
                # Of a lone connection the time of one operation says more than how many there were.
                is_lone = results.about[cell].get("connections") == 1 and results.mode == "main"
                found += [(cell, one, other, metric) for metric in metrics if (metric != "p50_us" or is_lone) and results.ratios(cell, one, other, metric)]
    return found


def who(results, cell, contender, metric):
    """A contender, and its figure with the spread."""
    return f"{results.name(contender)}: {spread(results.values(cell, contender, metric).values(), lambda value: quantity(metric, value))}"


def ratio_words(ratios):
    return f"**{times(statistics.median(ratios))}** ({times(min(ratios))} to {times(max(ratios))})" if ratios else ""


def comparison_row(results, cell, one, other, metric):
    heading = title(cell, results.about[cell]) + (", p50" if metric == "p50_us" else "")
    return [heading, who(results, cell, one, metric), who(results, cell, other, metric), ratio_words(results.ratios(cell, one, other, metric))]


def cpu_cells(results, cell, one, other, metric):
    """What stands behind a row of throughput: the processor time of both, and the ratio."""
    if metric != "per_second":
        return ["", "", ""]
    figures = [results.values(cell, contender, "cpu_us").values() for contender in (one, other)]
    return [*(spread(of, number) if of else "" for of in figures), ratio_words(results.ratios(cell, one, other, "cpu_us"))]


def limit_rows(results):
    """Where the limit was measured: its own figures, and how far everybody else is from them."""
    for cell, contenders in results.figures.items():
        if LIMIT not in contenders:
            continue
        for contender in [LIMIT, *(other for other in NAMES if other in contenders and other != LIMIT)]:
            speed, cpu = (results.values(cell, contender, metric).values() for metric in ("per_second", "cpu_us"))
            row = [title(cell, results.about[cell]), results.name(contender), spread(speed, lambda value: quantity("per_second", value))]
            shares, costs = ([], []) if contender == LIMIT else (results.ratios(cell, contender, LIMIT, metric) for metric in ("per_second", "cpu_us"))
            yield [*row, share_words(shares), spread(cpu, number), ratio_words(costs)]


def share_words(shares):
    percent = lambda share: f"{100 * share:.0f} %"
    return f"**{percent(statistics.median(shares))}** ({percent(min(shares))} to {percent(max(shares))})" if shares else ""


def goals(results):
    """A line for each goal whose cell was measured."""
    rows = [["reached", "goal", "found", "least to greatest", "cell", "of", "over", "what"]]
    for cell, one, other, metric, direction, goal in GOALS:
        ratios = results.ratios(cell, one, other, metric)
        if ratios:
            found = statistics.median(ratios)
            is_reached = found >= goal if direction == ">=" else found <= goal
            row = ["yes" if is_reached else "NO", f"{direction} {goal:.2f}", f"{found:.3f}", f"{min(ratios):.3f} to {max(ratios):.3f}"]
            rows.append([*row, cell, one, other, metric])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(row, widths)).rstrip() for row in rows)


def latency_rows(results):
    for cell, contenders in results.figures.items():
        for contender, rounds in contenders.items():
            if not any("p50_us" in measured for measured in rounds.values()):
                continue
            about = next(iter(rounds.values()))
            row = [title(cell, about), results.name(contender), about["generator"], spread(results.values(cell, contender, "per_second").values(), lambda value: quantity("per_second", value))]
            for metric in ["p50_us", "p99_us", "p999_us", "max_us"]:
                values = list(results.values(cell, contender, metric).values())
                row.append(quantity(metric, statistics.median(values)) if values else "")
            yield row


def check_rows(results):
    """The cells that both generators have measured."""
    for cell in results.figures:
        if not is_check(cell):
            continue
        twin = cell.replace(":check:", ":")
        for contender in results.figures[cell]:
            ones, others = results.values(cell, contender, "per_second"), results.values(twin, contender, "per_second")
            ratios = [ones[turn] / others[turn] for turn in ones if others.get(turn, 0) > 0]
            if ratios:
                say = lambda value: quantity("per_second", value)
                yield [title(cell, results.about[cell]), results.name(contender), spread(others.values(), say), spread(ones.values(), say), spread(ratios, times)]


# Of a run without --growth, by its mode: how its files are called, the title of the page, and the command.
PAGES = {
    "main": ("results", "Results", "bench/compare.sh"),
    "full": ("full", "One factor after the other", "bench/compare.sh --full"),
}


def settings_parts(results):
    """The head of every page: whether it may be published, and what was measured on what."""
    parts = [f"**Not for publication:** {escape(results.unpublishable)}."] if results.unpublishable else []
    rows = [[escape(name), escape(value)] for name, value in results.settings if name not in ("mode", "not for publication")]
    return parts + [table(["setting", ""], rows)]


def failed_parts(results):
    """The end of every page: what was measured and does not count."""
    rows = [[str(one["round"]), one["cell"], results.name(one["contender"]), escape(one["failed"])] for one in results.failed]
    return ["## What does not count", table(["round", "cell", "contender", "why"], rows)] if rows else []


def page(results):
    file_name, page_title, command = PAGES[results.mode]
    rounds = dict(results.settings).get("rounds", "?")
    parts = [
        f"# {page_title}",
        f"Made by `{command}`; [README.md](README.md) says what is measured. Medians of {rounds} rounds with the least and the greatest in brackets. "
        "A ratio is kvmesh's figure over the other one's within a round; of throughput, more is better, and of times and bytes, less.",
        *settings_parts(results),
        f"![Ratios]({file_name}.svg)",
    ]
    found = comparisons(results, SPEEDS)
    rows = [comparison_row(results, *one) for one in found]
    costs = [cpu_cells(results, *one) for one in found]
    if any(any(cells) for cells in costs):
        parts += [
            "## Throughput and processor time",
            "CPU µs/op is the processor time of the servers, all nodes of a contender together, for each operation that the contender has counted; the generator's is not in it.",
            table(["", "kvmesh", "against", "ratio", "CPU µs/op, kvmesh", "CPU µs/op, against", "ratio of CPU µs/op"], [row + cells for row, cells in zip(rows, costs)]),
        ]
    elif rows:
        parts += ["## Throughput", table(["", "kvmesh", "against", "ratio"], rows)]
    rows = list(limit_rows(results))
    if rows:
        parts += [
            "## Share of the limit",
            "The limit is a thread for each connection that reads, parses and answers as a session of kvmesh does, with no store, log or peer behind it. "
            "What does not work in this way, as Redis, can be above it.",
            table(["", "contender", "throughput", "share of the limit", "CPU µs/op", "over the limit's"], rows),
        ]
    rows = [comparison_row(results, *one) for one in comparisons(results, COSTS)]
    if rows:
        parts += ["## Times and memory", table(["", "kvmesh", "against", "ratio"], rows)]
    rows = list(check_rows(results))
    if rows:
        parts += ["## Do the generators agree?", "The same cell by `redis-benchmark` and by `kvctl bench` over RESP.", table(["", "contender", "redis-benchmark", "kvctl bench", "kvctl bench over redis-benchmark"], rows)]
    rows = list(latency_rows(results))
    if rows:
        parts += [
            "## Latency",
            "Medians over the rounds. Of `redis-benchmark` and `kvctl bench` it is that of a round of as many commands as the depth says, and of h2load that of one request. redis-benchmark has no p99.9.",
            table(["", "contender", "generator", "throughput", "p50", "p99", "p99.9", "max"], rows),
        ]
    return "\n\n".join(parts + failed_parts(results)) + "\n"


# ---------------------------------------------------------------------------------------------------------------- charts

FONT = 'font-family="system-ui, sans-serif" font-size="12"'
# Told apart by people who see no difference between red and green, too.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]


class Drawing:
    """Shapes one after the other, on white, so that they can be read on any page."""

    def __init__(self, width, height, what):
        self.shapes = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" {FONT}>',
            f"<title>{escape(what)}</title>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        ]

    def text(self, x, y, words, anchor="start", more=""):
        self.shapes.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222222" {more}>{escape(words)}</text>')

    def line(self, x1, y1, x2, y2, colour="#222222", more=""):
        self.shapes.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>')

    def box(self, x, y, width, height, colour):
        self.shapes.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>')

    def add(self, shape):
        self.shapes.append(shape)

    def done(self):
        return "\n".join(self.shapes + ["</svg>"]) + "\n"


def ratio_chart(results):
    """A bar a comparison, from 1× on, since more and less by the same factor are to look alike; a line from the least to the greatest."""
    bars = []
    for cell, one, other, metric in comparisons(results, SPEEDS + COSTS):
        label = f"{title(cell, results.about[cell])}{', p50' if metric == 'p50_us' else ''}"
        pair = f"{results.name(one)} / {results.name(other)}".replace("`", "")
        bars.append((label, pair, results.ratios(cell, one, other, metric), metric == "per_second"))
    if not bars:
        return None
    reach = [value for _, _, ratios, _ in bars for value in ratios]
    low, high = min(0.25, *reach) * 0.9, max(4.0, *reach) * 1.1
    left, right, top, step = 450, 90, 60, 34
    width, height = 1000, top + step * len(bars) + 40
    at = lambda value: left + (width - left - right) * math.log(value / low) / math.log(high / low)
    what = f"kvmesh against {results.rival} and etcd"
    drawing = Drawing(width, height, f"{what}: ratios")
    drawing.text(20, 24, f"{what}: medians of the ratios within a round{', not for publication' if results.unpublishable else ''}", more='font-weight="bold"')
    drawing.text(20, 42, "Blue: throughput, longer to the right is better. Orange: times and bytes, longer to the left is better.")
    for value in ticks(low, high):
        drawing.line(at(value), top, at(value), height - 30, "#dddddd")
        drawing.text(at(value), height - 14, times(value), "middle")
    for place, (label, pair, ratios, more_is_better) in enumerate(bars):
        y = top + step * place
        middle = statistics.median(ratios)
        drawing.text(left - 12, y + 14, label, "end")
        drawing.text(left - 12, y + 27, pair, "end", 'font-size="10" opacity="0.7"')
        drawing.box(min(at(1), at(middle)), y + 6, abs(at(middle) - at(1)), 16, COLOURS[0] if more_is_better else COLOURS[5])
        drawing.line(at(min(ratios)), y + 14, at(max(ratios)), y + 14, "#222222", 'stroke-width="1.5"')
        drawing.text(width - right + 10, y + 18, times(middle), more='font-weight="bold"')
    drawing.line(at(1), top, at(1), height - 30, "#222222")
    return drawing.done()


def ticks(low, high):
    """1, 2 and 5 of each power of ten in between; only the powers where that is too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = [1, 2, 5] if len(powers) <= 5 else [1]
    return [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]


def line_chart(what, x_words, y_words, lines, say, x_is_log, say_x=grouped):
    """`lines`: name to points (x, values of all rounds). A contender has the same colour everywhere, and GET is dashed. Both axes begin where the points do if logarithmic; the other one at 0."""
    width, height, left, right, top, bottom = 900, 460, 90, 270, 50, 60
    xs = sorted({x for points in lines.values() for x, _ in points})
    most = max(value for points in lines.values() for _, values in points for value in values) * 1.08
    if x_is_log and len(xs) > 1:
        x_at = lambda x: left + (width - left - right) * math.log(x / xs[0]) / math.log(xs[-1] / xs[0])
    else:
        x_at = lambda x: left + (width - left - right) * (x - xs[0]) / max(1, xs[-1] - xs[0])
    y_at = lambda value: height - bottom - (height - top - bottom) * value / most
    drawing = Drawing(width, height, what)
    drawing.text(20, 26, what, more='font-weight="bold"')
    drawing.text(left + (width - left - right) / 2, height - 16, x_words, "middle")
    drawing.text(20, top - 6, y_words)
    step = 10 ** math.floor(math.log10(most))
    step = step / 5 if most / step < 2 else step / 2 if most / step < 5 else step
    for place in range(math.floor(most / step) + 1):
        drawing.line(left, y_at(place * step), width - right, y_at(place * step), "#dddddd")
        drawing.text(left - 8, y_at(place * step) + 4, say(place * step), "end")
    for x in xs:
        drawing.line(x_at(x), height - bottom, x_at(x), height - bottom + 5)
        drawing.text(x_at(x), height - bottom + 20, say_x(x), "middle")
    contenders = list(WITHOUT_NUMBER.values())
    for place, (name, points) in enumerate(lines.items()):
        op, contender = name.split(", ", 1) if name.startswith(("SET, ", "GET, ")) else ("SET", name)
        colour, dashes = COLOURS[contenders.index(contender.replace("Valkey", "Redis")) % len(COLOURS)], 'stroke-dasharray="7 4"' if op == "GET" else ""
        middles = [(x_at(x), y_at(statistics.median(values))) for x, values in points]
        drawing.add(f'<polyline fill="none" stroke="{colour}" stroke-width="2" {dashes} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in middles)}"/>')
        for (x, values), (_, y) in zip(points, middles):
            drawing.line(x_at(x), y_at(min(values)), x_at(x), y_at(max(values)), colour)
            drawing.add(f'<circle cx="{x_at(x):.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
        drawing.line(width - right + 14, top + 22 * place + 3, width - right + 38, top + 22 * place + 3, colour, f'stroke-width="2" {dashes}')
        drawing.text(width - right + 42, top + 22 * place + 7, name.replace("`", ""), more='font-size="11"')
    drawing.line(left, height - bottom, width - right, height - bottom)
    return drawing.done()


# ---------------------------------------------------------------------------------------------------------------- growth


class Growth(NamedTuple):
    """A group of cells. What it says holds whatever the figures are."""

    heading: str
    # The title of the plot, and what is measured.
    what: str
    # Why the figures are as they are.
    why: str
    # What is on the axis.
    x_words: str
    is_log: bool = False
    # A group with no plot compares a few kinds, such as one key and many.
    has_plot: bool = True
    say_x: Callable = grouped
    # The order of kinds that are no numbers.
    kinds: tuple = ()


GROWTHS = {
    "keys": Growth(
        "Keys",
        "Throughput and the number of keys: three nodes, 50 connections, depth 16",
        "The more keys, the fewer of them are in the processors' caches, and the longer a look-up waits for memory. A `GET` looks its key up on one node, a `SET` on three. "
        "kvmesh asks for the memory of the next keys of a round before it needs them, so that the waits pass together.",
        "keys",
        is_log=True,
    ),
    "connections": Growth(
        "Connections",
        "Throughput and the number of connections: three nodes, depth 1, 100 000 keys",
        "A lone connection leaves the processors idle while its reply is under way. A few keep them busy, and those beyond only wait longer: each has one request under way. "
        "kvmesh and the limit have a thread for each connection, which is woken for each request; Redis has one thread for all, which finds the more requests at a time the more connections there are. "
        "So where the limit is below Redis, that is the shape; where kvmesh is below the limit, that is the work of a node and, for `SET`, of its peers.\n\n"
        "From 1 000 connections on, kvmesh and Redis are told to admit 1 000 more than are measured (`clients_max`, `maxclients`). Both admit 10 000 as they come, and of a Redis the replicas are among them. "
        "One process of `redis-benchmark` opens all of them, 64 every 50 ms and before it measures: its event loop has places for 10 240 files. "
        "10 000 need 12 000 open files (`ulimit -n`) for the node and for the generator, 10 000 threads with 256 KiB of address space each for their stacks, and as many ports of loopback; "
        "a port that was closed a second ago may be taken again there. Where so many files are not allowed, the cell is left out. What opening and closing takes is not in CPU µs/op.",
        "connections",
        is_log=True,
    ),
    "nodes": Growth(
        "Nodes",
        "Throughput and the number of nodes: 50 connections, depth 16, 100 000 keys",
        "A `GET` is answered by the node that is asked, however many there are. A `SET` is merged and logged on all of them, and all share the processors of this machine.",
        "nodes",
    ),
    "sizes": Growth(
        "Bytes of a value",
        "Bytes a second and the size of values: three nodes, 50 connections, depth 1, 100 MiB of values and no more than 100 000 keys",
        "A small value costs what an operation costs, a large one what its bytes cost. Then operations a second fall as values grow, and bytes a second stay. "
        "The bytes of a `SET` are copied out of a socket, into two others and out of those, and into three logs, so that disks are a part of the figure. Those of a `GET` are copied into one socket, and by the generator.",
        "bytes of a value",
        is_log=True,
        say_x=size_words,
    ),
    "ttl": Growth(
        "TTL",
        "Keys that expire: three nodes, 50 connections, depth 16, 100 000 keys that are served",
        "With *every key*, each `SET` has `EX 3600`: three more words to parse, and an expiry that is kept, logged and sent. "
        "With *others*, what is served has no TTL, and 20 000 other keys expire in each second meanwhile. For a node of kvmesh an expiry is a part of the entry: readers look at the clock, and "
        "each node frees the memory by itself, `clock_offset_max` later and at its heartbeats, with nothing logged or sent. A Redis looks for them by samples, ten times a second, which finds few until a tenth of all that will expire has expired, and deletes what is asked for; its primary logs and sends a `DEL` for each key. "
        "What expiry takes is in CPU µs/op.",
        "TTL",
        has_plot=False,
        say_x=lambda kind: {"none": "none", "all": "every key", "others": "others"}[kind],
        kinds=("none", "all", "others"),
    ),
    "hot": Growth(
        "A hot key",
        "All connections on one key, or on many: three nodes, 50 connections, depth 16",
        "On one key all sessions want the lock of the same shard. They hold it for a part of what a command takes, and the fewer processors there are, the more rarely do two of them want it at the same moment. "
        "On the other hand everything that one key needs is in the processors' caches, on the peers as well. A Redis has one thread and no lock, and gains by the caches alone. `INCR` has keys of its own.",
        "keys that are asked for",
        has_plot=False,
        say_x=lambda keys: "one key" if keys == 1 else f"{grouped(keys)} keys",
    ),
}


def without_number(results, contender):
    return WITHOUT_NUMBER[contender].replace("Redis", results.rival)


def growth(results):
    """Plots by file name, and the page with their figures."""
    plots = {}
    parts = [
        "# Growth",
        "Made by `bench/compare.sh --growth`; [README.md](README.md) says what is measured. Medians of the rounds with the least and the greatest in brackets; in plots, points with lines through them. "
        "A ratio is one of two figures of the same round. CPU µs/op is the processor time of the servers, all nodes of a contender together, for each operation; the generator's is not in it.",
        *settings_parts(results),
    ]
    for group, about in GROWTHS.items():
        cells = {}
        for cell in results.figures:
            kind, of, x, op = (cell.split(":") + [""] * 4)[:4]
            if (kind, of) == ("growth", group):
                cells[int(x) if x.isdecimal() else x, op] = cell
        if cells:
            parts += [f"## {about.heading}", about.why, *growth_of(results, group, about, cells, plots)]
    return plots, "\n\n".join(parts + failed_parts(results)) + "\n"


def growth_of(results, group, about, cells, plots):
    """The parts of one group; `cells` are by x and what is measured. Adds to the plots."""
    xs = sorted({x for x, _ in cells}, key=about.kinds.index if about.kinds else None)
    contenders = [contender for contender in NAMES if any(contender in results.figures[cell] for cell in cells.values())]
    ops = [op for op in ("set", "get", "incr") if any(op == of for _, of in cells)]

    def lines(op, name, at):
        """What `at` finds in the cells of an operation, or of a figure that has none: under the name, points with the values of all rounds."""
        points = [(x, list(at(cells[x, op], x))) for x in xs if (x, op) in cells]
        points = [(x, values) for x, values in points if values]
        return {f"{op.upper()}, {name}" if op in ops else name: points} if points else {}

    def figures(metric, of=ops, among=contenders, scale=lambda value, x: value):
        return {
            name: points
            for op in of
            for contender in among
            for name, points in lines(op, without_number(results, contender), lambda cell, x: [scale(value, x) for value in results.values(cell, contender, metric).values()]).items()
        }

    def ratios(pairs, metric="per_second", has_other=True):
        return {
            name: points
            for op in ops
            for one, other in pairs
            for name, points in lines(
                op, " over ".join(without_number(results, contender) for contender in (one, other)[: 1 + has_other]), lambda cell, x: results.ratios(cell, one, other, metric)
            ).items()
        }

    def tables(heads):
        return [growth_table(head, xs, about.say_x, found, say) for head, found, say in heads if found]

    speeds, bytes_a_second = figures("per_second"), {}
    if group == "sizes":
        bytes_a_second = figures("per_second", scale=lambda value, size: value * size)
    if speeds and about.has_plot:
        y_words, say = ("MiB a second", lambda value: number(value / (1 << 20))) if bytes_a_second else ("operations a second", number)
        plots[f"growth-{group}.svg"] = line_chart(about.what, about.x_words, y_words, bytes_a_second or speeds, say, about.is_log, about.say_x)
    parts = [f"![{about.what}](growth-{group}.svg)"] if f"growth-{group}.svg" in plots else [f"{about.what}."]
    against = [pair for pair in PAIRS if set(pair) <= set(contenders)]
    parts += tables(
        [
            (about.x_words, speeds, lambda value: quantity("per_second", value)),
            ("bytes a second", bytes_a_second, lambda value: f"{number(value / (1 << 20))} MiB/s"),
            ("throughput, ratio", ratios(against), times),
            ("throughput, share of the limit", ratios([(one, LIMIT) for one in contenders if one != LIMIT and LIMIT in contenders], has_other=False), lambda share: f"{100 * share:.0f} %"),
            ("CPU µs/op", figures("cpu_us"), number),
            ("CPU µs/op, ratio", ratios(against, "cpu_us"), times),
            ("keys freed in a second", figures("expired_per_second", ["expired"]), number),
        ]
    )
    held = figures("bytes", ["memory"], scale=lambda value, keys: value / keys)
    if held:
        plots["growth-memory.svg"] = line_chart("Memory of node 1 over the number of keys, of 16 bytes with values of 64", "keys", "bytes of VmRSS a key", held, number, True)
        parts += ["![Memory](growth-memory.svg)", *tables([("bytes of VmRSS a key, at so many", held, number)])]
    return parts


def growth_table(head, xs, say_x, lines, say):
    """A row for each line, and a column for each x that any of them has."""
    xs = [x for x in xs if any(dict(points).get(x) for points in lines.values())]
    rows = [[name, *(spread(dict(points).get(x, []), say) for x in xs)] for name, points in lines.items()]
    return table([head, *map(say_x, xs)], rows)


def main(arguments):
    shows_goals = arguments[:1] == ["--goals"]
    arguments = arguments[shows_goals:]
    if len(arguments) not in ((1,) if shows_goals else (1, 2)) or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    into = Path(arguments[-1])
    try:
        results = Results(folder)
    except (OSError, ValueError, KeyError) as error:
        print(f"table: {folder} does not hold the results of a run: {error!r}", file=sys.stderr)
        return 1
    if shows_goals:
        print(goals(results))
        return 0
    if results.mode == "growth":
        plots, text = growth(results)
        files = {**plots, "growth.md": text}
    else:
        chart = ratio_chart(results)
        file_name = PAGES[results.mode][0]
        files = {f"{file_name}.md": page(results), **({f"{file_name}.svg": chart} if chart else {})}
    for name, text in files.items():
        (into / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
