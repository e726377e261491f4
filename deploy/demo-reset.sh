#!/bin/sh
# Deletes what the demo wrote, after asking. Base models, which take long to convert, stay.
set -eu
var=${LABELAPP_VAR:-var}
if [ ! -d "$var" ]; then
  echo "Nothing to reset: there is no $var."
  exit 0
fi
if [ -e "$var/demo.lock" ] && command -v flock >/dev/null && ! flock --nonblock "$var/demo.lock" true; then
  echo "The demo is running. End it with Ctrl-C first."
  exit 1
fi
echo "This deletes every label, model and account of the demo in $var."
printf 'Type yes to go on: '
read -r answer || answer=
if [ "$answer" != yes ]; then
  echo "Nothing was deleted."
  exit 1
fi
for entry in "$var"/* "$var"/.[!.]*; do
  case "$entry" in
    "$var/models" | "$var/test") ;;
    *) rm -rf "$entry" ;;
  esac
done
echo "Done. make demo starts from the beginning."
