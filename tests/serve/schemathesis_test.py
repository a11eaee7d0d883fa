"""schemathesis against the server over the fake engine: what the OpenAPI document promises holds.

    schemathesis_test.py SERVE_FAKE SOURCE_DIR

All checks run but positive_data_acceptance: whether a prompt and max_tokens fit is up to the model's context, and
whether an id exists to its vocabulary, which the document cannot say. A long answer may take long.
ENGRAM_SCHEMATHESIS_EXAMPLES sets how many requests are made up for each endpoint.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from serving import Server, need

need("schemathesis", sys.argv[2])
EXAMPLES = os.environ.get("ENGRAM_SCHEMATHESIS_EXAMPLES", "12")

with Server(sys.argv[1], step_us=1) as server, tempfile.TemporaryDirectory() as folder:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "schemathesis"), "run", server.url + "/openapi.json", "--checks", "all",
         "--exclude-checks", "positive_data_acceptance", "--max-response-time", "60", "--max-examples", EXAMPLES,
         "--seed", "1", "--request-timeout", "60", "--phases", "examples,coverage,fuzzing",
         "--generation-database", "none"], cwd=folder)
sys.exit(done.returncode)
