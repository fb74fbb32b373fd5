#!/bin/sh
# On each TPU worker: brings an interpreter and the locked packages, mounts the bucket, runs the
# command and leaves its exit code. tpu/launch.py starts it, detached, from the code it unpacked.
#
#   sh tpu/worker.sh ATTEMPT BUCKET MODULE FLAGS…
#
# In ~/seedpod: log.txt, pid of the command while it runs, and exit-ATTEMPT once the command has ended. The workdir is below ~/bucket.
cd "$(dirname "$0")/.."
state=$HOME/seedpod attempt=$1 bucket=$2
shift 2

setup() {
  set -e
  # Images may have Python 3.10 only: uv brings its own.
  command -v "$HOME/.local/bin/uv" >/dev/null || python3 -m pip install --user --quiet uv
  "$HOME/.local/bin/uv" venv --quiet --clear --python 3.11 "$state/venv"
  "$HOME/.local/bin/uv" pip sync --quiet --python "$state/venv/bin/python" tpu/requirements.txt
  command -v gcsfuse >/dev/null || { echo "error: this image has no gcsfuse"; exit 1; }
  mkdir -p "$HOME/bucket"
  mountpoint -q "$HOME/bucket" || gcsfuse --implicit-dirs "$bucket" "$HOME/bucket"
}

# A handler, not "ignore": that the program would inherit, and it must see SIGTERM to save.
trap : TERM
( setup )
code=$?
if [ $code = 0 ]; then
  "$state/venv/bin/python" -m "$@" &
  program=$!
  echo "$program" >"$state/pid"
  wait "$program"
  code=$?
  # SIGTERM ends this wait, not the program, which saves first.
  while kill -0 "$program" 2>/dev/null; do wait "$program"; code=$?; done
  rm -f "$state/pid"
fi
echo "$code" >"$state/exit-$attempt.tmp"
mv "$state/exit-$attempt.tmp" "$state/exit-$attempt"
