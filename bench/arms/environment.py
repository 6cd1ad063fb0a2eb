"""Where a peer is installed: a directory of its own under .venv/bench, at pinned versions, made when it is needed."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENTS = Path(__file__).parents[2] / ".venv" / "bench"
INSTALL_S = 600.0
REASON = 200  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Packages of PyPI or, if `node`, of npm. `missing` has to have been called before `command` is of use."""

    name: str
    packages: tuple[str, ...]
    node: bool = False

    def missing(self) -> str:
        """Install the packages unless they are there. Returns why that was not possible, if so."""
        stamp = self._directory / "installed"
        if stamp.is_file() and stamp.read_text().split() == list(self.packages):
            return ""
        if self.node and not (shutil.which("node") and shutil.which("npm")):
            return "no node and npm here"
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        try:
            for command in self._installation():
                subprocess.run(command, cwd=self._directory, check=True, capture_output=True, text=True, timeout=INSTALL_S)
        except subprocess.CalledProcessError as error:
            said = " ".join(line for line in error.stderr.splitlines() if "error" in line.lower())
            return said[:REASON] or f"{error.cmd[0]} has failed"
        except subprocess.TimeoutExpired:
            return f"not installed within {INSTALL_S:.0f} s"
        stamp.write_text("\n".join(self.packages))
        return ""

    def command(self, script: Path) -> list[str]:
        """What runs a script with these packages; with `environ`."""
        return ["node" if self.node else str(self._directory / "bin" / "python"), str(script)]

    @property
    def environ(self) -> dict[str, str]:
        return {"NODE_PATH": str(self._directory / "node_modules")} if self.node else {}

    @property
    def _directory(self) -> Path:
        return ENVIRONMENTS / self.name

    def _installation(self) -> list[list[str]]:
        if self.node:
            return [["npm", "install", "--loglevel=error", "--no-audit", "--no-fund", "--prefix", ".", *self.packages]]
        pip = [str(self._directory / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        return [[sys.executable, "-m", "venv", "."], [*pip, *self.packages]]
