#!/bin/sh
# Writes the hashes of both users' passwords, then becomes Mosquitto. No password is in an argument, or in a file as it is.
#
#   start.sh CONFIGURATION DATA MOSQUITTO [OPTION...]
set -eu
configuration=$1 data=$2
shift 2
: "${MQTT_TRAINER_PASSWORD:?a password for those who send over MQTT, see .env.example}"
: "${MQTT_BRIDGE_PASSWORD:?a password for the bridge, see .env.example}"
case $MQTT_TRAINER_PASSWORD$MQTT_BRIDGE_PASSWORD in *:*) echo "A password with a colon can't be kept: take another." >&2; exit 1 ;; esac
umask 077
printf 'trainer:%s\nbridge:%s\n' "$MQTT_TRAINER_PASSWORD" "$MQTT_BRIDGE_PASSWORD" > "$data/passwords.new"
mosquitto_passwd -U "$data/passwords.new"
mv "$data/passwords.new" "$data/passwords"
unset MQTT_TRAINER_PASSWORD MQTT_BRIDGE_PASSWORD
exec "$@" -c "$configuration/mosquitto.conf"
