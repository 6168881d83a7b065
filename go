#!/usr/bin/env bash
# Sets everything up in .venv and then does one thing; every step can be repeated.
#   ./go demo [flags]   the main job: prunella prune, by default on the embedded model and task
#   ./go test           linter, type checker, doctests and tests
set -euo pipefail
cd "$(dirname "$0")"

fail() { echo "go: $*" >&2; exit 1; }

find_python() {
  for name in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python; do
    if [ -n "$name" ] && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  fail "needs Python 3.11 or newer; install it, or name it: PYTHON=/path/to/python3 ./go $*"
}

make_venv() {
  local python
  python=$(find_python "$@")
  [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1 && return
  rm -rf .venv
  "$python" -m venv .venv >/dev/null 2>&1 && return
  # Debian and Ubuntu keep venv in a package of its own.
  command -v apt-get >/dev/null || fail "'$python -m venv .venv' fails; install Python's venv module"
  local root=()
  [ "$(id -u)" = 0 ] || root=(sudo)
  echo "go: installing python3-venv, which Debian and Ubuntu leave out" >&2
  "${root[@]}" apt-get update -qq
  "${root[@]}" apt-get install -y -qq python3-venv >/dev/null
  rm -rf .venv
  "$python" -m venv .venv || fail "'$python -m venv .venv' still fails; install venv for $python"
}

install() {
  local stamp=.venv/installed wanted
  wanted=$(cat constraints.txt pyproject.toml CMakeLists.txt src/prunella/runtime/native/* | cksum)-$1
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  echo "go: installing prunella[$1] into .venv" >&2
  .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[$1]"
  echo "$wanted" >"$stamp"
}

case "${1:-}" in
  demo)
    make_venv "$@"
    install demo
    shift
    exec .venv/bin/prunella prune "$@"
    ;;
  test)
    make_venv "$@"
    install test
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
    # All of a file in one process, for its tests share what is made for them.
    exec .venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder "${@:2}"
    ;;
  *)
    fail "say './go demo' or './go test'"
    ;;
esac
