"""``upshift run``, ``import upshift.auto`` and what they pass on to child processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from upshift.cli import main
from upshift.compat import tables
from upshift.compat.environment import BOOTSTRAP, for_children

from .conftest import write

SERVED = "import core.result_cache as served; assert served.__spec__.origin.startswith('upshift'), served\n"


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """Holds its own copy, so that whoever is not served fails."""
    return write(
        tmp_path / "app",
        {
            "core/__init__.py": "",
            "core/result_cache.py": "",
            "core/jobs.py": "from .result_cache import get_cache",
            "say.py": SERVED + "import json, sys; print(json.dumps([sys.argv, sys.path[0], __name__, __file__]))",
            "package/__init__.py": "",
            "package/__main__.py": SERVED + "import sys; print(sys.argv[1:], __name__, __package__, sys.path[0])",
        },
    )


class TestRun:
    """The same as ``python …``, but served."""

    def test_script(self, application, upshift_run, python):
        expected = json.loads(
            python("-c", "import json; print(json.dumps(['say.py', '-x', '--systems=a']))").stdout,
        )
        run = json.loads(upshift_run("say.py", "-x", "--systems=a", cwd=application).stdout)
        assert run == [expected, str(application), "__main__", str(application / "say.py")]

    def test_module(self, application, upshift_run):
        out = upshift_run("-m", "package", "-v", "-m", cwd=application).stdout
        assert out == f"['-v', '-m'] __main__ package {application}\n"

    def test_code_and_standard_input(self, application, upshift_run):
        code = SERVED + "import sys; print(sys.argv, repr(sys.path[0]))"
        assert upshift_run("-c", code, "-a", cwd=application).stdout == "['-c', '-a'] ''\n"
        assert upshift_run("-", "-a", cwd=application, stdin=code).stdout == "['-', '-a'] ''\n"

    def test_folder_and_zip_file(self, tmp_path, upshift_run):
        import zipfile

        text = SERVED + "print(__name__)"
        write(tmp_path, {"folder/__main__.py": text})
        with zipfile.ZipFile(tmp_path / "app.pyz", "w") as archive:
            archive.writestr("__main__.py", text)
        assert upshift_run("folder").stdout == upshift_run("app.pyz").stdout == "__main__\n"

    def test_a_served_module_itself(self, upshift_run, implementation):
        out = upshift_run("-m", "core.result_cache").stdout
        assert implementation == "native" or out == "main ran\n"

    def test_interpreter_options(self, upshift_run):
        code = "import sys, warnings; print(sys.flags.optimize, sys.dont_write_bytecode, sys.warnoptions)"
        assert upshift_run("-OB", "-W", "error", "-c", code).stdout == "1 True ['error']\n"

    @pytest.mark.parametrize("systems", [["--systems", "openclaw"], ["--systems=core.result_cache,openclaw"]])
    def test_chosen_systems(self, application, upshift_run, systems):
        code = SERVED + "from upshift import compat; print(sorted(s.module for s in compat.status()))"
        expected = f"{sorted(tables.served())}\n"
        assert upshift_run(*systems, "-c", code, cwd=application).stdout == expected

    @pytest.mark.parametrize(
        ("code", "status"), [("raise SystemExit(7)", 7), ("raise SystemExit('no')", 1), ("1/0", 1), ("", 0)]
    )
    def test_exit_status(self, upshift_run, code, status):
        upshift_run("-c", code, status=status)

    def test_traceback_has_no_foreign_frames(self, tmp_path, upshift_run, python):
        write(tmp_path, {"fails.py": "def f():\n    1 / 0\nf()\n"})
        plain = python("fails.py", status=1).stderr
        assert upshift_run("fails.py", status=1).stderr == plain

    def test_signals_reach_the_program(self, upshift_run):
        code = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
        upshift_run("-c", code, status=-signal.SIGTERM)

    def test_bootstrap_folder_is_not_on_sys_path(self, upshift_run):
        out = upshift_run("-c", "import sys; print(sys.path)").stdout
        assert "bootstrap" not in out

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ([], "nothing to run"),
            (["--systems"], "expects names"),
            (["--systems=", "x.py"], "expects names"),
            (["--systems", ",", "x.py"], "expects names"),
            (["--systems_", "openclaw", "x.py"], "--systems_ expects names"),
            (["--systems", "nonsense", "x.py"], "knows no module or system 'nonsense'"),
            (["-I", "x.py"], "python -I ignores"),
            (["-uE", "x.py"], "python -E ignores"),
            (["-W", "error", "-S", "x.py"], "python -S ignores"),
        ],
    )
    def test_usage_errors(self, args, message, upshift_run):
        process = upshift_run(*args, status=2)
        assert message in process.stderr
        assert "usage: upshift run" in process.stderr

    @pytest.mark.parametrize("args", [["-c", "-E", "-I"], ["-Wignore::E", "x.py", "-E"], ["-mE"], ["x.py", "-I"]])
    def test_isolation_options_of_the_program_are_its_own(self, args):
        from upshift.cli import _ignores_environment

        assert _ignores_environment(args) == ""

    def test_help(self, upshift_run):
        assert upshift_run("--help").stdout.startswith("usage: upshift run")


class TestChildProcesses:
    def test_subprocess_and_its_child(self, application, upshift_run):
        write(
            application,
            {
                "parent.py": SERVED
                + "import subprocess, sys; subprocess.run([sys.executable, 'child.py'], check=True)",
                "child.py": SERVED + "import subprocess, sys; subprocess.run([sys.executable, 'say.py'], check=True)",
            },
        )
        assert json.loads(upshift_run("parent.py", cwd=application).stdout)[0] == ["say.py"]

    @pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
    @pytest.mark.skipif(sys.platform == "win32", reason="platform: Windows has only spawn")
    def test_multiprocessing(self, application, upshift_run, method):
        write(
            application,
            {
                "pool.py": f"""
                import multiprocessing

                def work(number):
                    import core.jobs, core.result_cache
                    assert core.jobs.get_cache is core.result_cache.get_cache
                    return number + 1, core.result_cache.__spec__.origin

                class Settings:
                    def __init__(self, value):
                        self.value = value

                def unpickle_main(settings):
                    return settings.value

                if __name__ == "__main__":
                    context = multiprocessing.get_context({method!r})
                    with context.Pool(2) as pool:
                        assert pool.map(work, [1, 2]) == [(2, "upshift, for openclaw"), (3, "upshift, for openclaw")]
                        assert pool.apply(unpickle_main, [Settings(5)]) == 5
                    print("ok")
                """
            },
        )
        assert upshift_run("pool.py", cwd=application).stdout == "ok\n"
        write(application, {"package/pool.py": (application / "pool.py").read_text(encoding="utf-8")})
        assert upshift_run("-m", "package.pool", cwd=application).stdout == "ok\n"

    def test_process_pool_executor(self, application, upshift_run):
        write(
            application,
            {
                "executor.py": """
                from concurrent.futures import ProcessPoolExecutor
                import multiprocessing
                from core.result_cache import ResultCache

                def same(kind):
                    return kind is ResultCache

                if __name__ == "__main__":
                    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
                        print(executor.submit(same, ResultCache).result())
                """
            },
        )
        assert upshift_run("executor.py", cwd=application).stdout == "True\n"

    def test_child_can_be_left_out(self, application, upshift_run):
        code = """
import os, subprocess, sys
env = {**os.environ, "UPSHIFT_INSTALL": ""}
subprocess.run([sys.executable, "-c", "import core.result_cache as c; print(c.__file__)"], env=env, check=True)
"""
        out = upshift_run("-c", code, cwd=application).stdout
        assert out.strip() == str(application / "core" / "result_cache.py")

    def test_interpreter_without_upshift_is_not_disturbed(self, application, upshift_run, tmp_path):
        import venv

        venv.create(tmp_path / "bare", with_pip=False)
        bare = tmp_path / "bare" / ("Scripts" if os.name == "nt" else "bin") / "python"
        code = f"""
import os, subprocess
env = {{**os.environ, "PYTHONPATH": os.environ["PYTHONPATH"].split(os.pathsep)[0]}}
subprocess.run([{str(bare)!r}, "-c", "import core.result_cache as c; print(c.__file__)"], env=env, check=True)
"""
        process = upshift_run("-c", code, cwd=application)
        assert process.stdout.strip() == str(application / "core" / "result_cache.py")
        assert process.stderr == ""


@pytest.mark.usefixtures("implementation")  # pytest < 9 does not look behind an overridden fixture for parameters
class TestSitecustomize:
    """The user's own runs as if upshift's were not there."""

    @pytest.fixture
    def environment(self, environment, tmp_path):
        # In front of the stand-in's, which is then hidden like any second sitecustomize and has to be called from here.
        folder = write(
            tmp_path / "user",
            {
                "sitecustomize.py": """
                import os, sys
                sys.path_of_user = list(sys.path)
                sys.name_of_user = __name__, __file__, sys.modules[__name__].__dict__ is globals()
                other = [os.path.join(p, "sitecustomize.py") for p in sys.path if "stand_in" in p]
                for file in other:
                    exec(open(file).read())
                """
            },
        )
        search = filter(None, [str(folder), environment.get("PYTHONPATH")])
        return {**environment, "PYTHONPATH": os.pathsep.join(search)}

    def test_runs_in_the_program_and_its_children(self, upshift_run, python, tmp_path):
        code = SERVED + "import sys; print(sys.name_of_user, sys.path_of_user == sys.path[1:])"
        file = tmp_path / "user" / "sitecustomize.py"
        expected = f"{('sitecustomize', str(file), True)} True\n"
        assert upshift_run("-c", code).stdout == expected
        nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
        assert upshift_run("-c", nested).stdout == expected

    def test_its_errors_are_reported_as_always(self, upshift_run, python, tmp_path):
        (tmp_path / "user" / "sitecustomize.py").write_text("1 / 0\n", encoding="utf-8")
        plain = python("-c", "print('runs')")
        served = upshift_run("-c", "print('runs')")
        assert "ZeroDivisionError" in plain.stderr
        assert served.stdout == plain.stdout
        assert served.stderr == 2 * plain.stderr  # once by `upshift run` itself, which is an ordinary Python program

    def test_its_import_of_a_missing_module_is_reported(self, upshift_run, tmp_path):
        (tmp_path / "user" / "sitecustomize.py").write_text("import not_there\n", encoding="utf-8")
        assert "not_there" in upshift_run("-c", "").stderr


class TestAuto:
    def test_serves_everything_by_default_and_reaches_children(self, application, python):
        child = "import subprocess, sys; subprocess.run([sys.executable, 'say.py'], check=True)"
        python("-c", "import upshift.auto\n" + SERVED + child, cwd=application)

    def test_variable_chooses(self, application, python):
        code = "import upshift.auto; from upshift import compat; print(sorted(s.module for s in compat.status()))"
        assert python("-c", code, env={"UPSHIFT_INSTALL": " openclaw, "}).stdout == f"{sorted(tables.served())}\n"
        assert python("-c", code, env={"UPSHIFT_INSTALL": ""}).stdout == "[]\n"
        assert "nonsense" in python("-c", code, env={"UPSHIFT_INSTALL": "nonsense"}, status=1).stderr

    def test_too_late(self, application, python):
        process = python("-c", "import core.result_cache; import upshift.auto", cwd=application, status=1)
        assert "CompatError: 'core.result_cache' is already imported" in process.stderr

    def test_runpy(self, application, python):
        code = "import upshift.auto, runpy; runpy.run_path('say.py'); runpy.run_module('package', run_name='__main__')"
        assert len(python("-c", code, cwd=application).stdout.splitlines()) == 2

    def test_served_module_under_runpy(self, python):
        code = "import upshift.auto, runpy; print(sorted(runpy.run_module('core.result_cache')))"
        assert "'ResultCache'" in python("-c", code).stdout


def test_environment_is_stable_when_applied_twice():
    once = for_children(["a", "b"], {"PYTHONPATH": os.pathsep.join(["x", "", "y"])})
    assert once == {"UPSHIFT_INSTALL": "a,b", "PYTHONPATH": os.pathsep.join([BOOTSTRAP, "x", "", "y"])}
    assert for_children(["a", "b"], once) == once
    for nothing in ({}, {"PYTHONPATH": ""}):
        assert for_children(["a"], nothing)["PYTHONPATH"] == BOOTSTRAP


def test_start_of_a_process_reads_no_native_code(python):
    code = "import sys; print([m for m in ('upshift._native', 'upshift.cache', 'typing') if m in sys.modules])"
    assert python("-c", "import upshift.compat.environment; " + code).stdout == "[]\n"


class TestCommand:
    def test_version(self, capsys):
        from importlib.metadata import version

        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"upshift {version('upshift')}\n"

    def test_nothing_to_do(self, capsys):
        assert main([]) == 2
        assert "run | doctor | demo" in capsys.readouterr().out

    def test_script_is_installed(self):
        script = Path(sys.executable).with_name("upshift")
        assert subprocess.run([script, "--version"], capture_output=True, check=True).stdout.startswith(b"upshift ")
