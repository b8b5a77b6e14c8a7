"""Writes requirements.txt: each line of requirements.in with the digests of its wheels for every Python that set-up takes.

It trusts what pip downloads when it runs; later, set-up accepts nothing else. Run it after changing requirements.in:
`python3 xtask/pin_requirements.py`. The standard library is enough.
"""

import hashlib
import pathlib
import subprocess
import sys
import tempfile

PYTHONS = ["311", "312", "313", "314"]
PLATFORMS = ["manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014", "manylinux_2_5", "manylinux1"]
HERE = pathlib.Path(__file__).parent


def digests(requirement: str) -> dict[str, str]:
    """The SHA-256 of each wheel that pip would take for `requirement` on one of the Pythons, by file name."""
    found = {}
    for python in PYTHONS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
            command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", "--dest", folder]
            command += [f"--abi={abi}" for abi in (f"cp{python}", "abi3", "none")]
            command += [f"--platform={platform}_x86_64" for platform in PLATFORMS]
            subprocess.run([*command, requirement], check=True)
            for wheel in pathlib.Path(folder).iterdir():
                found[wheel.name] = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return found


def main() -> None:
    lines = ["# Written by pin_requirements.py from requirements.in: wheels for x86-64 Linux, Python 3.11 to 3.14."]
    for line in (HERE / "requirements.in").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        print(line, flush=True)
        hashes = sorted(set(digests(line).values()))
        lines.append(" \\\n".join([line, *(f"    --hash=sha256:{digest}" for digest in hashes)]))
    (HERE / "requirements.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
