"""Score one date in a process of its own: `python -m tests.pipeline.score_once CONFIG.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.conftest import config_of, run_score

if __name__ == "__main__":
    result = run_score(config_of(json.loads(Path(sys.argv[1]).read_text())))
    print(json.dumps(result.to_json()))
