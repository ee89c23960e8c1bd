"""Measure what the gateway costs, against the work on the picture that nobody can leave out.

    python -m benchmarks.gateway [--rounds=9] [--requests=400] [--output=FILE.json]

The floor is what the course's gateway does with the same picture before it asks the model: decode,
resize and scale by keras-image-helper, and the array's bytes. A plain process gets the memory for
that anew from the system for each picture, which costs about as much again, and varies from hour
to hour; the gateway is spared that by services.MALLOC. It is measured as it is deployed, under
gunicorn, with a model server in another process that answers at once. Both sides are measured in
turn, in processor time, so that others on the machine disturb both alike. Everything is printed,
and written as JSON with the machine it came from.
"""

import argparse
import http.client
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageFilter

from benchmarks.common import run, spread, write
from gateway.deadline import Deadline
from gateway.images import decode, decode_and_resize, open_picture
from tutorial import services
from tutorial.processes import free_port, start_server

THIS = [sys.executable, "-m", "benchmarks.gateway"]
SIZE = 299  # pixels a side that the model takes
LABELS = ["dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "shorts", "skirt"]
LABELS += ["t-shirt"]
PICTURE = services.ROOT / "starter/samples/t-shirt.jpg"  # 400 x 533 pixels
PHONE = (3000, 4000)  # a photo of 12 megapixels
IN_FLIGHT = 16
AIMS = {
    "upload": "at most 1.5 times the floor, in processor time",
    "url": "at most 1.8 times the floor",
    "phone": "at most 0.25 of decoding all 12 megapixels",
    "in_flight": f"{IN_FLIGHT} requests at the model at once",
    "memory": "80 MB idle; under 400 MB with 16 phone photos at once",
    "start": "ready 1 s after the command",
}


# The other side: in processes of their own


def answer_at_once(port: int, delay: float) -> None:
    """Serve a model that answers `delay` seconds after a request, the most it had at once.

    The answer's first score is that number.
    """
    import grpc
    from tensorflow.core.framework.types_pb2 import DT_FLOAT, DT_UINT8
    from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

    described = get_model_metadata_pb2.SignatureDefMap()
    for signature, dtype in (("serving_default", DT_FLOAT), ("serving_uint8", DT_UINT8)):
        definition = described.signature_def[signature]
        for info, kind, shape in (
            (definition.inputs["input_8"], dtype, (-1, SIZE, SIZE, 3)),
            (definition.outputs["dense_7"], DT_FLOAT, (-1, len(LABELS))),
        ):
            info.dtype = kind
            for size in shape:
                info.tensor_shape.dim.add(size=size)
    metadata = get_model_metadata_pb2.GetModelMetadataResponse()
    metadata.metadata["signature_def"].Pack(described)
    now, most, lock = 0, 0, threading.Lock()

    def predict(request: bytes, _: object) -> bytes:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(delay)
        with lock:
            now -= 1
        answer = predict_pb2.PredictResponse()
        answer.model_spec.name = "clothing"
        answer.model_spec.version.value = 1
        scores = answer.outputs["dense_7"]
        scores.dtype = DT_FLOAT
        for size in (1, len(LABELS)):
            scores.tensor_shape.dim.add(size=size)
        scores.float_val[:] = [most, *range(1, len(LABELS))]
        return answer.SerializeToString()

    class Model(grpc.GenericRpcHandler):
        def service(self, call):
            if call.method.endswith("/Predict"):
                return grpc.unary_unary_rpc_method_handler(predict)
            return grpc.unary_unary_rpc_method_handler(lambda *_: metadata.SerializeToString())

    server = grpc.server(ThreadPoolExecutor(2 * IN_FLIGHT), handlers=[Model()])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def work_on_pictures(path: Path) -> None:
    """Answer lines on stdin: "COUNT" prints the processor seconds that so many pictures took."""
    from keras_image_helper import create_preprocessor

    preprocessor, data = create_preprocessor("xception", (SIZE, SIZE)), path.read_bytes()
    for line in sys.stdin:
        begun = time.process_time()
        for _ in range(int(line)):
            with Image.open(io.BytesIO(data)) as image:
                preprocessor.convert_to_tensor(image).tobytes()
        print(time.process_time() - begun, flush=True)


# This side: the gateway, its clients, the report


@contextmanager
def instant_model(*, delay: float = 0) -> Iterator[int]:
    """Run `answer_at_once`; yields its port."""
    port = free_port()
    command = [*THIS, "--model", str(port), "--delay", str(delay)]
    with start_server(
        "instant-model",
        command,
        ready=lambda: services.grpc_answers(port),
        log=services.BUILD / "logs/instant-model.log",
        cwd=services.ROOT,
        env={"PYTHONPATH": str(services.STUBS)},  # without TensorFlow, as the gateway has them
    ):
        yield port


@contextmanager
def running_gateway(folder: Path, model_port: int, **settings: str) -> Iterator[tuple]:
    """Run the gateway as it is deployed; yields its port and its worker process.

    `settings` as in services.start_gateway.
    """
    contract = folder / "contract.json"
    fields = {
        "model_name": "clothing",
        "signature_name": "serving_default",
        "preprocessing": "xception",
        "labels": LABELS,
        "scores": "logits",
    }
    contract.write_text(json.dumps(fields))
    port = free_port()
    with services.start_gateway(
        port, model_port=model_port, contract=contract, **settings
    ) as server:
        below = psutil.Process(server.supervisor.pid).children(recursive=True)
        yield port, below[-1]


@contextmanager
def floor(path: Path) -> Iterator[Callable[[int], float]]:
    """Run `work_on_pictures`; yields a function: so many pictures -> processor seconds."""
    process = subprocess.Popen(
        [*THIS, "--floor", str(path)],
        cwd=services.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(count: int) -> float:
        process.stdin.write(f"{count}\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    try:
        yield run
    finally:
        process.stdin.close()
        process.wait()


def as_form(data: bytes) -> tuple[bytes, str]:
    """A picture as the body and content type of a form, as a browser and curl send it."""
    head = (
        '--frontier\r\nContent-Disposition: form-data; name="file"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + data + b"\r\n--frontier--\r\n"
    return body, "multipart/form-data; boundary=frontier"


def ask(port: int, body: bytes, content_type: str, count: int = 1) -> dict:
    """Ask so many times over one connection; return the last answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(count):
        connection.request("POST", "/predict", body, {"Content-Type": content_type})
        response = connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise RuntimeError(f"the gateway answered {response.status}: {answer.decode()}")
    connection.close()
    return json.loads(answer)


def cpu_seconds(process: psutil.Process) -> float:
    """The processor time that a process has taken, its own and the system's for it."""
    times = process.cpu_times()
    return times.user + times.system


def measure_requests(folder: Path, rounds: int, requests: int) -> dict:
    """Compare a request's processor time with the floor: uploads and addresses.

    By default the model gets pixels of uint8 and scales them; "as float32" it gets them scaled.

    Each round has processes of its own: of two that do the same, one may take a tenth more.
    """
    picture_port = free_port()
    origin = f"http://127.0.0.1:{picture_port}/"
    with (
        services.start_picture_server(PICTURE.parent, picture_port),
        instant_model() as model_port,
    ):
        found = [measure_round(folder, model_port, origin, requests) for _ in range(rounds)]
    base, *sides = found[0]
    return {
        "cpu_ms": {name: spread([one[name] for one in found]) for name in (base, *sides)},
        **{f"{name} to {base}": spread([one[name] / one[base] for one in found]) for name in sides},
    }


def measure_round(folder: Path, model_port: int, origin: str, requests: int) -> dict[str, float]:
    """Milliseconds of processor time for a picture: the floor's, then those of each request."""
    upload = as_form(PICTURE.read_bytes())
    address = (json.dumps({"url": origin + PICTURE.name}).encode(), "application/json")
    with floor(PICTURE) as work:
        work(20)
        found = {"floor": 1000 * work(requests) / requests}
    for suffix, settings in (("", {}), (" as float32", {"model_signature": "serving_default"})):
        with running_gateway(folder, model_port, allowed_origins=origin, **settings) as gateway:
            port, worker = gateway
            for name, body in (("upload", upload), ("url", address)):
                ask(port, *body, 20)
                before = cpu_seconds(worker)
                ask(port, *body, requests)
                found[name + suffix] = 1000 * (cpu_seconds(worker) - before) / requests
    return found


def phone_photo(grain: float) -> bytes:
    """A JPEG file of 12 megapixels: an enlarged sample, with sensor noise of so many levels."""
    image = Image.open(PICTURE).resize(PHONE, Image.Resampling.LANCZOS)
    pixels = np.asarray(image.filter(ImageFilter.SHARPEN), np.float32)
    noise = np.random.default_rng(1).normal(0, grain, pixels.shape) if grain else 0
    file = io.BytesIO()
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def decode_whole(data: bytes) -> Image.Image:
    """Return a picture file with all its pixels decoded."""
    return decode(open_picture(data))


def decode_as_the_gateway(data: bytes) -> np.ndarray:
    """A picture file as the pixels for the model."""
    return decode_and_resize(open_picture(data), (SIZE, SIZE), Deadline.after(60))


def measure_phone_photos(rounds: int) -> dict:
    """Compare a photo of 12 megapixels, decoded as the gateway does, with decoding all of it.

    Both with the gateway's way to keep memory, by which 48 MB of pixels are fetched anew each time.
    """
    report = {}
    for grain in (0, 2, 6):
        data = phone_photo(grain)
        ratios = []
        for _ in range(rounds):
            whole = cpu_of(partial(decode_whole, data))
            ratios.append(cpu_of(partial(decode_as_the_gateway, data)) / whole)
        report[f"grain {grain}, {len(data) / 1e6:.1f} MB"] = spread(ratios)
    return report


def cpu_of(call: Callable[[], object], repeat: int = 5) -> float:
    """The processor seconds of a call, by thread, the median of a few."""
    times = []
    for _ in range(repeat):
        begun = time.thread_time()
        call()
        times.append(time.thread_time() - begun)
    return sorted(times)[repeat // 2]


def measure_in_flight(folder: Path) -> dict:
    """Count how many of 16 callers' requests the model has at once, if each takes it 0.2 s."""
    with (
        instant_model(delay=0.2) as model_port,
        running_gateway(folder, model_port) as (port, _),
        ThreadPoolExecutor(IN_FLIGHT) as pool,
    ):
        calls = [
            pool.submit(ask, port, *as_form(PICTURE.read_bytes()), 5) for _ in range(IN_FLIGHT)
        ]
        return {"most": max(call.result()[LABELS[0]] for call in calls)}


def measure_memory(folder: Path) -> dict:
    """Measure the worker's resident memory, in MB: idle, and while 16 phone photos come at once."""
    with instant_model() as model_port, running_gateway(folder, model_port) as (port, worker):
        resident = {"idle": worker.memory_info().rss >> 20, "most": 0}
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.005):
                resident["most"] = max(resident["most"], worker.memory_info().rss >> 20)

        watcher = threading.Thread(target=watch)
        watcher.start()
        body = as_form(phone_photo(2))
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            for call in [pool.submit(ask, port, *body, 3) for _ in range(IN_FLIGHT)]:
                call.result()
        done.set()
        watcher.join()
    return resident


def measure_start(folder: Path, rounds: int) -> dict:
    """Measure the seconds from the command to a gateway that is ready."""
    found = []
    with instant_model() as model_port:
        for _ in range(rounds):
            begun = time.perf_counter()
            with running_gateway(folder, model_port):
                found.append(time.perf_counter() - begun)
    return {"seconds": spread(found)}


def main() -> None:
    """Measure everything, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=400, help="of one measurement of a round")
    parser.add_argument("--only", nargs="*", help="some of the measurements")
    parser.add_argument("--output", type=Path, default=services.ROOT / "benchmarks/gateway.json")
    parser.add_argument("--model", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--delay", type=float, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--floor", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        return answer_at_once(options.model, options.delay)
    if options.floor:
        return work_on_pictures(options.floor)

    about = {
        "settings": {"rounds": options.rounds, "requests": options.requests},
        "aims": AIMS,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = {
            "requests": lambda: measure_requests(folder, options.rounds, options.requests),
            "phone": lambda: measure_phone_photos(options.rounds),
            "in_flight": lambda: measure_in_flight(folder),
            "memory": lambda: measure_memory(folder),
            "start": lambda: measure_start(folder, options.rounds),
        }
        write(run(steps, options.only) | about, options.output)


if __name__ == "__main__":
    main()
