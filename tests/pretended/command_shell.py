"""A shell in which `gauntlet`, `python` and `pytest` start at once: one process has imported everything and forks for each.

`python command_shell.py SOCKET` is that process; `python command_shell.py SOCKET NAME ARGUMENTS...` hands it a command with its
folder, its variables and its three streams, and ends as the command ends.
"""

import json
import os
import runpy
import socket
import sys
import traceback
from pathlib import Path

NAMES = ("gauntlet", "python", "pytest")


def install(folder: Path) -> str:
    """Write the commands into a folder that is to come first on the path; the socket that they ask."""
    address = str(folder / "socket")
    for name in NAMES:
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{__file__}" "{address}" {name} "$@"\n')
        script.chmod(0o755)
    return address


def ask(address: str, name: str, arguments: list[str]) -> int:
    """Have a command run elsewhere, with our streams; its exit code."""
    told = {"name": name, "arguments": arguments, "folder": str(Path.cwd()), "variables": dict(os.environ)}
    given = json.dumps(told).encode()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        socket.send_fds(line, [len(given).to_bytes(8, "big")], [0, 1, 2])
        line.sendall(given)
        return int(line.recv(16) or b"70")


def serve(address: str) -> None:
    """Answer until the process is ended."""
    import torch
    import torch._dynamo  # which the first training of a process would import, in seconds

    import bench.report.tables
    import bench.runs.jobs
    import bench.site  # noqa: F401
    from bench.plugins import registry

    torch.set_num_threads(1)
    registry.get_attack("pgd"), registry.get_defense("fast_at")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        while True:
            line, _ = door.accept()
            size, streams, *_ = socket.recv_fds(line, 8, 3)
            given = b""
            while len(given) < int.from_bytes(size, "big"):
                given += line.recv(2**16)
            if (child := os.fork()) == 0:
                carry_out(json.loads(given), streams)
            line.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
            line.close()
            for stream in streams:
                os.close(stream)


def carry_out(given: dict[str, object], streams: list[int]) -> None:
    """The command, in a process of its own, which ends with it."""
    status = 70
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.environ.update(given["variables"])  # type: ignore[arg-type]
        os.chdir(str(given["folder"]))
        run(str(given["name"]), list(given["arguments"]))  # type: ignore[call-overload]
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(name: str, arguments: list[str]) -> None:
    sys.argv = [name, *arguments]
    if name == "gauntlet":
        from bench.cli.commands import main

        main()
    elif name == "python":
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        import pytest

        sys.exit(pytest.main([*arguments, "-p", "no:cacheprovider"]))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(ask(sys.argv[1], sys.argv[2], sys.argv[3:]))
    serve(sys.argv[1])
