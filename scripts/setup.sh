# Sourced by demo.sh, the evidence scripts and test.sh: make .venv on the first run, install what is missing, activate it.
PYTHON="${PYTHON:-python3}"
if ! "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
    echo "Python 3.11, 3.12 or 3.13 is needed; $("$PYTHON" --version 2>&1) was found. Set PYTHON=/path/to/python3." >&2
    exit 2
fi
if [ ! -x .venv/bin/python ]; then
    echo "making .venv" >&2
    "$PYTHON" -m venv .venv
fi
constraint="${PIP_CONSTRAINT:-}"
if [ -f "$constraint" ]; then
    constraint="$(realpath "$constraint")"
    export PIP_CONSTRAINT="$constraint"  # for programs that start pip in another folder
else
    constraint=""
fi
stamp="$(cat requirements.txt requirements-dev.txt requirements-app.txt ${constraint:+"$constraint"} | cksum)"
if [ "$(cat .venv/.requirements 2>/dev/null)" != "$stamp" ]; then
    echo "installing packages (torch alone is some gigabytes; once)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
    echo "$stamp" > .venv/.requirements
fi
source .venv/bin/activate
