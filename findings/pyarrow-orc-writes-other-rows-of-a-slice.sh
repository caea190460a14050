#!/usr/bin/env bash
# PyArrow: ORC files get other rows than asked for where a slice has a struct column with nulls.
#
# A slice shares its buffers with the array it was cut from. The ORC writer honours the offset for
# numbers, text, lists and maps, and for structs without a null. Where a struct has nulls, it writes
# the first rows of the whole array: as many as the slice has, without an error. A table of several
# chunks that were cut from one array is hit too, so writing it in parts does not help; the other
# columns of the same row are right, and each row gets another row's struct. Parquet and IPC are
# right. A copy, as take makes it, is written correctly.
#
# Seen on 2026-11-30 with PyArrow 26.0.1, Python 3.11; rows 2 to 5 of six images, `None` for clean:
#   asked for        2:{'area': 20} 3:None 4:{'area': 40} 5:{'area': 50}
#   ORC, slice       2:{'area': 0} 3:None 4:{'area': 20} 5:None
#   ORC, copy        2:{'area': 20} 3:None 4:{'area': 40} 5:{'area': 50}
#   ORC, no nulls    2:{'area': 20} 3:{'area': 30} 4:{'area': 40} 5:{'area': 50}
#   Parquet, slice   2:{'area': 20} 3:None 4:{'area': 40} 5:{'area': 50}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
cat > "$folder/show.py" <<'PY'
import io
import sys

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq


def read_back(table, library):
    file = io.BytesIO()
    library.write_table(table, file)
    file.seek(0)
    return library.read_table(file)


def show(name, table):
    rows = {row["image"]: row["defect"] for row in table.to_pylist()}
    print(f"{name:16}", *(f"{image}:{defect}" for image, defect in rows.items()))
    return rows


def images(clean):
    defects = [None if i in clean else {"area": 10 * i} for i in range(6)]
    return pa.table({"image": list(range(6)), "defect": defects})


some = images(clean={1, 3}).slice(2)
asked = show("asked for", some)
written = show("ORC, slice", read_back(some, orc))
copied = show("ORC, copy", read_back(some.take([0, 1, 2, 3]), orc))
full = show("ORC, no nulls", read_back(images(clean=()).slice(2), orc))
parquet = show("Parquet, slice", read_back(some, pq))
sys.exit(
    written != {2: {"area": 0}, 3: None, 4: {"area": 20}, 5: None}
    or not asked == copied == parquet
    or full != {i: {"area": 10 * i} for i in (2, 3, 4, 5)}
)
PY
"$folder/venv/bin/python" "$folder/show.py"
