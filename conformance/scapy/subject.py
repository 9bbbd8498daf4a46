"""What is judged: a program that speaks lines, sealing and opening with Postern's `esp`."""

import subprocess


class Lines:
    """A program that answers every line on standard input with one on standard output."""

    def __init__(self, program):
        self.process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise SystemExit("the subject ended (%s) after: %s" % (self.process.poll(), line[:200]))
        return answer

    def must(self, line):
        answer = self.ask(line)
        if answer != "ok":
            raise SystemExit("the subject answered `%s` to: %s" % (answer, line[:300]))

    def close(self):
        self.process.stdin.close()
        return self.process.wait(timeout=20)


class Pipe:
    """`sa`, `seal`, `dummy` and `open`, with the packets in the lines."""

    makes_dummies = True

    def __init__(self, program):
        self.lines = Lines(program)

    def install(self, name, direction, spec):
        """Creates the SA `name`; `direction` is `in` or `out`, as Postern sees it."""
        self.lines.must(record_line(name, direction, spec))

    def start(self):
        """Everything is installed."""

    def seal(self, name, inner):
        return self._packet(self.lines.ask("seal %s %s" % (name, inner.hex())))

    def dummy(self, name, octets):
        return self._packet(self.lines.ask("dummy %s %d" % (name, octets)))

    def open(self, name, outer, refusal=False):
        """The inner packet, or None and why; `refusal` says that none is expected."""
        return self._packet(self.lines.ask("open %s %s" % (name, outer.hex())))

    def forwarded(self, inner):
        """What the inner packet looks like on the other side."""
        return inner

    def close(self):
        return self.lines.close()

    @staticmethod
    def _packet(answer):
        word, _, rest = answer.partition(" ")
        return (bytes.fromhex(rest), None) if word == "packet" else (None, rest)


def record_line(name, direction, spec, window=1024):
    """One SA in words; the outer addresses are those of the packets, whoever sends them."""
    sent = "%s|%d" % (spec["src"], spec["sport"]), "%s|%d" % (spec["dst"], spec["dport"])
    local, remote = sent if direction == "out" else sent[::-1]
    first = spec["sequence"]
    return " ".join(
        [
            "sa %s %s" % (name, direction),
            "spi=%08x" % spec["spi"],
            "local=%s remote=%s" % (local, remote),
            "encap=%s" % ("udp" if spec["udp"] else "none"),
            "suite=%s esn=%d" % (spec["suite"], spec["esn"]),
            "key=%s mac=%s" % (spec["key"].hex(), spec["mac"].hex() or "-"),
            "window=%d floor=%d next=%d" % (window, first - 1, first),
            "local_ts=%s remote_ts=%s" % spec["networks"],
        ]
    )
