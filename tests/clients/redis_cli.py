"""redis-cli as a person uses it, on a terminal. Arguments: host:port of the node to use, `mesh` or `redis`: what listens there."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

(host, port), server = sys.argv[1].rsplit(":", 1), sys.argv[2]
DEADLINE_S = 10
# What redis-cli writes to move the cursor, to colour, and to clear: its hints and what was typed are among it.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    def __init__(self):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            # Else it asks the terminal where its cursor is, and here nobody answers.
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
            os.environ.update(TERM="xterm", HOME=os.environ.get("TMPDIR", "/tmp"), REDISCLI_HISTFILE="/dev/null")
            os.execvp("redis-cli", ["redis-cli", "-h", host, "-p", port])
        self.said = b""
        self.prompt = f"{host}:{port}> ".encode()

    def read_until(self, wanted, what):
        """What came before it, the escapes taken out."""
        end = time.monotonic() + DEADLINE_S
        while wanted not in self.said:
            if time.monotonic() > end or not self.read():
                raise SystemExit(f"{what}: waited for {wanted!r}, found {self.said[-2000:]!r}")
        before, _, self.said = self.said.partition(wanted)
        return ESCAPES.sub("", before.decode(errors="replace"))

    def read(self):
        readable, _, _ = select.select([self.fd], [], [], DEADLINE_S)
        try:
            data = os.read(self.fd, 65536) if readable else b""
        except OSError:
            # How Linux tells that nobody has the other end open any more.
            return False
        self.said += data
        return bool(data)

    def ask(self, line, wanted):
        """Types a line; what is printed below it, and above the next prompt, must hold `wanted`, a pattern."""
        os.write(self.fd, line.encode() + b"\r")
        self.read_until(b"\n", line)
        # The prompt is written anew with every character; behind the reply it is the first thing.
        reply = self.read_until(self.prompt, line)
        if not re.search(wanted, reply):
            raise SystemExit(f"{line}: expected {wanted!r}, found {reply!r}")

    def hint(self, typed, wanted):
        """Types without return: the words that are still missing are shown behind it, from COMMAND DOCS."""
        os.write(self.fd, typed.encode())
        self.read_until(wanted.encode(), f"the hint behind {typed!r}")
        # Ctrl-U: the line is empty again.
        os.write(self.fd, b"\x15")

    def leave(self):
        os.write(self.fd, b"QUIT\r")
        while self.read():
            pass
        end = time.monotonic() + DEADLINE_S
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                raise SystemExit("redis-cli has not ended after QUIT")
            time.sleep(0.02)


def main():
    terminal = Terminal()
    terminal.read_until(terminal.prompt, "the prompt")
    terminal.ask("DEL cli:a cli:b", r"^\(integer\) [012]\r")
    terminal.ask('SET cli:a "two words"', r"^OK\r")
    terminal.ask("GET cli:a", r'^"two words"\r')
    terminal.ask("get cli:nothing", r"^\(nil\)\r")
    terminal.ask("INCR cli:a", r"^\(error\) ERR value is not an integer or out of range\r")
    terminal.ask("EXPIRE cli:a 1000", r"^\(integer\) 1\r")
    terminal.ask("TTL cli:a", r"^\(integer\) (1000|99\d)\r")
    terminal.ask("KEYS cli:*", r'^1\) "cli:a"\r')
    terminal.ask("MGET cli:a cli:nothing", r'^1\) "two words"\r\n2\) \(nil\)\r')
    prompt, terminal.prompt = terminal.prompt, terminal.prompt.replace(b"> ", b"(TX)> ")
    terminal.ask("MULTI", r"^OK\r")
    terminal.ask("SET cli:b 5", r"^QUEUED\r")
    terminal.ask("INCR cli:b", r"^QUEUED\r")
    terminal.prompt = prompt
    terminal.ask("EXEC", r"^1\) OK\r\n2\) \(integer\) 6\r")
    terminal.ask("INFO keyspace", r"# Keyspace\s+db0:keys=[1-9]")
    terminal.ask("HELLO 3", r"1# \"server\" => \"redis\"")
    terminal.ask("INFO server", r"# Server\s(.*\n)*redis_version:")
    terminal.ask("FOO bar", r"^\(error\) ERR unknown command 'FOO', with args beginning with: 'bar'")
    terminal.ask("DEL cli:a cli:b", r"^\(integer\) 2\r")
    terminal.hint("SETRANGE ", "key offset value")
    if server == "mesh":
        for line in ("SUBSCRIBE news", "LPUSH list a", "EVAL 'return 1' 0"):
            # A sentence, and not the two words that mean a misspelt name.
            terminal.ask(line, r"(?m)^\(error\) ERR (?!unknown command)(?=.*" + line.split()[0] + r").{40,}\r")
    terminal.leave()
    print("ok: redis-cli on a terminal: hints, replies of all kinds, MULTI, HELLO 3" + (", refusals in words" if server == "mesh" else ""))


main()
