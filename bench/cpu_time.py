#!/usr/bin/env python3
"""Prints the processor time that processes have used, in microseconds, all of them together. Usage: cpu_time.py PID…

It is the clock of a process, which counts to the nanosecond and goes on when a thread has ended: a server with a thread for each connection
would lose the time of all that have closed if its threads were added up. What a process has started, such as Redis to make its log shorter,
counts with it: while it runs, by its own clock; when it has ended, as the system has kept it, to a hundredth of a second.
"""

import os
import sys
import time


def of_clock(pid):
    """The clock of another process, as clock_getcpuclockid makes its number."""
    return time.clock_gettime_ns(~pid << 3 | 2) // 1000


def of_children(pid):
    with open(f"/proc/{pid}/stat") as stat:
        # Behind the name, which may hold anything: the 3rd field and those after it.
        fields = stat.read().rpartition(") ")[2].split()
    ended = (int(fields[13]) + int(fields[14])) * 1_000_000 // os.sysconf("SC_CLK_TCK")
    running = 0
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        for child in children.read().split():
            try:
                running += of_clock(int(child))
            except OSError:
                # It has just ended.
                continue
    return ended + running


def main(arguments):
    if not arguments or not all(argument.isdecimal() for argument in arguments):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(sum(of_clock(pid) + of_children(pid) for pid in map(int, arguments)))
    except OSError as error:
        print(f"cpu_time: {' '.join(arguments)}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
