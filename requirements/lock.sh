#!/bin/sh
# Resolves every lock anew for Python 3.10 and later, SCF's newest documented runtime being 3.10.
# greenlet is left out of what is deployed: it has no manylinux2014 wheel, and SQLAlchemy's synchronous use works
# without it. The tests' scheduler is built on it.
set -eu
cd "$(dirname "$0")/.."
export UV_PYTHON_DOWNLOADS=never UV_CUSTOM_COMPILE_COMMAND="requirements/lock.sh"
lock() {
  out=$1; shift
  uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
     --no-emit-index-url --no-emit-find-links "$@" -o "requirements/$out.txt"
}
lock runtime pyproject.toml --extra mysql --extra postgresql --no-emit-package greenlet
lock local pyproject.toml --extra local --no-emit-package greenlet
lock dev pyproject.toml --extra dev
# The validation server imports no SDK and no database driver, so it installs none: `pip install --no-deps` for the rest.
printf '%s\n' click granian lmdb "uvloop; sys_platform != 'win32'" | lock validator -
# tccli needs the complete SDK, which must never share an environment with the per-product packages.
echo tccli | lock tccli -
