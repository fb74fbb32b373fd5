#!/bin/sh
# Runs on each TPU worker: installs an interpreter and the locked packages, mounts the bucket, runs
# the command and writes its exit code. tpu/launch/queued.py starts it, detached, after unpacking.
#
#   sh tpu/launch/worker.sh ATTEMPT BUCKET MODULE FLAGS…
#
# In ~/seedpod: log.txt, attempt, pid of this script while it sets up and then of the command,
# exit-ATTEMPT once it has ended, and asked if it was asked to stop meanwhile. The bucket, with the
# workdir, is at ~/bucket.
cd "$(dirname "$0")/.."
state=$HOME/seedpod attempt=$1 bucket=$2
shift 2

setup() {
  set -e
  # Images may have Python 3.10 only: uv brings its own.
  command -v "$HOME/.local/bin/uv" >/dev/null || python3 -m pip install --user --quiet uv
  "$HOME/.local/bin/uv" venv --quiet --clear --python 3.11 "$state/venv"
  "$HOME/.local/bin/uv" pip sync --quiet --python "$state/venv/bin/python" tpu/launch/requirements.txt
  command -v gcsfuse >/dev/null || install_gcsfuse
  mkdir -p "$HOME/bucket"
  mountpoint -q "$HOME/bucket" || gcsfuse --implicit-dirs "$bucket" "$HOME/bucket"
}

# As cloud.google.com/storage/docs/cloud-storage-fuse/install says.
install_gcsfuse() {
  google=https://packages.cloud.google.com/apt key=/usr/share/keyrings/cloud.google.asc
  curl -sSf "$google/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $google gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  # A machine that has just started may be updating itself.
  sudo apt-get -o DPkg::Lock::Timeout=600 -qq update
  sudo apt-get -o DPkg::Lock::Timeout=600 -qq install -y gcsfuse >/dev/null
}

# A lost machine takes its disk with it, so what is printed goes to the bucket too.
keep_log() {
  mountpoint -q "$HOME/bucket" || return 0
  mkdir -p "$HOME/bucket/logs/$attempt"
  cp "$state/log.txt" "$HOME/bucket/logs/$attempt/$(hostname).txt"
}

# A handler, not "ignore": that the program would inherit, and it must see SIGTERM to save.
trap 'signalled=yes' TERM
rm -f "$state/asked"
echo "$attempt" >"$state/attempt"
echo $$ >"$state/pid" # while it sets up: a supervisor that comes now must not start another
( setup )
code=$?
if [ $code = 0 ] && [ -e "$state/asked" ]; then
  code=42
elif [ $code = 0 ]; then
  "$state/venv/bin/python" -m "$@" &
  program=$!
  echo "$program" >"$state/pid"
  ( while sleep 60; do keep_log; done ) &
  keeper=$!
  signalled=yes
  # SIGTERM ends a wait, not the program, which saves first. Whether the wait saw its end too, only
  # another one can tell: 127 is "waited for already".
  while [ -n "$signalled" ]; do
    signalled=
    wait "$program"
    ended=$?
    [ $ended = 127 ] || code=$ended
  done
  kill "$keeper" 2>/dev/null
fi
rm -f "$state/pid"
keep_log
echo "$code" >"$state/exit-$attempt.tmp"
mv "$state/exit-$attempt.tmp" "$state/exit-$attempt"
