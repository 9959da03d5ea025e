"""The command itself: help, usage errors, options from a file, logs."""

import logging
import subprocess
import sys

import pytest

from beamscribe.jobs import argparse_internals, cli, command_line
from beamscribe.jobs.command_line import Parser, UsageError
from beamscribe.model.caption_settings import CaptionSettings
from beamscribe.model.errors import BeamscribeError, InputError


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "example:" in text and f"beamscribe {command}" in text.split("example:")[1]
    assert all(option in text for option in ("--config", "--verbose", "--quiet"))


def test_help_shows_the_defaults_that_are_used(capsys):
    with pytest.raises(SystemExit):
        cli.main(["caption", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    settings = default_settings()
    for name in ("beam_width", "max_length", "min_length", "length_penalty", "no_repeat_ngram"):
        after = text.split(command_line.option_of(name))[1]
        assert f"({getattr(settings, name):g})" in after.split(" --")[0], name
    # What is rarely needed comes last.
    titles = ["what to list:", "where to write:", "how to caption:", "rarely needed:", "for every command:"]
    assert [text.index(title) for title in titles] == sorted(text.index(title) for title in titles)


def default_settings() -> CaptionSettings:
    from beamscribe.model import bundle

    return bundle.describe(bundle.DEFAULT).settings


def test_help_comes_without_loading_what_is_heavy():
    script = "import sys; from beamscribe.jobs import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    script += "print([m for m in ('apache_beam', 'tensorflow', 'keras', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"  beamscribe {command} " in done.stdout for command in cli.COMMANDS)


def test_the_version(capsys):
    import beamscribe

    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"beamscribe {beamscribe.__version__}\n"
    done = subprocess.run([sys.executable, "-m", "beamscribe", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"beamscribe {beamscribe.__version__}\n"
    done = subprocess.run([sys.executable, "-m", "beamscribe", "nope"], capture_output=True, text=True, check=False)
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "beamscribe: give a command: caption, plan, "),
        (["captoin"], "beamscribe: unknown command captoin; did you mean caption? see `beamscribe --help`"),
        (["show", "x", "--nope"], "beamscribe show: unknown argument --nope; see `beamscribe show --help`"),
        (["show", "x", "--fialed"], "--fialed; did you mean --failed? see"),
        (["show"], "beamscribe show: the following arguments are required: OUTPUT; see"),
        (["show", "x", "--limit", "some"], "beamscribe show: --limit: invalid int value: 'some'; see"),
        (["caption", "--input", "x"], "the following arguments are required: --output; see"),
        (
            ["caption", "--inputt", "x", "--output", "y"],
            "caption: unknown argument --inputt; did you mean --input? see",
        ),
        (["prepare", "--receipe=x", "--flip"], "prepare: unknown argument --receipe; did you mean --recipe? see"),
        # It is like one that is lacking, but known.
        (["caption", "--include", "x"], "the following arguments are required: --input, --output; see"),
        (["recipes", "show", "transformer", "--quite"], "unknown argument --quite; did you mean --quiet? see"),
        (["captoin\x1b[31m\n"], "beamscribe: unknown command captoin\\x1b[31m\\n; did you mean caption? see"),
        (["show", "no\r\nwhere\x1b"], "no\\r\\nwhere\\x1b; give the folder"),
        (["show", "x", "--a\nb"], "unknown argument --a\\nb; see"),
        (["caption", "--input", "x", "--output", "y", "--max-failure", "3"], "did you mean --max-failures? see"),
        (
            ["caption", "--input", "x", "--output", "y", "--direct_num_worker=3"],
            "did you mean --direct_num_workers? see",
        ),
        (["caption", "--input", "x", "--output", "y", "--recaption", "modle"], "--recaption: invalid choice: 'modle'"),
    ],
)
def test_a_usage_error_is_one_line_and_a_hint(arguments, complaint, capsys):
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert complaint in said.err and said.err.count("\n") == 1 and said.out == ""


def test_options_of_every_command_may_stand_anywhere(tmp_path, capsys):
    (tmp_path / "verbose.yaml").write_text("verbose: true\n")
    for words in ("--quiet show transformer", "show --quiet transformer", "show transformer --quiet"):
        assert cli.main(["recipes", *words.split()]) == 0
        assert logging.getLogger("beamscribe").level == logging.WARNING
        assert capsys.readouterr().out.startswith("name: transformer\n")
    assert cli.main(["recipes", "show", "transformer", "--config", str(tmp_path / "verbose.yaml")]) == 0
    assert logging.getLogger("beamscribe").level == logging.DEBUG


def test_no_option_of_beam_is_taken_for_one_that_lacks():
    from beamscribe.jobs.runners import beam_internals

    for command in ("caption", "plan", "prepare"):
        parser = cli._parser(command, cli._module(command, ()))
        others = beam_internals.option_names() - argparse_internals.names_in(parser)
        with pytest.raises(UsageError, match="the following arguments are required"):
            parser.parse_known_args(sorted(others))


def test_errors_name_options():
    error = BeamscribeError("`max_failures` 7: give `inputs`, or leave `deduplicate` out; `plan me` is none")
    expected = "--max-failures 7: give --input, or leave --no-deduplicate out; `plan me` is none"
    assert command_line.text_of(error) == expected
    # Names of other scripts stay as they are, also what is no UTF-8 is shown.
    assert command_line.text_of(BeamscribeError("写真\u3000é\ud800\u202e\t")) == "写真\u3000é\\ud800\\u202e\\t"


def test_beam_options_are_known():
    from beamscribe.jobs.runners import beam_runner

    options = beam_runner.pipeline_options(["--direct_num_workers", "3", "--direct_running_mode=multi_threading"])
    assert beam_runner.workers(options) == 3
    assert options.get_all_options()["runner"] == "FnApiRunner"
    # In all spellings that Beam has.
    beam_runner.pipeline_options(["--worker_machine_type=n2-standard-8", "--extra_package", "x.tar.gz", "--no_auth"])
    beam_runner.pipeline_options(["--max_num_workers", "-1"])
    for unknown in ("--direct_num_wrokers", "-limit", "-x"):
        with pytest.raises(InputError, match=f"unknown option {unknown}"):
            beam_runner.pipeline_options([unknown, "3"])


def test_beam_options_may_be_parsed_already():
    from apache_beam.options.pipeline_options import PipelineOptions

    from beamscribe.jobs.runners import beam_runner

    given = PipelineOptions(["--direct_num_workers=3"])
    assert beam_runner.pipeline_options(given) is given
    assert given.get_all_options()["runner"] == "FnApiRunner"


@pytest.fixture
def parser() -> Parser:
    found = Parser(prog="x")
    found.add_argument("--input", action="extend", nargs="+")
    found.add_argument("--max-failures")
    found.add_argument("--hidden", action="store_true")
    found.add_argument("--no-deduplicate", action="store_true")
    found.add_argument("--config")
    return found


def options_of(parser, tmp_path, text, *arguments):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return command_line.with_file(list(arguments), str(path), parser, {"--direct_num_workers", "--runner"})


def test_a_file_gives_any_long_option(parser, tmp_path):
    text = "input: [/a b, /c]\nmax_failures: 5%\nhidden: true\nno-deduplicate: false\ndirect_num_workers: 2\n"
    expected = ["--input=/a b", "--input=/c", "--max-failures=5%", "--hidden", "--direct_num_workers=2", "x"]
    assert options_of(parser, tmp_path, text, "x") == expected
    assert options_of(parser, tmp_path, "# nothing\n", "x") == ["x"]


def test_the_command_line_wins(parser, tmp_path):
    text = "input: [/a, /b]\nmax-failures: 3\n"
    given = ["--input", "/c", "--max-failures=4"]
    assert options_of(parser, tmp_path, text, *given) == given


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("max-failure: 3", "unknown option max-failure; did you mean max-failures?"),
        ("direct_num_worker: 3", "unknown option direct_num_worker; did you mean direct_num_workers?"),
        ("xyzzy: 3", "unknown option xyzzy"),
        ("config: other.yaml", "config is for the command line alone; take it out of the file"),
        ("help: true", "help is for the command line alone"),
        ("input: {a: b}", "input: give a text, a number, true, false, or a list of texts"),
        ("input: [true]", "input: give a text"),
        ("- input", "does not map options to values"),
        ("input: [", "is not YAML"),
    ],
)
def test_a_wrong_file_is_one_line(parser, tmp_path, text, complaint):
    with pytest.raises(InputError) as error:
        options_of(parser, tmp_path, text)
    assert complaint in str(error.value) and str(tmp_path / "run.yaml") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_line(capsys):
    assert cli.main(["caption", "--config", "nowhere.yaml"]) == 2
    assert (
        capsys.readouterr().err == "beamscribe caption: --config: can't read nowhere.yaml: No such file or directory\n"
    )
    assert cli.main(["caption", "--config"]) == 2
    capsys.readouterr()
    assert cli.main(["caption", "--config", "a.yaml", "--config=b.yaml"]) == 2
    assert capsys.readouterr().err == "beamscribe caption: --config: give it once; see `beamscribe caption --help`\n"


def test_a_run_by_a_file(tmp_path, tiny_bundle, make_photo, capsys):
    make_photo(tmp_path / "photos" / "a.jpg")
    make_photo(tmp_path / "photos" / "b.jpg")
    path = tmp_path / "nightly.yaml"
    path.write_text(f"input: {tmp_path / 'photos'}\noutput: {tmp_path / 'out'}\nbundle: {tiny_bundle}\nlimit: 1\n")
    assert cli.main(["plan", "--config", str(path)]) == 0
    assert "listed 1 = to skip 0 + to caption 1" in capsys.readouterr().out
    assert cli.main(["caption", "--config", str(path), "--limit=2", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert len(list(tmp_path.glob("out/captions/*/*.parquet"))) == 1


@pytest.mark.parametrize(
    ("switch", "ours", "workers", "others"),
    [
        ([], logging.INFO, logging.WARNING, logging.ERROR),
        (["--verbose"], logging.DEBUG, logging.DEBUG, logging.INFO),
        (["--quiet"], logging.WARNING, logging.WARNING, logging.ERROR),
    ],
)
def test_levels(switch, ours, workers, others):
    assert cli.main(["recipes", *switch]) == 0
    assert logging.getLogger("beamscribe.jobs").getEffectiveLevel() == ours
    assert logging.getLogger("beamscribe.pipelines.inference").getEffectiveLevel() == workers
    assert logging.getLogger("apache_beam").getEffectiveLevel() == others


def test_logs_have_times_and_levels():
    script = "import logging, sys; from beamscribe.jobs import cli; from beamscribe.jobs.commands import recipes\n"
    script += (
        "def run(*_):\n  logging.getLogger('beamscribe.x').info('a note'); logging.getLogger('other').warning('no')\n"
    )
    script += "  noisy = logging.getLogger('noisy'); noisy.setLevel(logging.INFO); noisy.info('nor this')\n  return 0\n"
    script += "recipes.run = run; sys.exit(cli.main(['recipes']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert line[:4].isdigit() and line[10] == " " and line.endswith(" INFO a note")
