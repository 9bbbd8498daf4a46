"""What is judged: a program that speaks lines, sealing and opening with Postern's `esp`."""

import subprocess


class Pipe:
    """`sa`, `seal` and `open` on standard input, one answer a line on standard output."""

    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def _ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise SystemExit("the subject ended (%s) after: %s" % (self.process.poll(), line[:200]))
        return answer

    def install(self, name, direction, spec, window=1024):
        """Creates the SA `name`; `direction` is `in` or `out`, as Postern sees it."""
        answer = self._ask(record_line(name, direction, spec, window))
        if answer != "ok":
            raise SystemExit("the subject does not take an SA: %s" % answer)

    def seal(self, name, inner):
        return self._packet(self._ask("seal %s %s" % (name, inner.hex())))

    def open(self, name, outer):
        return self._packet(self._ask("open %s %s" % (name, outer.hex())))

    @staticmethod
    def _packet(answer):
        word, _, rest = answer.partition(" ")
        return (bytes.fromhex(rest), None) if word == "packet" else (None, rest)

    def close(self):
        self.process.stdin.close()
        return self.process.wait(timeout=10)


def record_line(name, direction, spec, window):
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
        ]
    )
