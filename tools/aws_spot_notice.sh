#!/usr/bin/env bash
# Send SIGTERM to a training before AWS takes its spot instance away:
#
#   tools/dist_train.sh CONFIG 8 &
#   tools/aws_spot_notice.sh $!
#
# AWS announces the end of an instance in its metadata, two minutes ahead. This script polls the
# metadata every 5 seconds, and exits with the process.
# METADATA is the address of the metadata service.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for sh SCRIPT
set -euo pipefail
if [ $# -ne 1 ]; then
    echo "usage: $0 PID" >&2
    exit 2
fi
metadata=${METADATA:-http://169.254.169.254}
ask() { curl --silent --fail --max-time 2 "$@"; }

while kill -0 "$1" 2>/dev/null; do
    token=$(ask -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/latest/api/token") || true
    if notice=$(ask -H "X-aws-ec2-metadata-token: $token" "$metadata/latest/meta-data/spot/instance-action"); then
        echo "AWS takes this instance: $notice. SIGTERM to process $1."
        kill -TERM "$1"
        exit 0
    fi
    sleep 5
done
