#!/bin/sh
# Makes .venv ready: finds a Python, creates the environment, installs Seedpod with its
# dependencies. `make setup` calls it, and so does every target that needs Python; when there is
# nothing to do it takes a blink. Run it as often as you like:
#
#   - an unfinished first set-up (Ctrl-C, no network) is started afresh; pip keeps its downloads;
#   - a change of setup.py or pyproject.toml, or a moved clone, runs pip again;
#   - PYTHON=python3.12 picks the interpreter, and rebuilds .venv if it has another;
#   - EXTRAS=tpu picks the extras of setup.py, in place of `test,web`;
#   - a .venv that you made yourself is used as it is, and never erased.
set -eu
cd "$(dirname "$0")/.."

made=.venv/.made-by-make   # .venv is ours, and may be erased
stamp=.venv/.installed     # the set-up was finished; holds what it was finished for
extras=${EXTRAS-test,web}
python=                    # the interpreter to build .venv with

say() { echo "setup: $*"; }
die() { echo >&2; sed 's/^/setup: /' >&2; exit 1; }  # the message is standard input

# "3.12.1 /usr": which interpreter this is, for a virtual environment the one under it. Says
# nothing and fails where the command is missing or does not run (a pyenv shim, for example).
identity() {
  "$1" -c 'import sys; print("%d.%d.%d %s" % (sys.version_info[:3] + (sys.base_prefix,)))' \
    2>/dev/null </dev/null
}

# good | newer (than some packages have builds for) | old | bare (without ensurepip) | broken
verdict() {
  "$1" -c '
import sys
if sys.version_info < (3, 11):
    print("old")
else:
    try:
        import ensurepip, venv
        print("good" if sys.version_info < (3, 15) else "newer")
    except ImportError:
        print("bare")
' 2>/dev/null </dev/null || echo broken
}

how_to_install() {
  cat <<'END'
  Debian, Ubuntu:  sudo apt-get install python3 python3-venv   (Debian 12, Ubuntu 24.04, or later)
  Fedora:          sudo dnf install python3
  macOS:           brew install python@3.12
  elsewhere:       https://www.python.org/downloads/
END
}

refuse_bare() {
  version=$(identity "$1" | cut -d. -f1-2)
  die <<END
$1 (Python $version) cannot make virtual environments: its 'ensurepip' or 'venv' module is
missing. Debian and Ubuntu ship them apart. Install them and run the same command again:
  sudo apt-get install python$version-venv
or name another interpreter: PYTHON=python3.12 make setup
END
}

choose_named() {  # the one that PYTHON names
  case $(verdict "$PYTHON") in
    good | newer) python=$PYTHON ;;
    bare) refuse_bare "$PYTHON" ;;
    old) die <<END
PYTHON=$PYTHON is Python $("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); Seedpod needs 3.11 or later, because JAX does.
Name a later one (PYTHON=python3.12 make setup), or leave PYTHON out to have one found.
END
    ;;
    *) die <<END
PYTHON=$PYTHON does not run: there is no such command, or it failed.
Name one that does (PYTHON=python3.12 make setup), or leave PYTHON out to have one found.
END
    ;;
  esac
}

choose_any() {  # your own python3 if it will do, else a version known to work, else any
  newer='' bare='' old=''
  for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do
    case $(verdict "$candidate") in
      good) python=$candidate; return ;;
      newer) newer=${newer:-$candidate} ;;
      bare) bare=${bare:-$candidate} ;;
      old) old=${old:-$candidate} ;;
    esac
  done
  if [ -n "$newer" ]; then python=$newer; return; fi
  if [ -n "$bare" ]; then refuse_bare "$bare"; fi
  if [ -n "$old" ]; then
    found="the $old here is $("$old" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
  else
    found="there is none on the PATH"
  fi
  die <<END
no Python 3.11 or later was found: $found.
Install one and run the same command again:
$(how_to_install)
or name one that is elsewhere: PYTHON=/path/to/python3.12 make setup
END
}

install() {
  quiet=--quiet
  if [ -t 1 ]; then quiet=; fi  # progress bars for people; logs stay short
  say "installing Seedpod and its dependencies into .venv"
  .venv/bin/python -m pip install $quiet --disable-pip-version-check --editable ".[$extras]" ||
    die <<END
pip could not install the dependencies; its own words are above. The usual causes are
  - no network, or a proxy that pip does not know (HTTPS_PROXY);
  - a Python that some package has no build for: this is $(identity .venv/bin/python | cut -d' ' -f1), and 3.11 to 3.13
    are tested. Pick another: PYTHON=python3.12 make setup
  - a full disk.
Put it right and run the same command again; what was downloaded is kept.
END
  echo "$goal $(identity .venv/bin/python)" >"$stamp"
  say "ready: .venv has Python $(identity .venv/bin/python | cut -d' ' -f1)"
}

goal="$(cat setup.py pyproject.toml | cksum) [$extras] in $(pwd):"
current=$(identity .venv/bin/python) || current=
if [ -n "${PYTHON:-}" ]; then choose_named; fi
if [ -n "$current" ] && { [ -z "$python" ] || [ "$(identity "$python")" = "$current" ]; }; then
  if [ "$(cat "$stamp" 2>/dev/null)" = "$goal $current" ]; then exit 0; fi
  if [ -f "$stamp" ]; then
    say "setup.py, pyproject.toml, the interpreter or the clone's place has changed"
    install
    exit
  fi
  if [ ! -f "$made" ] && [ "$(verdict .venv/bin/python)" != old ] &&
    .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "using the .venv that is here"
    install
    exit
  fi
fi

if [ -d .venv ] && [ ! -f "$made" ]; then
  die <<END
.venv was made by something else, and cannot be used. Its Python: ${current:-does not run}.
Wanted: 3.11 or later, with pip${python:+, and the one that PYTHON names: $(identity "$python")}.
It is left alone. Move it away and run the same command again:
  mv .venv .venv.old
END
fi
if [ -z "$python" ]; then choose_any; fi
# The interpreter itself: of a virtual environment (it may be .venv, activated) the one under it.
python=$("$python" -c 'import sys; print(sys._base_executable or sys.executable)')
if [ -d .venv ] && [ -f "$stamp" ]; then
  say "rebuilding .venv for $(identity "$python") (it had ${current:-an interpreter that is gone})"
elif [ -d .venv ]; then
  say "an earlier set-up did not finish; starting it again"
fi
say "creating .venv with $python (Python $(identity "$python" | cut -d' ' -f1)):" \
  "1.2 GB, a few minutes the first time"
mkdir -p .venv
: >"$made"
rm -rf .venv/* "$stamp"  # the glob keeps the mark: an interruption here can be repaired too
"$python" -m venv .venv || die <<END
'$python -m venv .venv' failed; its own words are above. Put it right and run the same command
again, or pick another interpreter: PYTHON=python3.12 make setup
END
install
