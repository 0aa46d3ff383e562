#!/bin/sh
# Copy a configuration, put the token that Prometheus reads from a file beside it, then run Prometheus.
# start.sh CONFIG_FOLDER COPY COMMAND…
# Compose gives the token as RUNWIRE_TOKEN. A mounted secret file would keep the host's owner and mode, which
# Prometheus' own user can't read.
set -eu
umask 077
: "${RUNWIRE_TOKEN:?is empty}"
from=$1 to=$2
shift 2
rm -rf "$to"
mkdir -p "$to"
cp -R "$from"/. "$to"
printf '%s' "$RUNWIRE_TOKEN" > "$to/token"
unset RUNWIRE_TOKEN
exec "$@"
