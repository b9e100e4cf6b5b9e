# SPDX-License-Identifier: Apache-2.0
"""Make `.venv`: Python packages, the built messages, the `vlt` command. Run by `make setup`.

Two cases. Where a ROS 2 is sourced (rclpy imports), the venv sees that installation and takes no ROS wheels.
Elsewhere ROS 2 comes from PyPI and the venv itself is the ament prefix. Every step leaves a stamp with the
hash of its inputs, so a second run does nothing.

Runs with the plain system Python, before anything is installed: standard library only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = VENV / "stamps"


def sourced_ros() -> str:
    """Where the rclpy of a sourced ROS 2 is; empty without one. Our own venv, activated, does not count."""
    spec = importlib.util.find_spec("rclpy") if os.environ.get("AMENT_PREFIX_PATH") else None
    if spec is None or not spec.origin or VENV in Path(spec.origin).parents:
        return ""
    return spec.origin


SYSTEM_ROS = sourced_ros()

# Written into the venv's site-packages. Lines of .pth files run at every start of the venv's Python, in
# alphabetical order: this one before ros_wheels_bootstrapper.pth, which restarts Python with what it sets.
PTH_NAME = "aa_vlt_ros.pth"
PTH = """\
{root}
import os; p = {venv!r}; q = os.environ.get("AMENT_PREFIX_PATH", ""); \
os.environ["AMENT_PREFIX_PATH"] = q if p in q.split(":") else (p + ":" + q if q else p)
"""
# With a sourced ROS 2 nobody else puts our messages' libraries on the loader's path, which is read only when
# a process starts: hence a restart, as the wheels do it.
PTH_SYSTEM_ROS = """\
import os, sys; p = {lib!r}; q = os.environ.get("LD_LIBRARY_PATH", ""); \
p in q.split(":") or os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], \
{{**os.environ, "LD_LIBRARY_PATH": p + ":" + q if q else p}})
"""

ACTIVATE_MARK = "# vlt_ros: the venv is a ROS 2 prefix too"
ACTIVATE = """
{mark}
case ":$AMENT_PREFIX_PATH:" in
    *":$VIRTUAL_ENV:"*) ;;
    *)  export AMENT_PREFIX_PATH="$VIRTUAL_ENV${{AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}}"
        export CMAKE_PREFIX_PATH="$VIRTUAL_ENV${{CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}}" ;;
esac
"""
# The ros2 command runs on the system's Python: it finds our messages through these.
ACTIVATE_SYSTEM_ROS = """\
export PYTHONPATH="{site}${{PYTHONPATH:+:$PYTHONPATH}}"
export LD_LIBRARY_PATH="$VIRTUAL_ENV/lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
"""


def fail(message: str) -> None:
    """Stop with one clear line."""
    sys.exit(f"make setup: {message}")


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run a command; show what it printed only if it fails."""
    done = subprocess.run([str(part) for part in command], env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        fail(f"this command failed, its output is above: {' '.join(map(str, command))}")


def digest(*parts: Path | str) -> str:
    """Hash of the contents of files and of everything in folders."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            total.update(part.encode())
            continue
        for file in sorted(part.rglob("*")) if part.is_dir() else [part]:
            if file.is_file():
                total.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return total.hexdigest()


def step(name: str, inputs: str, action) -> None:
    """Run `action` unless its stamp says that it ran with these inputs."""
    stamp = STAMPS / name
    if stamp.is_file() and stamp.read_text() == inputs:
        return
    start = time.monotonic()
    print(f"make setup: {name} ...", flush=True)
    action()
    STAMPS.mkdir(parents=True, exist_ok=True)
    stamp.write_text(inputs)
    print(f"make setup: {name} done in {time.monotonic() - start:.0f} s", flush=True)


def site_packages() -> Path:
    """The venv's site-packages (it has this interpreter's version)."""
    return VENV / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def venv_fits() -> bool:
    """Whether `.venv` is of this Python, made at this place, and for the same kind of ROS 2."""
    try:
        lines = (VENV / "pyvenv.cfg").read_text().splitlines()
        activate = (VENV / "bin" / "activate").read_text()
    except OSError:
        return False
    settings = dict(line.split(" = ", 1) for line in lines if " = " in line)
    return (settings.get("version") == ".".join(map(str, sys.version_info[:3])) and str(VENV) in activate
            and settings.get("include-system-site-packages") == str(bool(SYSTEM_ROS)).lower()
            and PYTHON.exists() and (site_packages() / "pip").is_dir())


def make_venv() -> None:
    """Create the venv anew; all stamps go with the old one."""
    import venv

    if importlib.util.find_spec("ensurepip") is None:
        fail("Python's venv module is incomplete: apt install python3-venv")
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        fail("Python.h is missing, the messages cannot be compiled: apt install python3-dev")
    if not (shutil.which("c++") or shutil.which("g++") or os.environ.get("CXX")):
        fail("no C++ compiler: apt install g++")
    if Path(sys.prefix) == VENV:
        fail("the venv must be made anew, but it is active: run deactivate first")
    shutil.rmtree(VENV, ignore_errors=True)
    venv.create(VENV, with_pip=True, system_site_packages=bool(SYSTEM_ROS))


def install_packages() -> None:
    """Install the pinned wheels; on a sourced ROS 2, its own numpy and OpenCV stay in charge."""
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-warn-conflicts"]
    requirements = (ROOT / "requirements.txt").read_text().splitlines()
    if SYSTEM_ROS:
        import numpy

        # The ROS installation's extensions are compiled against its numpy; another one would break them.
        constraints = VENV / "constraints.txt"
        constraints.write_text(f"numpy=={numpy.__version__}\n")
        has_opencv = importlib.util.find_spec("cv2") is not None
        kept = [line for line in requirements if not line.startswith("numpy=")
                and not (has_opencv and line.startswith("opencv-"))]
        chosen = VENV / "requirements.txt"
        chosen.write_text("\n".join(kept) + "\n")
        run(*pip, "-r", chosen, "-c", constraints)
        run(*pip, "--no-deps", "-r", ROOT / "requirements-nodeps.txt")
        return
    # Every file must have a hash that the lock names. It names all files of a version, for every platform and
    # Python, and all packages that are needed: nothing is resolved here.
    locked = [*pip, "--no-deps", "--require-hashes", "-r"]
    run(*locked, ROOT / "requirements.lock")
    # Of PyTorch there is a build for CPUs alone, which needs none of CUDA's packages (gigabytes).
    version = "import importlib.metadata as m; print(m.version('torch'))"
    if not subprocess.check_output([PYTHON, "-c", version], text=True, env=clean_env()).strip().endswith("+cpu"):
        run(*locked, ROOT / "requirements-cuda.lock")


def mend_wheels() -> None:
    """Replace the build machine's Python and numpy include folders in the ROS wheels' cmake files by ours."""
    import re

    query = "import numpy, sysconfig; print(sysconfig.get_path('include')); print(numpy.get_include())"
    answer = subprocess.check_output([PYTHON, "-c", query], text=True, env=clean_env())
    include, numpy_include = answer.splitlines()
    for file in VENV.glob("share/*/cmake/*.cmake"):
        text = file.read_text()
        mended = re.sub(r"/opt/python/cp3\d+-cp3\d+/include/python3\.\d+", include, text)
        mended = re.sub(r"[^\s;\"]*/numpy/_?core/include", lambda _: numpy_include, mended)
        if mended != text:
            file.write_text(mended)


def clean_env() -> dict[str, str]:
    """The environment without what another venv's ROS wheels may have left in it, and with ours ahead."""
    env = dict(os.environ)
    env.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    env["PATH"] = f"{VENV / 'bin'}{os.pathsep}{env.get('PATH', '')}"
    ament = f"{VENV}:{env['AMENT_PREFIX_PATH']}" if SYSTEM_ROS else str(VENV)
    cmake = f"{ament}:{env['CMAKE_PREFIX_PATH']}" if env.get("CMAKE_PREFIX_PATH") else ament
    return env | {"AMENT_PREFIX_PATH": ament, "CMAKE_PREFIX_PATH": cmake}


def write_environment() -> None:
    """Let the venv's Python find the sources and the ament prefix, activated or not."""
    site = site_packages()
    pth = PTH.format(root=ROOT, venv=str(VENV))
    if SYSTEM_ROS:
        pth += PTH_SYSTEM_ROS.format(lib=str(VENV / "lib"))
    (site / PTH_NAME).write_text(pth)
    activate = VENV / "bin" / "activate"
    text = activate.read_text().split(f"\n{ACTIVATE_MARK}")[0]
    text += ACTIVATE.format(mark=ACTIVATE_MARK)
    if SYSTEM_ROS:
        text += ACTIVATE_SYSTEM_ROS.format(site=site)
    activate.write_text(text)


def build_messages() -> None:
    """Build msg/ and install it, the executables, launch files and configuration into the venv."""
    build, site = VENV / "build", site_packages()
    env = clean_env()
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=env["PATH"]) else []
    cmake = shutil.which("cmake", path=env["PATH"])
    if cmake is None:
        fail("no cmake: apt install cmake")
    shutil.rmtree(build, ignore_errors=True)    # its cache holds the paths of the ROS 2 it was made for
    run(cmake, "-S", ROOT, "-B", build, *generator, "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF",
        "-DVLT_ROS_INSTALL_PYTHON=OFF", f"-DCMAKE_INSTALL_PREFIX={VENV}",
        f"-DCMAKE_INSTALL_RPATH={VENV / 'lib'}", f"-DPython3_EXECUTABLE={PYTHON}",
        f"-DPYTHON_INSTALL_DIR={site.relative_to(VENV)}", env=env)
    run(cmake, "--build", build, "--parallel", str(os.cpu_count() or 1), env=env)
    shutil.rmtree(site / "vlt_ros", ignore_errors=True)
    run(cmake, "--install", build, env=env)
    # The generated package is left without its __init__.py: Python then takes ours from the repository, which
    # joins the messages in. So an edit of the sources is live at once.
    (site / "vlt_ros" / "__init__.py").unlink(missing_ok=True)


def main() -> None:
    """Run the steps whose inputs changed."""
    tool = Path(__file__).resolve()
    wanted = [ROOT / "requirements.txt", ROOT / "requirements-nodeps.txt"] if SYSTEM_ROS else [
        ROOT / "requirements.lock", ROOT / "requirements-cuda.lock"]
    base = digest(f"{sys.version} ros={SYSTEM_ROS} at {ROOT}")
    packages = digest(base, *wanted)
    if not venv_fits():
        print("make setup: making .venv", flush=True)
        make_venv()
    step("packages", packages, install_packages)
    if not SYSTEM_ROS:
        step("ros wheels", packages, mend_wheels)
    step("environment", digest(base, tool), write_environment)
    built_from = [ROOT / name for name in ("msg", "launch", "config", "package.xml", "CMakeLists.txt")]
    step("messages", digest(packages, tool, *built_from), build_messages)


if __name__ == "__main__":
    main()
