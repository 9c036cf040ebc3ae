"""Runs Valkey's own TCL test suites against a server that is started for each: isolith, or Redis itself.

    python3 tests/clients/valkey/suites.py CHECKOUT BINARY [SUITE ...]

CHECKOUT is a checkout of Valkey with `runtest` and `tests` (nothing of it needs to be built; it is
copied, not changed); BINARY is `isolith` or `redis-server`. Needs `tclsh` 8.5 or newer.

`exceptions.txt` beside this file has the tests that are known to fail, each group below its reason. They
are run all the same, but for those with a `!` before the name, which would take others with them. Ends
with 1 if any other test fails, or one of them does not.
"""

import argparse
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

SUITES = {
    "string": "type/string",
    "incr": "type/incr",
    "bitops": "bitops",
    "bitfield": "bitfield",
    "expire": "expire",
    "scan": "scan",
    "multi": "multi",
    "protocol": "protocol",
    "keyspace": "keyspace",
    "auth": "auth",
    "acl": "acl",
    "introspection": "introspection",
}
# Of these suites only what comes before this line: what follows starts servers with files of their own.
UNTIL = {"acl": 'set server_path [tmpdir "server.acl"]', "auth": "foreach dualchannel {yes no} {"}
TAGS = "-slow -needs:debug -needs:repl"
HERE = pathlib.Path(__file__).parent


def exceptions():
    """Names of tests that are known to fail, and of those that are not to be run."""
    lines = (HERE / "exceptions.txt").read_text().splitlines()
    names = [line for line in lines if line and not line.startswith("#")]
    return {name for name in names if name[0] != "!"}, {name[1:] for name in names if name[0] == "!"}


def prepare(checkout, folder):
    """Copies what is run; the suites on users are made for external servers, too."""
    for name in ("runtest", "tests", "src/version.h", "utils"):
        source, target = checkout / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.exists():
            shutil.copy(source, target)
    for name, line in UNTIL.items():
        path = folder / f"tests/unit/{SUITES[name]}.tcl"
        text = path.read_text().replace("external:skip", "")
        assert line in text, f"{path} has changed: it has no line {line!r}"
        path.write_text(text[: text.index(line)])


def start(binary, directory):
    """Starts a server of that kind on a free port, and waits until it listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if "redis" in binary.name or "valkey" in binary.name:
        line = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    else:
        line = ["serve", "--listen", f"127.0.0.1:{port}", "--dir", str(directory / "data")]
        line += ["--durability", "buffered"]
    process = subprocess.Popen([binary, *line], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process, port
        except ConnectionRefusedError:
            if process.poll() is not None:
                sys.exit(f"{binary} did not start")
            time.sleep(0.05)


def run(folder, binary, suite, skips):
    """Runs a suite; gives the names of tests that passed, failed and were not run, and what it printed."""
    with tempfile.TemporaryDirectory() as data:
        server, port = start(binary, pathlib.Path(data))
        try:
            line = ["./runtest", "--host", "127.0.0.1", "--port", str(port), "--tags", TAGS]
            line += ["--single", f"unit/{SUITES[suite]}", "--durable", "--ignore-encoding", "--ignore-digest"]
            for name in skips:
                line += ["--skiptest", name]
            done = subprocess.run(line, cwd=folder, capture_output=True, text=True, errors="replace", timeout=600)
        finally:
            server.kill()
            server.wait()
    text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    passed = re.findall(r"^\[ok\]: (.*?)(?: \(\d+ ms\))?$", text, re.M)
    failed = re.findall(r"^\[err\]: (.*?)(?: in tests/unit/\S*)?$", text, re.M)
    left = re.findall(r"^\[(?:skip|ignore)\]: (.*)$", text, re.M)
    broken = re.findall(r"^\[exception\]: (.*)$", text, re.M)
    return passed, failed + broken, left, text


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("checkout", type=pathlib.Path)
    options.add_argument("binary", type=pathlib.Path)
    options.add_argument("suite", nargs="*", help=f"of {', '.join(SUITES)}; all, if none is given")
    options.add_argument("--all", action="store_true", help="know no exceptions, and run all")
    options.add_argument("--log", type=pathlib.Path, help="a folder for what the suites print")
    options = options.parse_args()
    known, left_out = (set(), set()) if options.all else exceptions()
    binary = pathlib.Path(shutil.which(options.binary) or options.binary.resolve())
    total, bad, met = 0, 0, set()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        prepare(options.checkout, folder)
        for suite in options.suite or SUITES:
            passed, failed, left, text = run(folder, binary, suite, left_out)
            if options.log:
                options.log.mkdir(parents=True, exist_ok=True)
                (options.log / f"{suite}.log").write_text(text)
            new = [name for name in failed if name not in known]
            fine = sorted(known.intersection(passed).difference(failed))
            met |= known.intersection(failed)
            as_known = len(failed) - len(new)
            print(f"{suite}: {len(passed)} passed, {as_known} failed as known, {len(left)} not run", flush=True)
            for name in new:
                print(f"    FAILED: {name}")
            for name in fine:
                print(f"    passes, though exceptions.txt has it: {name}")
            total, bad = total + len(passed), bad + len(new) + len(fine)
    if not options.suite:
        for name in sorted(known - met):
            print(f"in exceptions.txt, and did not fail: {name}")
    print(f"{total} passed, {bad} failed")
    sys.exit(1 if bad or not total else 0)


if __name__ == "__main__":
    main()
