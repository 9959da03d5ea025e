"""Makes a Flex Template for Dataflow: its specification and, if there is Docker, the two images that it needs."""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import beamscribe

HERE = Path(__file__).parent
SPECIFICATION = Path("build/dataflow/template.json")


def specification(metadata: dict[str, Any], image: str) -> dict[str, Any]:
    """The specification of the template, as `gcloud dataflow flex-template build` would write it.

    Args:
      metadata: name, description and parameters of the template.
      image: image of the launcher.

    Raises:
      ValueError: the metadata lacks a field that Dataflow requires.
    """
    for parameter in metadata["parameters"]:
        for field in ("name", "label", "helpText"):
            if not parameter.get(field):
                raise ValueError(f"parameter {parameter.get('name')}: {field} is missing")
        for regex in parameter.get("regexes", ()):
            re.compile(regex)
    return {"defaultEnvironment": {}, "image": image, "metadata": metadata, "sdkInfo": {"language": "PYTHON"}}


def build_commands(worker: str, launcher: str) -> list[list[str]]:
    """The commands that build the images, to be run from the project's root."""
    build = ["docker", "build", "--platform", "linux/amd64", "--file", str(HERE.relative_to(Path.cwd()) / "Dockerfile")]
    return [
        [*build, "--target", "worker", "--tag", worker, "."],
        [*build, "--target", "launcher", "--build-arg", f"WORKER_IMAGE={worker}", "--tag", launcher, "."],
    ]


def docker_problem() -> str | None:
    """Why no image can be built on this machine; None if images can be built."""
    if not shutil.which("docker"):
        return "docker is not installed"
    answer = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    return None if answer.returncode == 0 else "the Docker daemon does not answer"


def main() -> int:
    """Writes the specification, builds the images, and prints what is left to do."""
    parser = argparse.ArgumentParser(prog="make dataflow-template", description=__doc__)
    parser.add_argument(
        "--repository",
        default="",
        help="repository of images in Artifact Registry: europe-docker.pkg.dev/PROJECT/NAME",
    )
    parser.add_argument("--tag", default=beamscribe.__version__, help="tag of the images")
    options = parser.parse_args()
    if not re.fullmatch("[a-z0-9][a-z0-9.:/_-]+", options.repository):
        print(
            "dataflow-template: give your repository of images: REPOSITORY=europe-docker.pkg.dev/PROJECT/NAME",
            file=sys.stderr,
        )
        return 1
    worker, launcher = (f"{options.repository}/beamscribe-{kind}:{options.tag}" for kind in ("worker", "launcher"))
    metadata = json.loads((HERE / "metadata.json").read_text(encoding="utf-8"))
    SPECIFICATION.parent.mkdir(parents=True, exist_ok=True)
    SPECIFICATION.write_text(json.dumps(specification(metadata, launcher), indent=2) + "\n", encoding="utf-8")
    print(f"wrote {SPECIFICATION}")
    commands = build_commands(worker, launcher)
    if problem := docker_problem():
        print(f"dataflow-template: {problem}; to build the images on another machine, run:", file=sys.stderr)
        print("\n".join(f"  {shlex.join(command)}" for command in commands), file=sys.stderr)
        return 1
    for command in commands:
        if subprocess.run(command, check=False).returncode:
            print(f"dataflow-template: this command failed: {shlex.join(command)}", file=sys.stderr)
            return 1
    print("left to do:")
    print(f"  docker push {worker}\n  docker push {launcher}")
    print(f"  gcloud storage cp {SPECIFICATION} gs://BUCKET/beamscribe.json")
    print("  gcloud dataflow flex-template run NAME --template-file-gcs-location gs://BUCKET/beamscribe.json …")
    return 0


if __name__ == "__main__":
    sys.exit(main())
