#!/bin/sh
# Makes the virtual environment of another system that a benchmark runs beside ours:
#     sh benchmarks/other_env.sh DIR [PACKAGE…]
# by default what benchmarks/sample wants. pip's own settings (PIP_EXTRA_INDEX_URL, say) choose
# which build of torch it is; one for CPU is enough.
set -e
dir=${1:?usage: sh benchmarks/other_env.sh DIR [PACKAGE…]}
shift
[ $# -gt 0 ] || set -- torch==2.13.0 transformers==5.24.0 safetensors
"${PYTHON:-python3}" -m venv "$dir"
"$dir/bin/python" -m pip install --quiet "$@"
echo "made $dir: give --other_python=$dir/bin/python"
