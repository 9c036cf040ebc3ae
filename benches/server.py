#!/usr/bin/env python3
"""What a command costs the server: processor time, by io_uring, by epoll, and by Redis.

    cargo build --release && python3 benches/server.py [--rounds 11] [--commands get,set,incr] ...

Every round runs redis-benchmark against each server in turn, for each command and pipeline; the client
is pinned to one core and the server, with all its threads, to another. Processor time is that of all of
the server's threads, from /proc. A ratio is the median of the rounds' ratios, with the interval of that
median at 95 %. `--idle N` measures the memory of N idle connections instead. Needs redis-server and
redis-benchmark; prints Markdown.
"""

import argparse
import os
import pathlib
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
CLIENTS = 50


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server pinned to one core, with its data in a directory of its own."""

    def __init__(self, name, command, core):
        self.name = name
        self.directory = tempfile.mkdtemp(prefix="isolith-bench-")
        self.port = free_port()
        command = [part.format(dir=self.directory, port=self.port) for part in command]
        pin = ["taskset", "-c", str(core)] if core is not None else []
        self.process = subprocess.Popen(
            pin + command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.directory
        )
        give_up = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                if time.monotonic() > give_up or self.process.poll() is not None:
                    sys.exit(f"{name} does not start: {' '.join(command)}")
                time.sleep(0.05)

    def cpu(self):
        """Seconds of all its threads."""
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9

    def memory(self):
        """Resident memory of its own, in bytes: what files are mapped is not counted."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def run(server, command, pipeline, requests, core):
    """Seconds of the server's processor time, and of the clock, per request."""
    before = server.cpu()
    output = subprocess.run(
        ["taskset", "-c", str(core), "redis-benchmark", "-p", str(server.port), "-c", str(CLIENTS),
         "-n", str(requests), "-P", str(pipeline), "-t", command, "-r", "100000", "-d", "16", "--csv"],
        capture_output=True, text=True, check=True,
    ).stdout
    used = server.cpu() - before
    rate = float(re.findall(r'^"[A-Z]+","([0-9.]+)"', output, re.M)[-1])
    return used / requests, 1 / rate


def median(values):
    values = sorted(values)
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def interval(values):
    """Of the median, at 95 % at least: order statistics."""
    values, n = sorted(values), len(values)
    tail, below = 0.0, 0
    chance = 0.5**n
    # How many may be cut off at either end.
    while below < n // 2:
        tail += chance
        if tail > 0.025:
            break
        chance = chance * (n - below) / (below + 1)
        below += 1
    low = max(below - 1, 0)
    return values[low], values[n - 1 - low]


def ratio(some, others):
    ratios = [a / b for a, b in zip(some, others)]
    low, high = interval(ratios)
    return f"{median(ratios):.2f} [{low:.2f}, {high:.2f}]"


def compare(arguments, servers):
    costs, clocks = {}, {}
    rows = [(command, pipeline) for pipeline in arguments.pipelines for command in arguments.commands]
    for server in servers.values():
        for command, pipeline in rows:
            run(server, command, pipeline, 20_000, arguments.client_core)
    give_up = time.monotonic() + arguments.seconds
    rounds = 0
    for turn in range(arguments.rounds):
        if time.monotonic() > give_up:
            break
        order = list(servers.items())
        order = order[turn % len(order):] + order[:turn % len(order)]
        figures = {}
        try:
            for command, pipeline in rows:
                requests = arguments.requests * (1 if pipeline == 1 else 8)
                for name, server in order:
                    figures[name, command, pipeline] = run(
                        server, command, pipeline, requests, arguments.client_core)
        except subprocess.CalledProcessError as error:
            print(f"a client failed, its round is left out: {error}", file=sys.stderr)
            break
        rounds += 1
        for row, (cost, clock) in figures.items():
            costs.setdefault(row, []).append(cost)
            clocks.setdefault(row, []).append(clock)
    names = list(servers)
    pairs = [(a, b) for a, b in [("io_uring", "epoll"), ("io_uring", "Redis"), ("epoll", "Redis")]
             if a in servers and b in servers]
    print(f"Processor time of the server, {CLIENTS} clients, {rounds} rounds; "
          "in brackets requests per second.\n")
    print("| | " + " | ".join(names + [f"{a} : {b}" for a, b in pairs]) + " |")
    print("|---" * (len(names) + len(pairs) + 1) + "|")
    for command, pipeline in rows:
        cells = [f"{command.upper()}, pipeline {pipeline}"]
        for name in names:
            cost = median(costs[name, command, pipeline]) * 1e6
            rate = 1 / median(clocks[name, command, pipeline])
            cells.append(f"{cost:.2f} µs ({rate / 1000:.0f}k)")
        for a, b in pairs:
            cells.append(ratio(costs[a, command, pipeline], costs[b, command, pipeline]))
        print("| " + " | ".join(cells) + " |", flush=True)


def idle(count, servers):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"| {count} idle connections | before | with them | each |\n|---|---|---|---|")
    for name, server in servers.items():
        time.sleep(0.5)
        before = server.memory()
        clients = []
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", server.port))
            client.sendall(b"PING\r\n")
            clients.append(client)
        for client in clients:
            assert client.recv(16) == b"+PONG\r\n"
        after = server.memory()
        print(f"| {name} | {before / 1e6:.1f} MB | {after / 1e6:.1f} MB "
              f"| {(after - before) / count:.0f} bytes |", flush=True)
        for client in clients:
            client.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=1e9, help="no further round is begun after so many")
    parser.add_argument("--requests", type=int, default=50_000, help="with a pipeline of 1; times 8 else")
    parser.add_argument("--commands", type=lambda text: text.split(","), default=["get", "set", "incr"])
    parser.add_argument("--pipelines", type=lambda text: [int(part) for part in text.split(",")], default=[1, 16])
    parser.add_argument("--servers", type=lambda text: text.split(","), default=["io_uring", "epoll", "Redis"])
    parser.add_argument("--binary", default=str(HERE.parent / "target/release/isolith"))
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--idle", type=int, metavar="N")
    arguments = parser.parse_args()
    isolith = [arguments.binary, "serve", "--dir", "{dir}/data", "--listen", "{port}",
               "--threads", "1", "--durability", "os", "--driver"]
    known = {
        "io_uring": isolith + ["uring"],
        "epoll": isolith + ["epoll"],
        "Redis": ["redis-server", "--port", "{port}", "--dir", "{dir}", "--save", "",
                  "--appendonly", "yes", "--appendfsync", "everysec"],
    }
    servers = {}
    try:
        for name in arguments.servers:
            core = None if arguments.idle else arguments.server_core
            servers[name] = Server(name, known[name], core)
        if arguments.idle:
            idle(arguments.idle, servers)
        else:
            compare(arguments, servers)
    finally:
        for server in servers.values():
            server.stop()


if __name__ == "__main__":
    main()
