#!/usr/bin/env bash
# MLServer, model answers with NaN or infinity, over the Open Inference Protocol as JSON.
#
# Expected: JSON has no NaN, so a server either refuses with an error (as its own fallback encoder does, which is told
# allow_nan=False) or writes the words NaN and Infinity, which Python's reader takes (as Triton does).
# What happens: the answer is 200 OK, says FP32 or FP16 and its full shape, and each such number is null. A half-precision
# model meets it first: a logit of 70000 is infinite as FP16, and comes back as null among good numbers.
# Why it matters: many readers turn null into a missing value or NaN without a word (numpy and pandas do), and a teacher's
# infinite logit, which decides its record, is then a gap.
set -euo pipefail

folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlserver==1.7.1 orjson==3.13.0 >/dev/null 2>&1

mkdir "$folder/model"
cat > "$folder/model/teacher.py" <<'PYTHON'
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Teacher(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        half = np.array([[70000.0, 1.5]]).astype("float16")
        whole = np.array([[np.nan, 1.5]], dtype="float32")
        outputs = [NumpyCodec.encode_output("half", half), NumpyCodec.encode_output("whole", whole)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
PYTHON
echo '{"name": "teacher", "implementation": "teacher.Teacher"}' > "$folder/model/model-settings.json"

"$folder/venv/bin/python" - "$folder" <<'PYTHON' > "$folder/ports"
import json, socket, sys
sockets = [socket.socket() for _ in range(3)]
for one in sockets:
    one.bind(("127.0.0.1", 0))
http, grpc, metrics = (one.getsockname()[1] for one in sockets)
settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics, "parallel_workers": 0}
json.dump(settings, open(f"{sys.argv[1]}/model/settings.json", "w"))
print(http)
PYTHON
(cd "$folder/model" && exec "$folder/venv/bin/mlserver" start . > "$folder/log" 2>&1) &
server=$!

"$folder/venv/bin/python" - "$(cat "$folder/ports")" <<'PYTHON'
import json, sys, time, urllib.request
from importlib.metadata import version

url = f"http://127.0.0.1:{sys.argv[1]}/v2"
for _ in range(300):
    try:
        urllib.request.urlopen(f"{url}/models/teacher/ready", timeout=2)
        break
    except OSError:
        time.sleep(0.2)
body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}
request = urllib.request.Request(
    f"{url}/models/teacher/infer", json.dumps(body).encode(), {"content-type": "application/json"}
)
with urllib.request.urlopen(request, timeout=30) as response:
    status, text = response.status, response.read().decode()
print("mlserver", version("mlserver"), "orjson", version("orjson"))
print("model's numbers: half [[70000, 1.5]] as float16 (infinite), whole [[nan, 1.5]] as float32")
print("status", status)
outputs = {output["name"]: output for output in json.loads(text)["outputs"]}
for name, output in outputs.items():
    print(name, output["datatype"], output["shape"], json.dumps(output["data"]))
same = status == 200 and all(output["data"] == [None, 1.5] for output in outputs.values())
print("as found: infinity and NaN are null in an answer that is 200 OK" if same else "the behaviour has changed")
sys.exit(0 if same else 1)
PYTHON
