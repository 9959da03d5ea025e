import subprocess
import sys

import pytest

from beamscribe.jobs import cli


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "example:" in text and f"beamscribe {command}" in text.split("example:")[1]


def test_help_comes_without_loading_what_is_heavy():
    script = "import sys; from beamscribe.jobs import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    script += "print([m for m in ('apache_beam', 'tensorflow', 'keras', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"  beamscribe {command} " in done.stdout for command in cli.COMMANDS)


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["show", "x", "--nope"])
    assert stop.value.code == 2
    assert "--nope" in capsys.readouterr().err


def test_beam_options_are_known(monkeypatch):
    from beamscribe.jobs.runners import beam_runner
    from beamscribe.model.errors import BeamscribeError

    options = beam_runner.pipeline_options(["--direct_num_workers", "3", "--direct_running_mode=multi_threading"])
    assert beam_runner.workers(options) == 3
    assert options.get_all_options()["runner"] == "FnApiRunner"
    # In all spellings that Beam has.
    beam_runner.pipeline_options(["--worker_machine_type=n2-standard-8", "--extra_package", "x.tar.gz", "--no_auth"])
    beam_runner.pipeline_options(["--max_num_workers", "-1"])
    for unknown in ("--direct_num_wrokers", "-limit=5", "-x"):
        with pytest.raises(BeamscribeError, match=f"unknown option {unknown}"):
            beam_runner.pipeline_options([unknown, "3"])
