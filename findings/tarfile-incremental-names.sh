#!/usr/bin/env bash
# tarfile: members of a GNU incremental backup get a number in front of their names.
#
# `tar --listed-incremental` writes headers in GNU format, which keeps access and change times
# where POSIX keeps the beginning of a long name. Python's tarfile takes the times for that
# beginning: "line1/a.jpg" becomes "<octal time>/line1/a.jpg". The number is the time of the
# file, so the same image has another name in every backup. GNU tar itself lists the right names.
#
# Seen on 2026-11-28 with GNU tar 1.34 and Python 3.11.7:
#   tar:     line1/ line1/a.jpg
#   tarfile: 15302664601/line1/ 15302664601/line1/a.jpg
set -euo pipefail
tar --version | grep -q "GNU tar" || { echo "needs GNU tar"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/lake/line1"
printf 'x' > "$folder/lake/line1/a.jpg"
tar --create --file "$folder/full.tar" --listed-incremental "$folder/snapshot" \
  -C "$folder/lake" line1
python3 - "$folder/full.tar" <<'PY'
import re
import subprocess
import sys
import tarfile

listed = subprocess.run(["tar", "tf", sys.argv[1]], capture_output=True, text=True, check=True)
right = listed.stdout.split()
with tarfile.open(sys.argv[1]) as archive:
    read = [member.name + "/" * member.isdir() for member in archive]
print("tar:    ", *right)
print("tarfile:", *read)
names = [re.fullmatch(r"[0-7]{11}/(.*)", name) for name in read]
found = [match[1] for match in names if match]
sys.exit([name.replace("//", "/") for name in found] != right)
PY
