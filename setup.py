"""Packaging of linscore: the library, its command line, and the device code beside it."""

from pathlib import Path

from setuptools import setup

README = Path(__file__).with_name("README.md")

setup(
    name="linscore",
    version="0.1.0",
    description="How linear are the blocks of a transformer decoder: exact scores, streamed over any corpus",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The linscore authors",
    license="MIT",
    license_files=["LICENSE", "linscore/embedded/NOTICE"],
    python_requires=">=3.10",
    packages=[
        "linscore",
        "linscore.cli",
        "linscore.distillation",
        "linscore.embedded",
        "linscore.evaluation",
        "linscore.finetuning",
        "linscore.jobs",
        "linscore.pretraining",
        "linscore.probing",
        "linscore.surgery",
        "linscore.training",
        "linscore_kernels",
    ],
    # `kernels/` is a plain folder: a top-level package of that name would shadow the one that transformers imports.
    package_dir={"linscore_kernels": "kernels/linscore_kernels"},
    package_data={
        "linscore.pretraining": ["configs/*.yaml"],
        "linscore.embedded": ["NOTICE", "heldout/*.txt", "model/*", "cosine/*"],
        "linscore_kernels": ["*.json"],
    },
    install_requires=[
        "torch>=2.10",
        'triton>=3.6; sys_platform == "linux" and (platform_machine == "x86_64" or platform_machine == "aarch64")',
        "transformers>=5.17",
        "datasets",
        "safetensors",
        "tokenizers",
        "click",
        "rich",
        "numpy",
        "accelerate",
        "matplotlib",
        "scikit-learn",
        "pyyaml",
    ],
    extras_require={
        "tasks": ["lm-eval>=0.4.13"],
        "dev": [
            "lm-eval>=0.4.13",
            "pytest",
            "pytest-benchmark",
            "pytest-xdist",
            "hypothesis",
            "scipy",
            "ruff",
            "mypy",
        ],
    },
    entry_points={"console_scripts": ["linscore=linscore.cli:main"]},
)
