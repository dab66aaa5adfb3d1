#!/usr/bin/env python3
"""Draws the pictures of the documents, as SVG, into this directory.

    python3 docs/images/gen.py

Every picture stands on a light card of its own, so that it reads on a dark page, too. It has a title
and a description for those who cannot see it. Change the picture here, run this, and look at it.
"""

import os
from html import escape

INK, GREY, LINE = "#1f2328", "#57606a", "#8c959f"
BLUE, GREEN, AMBER, RED = "#1f6feb", "#1a7f37", "#9a6700", "#cf222e"
PALE = {BLUE: "#ddf4ff", GREEN: "#dafbe1", AMBER: "#fff8c5", RED: "#ffebe9", GREY: "#f6f8fa"}
ARROWS = {INK: "ink", GREY: "grey", BLUE: "blue", GREEN: "green", AMBER: "amber"}
HERE = os.path.dirname(os.path.abspath(__file__))


class Picture:
    def __init__(self, width, height, title, description):
        heads = "".join(
            f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
            f' orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{color}"/></marker>'
            for color, name in ARROWS.items()
        )
        self.lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
            f' height="{height}" role="img" aria-labelledby="title description"'
            ' font-family="DejaVu Sans, Helvetica, Arial, sans-serif">',
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="description">{escape(description)}</desc>',
            f"<defs>{heads}</defs>",
            f'<rect x="1" y="1" width="{width - 2}" height="{height - 2}" rx="14" fill="#ffffff" stroke="#d0d7de"/>',
        ]
        self.text(width / 2, 36, title, 20, bold=True)

    def text(self, x, y, words, size=13, color=INK, anchor="middle", bold=False, italic=False):
        style = (' font-weight="bold"' if bold else "") + (' font-style="italic"' if italic else "")
        self.lines.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{color}"{style}>'
            f"{escape(words)}</text>"
        )

    def rect(self, x, y, width, height, color, fill=None, radius=8, stroke=1.5, dashes=None):
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.lines.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}"'
            f' fill="{fill or PALE.get(color, "#ffffff")}" stroke="{color}" stroke-width="{stroke}"{dashed}/>'
        )

    def box(self, x, y, width, height, color, name, *notes):
        """A rectangle with a name in bold, and small lines below it."""
        self.rect(x, y, width, height, color)
        middle = y + height / 2 - 7.5 * len(notes)
        self.text(x + width / 2, middle + 5, name, 14, bold=True)
        for n, note in enumerate(notes):
            self.text(x + width / 2, middle + 22 + 15 * n, note, 11, GREY)

    def note(self, x, y, width, *words):
        """A white box with lines of text; `x` is its middle."""
        self.rect(x - width / 2, y, width, 16 * len(words) + 10, LINE, "#ffffff", 6, 1)
        for n, line in enumerate(words):
            self.text(x, y + 18 + 16 * n, line, 12)

    def line(self, points, color=GREY, both=False, plain=False, dashes=None, width=2):
        """An arrow along the points."""
        head = "" if plain else f' marker-end="url(#{ARROWS[color]})"'
        tail = f' marker-start="url(#{ARROWS[color]})"' if both else ""
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        self.lines.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="{width}"{dashed}{head}{tail}/>')

    def curve(self, path, color, width=3):
        mark = ARROWS[color]
        self.lines.append(
            f'<path d="{path}" fill="none" stroke="{color}" stroke-width="{width}"'
            f' marker-start="url(#{mark})" marker-end="url(#{mark})"/>'
        )

    def disk(self, x, y, width, height, name):
        self.lines.append(
            f'<path d="M{x} {y + 8} v{height - 16} a{width / 2:g} 8 0 0 0 {width} 0 v-{height - 16}"'
            f' fill="{PALE[AMBER]}" stroke="{AMBER}" stroke-width="1.5"/>'
            f'<ellipse cx="{x + width / 2:g}" cy="{y + 8}" rx="{width / 2:g}" ry="8"'
            f' fill="{PALE[AMBER]}" stroke="{AMBER}" stroke-width="1.5"/>'
        )
        self.text(x + width / 2, y + height / 2 + 8, name)

    def lanes(self, lanes, top, bottom):
        """The lanes of a sequence, each a name, its middle and a color."""
        for name, x, color in lanes:
            self.line([(x, top + 34), (x, bottom)], "#d0d7de", plain=True, dashes="4 4", width=1.5)
            self.rect(x - 62, top, 124, 34, color)
            self.text(x, top + 22, name, 14, bold=True)

    def save(self, name):
        with open(os.path.join(HERE, name), "w", encoding="utf-8") as file:
            file.write("\n".join(self.lines) + "\n</svg>\n")


def architecture():
    picture = Picture(
        1000,
        520,
        "Three equal nodes, a full mesh, no leader",
        "Three nodes, each connected to both others. Each node holds all keys in memory, and a log and a snapshot on disk. "
        "A Redis client, telnet and kvctl are connected to one node each; any client may use any node.",
    )
    picture.curve("M165 150 C 165 62, 835 62, 835 150", BLUE)
    picture.text(500, 76, "writes, acks, heartbeats, dumps: one TCP connection each way", 13, BLUE)
    picture.line([(292, 230), (373, 230)], BLUE, both=True, width=3)
    picture.line([(627, 230), (708, 230)], BLUE, both=True, width=3)
    clients = [
        ("redis-cli, any Redis client", "RESP on port 7001"),
        ("telnet, nc", "text on port 7002"),
        ("kvctl", "text on port 7003"),
    ]
    for n, (client, wire) in enumerate(clients):
        x = 40 + 335 * n
        picture.rect(x, 150, 250, 160, GREY, radius=10)
        picture.text(x + 125, 174, f"node {n + 1}", 16, bold=True)
        picture.rect(x + 14, 186, 222, 44, BLUE, radius=6)
        picture.text(x + 125, 205, "all keys, in memory")
        picture.text(x + 125, 222, "last writer wins, by version", 11, GREY)
        picture.disk(x + 24, 242, 90, 56, "log")
        picture.disk(x + 136, 242, 90, 56, "snapshot")
        picture.rect(x + 15, 390, 220, 58, RED, radius=10)
        picture.text(x + 125, 414, client, bold=True)
        picture.text(x + 125, 434, wire, 12, GREY)
        picture.line([(x + 125, 390), (x + 125, 312)], GREY, both=True, dashes="6 4")
    picture.text(
        500, 486, "Every node takes reads and writes; both protocols share one port; any client may use any node.", 13, GREY
    )
    picture.save("architecture.svg")


def set_forwarding():
    picture = Picture(
        1000,
        640,
        "How a SET travels, and when its OK leaves",
        "A SET arrives at node A. A checks that enough members count, evaluates the command, gives it a timestamp and "
        "stores it. It goes to A's log and, as the resulting value, to nodes B and C, which keep the greater version, log "
        "it and acknowledge. At level local the OK leaves once A has it on disk, at majority after one ack, at all after both.",
    )
    a, disk, b, c = 350, 510, 690, 890
    picture.lanes(
        [("client", 90, RED), ("node A", a, BLUE), ("disk of A", disk, AMBER), ("node B", b, BLUE), ("node C", c, BLUE)], 60, 580
    )
    picture.line([(90, 122), (a - 4, 122)], GREY)
    picture.text(215, 115, "SET color red")
    picture.note(a, 134, 214, "1  enough members up?", "2  evaluate the command", "3  timestamp, store (key locked)")
    picture.line([(a, 222), (disk - 4, 222)], AMBER)
    picture.text(428, 215, "4  log", 12, AMBER)
    picture.line([(a, 246), (b - 4, 246)], BLUE)
    picture.line([(a, 258), (c - 4, 258)], BLUE)
    picture.text(582, 240, "4  the resulting value, to both", 12, BLUE)
    for peer in (b, c):
        picture.note(peer, 270, 150, "5  greater version", "stays; log; fsync")
    picture.line([(disk, 300), (a + 6, 300)], AMBER)
    picture.text(432, 293, "fsync done", 12, AMBER)
    levels = [(330, "ACK local", "on this node"), (426, "ACK majority", "on 2 of 3 (default)"), (522, "ACK all", "on all that are up")]
    for y, level, meaning in levels:
        picture.rect(196, y - 19, 156, 38, GREEN)
        picture.text(274, y - 3, level, 13, bold=True)
        picture.text(274, y + 13, meaning, 11, GREY)
        picture.line([(196, y), (96, y)], GREEN, width=2.5)
        picture.text(146, y - 7, "OK", 13, GREEN, bold=True)
    for peer, y in ((b, 396), (c, 492)):
        picture.line([(peer, y), (a + 6, y)], BLUE)
        picture.text(peer - 90, y - 7, "6  ack", 12, BLUE)
    picture.text(
        500,
        604,
        "A slow or dead peer delays only clients that asked for its ack. What it missed it fetches by itself when it is back.",
        13,
        GREY,
    )
    picture.text(500, 624, 'Not to scale. Without fsync "always", an ack means "in memory".', 11, GREY, italic=True)
    picture.save("set-forwarding.svg")


def recovery():
    picture = Picture(
        1000,
        640,
        "How node 2 catches up before it serves clients",
        "Node 2 starts, replays its own disk and exchanges HELLOs with nodes 1 and 3. It finds a gap: node 1 has written more "
        "than it has. It asks node 1 for what its version vector lacks. The dump comes as lines, with a live write batch "
        "between them, which is merged and whose range is pending. At the dump's end line the vector advances and the pending "
        "range is joined. Node 3 has little left to send. Then node 2 opens to clients; until then they hear LOADING.",
    )
    clients, two, one, three = 90, 330, 680, 890
    picture.lanes([("clients", clients, RED), ("node 2", two, BLUE), ("node 1", one, BLUE), ("node 3", three, BLUE)], 60, 570)

    picture.rect(clients - 46, 112, 92, 364, AMBER, radius=6)
    picture.text(clients, 290, "LOADING", 13, AMBER, bold=True)
    picture.text(clients, 308, "state", 11, GREY)
    picture.text(clients, 323, "recovering", 11, GREY)

    picture.note(two, 106, 230, "replay: snapshot, then the log")
    picture.text(two + 124, 124, "vector: node 1 up to 30, node 3 up to 12", 12, GREY, "start", italic=True)

    picture.line([(two + 6, 162), (one - 4, 162)], BLUE, both=True)
    picture.text(505, 155, "HELLO: vectors; node 1 is at 40", 12, BLUE)
    picture.line([(two + 6, 184), (three - 4, 184)], BLUE, both=True)
    picture.text(785, 177, "HELLO", 12, BLUE)
    picture.note(two, 196, 230, "a gap: 31 to 40 are missing here")

    picture.line([(two, 248), (one - 4, 248)], BLUE)
    picture.text(505, 241, "request: what does my vector lack?", 12, BLUE)

    picture.rect(one - 62, 264, 124, 166, LINE, "#ffffff", 6, 1)
    picture.text(one, 318, "dump", 14, bold=True)
    picture.text(one, 340, "one shard after", 11, GREY)
    picture.text(one, 355, "the other; writes", 11, GREY)
    picture.text(one, 370, "go on meanwhile", 11, GREY)
    for y, words, color in (
        (284, "header: vector, noted before the scan", AMBER),
        (318, "entries, a line each", AMBER),
        (352, "live batch (40, 41]: merged, pending", BLUE),
        (386, "entries", AMBER),
        (420, "end line: count, digest, GC horizon", AMBER),
    ):
        picture.line([(one - 62, y), (two + 6, y)], color)
        picture.text(485, y - 7, words, 12, color)
    picture.note(two, 434, 270, "now, and not before: the vector", "advances, the pending range is joined")
    picture.text(two + 144, 460, "node 1 up to 41", 12, GREY, "start", italic=True)

    picture.line([(three, 500), (two + 6, 500)], AMBER)
    picture.text(610, 493, "the same from node 3: only what is still lacking", 12, AMBER)
    picture.rect(clients - 46, 506, 92, 64, GREEN, radius=6)
    picture.text(clients, 534, "OPEN", 13, GREEN, bold=True)
    picture.text(clients, 551, "state open", 11, GREY)
    picture.line([(two, 536), (clients + 52, 536)], GREEN, width=2.5)
    picture.text(236, 528, "caught up with all", 12, GREEN)
    picture.line([(two, 556), (one - 4, 556)], BLUE)
    picture.text(505, 549, "acks: from here on, it counts", 12, BLUE)

    picture.text(500, 602, "A dump that breaks off advances nothing and loses nothing: what was merged stays, and it is asked for again.", 13, GREY)
    picture.text(
        500, 622, "A peer that stays silent for recovery_wait_ms is not waited for; without a majority the node is degraded.", 11, GREY, italic=True
    )
    picture.save("recovery.svg")


def threads():
    picture = Picture(
        1000,
        606,
        "The threads of one node",
        "A write goes from the client's thread through the store and a channel to the replicator, which hands one encoded batch "
        "to the log thread and to one outbox a peer; a peer-out thread sends each outbox. What peers send arrives at a peer-in "
        "thread, which merges it into the store, hands it to the log and answers through the outbox; acks move the ack table, "
        "which wakes the client's thread. Heartbeat, snapshot, accept, peer-accept, signals, stderr and main stand beside.",
    )
    # Shared state is in dashed boxes, threads in solid ones.
    picture.lines.append('<g transform="translate(0 -34)">')
    picture.text(70, 104, "clients", 13, RED, bold=True)
    picture.line([(70, 112), (70, 146)], GREY, both=True)
    picture.text(80, 134, "TCP", 11, GREY, "start")
    picture.box(30, 148, 190, 74, BLUE, "client-N", "one per client: a round of", "requests, one wait, one write")

    picture.rect(30, 268, 190, 60, LINE, "#ffffff", dashes="5 4")
    picture.text(125, 292, "store", 14, bold=True)
    picture.text(125, 310, "sharded; greater version stays", 11, GREY)
    picture.line([(125, 224), (125, 264)], GREY, both=True)
    picture.text(140, 250, "read, write: stamp under the shard's lock", 11, GREY, "start")

    picture.box(350, 148, 180, 74, BLUE, "replicator", "all that waits becomes", "one write batch")
    picture.line([(222, 172), (346, 172)], BLUE)
    picture.text(284, 165, "channel", 12, BLUE)

    picture.rect(610, 130, 150, 44, LINE, "#ffffff", dashes="5 4")
    picture.text(685, 157, "outbox of peer 2", 13)
    picture.rect(610, 196, 150, 44, LINE, "#ffffff", dashes="5 4")
    picture.text(685, 223, "outbox of peer 3", 13)
    picture.line([(532, 174), (606, 154)], BLUE)
    picture.line([(532, 196), (606, 216)], BLUE)
    picture.box(820, 130, 120, 44, BLUE, "peer-out:2")
    picture.box(820, 196, 120, 44, BLUE, "peer-out:3")
    for y in (152, 218):
        picture.line([(762, y), (816, y)], BLUE)
        picture.line([(942, y), (976, y)], BLUE, width=3)
    picture.text(958, 120, "TCP", 11, GREY)

    picture.box(350, 372, 180, 60, AMBER, "log", "one write, one fsync for all")
    picture.line([(480, 224), (480, 368)], AMBER)
    picture.text(488, 262, "the same bytes", 11, AMBER, "start")
    picture.disk(390, 462, 100, 56, "disk")
    picture.line([(440, 434), (440, 460)], AMBER)

    picture.box(820, 306, 120, 44, GREEN, "peer-in:2")
    picture.box(820, 372, 120, 44, GREEN, "peer-in:3")
    for y in (328, 394):
        picture.line([(976, y), (944, y)], GREEN, width=3)
    picture.line([(816, 318), (224, 318)], GREEN)
    picture.text(700, 311, "what peers wrote: clock, merge", 11, GREEN)
    picture.line([(816, 394), (534, 394)], GREEN)
    picture.text(690, 387, "to the log; version vector advances", 11, GREEN)
    picture.line([(534, 410), (580, 410), (580, 262), (685, 262), (685, 244)], AMBER)
    picture.text(590, 278, "durable: the ack may leave", 11, AMBER, "start")

    picture.rect(30, 392, 190, 60, LINE, "#ffffff", dashes="5 4")
    picture.text(125, 416, "ack table", 14, bold=True)
    picture.text(125, 434, "who has my writes, up to where", 11, GREY)
    picture.line([(346, 412), (224, 412)], AMBER)
    picture.text(286, 405, "own: durable", 11, AMBER)
    picture.line([(880, 418), (880, 546), (125, 546), (125, 456)], GREEN)
    picture.text(660, 539, "acks of peers for this node's writes", 11, GREEN)
    picture.line([(28, 422), (14, 422), (14, 185), (26, 185)], GREEN)
    picture.text(24, 364, "level reached: wakes the client's thread", 11, GREEN, "start")

    picture.text(40, 586, "Beside:", 12, GREY, "start", bold=True)
    beside = ["accept", "peer-accept", "peer-hello", "heartbeat", "snapshot", "signals", "stderr", "main"]
    for n, name in enumerate(beside):
        picture.rect(105 + 108 * n, 570, 100, 26, GREY, radius=6)
        picture.text(155 + 108 * n, 587, name, 12)
    picture.text(
        500, 620, "Solid: a thread, by the name that top -H shows. Dashed: shared state, each with a lock of its own.", 11, GREY, italic=True
    )
    picture.lines.append("</g>")
    picture.save("threads.svg")


if __name__ == "__main__":
    architecture()
    set_forwarding()
    recovery()
    threads()
