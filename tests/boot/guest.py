"""Runs numavisor with a guest and reads what the guest's /init reports. Standard library only."""

import os
import pty
import re
import subprocess
import threading
import time

# What a healthy guest's kernel never prints.
TROUBLE = re.compile(r"WARNING:|BUG:|Oops|Kernel panic|soft lockup|rcu.*stall|blocked for more than|"
                     r"Call Trace|general protection|segfault|clocksource.*unstable|"
                     r"timed out|DEVICE_NEEDS_RESET|I/O error|nobody cared")


class Failed(Exception):
    """A check did not hold; the message says which."""


def expect(what, got, wanted):
    if got != wanted:
        raise Failed(f"{what}: {got!r} instead of {wanted!r}")


class Guest:
    """One run of the monitor. Lines of the guest are collected with the time of their arrival."""

    def __init__(self, numavisor, args, log, terminal=False):
        self.lines = []  # (host's monotonic seconds, text)
        self.changed = threading.Condition()
        self.log = open(log, "wb")
        self.terminal = terminal
        if terminal:
            self.master, slave = pty.openpty()
            self.child = subprocess.Popen([numavisor, *args], stdin=slave, stdout=slave,
                                          stderr=slave, start_new_session=True)
            self.slave = slave
            source = os.fdopen(os.dup(self.master), "rb", buffering=0)
        else:
            self.child = subprocess.Popen([numavisor, *args], stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                          bufsize=0, start_new_session=True)
            source = self.child.stdout
        self.reader = threading.Thread(target=self._read, args=(source,), daemon=True)
        self.reader.start()

    def _read(self, source):
        rest = b""
        while True:
            try:
                data = source.read(4096)
            except OSError:
                data = b""
            now = time.monotonic()
            if not data:
                break
            self.log.write(data)
            self.log.flush()
            *lines, rest = (rest + data).split(b"\n")
            with self.changed:
                self.lines += [(now, l.decode("utf-8", "replace").strip("\r")) for l in lines]
                self.changed.notify_all()
        with self.changed:
            self.lines.append((time.monotonic(), rest.decode("utf-8", "replace")))
            self.changed.notify_all()

    def send(self, data):
        if self.terminal:
            os.write(self.master, data)
        else:
            self.child.stdin.write(data)

    def wait_line(self, pattern, timeout):
        """The first line, from the beginning, in which pattern is found."""
        regex, end, seen = re.compile(pattern), time.monotonic() + timeout, 0
        with self.changed:
            while True:
                for _, line in self.lines[seen:]:
                    if regex.search(line):
                        return line
                seen = len(self.lines)
                left = end - time.monotonic()
                if left <= 0 or (self.child.poll() is not None and not self.reader.is_alive()):
                    raise Failed(f"no line with '{pattern}' within {timeout} s")
                self.changed.wait(min(left, 1))

    def wait_end(self, timeout):
        """The exit status; negative for a signal."""
        try:
            status = self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"the guest did not end within {timeout} s") from None
        if self.terminal:
            # The slave stays open for looking at its mode; its output has all been written.
            time.sleep(0.2)
        else:
            self.reader.join(10)
        return status

    def values(self, key):
        """All values the guest reported under key, with the time of arrival."""
        with self.changed:
            found = [(t, re.match(rf"NV {key} (.*)$", l)) for t, l in self.lines]
        return [(t, m.group(1)) for t, m in found if m]

    def all(self, key):
        return [v for _, v in self.values(key)]

    def one(self, key):
        found = self.all(key)
        if len(found) != 1:
            raise Failed(f"the guest reported '{key}' {len(found)} times")
        return found[0]

    def check_quiet(self):
        """Neither the guest's kernel nor its /init complained."""
        for _, line in self.lines:
            if TROUBLE.search(line) or line.startswith("NV error"):
                raise Failed(f"the guest complained: {line}")

    def cpu_seconds(self):
        with open(f"/proc/{self.child.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        if self.terminal:
            os.close(self.slave)
            os.close(self.master)
        self.log.close()
