"""Packaging. The lower bounds are the oldest releases that Seedpod is meant to work with."""

from setuptools import find_packages, setup

# The modules at the root, which all packages may import, are listed apart.
PACKAGES = ["model", "train", "data", "configs", "tpu", "benchmarks"]

setup(
    name="seedpod",
    version="0.1.0",
    description="Grows a language model on TPU pods: pretraining, SFT, reward model, PPO",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_data={
        "train.chat": ["page/*"],
        "data.ranking": ["page/*"],
        "train.replay.report": ["page.css", "page.js"],
    },
    packages=find_packages(include=[p for name in PACKAGES for p in (name, name + ".*")]),
    py_modules=[
        "interpreter",
        "loopback",
        "plugins",
        "printable",
        "ranges",
        "registry",
        "suggestions",
    ],
    install_requires=[
        "jax>=0.10",
        "jaxlib>=0.10",  # checks XLA_FLAGS
        "flax>=0.12",
        "qwix>=0.1.8",  # int8 weights
        "optax>=0.2.6",
        "orbax-checkpoint>=0.12",
        "grain>=0.2.15",
        "array_record>=0.8.1",
        "tensorflow-datasets>=4.9.10",
        # TFDS 4.9.10 imports it on every Python, and declares it for those before 3.9 only.
        "importlib_resources",
        "sentencepiece>=0.2.1",
        # Open models: their tokenizers, chat templates and files.
        "tokenizers>=0.21",
        "jinja2>=3.1",
        "safetensors>=0.5",
        "gguf>=0.17",
        "huggingface_hub>=0.30",
        "ml-collections>=1.1",
        "absl-py>=2.1",
        "etils[epath]>=1.9",
        "tensorstore>=0.1.71",  # parts of arrays; Orbax needs it too
        "fsspec>=2024.12",  # exclusive creation, for the lock of a workdir in a bucket
        "numpy>=2.0",
        "scipy>=1.14",  # tests of two runs; JAX needs it too
        "threadpoolctl>=3.5",  # scaling laws: many fits, each too small for threads
        "pyyaml>=6.0",  # benchmarks of one's own, gates of a replay
        "sacrebleu>=2.4",  # chrF, the similarity of answers
        "msgspec>=0.20",  # the structure of JSON files
        "pyarrow>=18.0",  # Parquet, and folders of Hugging Face `datasets`
        "datasketch>=2.0",  # near duplicates
        # Passages of a question; the second has a small binary, and no dependencies.
        "bm25s>=0.3",
        "PyStemmer>=3.0",
        "rich>=13.0",
        "prompt_toolkit>=3.0",  # the line that train.chat reads
        "markdown-it-py>=3.0",  # its web page; rich needs it too
        # Writes event files without TensorFlow, and shows them.
        "tensorboard>=2.20",
    ],
    extras_require={
        "tpu": ["jax[tpu]", "gcsfs>=2024.12"],  # gs://
        "beam": ["apache-beam>=2.60"],  # to prepare what outgrows a machine
        "knowledge": [  # pages of HTML, HTML in exports, quoted mails
            "trafilatura>=2.0",
            "lxml_html_clean>=0.4",  # jusText, of trafilatura, names it by an older extra
            "markdownify>=1.0",
            "beautifulsoup4>=4.12",
            "mail-parser-reply>=1.30",
        ],
        "names": ["spacy>=3.8", "pyap2>=0.2"],  # data.redact=name,address
        "hf": ["datasets>=5.2"],  # hf:OWNER/NAME:SPLIT; as of 5 it runs no code of a data set
        "gpu": ["jax[cuda13]"],  # for a driver older than 580: pip install 'jax[cuda12]'
        "lm-eval": ["lm-eval>=0.4.13", "tqdm>=4.59"],  # train.lm_eval
        "sweep": ["optuna>=4.5"],  # train.sweep --search=optuna
        "wandb": ["wandb>=0.28"],  # trackers
        "trackio": ["trackio>=0.40"],
        "mlflow": ["mlflow>=3.7"],
        "web": ["starlette>=1.0", "uvicorn>=0.30"],  # train.chat --web, data.ranking
        "ranking": ["statsmodels>=0.15", "krippendorff>=0.8"],  # agreement of annotators
        "test": [
            "httpx2>=2.0",  # Starlette's test client
            "matplotlib>=3.9",  # what train.inspect shows
            "optuna>=4.5",
            "trafilatura>=2.0",
            "lxml_html_clean>=0.4",
            "markdownify>=1.0",
            "mail-parser-reply>=1.30",
            "pyap2>=0.2",
            "statsmodels>=0.15",  # agreement of annotators
            "krippendorff>=0.8",
            "treescope>=0.1.10",
            "pandas>=2.2",
            "nbclient>=0.10",  # runs the notebooks
            "ipykernel>=6.29",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.14",
            "mypy>=2.4",  # `make lint`: types
        ],
        "browser": ["playwright>=1.50"],  # tests of pages in an installed Chromium
        "notebook": [
            "jupyterlab>=4",
            "matplotlib>=3.9",
            "ipywidgets>=8",
            "treescope>=0.1.10",
            "pandas>=2.2",
        ],
    },
)
