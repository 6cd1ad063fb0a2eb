"""The units: systemd understands every line of them, and they give the daemon no more than it needs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parent.parent / "systemd"
NAMES = ("cdc-pusher.service", "cdc-pusher@.service")
EXPOSURE = 20  # tenths, of ten; what `systemd-analyze security` calls OK ends at 4.9


def _run(tool: str, *arguments: str, cwd: Path) -> str:
    """What a tool of systemd says, which has to succeed; skips where it is not installed."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed on this machine")
    done = subprocess.run([tool, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """The units as on a machine that has the program."""
    for name in NAMES:
        (tmp_path / name).write_text((UNITS / name).read_text().replace("/usr/bin/cdc-pusher", "/bin/true"))
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_systemd_understands_every_line(copies: Path, name: str) -> None:
    assert _run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"./{name}", cwd=copies) == ""


@pytest.mark.parametrize("name", NAMES)
def test_systemd_understands_the_example_of_credentials(copies: Path, name: str) -> None:
    (copies / f"{name}.d").mkdir()
    shutil.copy(UNITS / "credentials.conf.example", copies / f"{name}.d" / "credentials.conf")
    assert _run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"./{name}", cwd=copies) == ""


@pytest.mark.parametrize("name", NAMES)
def test_the_daemon_is_locked_in(copies: Path, name: str) -> None:
    said = _run("systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={EXPOSURE}", f"./{name}", cwd=copies)
    assert "Overall exposure level" in said


def test_an_instance_differs_by_its_configuration_alone() -> None:
    single, template = ((UNITS / name).read_text() for name in NAMES)
    single = single.replace("/etc/cdc-pusher/config.toml", "/etc/cdc-pusher/%i.toml").replace("database\n", "database (%i)\n", 1)
    assert template == single


def test_the_user_of_the_daemon_is_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    _run("systemd-sysusers", f"--root={tmp_path}", str(UNITS / "cdc-pusher.sysusers"), cwd=tmp_path)
    name, *_, shell = (tmp_path / "etc" / "passwd").read_text().strip().split(":")
    assert name == "cdc-pusher"
    assert shell.endswith("/nologin")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to another user")
def test_the_daemon_reads_its_configuration_and_others_do_not(tmp_path: Path) -> None:
    (tmp_path / "etc" / "cdc-pusher").mkdir(parents=True)
    configuration = tmp_path / "etc" / "cdc-pusher" / "config.toml"
    configuration.touch(mode=0o600)  # as `cdc-pusher init` does
    _run("systemd-sysusers", f"--root={tmp_path}", str(UNITS / "cdc-pusher.sysusers"), cwd=tmp_path)
    _run("systemd-tmpfiles", f"--root={tmp_path}", "--create", str(UNITS / "cdc-pusher.tmpfiles"), cwd=tmp_path)
    group = int((tmp_path / "etc" / "group").read_text().split(":")[2])
    for path, mode in ((configuration.parent, 0o750), (configuration, 0o640)):
        found = path.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, group, mode)
